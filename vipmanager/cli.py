"""Arguments and environment → one of the modes. Where real clients are made."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from vipmanager import __version__, logs
from vipmanager.config import Config, check_nodeport, is_setting, load
from vipmanager.errors import ConfigError
from vipmanager.ports import DiscoveryPort

log = logging.getLogger("vipmanager")

EX_CONFIG = 78
EX_USAGE = 64
MODES = {"init": "init", "initContainers": "init", "sidecar": "sidecar", "nodeport": "nodeport"}
COMMANDS = ("status", "free-ips")

USAGE = f"""vipmanager {__version__}: makes the VPC deliver the floating addresses of this pod, or of this node

usage: vipmanager [init|sidecar|nodeport] [--configmap FILE.yaml]
       vipmanager status [--json]
       vipmanager free-ips SUBNET [--count N] [--family 4|6]

  init                 do the job once and exit 0, or non-zero with what is missing (also: initContainers)
  sidecar              keep watching
  (no mode)            what the setting RunAsSidecar says
  nodeport             on the host network: hold FLOATING_IP while this node has the Lease
  status               what the nodeport process in this container says of itself
  free-ips SUBNET      free addresses of a subnet, one a line: 10, or as many as --count says
  --configmap FILE     read settings from a ConfigMap manifest too; environment variables win
  --version, --help

Settings come from environment variables, usually a ConfigMap through envFrom; see docs/configuration.md."""


class Arguments(NamedTuple):
    """What the command line says. `command` is a mode or a command, empty when there is none."""

    command: str = ""
    operand: str = ""
    configmap: str | None = None
    json: bool = False
    limit: int = 10
    family: int = 4


class UsageError(Exception):
    """The command line is wrong."""


def parse(arguments: Sequence[str]) -> Arguments:
    """Read the command line (argparse would cost more of the start-up than it saves here). Raises UsageError."""
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--configmap", "--count", "--family"):
            if not equals and not rest:
                raise UsageError(f"{name} needs a value")
            found[name[2:]] = value if equals else rest.pop(0)
        elif word == "--json":
            found["json"] = True
        elif "command" not in found and (word in MODES or word in COMMANDS):
            found["command"] = MODES.get(word, word)
        elif found.get("command") == "free-ips" and "operand" not in found and not word.startswith("-"):
            found["operand"] = word
        else:
            raise UsageError(f"unexpected argument {word!r}")
    return _checked(found)


def _checked(found: dict[str, Any]) -> Arguments:
    """Options that belong to the command, with numbers as numbers. Raises UsageError."""
    command = found.get("command", "")
    belongs = {"status": {"json", "configmap"}, "free-ips": {"operand", "count", "family"}}.get(command, {"configmap"})
    for name in sorted(set(found) - belongs - {"command"}):
        raise UsageError(f"--{name} does not belong to {command or 'a mode'}")
    if command == "free-ips" and "operand" not in found:
        raise UsageError("free-ips needs the id of a subnet")
    for name, accepted in (("count", range(1, 1_000_001)), ("family", (4, 6))):
        if name in found and (not found[name].isdecimal() or int(found[name]) not in accepted):
            raise UsageError(f"--{name}: accepted: {'4 or 6' if name == 'family' else 'a number from 1'}")
    limit, family = int(found.pop("count", 10)), int(found.pop("family", 4))
    return Arguments(**found, limit=limit, family=family)


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
    if parsed.command == "free-ips":
        return run_free_ips(parsed)
    try:
        config = load(settings(os.environ, parsed.configmap))
        if parsed.command == "nodeport":
            check_nodeport(config)
    except ConfigError as error:
        logs.set_up("INFO", "text")
        for problem in error.problems:
            logs.event(log, logging.ERROR, "wrong setting", problem=problem)
        logs.event(log, logging.ERROR, "not started", problems=len(error.problems))
        return EX_CONFIG
    if parsed.command == "status":
        from vipmanager.status import show

        return show(config.state_dir, as_json=parsed.json)
    logs.set_up(config.log_level, config.log_format)
    if parsed.command == "nodeport":
        return run_nodeport(config, on_stop)
    return run(config, config.sidecar if not parsed.command else parsed.command == "sidecar", on_stop)


def run(config: Config, sidecar: bool, on_stop: Callable[[Callable[[], None]], None]) -> int:
    """Make the real clients and run the agent."""
    from vipmanager.agent import Agent, Outside
    from vipmanager.claims import ClaimStore, pod_life
    from vipmanager.clients.ec2 import Ec2Client
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.netlink import NetlinkClient, open_events
    from vipmanager.watch import Watch

    _say_start(config, "sidecar" if sidecar else "init")
    imds = ImdsClient(os.environ)
    ec2 = Ec2Client(lambda: region(os.environ, imds), config.route_table_role)
    watch = Watch(open_events(), time.monotonic)
    outside = Outside(NetlinkClient(), imds, ec2, time.monotonic, settled=_collect_garbage_again)
    store = ClaimStore(config.state_dir, pod_life(), needed=sidecar)
    agent = Agent(config, outside, watch, store, sidecar=sidecar)
    on_stop(agent.stop)
    return agent.run()


def run_nodeport(config: Config, on_stop: Callable[[Callable[[], None]], None]) -> int:
    """Make the real clients and take part in the election."""
    from vipmanager.clients.checks import run_check
    from vipmanager.clients.ec2_floating import FloatingEc2Client
    from vipmanager.clients.host import HostNetlinkClient
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.kube import LeaseClient
    from vipmanager.clients.neighbours import Neighbours
    from vipmanager.clients.netlink import open_events
    from vipmanager.elector import Elector
    from vipmanager.fence import Fence
    from vipmanager.nodeport import NodeOutside, Nodeport
    from vipmanager.report_node import NodeReport
    from vipmanager.status import StatusFile
    from vipmanager.watch import Watch

    identity, namespace = os.environ.get("POD_NAME", ""), os.environ.get("POD_NAMESPACE", "")
    for key, value, field in (
        ("POD_NAME", identity, "metadata.name"),
        ("POD_NAMESPACE", namespace, "metadata.namespace"),
    ):
        if not value:
            logs.event(log, logging.ERROR, "not started", problem=f"{key} is empty; set it from fieldRef {field}")
            return EX_CONFIG
    _say_start(config, "nodeport")
    watch = Watch(open_events(), boot_time)
    lease = LeaseClient(namespace, config.lease_name, config.renew_deadline / 2)
    elector = Elector(lease, config, identity, boot_time, time.time, watch.wake)
    imds = ImdsClient(os.environ)
    fence = Fence(elector, boot_time)
    place = partial(region, os.environ, imds)
    ec2 = FloatingEc2Client(place, config.route_table_role, clock=boot_time, guard=fence)
    limit = min(1.0, config.retry_period)
    wanted = config.health_check

    def check(host: str) -> str:
        return run_check(wanted, host, limit) if wanted is not None else ""

    outside = NodeOutside(HostNetlinkClient(), Neighbours(), imds, ec2, boot_time, fence, check)
    node = os.environ.get("NODE_NAME", "")
    report = NodeReport(config, identity, node, f"{namespace}/{config.lease_name}", StatusFile(config.state_dir))
    nodeport = Nodeport(config, outside, watch, elector, report)
    on_stop(nodeport.stop)
    _collect_garbage_again()
    return nodeport.run()


def run_free_ips(parsed: Arguments) -> int:
    """Make the real client and print free addresses."""
    from vipmanager.clients.ec2_floating import FloatingEc2Client
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.free_ips import run as print_free

    logs.set_up("WARNING", "text")
    imds = ImdsClient(os.environ)
    ec2 = FloatingEc2Client(partial(region, os.environ, imds))
    return print_free(ec2, parsed.operand, parsed.family, parsed.limit)


def _say_start(config: Config, mode: str) -> None:
    logs.event(log, logging.INFO, "start", mode=mode, version=__version__)
    for warning in config.warnings:
        logs.event(log, logging.WARNING, "setting", problem=warning)


def boot_time() -> float:
    """Seconds since boot. Unlike CLOCK_MONOTONIC it goes on while a virtual machine is suspended, as a lease does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
