"""The quotas of the account that the lab enforces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class AddressLimit:
    """How many addresses an ENI may hold, the primary one counted, as in "IP addresses per network interface"."""

    ipv4: int = 15
    ipv6: int = 15


@dataclass(frozen=True)
class Quotas:
    """`routes_per_table` counts non-propagated, non-local routes, each family apart.

    EC2's default was 50 until June 2025, and is 500 since; it is a quota of the account's, so that either is found.
    What instance types allow is in the EC2 user guide, "Maximum IP addresses per network interface".
    """

    routes_per_table: int = 50
    addresses: AddressLimit = AddressLimit()  # of an instance type that is not in `by_type`, and of an ENI on its own
    by_type: Mapping[str, AddressLimit] = field(
        default_factory=lambda: MappingProxyType({"t3.micro": AddressLimit(2, 2), "t3.large": AddressLimit(12, 12)})
    )

    enis: int = 4  # on one instance, device index 0 counted; of an instance type that is not in `enis_by_type`
    enis_by_type: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({"t3.micro": 2, "t3.large": 3, "m5.xlarge": 4})
    )

    def enis_of(self, instance_type: str) -> int:
        """How many ENIs an instance of that type may have."""
        return self.enis_by_type.get(instance_type, self.enis)

    def addresses_of(self, instance_type: str | None) -> AddressLimit:
        """The limit of an ENI on that instance type; None: not attached."""
        return self.by_type.get(instance_type or "", self.addresses)
