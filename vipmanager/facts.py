"""Which calls answer what the plan of a pod asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vipmanager.actions import Need
from vipmanager.config import Config
from vipmanager.model import Claims
from vipmanager.observe import View
from vipmanager.plan import needs_holder
from vipmanager.ports import Ec2Port

Question = tuple[Callable[[], Any], Callable[[Any], None]]
"""What to call for a fact, and who learns the answer."""


def eni_ids(view: View, claims: Claims) -> list[str]:
    """The known ENIs behind the pod and its claims; while there are none, there is nothing to ask EC2 about."""
    macs = {interface.mac for interface in view.interfaces}
    claimed = {claim.eni_id for claim in claims.values()}
    return sorted(eni.id for mac, eni in view.enis.items() if mac in macs or eni.id in claimed)


def question(need: Need, view: View, claims: Claims, config: Config, ec2: Ec2Port, now: float) -> Question:
    """How to learn a fact, which is as old as the question. Some of the pod's ENIs must be known."""
    ids = eni_ids(view, claims)
    vpc_id = next(eni.vpc_id for eni in view.enis.values() if eni.id in ids)
    if need is Need.TABLES:
        return lambda: ec2.route_tables(vpc_id), view.learn_tables
    if need is Need.SUBNETS:
        return lambda: ec2.subnets(vpc_id), lambda subnets: setattr(view, "subnets", subnets)
    if need is Need.STATES:
        return lambda: ec2.enis(ids), lambda found: view.learn_states(found, ids, now)
    if need is Need.EIPS:
        eips = sorted(eip for bound in config.eips.values() for eip in bound.values())
        return lambda: ec2.elastic_ips(eips), lambda found: view.learn_eips(found, eips, now)
    addresses = [address for address, claim in claims.items() if needs_holder(claim)]
    return lambda: ec2.enis_holding(vpc_id, addresses), lambda found: view.learn_holders(found, addresses, now)
