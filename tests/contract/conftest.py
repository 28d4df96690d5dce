"""Fixtures that several contract suites share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.ec2.server import LabEc2
from tests.contract.lab_world import QUOTAS, World, build


@pytest.fixture
def world() -> Iterator[World]:
    with LabEc2(quotas=QUOTAS) as ec2:
        ec2.serve("127.0.0.1")
        yield build(ec2)
