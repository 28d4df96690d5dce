"""Never two holders at once: real processes that are stopped, killed and cut off, and the kernel's word on it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.arena import Arena, arena
from bench.floats import Group, Replica
from bench.holders import SHORT
from tests.scenario.support import until

pytestmark = pytest.mark.namespaces

STOP_SITE = Path(__file__).with_name("stop_site")
HOUR = 3600.0


@pytest.fixture
def one() -> Iterator[Arena]:
    """One group on a pair of nodes."""
    with arena(1, 1, SHORT) as made:
        yield made


def wait_settled(made: Arena, group: Group, holder: str) -> None:
    """Wait until this node holds everything."""

    def settled() -> bool:
        return group.owners() == {holder} and made.has_settled(group)

    until(settled, lambda: f"{holder} holds everything\n{logs(group)}")


def wait_ready(made: Arena, group: Group, holder: str) -> None:
    """Wait until this node holds everything and the other one knows it, so that it can take over."""
    wait_settled(made, group, holder)
    name, waiting = group.replicas[holder].name, group.replicas[group.other(holder)]
    until(lambda: f"holder={name}" in waiting.run.output(), lambda: f"the other one knows\n{logs(group)}")


def logs(group: Group) -> str:
    """The ends of what its last processes have logged."""
    return group.logs({node: len(replica.runs) - 1 for node, replica in group.replicas.items()}, 20)


def writes(made: Arena, node: str, since: float) -> list[float]:
    """When a node has begun writes to EC2, after `since`: both of time.monotonic()."""
    key = made.lab.workers[node].env["AWS_ACCESS_KEY_ID"]
    calls = [call for call in made.lab.ec2.calls if call.access_key == key and not call.action.startswith("Describe")]
    return [call.started for call in calls if call.started >= since]


def assert_one_after_the_other(made: Arena, group: Group) -> None:
    """No two nodes have had an address at once."""
    assert made.overlaps() == [], logs(group)


def stopped_holder(made: Arena, group: Group) -> tuple[Replica, str]:
    """Stop the holder until the other one has everything: the process that is stopped, and the other one's node."""
    holder = group.lease_holder()
    wait_ready(made, group, holder)
    stopped, other = group.replicas[holder], group.other(holder)
    stopped.pause()
    wait_settled(made, group, other)
    return stopped, other


def test_randomized_trials() -> None:
    """24 trials: whatever is done to two nodes, they never have an address at once, and then one of them has it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with arena(3, 2, SHORT) as made:
        results = made.run(seed, 4)
        assert len(results) == 24
        overlaps = made.overlaps()
    assert not overlaps, "\n\n".join([f"seed {seed}", *overlaps, *(result.said for result in results)])


def test_holder_stopped_for_longer_than_its_lease_notices_and_does_not_act(one: Arena) -> None:
    """SIGSTOP, the other one takes over, SIGCONT: it sees that it does not hold any more, and writes nothing to EC2."""
    (group,) = one.groups
    stopped, other = stopped_holder(one, group)
    assert "role=BACKUP" not in stopped.run.output()
    woken = time.monotonic()
    stopped.go_on()
    until(lambda: "role=BACKUP" in stopped.run.output(), lambda: f"it notices\n{logs(group)}")
    for address in group.addresses:
        first, second = one.holders.tenures(address)
        assert (first.node, second.node) == (stopped.node, other)
        assert first.end is not None, "the address was on the interface of the stopped one"
    handed_over = time.monotonic()
    group.replicas[other].stop(signal.SIGTERM)
    wait_settled(one, group, stopped.node)
    until(lambda: writes(one, stopped.node, woken), "the write by which it holds again is recorded")
    assert min(writes(one, stopped.node, woken)) > handed_over
    assert_one_after_the_other(one, group)


def test_holder_stopped_just_before_it_extends_the_address(one: Arena, tmp_path: Path) -> None:
    """The worst moment: the lifetime is worked out, the kernel not told yet. It must not be told after the wake-up."""
    (group,) = one.groups
    stop_once = tmp_path / "stop-once"
    first = group.lease_holder()
    other = group.other(first)
    worst = group.replicas[other]
    worst.stop(signal.SIGKILL)
    until(lambda: worst.gone, "it is killed")
    worst.env = {
        "PYTHONPATH": f"{STOP_SITE}{os.pathsep}{one.lab.workers[other].env['PYTHONPATH']}",
        "STOP_ONCE": str(stop_once),
    }
    worst.start()
    wait_ready(one, group, first)
    group.replicas[first].stop(signal.SIGTERM)
    wait_settled(one, group, other)
    until(lambda: group.replicas[first].gone, "it has ended")
    group.replicas[first].start()
    wait_ready(one, group, other)
    stop_once.touch()
    wait_settled(one, group, first)
    assert not stop_once.exists(), "it was stopped there"
    worst.expected = False  # to run on: it may end itself
    worst.go_on()
    until(lambda: worst.gone or "role=BACKUP" in worst.run.output(), lambda: f"it ends or notices\n{logs(group)}")
    assert_one_after_the_other(one, group)


def jump(group: Group, node: str, offset: float) -> None:
    """Let a holder's clock jump, and wait until the Lease shows it."""
    group.replicas[node].clock.jump(offset)
    until(lambda: abs(group.renewed_off() - offset) < 30.0, lambda: f"{group.renewed_off()} of {offset}")


def wait_renewals(made: Arena, group: Group, count: int) -> None:
    """Wait until the Lease was renewed so many times."""
    seen: set[str] = set()

    def renewed() -> bool:
        lease = made.lab.kube.lease(group.name)
        seen.add(lease["spec"]["renewTime"] if lease else "")
        return len(seen) > count

    until(renewed, lambda: f"renewals\n{logs(group)}")


def test_jumping_wall_clocks_reach_the_lease_and_move_nothing(one: Arena) -> None:
    """Both nodes' wall clocks jump by an hour, to and fro: the Lease shows it, nobody takes it for expired."""
    (group,) = one.groups
    holder = group.lease_holder()
    wait_ready(one, group, holder)
    for offset in (HOUR, -HOUR, 0.0):
        group.replicas[group.other(holder)].clock.jump(-offset)
        jump(group, holder, offset)
        wait_renewals(one, group, 12)  # that takes longer than LeaseDuration
    for address in group.addresses:
        (tenure,) = one.holders.tenures(address)
        assert (tenure.node, tenure.end) == (holder, None)


def test_holder_whose_wall_clock_was_put_back_is_followed_when_it_dies(one: Arena) -> None:
    """Its renewals lay in the future and now lie in the past: the other one counts from when it saw them."""
    (group,) = one.groups
    holder = group.lease_holder()
    wait_ready(one, group, holder)
    for offset in (HOUR, -HOUR):
        jump(group, holder, offset)
    group.replicas[holder].stop(signal.SIGKILL)
    wait_settled(one, group, group.other(holder))
    assert_one_after_the_other(one, group)
