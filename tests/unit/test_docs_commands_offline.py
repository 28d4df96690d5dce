"""The commands in the documents: those that can run here are run; of the others all that they name is looked up."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.docs_checks import CHECKS
from tests.unit.docs_commands import DOCUMENTS, ROOT, Block, blocks
from tests.unit.docs_kubectl import MANIFESTS
from tests.unit.docs_names import unset
from tests.unit.manifests import SAMPLES
from vipmanager import __version__, arguments, config
from vipmanager.manifest import read_configmap

ALL = [block for document in DOCUMENTS for block in blocks(document)]
EKS, MIGRATION = ROOT / "docs/eks.md", ROOT / "docs/migration.md"

each_block = pytest.mark.parametrize("block", ALL, ids=str)


def test_the_blocks_are_found() -> None:
    commands = [words for block in ALL for words in block.commands]
    assert len(commands) > 100
    assert ["aws", "ec2", "terminate-instances", "--instance-ids", "$PEER"] in commands
    assert ["aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text"] in commands, "in $(…)"
    assert ["vipmanager", "--version"] in commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_shell_can_read_them(document: Path) -> None:
    text = "".join(block.text for block in blocks(document))
    assert len(blocks(document)) == len(re.findall(r"^ *```sh", document.read_text(), re.MULTILINE))
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=30, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_name_is_set_before_it_is_used(document: Path) -> None:
    """From top to bottom in one shell."""
    assert list(unset(blocks(document))) == []


# What cannot run here


@each_block
def test_what_it_names_is_there(block: Block) -> None:
    for words in block.commands:
        assert words[0] in CHECKS, words
        CHECKS[words[0]](words, block)


@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if each.name != "CHANGELOG.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_commands_in_the_text_name_is_there(document: Path) -> None:
    """Those of kubectl and vipmanager in `…`. One that has … or […] in it is not whole, and left out."""
    text = re.sub(r"^( *)```.*?^\1```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for command in re.findall(r"`((?:kubectl|vipmanager) [^`]+)`", text):
        if not re.search(r"…|\[", command):
            (words,) = Block(document, text.count("\n", 0, text.index(command)) + 1, " ".join(command.split())).commands
            CHECKS[words[0]](words, Block(document, 1, command))


# What can run here

OFFLINE = frozenset(("cp", "cd", "export", "sed", "grep", "vipmanager", "python"))


def runs_here(block: Block) -> bool:
    """All its commands are of those that need neither AWS nor a cluster."""
    words = block.commands
    here = all(each[0] in OFFLINE for each in words)
    away = any(each[0] == "vipmanager" and each[1] in ("plan", "doctor") for each in words)
    return here and not away and not any(each[:2] == ["python", "-m"] for each in words)


def script_of(document: Path) -> str:
    """The commands of a document that can run here, in one shell."""
    return "".join(block.text for block in blocks(document) if runs_here(block))


def run(script: str, where: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a copy of the repository's manifests, with the variables that the documents set.

    A sample stands in for the reader's own ConfigMap, which kubectl is asked for.
    """
    for name in ("samples", "nad", "cfn"):
        shutil.copytree(ROOT / name, where / name)
    shutil.copy(ROOT / "samples" / "vipmanager-cm.yaml", where / "configmap.yaml")
    (where / ".venv-eks").mkdir()
    prelude = (
        f'set -eu\nvipmanager() {{ "{sys.executable}" -m vipmanager "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-2",
        "ACCOUNT": "111122223333",
        "VPC": "vpc-0123456789abcdef0",
    }
    return subprocess.run(
        ["bash", "-c", prelude + script],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "document", [each for each in DOCUMENTS if any(map(runs_here, blocks(each)))], ids=lambda path: path.name
)
def test_what_can_run_here_runs(document: Path, tmp_path: Path) -> None:
    done = run(script_of(document), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documents_have_blocks_that_run_here() -> None:
    names = {str(block.document.relative_to(ROOT)) for block in ALL if runs_here(block)}
    assert names >= {"README.md", "docs/eks.md", "docs/migration.md", "docs/release.md", "samples/README.md"}


def test_after_the_readmes_edits_nothing_is_left_to_edit(tmp_path: Path) -> None:
    done = run(script_of(ROOT / "README.md"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    edited = [path for suffix in ("yaml", "json") for path in (tmp_path / "samples").glob(f"**/*.{suffix}")]
    assert len(edited) > 20
    assert not [path for path in edited if re.search("ACCOUNT|REGION", path.read_text())]
    assert "vpc/vpc-" in (tmp_path / "samples" / "iam-policy.json").read_text()


def test_after_the_quick_starts_edits_nothing_is_left_to_edit(tmp_path: Path) -> None:
    done = run(script_of(EKS), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = tmp_path / ".venv-eks" / "samples"
    edited = [path for suffix in ("yaml", "json") for path in samples.glob(f"**/*.{suffix}")]
    assert len(edited) > 20
    assert not [path for path in edited if re.search("ACCOUNT|REGION", path.read_text())]
    for name in ("vipmanager-cm.yaml", "vipmanager-cm-vpc.yaml"):
        assert read_configmap(str(samples / name))["VPCRTTag"] == "vipmanager=floating"
    nodeport = read_configmap(str(samples / "nodeport" / "configmap.yaml"))
    assert (nodeport["FLOATING_IP"], nodeport["FloatingMode"]) == ("192.168.3.80", "route")
    assert nodeport["VPCRTTag"] == "vipmanager=floating"
    policy = json.loads((tmp_path / ".venv-eks" / "nodeport-policy.json").read_text())
    assert {"aws:ResourceTag/vipmanager": "floating"} in [
        each.get("Condition", {}).get("StringEquals") for each in policy["Statement"]
    ]


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl: `kubectl patch --local` is run nowhere else"
)
def test_the_patch_puts_the_pod_into_the_subnets_zone(tmp_path: Path) -> None:
    (block,) = (each for each in blocks(EKS) if "--local" in each.text)
    (line,) = re.findall(r"^kubectl patch (?:.*\\\n)*.*\n", block.text, re.MULTILINE)
    done = run(line, tmp_path)
    assert done.returncode == 0, done.stderr
    patched = yaml.safe_load((tmp_path / "deployment-init-zone.yaml").read_text())
    assert patched["spec"]["template"]["spec"]["nodeSelector"] == {"topology.kubernetes.io/zone": "us-east-2a"}


# What the documents show


def test_the_containers_that_migration_shows_start() -> None:
    (shown,) = blocks(MIGRATION, "yaml")
    (container,) = yaml.safe_load(shown.text)["initContainers"]
    assert arguments.parse(container["args"]).mode == "init"
    settings = config.load({each["name"]: each["value"] for each in container["env"]})
    assert settings.warnings == ()
    assert container["image"].endswith(f"/vipmanager:{__version__}")


def test_images_in_blocks_have_the_present_version() -> None:
    for block in ALL:
        assert set(re.findall(r"/vipmanager:(\d[\w.]*)", block.text)) <= {__version__}, str(block)


def test_files_named_in_the_text_exist() -> None:
    names = re.compile(r"`((?:cfn|samples|nad|tests|image|vipmanager)/[\w/-]+\.\w+)`")
    found = [name for document in (*DOCUMENTS, ROOT / "SECURITY.md") for name in names.findall(document.read_text())]
    assert len(found) > 10
    assert not [name for name in found if not (ROOT / name).exists()]


def test_the_quick_starts_settings_fit_the_manifests() -> None:
    """The peer's subnet is one of the samples' peers; Multus and floating subnets, cfn/README.md's too, are nad/'s."""
    texts = [EKS.read_text(), (ROOT / "cfn/README.md").read_text()]
    assert "10.10.31.0/24" in read_configmap(str(SAMPLES / "vipmanager-cm.yaml"))["Intf1Peers"].split(",")
    for folder, first, second in (
        ("subnet", "MultusCidrA1", "MultusCidrA2"),
        ("vpc", "FloatingCidr1", "FloatingCidr2"),
    ):
        for name, parameter in (("nad-if1", first), ("nad-if2", second)):
            (network,) = (each.network for each in MANIFESTS if each.name == name and each.pattern == folder)
            assert all(f"{parameter}={network['ipam']['ranges'][0][0]['subnet']}" in text for text in texts)
