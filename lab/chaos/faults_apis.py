"""What can go wrong with EC2's API, credentials and IMDS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from zlib import crc32

from lab.chaos.fault import End, Given, a_pod, anything, fault
from lab.chaos.stage import Stage
from lab.ec2.params import Params

_RATES = (0.2, 0.5, 0.9)


def _some_calls(given: Given) -> Callable[[Params], bool]:
    """A share of the calls, the same ones for the same share: by what they are and how often they came before."""
    seen: Counter[str] = Counter()

    def hit(request: Params) -> bool:
        text = str(sorted(request.items()))
        seen[text] += 1
        return crc32(f"{given} {seen[text]} {text}".encode()) % 1000 < float(given["share"]) * 1000

    return hit


@fault("ec2-throttled", anything(action=("*Route", "*", "Describe*"), bucket=(1, 3, 10), refill=(1, 3)))
def _throttled(stage: Stage, given: Given) -> End:
    return stage.lab.ec2.faults.throttle(str(given["action"]), int(given["bucket"]), float(given["refill"]))


@fault("ec2-errors", anything(share=_RATES, status=(500, 503)))
def _errors(stage: Stage, given: Given) -> End:
    return stage.lab.ec2.faults.fail("*", times=None, status=int(given["status"]), when=_some_calls(given))


@fault("ec2-connections-reset", anything(share=_RATES))
def _reset(stage: Stage, given: Given) -> End:
    return stage.lab.ec2.faults.reset("*", None, when=_some_calls(given))


@fault("ec2-answers-lost", anything(share=_RATES))
def _answers_lost(stage: Stage, given: Given) -> End:
    return stage.lab.ec2.faults.fail_after("*", times=None, when=_some_calls(given))


@fault("ec2-hanging", anything(share=_RATES, seconds=(0.5, 2.0)))
def _hanging(stage: Stage, given: Given) -> End:
    return stage.lab.ec2.faults.hang("*", float(given["seconds"]), None, when=_some_calls(given))


@fault("ec2-partial", anything(share=(0.5, 1.0)))
def _partial(stage: Stage, given: Given) -> End:
    return stage.lab.ec2.faults.partial("*", None, when=_some_calls(given))


@fault("ec2-slow", anything(seconds=(0.1, 0.3, 1.0)))
def _slow(stage: Stage, given: Given) -> End:
    stage.lab.ec2.latency = float(given["seconds"])

    def end() -> None:
        stage.lab.ec2.latency = stage.world.latency

    return end


@fault("ec2-unreachable", anything())
def _unreachable(stage: Stage, _: Given) -> End:
    stage.lab.ec2.faults.block()
    return stage.lab.ec2.faults.unblock


@fault("ec2-lagging", anything(seconds=(0.5, 1.5, 3.0)))
def _lagging(stage: Stage, given: Given) -> End:
    stage.lab.ec2.lag = float(given["seconds"])

    def end() -> None:
        stage.lab.ec2.lag = 0.0

    return end


@fault("credentials-expired", a_pod)
def _credentials_expired(stage: Stage, given: Given) -> End:
    """Until new ones are there, which here are the old ones."""
    credentials = stage.sidecars[str(given["pod"])].credentials
    stage.lab.ec2.keys.expire(credentials.access_key)
    return lambda: (stage.lab.ec2.keys.add(credentials), None)[1]


@fault("imds-blocked", anything(how=("silent", "hop limit 1", "refused")))
def _imds_blocked(stage: Stage, given: Given) -> End:
    if given["how"] == "refused":
        stage.lab.imds.refuse()
    else:
        stage.lab.imds.block(*(["PUT"] if given["how"] == "hop limit 1" else []))
    return stage.lab.imds.unblock


@fault("imds-slow", anything(seconds=(0.2, 0.8)))
def _imds_slow(stage: Stage, given: Given) -> End:
    stage.lab.imds.slow(float(given["seconds"]))
    return lambda: stage.lab.imds.slow(0.0)


@fault("imds-errors", anything(status=(500, 503)))
def _imds_errors(stage: Stage, given: Given) -> End:
    stage.lab.imds.fail(int(given["status"]))
    return lambda: stage.lab.imds.fail(0)


@fault("imds-tokens-expire", anything(seconds=(0.0, 0.005)))
def _imds_tokens(stage: Stage, given: Given) -> End:
    stage.lab.imds.expire_tokens(float(given["seconds"]))
    return stage.lab.imds.expire_tokens
