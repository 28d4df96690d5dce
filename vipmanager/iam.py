"""The least IAM policy for some settings and a mode. Pure: settings in, JSON documents out.

Which resources and condition keys EC2 knows for an action: Service Authorization Reference, "Actions, resources, and
condition keys for Amazon EC2". Describes know no resource, elastic IPs and instances no `ec2:Vpc`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from vipmanager.config import Config
from vipmanager.floating import FloatingMode
from vipmanager.model_node import FLOATING_TAG
from vipmanager.parsers import TagSelector

MAX_SIZE = 6144
"""Characters of a managed policy, white space not counted (IAM User Guide, "IAM and AWS STS quotas")."""

DISCOVERY = ("DescribeNetworkInterfaces", "DescribeRouteTables", "DescribeSubnets")
"""Where IMDS cannot be reached, which no setting rules out, the ENIs and the VPC's CIDRs come from these."""

ASSIGN6 = ("AssignIpv6Addresses", "UnassignIpv6Addresses")
"""IPv6 knows no reassignment: it is taken from its holder first, in an init run too."""

DOCTOR_OPERATIONS = ("DescribeInstanceTypes", "DescribeInstances")
"""What only `vipmanager doctor` calls besides, and can do without."""

PERMISSION_ONLY = frozenset({"CreateTags"})
"""Never called: IAM asks for it where something is made with tags (EC2 user guide, "Grant permission to tag")."""

FLOATING_ENI = (
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "CreateTags",
    "DescribeInstances",
    "DetachNetworkInterface",
)
FLOATING_SUBNET = (
    "AssociateVpcCidrBlock",
    "CreateSubnet",
    "DeleteNetworkInterface",
    "DeleteSubnet",
    "DescribeVpcs",
    "ModifyNetworkInterfaceAttribute",
)

ROUTES = frozenset({"CreateRoute", "DeleteRoute", "ReplaceRoute"})
ENIS = frozenset(
    {
        "AssignIpv6Addresses",
        "AssignPrivateIpAddresses",
        "AssociateAddress",
        "AttachNetworkInterface",
        "DeleteNetworkInterface",
        "DetachNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
        "UnassignIpv6Addresses",
        "UnassignPrivateIpAddresses",
    }
)
"""For these IAM asks of a network interface that is there."""

Document = dict[str, Any]
Condition = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Scope:
    """Where the policy holds. What is not known is a placeholder, to be replaced by hand."""

    region: str = "REGION"
    account: str = "ACCOUNT"
    vpc: str = "VPC"

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Those that are still to be replaced."""
        default = Scope()
        both = ((self.region, default.region), (self.account, default.account), (self.vpc, default.vpc))
        return tuple(word for value, word in both if value == word)

    @property
    def partition(self) -> str:
        """The first part of an ARN that is always the same, by region (AWS General Reference, "ARNs")."""
        prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
        return next((name for prefix, name in prefixes.items() if self.region.startswith(prefix)), "aws")

    def arn(self, kind: str, name: str = "*", account: str = "") -> str:
        """The ARN of a resource of EC2."""
        return f"arn:{self.partition}:ec2:{self.region}:{account or self.account}:{kind}/{name}"


class Grant(NamedTuple):
    """What one statement allows its actions on."""

    sid: str
    resources: tuple[str, ...]
    condition: Condition = MappingProxyType({})


def operations(config: Config, mode: str) -> tuple[str, ...]:
    """The operations of EC2 that these settings can ever call in this mode ("init", "sidecar" or "nodeport"), sorted.

    PERMISSION_ONLY among them are asked for by IAM, not called. A sidecar whose settings are changed within its pod's
    life also takes back what the old ones placed.
    """
    found = _node(config) if mode == "nodeport" else _pod(config, sidecar=mode == "sidecar")
    return tuple(sorted(found))


def role_operations(config: Config, mode: str) -> tuple[str, ...]:
    """Those of them that RouteTableRole makes; none without that setting."""
    return tuple(name for name in operations(config, mode) if config.route_table_role and "Route" in name)


def _pod(config: Config, *, sidecar: bool) -> set[str]:
    found = {*DISCOVERY}
    if config.assign is not False:
        found |= {"AssignPrivateIpAddresses", *ASSIGN6}
        found |= {"UnassignPrivateIpAddresses"} if sidecar else set()
        found |= {"AssociateAddress", "DescribeAddresses"} if config.eips else set()
    if config.assign is not True:
        found |= {"CreateRoute", "ReplaceRoute"}
        found |= {"DeleteRoute"} if sidecar else set()
        found |= {"ModifyNetworkInterfaceAttribute"} if config.disable_source_dest_check else set()
    return found


def _node(config: Config) -> set[str]:
    floating, mode = config.floating, config.floating_mode
    found = {*DISCOVERY}
    ipv6 = any(address.version == 6 for address in floating.addresses)
    if floating.eips:
        found |= {"AssociateAddress", "DescribeAddresses"}
    if mode is FloatingMode.ROUTE:
        found |= {"CreateRoute", "ReplaceRoute"} if floating.addresses else set()
        checked = floating.addresses and config.disable_source_dest_check
        return found | ({"ModifyNetworkInterfaceAttribute"} if checked else set())
    found |= {"AssignPrivateIpAddresses"} if floating.ipv4 else set()
    if mode is FloatingMode.ADDRESS:
        return found | (set(ASSIGN6) if ipv6 else set())
    found |= {"AssignIpv6Addresses"} if ipv6 else set()  # never taken from another ENI: it is made with ours
    return found | {*FLOATING_ENI} | ({*FLOATING_SUBNET} if mode is FloatingMode.SUBNET else set())


def policy(config: Config, mode: str, scope: Scope, *, doctor: bool = False) -> Document:
    """The policy of the role that vipmanager runs with; `doctor`: and what only `vipmanager doctor` reads.

    Elastic IPs are named, unless there are so many that IAM would not take the policy.
    """
    names = set(operations(config, mode)) - set(role_operations(config, mode))
    names |= set(DOCTOR_OPERATIONS) if doctor else set()
    # A VPC that is shared, and its subnets, are another account's; which one's does not matter, as its id is unique.
    writer = _Writer(config, mode, scope, owner="*" if config.route_table_role else scope.account)
    document = writer.document(names)
    return document if size(document) <= MAX_SIZE else replace(writer, all_eips=True).document(names)


def role_policy(config: Config, mode: str, scope: Scope) -> Document | None:
    """The policy of RouteTableRole, in whose account the VPC and its route tables are; None without that setting."""
    if not config.route_table_role:
        return None
    owner = config.route_table_role.split(":")[4]
    there = replace(config, route_table_role="")
    return _Writer(there, mode, replace(scope, account=owner), owner).document(role_operations(config, mode))


def size(document: Document) -> int:
    """The characters of a policy as IAM counts them, at most: blanks inside of values are counted here."""
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


@dataclass(frozen=True)
class _Writer:
    """What the statements of a policy are made of. `owner` is the account of the VPC."""

    config: Config
    mode: str
    scope: Scope
    owner: str
    all_eips: bool = False

    def document(self, names: Collection[str]) -> Document:
        """The policy that allows these operations: a statement for each grant that some of them need."""
        statements = [
            _statement(grant, sorted(f"ec2:{name}" for name in needing & set(names)))
            for grant, needing in self._grants(names)
            if needing & set(names)
        ]
        if self.config.route_table_role:
            statements.append(_statement(Grant("AssumeRole", (self.config.route_table_role,)), ["sts:AssumeRole"]))
        return {"Version": "2012-10-17", "Statement": statements}

    def _grants(self, names: Collection[str]) -> Iterator[tuple[Grant, frozenset[str]]]:
        """Each grant with the operations that need it. One operation may need several: IAM asks for each resource."""
        arn, vpc = self.scope.arn, {"ArnEquals": {"ec2:Vpc": self.scope.arn("vpc", self.scope.vpc, self.owner)}}
        yield Grant("Look", ("*",)), frozenset(name for name in names if name.startswith("Describe"))
        yield (
            Grant("RouteTables", (arn("route-table"),), _merged(vpc, _tag_conditions(self.config.route_tables))),
            ROUTES,
        )
        yield Grant("ElasticIps", self._elastic_ips()), frozenset({"AssociateAddress"})
        if self.mode == "nodeport" and self.config.floating_mode in (FloatingMode.ENI, FloatingMode.SUBNET):
            yield from self._floating_grants(vpc)
        else:
            yield Grant("NetworkInterfaces", (arn("network-interface"),), vpc), ENIS

    def _floating_grants(self, vpc: Condition) -> Iterator[tuple[Grant, frozenset[str]]]:
        """What is made carries the tag from the start, and only that is changed; no other may be given the tag."""
        arn, owner = self.scope.arn, self.owner
        eni, subnet = arn("network-interface"), arn("subnet", account=owner)
        ours = {"StringEquals": {f"aws:ResourceTag/{FLOATING_TAG}": str(self.config.floating)}}
        asked = {"StringEquals": {f"aws:RequestTag/{FLOATING_TAG}": str(self.config.floating)}}
        follows = self.config.floating_mode is FloatingMode.SUBNET
        made = ["CreateNetworkInterface", "CreateSubnet"] if follows else ["CreateNetworkInterface"]
        yield Grant("FloatingInterface", (eni,), _merged(vpc, ours)), ENIS
        yield Grant("Instances", (arn("instance"),)), frozenset({"AttachNetworkInterface", "DetachNetworkInterface"})
        yield Grant("NewInterface", (eni,), asked), frozenset({"CreateNetworkInterface"})
        groups = arn("security-group", account=owner)
        beside = (groups,) if follows else (groups, subnet)
        yield Grant("NewInterfaceIn", beside, vpc), frozenset({"CreateNetworkInterface"})
        if follows:
            within = frozenset({"CreateNetworkInterface", "DeleteSubnet"})
            yield Grant("FloatingSubnet", (subnet,), _merged(vpc, ours)), within
            yield Grant("NewSubnet", (subnet,), asked), frozenset({"CreateSubnet"})
            yield (
                Grant("Vpc", (arn("vpc", self.scope.vpc, owner),)),
                frozenset({"AssociateVpcCidrBlock", "CreateSubnet"}),
            )
        tagged = (eni, subnet) if follows else (eni,)
        yield Grant("TagWhatIsMade", tagged, {"StringEquals": {"ec2:CreateAction": made}}), PERMISSION_ONLY

    def _elastic_ips(self) -> tuple[str, ...]:
        bound = (eip for by_address in self.config.eips.values() for eip in by_address.values())
        named = self.config.floating.eips if self.mode == "nodeport" else tuple(sorted(bound))
        return tuple(self.scope.arn("elastic-ip", eip) for eip in (("*",) if self.all_eips else named))


def _statement(grant: Grant, actions: Sequence[str]) -> Document:
    """Lists of one are written without brackets but for Action's."""
    resource = grant.resources[0] if len(grant.resources) == 1 else list(grant.resources)
    statement: Document = {"Sid": grant.sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return {**statement, "Condition": grant.condition} if grant.condition else statement


def _tag_conditions(selector: TagSelector) -> Condition:
    """VPCRTTag as conditions: what it selects, they allow."""
    conditions: dict[str, dict[str, str]] = {}
    for key, value in selector.tags:
        if value is None:
            operator, wanted = "Null", "false"
        else:
            operator, wanted = ("StringLike" if {"*", "?"} & set(value) else "StringEquals"), value
        conditions.setdefault(operator, {})[f"aws:ResourceTag/{key}"] = wanted
    return conditions


def _merged(*conditions: Condition) -> Condition:
    """All of them; IAM joins operators, and the keys of one, by AND."""
    merged: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        for operator, wanted in condition.items():
            merged.setdefault(operator, {}).update(wanted)
    return merged
