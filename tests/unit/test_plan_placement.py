"""Which placement each address gets (DESIGN, "Words"), and what is said when it gets none."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import DEFAULTS, VPC_CIDRS, config, eni, subnet
from vipmanager.config import Config
from vipmanager.model import PlacementKind, Problem, Subnet
from vipmanager.plan.placement import Placement, place, reserved

ENI_ADDRESS, HOST_ROUTE, SUBNET_ROUTE = PlacementKind
SUBNETS = (subnet(1), subnet(2), Subnet("subnet-9", (ip_network("10.10.254.0/28"),)))
LOOPBACKS = config(SubnetBasedLoopbacks="True")


def placed(text: str, settings: Config = DEFAULTS, subnets: tuple[Subnet, ...] | None = SUBNETS) -> Placement:
    """The placement of an address that must have one."""
    found = place(ip_address(text), "net1", eni(), settings, subnets)
    assert isinstance(found, Placement), found
    return found


def refused(text: str, settings: Config = DEFAULTS) -> Problem:
    """The problem of an address that must have none."""
    found = place(ip_address(text), "net1", eni(), settings, SUBNETS)
    assert isinstance(found, Problem), found
    assert text in found.subject and "net1" in found.subject
    return found


@pytest.mark.parametrize(
    ("text", "kind", "destination"),
    [
        ("10.10.1.50", ENI_ADDRESS, "10.10.1.50/32"),
        ("10.10.1.4", ENI_ADDRESS, "10.10.1.4/32"),
        ("10.10.1.254", ENI_ADDRESS, "10.10.1.254/32"),
        ("10.10.1.10", ENI_ADDRESS, "10.10.1.10/32"),
        ("2600:1f14:0:1::99", ENI_ADDRESS, "2600:1f14:0:1::99/128"),
        ("192.168.0.1", HOST_ROUTE, "192.168.0.1/32"),
        ("10.11.0.1", HOST_ROUTE, "10.11.0.1/32"),
        ("10.9.255.255", HOST_ROUTE, "10.9.255.255/32"),
        ("fd00::1", HOST_ROUTE, "fd00::1/128"),
        ("2600:1f14:0:100::1", HOST_ROUTE, "2600:1f14:0:100::1/128"),
    ],
)
@pytest.mark.parametrize("settings", [DEFAULTS, LOOPBACKS], ids=["default", "SubnetBasedLoopbacks"])
def test_by_where_the_address_lies(text: str, kind: PlacementKind, destination: str, settings: Config) -> None:
    found = placed(text, settings)
    assert (found.kind, found.destination, found.eni.id) == (kind, ip_network(destination), "eni-1")


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("10.10.2.50", "10.10.2.0/24"),
        ("10.10.2.0", "10.10.2.0/24"),
        ("10.10.254.1", "10.10.254.0/28"),
        ("2600:1f14:0:2::1", "2600:1f14:0:2::/64"),
    ],
)
def test_another_subnet_of_the_vpc_is_routed_whole_where_that_is_allowed(text: str, destination: str) -> None:
    found = placed(text, LOOPBACKS)
    assert (found.kind, found.destination) == (SUBNET_ROUTE, ip_network(destination))
    problem = refused(text)
    assert "SubnetBasedLoopbacks" in problem.text and problem.fatal


def test_while_the_subnets_are_not_known_nothing_is_said() -> None:
    assert place(ip_address("10.10.2.50"), "net1", eni(), LOOPBACKS, None) is None
    assert placed("10.10.1.50", LOOPBACKS, None).kind is ENI_ADDRESS
    assert placed("192.168.0.1", LOOPBACKS, None).kind is HOST_ROUTE
    assert isinstance(place(ip_address("10.10.2.50"), "net1", eni(), DEFAULTS, None), Problem)


def test_an_address_in_the_vpc_but_in_no_subnet_names_what_to_do() -> None:
    problem = refused("10.10.77.1", LOOPBACKS)
    assert "no subnet" in problem.text and "create a subnet" in problem.text and problem.fatal


@pytest.mark.parametrize("text", ["10.10.1.0", "10.10.1.1", "10.10.1.2", "10.10.1.3", "10.10.1.255"])
def test_addresses_that_aws_keeps_are_named(text: str) -> None:
    assert "reserved" in refused(text).text


@pytest.mark.parametrize("last", ["::", "::3", ":ffff:ffff:ffff:ffff"])
def test_so_are_those_of_ipv6(last: str) -> None:
    assert "reserved" in refused(str(ip_address(f"2600:1f14:0:1{last}"))).text


def test_assign_true_makes_an_address_outside_the_enis_subnet_an_error() -> None:
    for text in ("192.168.0.1", "10.10.2.50", "fd00::1"):
        problem = refused(text, config(AssignIPs="True", SubnetBasedLoopbacks="True"))
        assert 'AssignIPs: "Auto"' in problem.text and problem.fatal
    assert placed("10.10.1.50", config(AssignIPs="True")).kind is ENI_ADDRESS


def test_assign_false_never_assigns_and_says_so_without_failing() -> None:
    problem = refused("10.10.1.50", config(AssignIPs="False"))
    assert "AssignIPs" in problem.text and not problem.fatal
    assert placed("192.168.0.1", config(AssignIPs="False")).kind is HOST_ROUTE


def test_an_eni_of_a_subnet_with_two_cidrs_has_both() -> None:
    both = eni(subnet_cidrs=(ip_network("10.10.1.0/24"), ip_network("10.10.99.0/24")))
    found = place(ip_address("10.10.99.7"), "net1", both, DEFAULTS, None)
    assert isinstance(found, Placement) and found.kind is ENI_ADDRESS


IN_VPC = st.integers(0, 2**16 - 1).map(lambda bits: VPC_CIDRS[0][bits])
ANYWHERE = st.one_of(IN_VPC, st.ip_addresses(v=4), st.ip_addresses(v=6))
SETTINGS = st.builds(
    lambda loopbacks, assign: config(SubnetBasedLoopbacks=loopbacks, AssignIPs=assign),
    st.sampled_from(["True", "False"]),
    st.sampled_from(["Auto", "True", "False"]),
)


@given(ANYWHERE, SETTINGS)
def test_whatever_is_placed_ec2_accepts(address: object, settings: Config) -> None:
    """A destination holds its address, and inside the VPC it is a subnet's whole CIDR or the ENI's own address."""
    found = place(address, "net1", eni(), settings, SUBNETS)  # type: ignore[arg-type]
    if not isinstance(found, Placement):
        assert isinstance(found, Problem) and found.text
        return
    assert found.address in found.destination
    inside = any(found.address.version == cidr.version and found.address in cidr for cidr in VPC_CIDRS)
    own = [cidr for cidr in eni().subnet_cidrs if cidr.version == found.address.version]
    if found.kind is HOST_ROUTE:
        assert not inside and found.destination.prefixlen == found.address.max_prefixlen
    elif found.kind is SUBNET_ROUTE:
        assert settings.subnet_routes and any(found.destination in each.cidrs for each in SUBNETS)
        assert found.destination not in own
    else:
        assert settings.assign is not False
        assert any(found.address in cidr and not reserved(found.address, cidr) for cidr in own)
