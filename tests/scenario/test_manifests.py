"""The samples' ConfigMaps with the addresses of nad/, on packets: delivered, and delivered where the pod goes next."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.lab import Lab
from tests.scenario.support import ONE_AZ, assert_answers, init, sidecar
from tests.unit.manifests import CONFIGMAPS, KINDS, NAD, PATTERNS, SAMPLES, given, read

pytestmark = pytest.mark.namespaces

NEXT = {"nonvpc": "b", "vpc": "b", "subnet": "c"}
"""The worker that has the pod next: in the other zone, or in the same subnet where an address cannot leave it."""


def addresses(pattern: str) -> dict[str, list[str]]:
    """What nad-if1 and nad-if2 of a pattern give a pod: interface → addresses."""
    found = {}
    for number in (1, 2):
        (definition,) = read(NAD / pattern / f"nad-{number}.yaml")
        (part,) = given(definition.network["ipam"])
        found[f"net{number}"] = [f"{part.first}/{part.network.prefixlen}"]
    return found


@pytest.mark.parametrize("mode", ["init", "sidecar"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_peer_reaches_the_pod_and_its_successor(make_lab: Callable[..., Lab], pattern: str, mode: str) -> None:
    lab = make_lab(workers=ONE_AZ)
    (configmap,) = read(SAMPLES / CONFIGMAPS[pattern])
    settings = configmap.content["data"]
    given_out = addresses(pattern)
    floating = [each.split("/")[0] for each in (*given_out["net1"], *given_out["net2"])]
    for number, worker in enumerate(("a", NEXT[pattern])):
        pod = lab.pod(f"pod-{number}", worker, given_out)
        run = init(pod, **settings) if mode == "init" else sidecar(pod, *floating, **settings)
        assert {each["placement"] for each in run.events("claimed")} == {KINDS[pattern].value}
        assert_answers(lab, *floating, peers=("peer1",))
        if mode == "sidecar":
            assert run.stop() == 0
        lab.delete_pod(pod.name)
