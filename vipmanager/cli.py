"""Arguments and environment → one of the modes. Where real clients are made."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from vipmanager import __version__, commands, logs
from vipmanager.arguments import USAGE, UsageError, parse
from vipmanager.clients import privileges
from vipmanager.clients.imds import region
from vipmanager.config import Config, check_nodeport, is_setting, load
from vipmanager.errors import ConfigError

if TYPE_CHECKING:
    from vipmanager.metrics import Metrics
    from vipmanager.monitor import Monitor
    from vipmanager.watch import Watch

log = logging.getLogger("vipmanager")

EX_CONFIG = 78
EX_USAGE = commands.EX_USAGE


COMMANDS = {
    "status": commands.run_status,
    "plan": commands.run_plan,
    "doctor": commands.run_doctor,
    "iam-policy": commands.run_iam_policy,
}
"""Those that read the settings."""


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
        return commands.run_free_ips(parsed)
    privileges.take_effect()
    try:
        config = load(settings(os.environ, parsed.configmap))
        if parsed.mode == "nodeport":
            check_nodeport(config)
    except ConfigError as error:
        logs.set_up("INFO", "text")
        for problem in error.problems:
            logs.event(log, logging.ERROR, "wrong setting", problem=problem)
        logs.event(log, logging.ERROR, "not started", problems=len(error.problems))
        return EX_CONFIG
    if parsed.command:
        logs.set_up("WARNING", "text")
        return COMMANDS[parsed.command](parsed, config)
    logs.set_up(config.log_level, config.log_format)
    if parsed.mode == "nodeport":
        return run_nodeport(config, on_stop)
    return run(config, commands.mode_of(parsed, config) == "sidecar", on_stop)


def run(config: Config, sidecar: bool, on_stop: Callable[[Callable[[], None]], None]) -> int:
    """Make the real clients and run the agent."""
    from vipmanager.agent import Agent, Outside
    from vipmanager.claims import ClaimStore, pod_life
    from vipmanager.clients.ec2 import Ec2Client
    from vipmanager.clients.events import PodEvents
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.netlink import NetlinkClient, open_events
    from vipmanager.monitor import Monitor
    from vipmanager.status_file import StatusFile
    from vipmanager.watch import Watch

    mode = "sidecar" if sidecar else "init"
    _say_start(config, mode)
    metrics, observer = _measured() if sidecar else (None, None)
    imds = ImdsClient(os.environ)
    ec2 = Ec2Client(lambda: region(os.environ, imds), config.route_table_role, observer=observer)
    watch = Watch(open_events(), time.monotonic)
    events = PodEvents() if sidecar else None
    monitor = Monitor(mode, file=StatusFile(config.state_dir), metrics=metrics, sink=events)
    monitor.attach(watch)
    outside = Outside(NetlinkClient(), imds, ec2, time.monotonic, settled=_collect_garbage_again, monitor=monitor)
    store = ClaimStore(config.state_dir, pod_life(), needed=sidecar)
    agent = Agent(config, outside, watch, store, sidecar=sidecar)
    if metrics is not None:
        _serve_later(config.health_port, watch, monitor, metrics)
    on_stop(agent.stop)
    code = agent.run()
    if events is not None:
        events.close()
    return code


def run_nodeport(config: Config, on_stop: Callable[[Callable[[], None]], None]) -> int:
    """Make the real clients and take part in the election."""
    from vipmanager.clients.checks import run_check
    from vipmanager.clients.ec2_floating import FloatingEc2Client
    from vipmanager.clients.events import PodEvents
    from vipmanager.clients.host import HostNetlinkClient
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.kube import LeaseClient
    from vipmanager.clients.neighbours import Neighbours
    from vipmanager.clients.netlink import open_events
    from vipmanager.elector import Elector
    from vipmanager.fence import Fence
    from vipmanager.monitor import Monitor
    from vipmanager.nodeport import NodeOutside, Nodeport
    from vipmanager.report_node import NodeReport
    from vipmanager.status_file import StatusFile
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
    metrics, observer = _measured()
    ec2 = FloatingEc2Client(place, config.route_table_role, clock=boot_time, guard=fence, observer=observer)
    limit = min(1.0, config.retry_period)
    wanted = config.health_check

    def check(host: str) -> str:
        return run_check(wanted, host, limit) if wanted is not None else ""

    outside = NodeOutside(HostNetlinkClient(), Neighbours(), imds, ec2, boot_time, fence, check)
    node = os.environ.get("NODE_NAME", "")
    file, floating = StatusFile(config.state_dir), config.floating.addresses
    events = PodEvents()
    monitor = Monitor("nodeport", file=file, metrics=metrics, sink=events, clock=boot_time, hidden=floating)
    monitor.attach(watch)
    report = NodeReport(config, identity, node, f"{namespace}/{config.lease_name}", monitor)
    nodeport = Nodeport(config, outside, watch, elector, report)
    _serve_later(config.health_port, watch, monitor, metrics)
    on_stop(nodeport.stop)
    _collect_garbage_again()
    code = nodeport.run()
    events.close()
    return code


def _measured() -> tuple[Metrics, Callable[[str, str, float], None]]:
    """What is counted, and who counts the calls to EC2; an init run does without."""
    from vipmanager.clients.ec2_calls import counter
    from vipmanager.metrics import Metrics

    metrics = Metrics()
    return metrics, counter(metrics)


def _serve_later(port: int, watch: Watch, monitor: Monitor, metrics: Metrics) -> None:
    """Have health and metrics served once the loop waits for its first answers: no start-up waits for this."""

    def serve() -> None:
        from vipmanager.serve import Server

        Server(port, monitor, text).run()

    def text() -> bytes:
        from vipmanager.clients import exposition

        return exposition.text(metrics.snapshot())

    if port:
        watch.before_first_wait(threading.Thread(target=serve, name="http", daemon=True).start)


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

    from vipmanager.memory import give_back_large_blocks

    gc.freeze()
    gc.enable()
    give_back_large_blocks()
