"""What can go wrong with a pod, its vipmanager and its worker."""

from __future__ import annotations

import signal
import time
from random import Random

from lab import burst
from lab.chaos.fault import POD, End, Given, Missed, a_pod, an_address, an_interface, fault, home_of, is_routed
from lab.chaos.sidecar import Sidecar
from lab.chaos.stage import Stage, Trouble
from lab.chaos.world import NOISE, World
from lab.ec2.params import Params

CHANGES = 10_000
"""Of addresses, in a burst."""
WITHDRAWAL = 10.0
"""Seconds from an address leaving a pod to the end of its routes (vipmanager.plan.vpc.WITHDRAW_ROUTES_AFTER)."""
LATE = 12.0
"""Seconds for which what was on its way may still arrive: after 10 s nobody waits for an answer any more."""


@fault("netlink-burst", an_interface, POD, lasts=False)
def _netlink_burst(stage: Stage, given: Given) -> None:
    home = home_of(given)
    if home in stage.lost:
        raise Missed
    burst.flap(stage.sidecars[home.pod].pod.ns, home.interface, NOISE, CHANGES)


@fault("sigstop", a_pod, POD)
def _sigstop(stage: Stage, given: Given) -> End:
    pod = str(given["pod"])
    container = stage.sidecars[pod].container
    if container is None:
        raise Missed
    container.send_signal(signal.SIGSTOP)

    def end() -> None:
        stage.witness.late[pod] = time.monotonic() + LATE
        container.send_signal(signal.SIGCONT)  # nothing happens to one that has ended

    return end


@fault("kill-9", a_pod, POD)
def _kill(stage: Stage, given: Given) -> End:
    """And the kubelet starts it again."""
    stage.kill(str(given["pod"]))
    return lambda: stage.start(str(given["pod"]))


@fault("sigterm", a_pod, POD)
def _sigterm(stage: Stage, given: Given) -> End:
    """And the kubelet starts it again: a container that ends, in whatever way, is restarted."""
    pod = str(given["pod"])
    if stage.sidecars[pod].container is None or stage.sidecars[pod].shot:
        raise Missed
    code = stage.stop(pod)
    if code not in (0, -signal.SIGKILL):  # somebody may have shot it meanwhile, and only then it ends so
        stage.complaints.append(f"{pod}'s sidecar, told to stop, ended with {code}")
    return lambda: stage.start(pod)


def _a_call(random: Random, world: World) -> Given:
    """Draws a pod, and the how manyeth of its calls of some kind."""
    pod = random.choice(world.pods).name
    mine = [each for each in world.movable if any(home.pod == pod for home in each.homes)]
    kinds = ["*", "*", "Describe*", "*Route"]
    kinds += ["Assign*", "Unassign*"] * any(each.subnet6 for each in mine)
    kinds += ["AssociateAddress"] * 2 * any(each.eip for each in mine)
    action = random.choice(kinds)
    return {"pod": pod, "action": action, "calls": random.randint(1, 3 if action == "*" else 1)}


@fault("kill-9-at-call", _a_call, POD, tail=4.0)
def _kill_at_call(stage: Stage, given: Given) -> End:
    """Just before EC2 applies one of its next calls, wherever that finds it."""
    return _kill_before(stage, str(given["pod"]), str(given["action"]), int(given["calls"]))


@fault("kill-9-at-withdrawal", an_address(is_routed), POD, least=WITHDRAWAL + 2.0)
def _kill_at_withdrawal(stage: Stage, given: Given) -> End:
    """The address leaves its pod for good; just before EC2 deletes the first of the routes that it has left behind."""
    floating = stage.floating(str(given["address"]))
    holders = stage.holders(floating)
    if not holders:
        raise Missed
    pod = holders[0].pod
    stage.troubles.append(Trouble(time.monotonic(), "kill-9-at-withdrawal", pods=frozenset({pod})))
    for home in holders:
        stage.delete(floating.name, home)
    return _kill_before(stage, pod, "DeleteRoute", 1)


def _kill_before(stage: Stage, pod: str, action: str, calls: int) -> End:
    left = calls

    def count(_: Params) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            stage.sidecars[pod].shoot()

    end_counting = stage.lab.ec2.faults.before(action, count, times=None, by=lambda key: stage.pod_of(key) == pod)

    def end() -> None:
        end_counting()
        if left > 0:
            raise Missed
        stage.kill(pod)
        stage.start(pod)

    return end


@fault("state-dir-full", a_pod, POD)
def _state_full(stage: Stage, given: Given) -> End:
    sidecar = stage.sidecars[str(given["pod"])]
    assert sidecar.volume is not None
    sidecar.volume.fill()
    sidecar.unreliable = True
    return lambda: _writable_again(sidecar)


@fault("state-dir-read-only", a_pod, POD)
def _state_read_only(stage: Stage, given: Given) -> End:
    sidecar = stage.sidecars[str(given["pod"])]
    volume = sidecar.volume
    assert volume is not None
    volume.set_read_only(True)
    sidecar.unreliable = True
    return lambda: _writable_again(sidecar)


def _writable_again(sidecar: Sidecar) -> None:
    """Both faults may be there at once: what is read-only cannot be freed, and the first that ends, ends both."""
    assert sidecar.volume is not None
    sidecar.volume.set_read_only(False)
    sidecar.volume.free()


@fault(
    "clock-jump", lambda random, world: {**a_pod(random, world), "seconds": random.choice((-840, -60, 60, 840))}, POD
)
def _clock_jump(stage: Stage, given: Given) -> End:
    """By less than the 15 minutes from which on EC2 refuses every call, which is tried again two minutes later."""
    clock = stage.sidecars[str(given["pod"])].clock
    assert clock is not None
    clock.jump(float(given["seconds"]))
    return lambda: clock.jump(0.0)


@fault("worker-cut-off", lambda random, world: {"worker": random.choice(world.workers)}, POD)
def _cut(stage: Stage, given: Given) -> End:
    worker = str(given["worker"])
    stage.lab.cut(worker)

    def end() -> None:
        for pod in stage.world.pods:
            if pod.worker == worker:
                stage.witness.late[pod.name] = time.monotonic() + LATE
        stage.lab.restore(worker)

    return end


def _one_goes(given: Given) -> bool:
    """Who has conceded sees only when it looks that it is the only one now."""
    return given["then"] == "one goes"


@fault(
    "two-claimants",
    an_address(lambda floating: len(floating.homes) > 1, then=("both stay", "one goes")),
    POD,
    drifts=_one_goes,
    delays=lambda _: False,
)
def _two_claimants(stage: Stage, given: Given) -> End:
    """The address comes to a second pod while the first has it; at the end one of them may give it up."""
    floating = stage.floating(str(given["address"]))
    free = [home for home in floating.homes if home not in stage.holders(floating)]
    taker = free[0] if free else floating.homes[0]
    for home in (floating.homes[-1], taker):
        if len(stage.holders(floating)) < 2:
            stage.add(floating.name, home)

    def end() -> None:
        held = stage.holders(floating)
        if given["then"] == "one goes" and len(held) > 1:
            stage.delete(floating.name, held[0])

    return end
