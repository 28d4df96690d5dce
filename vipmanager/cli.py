"""Arguments and environment → one of the modes. Where real clients are made."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vipmanager import __version__, logs
from vipmanager.config import Config, is_setting, load
from vipmanager.errors import ConfigError
from vipmanager.ports import DiscoveryPort

log = logging.getLogger("vipmanager")

EX_CONFIG = 78
EX_USAGE = 64
MODES = {"init": False, "initContainers": False, "sidecar": True}

USAGE = f"""vipmanager {__version__}: makes the VPC deliver the floating addresses of this pod

usage: vipmanager [init|sidecar] [--configmap FILE.yaml]

  init                 do the job once and exit 0, or non-zero with what is missing (also: initContainers)
  sidecar              keep watching
  (no mode)            what the setting RunAsSidecar says
  --configmap FILE     read settings from a ConfigMap manifest too; environment variables win
  --version, --help

Settings come from environment variables, usually a ConfigMap through envFrom; see docs/configuration.md."""


class Arguments(NamedTuple):
    """What the command line says: a mode or None, and a manifest's path or None."""

    sidecar: bool | None
    configmap: str | None


class UsageError(Exception):
    """The command line is wrong."""


def parse(arguments: Sequence[str]) -> Arguments:
    """Read the command line (argparse would cost more of the start-up than it saves here). Raises UsageError."""
    sidecar: bool | None = None
    configmap: str | None = None
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name == "--configmap":
            if not equals and not rest:
                raise UsageError("--configmap needs a file")
            configmap = value if equals else rest.pop(0)
        elif word in MODES and sidecar is None:
            sidecar = MODES[word]
        else:
            raise UsageError(f"unexpected argument {word!r}")
    return Arguments(sidecar, configmap)


def settings(environment: Mapping[str, str], configmap: str | None) -> dict[str, str]:
    """The settings of the environment over those of a manifest. Raises ConfigError."""
    values: dict[str, str] = {}
    if configmap is not None:
        from vipmanager.manifest import read_configmap

        values.update(read_configmap(configmap))
    values.update((key, value) for key, value in environment.items() if is_setting(key))
    return values


def main(arguments: Sequence[str], on_stop: Callable[[Callable[[], None]], None]) -> int:
    """Run a mode; returns the exit code. `on_stop` is told what to call when the process is asked to end."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    if "--version" in arguments:
        print(__version__)
        return 0
    try:
        parsed = parse(arguments)
    except UsageError as error:
        print(f"vipmanager: {error}\n\n{USAGE}", file=sys.stderr)
        return EX_USAGE
    try:
        config = load(settings(os.environ, parsed.configmap))
    except ConfigError as error:
        logs.set_up("INFO", "text")
        for problem in error.problems:
            logs.event(log, logging.ERROR, "wrong setting", problem=problem)
        logs.event(log, logging.ERROR, "not started", problems=len(error.problems))
        return EX_CONFIG
    logs.set_up(config.log_level, config.log_format)
    return run(config, config.sidecar if parsed.sidecar is None else parsed.sidecar, on_stop)


def run(config: Config, sidecar: bool, on_stop: Callable[[Callable[[], None]], None]) -> int:
    """Make the real clients and run the agent."""
    from vipmanager.agent import Agent, Outside
    from vipmanager.claims import ClaimStore, pod_life
    from vipmanager.clients.ec2 import Ec2Client
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.netlink import NetlinkClient, open_events
    from vipmanager.watch import Watch

    logs.event(log, logging.INFO, "start", mode="sidecar" if sidecar else "init", version=__version__)
    for warning in config.warnings:
        logs.event(log, logging.WARNING, "setting", problem=warning)
    imds = ImdsClient(os.environ)
    ec2 = Ec2Client(lambda: region(os.environ, imds), config.route_table_role)
    watch = Watch(open_events(), time.monotonic)
    outside = Outside(NetlinkClient(), imds, ec2, time.monotonic, settled=_collect_garbage_again)
    store = ClaimStore(config.state_dir, pod_life(), needed=sidecar)
    agent = Agent(config, outside, watch, store, sidecar=sidecar)
    on_stop(agent.stop)
    return agent.run()


def _collect_garbage_again() -> None:
    """The entrypoint turns it off for the start-up; what was loaded since will never be garbage."""
    import gc

    gc.freeze()
    gc.enable()


def region(environment: Mapping[str, str], imds: DiscoveryPort) -> str:
    """The SDK's own setting, else the instance's. Raises CallError."""
    for key in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if environment.get(key):
            return environment[key]
    return imds.region()
