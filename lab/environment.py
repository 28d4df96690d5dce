"""The environment of the processes in the lab."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent


def without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without any setting of the AWS SDK, so that the caller's account is never meant."""
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


def aws(region: str, endpoint: str, access_key: str, secret_key: str, authorities: Path | None) -> dict[str, str]:
    """What makes the lab's EC2 the only AWS there is. IMDS is at its usual address, which needs no setting."""
    return {
        **({"AWS_CA_BUNDLE": str(authorities)} if authorities else {}),
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def paths() -> dict[str, str]:
    """What makes `python -m vipmanager` this Python and this repository's."""
    return {
        "PATH": _prepended(str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)),
        "PYTHONPATH": _prepended(str(_REPOSITORY), os.environ.get("PYTHONPATH", "")),
    }


def _prepended(directory: str, path: str) -> str:
    return os.pathsep.join([directory, *(each for each in path.split(os.pathsep) if each and each != directory)])
