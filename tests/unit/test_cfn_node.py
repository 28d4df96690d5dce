"""What the nodes of nodegroup.yaml do at each start: the user data's script, run with stand-ins for what it calls."""

from __future__ import annotations

import configparser
import email
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.cfn_support import Stack, template

SUBNETS = ["subnet-1", "subnet-2"]
GIVEN = {
    "AWS::NoValue": "AWS::NoValue",
    "AWS::StackName": "nodes",
    "ClusterName": "lab",
    "ApiServerEndpoint": "https://lab.eks.amazonaws.com",
    "CertificateAuthority": "Q0E=",
    "MaxPods": "30",
    "MultusSubnetsA": SUBNETS,
}
PRIMARY, FIRST, SECOND = "02:00:00:00:00:05", "02:00:00:00:00:06", "02:00:00:00:00:07"
IMDS = {PRIMARY: "0", FIRST: "1", SECOND: "2"}  # MAC address → device index
LINKS = {"ens5": PRIMARY, "ens6": SECOND, "ens7": FIRST}
NAMED = {"ens5": PRIMARY, "eth1": FIRST, "eth2": SECOND}
UNIT = "multus-enis.service"

IP = '''#!{python} -SE
"""ip -o link; ip addr flush dev NAME; ip link set dev NAME down or name NAME or mtu N up: links in a file."""
import json, sys
from pathlib import Path
links, faults = Path("{here}/links"), Path("{here}/faults")
state, trouble = json.loads(links.read_text()), json.loads(faults.read_text())
words = sys.argv[1:]
if words == ["-o", "link"]:
    for number, (name, link) in enumerate(state.items(), 2):
        print(f"{{number}}: {{name}}: <BROADCAST> mtu 1500 \\\\    link/ether {{link['mac']}} brd ff:ff:ff:ff:ff:ff")
    sys.exit()
assert words[:3] in (["link", "set", "dev"], ["addr", "flush", "dev"]), words
name, *asked = words[3:]
if name not in state:
    sys.exit(f'Cannot find device "{{name}}"')
if trouble["refused"]:
    faults.write_text(json.dumps({{**trouble, "refused": trouble["refused"] - 1}}))
    sys.exit("RTNETLINK answers: Device or resource busy")
if words[0] == "addr":
    state[name]["addresses"] = 0
elif asked[0] == "name":
    if state[name]["up"]:
        sys.exit("RTNETLINK answers: Device or resource busy")
    if asked[1] in state:
        sys.exit("RTNETLINK answers: File exists")
    state[asked[1]] = state.pop(name)
else:
    state[name]["up"] = asked[-1] == "up"
    if asked[-1] == "up" and trouble["renamed"]:  # udev was slower
        state["ens9"] = {{**state.pop(name), "up": False}}
        faults.write_text(json.dumps({{**trouble, "renamed": False}}))
links.write_text(json.dumps(state))
'''
# Answers as IMDSv2: by the URL's end, and nothing without the token.
CURL = (
    '#!/bin/bash\ncase "$*" in *"PUT"*) echo token; exit;; *"-token: token"*) ;; *) exit 22;; esac\n'
    'case "${*: -1}" in\n'
    + "".join(f"*/{mac}/device-number) printf {index} ;;\n" for mac, index in IMDS.items())
    + "*/macs/) printf '"
    + "".join(f"{mac}/\\n" for mac in IMDS)
    + "' ;;\n*) exit 22 ;;\nesac\n"
)
# Starts a oneshot unit as systemd does: by its ExecStart, whose failure is the call's.
SYSTEMCTL = """#!/bin/bash
echo "systemctl $*" >> HERE/did
[ "$1" = enable ] || exit 0
$(sed -n 's/^ExecStart=//p' "HERE/etc/systemd/system/${*: -1}")
"""


def user_data(**given: object) -> list[tuple[str, str]]:
    """The user data's parts: content type and text."""
    stack = Stack(template("nodegroup.yaml"), {**GIVEN, **given})
    message = email.message_from_string(stack.property("NodeLaunchTemplate", "LaunchTemplateData", "UserData"))
    assert message.is_multipart()
    return [(part.get_content_type(), str(part.get_payload())) for part in message.get_payload()]


@dataclass
class Node:
    """A node with folders of its own, and its links in a file."""

    here: Path
    patience: int = 60  # s, in place of the unit's

    def first_start(self, **given: object) -> subprocess.CompletedProcess[str]:
        """Run the user data's script as cloud-init does, once."""
        kind, script = user_data(**given)[1]
        assert kind == "text/x-shellscript"
        assert "multus-enis $# 900\n" in script
        for folder in ("/etc/systemd", "/usr/local/sbin"):
            script = script.replace(folder, f"{self.here}{folder}")
        return self.run(["bash", "-c", script.replace("$# 900", f"$# {self.patience}")])

    def next_start(self, links: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Start the unit again, the links having got these names."""
        self.boot_with(links, up=[*links])
        return self.run(self.section(f"system/{UNIT}", "Service")["execstart"].split())

    def boot_with(self, links: dict[str, str], *, up: Sequence[str] = ("ens5",)) -> None:
        """The kernel has these links."""
        state = {name: {"mac": mac, "up": name in up, "addresses": 1} for name, mac in links.items()}
        (self.here / "links").write_text(json.dumps(state))

    def trouble(self, *, refused: int = 0, renamed: bool = False) -> None:
        """So many settings of a link are refused; a link is called otherwise when it is up."""
        (self.here / "faults").write_text(json.dumps({"refused": refused, "renamed": renamed}))

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run it with the stand-ins before the system's programs."""
        path = f"{self.here}/bin:{os.environ['PATH']}"
        return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False)

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The links as they are now."""
        return dict(json.loads((self.here / "links").read_text()))

    @property
    def links(self) -> dict[str, str]:
        """The MAC address of each link."""
        return {name: link["mac"] for name, link in self.state.items()}

    @property
    def up(self) -> set[str]:
        """The links that are up."""
        return {name for name, link in self.state.items() if link["up"]}

    def section(self, file: str, name: str) -> dict[str, str]:
        """A section of a file below /etc/systemd."""
        parsed = configparser.ConfigParser(delimiters="=", interpolation=None)
        assert parsed.read(self.here / "etc/systemd" / file), file
        return dict(parsed[name])

    @property
    def did(self) -> list[str]:
        """The calls of systemctl and networkctl."""
        return (self.here / "did").read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    programs = {
        "curl": CURL,
        "ip": IP.format(python=sys.executable, here=tmp_path),
        "networkctl": f'#!/bin/bash\necho "networkctl $*" >> {tmp_path}/did\n',
        "sleep": "#!/bin/bash\n",
        "systemctl": SYSTEMCTL.replace("HERE", str(tmp_path)),
        "udevadm": "#!/bin/bash\n",
    }
    for folder in ("bin", "etc/systemd/system", "etc/systemd/network", "usr/local/sbin"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    made = Node(tmp_path)
    made.boot_with(LINKS)
    made.trouble()
    return made


def test_nodeadm_is_told_of_the_cluster() -> None:
    kind, text = user_data()[0]
    assert kind == "application/node.eks.aws"
    assert yaml.safe_load(text) == {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": "lab",
                "apiServerEndpoint": "https://lab.eks.amazonaws.com",
                "certificateAuthority": "Q0E=",
                "cidr": "10.100.0.0/16",
            },
            "kubelet": {"flags": ["--node-labels=multus=true"], "config": {"maxPods": 30}},
        },
    }


def test_ec2_takes_the_user_data() -> None:
    """At most 16 KB ("User data and the EC2 instance")."""
    stack = Stack(template("nodegroup.yaml"), GIVEN)
    assert len(stack.property("NodeLaunchTemplate", "LaunchTemplateData", "UserData").encode()) < 16_384


# Names ---------------------------------------------------------------------------------------------------------------


def test_the_enis_are_named_by_device_index(node: Node) -> None:
    done = node.first_start()
    assert (done.returncode, done.stderr) == (0, "")
    assert (node.links, node.up) == (NAMED, {"ens5", "eth1", "eth2"})


def test_the_enis_get_no_addresses(node: Node) -> None:
    node.first_start()
    assert {name: link["addresses"] for name, link in node.state.items()} == {"ens5": 1, "eth1": 0, "eth2": 0}
    for name, mac in (("eth1", FIRST), ("eth2", SECOND)):
        file = f"network/10-multus-{name}.network"
        assert node.section(file, "Match") == {"permanentmacaddress": mac}
        assert node.section(file, "Link") == {"mtubytes": "9001", "requiredforonline": "no"}
        assert node.section(file, "Network") == {"dhcp": "no", "linklocaladdressing": "no", "ipv6acceptra": "no"}
    assert node.did.count("networkctl reload") == 2
    assert {path.suffix for path in (node.here / "etc/systemd/network").iterdir()} == {".network"}, (
        "no .link: udev races"
    )


@pytest.mark.parametrize(
    "links",
    [
        LINKS,
        NAMED,
        {"ens5": PRIMARY, "eth1": SECOND, "eth2": FIRST},
        {"ens5": PRIMARY, "m020000000007": SECOND, "eth0": FIRST},
    ],
    ids=["by their slots", "already right", "each other's", "half-way"],
)
def test_they_have_the_same_names_after_each_start(node: Node, links: dict[str, str]) -> None:
    node.first_start()
    done = node.next_start(links)
    assert (done.returncode, done.stderr) == (0, "")
    assert (node.links, node.up) == (NAMED, {"ens5", "eth1", "eth2"})
    assert node.did.count("networkctl reload") == 2, "the same files are not written again"


@pytest.mark.parametrize("trouble", [{"refused": 1}, {"refused": 5}, {"renamed": True}], ids=str)
def test_what_fails_for_a_while_is_tried_again(node: Node, trouble: dict[str, int]) -> None:
    node.trouble(**trouble)  # type: ignore[arg-type]
    done = node.first_start()
    assert (done.returncode, done.stderr) == (0, "")
    assert (node.links, node.up) == (NAMED, {"ens5", "eth1", "eth2"})


# Failures, and the kubelet -------------------------------------------------------------------------------------------


def check_the_kubelet_stays_down(node: Node, done: subprocess.CompletedProcess[str]) -> None:
    """It needs the unit, which is of the kind that is started once its command has succeeded, and it has not."""
    needs = node.section("system/kubelet.service.d/10-multus-enis.conf", "Unit")
    assert needs == {"requires": UNIT, "after": UNIT}  # systemd.unit(5): both, or it would start beside it
    assert done.returncode != 0
    assert node.did[0] == "systemctl daemon-reload"


def test_the_kubelet_needs_the_unit_at_each_start(node: Node) -> None:
    node.first_start()
    needs = node.section("system/kubelet.service.d/10-multus-enis.conf", "Unit")
    assert needs == {"requires": UNIT, "after": UNIT}
    service = node.section(f"system/{UNIT}", "Service")
    assert (service["type"], service["remainafterexit"], service["timeoutstartsec"]) == ("oneshot", "yes", "infinity")
    assert node.section(f"system/{UNIT}", "Install") == {"wantedby": "multi-user.target"}
    assert [line for line in node.did if "systemctl" in line] == [
        "systemctl daemon-reload",
        f"systemctl enable --now {UNIT}",
    ]


def test_it_waits_as_long_as_the_launch_hook_does() -> None:
    hook = template("nodegroup.yaml")["Resources"]["NodeGroupA"]["Properties"]["LifecycleHookSpecificationList"][0]
    assert f"multus-enis $# {hook['HeartbeatTimeout']}\n" in user_data()[1][1]


def test_a_node_that_misses_an_eni_says_which(node: Node) -> None:
    node.patience = 0
    done = node.first_start(MultusSubnetsA=[*SUBNETS, "subnet-3"])
    assert done.stderr == "no ENI at device index 3\n"
    check_the_kubelet_stays_down(node, done)


def test_a_node_whose_enis_cannot_be_renamed(node: Node) -> None:
    node.patience = 0
    node.trouble(refused=1000)
    done = node.first_start()
    assert done.stderr == "RTNETLINK answers: Device or resource busy\n"
    check_the_kubelet_stays_down(node, done)


def test_a_name_that_another_link_keeps(node: Node) -> None:
    node.patience = 0
    node.boot_with({**LINKS, "eth2": "02:00:00:00:00:99"})
    done = node.first_start()
    assert done.stderr == "RTNETLINK answers: File exists\n"
    check_the_kubelet_stays_down(node, done)


def test_an_eni_that_the_kernel_does_not_have(node: Node) -> None:
    node.patience = 0
    node.boot_with({"ens5": PRIMARY, "ens7": FIRST})
    done = node.first_start()
    assert f"no link has {SECOND}\n" in done.stderr
    check_the_kubelet_stays_down(node, done)


def test_a_node_without_imds(node: Node) -> None:
    node.patience = 0
    (node.here / "bin/curl").write_text("#!/bin/bash\nexit 28\n")
    done = node.first_start()
    assert done.stderr == "no answer from IMDS\n"
    check_the_kubelet_stays_down(node, done)


def test_a_node_whose_script_could_not_be_written(node: Node) -> None:
    shutil.rmtree(node.here / "usr")
    check_the_kubelet_stays_down(node, node.first_start())


# The kernel's own rules ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")
def test_links_that_are_each_others_in_a_real_kernel(node: Node) -> None:
    """In a network namespace of its own, both links up."""
    node.first_start()
    (node.here / "bin/ip").unlink()
    command = node.section(f"system/{UNIT}", "Service")["execstart"]
    made = "".join(
        f"ip link add {name} address {mac} type veth peer name p{name} && ip link set {name} up && "
        f"ip link set p{name} up && "
        for name, mac in (("eth1", SECOND), ("eth2", FIRST))
    )
    done = node.run(["unshare", "--net", "bash", "-c", f"{made}{command} && ip -o link show up"])
    assert (done.returncode, done.stderr) == (0, "")
    found = {
        line.split(": ")[1].partition("@")[0]: line.split()[line.split().index("link/ether") + 1]
        for line in done.stdout.splitlines()
    }
    assert {name: found[name] for name in found if name.startswith("e")} == {"eth1": FIRST, "eth2": SECOND}
