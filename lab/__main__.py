"""`python -m lab`: a lab in the background, and what to do with it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import control, netns
from lab.control import ControlError

_STARTS_WITHIN = 60.0  # seconds
_ENDS_WITHIN = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parsed = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except ControlError as error:
        print(f"python -m lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="AWS and two workers on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start the lab in the background")
    up.add_argument("--foreground", action="store_true", help="stay, until Ctrl-C or SIGTERM")
    up.add_argument("--tables", type=int, default=4, help="route tables of the VPC (default 4)")
    up.add_argument("--latency", type=float, default=0.0, help="seconds that each EC2 call takes longer")
    up.add_argument("--internet", action="store_true", help="with a host outside of the VPC, for Elastic IPs")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="end the lab and everything in it")
    down.set_defaults(run=_down)

    show = commands.add_parser("status", help="show workers, ENIs, route tables, pods")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_status)

    pod = commands.add_parser("pod", help="start or delete a pod")
    pod.add_argument("name")
    pod.add_argument("--worker", help="where it runs: a or b")
    pod.add_argument("--address", action="append", default=[], metavar="netN=ADDRESS/LENGTH", help="may be repeated")
    pod.add_argument("--delete", action="store_true")
    pod.set_defaults(run=_pod)

    for name, text in (
        ("cut", "cut a worker off from the network, as a broken cable would"),
        ("restore", "undo cut"),
        ("terminate", "let EC2 terminate a worker's instance"),
    ):
        worker = commands.add_parser(name, help=text)
        worker.add_argument("worker")
        worker.set_defaults(run=_worker, action=name)

    ping = commands.add_parser("ping", help="ping an address from a peer, pod or worker, until one is answered")
    ping.add_argument("host")
    ping.add_argument("address")
    ping.add_argument("--timeout", type=float, default=1.0, help="seconds (default 1)")
    ping.set_defaults(run=_ping)

    shell = commands.add_parser("shell", help="run a shell, or a command, in a worker, pod or peer")
    shell.add_argument("host")
    shell.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    shell.set_defaults(run=_shell)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    directory = control.directory()
    if control.running():
        raise ControlError("a lab is running already; end it: python -m lab down")
    if arguments.foreground:
        return _run_in_foreground(directory, arguments)
    log = directory / "lab.log"
    argv = [sys.executable, "-m", "lab", "up", "--foreground"]
    argv += ["--tables", str(arguments.tables), "--latency", str(arguments.latency)]
    argv += ["--internet"] if arguments.internet else []
    with open(log, "wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + _STARTS_WITHIN
    try:
        while not control.running():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ControlError(f"the lab did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
    except BaseException:  # Ctrl-C while it starts, too
        process.terminate()
        process.wait(_ENDS_WITHIN)
        raise
    print(f"the lab is up: pid {process.pid}; see python -m lab status")
    return 0


def _run_in_foreground(directory: Path, arguments: argparse.Namespace) -> int:
    from lab.lab import Lab  # imports moto, which the other commands do without
    from lab.privileges import LabUnavailable

    told, tell = os.pipe()
    os.set_blocking(tell, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(tell, b"."))
    try:
        with Lab(route_tables=arguments.tables, latency=arguments.latency, internet=arguments.internet) as lab:
            server = control.ControlServer(lab, directory / "control.sock", on_down=lambda: os.write(tell, b"."))
            try:
                print("the lab is up", flush=True)
                os.read(told, 1)
            finally:
                server.close()
    except LabUnavailable as error:
        raise ControlError(str(error)) from error
    finally:
        (directory / "lab.log").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the next lab may be using it already
            directory.rmdir()
    return 0


def _down(_: argparse.Namespace) -> int:
    process = os.pidfd_open(control.request("status")["pid"])
    control.request("down")
    if not select.select([process], [], [], _ENDS_WITHIN)[0]:
        raise ControlError(f"the lab has not ended within {_ENDS_WITHIN} s")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from lab import status

    found = control.request("status")
    print(json.dumps(found, indent=2) if arguments.json else status.render(found))
    return 0


def _pod(arguments: argparse.Namespace) -> int:
    if arguments.delete:
        control.request("delete_pod", name=arguments.name)
        return 0
    if not arguments.worker:
        raise ControlError("a pod needs --worker")
    addresses: dict[str, list[str]] = {}
    for item in arguments.address:
        interface, separator, address = item.partition("=")
        if not separator:
            raise ControlError(f"--address {item}: expected netN=ADDRESS/LENGTH")
        addresses.setdefault(interface, []).append(address)
    control.request("pod", name=arguments.name, worker=arguments.worker, addresses=addresses)
    return 0


def _worker(arguments: argparse.Namespace) -> int:
    control.request("worker", action=arguments.action, worker=arguments.worker)
    return 0


def _ping(arguments: argparse.Namespace) -> int:
    answered = control.request("ping", host=arguments.host, address=arguments.address, timeout=arguments.timeout)
    print(f"{arguments.address} {'answers' if answered else 'does not answer'}")
    return 0 if answered else 1


def _shell(arguments: argparse.Namespace) -> int:
    env, (network, user) = control.request_with_descriptors("enter", host=arguments.host)
    if os.fstat(user).st_ino != Path("/proc/self/ns/user").stat().st_ino:  # an ordinary user's lab has its own
        netns.setns(user, netns.CLONE_NEWUSER)
    netns.setns(network, netns.CLONE_NEWNET)
    argv = arguments.argv or [os.environ.get("SHELL", "/bin/sh")]
    try:
        os.execvpe(argv[0], argv, control.shell_environment(env))
    except OSError as error:
        raise ControlError(f"{argv[0]}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
