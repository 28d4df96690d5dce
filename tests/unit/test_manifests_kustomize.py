"""samples/components: what kustomize makes of a Deployment and a StatefulSet that name the component."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest

from tests.unit.manifests import IMAGE, OTHERS, SAMPLES, VERSIONS, WORKLOADS, Manifest, edited, parse, read
from vipmanager import __version__, config

EXAMPLE = SAMPLES / "kustomize" / "example"


def builder() -> list[str] | None:
    """kustomize, as `make kustomize` installs it or as the machine has it, by itself or in kubectl."""
    beside = shutil.which("kustomize", path=str(Path(sys.executable).parent)) or shutil.which("kustomize")
    if beside:
        return [beside, "build"]
    kubectl = shutil.which("kubectl")
    return [kubectl, "kustomize"] if kubectl else None


BUILD = builder()
pytestmark = pytest.mark.skipif(BUILD is None, reason="neither kustomize nor kubectl is there: make kustomize")


def build(folder: Path) -> list[Manifest]:
    """What a kustomization makes."""
    assert BUILD is not None
    done = subprocess.run([*BUILD, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout, folder / "kustomization.yaml")


@pytest.fixture(scope="module")
def built() -> dict[str, Manifest]:
    """The example's objects, by kind and name without a hash."""
    return {f"{each.kind}/{each.name.rsplit('-', 1)[0]}": each for each in build(EXAMPLE)}


SOURCE = {f"{each.kind}/{each.name}": each for each in read(EXAMPLE / "app.yaml")}
WITH = ("Deployment/web", "StatefulSet/db")


def test_it_makes_the_workloads_and_one_configmap(built: dict[str, Manifest]) -> None:
    assert built.keys() == SOURCE.keys() | {"ConfigMap/vipmanager-config"}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_what_it_makes(built: dict[str, Manifest], version: str) -> None:
    for manifest in built.values():
        kubernetes_validate.validate(manifest.content, version, strict=True)


@pytest.mark.parametrize("name", WITH)
def test_the_sidecar_is_added_before_everything_else(built: dict[str, Manifest], name: str) -> None:
    first = built[name].containers[0]
    (patch,) = read(SAMPLES / "components" / "vipmanager" / "sidecar.yaml")
    assert first["name"] == "vipmanager"
    changed = ("image", "envFrom")
    assert {key: first[key] for key in first if key not in changed} == {
        key: value for key, value in patch.vipmanager.items() if key not in changed
    }


@pytest.mark.parametrize("name", WITH)
def test_its_image_is_the_one_that_the_kustomization_names(built: dict[str, Manifest], name: str) -> None:
    assert built[name].vipmanager["image"] == IMAGE


def test_after_the_two_edits_its_image_is_of_the_users_registry(tmp_path: Path) -> None:
    made = build(edited(tmp_path) / "kustomize" / "example")
    found = {
        c["image"] for each in made if each.kind in WORKLOADS for c in each.containers if c["name"] == "vipmanager"
    }
    assert found == {f"{OTHERS.registry}/vipmanager:{__version__}"}


def test_a_new_name_is_enough_where_the_component_cannot_be_edited(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES, tmp_path / "samples")
    kustomization = tmp_path / "samples" / "kustomize" / "example" / "kustomization.yaml"
    text = kustomization.read_text()
    assert text.count("newName: ACCOUNT.dkr.ecr.REGION.amazonaws.com/") == 1
    kustomization.write_text(text.replace("newName: ACCOUNT.dkr.ecr.REGION.amazonaws.com/", "newName: mine.example/"))
    found = {each.vipmanager["image"] for each in build(kustomization.parent) if f"{each.kind}/{each.name}" in WITH}
    assert found == {f"mine.example/vipmanager:{__version__}"}


@pytest.mark.parametrize("name", WITH)
def test_it_reads_the_configmap_with_the_users_settings(built: dict[str, Manifest], name: str) -> None:
    made = built["ConfigMap/vipmanager-config"]
    assert built[name].vipmanager["envFrom"] == [{"configMapRef": {"name": made.name}}]
    assert made.name != "vipmanager-config", "a change of a setting is a change of the pods"
    assert [key for key in made.content["data"] if not config.is_setting(key)] == []
    settings = config.load(made.content["data"])
    assert [str(peer) for peer in settings.peers[1]] == ["10.10.31.0/24", "10.10.32.5/32"]


@pytest.mark.parametrize("name", WITH)
def test_what_the_user_wrote_is_still_there(built: dict[str, Manifest], name: str) -> None:
    before, after = SOURCE[name], built[name]
    assert after.networks == before.networks != []
    assert after.content["spec"]["template"]["metadata"] == before.content["spec"]["template"]["metadata"]
    added = ("initContainers", "volumes")
    assert {key: after.pod[key] for key in after.pod if key not in added} == {
        key: before.pod[key] for key in before.pod if key not in added
    }
    assert after.pod["initContainers"][1:] == before.pod.get("initContainers", [])
    ours = {"name": "vipmanager-state", "emptyDir": {}}
    assert [each for each in after.pod["volumes"] if each != ours] == before.pod.get("volumes", [])
    assert after.pod["volumes"].count(ours) == 1
    spec = {key: value for key, value in after.content["spec"].items() if key != "template"}
    assert spec == {key: value for key, value in before.content["spec"].items() if key != "template"}


def test_a_workload_with_the_label_off_is_left_alone(built: dict[str, Manifest]) -> None:
    assert built["Deployment/batch"].content == SOURCE["Deployment/batch"].content


def test_one_line_is_enough(tmp_path: Path) -> None:
    """Without image and settings, in a folder beside a copy of the component."""
    shutil.copytree(SAMPLES / "components", tmp_path / "components")
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(SAMPLES / "kustomize" / "example" / "app.yaml", mine / "app.yaml")
    (mine / "kustomization.yaml").write_text("resources: [app.yaml]\ncomponents: [../components/vipmanager]\n")
    names = [each.containers[0]["name"] for each in build(mine) if each.kind in WORKLOADS]
    assert sorted(names) == ["batch", "vipmanager", "vipmanager"]
