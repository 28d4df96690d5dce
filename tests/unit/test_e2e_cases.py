"""make e2e leaves out no workload of the samples, and says what else it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e import cni, nodeport
from tests.e2e.cases import EXAMPLE, NOT_RUN, PREDECESSORS, cases
from tests.e2e.manifests import (
    CONFIGMAPS,
    NAD,
    ROOT,
    SAMPLES,
    Objects,
    is_ours,
    kustomized,
    memory,
    networks_of,
    read,
    wanted_networks,
)
from tests.e2e.stage import Case
from vipmanager.floating import FloatingMode

BUILT = (EXAMPLE, SAMPLES / "components")
"""What is run as kustomize builds it."""


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a workload's pod."""
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def workload(case: Case) -> dict[str, Any]:
    """The workload of a case."""
    (found,) = (each for each in case.objects.workloads if each["metadata"]["name"] == case.workload)
    return found


def ours(case: Case) -> list[dict[str, Any]]:
    """vipmanager's containers in a case."""
    return [each for each in containers(workload(case)) if is_ours(each)]


def networks(case: Case) -> set[str]:
    """The names of the definitions that the pods of a case ask for."""
    return {name for _, name in wanted_networks(workload(case))}


def titles() -> list[str]:
    """Of all that is run."""
    return [case.title for case in cases([])] + [mode.title for mode in nodeport.MODES]


def has_ours(path: Path) -> bool:
    """Whether a workload of a file has vipmanager in it."""
    return any(is_ours(container) for each in read([path]).workloads for container in containers(each))


def test_every_workload_of_the_samples_is_run() -> None:
    files = [path for path in SAMPLES.glob("**/*.yaml") if has_ours(path) and not set(BUILT) & set(path.parents)]
    assert {path.parent for path in files} == {SAMPLES, SAMPLES / "nodeport"}
    run = titles()
    assert [path.name for path in files if not any(f"{path.relative_to(ROOT)} " in title for title in run)] == []


def test_every_workload_that_kustomize_adds_vipmanager_to_is_run() -> None:
    found = kustomized(EXAMPLE)
    if found is None:
        pytest.skip("neither kustomize nor kubectl is there: make kustomize")
    wanted = {each["metadata"]["name"] for each in found.workloads if any(map(is_ours, containers(each)))}
    assert wanted == {"web", "db"}
    assert {case.workload for case in cases([]) if "kustomize" in case.title} == wanted


def test_nodeport_is_run_in_every_mode() -> None:
    assert {mode.name for mode in nodeport.MODES} == {mode.value for mode in FloatingMode}


def test_every_other_manifest_is_said_to_be_left_out() -> None:
    skipped: list[str] = []
    run = {path for path in SAMPLES.glob("*.yaml") if has_ours(path)} | {SAMPLES / name for name in CONFIGMAPS.values()}
    run |= {SAMPLES / "nodeport" / name for name in ("deployment.yaml", "configmap.yaml")}
    for case in cases(skipped):
        folders = [pattern for pattern in CONFIGMAPS if f"nad/{pattern} " in case.title]
        files = [path for pattern in folders for path in networks_of(pattern)]
        run |= {path for path in files if networks(case) & set(read([path]).networks)}
    told = {path for pattern in NOT_RUN for path in ROOT.glob(pattern)} | set(BUILT)
    manifests = [*SAMPLES.glob("**/*.yaml"), *NAD.glob("**/*.yaml")]
    assert [str(path) for path in manifests if path not in run and not {path, *path.parents} & told] == []
    assert {f"{what}: {why}" for what, why in NOT_RUN.items()} <= set(skipped)
    assert [pattern for pattern in NOT_RUN if not list(ROOT.glob(pattern))] == []


def test_samples_run_as_the_images_user_and_twice_as_root() -> None:
    users = {
        case.title: [each.get("securityContext", {}).get("runAsUser") for each in ours(case)] for case in cases([])
    }
    samples = {title: found for title, found in users.items() if title.startswith(("samples", "kustomize"))}
    as_root = [title for title, found in samples.items() if found == [0]]
    assert len(as_root) == 2
    assert all(title.endswith("with runAsUser: 0") for title in as_root)
    assert all(found == [65532] for title, found in samples.items() if title not in as_root)


def test_the_predecessors_containers_are_those_of_their_documents() -> None:
    """Image and the variables of docs/migration.md apart."""
    script = ["/bin/sh", "-c", "/app/script.sh"]
    found = {}
    for case in cases([]):
        if "predecessors" in case.title:
            (container,) = ours(case)
            settings = case.objects.configmaps.get("vipmanager-config", {})
            name = case.title.partition(".yaml")[0].rpartition("/")[2]
            found[name] = (container["args"], container.get("securityContext"), settings.get("RunAsSidecar"))
    net_admin = {"capabilities": {"add": ["NET_ADMIN"]}}
    assert found == {
        "init": (script, net_admin, "False"),
        "sidecar": (script, net_admin, "True"),
        "address-init": ([*script[:2], "/app/script.sh initContainers"], None, None),
        "address-sidecar": ([*script[:2], "/app/script.sh sidecar"], None, None),
    }
    for network in read([PREDECESSORS / "networks.yaml"]).networks.values():
        assert "gateway" in network["ipam"]


def test_every_case_finds_its_workload_networks_and_settings() -> None:
    for case in cases([]):
        assert networks(case), case.title
        assert networks(case) <= set(case.objects.networks), case.title
        named = {each["configMapRef"]["name"] for container in ours(case) for each in container.get("envFrom", ())}
        assert named <= set(case.objects.configmaps), case.title


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
