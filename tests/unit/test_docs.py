"""The documents say what the code does: settings, commands, samples, IAM actions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from vipmanager import config, iam
from vipmanager.arguments import MODES, parse
from vipmanager.manifest import read_configmap

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MANIFESTS = sorted(set(ROOT.glob("samples/*.yaml")) - {ROOT / "samples/rbac-events.yaml"})


def settings_rows() -> list[str]:
    """The settings table as the code has it."""
    per_interface = {"Peers": config.PEERS_MEANING, "EIPs": config.EIPS_MEANING, "Pools": config.POOLS_MEANING}
    rows = [
        f"| `Intf1{kind}`, `Intf2{kind}`, … `IntfN{kind}` | none | {said} |" for kind, said in per_interface.items()
    ]
    for setting in config.SETTINGS:
        default = f"`{setting.default}`" if setting.default else "none"
        rows.append(f"| `{setting.key}` | {default} | {setting.meaning} |")
    return rows


@pytest.mark.parametrize("document", ["README.md", "docs/configuration.md"])
def test_settings_table_is_the_codes(document: str) -> None:
    text = (ROOT / document).read_text()
    match = re.search(r"<!-- settings:.*?\|---\|---\|---\|\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert match is not None
    assert match[1].splitlines() == settings_rows()


def test_defaults_shown_are_the_defaults_used() -> None:
    shown = config.load({setting.key: setting.default for setting in config.SETTINGS})
    assert shown == config.load({})


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for document in DOCUMENTS for name in re.findall(r"`?make ([a-z][a-z-]+)`?", _code(document))}
    assert {"demo", "test", "bench", "check"} <= named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_every_dependency_earns_its_line() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Dependencies") :]
    requirements = re.findall(r"^    ([A-Za-z][\w.-]*?)(?:\[\w+\])?==", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert len(requirements) > 5
    for name in requirements:
        assert name in table, name


def test_the_sample_policy_is_what_the_command_prints_for_the_sample_settings() -> None:
    """For a sidecar, which may call what an init run may and more."""
    settings = config.load(read_configmap(str(ROOT / "samples/vipmanager-cm.yaml")))
    assert json.loads((ROOT / "samples/iam-policy.json").read_text()) == iam.policy(settings, "sidecar", iam.Scope())


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_sample_manifests_configure_and_start_what_exists(manifest: Path) -> None:
    for document in yaml.safe_load_all(manifest.read_text()):
        if document["kind"] == "ConfigMap":
            assert config.load(read_configmap(str(manifest))).warnings == ()
            continue
        pod = document["spec"]["template"]["spec"]
        containers = [c for c in [*pod.get("initContainers", ()), *pod["containers"]] if "vipmanager" in c["image"]]
        assert len(containers) == 1
        assert [parse(containers[0]["args"]).mode] == [MODES[word] for word in containers[0]["args"]]
        assert "NET_ADMIN" in containers[0]["securityContext"]["capabilities"]["add"]


def test_the_sidecars_application_starts_when_its_addresses_work() -> None:
    """A native sidecar's startup probe holds the containers after it back; a readiness probe would not."""
    (deployment,) = yaml.safe_load_all((ROOT / "samples/deployment-sidecar.yaml").read_text())
    (sidecar,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    (port,) = sidecar["ports"]
    assert port["containerPort"] == config.Config().health_port
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    assert sidecar["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    waits = sidecar["startupProbe"]["periodSeconds"] * sidecar["startupProbe"]["failureThreshold"]
    assert waits >= config.Config().init_timeout, "as long as an init run may take"


def test_the_sample_role_for_events_is_bound_to_the_account_of_the_sample_pods() -> None:
    role, binding = yaml.safe_load_all((ROOT / "samples/rbac-events.yaml").read_text())
    assert role["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role["kind"], role["metadata"]["name"])
    pod = yaml.safe_load((ROOT / "samples/deployment-sidecar.yaml").read_text())["spec"]["template"]["spec"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": pod["serviceAccountName"]}]


def _code(document: Path) -> str:
    """What a document shows as code: blocks and `inline`."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
