"""What the nodeport mode knows of the node and of EC2, as one NodeObserved snapshot.

Routes and addresses of ENIs are kept by the same View as in the pod modes, with our own recent writes laid over what
EC2's describes show; of ENIs and subnets that follow the holder EC2 is asked again until it shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from vipmanager.actions import AssignAddress, UnassignAddress, VpcAction
from vipmanager.actions_node import CloudAction, DetachEni
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Address, ElasticIp, Eni, EniDescription, PodNetwork, RouteTable, Subnet
from vipmanager.model_node import FloatingEnis, HostInterface, Mark, NodeObserved, VpcCidr
from vipmanager.observe import View
from vipmanager.ports import FloatingEc2Port, HostPort


class NodeView:
    """Everything seen so far. Used from one thread only."""

    def __init__(self, config: Config) -> None:
        self._vpc = View(config.route_tables)
        self.interfaces: tuple[HostInterface, ...] = ()
        self.enis: dict[str, Eni] = {}
        self.instance_id = ""
        self._network = PodNetwork()
        self._marks: Mapping[str, frozenset[Mark]] | None = None
        self._no_marks = "not read yet"
        self._own: dict[str, EniDescription] = {}
        self._own_seen = float("-inf")
        self._given: dict[tuple[str, Address], float] = {}  # our own writes to ENIs that were not described yet
        self._floating: FloatingEnis | None = None
        self._subnets: tuple[Subnet, ...] | None = None
        self._subnets_seen = float("-inf")
        self._vpc_cidrs: tuple[VpcCidr, ...] | None = None
        self._vpc_cidrs_seen = float("-inf")
        self._instances: dict[str, tuple[str, float]] = {}
        self._detaching: dict[str, float] = {}

    @property
    def recheck_at(self) -> float | None:
        """When a describe that contradicted a write of ours is to be repeated."""
        return self._vpc.recheck_at

    def rechecked(self) -> None:
        """It is being repeated."""
        self._vpc.recheck_at = None

    @property
    def vpc_id(self) -> str:
        """The VPC of the node; empty while it is not known."""
        return next((eni.vpc_id for eni in self.enis.values()), "")

    def node_address(self, floating: Collection[Address]) -> str:
        """The node's own address, which checks without a host are made on; empty while it is not known."""
        primary = next((eni for eni in self.enis.values() if eni.device_index == 0), None)
        on = next((each for each in self.interfaces if primary and each.physical and each.mac == primary.mac), None)
        mine = [address for address in on.addresses if address.version == 4 and address not in floating] if on else []
        return str(mine[0]) if mine else ""

    @property
    def others(self) -> tuple[str, ...]:
        """The other instances that have a floating ENI."""
        found = self._floating.enis if self._floating else ()
        ids = {eni.attachment.instance_id for eni in found if eni.attachment}
        return tuple(sorted(ids - {self.instance_id}))

    def observed(self, at: float) -> NodeObserved:
        """An immutable snapshot."""
        vpc = self._vpc.observed()
        states = vpc.states.values()
        held = {key: at for key, at in self._given.items() if key[0] not in vpc.states}
        held |= {(state.id, address): seen for state in states for address, seen in state.addresses.items()}
        return NodeObserved(
            at=at,
            interfaces=self.interfaces,
            network=self._network,
            marks=self._marks,
            no_marks=self._no_marks,
            enis=dict(self.enis),
            own=dict(self._own),
            own_seen=self._own_seen,
            held=held,
            checks_on=frozenset(state.id for state in states if state.source_dest_check),
            holders=vpc.holders,
            tables=vpc.tables,
            eips=vpc.eips,
            floating=self._floating,
            subnets=self._subnets,
            subnets_seen=self._subnets_seen,
            vpc_cidrs=self._vpc_cidrs,
            vpc_cidrs_seen=self._vpc_cidrs_seen,
            instances=dict(self._instances),
            detaching=dict(self._detaching),
        )

    def look(self, host: HostPort) -> None:
        """Read the kernel anew. Raises CallError."""
        interfaces, network = host.host_interfaces(), host.pod_network()
        able = self._marks is not None  # a kernel that is not is asked again when something else has changed
        if interfaces != self.interfaces or self._marks or (network.rules and able):
            self._look_at_marks(host)
        self.interfaces, self._network = interfaces, network

    def _look_at_marks(self, host: HostPort) -> None:
        """Those that a process left that was killed are found at the first look. Raises CallError."""
        try:
            self._marks, self._no_marks = host.marks(), ""
        except CallError as error:
            if error.kind is ErrorKind.RETRY:
                raise
            self._marks, self._no_marks = None, str(error.failure)

    def learn_own(self, found: Sequence[EniDescription], seen: float) -> None:
        """The ENIs of this instance. Those of its MACs that nobody had told of are left to discovery."""
        self.instance_id = next((eni.attachment.instance_id for eni in found if eni.attachment), self.instance_id)
        self._vpc.learn_states(found, {*self._own, *(eni.id for eni in found)}, seen)
        self._own, self._own_seen = {eni.id: eni for eni in found}, seen

    def learn_tables(self, tables: Iterable[RouteTable]) -> None:
        """The VPC's route tables."""
        self._vpc.learn_tables(tables)

    def learn_holders(self, found: Iterable[EniDescription], asked: Sequence[Address], seen: float) -> None:
        """Which ENIs hold these addresses."""
        self._vpc.learn_holders(found, asked, seen)

    def learn_eips(self, found: Iterable[ElasticIp], asked: Sequence[str], seen: float) -> None:
        """Elastic IPs; one that was asked for and not found does not exist."""
        self._vpc.learn_eips(found, asked, seen)

    def learn_floating(self, found: Sequence[EniDescription], seen: float) -> None:
        """The ENIs with our tag; since when each is detaching is noted, because EC2 does not tell."""
        self._floating = FloatingEnis(tuple(found), seen)
        attachments = {eni.attachment.id: eni.attachment for eni in found if eni.attachment}
        self._detaching = {
            each: self._detaching.get(each, seen)
            for each, attachment in attachments.items()
            if attachment.status == "detaching"
        }

    def learn_subnets(self, found: Sequence[Subnet], seen: float) -> None:
        """The VPC's subnets."""
        self._subnets, self._subnets_seen = tuple(found), seen

    def learn_vpc_cidrs(self, found: Sequence[VpcCidr], seen: float) -> None:
        """The VPC's CIDRs."""
        self._vpc_cidrs, self._vpc_cidrs_seen = tuple(found), seen

    def learn_instances(self, found: Mapping[str, str | Failure], seen: float) -> None:
        """The states of other instances, as far as they could be read."""
        self._instances = {
            instance: (state, seen) for instance, state in found.items() if not isinstance(state, Failure)
        }

    def wrote(self, action: CloudAction, now: float) -> None:
        """Our own write succeeded: know it without asking, as far as EC2 has done it by then."""
        if isinstance(action, DetachEni):
            self._detaching.setdefault(action.attachment_id, now)
        elif isinstance(action, VpcAction):
            self._vpc.wrote(action, now)
        if isinstance(action, AssignAddress):
            self._given[action.eni_id, action.address] = now
        elif isinstance(action, UnassignAddress):
            self._given.pop((action.eni_id, action.address), None)

    def doubt(self, action: CloudAction) -> None:
        """A write found the world other than we thought."""
        if isinstance(action, VpcAction):
            self._vpc.doubt(action)


def own_enis(ec2: FloatingEc2Port, macs: Sequence[str], instance_id: str) -> tuple[EniDescription, ...]:
    """The ENIs of this instance; its id is learnt from one of its MACs when it is not known.

    Raises CallError, also when EC2 shows none.
    """
    if not instance_id:
        found = ec2.enis_by_mac(macs)
        instance_id = next((eni.attachment.instance_id for eni in found if eni.attachment), "")
    enis = ec2.enis_of_instance(instance_id) if instance_id else ()
    if not enis:
        text = f"EC2 shows no attached ENI with {', '.join(macs)} in this account and region"
        remedy = "check AWS_REGION and the account of the role that this pod uses"
        raise CallError(Failure(ErrorKind.INVALID, "ec2:DescribeNetworkInterfaces", "NotShown", text, remedy))
    return enis


def instance_states(ec2: FloatingEc2Port, ids: Sequence[str]) -> dict[str, str | Failure]:
    """The states of some instances; of one that cannot be read why, its ENI is then detached patiently."""
    states: dict[str, str | Failure] = {}
    for instance_id in ids:
        try:
            states[instance_id] = ec2.instance_state(instance_id)
        except CallError as error:
            states[instance_id] = error.failure
    return states
