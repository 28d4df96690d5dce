"""`ec2_worlds` with instances, Elastic IPs and what changes in steps, for the suite of the floating EC2 port."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from typing import Any, Protocol

from lab.ec2.server import LabEc2
from tests.contract.ec2_worlds import Ec2World, FakeWorld, LabWorld
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.model import Network
from vipmanager.ports import FloatingEc2Port

LONG = 600.0  # seconds: longer than any test


class FloatingWorld(Ec2World, Protocol):
    """Each ENI of `enis` is on an instance of its own, whose primary ENI is in the same subnet.

    `groups` are two security groups.
    """

    port: FloatingEc2Port  # type: ignore[assignment]  # narrower
    instances: dict[str, str]
    groups: list[str]

    def hold(self) -> None:
        """From now on an ENI stays attaching or detaching, and a CIDR associating."""
        ...

    def set_state(self, instance: str, state: str) -> None:
        """Stop or terminate an instance."""
        ...

    def allocate(self) -> tuple[str, str]:
        """A new Elastic IP: allocation id and public address."""
        ...

    def tag_eni(self, eni: str, key: str, value: str) -> None:
        """Tag an ENI."""
        ...

    def tag_subnet(self, subnet: str, key: str, value: str) -> None:
        """Tag a subnet."""
        ...


class FakeFloatingWorld(FakeWorld):
    """Behind the double."""

    def __init__(self) -> None:
        super().__init__()
        self.port: FloatingEc2Port = self.ec2  # type: ignore[assignment]
        self.instances = {"a": "i-a", "a2": "i-a2", "b": "i-b"}
        self.groups = ["sg-1", "sg-2"]
        self._eips = count(1)
        for number, (name, instance) in enumerate(self.instances.items()):
            eni = self.ec2.state.enis[self.enis[name]]
            primary = str(eni.addresses[0] + 200)
            mac = f"02:00:00:00:01:{number:02x}"
            self.ec2.add_eni(f"eni-{name}-primary", mac, 0, eni.subnet_id, primary, instance=instance)
            self.ec2.put_eni(replace(eni, groups=("sg-1",)))

    def hold(self) -> None:
        self.ec2.hold_attach = self.ec2.hold_detach = self.ec2.hold_cidr = True

    def set_state(self, instance: str, state: str) -> None:
        known = self.ec2.state.instances[instance]
        self.ec2.add_instance(instance, known.zone, state, known.slots)

    def allocate(self) -> tuple[str, str]:
        number = next(self._eips)
        allocation, public = f"eipalloc-{number}", f"203.0.113.{number}"
        self.ec2.add_eip(allocation, public)
        return allocation, public

    def tag_eni(self, eni: str, key: str, value: str) -> None:
        known = self.ec2.state.enis[eni]
        self.ec2.put_eni(replace(known, tags={**known.tags, key: value}))

    def tag_subnet(self, subnet: str, key: str, value: str) -> None:
        known = self.ec2.state.subnets[subnet]
        self.ec2.put_subnet(subnet, known._replace(tags={**known.tags, key: value}))


class LabFloatingWorld(LabWorld):
    """Behind the real client."""

    def __init__(self, ec2: LabEc2, client: FloatingEc2Client) -> None:
        super().__init__(ec2, client)
        self.port: FloatingEc2Port = client  # type: ignore[assignment]
        state = ec2.state()
        self.instances = {name: str(state.enis[eni].instance_id) for name, eni in self.enis.items()}
        self.groups = [self._make_group(name) for name in ("one", "two")]

    def hold(self) -> None:
        self.ec2.attach_delay = self.ec2.detach_delay = self.ec2.cidr_delay = LONG

    def set_state(self, instance: str, state: str) -> None:
        change = self.admin.stop_instances if state == "stopped" else self.admin.terminate_instances
        change(InstanceIds=[instance])

    def allocate(self) -> tuple[str, str]:
        made = self.admin.allocate_address(Domain="vpc")
        return str(made["AllocationId"]), str(made["PublicIp"])

    def tag_eni(self, eni: str, key: str, value: str) -> None:
        self.tag(eni, key, value)

    def tag_subnet(self, subnet: str, key: str, value: str) -> None:
        self.tag(subnet, key, value)

    def _make_group(self, name: str) -> str:
        made: dict[str, Any] = self.admin.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)
        return str(made["GroupId"])


FREE_CIDR: Network = ip_network("10.10.3.0/24")
"""In the VPC, in no subnet."""

OUTER_CIDR: Network = ip_network("10.30.0.0/24")
"""In no CIDR of the VPC."""
