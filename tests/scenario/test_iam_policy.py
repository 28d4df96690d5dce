"""`vipmanager iam-policy`: where EC2 enforces what it prints all works; without one of its actions, that is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.support import (
    ONE_AZ,
    Run,
    assert_answers,
    eni,
    everywhere,
    holder,
    own_address6,
    point,
    start,
    targets,
    until,
    writes,
)
from vipmanager import iam
from vipmanager.config import load

pytestmark = pytest.mark.namespaces

ROUTED, ROUTED6 = "192.168.0.1", "fd12::1"
INSIDE = "10.10.11.77"
TAGGED = {"VPCRTTag": "floating=yes"}
SETTINGS = {"SubnetBasedLoopbacks": "True", "DeleteRoutesOnExit": "True", **TAGGED}
OPERATIONS = {
    mode: iam.operations(load({**SETTINGS, "Intf1EIPs": f"{INSIDE}=eipalloc-0123456789abcdef0"}), mode)
    for mode in ("init", "sidecar")
}
AT_THE_END = ("DeleteRoute", "UnassignPrivateIpAddresses")
"""What a sidecar calls when an address leaves, or when it is told to stop."""


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Workers a and c share an AZ, and so their ENIs' subnets; there is a host outside."""
    built = make_lab(workers=ONE_AZ, internet=True)
    for table in built.route_table_ids:
        built.ec2.admin().create_tags(Resources=[table], Tags=[{"Key": "floating", "Value": "yes"}])
    return built


class Everything:
    """A pod whose addresses need every operation there is, some of them held by worker c before."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.eip, self.public = lab.allocate_eip()
        self.inside6 = own_address6(lab, "a", 1, 0x77)
        cidr = ip_network(min(lab.floating_subnets))
        self.in_subnet, self.subnet = str(cidr[5]), str(cidr)
        lab.ec2.admin().assign_ipv6_addresses(NetworkInterfaceId=eni(lab, "c", 1), Ipv6Addresses=[self.inside6])
        point(lab, f"{ROUTED}/32", eni(lab, "c", 1), lab.route_table_ids[:1])
        self.settings = {**SETTINGS, "Intf1EIPs": f"{INSIDE}={self.eip}"}
        self.cidrs = {
            ROUTED: f"{ROUTED}/32",
            ROUTED6: f"{ROUTED6}/128",
            INSIDE: f"{INSIDE}/24",
            self.inside6: f"{self.inside6}/64",
            self.in_subnet: f"{self.in_subnet}/28",
        }
        self.pod = lab.pod("pod", "a", {"net1": list(self.cidrs.values())})

    def start(self, mode: str) -> Run:
        """Start vipmanager."""
        return start(self.pod, mode, **self.settings)

    def assert_delivered(self) -> None:
        """All addresses answer, and the Elastic IP."""
        assert_answers(self.lab, *self.cidrs)
        assert self.lab.internet.reach(self.public, count=5)

    def assert_routed(self) -> None:
        """The routes are there."""
        until(
            lambda: targets(self.lab, f"{ROUTED}/32") == everywhere(self.lab, eni(self.lab, "a", 1)),
            lambda: str(targets(self.lab, f"{ROUTED}/32")),
        )

    def assert_assigned(self) -> None:
        """The address of the ENI's own subnet is there."""
        until(lambda: holder(self.lab, INSIDE) == eni(self.lab, "a", 1), lambda: str(holder(self.lab, INSIDE)))


@pytest.fixture
def everything(lab: Lab) -> Everything:
    """One pod."""
    return Everything(lab)


def printed(pod: Pod, mode: str, settings: dict[str, str]) -> list[dict[str, Any]]:
    """The documents that `vipmanager iam-policy` prints in a pod, which finds its region, account and VPC itself."""
    run = start(pod, "iam-policy", mode, **settings)
    assert run.ends() == 0
    text, found = run.text, []
    while (begin := text.find("{\n")) >= 0:
        document, end = json.JSONDecoder().raw_decode(text[begin:])
        found.append(document)
        text = text[begin + end :]
    return found


def enforce(lab: Lab, worker: str, document: dict[str, Any]) -> None:
    """From now on the worker's key may do what the document allows."""
    lab.ec2.policies.attach(lab.env(worker)["AWS_ACCESS_KEY_ID"], document)


def scope(lab: Lab) -> iam.Scope:
    """Where the lab is."""
    return iam.Scope(lab.region, lab.ec2.account_id, lab.vpc_id)


def without(document: dict[str, Any], action: str) -> dict[str, Any]:
    """A policy that allows one action less."""
    kept = [
        {**each, "Action": [name for name in each["Action"] if name != action]}
        for each in document["Statement"]
        if each["Action"] != [action]
    ]
    return {**document, "Statement": kept}


def assert_allowed(lab: Lab, mark: int, run: Run, operations: tuple[str, ...]) -> None:
    """Nothing was refused, and everything that the policy allows was made use of."""
    calls = lab.ec2.calls_since(mark)
    assert not [call for call in calls if call.error == "UnauthorizedOperation"], run.text
    assert {call.action for call in calls if call.service == "ec2"} == set(operations)


# init


def test_an_init_run_needs_the_printed_policy_and_no_more(lab: Lab, everything: Everything) -> None:
    (document,) = printed(everything.pod, "init", everything.settings)
    assert document == iam.policy(load(everything.settings), "init", scope(lab))
    enforce(lab, "a", document)
    mark = lab.ec2.mark()
    run = everything.start("init")
    assert run.ends() == 0, run.text
    everything.assert_delivered()
    assert_allowed(lab, mark, run, OPERATIONS["init"])


@pytest.mark.parametrize("operation", OPERATIONS["init"])
def test_an_init_run_names_the_action_that_is_missing(lab: Lab, everything: Everything, operation: str) -> None:
    """And does what it may."""
    document = iam.policy(load(everything.settings), "init", scope(lab))
    enforce(lab, "a", without(document, f"ec2:{operation}"))
    run = everything.start("init")
    assert run.ends() == 1, run.text
    assert f"allow ec2:{operation} on " in run.text
    (everything.assert_assigned if concerns_routes(operation) else everything.assert_routed)()


def concerns_routes(operation: str) -> bool:
    """Whether addresses that are assigned do without it."""
    return "Route" in operation or operation in ("ModifyNetworkInterfaceAttribute", "DescribeSubnets")


# sidecar


def test_a_sidecar_needs_the_printed_policy_and_no_more(lab: Lab, everything: Everything) -> None:
    """Taking addresses, taking them back when they leave the pod, and what is released at its end."""
    (document,) = printed(everything.pod, "sidecar", everything.settings)
    enforce(lab, "a", document)
    mark = lab.ec2.mark()
    run = everything.start("sidecar")
    for address in everything.cidrs:
        run.wait("claimed", address=address)
    run.wait("bound", eip=everything.eip)
    everything.assert_delivered()
    for address in (ROUTED, everything.inside6):
        everything.pod.del_address("net1", everything.cidrs[address])
    until(lambda: not targets(lab, f"{ROUTED}/32"), run.text)
    until(lambda: holder(lab, everything.inside6) is None, run.text)
    assert run.stop() == 0
    assert holder(lab, INSIDE) is None
    assert not targets(lab, f"{ROUTED6}/128")
    assert_allowed(lab, mark, run, OPERATIONS["sidecar"])


@pytest.mark.parametrize("operation", OPERATIONS["sidecar"])
def test_a_sidecar_names_the_action_that_is_missing(lab: Lab, everything: Everything, operation: str) -> None:
    """And goes on with what it may."""
    document = iam.policy(load(everything.settings), "sidecar", scope(lab))
    enforce(lab, "a", without(document, f"ec2:{operation}"))
    run = everything.start("sidecar")
    if operation in AT_THE_END:
        for address in everything.cidrs:
            run.wait("claimed", address=address)
        assert run.stop() == 0
        assert f"allow ec2:{operation} on " in run.text
        return
    run.wait_mention(f"allow ec2:{operation} on ")
    (everything.assert_assigned if concerns_routes(operation) else everything.assert_routed)()
    assert run.stop() == 0


# the role for route tables


def test_the_role_for_route_tables_needs_the_second_document(lab: Lab, everything: Everything) -> None:
    role = f"arn:aws:iam::{lab.ec2.account_id}:role/tables"
    everything.settings["RouteTableRole"] = role
    own, routes = printed(everything.pod, "init", everything.settings)
    enforce(lab, "a", own)
    lab.ec2.policies.attach(role, routes)
    run = everything.start("init")
    assert run.ends() == 0, run.text
    everything.assert_delivered()


@pytest.mark.parametrize(
    ("action", "resource"),
    [("sts:AssumeRole", "the role that this pod uses"), ("ec2:CreateRoute", "role/tables")],
)
def test_whose_policy_lacks_an_action_is_said(lab: Lab, everything: Everything, action: str, resource: str) -> None:
    role = f"arn:aws:iam::{lab.ec2.account_id}:role/tables"
    everything.settings["RouteTableRole"] = role
    config = load(everything.settings)
    routes = iam.role_policy(config, "init", scope(lab))
    assert routes is not None
    enforce(lab, "a", without(iam.policy(config, "init", scope(lab)), action))
    lab.ec2.policies.attach(role, without(routes, action))
    run = everything.start("init")
    assert run.ends() == 1, run.text
    assert [each for each in run.mentions(f"allow {action} on ") if resource in json.dumps(each)], run.text
    everything.assert_assigned()


# what is out of scope


def test_a_table_without_the_tag_is_refused(lab: Lab, everything: Everything) -> None:
    """By the very policy under which a run succeeds; the other tables are written."""
    enforce(lab, "a", iam.policy(load(everything.settings), "init", scope(lab)))
    untagged = lab.route_table_ids[-1]
    lab.ec2.admin().delete_tags(Resources=[untagged], Tags=[{"Key": "floating"}])
    everything.settings["VPCRTTag"] = "ALL"
    run = everything.start("init")
    assert run.ends() == 1
    assert run.mentions("not authorized to perform: ec2:CreateRoute", untagged)
    written = {table for table in lab.route_table_ids if table != untagged}
    assert set(targets(lab, f"{ROUTED}/32")) == written


def test_in_another_vpc_nothing_is_written(lab: Lab, everything: Everything) -> None:
    elsewhere = iam.Scope(lab.region, lab.ec2.account_id, "vpc-0")
    enforce(lab, "a", iam.policy(load(everything.settings), "init", elsewhere))
    mark = lab.ec2.mark()
    run = everything.start("init")
    assert run.ends() == 1
    tried = writes(lab.ec2.calls_since(mark))
    assert {call.error for call in tried} == {"UnauthorizedOperation"}
    assert {call.action for call in tried} >= {"CreateRoute", "AssignPrivateIpAddresses", "UnassignIpv6Addresses"}
