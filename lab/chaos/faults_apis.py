"""What can go wrong with EC2's API, credentials and IMDS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from zlib import crc32

from lab.chaos.fault import EC2, End, Given, Missed, a_pod, anything, fault, home_of
from lab.chaos.stage import Stage
from lab.chaos.world import ENI_ADDRESS, Floating, Home, World
from lab.ec2 import faults
from lab.ec2.params import Params

_RATES = (0.2, 0.5, 0.9)
LONGER = 12.0
"""Seconds: longer than vipmanager waits for an answer (vipmanager.clients.ec2.READ_TIMEOUT, 10 s)."""
_BELIEVED = 5.0
"""Seconds for which vipmanager believes its own writes rather than a describe (vipmanager.observe.SETTLE)."""


def _some_calls(given: Given) -> Callable[[Params], bool]:
    """A share of the calls, the same ones for the same share: by what they are and how often they came before."""
    seen: Counter[str] = Counter()

    def hit(request: Params) -> bool:
        text = str(sorted(request.items()))
        seen[text] += 1
        return crc32(f"{given} {seen[text]} {text}".encode()) % 1000 < float(given["share"]) * 1000

    return hit


def _nobody(_: World) -> bool:
    """A sidecar needs IMDS when it starts and when an interface comes, and does without."""
    return False


def _counted(planned: faults.End) -> End:
    """Ends what was planned for calls. Raises Missed when there was none of them."""

    def end() -> None:
        planned()
        if not planned.hits:
            raise Missed

    return end


@fault("ec2-throttled", anything(action=("*Route", "*", "Describe*"), bucket=(1, 2, 4), refill=(0.5, 2)), EC2)
def _throttled(stage: Stage, given: Given) -> End:
    return _counted(stage.lab.ec2.faults.throttle(str(given["action"]), int(given["bucket"]), float(given["refill"])))


@fault("ec2-errors", anything(share=_RATES, status=(500, 503)), EC2)
def _errors(stage: Stage, given: Given) -> End:
    return _counted(stage.lab.ec2.faults.fail("*", times=None, status=int(given["status"]), when=_some_calls(given)))


@fault("ec2-connections-reset", anything(share=_RATES), EC2)
def _reset(stage: Stage, given: Given) -> End:
    return _counted(stage.lab.ec2.faults.reset("*", None, when=_some_calls(given)))


@fault("ec2-answers-lost", anything(share=_RATES), EC2)
def _answers_lost(stage: Stage, given: Given) -> End:
    return _counted(stage.lab.ec2.faults.fail_after("*", times=None, when=_some_calls(given)))


@fault("ec2-hanging", anything(share=_RATES, seconds=(0.5, 2.0, LONGER)), EC2)
def _hanging(stage: Stage, given: Given) -> End:
    return _counted(stage.lab.ec2.faults.hang("*", float(given["seconds"]), None, when=_some_calls(given)))


def _late(random: Random, _: World) -> Given:
    """Reads come after the caller has given up, too; what is written then, nobody would ever know of."""
    action = random.choice(("*", "*", "Describe*"))
    seconds = LONGER if action == "Describe*" else random.choice((0.5, 2.0, 8.0))
    return {"share": random.choice(_RATES), "action": action, "seconds": seconds}


@fault("ec2-held", _late, EC2, drifts=lambda given: float(given["seconds"]) > _BELIEVED)
def _held(stage: Stage, given: Given) -> End:
    """Applied late."""
    stage.held_calls = True
    hits = _some_calls(given)
    return _counted(stage.lab.ec2.faults.hold(str(given["action"]), float(given["seconds"]), None, when=hits))


def _several(random: Random, world: World) -> Given | None:
    """An interface that several addresses of its ENI's subnet can be on."""
    homes = sorted({home for each in world.movable for home in each.homes if len(_of_one_call(world, home)) > 1})
    if not homes:
        return None
    home = random.choice(homes)
    return {"share": random.choice((0.5, 1.0)), "pod": home.pod, "interface": home.interface}


def _of_one_call(world: World, home: Home) -> list[Floating]:
    """The addresses that one AssignPrivateIpAddresses puts on its ENI."""
    return [each for each in world.movable if each.placement == ENI_ADDRESS and not each.subnet6 and home in each.homes]


@fault("ec2-partial", _several, EC2)
def _partial(stage: Stage, given: Given) -> End:
    """All that can be on an interface comes there at once."""
    end = _counted(stage.lab.ec2.faults.partial("*", None, when=_some_calls(given)))
    home = home_of(given)
    several = _of_one_call(stage.world, home)
    for floating in several:
        for holder in stage.holders(floating):
            stage.delete(floating.name, holder)
    for floating in several:
        stage.add(floating.name, home)
    return end


@fault("ec2-slow", anything(seconds=(0.1, 0.3, 1.0)), EC2)
def _slow(stage: Stage, given: Given) -> End:
    stage.lab.ec2.latency = float(given["seconds"])

    def end() -> None:
        stage.lab.ec2.latency = stage.world.latency

    return end


@fault("ec2-unreachable", anything(), EC2, tail=LONGER - 4)
def _unreachable(stage: Stage, _: Given) -> End:
    stage.lab.ec2.faults.block()
    return stage.lab.ec2.faults.unblock


@fault("ec2-lagging", anything(seconds=(0.5, 3.0, 8.0)), EC2, drifts=lambda given: float(given["seconds"]) > _BELIEVED)
def _lagging(stage: Stage, given: Given) -> End:
    stage.lab.ec2.lag = float(given["seconds"])

    def end() -> None:
        stage.lab.ec2.lag = 0.0

    return end


@fault("credentials-expired", a_pod, EC2)
def _credentials_expired(stage: Stage, given: Given) -> End:
    """Until new ones are there: of a user these are the old ones; of a role STS has others for who asks."""
    pod = str(given["pod"])
    credentials = stage.sidecars[pod].credentials
    if credentials is None:
        for role in stage.roles_of(pod):
            stage.lab.ec2.keys.expire_sessions(role)
        return lambda: None
    stage.lab.ec2.keys.expire(credentials.access_key)
    return lambda: (stage.lab.ec2.keys.add(credentials), None)[1]


@fault("imds-blocked", anything(how=("silent", "hop limit 1", "refused")), EC2, delays=_nobody)
def _imds_blocked(stage: Stage, given: Given) -> End:
    if given["how"] == "refused":
        stage.lab.imds.refuse()
    else:
        stage.lab.imds.block(*(["PUT"] if given["how"] == "hop limit 1" else []))
    return stage.lab.imds.unblock


@fault("imds-slow", anything(seconds=(0.2, 0.8)), EC2, delays=_nobody)
def _imds_slow(stage: Stage, given: Given) -> End:
    stage.lab.imds.slow(float(given["seconds"]))
    return lambda: stage.lab.imds.slow(0.0)


@fault("imds-errors", anything(status=(500, 503)), EC2, delays=_nobody)
def _imds_errors(stage: Stage, given: Given) -> End:
    stage.lab.imds.fail(int(given["status"]))
    return lambda: stage.lab.imds.fail(0)


@fault("imds-tokens-expire", anything(seconds=(0.0, 0.005)), EC2, delays=_nobody)
def _imds_tokens(stage: Stage, given: Given) -> End:
    stage.lab.imds.expire_tokens(float(given["seconds"]))
    return stage.lab.imds.expire_tokens
