"""What the settings of the nodeport mode mean: what floats, how, and what is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from vipmanager.model import Address


class FloatingMode(Enum):
    """How floating addresses follow the holder."""

    ADDRESS = "address"
    ROUTE = "route"
    ENI = "eni"
    SUBNET = "subnet"

    @property
    def moves_eni(self) -> bool:
        """Whether an ENI follows the holder, rather than addresses or routes."""
        return self in (FloatingMode.ENI, FloatingMode.SUBNET)


@dataclass(frozen=True)
class Floating:
    """What FLOATING_IP asks for: private addresses, and Elastic IPs by allocation id, each in the order given."""

    addresses: tuple[Address, ...] = ()
    eips: tuple[str, ...] = ()

    @property
    def ipv4(self) -> tuple[IPv4Address, ...]:
        """The IPv4 addresses; an Elastic IP can be bound to no other."""
        return tuple(address for address in self.addresses if isinstance(address, IPv4Address))

    def partners(self, mode: FloatingMode) -> Mapping[str, IPv4Address | None]:
        """Each Elastic IP and the floating address it is bound to; None means the holder's primary address."""
        private = self.ipv4 if mode is not FloatingMode.ROUTE else ()
        return {eip: private[k] if k < len(private) else None for k, eip in enumerate(self.eips)}

    def __str__(self) -> str:
        return ",".join([*map(str, self.addresses), *self.eips])


@dataclass(frozen=True)
class HealthCheck:
    """What is asked of the node: `kind` tcp, http or https; an empty `host` is the node's primary address."""

    kind: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}{self.path}"
