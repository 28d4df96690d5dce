"""The cut-down model of EC2 is used only while it has what is called."""

from __future__ import annotations

import hashlib

from vipmanager.clients import ec2_model
from vipmanager.clients.ec2_operations import OPERATIONS


def test_the_revision_follows_from_the_operations() -> None:
    """Else a model that was made before an operation was added would lack it: an installation would crash."""
    text = repr((OPERATIONS, sorted(ec2_model.READ_MEMBERS.items())))
    assert hashlib.sha256(text.encode()).hexdigest()[:8] == ec2_model.REVISION


def test_the_revision_is_part_of_the_path() -> None:
    """So an old one is never found."""
    assert ec2_model.model_path().name.endswith(f"-{ec2_model.REVISION}")
