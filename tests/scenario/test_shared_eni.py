"""Two pods on one worker share its ENI, and one hands an address to the other: EC2 cannot show whose it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.lab import Lab
from tests.scenario.support import assert_answers, eni, everywhere, holder, sidecar, targets, until, writes

pytestmark = pytest.mark.namespaces

NEVER = {"ResyncInterval": 0}
"""So that nothing is mended by chance."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def in_place(lab: Lab, cidr: str) -> bool:
    """Whether EC2 delivers it to worker a's ENI 1."""
    address = cidr.partition("/")[0]
    mine = eni(lab, "a", 1)
    return holder(lab, address) == mine or targets(lab, f"{address}/32") == everywhere(lab, mine)


@pytest.mark.parametrize(
    ("cidr", "operation", "times"),
    [("192.168.0.1/32", "DeleteRoute", 4), ("10.10.11.77/24", "UnassignPrivateIpAddresses", 1)],
)
def test_what_the_former_holder_takes_back_is_put_back(lab: Lab, cidr: str, operation: str, times: int) -> None:
    """That is 10 s (an address of the ENI: 2 s) after it left. The new holder has written nothing, so it looks."""
    address = cidr.partition("/")[0]
    one, two = lab.pod("one", "a", {"net1": [cidr]}), lab.pod("two", "a", {"net1": []})
    sidecar(one, address, **NEVER)
    taker = sidecar(two, **NEVER)
    taker.wait("interface", name="net1")
    mark = lab.ec2.mark()
    one.del_address("net1", cidr)
    two.add_address("net1", cidr)
    taker.wait("claimed", address=address)

    def taken_back() -> bool:
        return [call.action for call in writes(lab.ec2.calls_since(mark))].count(operation) == times

    until(taken_back, "the former holder has not taken back what its address left")
    until(lambda: in_place(lab, cidr), lambda: f"it is not delivered\n{taker.text}")
    assert_answers(lab, address)
