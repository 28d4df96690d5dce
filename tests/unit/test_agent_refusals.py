"""What the agent does about calls that are refused for good, and what an init run never asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agents import PEER, Pods
from vipmanager.errors import ErrorKind

INSIDE, INSIDE6 = "10.10.1.77", "2600:1f14:0:1::77"
ROUTED = "192.168.0.1"


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[Pods]:
    """Pods on one worker."""
    pods = Pods(tmp_path)
    yield pods
    pods.close()


@pytest.mark.parametrize("kind", [ErrorKind.DENIED, ErrorKind.LIMIT])
def test_an_ipv6_address_that_may_not_be_assigned_ends_an_init_run(make_pod: Pods, kind: ErrorKind) -> None:
    """It is not tried again at once because its holder is read again: nothing about the holder has changed."""
    pod = make_pod([INSIDE6])
    pod.draw = 0.9
    pod.ec2.faults.fail("assign", kind, times=None)
    assert pod.init() == 1
    assert len(pod.calls("assign")) == 1


def test_an_ipv6_address_that_may_not_be_taken_from_its_holder_ends_an_init_run(make_pod: Pods) -> None:
    pod = make_pod([INSIDE6])
    pod.draw = 0.9
    pod.ec2.assign(PEER, [next(iter(pod.kernel.interfaces())).addresses[0]])
    pod.ec2.faults.fail("unassign", ErrorKind.DENIED, times=None)
    assert pod.init() == 1
    assert len(pod.calls("unassign")) == 1


def test_failures_of_an_address_add_up_while_its_holder_is_read_in_between(make_pod: Pods) -> None:
    """EC2 says that it is in use, and shows nobody who has it: without a count there would be no backoff."""
    pod = make_pod([INSIDE6])
    pod.ec2.faults.fail("assign", ErrorKind.LOST, times=None)
    run = pod.sidecar()

    def attempts() -> int:
        retry = run.agent._retries.get(("address", INSIDE6))
        return retry.attempts if retry else 0

    pod.wait(lambda: attempts() >= 5)
    assert len(pod.calls("enis_holding")) >= 5


def test_an_init_run_takes_nothing_back(make_pod: Pods) -> None:
    """Its policy allows neither UnassignPrivateIpAddresses nor DeleteRoute: an address that leaves is left alone."""
    pod = make_pod([INSIDE, ROUTED], [f"{ROUTED}0"])
    pod.ec2.faults.fail("create_route", times=None, when=lambda call: str(call.arguments[1]) == f"{ROUTED}0/32")
    run = pod.start()
    pod.wait(lambda: pod.routed(ROUTED) and pod.ec2.holder(INSIDE) == "eni-1")
    pod.kernel.set_addresses("net1")
    pod.pass_time(60.0)
    mark = pod.mark()
    pod.wait(lambda: len(pod.calls("create_route", since=mark)) >= 8)
    pod.ec2.faults.clear()
    assert run.result() == 0
    assert pod.calls("unassign", "delete_route") == []
    assert pod.routed(ROUTED)
