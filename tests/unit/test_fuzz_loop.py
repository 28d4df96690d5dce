"""Junk from EC2, IMDS and netlink, through the real clients, neither ends the loop nor stalls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contract.ec2_fixtures import Canned, point_sdk_at
from tests.contract.test_imds_port import FACTS
from tests.contract.test_imds_port import Canned as CannedImds
from tests.unit.agents import Pod, Pods
from tests.unit.test_fuzz_ec2 import ENIS, SUBNETS, TABLES
from tests.unit.test_fuzz_netlink import ADDRESS, LINK, Fake, attribute, client, message
from vipmanager.clients.ec2 import Ec2Client

FIRST, SECOND, OWN = "192.168.0.1", "192.168.0.2", "10.10.1.50"

JUNK = {
    "a proxy's page": (200, "<html><body>Please log in"),
    "a cut": (200, TABLES[: len(TABLES) // 2]),
    "nothing": (200, ""),
    "no CIDR": (200, TABLES.replace("10.0.0.0/16", "10.0.0.0/99")),
    "no number": (200, ENIS.replace("<deviceIndex>1", "<deviceIndex>one")),
    "no address": (200, ENIS.replace("10.0.1.10", "10.0.1.1000")),
    "no subnet": (200, SUBNETS.replace("10.0.1.0/24", "10.0.1.7/24")),
    "no ids": (200, TABLES.replace("rtb-1", "").replace("<routeTableId></routeTableId>", "")),
    "an error without words": (400, "<Response><Errors><Error/></Errors></Response>"),
}


class Through:
    """A double, some of whose answers come from a real client instead, while `left` says so."""

    def __init__(self, double: Any, real: Any, *names: str, left: int = 3) -> None:
        self._double, self._real, self._names = double, real, names
        self.left = left

    def __getattr__(self, name: str) -> Any:
        if name not in self._names or self.left <= 0:
            return getattr(self._double, name)
        return partial(self._junk, getattr(self._real, name))

    def _junk(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        finally:
            self.left -= 1


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    made = Canned()
    with pytest.MonkeyPatch.context() as patch:
        point_sdk_at(patch, f"http://127.0.0.1:{made.server.port}", "AKIA", "secret")
        yield made
    made.server.stop()


@pytest.fixture(scope="module")
def real(canned: Canned) -> Ec2Client:
    return Ec2Client(lambda: "us-east-2")


def converges(pod: Pod, through: Through) -> None:
    """The junk is taken, as time passes the loop goes on, and what is wanted is done in the end."""
    run = pod.sidecar(ResyncInterval="300")

    def done() -> bool:
        if run.error is not None:
            raise run.error
        pod.pass_time(5.0)
        arrived = pod.routed(FIRST) and pod.routed(SECOND, "eni-2") and pod.ec2.holder(OWN) == "eni-1"
        return arrived and through.left <= 0

    pod.wait(done)
    assert run.running


@pytest.mark.parametrize("kind", JUNK)
def test_junk_of_ec2(pods: Pods, canned: Canned, real: Ec2Client, kind: str) -> None:
    canned.status, canned.text = JUNK[kind]
    pod = pods([FIRST, OWN], [SECOND])
    through = Through(pod.ec2, real, "route_tables", "enis", "enis_holding", "subnets")
    pod.ec2 = through  # type: ignore[assignment]
    converges(pod, through)


@pytest.mark.parametrize(
    "texts", [{}, {"macs": "<html>"}, {"device-number": "one"}, {"vpc-ipv4-cidr-blocks": "everything"}]
)
def test_junk_of_imds(pods: Pods, texts: dict[str, str]) -> None:
    """EC2 is asked instead."""
    canned = CannedImds(**{**FACTS, **texts})
    pod = pods([FIRST, OWN], [SECOND])
    if not texts:
        canned.texts = {}
    through = Through(pod.imds, canned.client(), "enis", left=1)
    pod.imds = through  # type: ignore[assignment]
    converges(pod, through)
    canned.server.stop()


@pytest.mark.parametrize("junk", [attribute(2, b"\0" * 5), attribute(2, b"x", 40), attribute(8, b"")])
def test_junk_of_netlink(pods: Pods, junk: bytes) -> None:
    """An address that cannot be read is not gone: nothing that stands is withdrawn for it."""
    pod = pods([FIRST, OWN], [SECOND])
    links = [message(LINK, number, attribute(3, f"net{number}\0".encode())) for number in (1, 2)]
    broken = client(Fake(links=links, addr=[message(ADDRESS, 1, junk), b"\x13\0\0"]))
    through = Through(pod.kernel, broken, "interfaces", left=2)
    pod.kernel = through  # type: ignore[assignment]
    converges(pod, through)
