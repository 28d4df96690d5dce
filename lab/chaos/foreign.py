"""What is none of vipmanager's: planted before anything goes wrong, and compared when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lab import links
from lab.netns import Namespace

if TYPE_CHECKING:
    from lab.chaos.stage import Stage

OURS = 86
"""vipmanager's rtnetlink protocol number (vipmanager.clients.netlink.PROTOCOL; the lab imports nothing of it)."""

SOMEBODYS = 4  # RTPROT_STATIC
_FOREIGN_ADDRESSES = ("10.10.11.200", "10.10.11.201")
AROUND = ("192.168.0.0/16", "192.168.7.0/24", "192.168.8.1/32", "fd12::/64", "fd12:0:0:1::1/128")
"""Destinations beside and around those of the floating addresses."""

_POD_ROUTES = ((254, "203.0.113.0/24"), (101, "203.0.113.0/25"), (102, "203.0.113.128/25"))
_POD_RULE = "192.168.99.9"

Facts = Mapping[str, object]


class Foreign:
    """Routes, addresses, rules of others. `bystander` is somebody's live ENI, `dead` one that is not attached."""

    def __init__(self, stage: Stage) -> None:
        """Plant them."""
        self._stage = stage
        lab = stage.lab
        admin = lab.ec2.admin()
        self.bystander = lab.peers["peer1"].eni.eni_id
        subnet = lab.topology.subnets["multus1-a"]["SubnetId"]
        self.dead = str(admin.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"])
        for table in lab.ec2.state().route_tables.values():
            if table.vpc_id == lab.vpc_id and not table.edge:
                self.plant_routes(table.route_table_id)
        admin.create_route(
            RouteTableId=lab.topology.edge_table_id,
            DestinationCidrBlock="10.10.31.0/24",
            NetworkInterfaceId=lab.workers["a"].eni(0).eni_id,
        )
        admin.assign_private_ip_addresses(NetworkInterfaceId=self.dead, PrivateIpAddresses=[_FOREIGN_ADDRESSES[0]])
        admin.assign_private_ip_addresses(
            NetworkInterfaceId=lab.workers["a"].eni(1).eni_id, PrivateIpAddresses=[_FOREIGN_ADDRESSES[1]]
        )
        for sidecar in stage.sidecars.values():
            _plant_in_pod(sidecar.pod.ns)
        self._before = self._facts()

    def plant_routes(self, table: str) -> None:
        """Put others' routes into a table: to a live ENI, and one that is a blackhole."""
        admin = self._stage.lab.ec2.admin()
        for number, destination in enumerate(AROUND):
            key = "DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock"
            eni = self.bystander if number % 2 == 0 else self.dead
            admin.create_route(RouteTableId=table, NetworkInterfaceId=eni, **{key: destination})

    def complaints(self) -> Iterator[str]:
        """What is not as it was; tables that are gone, or came since, do not count."""
        now = self._facts()
        tables = {table.route_table_id for table in self._stage.tables()} | {self._stage.lab.topology.edge_table_id}
        for name, before in self._before.items():
            if name in now and now[name] != before:
                yield f"foreign: {name} was {before}, is {now[name]}"
            elif name not in now and (not name.startswith("rtb-") or name in tables):
                yield f"foreign: {name} is gone"

    def _facts(self) -> Facts:
        return {**dict(self._routes()), **dict(self._addresses()), **dict(self._pods())}

    def _routes(self) -> Iterator[tuple[str, object]]:
        stage = self._stage
        written = {table.route_table_id for table in stage.tables()}
        for table in stage.lab.ec2.state().route_tables.values():
            ours = table.route_table_id in written
            kept = [route for route in table.routes if not (ours and stage.may_be_ours(route.destination))]
            yield (
                table.route_table_id,
                sorted((str(route.destination), route.target, route.state) for route in kept),
            )

    def _addresses(self) -> Iterator[tuple[str, object]]:
        stage = self._stage
        ours = {stage.address(each) for each in stage.world.floatings}
        pods = stage.enis()
        for eni in stage.lab.ec2.state().enis.values():
            addresses = sorted(str(address) for address in eni.addresses if str(address) not in ours)
            yield eni.eni_id, (addresses, None if eni.eni_id in pods else eni.source_dest_check)

    def _pods(self) -> Iterator[tuple[str, object]]:
        for name, sidecar in self._stage.sidecars.items():
            yield f"pod {name}", links.netlink(sidecar.pod.ns, _not_ours)


def _plant_in_pod(ns: Namespace) -> None:
    """Routes and a rule as somebody else's program would leave them, through eth0, which is not vipmanager's."""

    def plant(iproute: Any) -> None:
        index = iproute.link_lookup(ifname="eth0")[0]
        for table, destination in _POD_ROUTES:
            iproute.route("add", dst=destination, oif=index, table=table, proto=SOMEBODYS, scope=253)
        for table in (101, 102):
            iproute.rule("add", src=_POD_RULE, src_len=32, table=table, priority=900 + table)

    links.netlink(ns, plant)


def _not_ours(iproute: Any) -> object:
    """Routes through eth0 and rules that do not bear vipmanager's number. (Routes of net1 go with its addresses.)"""
    index = iproute.link_lookup(ifname="eth0")[0]
    routes = sorted(
        (route.get("RTA_TABLE"), str(route.get("RTA_DST")), route["dst_len"], route["proto"])
        for route in iproute.get_routes(family=2)
        if route["proto"] != OURS and route.get("RTA_OIF") == index
    )
    rules = sorted(
        (family, rule.get("FRA_PRIORITY") or 0, str(rule.get("FRA_SRC")), rule.get("FRA_TABLE"))
        for family in (2, 10)
        for rule in iproute.get_rules(family=family)
        if rule.get("FRA_PROTOCOL") != OURS
    )
    return routes, rules
