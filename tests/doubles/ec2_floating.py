"""What `FakeEc2` does of FloatingEc2Port: ENIs and subnets that come, go and move between instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from tests.doubles.ec2_region import ACCOUNT, FakeSubnet, Region, refusal, within
from vipmanager.model import Address, Attachment, EniDescription, Network, Subnet
from vipmanager.model_node import VpcCidr


class FloatingCalls(Region):
    """The calls. Steps that take EC2 a while are done at once, unless they are held back.

    With `hold_attach`, `hold_detach` or `hold_cidr` they stay `attaching`, `detaching` or `associating` until `settle`.
    A forced detachment ends at once in any case.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        super().__init__(clock)
        self.hold_attach = self.hold_detach = self.hold_cidr = False
        self._numbers = count(1)
        self._tokens: dict[str, tuple[tuple[object, ...], str]] = {}

    def settle(self) -> None:
        """End every step that was held back."""
        for eni in self.state.enis.values():
            if eni.attachment and eni.attachment.status == "attaching":
                self.put_eni(replace(eni, attachment=replace(eni.attachment, status="attached")))
            elif eni.attachment and eni.attachment.status == "detaching":
                self.detach(eni.id)
        for vpc_id, coming in self.state.associating.items():
            vpcs = {**self.state.vpcs, vpc_id: (*self.state.vpcs[vpc_id], *coming)}
            self.set(replace(self.state, vpcs=vpcs, associating={**self.state.associating, vpc_id: ()}))

    # the port

    def enis_of_instance(self, instance_id: str) -> tuple[EniDescription, ...]:
        """See FloatingEc2Port."""
        with self._call("enis_of_instance", instance_id):
            return tuple(self._seen_state().enis_of(instance_id))

    def enis_tagged(self, vpc_id: str, key: str, value: str) -> tuple[EniDescription, ...]:
        """See FloatingEc2Port."""
        with self._call("enis_tagged", vpc_id, key, value):
            enis = self._seen_state().enis.values()
            return tuple(eni for eni in enis if eni.vpc_id == vpc_id and eni.tags.get(key) == value)

    def enis_in_subnet(self, subnet_id: str) -> tuple[EniDescription, ...]:
        """See FloatingEc2Port."""
        with self._call("enis_in_subnet", subnet_id):
            return tuple(eni for eni in self._seen_state().enis.values() if eni.subnet_id == subnet_id)

    def create_eni(
        self,
        subnet_id: str,
        addresses: Sequence[Address],
        groups: Sequence[str],
        tags: Mapping[str, str],
        description: str,
        token: str,
    ) -> str:
        """See FloatingEc2Port."""
        request = (subnet_id, tuple(addresses), tuple(groups), tuple(tags.items()), description)
        with self._call("create_eni", *request, token, write=True):
            api = "CreateNetworkInterface"
            known, made = self._tokens.get(token, (request, ""))
            if known != request:
                raise refusal(api, "IdempotentParameterMismatch", token)
            if made:
                return self._eni(api, made).id
            if subnet_id not in self.state.subnets:
                raise refusal(api, "InvalidSubnetID.NotFound", subnet_id)
            home = self.state.subnets[subnet_id]
            for address in addresses:
                self._check_in_subnet(api, subnet_id, address)
                if self.state.owner(home.vpc_id, address):
                    raise refusal(api, "InvalidIPAddress.InUse", str(address))
            number = next(self._numbers)
            eni_id = f"eni-made{number}"
            ipv4 = [address for address in addresses if address.version == 4] or [self._any_free(home)]
            held = (*ipv4, *(address for address in addresses if address.version == 6))
            mac = f"02:00:00:00:ee:{number:02x}"
            eni = EniDescription(
                eni_id, mac, -1, subnet_id, home.vpc_id, ACCOUNT, held, frozenset(ipv4[:1]), True, live=False,
                zone=home.zone, groups=tuple(groups), tags=dict(tags),
            )  # fmt: skip
            self._tokens[token] = (request, eni_id)
            self.put_eni(eni)
            return eni_id

    def attach_eni(self, eni_id: str, instance_id: str, device_index: int) -> None:
        """See FloatingEc2Port."""
        with self._call("attach_eni", eni_id, instance_id, device_index, write=True):
            api = "AttachNetworkInterface"
            eni = self._eni(api, eni_id)
            self._check_attachable(api, eni, instance_id, device_index)
            status = "attaching" if self.hold_attach else "attached"
            attachment = Attachment(f"eni-attach-made{next(self._numbers)}", instance_id, device_index, status)
            self.put_eni(replace(eni, attachment=attachment, device_index=device_index, live=True))

    def detach_eni(self, attachment_id: str, *, force: bool) -> None:
        """See FloatingEc2Port."""
        with self._call("detach_eni", attachment_id, force, write=True):
            api = "DetachNetworkInterface"
            enis = self.state.enis.values()
            eni = next((eni for eni in enis if eni.attachment and eni.attachment.id == attachment_id), None)
            if eni is None or eni.attachment is None:
                raise refusal(api, "InvalidAttachmentID.NotFound", attachment_id)
            if eni.device_index == 0:
                raise refusal(api, "OperationNotPermitted", attachment_id)
            if eni.attachment.status == "detaching" and not force:
                raise refusal(api, "IncorrectState", attachment_id)
            self.put_eni(replace(eni, attachment=replace(eni.attachment, status="detaching"), live=False))
            if force or not self.hold_detach:
                self.detach(eni.id)

    def delete_eni(self, eni_id: str) -> None:
        """See FloatingEc2Port."""
        with self._call("delete_eni", eni_id, write=True):
            eni = self.state.enis.get(eni_id)
            if eni is not None and eni.attachment is not None:
                raise refusal("DeleteNetworkInterface", "InvalidParameterValue", eni_id)
            self.remove_eni(eni_id)

    def create_subnet(self, vpc_id: str, cidr: Network, zone: str, tags: Mapping[str, str]) -> str:
        """See FloatingEc2Port."""
        with self._call("create_subnet", vpc_id, cidr, zone, write=True):
            if not any(within(cidr, outer) for outer in self.state.vpcs[vpc_id]):
                raise refusal("CreateSubnet", "InvalidSubnet.Range", str(cidr))
            others = (
                each for subnet in self.state.subnets.values() if subnet.vpc_id == vpc_id for each in subnet.cidrs
            )
            if any(within(each, cidr) or within(cidr, each) for each in others):
                raise refusal("CreateSubnet", "InvalidSubnet.Conflict", str(cidr))
            subnet_id = f"subnet-made{next(self._numbers)}"
            self.put_subnet(subnet_id, FakeSubnet(vpc_id, (cidr,), zone, dict(tags)))
            return subnet_id

    def delete_subnet(self, subnet_id: str) -> None:
        """See FloatingEc2Port."""
        with self._call("delete_subnet", subnet_id, write=True):
            if any(eni.subnet_id == subnet_id for eni in self.state.enis.values()):
                raise refusal("DeleteSubnet", "DependencyViolation", subnet_id)
            kept = {key: subnet for key, subnet in self.state.subnets.items() if key != subnet_id}
            self.set(replace(self.state, subnets=kept))

    def vpc_cidrs(self, vpc_id: str) -> tuple[VpcCidr, ...]:
        """See FloatingEc2Port."""
        with self._call("vpc_cidrs", vpc_id):
            state = self._seen_state()
            there = (VpcCidr(cidr, "associated") for cidr in state.vpcs.get(vpc_id, ()))
            coming = (VpcCidr(cidr, "associating") for cidr in state.associating.get(vpc_id, ()))
            return tuple(each for each in (*there, *coming) if each.cidr.version == 4)

    def associate_vpc_cidr(self, vpc_id: str, cidr: Network) -> None:
        """See FloatingEc2Port."""
        with self._call("associate_vpc_cidr", vpc_id, cidr, write=True):
            coming = self.state.associating.get(vpc_id, ())
            if any(within(each, cidr) or within(cidr, each) for each in (*self.state.vpcs[vpc_id], *coming)):
                raise refusal("AssociateVpcCidrBlock", "InvalidVpc.Range", str(cidr))
            self.set(replace(self.state, associating={**self.state.associating, vpc_id: (*coming, cidr)}))
            if not self.hold_cidr:
                vpcs = {**self.state.vpcs, vpc_id: (*self.state.vpcs[vpc_id], cidr)}
                self.set(replace(self.state, vpcs=vpcs, associating={**self.state.associating, vpc_id: coming}))

    def subnet(self, subnet_id: str) -> Subnet | None:
        """See FloatingEc2Port."""
        with self._call("subnet", subnet_id):
            found = self._seen_state().subnets.get(subnet_id)
            return Subnet(subnet_id, found.cidrs, found.zone, found.tags) if found else None

    def instance_state(self, instance_id: str) -> str:
        """See FloatingEc2Port."""
        with self._call("instance_state", instance_id):
            found = self._seen_state().instances.get(instance_id)
            return found.state if found else "terminated"

    # rules

    def _check_attachable(self, api: str, eni: EniDescription, instance_id: str, device_index: int) -> None:
        instance = self.state.instances.get(instance_id)
        if instance is None:
            raise refusal(api, "InvalidInstanceID.NotFound", instance_id)
        if instance.state in ("shutting-down", "terminated"):
            raise refusal(api, "IncorrectInstanceState", instance_id)
        if eni.attachment:
            raise refusal(api, "InvalidNetworkInterface.InUse", eni.id)
        if eni.zone != instance.zone:
            raise refusal(api, "InvalidParameterCombination", eni.id)
        held = self.state.enis_of(instance_id)
        if any(each.device_index == device_index for each in held):
            raise refusal(api, "InvalidParameterValue", instance_id)
        if len(held) >= instance.slots:
            raise refusal(api, "AttachmentLimitExceeded", instance_id)

    def _any_free(self, home: FakeSubnet) -> Address:
        """The lowest address of a subnet that nobody has."""
        cidr = next(cidr for cidr in home.cidrs if cidr.version == 4)
        candidates = (cidr[number] for number in range(4, cidr.num_addresses - 1))
        return next(address for address in candidates if self.state.owner(home.vpc_id, address) is None)
