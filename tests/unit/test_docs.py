"""The documents say what the code does: settings, commands, samples, IAM actions."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.unit.docs_commands import DOCUMENTS, ROOT
from tests.unit.docs_links import broken
from vipmanager import config, iam
from vipmanager.arguments import BELONGS, MODES, USAGE, parse
from vipmanager.manifest import read_configmap

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


def settings_table(document: Path) -> list[str]:
    """The rows that a document has."""
    match = re.search(r"<!-- settings:.*?\|---\|---\|---\|\n(.*?)\n<!-- /settings -->", document.read_text(), re.DOTALL)
    assert match is not None
    return match[1].splitlines()


def test_settings_table_is_the_codes() -> None:
    assert settings_table(ROOT / "docs/configuration.md") == settings_rows()


def test_the_readme_has_the_settings_of_a_first_configmap() -> None:
    """Those of the sample ConfigMaps, and in the words of the whole table."""
    shown = settings_table(ROOT / "README.md")
    assert shown == [row for row in settings_rows() if row in shown]
    keys = {key for path in ROOT.glob("samples/vipmanager-cm*.yaml") for key in read_configmap(str(path))}
    assert len(keys) > 4
    assert {key for key in keys if not any(f"`{key}`" in row for row in shown)} == set()


def test_defaults_shown_are_the_defaults_used() -> None:
    shown = config.load({setting.key: setting.default for setting in config.SETTINGS})
    assert shown == config.load({})


@pytest.mark.parametrize("command", [name for name in BELONGS if name])
def test_the_usage_shows_the_options_of_each_command(command: str) -> None:
    (shown,) = re.findall(rf"^ +vipmanager {command} (.*)$", USAGE, re.MULTILINE)
    options = {f"--{name}" for name in BELONGS[command] - {"mode", "operand", "configmap"}}
    assert set(re.findall(r"--[\w-]+", shown)) - {"--configmap"} == options


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for document in DOCUMENTS for name in re.findall(r"`?make ([a-z][a-z-]+)`?", _code(document))}
    assert {"demo", "test", "bench", "check"} <= named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_block_says_its_language(document: Path) -> None:
    """So that commands are in `sh` blocks, where their test finds them."""
    fences = re.findall(r"^ *```(.*)$", document.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"console", "json", "mermaid", "sh", "text", "yaml"}
    assert set(fences[1::2]) <= {""}


def test_every_dependency_earns_its_line() -> None:
    """vipmanager's own in the README, the others where a contributor looks."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = dict(setup["options.extras_require"])
    own = required(setup["options"]["install_requires"]) | required(extras.pop("nodeport"))
    others = {name for each in extras.values() for name in required(each)}
    assert {"botocore", "kubernetes"} <= own
    assert {"moto", "ruff"} <= others
    assert own - dependencies("README.md") == set()
    assert others - dependencies("CONTRIBUTING.md") == set()


def required(text: str) -> set[str]:
    """The packages of a list in setup.cfg."""
    return set(re.findall(r"^([A-Za-z][\w.-]*?)(?:\[\w+\])?==", text, re.MULTILINE))


def dependencies(document: str) -> set[str]:
    """The packages in a document's table of dependencies."""
    text = (ROOT / document).read_text()
    rows = re.findall(r"^\| ([^|]+) \|", text[text.index("## Dependencies") :], re.MULTILINE)
    return {name for row in rows for name in row.split(", ")}


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
