"""samples/: Kubernetes accepts it, it is configured as vipmanager reads it, and its parts name each other rightly."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.unit.manifests import (
    IMAGE,
    KUSTOMIZE_KINDS,
    NAD,
    OPERATOR_GROUP,
    OTHERS,
    REGISTRY,
    ROOT,
    SAMPLES,
    VERSIONS,
    WORKLOADS,
    Manifest,
    below,
    edited,
    read,
)
from vipmanager import arguments, config
from vipmanager.errors import ConfigError

ALL = below(SAMPLES)
VALIDATED = [each for each in ALL if each.kind not in KUSTOMIZE_KINDS and each.content["apiVersion"] != OPERATOR_GROUP]
CONFIGMAPS = [each for each in ALL if each.kind == "ConfigMap"]
PATCH = SAMPLES / "components" / "vipmanager" / "sidecar.yaml"
OURS = [each for each in ALL if each.kind in WORKLOADS and any(c["name"] == "vipmanager" for c in each.containers)]
PODS = [each for each in OURS if each.path.parent == SAMPLES]
"""The init and sidecar samples that can be applied as they are."""
(USER,) = map(int, re.findall(r"^USER (\d+):\1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
"""The image's."""
SIDECARS = [each for each in OURS if "startupProbe" in each.vipmanager]
README = (SAMPLES / "README.md").read_text()

each_pod = pytest.mark.parametrize("manifest", PODS, ids=str)
each_of_ours = pytest.mark.parametrize("manifest", OURS, ids=str)


def test_the_samples_are_there() -> None:
    assert sorted((each.kind, each.vipmanager["args"][0]) for each in PODS) == [
        ("Deployment", "init"),
        ("Deployment", "sidecar"),
        ("Deployment", "sidecar"),
        ("StatefulSet", "init"),
        ("StatefulSet", "sidecar"),
    ]
    assert len(SIDECARS) == 3  # the Deployment's, the StatefulSet's and the component's


# Kubernetes


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", [each for each in VALIDATED if each.path != PATCH], ids=str)
def test_kubernetes_accepts_it(manifest: Manifest, version: str) -> None:
    assert kubernetes_validate.validate(manifest.content, version, strict=True) == version


def test_an_unknown_field_is_found() -> None:
    (right,) = read(SAMPLES / "deployment-sidecar.yaml")
    right.content["spec"]["template"]["spec"]["initContainers"][0]["startupPorbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(right.content, VERSIONS[-1], strict=True)


@each_of_ours
def test_a_native_sidecar_starts_before_the_application(manifest: Manifest) -> None:
    always = [each["name"] for each in manifest.pod.get("initContainers", ()) if each.get("restartPolicy") == "Always"]
    assert always == (["vipmanager"] if manifest in SIDECARS else [])


@pytest.mark.parametrize("manifest", [each for each in ALL if each.kind in WORKLOADS and each.path != PATCH], ids=str)
def test_selectors_match_and_volumes_exist(manifest: Manifest) -> None:
    labels = manifest.content["spec"]["template"]["metadata"]["labels"]
    assert manifest.content["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for spread in manifest.pod.get("topologySpreadConstraints", ()):
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    for term in anti_affinity(manifest):
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    volumes = {each["name"] for each in manifest.pod.get("volumes", ())}
    mounted = {mount["name"] for each in manifest.containers for mount in each.get("volumeMounts", ())}
    assert mounted == volumes
    assert len({each["name"] for each in manifest.containers}) == len(manifest.containers)


def anti_affinity(manifest: Manifest) -> list[dict[str, Any]]:
    """The terms that keep pods apart."""
    affinity = manifest.pod.get("affinity", {}).get("podAntiAffinity", {})
    return list(affinity.get("requiredDuringSchedulingIgnoredDuringExecution", ()))


@pytest.mark.parametrize("manifest", [each for each in ALL if each.kind in WORKLOADS], ids=str)
def test_probes_ask_ports_that_exist(manifest: Manifest) -> None:
    for container in manifest.containers:
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", ())}
        for probe in (container[key] for key in container if key.endswith("Probe")):
            port = (probe.get("httpGet") or probe["tcpSocket"])["port"]
            assert port in ports or port in ports.values()


@each_of_ours
def test_probes_ask_what_vipmanager_serves_where_it_serves(manifest: Manifest) -> None:
    container = manifest.vipmanager
    asked = {key: container[key]["httpGet"]["path"] for key in container if key.endswith("Probe")}
    if container["args"] == ["init"]:
        assert (asked, "ports" in container) == ({}, False), "an init run serves nothing"
        return
    assert [port["containerPort"] for port in container["ports"]] == [config.Config().health_port]
    assert asked.pop("livenessProbe") == "/healthz"
    assert set(asked.values()) == {"/readyz"}


# the container


@each_of_ours
def test_it_may_change_routes_and_nothing_else(manifest: Manifest) -> None:
    """As the image's own user. The nodeport mode announces addresses too: NET_RAW."""
    host = manifest.pod.get("hostNetwork", False)
    assert manifest.vipmanager["securityContext"] == {
        "runAsUser": USER,
        "runAsGroup": USER,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", *(["NET_RAW"] if host else [])]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@each_of_ours
def test_its_state_can_be_written_and_outlives_the_container(manifest: Manifest) -> None:
    (mount,) = manifest.vipmanager["volumeMounts"]
    assert mount["mountPath"] == config.Config().state_dir
    (volume,) = (each for each in manifest.pod["volumes"] if each["name"] == mount["name"])
    assert volume == {"name": mount["name"], "emptyDir": {}}


@each_of_ours
def test_a_cpu_limit_would_make_failover_slow(manifest: Manifest) -> None:
    resources = manifest.vipmanager["resources"]
    assert (set(resources["requests"]), set(resources["limits"])) == ({"cpu", "memory"}, {"memory"})


@each_of_ours
def test_its_words_are_a_mode(manifest: Manifest) -> None:
    found = arguments.parse(manifest.vipmanager["args"])
    assert (found.command, bool(found.mode)) == ("", True)


def test_the_component_adds_what_the_sample_has() -> None:
    """But for the volume's name, which must not be one that the user has."""
    (sample,) = read(SAMPLES / "deployment-sidecar.yaml")
    (patch,) = read(PATCH)
    (mount,), (theirs,) = patch.vipmanager.pop("volumeMounts"), sample.vipmanager.pop("volumeMounts")
    assert mount["mountPath"] == theirs["mountPath"]
    same = {key for key in sample.vipmanager if key != "volumeMounts"}
    assert {key: patch.vipmanager[key] for key in same} == {key: sample.vipmanager[key] for key in same}
    assert patch.vipmanager.keys() == sample.vipmanager.keys()


# settings


@pytest.mark.parametrize("manifest", CONFIGMAPS, ids=str)
def test_each_key_is_a_setting_with_an_accepted_value(manifest: Manifest) -> None:
    data = manifest.content["data"]
    assert [key for key in data if not config.is_setting(key)] == []
    settings = config.load(data)
    assert settings.warnings == ()
    if manifest.path.parent.name == "nodeport":
        config.check_nodeport(settings)
    else:
        assert not any(key in data for key in ("FLOATING_IP", "FloatingMode", "HealthCheck"))


def test_a_setting_that_there_is_not_is_found() -> None:
    with pytest.raises(ConfigError):
        config.load({**CONFIGMAPS[0].content["data"], "Intf1Peer": "10.0.0.0/8"})


@pytest.mark.parametrize("path", sorted({each.path for each in CONFIGMAPS}), ids=lambda path: path.name)
def test_settings_in_comments_are_accepted_too(path: Path) -> None:
    shown = dict(re.findall(r'^  # ?(\w+): "([^"]+)"', path.read_text(), re.MULTILINE))
    assert [key for key in shown if not config.is_setting(key)] == []
    config.load(shown)


@each_of_ours
def test_its_environment_is_settings_or_the_pods_own_facts(manifest: Manifest) -> None:
    for variable in manifest.vipmanager.get("env", ()):
        known = {"POD_NAME", "POD_NAMESPACE", "POD_UID", "NODE_NAME"}
        assert config.is_setting(variable["name"]) or variable["name"] in known


# what names what


@each_of_ours
def test_the_configmap_that_it_names_exists(manifest: Manifest) -> None:
    ((source,),) = (each.values() for each in manifest.vipmanager["envFrom"])
    there = {(each.name, each.namespace) for each in CONFIGMAPS}
    assert (source["name"], manifest.namespace) in there


@each_pod
def test_its_service_account_exists_with_either_identity(manifest: Manifest) -> None:
    accounts = [each for each in below(SAMPLES / "common") if each.kind == "ServiceAccount"]
    assert {each.name for each in accounts} == {manifest.pod["serviceAccountName"]}
    roles = {each.path.stem: each.content["metadata"].get("annotations", {}) for each in accounts}
    assert roles == {
        "serviceaccount-irsa": {"eks.amazonaws.com/role-arn": "arn:aws:iam::ACCOUNT:role/vipmanager"},
        "serviceaccount-pod-identity": {},
    }


@each_pod
def test_the_networks_that_it_names_exist(manifest: Manifest) -> None:
    assert manifest.networks
    assert set(manifest.networks) <= {each.name for each in below(NAD)}


def test_the_networks_of_the_example_exist() -> None:
    named = {name for each in read(SAMPLES / "kustomize" / "example" / "app.yaml") for name in each.networks}
    assert named
    assert named <= {each.name for each in below(NAD)}


@each_pod
def test_the_comment_names_the_file_with_its_network(manifest: Manifest) -> None:
    told = re.findall(r"nad/\w+/[\w-]+\.yaml", manifest.path.read_text())
    if told:
        assert set(manifest.networks) <= {each.name for path in told for each in read(ROOT / path)}
    else:
        assert manifest.networks == ["nad-if1"], "each folder of nad/ has it"


def test_the_budget_is_for_the_sample_pods() -> None:
    (budget,) = read(SAMPLES / "common" / "poddisruptionbudget.yaml")
    for manifest in PODS:
        labels = manifest.content["spec"]["template"]["metadata"]["labels"]
        assert budget.content["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_an_active_and_its_standby_are_in_two_zones_and_never_on_one_node() -> None:
    (manifest,) = read(SAMPLES / "statefulset-sidecar.yaml")
    assert manifest.content["spec"]["replicas"] == 2
    (spread,) = manifest.pod["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["maxSkew"]) == ("topology.kubernetes.io/zone", 1)
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"  # one zone is enough when the other has failed
    (term,) = anti_affinity(manifest)
    assert term["topologyKey"] == "kubernetes.io/hostname"


@pytest.mark.parametrize("manifest", [each for each in PODS if each.kind == "Deployment"], ids=str)
def test_a_pod_alone_leaves_a_dead_node_soon_and_is_replaced_after_it_is_gone(manifest: Manifest) -> None:
    assert (manifest.content["spec"]["replicas"], manifest.content["spec"]["strategy"]["type"]) == (1, "Recreate")
    waits = {each["key"]: each["tolerationSeconds"] for each in manifest.pod["tolerations"]}
    assert waits == {"node.kubernetes.io/unreachable": 30, "node.kubernetes.io/not-ready": 30}


# account and region


def test_there_is_one_image_reference() -> None:
    found = {each.vipmanager["image"] for each in OURS}
    assert found == {IMAGE}
    for path in SAMPLES.glob("**/*.yaml"):
        for reference in re.findall(rf"{REGISTRY}/[\w.:/-]+", path.read_text()):
            wanted = IMAGE.partition(":")[0] if path.name == "kustomization.yaml" else IMAGE
            assert reference == wanted, path


def test_the_documented_edit_fills_in_account_and_region_everywhere(tmp_path: Path) -> None:
    """With an account and a region that no file has of itself: what is in a file afterwards comes from the edit."""
    before = written(SAMPLES)
    assert any(re.search("ACCOUNT|REGION", text) for text in before.values())
    assert not any(OTHERS.account in text or OTHERS.region in text for text in before.values())
    after = written(edited(tmp_path))
    assert [path for path, text in after.items() if re.search("ACCOUNT|REGION", text)] == []
    found = {each for text in after.values() for each in re.findall(REGISTRY, text)}
    assert found == {OTHERS.registry}


def test_the_documented_edit_of_the_policies_fills_in_the_vpc(tmp_path: Path) -> None:
    copy = edited(tmp_path)
    policies = {path: path.read_text() for path in copy.glob("**/*.json") if "vpc/" in path.read_text()}
    assert len(policies) == 5
    assert all("vpc/VPC" in text for text in policies.values())
    (command,) = re.findall(r"^sed -i 's\|vpc/VPC.*$", README, re.MULTILINE)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    for path in policies:
        named = set(re.findall(r"vpc/[^\"]+", path.read_text()))
        assert len(named) == 1, path
        assert re.fullmatch(r"vpc/vpc-[0-9a-f]{17}", named.pop()), path


def written(folder: Path) -> dict[str, str]:
    """The manifests and policies below a folder: path → text."""
    paths = (path for path in sorted(folder.glob("**/*.*")) if path.suffix in (".yaml", ".json"))
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


# samples/README.md


def test_the_readme_names_every_sample() -> None:
    paths = {path.relative_to(SAMPLES) for path in SAMPLES.glob("**/*.*") if path.name != "README.md"}
    told = {target.rstrip("/") for target in re.findall(r"\]\(([^)#]+)\)", README)}
    assert [str(path) for path in sorted(paths) if not {str(path), *map(str, path.parents)} - {"."} & told] == []


@pytest.mark.parametrize("document", [SAMPLES / "README.md", NAD / "README.md"], ids=lambda path: path.parent.name)
def test_the_readmes_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target
    for path in re.findall(r"\b(?:samples|nad)/[\w./-]+\.(?:yaml|json)", text):
        assert (ROOT / path).exists(), path
