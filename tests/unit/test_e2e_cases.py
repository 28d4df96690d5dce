"""make e2e leaves out no workload of the samples."""

from __future__ import annotations

import pytest

from tests.e2e import cni, nodeport
from tests.e2e.cases import cases
from tests.e2e.manifests import SAMPLES, Objects, memory, read, wanted_networks


def test_every_workload_of_the_samples_is_run() -> None:
    titles = [case.title for case in cases([])] + [nodeport.TITLE]
    files = [path for path in SAMPLES.glob("*.yaml") if read([path]).workloads]
    assert files
    assert [path.name for path in files if not any(f"samples/{path.name} " in title for title in titles)] == []


def test_every_case_finds_its_workload_networks_and_settings() -> None:
    for case in cases([]):
        (workload,) = (each for each in case.objects.workloads if each["metadata"]["name"] == case.workload)
        assert {name for _, name in wanted_networks(workload)} <= set(case.objects.networks), case.title
        assert case.objects.configmaps, case.title


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("nad-if1", [("net1", "nad-if1")]),
        ("nad-if1, other/nad-if2@up", [("net1", "nad-if1"), ("up", "nad-if2")]),
        ('[{"name": "nad-if1"}, {"name": "nad-if2", "interface": "up"}]', [("net1", "nad-if1"), ("up", "nad-if2")]),
        ("", []),
    ],
)
def test_networks_are_read_as_multus_reads_them(said: str, wanted: list[tuple[str, str]]) -> None:
    annotations = {"k8s.v1.cni.cncf.io/networks": said}
    assert wanted_networks({"spec": {"template": {"metadata": {"annotations": annotations}}}}) == wanted


def test_prometheus_rules_are_no_objects() -> None:
    found = Objects()
    found.add([{"groups": []}, None])
    assert found == Objects()


@pytest.mark.parametrize(("said", "wanted"), [("128Mi", 128 << 20), ("1G", 10**9), ("7", 7)])
def test_a_quantity_of_memory(said: str, wanted: int) -> None:
    assert memory(said) == wanted


def test_static_gives_each_pod_its_own_address_of_a_pool() -> None:
    pool = {"range": "192.168.2.0/24", "range_start": "192.168.2.10", "range_end": "192.168.2.29"}
    network = {"cniVersion": "1.0.0", "name": "n", "type": "host-device", "device": "eth1"}
    notes: set[str] = set()
    made = cni.substituted({**network, "ipam": {"type": "whereabouts", **pool}}, 1, notes)
    assert made["ipam"] == {"type": "static", "addresses": [{"address": "192.168.2.11/24"}]}
    assert {key: made[key] for key in network} == network
    assert len(notes) == 1
