"""`vipmanager free-ips`: addresses of a subnet that are on no ENI, for choosing a floating one."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from vipmanager.errors import CallError
from vipmanager.model import Address, EniDescription, Network, Subnet
from vipmanager.ports import FloatingEc2Port

RESERVED_AT_START = 4
"""Of each CIDR, both families: network, router, DNS, future use; and the last (VPC user guide, "Subnet sizing")."""


def free_addresses(subnet: Subnet, enis: Iterable[EniDescription], family: int, count: int) -> list[Address]:
    """The lowest `count` addresses of that IP version that nobody has; fewer where there are no more."""
    held = [(address, address) for eni in enis for address in eni.addresses]
    held += [(prefix[0], prefix[-1]) for eni in enis for prefix in eni.prefixes]
    taken = sorted((int(first), int(last)) for first, last in held if first.version == family)
    cidrs = sorted((cidr for cidr in subnet.cidrs if cidr.version == family), key=lambda cidr: int(cidr[0]))
    found: list[Address] = []
    for cidr in cidrs:
        for gap in _gaps(cidr, taken):
            found += (cidr[bits - int(cidr[0])] for bits in gap[: count - len(found)])
    return found


def _gaps(cidr: Network, taken: Iterable[tuple[int, int]]) -> Iterator[range]:
    """What lies between the reserved addresses and the ranges that are taken, which come in order."""
    start, last = int(cidr[0]) + RESERVED_AT_START, int(cidr[-1])
    for first, final in taken:
        if first >= last:
            break
        yield range(start, first)
        start = max(start, final + 1)
    yield range(start, last)


def run(ec2: FloatingEc2Port, subnet_id: str, family: int, count: int) -> int:
    """Print them, one a line; returns the exit code. What is wrong is said on standard error."""
    try:
        subnet = ec2.subnet(subnet_id)
        if subnet is None:
            return _fail(f"there is no subnet {subnet_id} in this account and region")
        if not any(cidr.version == family for cidr in subnet.cidrs):
            return _fail(f"{subnet_id} has no IPv{family} CIDR")
        found = free_addresses(subnet, ec2.enis_in_subnet(subnet_id), family, count)
    except CallError as error:
        return _fail(str(error))
    sys.stdout.writelines(f"{address}\n" for address in found)
    if len(found) < count:
        return _fail(f"{subnet_id} has {len(found)} free IPv{family} addresses, not {count}")
    return 0


def _fail(problem: str) -> int:
    sys.stderr.write(f"vipmanager: {problem}\n")
    return 1
