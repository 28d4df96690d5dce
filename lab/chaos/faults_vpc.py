"""Others who write to the VPC."""

from __future__ import annotations

from ipaddress import ip_network

from lab.chaos.fault import End, Given, an_address, an_interface, anything, fault, home_of, is_routed
from lab.chaos.stage import Stage, until


@fault("eni-detached", an_interface)
def _eni_detached(stage: Stage, given: Given) -> End | None:
    """With all the interfaces on it; it is attached again at the end, where it was."""
    eni_id = stage.eni(home_of(given))
    ec2, worker = stage.lab.ec2, stage.lab.workers[stage.world.pod(str(given["pod"])).worker]
    attachment = ec2.state().enis[eni_id].attachment
    homes = [home for home in stage.wanted if stage.eni(home) == eni_id]
    if attachment is None or stage.lost & set(homes):
        return None
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


@fault("table-added", anything(then=("stays", "goes")))
def _table_added(stage: Stage, given: Given) -> End:
    admin = stage.lab.ec2.admin()
    table = admin.create_route_table(VpcId=stage.lab.vpc_id)["RouteTable"]["RouteTableId"]
    stage.foreign.plant_routes(table)

    def end() -> None:
        if given["then"] == "goes":
            admin.delete_route_table(RouteTableId=table)

    return end


@fault("table-removed", anything(), lasts=False)
def _table_removed(stage: Stage, _: Given) -> None:
    """One that no subnet uses, where there is one."""
    unused = [table.route_table_id for table in stage.tables() if not table.associations]
    if unused:
        stage.lab.ec2.admin().delete_route_table(RouteTableId=unused[0])


@fault("route-deleted", an_address(is_routed, tables=(1, 9)), lasts=False)
def _route_deleted(stage: Stage, given: Given) -> None:
    destination = stage.destination(stage.floating(str(given["address"])))
    for table in _routing(stage, destination)[: int(given["tables"])]:
        stage.lab.ec2.admin().delete_route(RouteTableId=table, **_key(destination))


@fault("route-moved", an_address(is_routed, tables=(1, 9), to=("bystander", "dead")))
def _route_moved(stage: Stage, given: Given) -> End:
    """To a live ENI that is none of ours, until the end; or to one that is not attached, for good."""
    destination = stage.destination(stage.floating(str(given["address"])))
    eni = stage.foreign.bystander if given["to"] == "bystander" else stage.foreign.dead
    admin = stage.lab.ec2.admin()
    for table in _routing(stage, destination)[: int(given["tables"])]:
        admin.replace_route(RouteTableId=table, NetworkInterfaceId=eni, **_key(destination))

    def end() -> None:
        for table in stage.tables():
            route = table.by_destination.get(ip_network(destination))
            if route is not None and route.target == stage.foreign.bystander:
                admin.delete_route(RouteTableId=table.route_table_id, **_key(destination))

    return end


def _routing(stage: Stage, destination: str) -> list[str]:
    """The tables with a route to exactly this destination."""
    wanted = ip_network(destination)
    return [table.route_table_id for table in stage.tables() if wanted in table.by_destination]


def _key(destination: str) -> dict[str, str]:
    return {"DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock": destination}


@fault("address-unassigned", an_address(lambda floating: not is_routed(floating)), lasts=False)
def _address_unassigned(stage: Stage, given: Given) -> None:
    address = stage.address(stage.floating(str(given["address"])))
    holder = next((eni for eni in stage.lab.ec2.state().enis.values() if address in map(str, eni.addresses)), None)
    if holder is not None and ":" in address:
        stage.lab.ec2.admin().unassign_ipv6_addresses(NetworkInterfaceId=holder.eni_id, Ipv6Addresses=[address])
    elif holder is not None:
        stage.lab.ec2.admin().unassign_private_ip_addresses(
            NetworkInterfaceId=holder.eni_id, PrivateIpAddresses=[address]
        )


@fault("check-turned-on", an_interface, lasts=False)
def _check_on(stage: Stage, given: Given) -> None:
    stage.lab.ec2.admin().modify_network_interface_attribute(
        NetworkInterfaceId=stage.eni(home_of(given)), SourceDestCheck={"Value": True}
    )


@fault("eip-unbound", an_address(lambda floating: floating.eip), lasts=False)
def _eip_unbound(stage: Stage, given: Given) -> None:
    allocation = stage.allocation(stage.floating(str(given["address"])))
    association = stage.lab.ec2.state().elastic_ips[allocation].association_id
    if association is not None:
        stage.lab.ec2.admin().disassociate_address(AssociationId=association)
