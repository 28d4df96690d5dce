"""What can go wrong with a pod, its vipmanager and its worker."""

from __future__ import annotations

import signal

from lab import burst
from lab.chaos.fault import End, Given, a_pod, an_address, an_interface, fault, home_of
from lab.chaos.stage import Sidecar, Stage
from lab.chaos.world import NOISE
from lab.ec2.params import Params

CHANGES = 10_000
"""Of addresses, in a burst."""


@fault("netlink-burst", an_interface, lasts=False)
def _netlink_burst(stage: Stage, given: Given) -> None:
    home = home_of(given)
    if home not in stage.lost:
        burst.flap(stage.sidecars[home.pod].pod.ns, home.interface, NOISE, CHANGES)


@fault("sigstop", a_pod)
def _sigstop(stage: Stage, given: Given) -> End | None:
    container = stage.sidecars[str(given["pod"])].container
    if container is None:
        return None
    container.send_signal(signal.SIGSTOP)
    return lambda: container.send_signal(signal.SIGCONT)  # nothing happens to one that has ended


@fault("kill-9", a_pod)
def _kill(stage: Stage, given: Given) -> End:
    """And the kubelet starts it again."""
    sidecar = stage.sidecars[str(given["pod"])]
    sidecar.kill()
    return sidecar.start


@fault("kill-9-at-call", lambda random, world: {**a_pod(random, world), "calls": random.randint(1, 6)})
def _kill_at_call(stage: Stage, given: Given) -> End:
    """Just before EC2 applies one of its next calls, wherever that finds it."""
    sidecar = stage.sidecars[str(given["pod"])]
    left = int(given["calls"])
    container = sidecar.container

    def count(_: Params) -> None:
        nonlocal left
        left -= 1
        if left == 0 and container is not None:
            container.kill()

    end_counting = stage.lab.ec2.faults.before("*", count, times=None)

    def end() -> None:
        end_counting()
        if sidecar.container is container and left <= 0:
            sidecar.kill()
        sidecar.start()

    return end


@fault("state-dir-full", a_pod)
def _state_full(stage: Stage, given: Given) -> End:
    sidecar = stage.sidecars[str(given["pod"])]
    assert sidecar.volume is not None
    sidecar.volume.fill()
    sidecar.unwritable = True
    return lambda: _writable_again(sidecar)


@fault("state-dir-read-only", a_pod)
def _state_read_only(stage: Stage, given: Given) -> End:
    sidecar = stage.sidecars[str(given["pod"])]
    volume = sidecar.volume
    assert volume is not None
    volume.set_read_only(True)
    sidecar.unwritable = True
    return lambda: _writable_again(sidecar)


def _writable_again(sidecar: Sidecar) -> None:
    """Both faults may be there at once: what is read-only cannot be freed, and the first that ends, ends both."""
    assert sidecar.volume is not None
    sidecar.volume.set_read_only(False)
    sidecar.volume.free()
    sidecar.unwritable = False


@fault("clock-jump", lambda random, world: {**a_pod(random, world), "seconds": random.choice((-86400, -60, 60, 86400))})
def _clock_jump(stage: Stage, given: Given) -> End:
    clock = stage.sidecars[str(given["pod"])].clock
    assert clock is not None
    clock.jump(float(given["seconds"]))
    return lambda: clock.jump(0.0)


@fault("worker-cut-off", lambda random, world: {"worker": random.choice(world.workers)})
def _cut(stage: Stage, given: Given) -> End:
    stage.lab.cut(str(given["worker"]))
    return lambda: stage.lab.restore(str(given["worker"]))


@fault("two-claimants", an_address(lambda floating: len(floating.homes) > 1, then=("both stay", "one goes")))
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
