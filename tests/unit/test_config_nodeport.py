"""Settings of the nodeport mode that depend on each other: lease times, what floats and how."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tests.unit.test_config import problems
from vipmanager.config import check_nodeport, load
from vipmanager.errors import ConfigError
from vipmanager.floating import Floating, FloatingMode


@pytest.mark.parametrize(
    ("duration", "renew", "retry"),
    [("6", "4", "1"), ("2", "1", "0.5"), ("5", "4", "1"), ("15", "10", "2"), ("6", "1.2", "1"), ("6", "4.08", "3.4")],
)
def test_lease_times_that_are_consistent(duration: str, renew: str, retry: str) -> None:
    found = load({"LeaseDuration": duration, "RenewDeadline": renew, "RetryPeriod": retry})
    assert (found.lease_duration, found.renew_deadline, found.retry_period) == (
        int(duration),
        float(renew),
        float(retry),
    )


@pytest.mark.parametrize(
    ("duration", "renew", "retry", "key", "said"),
    [
        ("6", "5.1", "1", "RenewDeadline=5.1", "at most LeaseDuration - 1 = 5"),
        ("4", "4", "1", "RenewDeadline=4", "at most LeaseDuration - 1 = 3"),
        ("6", "4", "3.4", "RetryPeriod=3.4", "at most RenewDeadline / 1.2 = 3.333"),
        ("6", "1", "1", "RetryPeriod=1", "at most RenewDeadline / 1.2 = 0.8333"),
    ],
)
def test_lease_times_that_contradict_each_other(duration: str, renew: str, retry: str, key: str, said: str) -> None:
    (problem,) = problems(LeaseDuration=duration, RenewDeadline=renew, RetryPeriod=retry)
    assert problem.startswith(key) and said in problem


def test_lease_times_are_not_compared_while_one_cannot_be_read() -> None:
    (problem,) = problems(LeaseDuration="soon", RenewDeadline="100")
    assert problem.startswith("LeaseDuration='soon'")


def nodeport_problems(**values: str) -> tuple[str, ...]:
    """What the nodeport mode says of settings that are accepted one by one."""
    with pytest.raises(ConfigError) as caught:
        check_nodeport(load(values))
    return caught.value.problems


EIPS = "eipalloc-00000001,eipalloc-00000002"


@pytest.mark.parametrize(
    "values",
    [
        {"FLOATING_IP": "10.0.0.80"},
        {"FLOATING_IP": "2001:db8::80"},
        {"FLOATING_IP": "eipalloc-00000001"},
        {"FLOATING_IP": f"10.0.0.80,{EIPS}"},
        {"FLOATING_IP": f"10.0.0.80,10.0.0.81,{EIPS}"},
        {"FLOATING_IP": "192.168.0.80,eipalloc-00000001", "FloatingMode": "route"},
        {"FLOATING_IP": "10.0.0.80", "FloatingMode": "eni"},
        {"FLOATING_IP": "10.0.0.84", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.80/28"},
        {"FLOATING_IP": "10.0.0.94", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.80/28"},
        {"FLOATING_IP": "eipalloc-00000001", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.80/28"},
    ],
)
def test_what_nodeport_accepts(values: dict[str, str]) -> None:
    check_nodeport(load(values))


@pytest.mark.parametrize(
    ("values", "key", "said"),
    [
        ({}, "FLOATING_IP=''", "nothing floats"),
        ({"FLOATING_IP": ","}, "FLOATING_IP=''", "nothing floats"),
        ({"FLOATING_IP": EIPS}, "FLOATING_IP=", "2 Elastic IPs have no floating IPv4 address"),
        ({"FLOATING_IP": f"2001:db8::80,{EIPS}"}, "FLOATING_IP=", "2 Elastic IPs"),
        ({"FLOATING_IP": f"192.168.0.80,{EIPS}", "FloatingMode": "route"}, "FLOATING_IP=", "2 Elastic IPs"),
        (
            {"FLOATING_IP": "10.0.0.80", "FloatingSubnetCidr": "10.0.0.0/24"},
            "FloatingSubnetCidr=",
            "FloatingMode subnet",
        ),
        ({"FLOATING_IP": "10.0.0.80", "FloatingMode": "subnet"}, "FloatingSubnetCidr=''", "needs it"),
        (
            {"FLOATING_IP": "10.0.1.80", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.0/24"},
            "FLOATING_IP=",
            "10.0.1.80 does not lie in",
        ),
        (
            {"FLOATING_IP": "2001:db8::80", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.0/24"},
            "FLOATING_IP=",
            "2001:db8::80 does not lie in",
        ),
        (
            {"FLOATING_IP": "10.0.0.83", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.80/28"},
            "FLOATING_IP=",
            "AWS reserves 10.0.0.83",
        ),
        (
            {"FLOATING_IP": "10.0.0.95", "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.80/28"},
            "FLOATING_IP=",
            "AWS reserves 10.0.0.95",
        ),
    ],
)
def test_what_nodeport_refuses(values: dict[str, str], key: str, said: str) -> None:
    (problem,) = nodeport_problems(**values)
    assert problem.startswith(key) and said in problem


def test_nodeport_tells_all_problems_at_once() -> None:
    told = nodeport_problems(
        FLOATING_IP=f"2001:db8::80,{EIPS}", FloatingMode="subnet", FloatingSubnetCidr="10.0.0.0/24"
    )
    assert len(told) == 2


def test_other_modes_do_not_need_anything_to_float() -> None:
    assert load({}).floating == Floating()


@pytest.mark.parametrize(
    ("mode", "partners"),
    [
        ("address", ["10.0.0.80", "10.0.0.81", None]),
        ("eni", ["10.0.0.80", "10.0.0.81", None]),
        ("subnet", ["10.0.0.80", "10.0.0.81", None]),
        ("route", [None, None, None]),
    ],
)
def test_elastic_ips_pair_with_the_ipv4_addresses_in_order(mode: str, partners: list[str | None]) -> None:
    eips = [f"eipalloc-0000000{number}" for number in range(3)]
    floating = load({"FLOATING_IP": ",".join([eips[0], "2001:db8::80", "10.0.0.80", *eips[1:], "10.0.0.81"])}).floating
    expected = [None if text is None else ip_address(text) for text in partners]
    assert floating.partners(FloatingMode(mode)) == dict(zip(eips, expected, strict=True))


@pytest.mark.parametrize("text", ["tcp://:30007", "http://[::1]:8080/a?b=c", "https://node:443/"])
def test_a_health_check_prints_as_it_is_written(text: str) -> None:
    assert str(load({"HealthCheck": text}).health_check) == text
