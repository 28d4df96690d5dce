"""Free addresses of a subnet, and what `vipmanager free-ips` prints."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.ec2 import VPC, FakeEc2
from vipmanager.errors import ErrorKind
from vipmanager.free_ips import free_addresses, run
from vipmanager.model import EniDescription, Network, Subnet

SUBNET = "subnet-1"


def eni(*addresses: str, prefixes: tuple[str, ...] = ()) -> EniDescription:
    """An ENI with these addresses and delegated prefixes."""
    held = tuple(ip_address(address) for address in addresses)
    delegated = tuple(ip_network(prefix) for prefix in prefixes)
    return EniDescription("eni-1", "", 0, SUBNET, VPC, "1", held, frozenset(held[:1]), True, True, prefixes=delegated)


def free(cidrs: list[str], enis: list[EniDescription], family: int = 4, count: int = 3) -> list[str]:
    """The free addresses as text."""
    subnet = Subnet(SUBNET, tuple(ip_network(cidr) for cidr in cidrs))
    return [str(address) for address in free_addresses(subnet, enis, family, count)]


def test_the_first_four_and_the_last_are_reserved() -> None:
    assert free(["10.0.0.0/28"], [], count=99) == [f"10.0.0.{number}" for number in range(4, 15)]


def test_of_ipv6_the_first_four_are_reserved_too() -> None:
    assert free(["2001:db8::/64"], [], 6) == ["2001:db8::4", "2001:db8::5", "2001:db8::6"]


def test_primary_and_secondary_addresses_are_taken() -> None:
    taken = [eni("10.0.0.4", "10.0.0.6"), eni("10.0.0.8")]
    assert free(["10.0.0.0/24"], taken, count=4) == ["10.0.0.5", "10.0.0.7", "10.0.0.9", "10.0.0.10"]


def test_delegated_prefixes_are_taken_whole() -> None:
    taken = [eni("10.0.0.5", prefixes=("10.0.0.16/28", "10.0.0.32/28"))]
    assert free(["10.0.0.0/24"], taken, count=13)[-3:] == ["10.0.0.15", "10.0.0.48", "10.0.0.49"]
    taken = [eni(prefixes=("2001:db8::/80",))]
    assert free(["2001:db8::/64"], taken, 6, 1) == ["2001:db8:0:0:1::"]


def test_one_family_does_not_hide_the_other() -> None:
    both = ["10.0.0.0/24", "::a00:0/120"]  # the same numbers
    taken = [eni("10.0.0.4", "::a00:5")]
    assert free(both, taken, 4, 2) == ["10.0.0.5", "10.0.0.6"]
    assert free(both, taken, 6, 2) == ["::a00:4", "::a00:6"]


def test_each_cidr_of_a_family_is_looked_through_the_lowest_first() -> None:
    cidrs = ["2001:db8:2::/126", "2001:db8:1::/125"]
    assert free(cidrs, [eni("2001:db8:1::5")], 6, 9) == ["2001:db8:1::4", "2001:db8:1::6"]


def test_a_full_ipv4_16_has_none_but_those_that_are_given_up() -> None:
    everything = [str(address) for address in ip_network("10.0.0.0/16")]
    gone = {"10.0.200.7", "10.0.255.254"}
    full = [eni(*(each for each in everything if each not in gone))]
    assert free(["10.0.0.0/16"], full, count=5) == sorted(gone)


def test_an_ipv6_64_is_not_counted_through() -> None:
    taken = [eni("2001:db8::4", "2001:db8::6", "2001:db8::ffff:ffff:ffff:fffe")]
    assert free(["2001:db8::/64"], taken, 6, 2) == ["2001:db8::5", "2001:db8::7"]


@given(
    st.sampled_from(["10.0.0.0/28", "10.0.0.16/28", "10.0.0.32/27", "2001:db8::/123"]),
    st.sets(st.integers(0, 63)),
    st.sets(st.integers(0, 3)),
    st.integers(0, 40),
)
def test_it_is_what_a_look_at_each_address_gives(cidr: str, numbers: set[int], prefixes: set[int], count: int) -> None:
    net = ip_network(cidr)
    base = net.supernet(new_prefix=net.max_prefixlen - 6)
    held = {base[number] for number in numbers}
    delegated: list[Network] = [ip_network((int(base[16 * k]), net.max_prefixlen - 4)) for k in prefixes]
    if isinstance(net, IPv4Network):
        delegated = [ip_network(f"{base[16 * k]}/28") for k in prefixes]
    enis = [eni(*(str(each) for each in held), prefixes=tuple(str(each) for each in delegated))]
    naive = [
        str(address)
        for number, address in enumerate(net)
        if 4 <= number < net.num_addresses - 1
        and address not in held
        and not any(address in prefix for prefix in delegated)
    ]
    assert free([cidr], enis, net.version, count) == naive[:count]


# What is printed -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ec2() -> FakeEc2:
    made = FakeEc2()
    made.add_vpc(VPC, "10.10.0.0/16")
    made.add_subnet(SUBNET, "10.10.1.0/28")
    made.add_eni("eni-1", "02:00:00:00:00:01", 0, SUBNET, "10.10.1.4", "10.10.1.6")
    return made


def test_one_a_line_and_nothing_else(ec2: FakeEc2, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ec2, SUBNET, 4, 2) == 0
    assert capsys.readouterr() == ("10.10.1.5\n10.10.1.7\n", "")


def test_too_few_are_printed_and_counted(ec2: FakeEc2, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ec2, SUBNET, 4, 10) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 9
    assert SUBNET in err and " 9 " in err and " 10" in err


@pytest.mark.parametrize(("subnet", "family", "told"), [("subnet-9", 4, "subnet-9"), (SUBNET, 6, "IPv6")])
def test_what_is_not_there_is_said(
    ec2: FakeEc2, capsys: pytest.CaptureFixture[str], subnet: str, family: int, told: str
) -> None:
    assert run(ec2, subnet, family, 1) == 1
    out, err = capsys.readouterr()
    assert out == "" and told in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("operation", ["subnet", "enis_in_subnet"])
def test_a_call_that_fails_is_told(ec2: FakeEc2, capsys: pytest.CaptureFixture[str], operation: str) -> None:
    ec2.faults.fail(operation, ErrorKind.DENIED, code="UnauthorizedOperation")
    assert run(ec2, SUBNET, 4, 1) == 1
    out, err = capsys.readouterr()
    assert out == "" and "UnauthorizedOperation" in err
