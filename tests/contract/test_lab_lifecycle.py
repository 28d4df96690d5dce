"""The lab goes away without a trace, however it ends; and its command line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab import interrupts, links
from lab.lab import Lab
from lab.netns import Namespace

pytestmark = pytest.mark.namespaces

REPOSITORY = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], Any], bound: float = 10.0) -> Any:
    deadline = time.monotonic() + bound
    while not (result := condition()):
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.01)
    return result


# Going away -----------------------------------------------------------------------------------------------------------

BUILD_AND_WAIT = """
import json, os, signal, sys
from lab.lab import Lab
with Lab() as lab:
    pod = lab.pod("pod", "a", {"net1": ["192.168.0.2/32"]})
    children = [pod.popen(["sleep", "1000"]), pod.popen(["sh", "-c", "sleep 1001 & sleep 1002"])]
    prober = lab.prober("peer1", ["192.168.0.2"])
    hosts = [lab, lab.workers["a"], lab.workers["b"], pod]
    print(json.dumps({"scratch": str(pod.directory.parent), "namespace": pod.ns.inode}), flush=True)
    signal.pause()
"""


def start_lab_process(script: str = BUILD_AND_WAIT, *prefix: str, scratch: Path | None = None) -> subprocess.Popen[str]:
    env = {**os.environ, "TMPDIR": str(scratch)} if scratch else None
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=env,
    )


def processes() -> dict[int, str]:
    """Process number → its network namespace, of those we may look at."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = str((entry / "ns/net").readlink())
    return found


def is_gone(told: Mapping[str, Any]) -> bool:
    return f"net:[{told['namespace']}]" not in processes().values() and not Path(told["scratch"]).exists()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)],
)
def test_nothing_outlives_the_lab(number: signal.Signals, status: int) -> None:
    process = start_lab_process()
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert not is_gone(told)
    process.send_signal(number)
    assert process.wait(20) == status
    wait_for(lambda: is_gone(told))
    process.stdout.close()


def test_ctrl_c_at_any_time_leaves_nothing(tmp_path: Path) -> None:
    """A SIGINT while it imports, builds and closes. Whatever it was doing, all it had is gone with it."""
    script = BUILD_AND_WAIT.replace("signal.pause()", "pass")
    running = [start_lab_process(script, scratch=tmp_path) for _ in range(4)]
    for process, delay in zip(running, (0.3, 0.6, 0.9, 1.2), strict=True):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay / 2)
        process.send_signal(signal.SIGINT)
    for process in running:
        process.communicate(timeout=20)
    sessions = {process.pid for process in running}
    wait_for(lambda: not [pid for pid in processes() if session_of(pid) in sessions])
    wait_for(lambda: not list(tmp_path.iterdir()))


def session_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return 0


def test_close_releases_all_in_this_process() -> None:
    def namespaces() -> set[str]:
        descriptors = {str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
        tasks = {str((each / "ns/net").readlink()) for each in Path("/proc/self/task").iterdir()}
        return {each for each in descriptors | tasks if each.startswith("net:")}

    before, threads = namespaces(), set(threading.enumerate())
    with Lab() as lab:
        pod = lab.pod("pod", "a", {"net1": ["192.168.0.2/32"]})
        child = pod.popen(["sleep", "1000"])
        prober = lab.prober("peer1", ["192.168.0.2"])
        scratch = pod.directory.parent
        assert len(namespaces()) > len(before)
    lab.close()  # again: nothing more to do
    assert child.returncode == -signal.SIGKILL
    assert not scratch.exists()
    with pytest.raises(RuntimeError, match="without a result"):
        prober.stop()
    wait_for(lambda: namespaces() <= before)
    wait_for(lambda: not [each for each in threading.enumerate() if each not in threads])


def test_the_callers_namespace_stays_as_it_was() -> None:
    ns = Namespace("test")
    before = str(Path("/proc/thread-self/ns/net").readlink())
    with pytest.raises(ZeroDivisionError):
        ns.run(lambda: 1 / 0)
    assert links.list_links(ns) == []
    ns.close()
    assert str(Path("/proc/thread-self/ns/net").readlink()) == before


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest")
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# An ordinary user -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user")
def test_it_works_without_privileges() -> None:
    # Without capabilities, root is like anybody else; but it needs CAP_SETFCAP to be root in its user namespace too.
    script = """
import socket
from lab.lab import Lab
with Lab() as lab:
    lab.pod("pod", "a", {"net1": ["192.168.0.2/32"]})
    print(lab.ping("peer1", lab.peers["peer2"].address))
    with socket.create_server(("127.0.0.1", 0)) as server:  # the process is in a network namespace of its own, too
        socket.create_connection(server.getsockname(), timeout=5).close()
"""
    process = start_lab_process(script, "setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all")
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "True\n")


# The command line -----------------------------------------------------------------------------------------------------


class Cli:
    def __init__(self, runtime: Path) -> None:
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(REPOSITORY)}
        self.socket = runtime / "vipmanager-lab" / "control.sock"

    def run(self, *arguments: str, status: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "lab", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def pid(self) -> int:
        return int(json.loads(self.run("status", "--json"))["pid"])


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path)
    yield made
    subprocess.run([sys.executable, "-m", "lab", "down"], env=made.env, capture_output=True, timeout=60, check=False)


def test_the_command_line(cli: Cli) -> None:
    assert "no lab is running" in cli.run("status", status=1)
    cli.run("up", "--tables", "2", "--latency", "0.01")
    assert "running already" in cli.run("up", status=1)
    cli.run("pod", "web", "--worker", "a", "--address", "net1=192.168.0.2/32", "--address", "net1=fd12::2/128")
    assert "exists already" in cli.run("pod", "web", "--worker", "a", status=1)
    assert "no worker" in cli.run("pod", "other", "--worker", "z", status=1)

    status = json.loads(cli.run("status", "--json"))
    assert [(pod["name"], pod["worker"]) for pod in status["pods"]] == [("web", "a")]
    assert status["pods"][0]["interfaces"][1]["addresses"] == ["192.168.0.2/32", "fd12::2/128"]
    assert len([table for table in status["route_tables"] if not table["edge"]]) == 2
    assert re.search(r"pod +web +on worker a", cli.run("status"))

    script = "import os, socket; print([n for _, n in socket.if_nameindex()], os.environ['AWS_ENDPOINT_URL'])"
    assert cli.run("shell", "web", sys.executable, "-c", script) == f"['lo', 'eth0', 'net1'] {status['endpoint']}\n"
    cli.run("shell", "peer1", "sh", "-c", "exit 3", status=3)
    assert "no pod, worker or peer" in cli.run("shell", "nobody", status=1)

    address = status["peers"][1]["eni"]["addresses"][0]
    assert "answers" in cli.run("ping", "peer1", address)
    cli.run("terminate", "b")
    assert json.loads(cli.run("status", "--json"))["workers"][1]["instance_state"] == "terminated"
    cli.run("pod", "web", "--delete")
    cli.run("down")
    assert not cli.socket.parent.exists()


def test_a_lab_that_was_killed_is_replaced(cli: Cli) -> None:
    cli.run("up")
    killed = cli.pid()
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in processes())
    assert cli.socket.exists()
    assert "no lab is running" in cli.run("status", status=1)
    cli.run("up")
    os.kill(cli.pid(), signal.SIGTERM)
    wait_for(lambda: not cli.socket.parent.exists())
