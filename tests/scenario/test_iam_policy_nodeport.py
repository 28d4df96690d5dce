"""The same of the nodeport modes: two nodes under the printed policy, and one that lacks an action."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest

from lab.lab import Lab
from tests.scenario.nodeport_support import TAG, WORKERS, Nodes, running, take
from tests.scenario.support import eni, point, set_check, until
from tests.scenario.test_iam_policy import enforce, scope, without
from vipmanager import iam
from vipmanager.config import Config, load

pytestmark = pytest.mark.namespaces

NO_IMDS = {"AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True)
class Mode:
    """A mode with everything that can float in it, between two workers."""

    name: str
    workers: str
    floating: str
    settings: dict[str, str] = field(default_factory=dict)

    def config(self, names: str) -> Config:
        """The settings as the process reads them."""
        return load({"FloatingMode": self.name, "FLOATING_IP": names, **self.settings})

    @property
    def operations(self) -> tuple[str, ...]:
        """What the policy allows, whichever Elastic IP and IPv6 address it is."""
        examples = {"eip": "eipalloc-0123456789abcdef0", "address6": "fd12::80"}
        return iam.operations(self.config(self.floating.format(**examples)), "nodeport")


MODES = {
    mode.name: mode
    for mode in (
        Mode("address", "ac", "10.10.1.80,{address6},{eip}"),
        Mode("route", "ab", "192.168.0.80,fd12::80,{eip}"),
        Mode("eni", "ac", "10.10.1.80,{address6},{eip}"),
        Mode("subnet", "ab", "10.20.0.5,{eip}", {"FloatingSubnetCidr": "10.20.0.0/28"}),
    )
}


@pytest.fixture(scope="module")
def one_lab() -> Iterator[Lab]:
    """Workers a and c in one zone, b in another."""
    with Lab(workers=WORKERS, internet=True, kube=True) as made:
        yield made


@pytest.fixture
def lab(one_lab: Lab) -> Iterator[Lab]:
    """Left without policies, and with the VPC's first CIDR only."""
    yield one_lab
    for worker in one_lab.workers:
        one_lab.ec2.policies.detach_all(one_lab.env(worker)["AWS_ACCESS_KEY_ID"])
    for association, _ in one_lab.ec2.state().vpcs[one_lab.vpc_id].cidrs[1:]:
        one_lab.ec2.admin().disassociate_vpc_cidr_block(AssociationId=association)


def deployment(lab: Lab, mode: Mode) -> Any:
    """The Deployment, not yet started."""
    return running(lab, mode.workers, FloatingMode=mode.name, FLOATING_IP=mode.floating, **mode.settings)


def policy(lab: Lab, nodes: Nodes, mode: Mode) -> dict[str, Any]:
    """What `vipmanager iam-policy nodeport` prints for it."""
    return iam.policy(mode.config(",".join(nodes.names)), "nodeport", scope(lab))


# with exactly the printed policy


@pytest.mark.parametrize("mode", MODES.values(), ids=lambda mode: mode.name)
def test_two_nodes_need_the_printed_policy_and_no_more(lab: Lab, mode: Mode) -> None:
    """Started on nothing, then handed over; nothing is refused, and packets arrive."""
    with deployment(lab, mode) as nodes:
        holder, other = mode.workers
        run = nodes.launch("iam-policy", "nodeport", worker=holder)
        assert run.ends() == 0
        document = json.loads(run.text)
        assert document == policy(lab, nodes, mode)
        for worker in mode.workers:
            enforce(lab, worker, document)
        mark = lab.ec2.mark()
        nodes.start(holder)
        nodes.wait_holder(holder)
        nodes.assert_only(holder)
        nodes.start(other)
        nodes.wait_standby(other, holder)
        nodes.stop(holder)
        nodes.wait_holder(other)
        nodes.assert_only(other)
        calls = lab.ec2.calls_since(mark)
        assert not [call for call in calls if call.error == "UnauthorizedOperation"], nodes.logs()
        assert {call.action for call in calls if call.service == "ec2"} <= set(mode.operations)


@pytest.mark.parametrize("mode", MODES.values(), ids=lambda mode: mode.name)
def test_under_the_policy_for_doctor_it_finds_nothing_to_allow(lab: Lab, mode: Mode) -> None:
    """While nothing is there yet, on the holder, and on the other node."""
    with deployment(lab, mode) as nodes:
        holder = mode.workers[0]
        document = iam.policy(mode.config(",".join(nodes.names)), "nodeport", scope(lab), doctor=True)
        for worker in mode.workers:
            enforce(lab, worker, document)
        before = findings_of_iam(nodes, holder)
        assert set(before.values()) == {"ok"}, before
        nodes.start(holder)
        nodes.wait_holder(holder)
        for worker in mode.workers:
            found = findings_of_iam(nodes, worker)
            assert set(found.values()) == {"ok"}, found
            asked = {name for name in mode.operations if name not in (*iam.PERMISSION_ONLY, "AssociateVpcCidrBlock")}
            assert found.keys() == {f"IAM ec2:{name}" for name in asked}


def findings_of_iam(nodes: Nodes, worker: str) -> dict[str, str]:
    """What doctor says of each operation on a node: its verdict; those that it did not ask about are left out."""
    run = nodes.launch("doctor", "nodeport", "--json", worker=worker)
    assert run.ends() == 0, run.text
    found = json.loads(run.text)["findings"]
    of_iam = (each for each in found if each["check"].startswith("IAM ec2:"))
    return {each["check"]: each["verdict"] for each in of_iam if "not asked" not in each["seen"]}


# with one action less


class World:
    """What a node finds, such that it needs a certain call."""

    def __init__(self, lab: Lab, nodes: Nodes) -> None:
        self.lab, self.nodes, self.admin = lab, nodes, lab.ec2.admin()

    def tagged(self, kind: str) -> list[dict[str, Any]]:
        """The tag of what floats."""
        return [{"ResourceType": kind, "Tags": [{"Key": TAG, "Value": ",".join(self.nodes.names)}]}]

    def floating_eni(self, subnet: str, worker: str = "") -> None:
        """A floating ENI that has none of the addresses, on a worker or detached."""
        made = self.admin.create_network_interface(
            SubnetId=subnet, TagSpecifications=self.tagged("network-interface"), Groups=self._groups()
        )
        if worker:
            instance = self.lab.workers[worker].instance_id
            name = made["NetworkInterface"]["NetworkInterfaceId"]
            self.admin.attach_network_interface(NetworkInterfaceId=name, InstanceId=instance, DeviceIndex=4)

    def floating_subnet(self, zone: str) -> str:
        """The subnet of mode `subnet`."""
        cidr = str(self.nodes.settings["FloatingSubnetCidr"])
        self.admin.associate_vpc_cidr_block(VpcId=self.lab.vpc_id, CidrBlock=cidr)
        made = self.admin.create_subnet(
            VpcId=self.lab.vpc_id,
            CidrBlock=cidr,
            AvailabilityZone=zone,
            TagSpecifications=self.tagged("subnet"),
        )
        return str(made["Subnet"]["SubnetId"])

    def _groups(self) -> list[str]:
        return list(dict(self.lab.ec2.state().enis[eni(self.lab, "a", 0)].groups))

    # what a is to find

    def nothing(self) -> None:
        """Nothing is there yet."""

    def held(self) -> None:
        """Another node's ENI has the IPv6 address."""
        take(self.lab, "c", next(name for name in self.nodes.addresses if ":" in name))

    def routed(self) -> None:
        """One table routes to another node, and the check of a's ENI is on."""
        point(self.lab, str(ip_network(self.nodes.addresses[0])), eni(self.lab, "b", 0), self.lab.route_table_ids[:1])
        set_check(self.lab, eni(self.lab, "a", 0), True)

    def eni_elsewhere(self) -> None:
        """The floating ENI is on c, without addresses."""
        self.floating_eni(self.lab.ec2.state().enis[eni(self.lab, "a", 0)].subnet_id, "c")

    def subnet_here(self) -> None:
        """The floating subnet is in a's zone, with an ENI without addresses."""
        self.floating_eni(self.floating_subnet("us-east-2a"))

    def subnet_elsewhere(self) -> None:
        """The floating subnet is in b's zone, with an ENI on b."""
        self.floating_eni(self.floating_subnet("us-east-2b"), "b")


FOUND: dict[str, dict[str, Callable[[World], None]]] = {
    "address": {"UnassignIpv6Addresses": World.held},
    "route": {"ReplaceRoute": World.routed, "ModifyNetworkInterfaceAttribute": World.routed},
    "eni": dict.fromkeys(
        ("AssignIpv6Addresses", "AssignPrivateIpAddresses", "DescribeInstances", "DetachNetworkInterface"),
        World.eni_elsewhere,
    ),
    "subnet": {
        "AssignPrivateIpAddresses": World.subnet_here,
        **dict.fromkeys(
            ("DeleteNetworkInterface", "DeleteSubnet", "DescribeInstances", "DetachNetworkInterface"),
            World.subnet_elsewhere,
        ),
    },
}
"""Mode → operation → what makes it necessary; else nothing is there."""

MISSING = [(mode, operation) for mode in MODES.values() for operation in mode.operations]


@pytest.mark.parametrize(("mode", "operation"), MISSING, ids=lambda value: getattr(value, "name", value))
def test_a_node_names_the_action_that_is_missing(lab: Lab, mode: Mode, operation: str) -> None:
    """In its log, and it goes on."""
    with deployment(lab, mode) as nodes:
        FOUND[mode.name].get(operation, World.nothing)(World(lab, nodes))
        enforce(lab, "a", without(policy(lab, nodes, mode), f"ec2:{operation}"))
        without_imds = operation in ("DescribeRouteTables", "DescribeSubnets")
        nodes.start("a", env=NO_IMDS if without_imds else {})
        named = nodes.runs["a"].wait_mention(f"not authorized to perform: ec2:{operation} ", "allow ec2:")
        assert named["event"] == "failed"
        if operation == "DescribeInstances":  # only tells whether force is needed
            nodes.wait_holder("a")
        elif operation in ("AssociateAddress", "DescribeAddresses"):  # what concerns the Elastic IP only
            until(lambda: _delivered(nodes) == set(nodes.addresses), nodes.logs)
        assert nodes.runs["a"].container.poll() is None


def _delivered(nodes: Nodes) -> set[str]:
    return {item["name"] for item in nodes.status("a").get("floating", ()) if item["state"] == "delivered"}
