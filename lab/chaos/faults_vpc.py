"""Others who write to the VPC."""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

from lab.chaos.fault import (
    VPC,
    End,
    Given,
    Missed,
    always,
    an_address,
    an_interface,
    anything,
    fault,
    home_of,
    is_routed,
)
from lab.chaos.stage import Stage, until
from lab.chaos.world import World

SUBNETTED_TABLES = 4
"""Of a world's tables, those that subnets use (lab.topology)."""


@fault("eni-detached", an_interface, VPC)
def _eni_detached(stage: Stage, given: Given) -> End:
    """With all the interfaces on it; it is attached again at the end, where it was."""
    eni_id = stage.eni(home_of(given))
    ec2, worker = stage.lab.ec2, stage.lab.workers[stage.world.pod(str(given["pod"])).worker]
    attachment = ec2.state().enis[eni_id].attachment
    homes = [home for home in stage.wanted if stage.eni(home) == eni_id]
    if attachment is None or stage.lost & set(homes):
        raise Missed
    ec2.admin().detach_network_interface(AttachmentId=attachment.attachment_id)
    until(lambda: eni_id not in {eni.eni_id for _, eni in worker.plugged()}, f"{eni_id} unplugged")
    for home in homes:
        stage.lose(home)

    def end() -> None:
        ec2.admin().attach_network_interface(
            NetworkInterfaceId=eni_id, InstanceId=attachment.instance_id, DeviceIndex=attachment.device_index
        )
        until(lambda: eni_id in {eni.eni_id for _, eni in worker.plugged()}, f"{eni_id} plugged in")
        for home in homes:
            stage.regain(home)

    return end


@fault("table-added", anything(then=("stays", "goes"), selected=("yes", "no")), VPC, drifts=always)
def _table_added(stage: Stage, given: Given) -> End:
    """`selected`: whether VPCRTTag selects it, where that does not select all."""
    admin = stage.lab.ec2.admin()
    table = stage.add_table(selected=given["selected"] == "yes")
    stage.foreign.plant_routes(table)

    def end() -> None:
        if given["then"] == "goes":
            admin.delete_route_table(RouteTableId=table)

    return end


def _where_one_is_unused(_: Random, world: World) -> Given | None:
    return {} if world.tables > SUBNETTED_TABLES else None


@fault("table-removed", _where_one_is_unused, VPC, lasts=False, delays=lambda _: False)
def _table_removed(stage: Stage, _: Given) -> None:
    """One that no subnet uses."""
    unused = [table.route_table_id for table in stage.tables() if not table.associations]
    if not unused:
        raise Missed
    stage.lab.ec2.admin().delete_route_table(RouteTableId=unused[0])


@fault("route-deleted", an_address(is_routed, tables=(1, 9)), VPC, lasts=False, drifts=always)
def _route_deleted(stage: Stage, given: Given) -> None:
    for table, destination in _routing(stage, given):
        stage.lab.ec2.admin().delete_route(RouteTableId=table, **_key(destination))


@fault("route-moved", an_address(is_routed, tables=(1, 9), to=("bystander", "dead")), VPC, drifts=always)
def _route_moved(stage: Stage, given: Given) -> End:
    """To a live ENI that is none of ours, until the end; or to one that is not attached, for good."""
    eni = stage.foreign.bystander if given["to"] == "bystander" else stage.foreign.dead
    admin = stage.lab.ec2.admin()
    moved = _routing(stage, given)
    for table, destination in moved:
        admin.replace_route(RouteTableId=table, NetworkInterfaceId=eni, **_key(destination))

    def end() -> None:
        for table in stage.tables():
            for destination in {destination for _, destination in moved}:
                route = table.by_destination.get(ip_network(destination))
                if route is not None and route.target == stage.foreign.bystander:
                    admin.delete_route(RouteTableId=table.route_table_id, **_key(destination))

    return end


def _routing(stage: Stage, given: Given) -> list[tuple[str, str]]:
    """As many tables as were drawn, of those that route an address, and by which destination. Raises Missed."""
    floating = stage.floating(str(given["address"]))
    routes = [(table.route_table_id, stage.route_of(floating, table)) for table in stage.tables()]
    found = [(table, str(route.destination)) for table, route in routes if route is not None]
    if not found:
        raise Missed
    return found[: int(given["tables"])]


def _key(destination: str) -> dict[str, str]:
    return {"DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock": destination}


@fault("address-unassigned", an_address(lambda floating: not is_routed(floating)), VPC, lasts=False, drifts=always)
def _address_unassigned(stage: Stage, given: Given) -> None:
    address = stage.address(stage.floating(str(given["address"])))
    holder = next((eni for eni in stage.lab.ec2.state().enis.values() if address in map(str, eni.addresses)), None)
    if holder is None:
        raise Missed
    if ":" in address:
        stage.lab.ec2.admin().unassign_ipv6_addresses(NetworkInterfaceId=holder.eni_id, Ipv6Addresses=[address])
    else:
        stage.lab.ec2.admin().unassign_private_ip_addresses(
            NetworkInterfaceId=holder.eni_id, PrivateIpAddresses=[address]
        )


@fault("check-turned-on", an_interface, VPC, lasts=False, drifts=always)
def _check_on(stage: Stage, given: Given) -> None:
    stage.lab.ec2.admin().modify_network_interface_attribute(
        NetworkInterfaceId=stage.eni(home_of(given)), SourceDestCheck={"Value": True}
    )


@fault("eip-unbound", an_address(lambda floating: floating.eip), VPC, lasts=False, drifts=always)
def _eip_unbound(stage: Stage, given: Given) -> None:
    allocation = stage.allocation(stage.floating(str(given["address"])))
    association = stage.lab.ec2.state().elastic_ips[allocation].association_id
    if association is None:
        raise Missed
    stage.lab.ec2.admin().disassociate_address(AssociationId=association)
