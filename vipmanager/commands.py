"""The commands beside the modes: where their real clients are made. Each returns an exit code."""

from __future__ import annotations

import os
from functools import partial

from vipmanager import logs
from vipmanager.arguments import Arguments
from vipmanager.clients.imds import region
from vipmanager.config import Config


def mode_of(parsed: Arguments, config: Config) -> str:
    """The mode that a command is asked about."""
    return parsed.mode or ("sidecar" if config.sidecar else "init")


def run_status(parsed: Arguments, config: Config) -> int:
    """Show what the vipmanager in this container says of itself."""
    from vipmanager.status import show

    return show(config.state_dir, as_json=parsed.json)


def run_free_ips(parsed: Arguments) -> int:
    """Print free addresses of a subnet."""
    from vipmanager.clients.ec2_floating import FloatingEc2Client
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.free_ips import run as print_free

    logs.set_up("WARNING", "text")
    imds = ImdsClient(os.environ)
    ec2 = FloatingEc2Client(partial(region, os.environ, imds))
    return print_free(ec2, parsed.operand, parsed.family, parsed.limit)


def run_plan(parsed: Arguments, config: Config) -> int:
    """Show what would be done."""
    raise NotImplementedError


def run_doctor(parsed: Arguments, config: Config) -> int:
    """Check what the mode needs."""
    raise NotImplementedError


def run_iam_policy(parsed: Arguments, config: Config) -> int:
    """Print the least IAM policy."""
    raise NotImplementedError
