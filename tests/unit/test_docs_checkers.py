"""What looks the documents' commands up finds what is wrong with them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.docs_checks import CHECKS
from tests.unit.docs_commands import ROOT, Block, blocks
from tests.unit.docs_kubectl import VERBS, known_options
from tests.unit.docs_links import broken
from tests.unit.docs_names import unset
from vipmanager import arguments
from vipmanager.errors import ConfigError

HERE = ROOT / "docs/eks.md"

WRONG = [
    "kubectl frobnicate deployment/app",
    "kubectl apply --no-such-flag -f samples/vipmanager-cm.yaml",
    "kubectl apply -f samples/nothing.yaml",
    "kubectl apply -k samples/nothing",
    "kubectl -n kube-system rollout status deployment/app",
    "kubectl -n nowhere get pods",
    "kubectl -n nowhere apply -f samples/nodeport/configmap.yaml",
    "kubectl exec deployment/vipmanager-nodeport -- vipmanager status",
    "kubectl exec deployment/app -- vipmanager status",
    "kubectl exec app-0 -c vipmanger -- vipmanager status",
    "kubectl exec app-0 -c vipmanager -- vipmanager status --jsno",
    "kubectl exec app-7 -c vipmanager -- vipmanager status",
    "kubectl rollout status deployment/nothing",
    "kubectl rollout frobnicate deployment/app",
    "kubectl get lease vipmanager",
    "kubectl get gadget",
    "kubectl delete pod -l app=nothing",
    "kubectl delete pod -l app=vipmanager-nodeport",
    "kubectl uncordon -l app=app",
    "kubectl set image deployment/app nothing=registry/vipmanager:0.1.0",
    "aws ec2 delete-route --route-table rtb-1 --destination-cidr-block 10.0.0.0/8",
    "aws ec2 delete-subnet --subnet-id subnet-1 --force",
    "vipmanager iam-policy --vcp vpc-1",
    "vipmanager plan --configmap nothing.yaml",
    "output multus-iam Nothing",
    "describe resourcesVpcConfig.nothing",
    "make nothing",
    "make chaos NOTHING=1",
    "python -m lab.nothing",
    "sed -i s/a/b/ samples/nothing.yaml",
    "docker push registry/vipmanager:0.0.9",
    "frobnicate samples",
]


@pytest.mark.parametrize("text", WRONG)
def test_names_that_do_not_exist_are_found(text: str) -> None:
    block = Block(HERE, 1, text)
    (words,) = block.commands
    with pytest.raises((AssertionError, KeyError, arguments.UsageError, ConfigError)):
        CHECKS[words[0]](words, block)


RIGHT = [
    "kubectl -n vipmanager exec deploy/vipmanager-nodeport -- vipmanager status --json",
    "kubectl -n vipmanager logs -f -l app=vipmanager-nodeport --prefix",
    "kubectl get events -A --field-selector source=vipmanager,type=Warning",
    "kubectl exec -it app-1 -c app -- ip address",
    "kubectl exec POD -c vipmanager -- vipmanager doctor",
    "kubectl set image deployment/DEPLOYMENT CONTAINER=registry/vipmanager:VERSION",
    "kubectl delete pod -l app=app",
    "kubectl uncordon -l multus=true",
    "kubectl -n NAMESPACE describe lease NAME",
    "kubectl -n yours apply -f samples/vipmanager-cm.yaml",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_passes(text: str) -> None:
    block = Block(HERE, 1, text)
    (words,) = block.commands
    CHECKS[words[0]](words, block)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, for its own help")
@pytest.mark.parametrize("verb", VERBS)
def test_kubectl_has_these_verbs_and_options(verb: str) -> None:
    done = subprocess.run(
        ["kubectl", *verb.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": _path()},
    )
    assert f"kubectl {verb} " in done.stdout, "of this verb, and not of all"
    inherited = {"-n", "--namespace"}
    assert known_options(verb) - inherited - {"-it"} <= set(re.findall(r"(?<=[ ,])--?[\w-]+", done.stdout))


def _path() -> str:
    return str(Path(shutil.which("kubectl") or "").parent)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("aws ec2 delete-subnet --subnet-id $NEVER_SET", ["$NEVER_SET"]),
        ('aws ec2 delete-subnet --subnet-id "${NEVER_SET}a"', ["$NEVER_SET"]),
        ("SUBNET=$SUBNET", ["$SUBNET"]),
        ("SUBNET=$(aws ec2 create-subnet --vpc-id $VPC)", ["$VPC"]),
        ("x SUBNET=1 $SUBNET", ["$SUBNET"]),
        ("aws deploy \\\n  VpcId=1 \\\n  Other=$VpcId", ["$VpcId"]),
        ("echo \"'$A'\" '$B'", ["$A"]),
        ("# it's\necho $A", ["$A"]),
        ("describe name", ["describe()"]),
        ("SUBNET=1; echo $SUBNET $HOME", []),
        ('export SUBNET="$(x "$(y)")"\necho "$SUBNET"', []),
        ("for stack in a b; do\n  echo $stack\ndone", []),
        ('describe() { aws "$1"; }\ndescribe name', []),
        ("cat > file <<'END'\n$A\nEND", []),
    ],
)
def test_names_that_are_used_before_they_are_set_are_found(text: str, names: list[str]) -> None:
    found = list(unset([Block(HERE, 1, text)]))
    assert [each.rpartition(" ")[2] for each in found] == names


def test_a_name_stays_set_in_the_blocks_that_follow() -> None:
    first, second = Block(HERE, 1, "A=1\n"), Block(HERE, 9, "echo $A $B\n")
    assert list(unset([first, second])) == ["docs/eks.md:9: $B"]
    assert list(unset([second, first])) == ["docs/eks.md:9: $A", "docs/eks.md:9: $B"]


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("# One\n\n```sh\n# two\n```\n\n## `three`, *four* & five\n\n## One\n")
    document = tmp_path / "document.md"
    good = ["other.md", "other.md#one", "other.md#one-1", "other.md#three-four--five", "#here", "https://example.org#x"]
    bad = ["nothing.md", "nothing.md#one", "other.md#two", "other.md#one-2", "#nowhere"]
    document.write_text(
        "# Here\n" + "".join(f"[a](<{each}>) [b]({each} 'title') [c]({each})\n" for each in (*good, *bad))
    )
    assert broken(document) == [each for each in bad for _ in range(3)]


def test_indented_blocks_are_blocks(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("1. One\n\n   ```sh\n   make demo\n   ```\n\n```sh\nmake test\n```\n")
    assert [block.commands for block in blocks(document)] == [[["make", "demo"]], [["make", "test"]]]
