"""What the lab looks like at the moment: for `python -m lab status`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lab.ec2.state import RouteTable, VpcState

if TYPE_CHECKING:
    from lab.hosts import Worker
    from lab.lab import Lab

_DROPS_SHOWN = 10


def collect(lab: Lab) -> dict[str, Any]:
    """The state of everything, in types that JSON knows."""
    state = lab.ec2.state()
    return {
        "pid": os.getpid(),
        "region": lab.region,
        "endpoint": lab.ec2.url,
        "vpc_id": lab.vpc_id,
        "vpc_cidrs": [str(network) for network in state.vpcs[lab.vpc_id].networks],
        "workers": [
            {
                "name": worker.name,
                "availability_zone": worker.availability_zone,
                "instance_id": worker.instance_id,
                "instance_state": state.instances[worker.instance_id].state,
                "cut": worker.is_cut,
                "enis": _enis(state, worker),
            }
            for worker in lab.workers.values()
        ],
        "peers": [
            {"name": peer.name, "instance_id": peer.instance_id, "eni": _eni(state, peer.eni.eni_id, 0)}
            for peer in lab.peers.values()
        ],
        "route_tables": [
            _route_table(state, table) for table in state.route_tables.values() if table.vpc_id == lab.vpc_id
        ],
        "pods": [
            {
                "name": pod.name,
                "worker": pod.worker.name,
                "interfaces": [
                    {"name": link.name, "mac": link.mac, "up": link.up, "addresses": list(link.addresses)}
                    for link in pod.interfaces()
                ],
            }
            for pod in lab.pods.values()
        ],
        "router": {
            "forwarded": lab.router.forwarded,
            "dropped": [
                {"eni_id": eni_id, "reason": reason, "packets": packets}
                for (eni_id, reason), packets in sorted(lab.router.dropped.items())
            ],
            "last_drops": [
                {"eni_id": drop.eni_id, "source": drop.source, "destination": drop.destination, "reason": drop.reason}
                for drop in list(lab.router.last_drops)[-_DROPS_SHOWN:]
            ],
        },
    }


def render(status: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"lab        pid={status['pid']} region={status['region']} endpoint={status['endpoint']}",
        f"vpc        {status['vpc_id']} {' '.join(status['vpc_cidrs'])}",
    ]
    for worker in status["workers"]:
        shown = worker["instance_state"] + (" cut" if worker["cut"] else "")
        lines.append(f"worker     {worker['name']}  {worker['instance_id']} {worker['availability_zone']} {shown}")
        lines += [_render_eni(eni["name"] or "-", eni) for eni in worker["enis"]]
    for peer in status["peers"]:
        lines += [f"peer       {peer['name']}  {peer['instance_id']}", _render_eni("eth0", peer["eni"])]
    for pod in status["pods"]:
        lines.append(f"pod        {pod['name']}  on worker {pod['worker']}")
        for link in pod["interfaces"]:
            up = "up" if link["up"] else "down"
            lines.append(f"  {link['name']:<8} {link['mac']} {up} {' '.join(link['addresses'])}")
    for table in status["route_tables"]:
        kind = " main" if table["main"] else " edge" if table["edge"] else ""
        lines.append(
            f"table      {table['route_table_id']} {table['name']}{kind} {' '.join(table['subnets'])}".rstrip()
        )
        lines += [f"  {route['destination']:<28} {route['target']} {route['state']}" for route in table["routes"]]
    router = status["router"]
    lines.append(f"router     forwarded={router['forwarded']}")
    lines += [f"  dropped  {each['packets']:>6} {each['eni_id']} {each['reason']}" for each in router["dropped"]]
    lines += [
        f"  lately   {each['source']} -> {each['destination']} {each['reason']}" for each in router["last_drops"][-3:]
    ]
    lines.append("enter      python -m lab shell NAME [COMMAND…]   (NAME: a worker, a pod or a peer)")
    return "\n".join(lines)


def _enis(state: VpcState, worker: Worker) -> list[dict[str, Any]]:
    """The ENIs of the worker, each with its interface's name, and those it had at first, without a name."""
    here = worker.plugged()
    gone = [(None, eni) for eni in worker.enis if eni.eni_id not in {eni.eni_id for _, eni in here}]
    return [{"name": name, **_eni(state, eni.eni_id, eni.device_index)} for name, eni in (*here, *gone)]


def _eni(state: VpcState, eni_id: str, device_index: int) -> dict[str, Any]:
    eni = state.enis.get(eni_id)
    if eni is None:  # deleted with its instance
        return {"eni_id": eni_id, "device_index": device_index, "status": "deleted", "addresses": []}
    return {
        "eni_id": eni_id,
        "device_index": device_index,
        "status": eni.status,
        "mac": eni.mac,
        "subnet_id": eni.subnet_id,
        "source_dest_check": eni.source_dest_check,
        "addresses": [
            str(address) for address in (*(each.address for each in eni.private_addresses), *eni.ipv6_addresses)
        ],
    }


def _render_eni(name: str, eni: dict[str, Any]) -> str:
    if "mac" not in eni:
        return f"  {name:<8} {eni['eni_id']} {eni['status']}"
    check = "" if eni["source_dest_check"] else " source-dest-check-off"
    return f"  {name:<8} {eni['eni_id']} {eni['mac']} {eni['status']}{check} {' '.join(eni['addresses'])}"


def _route_table(state: VpcState, table: RouteTable) -> dict[str, Any]:
    subnets = [state.subnets[each.subnet_id] for each in table.associations if each.subnet_id]
    return {
        "route_table_id": table.route_table_id,
        "name": dict(table.tags).get("Name", ""),
        "main": table.main,
        "edge": table.edge,
        "subnets": [str(subnet.cidr) for subnet in subnets],
        "routes": [
            {"destination": str(route.destination), "target": route.target, "state": route.state}
            for route in table.routes
        ],
    }
