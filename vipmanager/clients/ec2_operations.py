"""Which of EC2's operations each mode may call: the cut-down model and the IAM policies are made of these.

A module of its own, because only the build and the tests need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from vipmanager.floating import FloatingMode

POD_OPERATIONS = (
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AssociateAddress",
    "CreateRoute",
    "DeleteRoute",
    "DescribeAddresses",
    "DescribeNetworkInterfaces",
    "DescribeRouteTables",
    "DescribeSubnets",
    "ModifyNetworkInterfaceAttribute",
    "ReplaceRoute",
    "UnassignIpv6Addresses",
    "UnassignPrivateIpAddresses",
)
"""What an init or sidecar run may call, and so what its IAM policy allows."""

_NODE = (
    "AssociateAddress",
    "DescribeAddresses",
    "DescribeNetworkInterfaces",
    "DescribeRouteTables",  # outside of `route` too: where IMDS cannot be reached, the VPC's CIDRs come from there
    "DescribeSubnets",
)
_ADDRESSES = ("AssignIpv6Addresses", "AssignPrivateIpAddresses", "UnassignIpv6Addresses")
_ENI = (
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "CreateTags",
    "DescribeInstances",
    "DetachNetworkInterface",
)

NODEPORT_OPERATIONS: Mapping[FloatingMode, tuple[str, ...]] = {
    FloatingMode.ADDRESS: (*_NODE, *_ADDRESSES),
    FloatingMode.ROUTE: (
        *_NODE,
        "CreateRoute",
        "ModifyNetworkInterfaceAttribute",
        "ReplaceRoute",
    ),
    FloatingMode.ENI: (*_NODE, "AssignIpv6Addresses", "AssignPrivateIpAddresses", *_ENI),
    FloatingMode.SUBNET: (
        *_NODE,
        *_ENI,
        "AssignPrivateIpAddresses",  # FloatingSubnetCidr is IPv4
        "AssociateVpcCidrBlock",
        "CreateSubnet",
        "DeleteNetworkInterface",
        "DeleteSubnet",
        "DescribeVpcs",
        "ModifyNetworkInterfaceAttribute",
    ),
}
"""What a nodeport process may call in each mode, and so what its IAM policy allows."""

DOCTOR_OPERATIONS = ("DescribeInstanceTypes", "DescribeInstances")
"""What only `vipmanager doctor` calls besides, and can do without."""

PERMISSION_ONLY = frozenset({"CreateTags"})
"""Never called: IAM asks for it where something is made with tags (EC2 user guide, "Grant permission to tag")."""

_ALL = {*POD_OPERATIONS, *chain(*NODEPORT_OPERATIONS.values()), *DOCTOR_OPERATIONS}

OPERATIONS = tuple(sorted(_ALL - PERMISSION_ONLY))
"""What any mode or command calls: the cut-down model."""
