"""Which of EC2's operations any mode or command calls: the cut-down model is made of these.

A module of its own, because only the build and the tests need it. What a mode calls is told by vipmanager.iam, and a
test compares the two.
"""

OPERATIONS = (
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AssociateAddress",
    "AssociateVpcCidrBlock",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "CreateRoute",
    "CreateSubnet",
    "DeleteNetworkInterface",
    "DeleteRoute",
    "DeleteSubnet",
    "DescribeAddresses",
    "DescribeInstanceTypes",
    "DescribeInstances",
    "DescribeNetworkInterfaces",
    "DescribeRouteTables",
    "DescribeSubnets",
    "DescribeVpcs",
    "DetachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "ReplaceRoute",
    "UnassignIpv6Addresses",
    "UnassignPrivateIpAddresses",
)
