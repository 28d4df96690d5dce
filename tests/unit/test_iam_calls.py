"""No run of the agent calls an operation that the policy for its settings and mode does not allow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.doubles.faults import Call
from tests.unit.agents import PEER, Pod, Pods
from vipmanager import iam
from vipmanager.config import load
from vipmanager.errors import ErrorKind

INSIDE, INSIDE6, ROUTED, IN_SUBNET = "10.10.1.77", "2600:1f14:0:1::77", "192.168.0.1", "10.10.3.7"
NAMES = {
    "route_tables": "DescribeRouteTables",
    "enis": "DescribeNetworkInterfaces",
    "enis_by_mac": "DescribeNetworkInterfaces",
    "enis_holding": "DescribeNetworkInterfaces",
    "subnets": "DescribeSubnets",
    "elastic_ips": "DescribeAddresses",
    "create_route": "CreateRoute",
    "replace_route": "ReplaceRoute",
    "delete_route": "DeleteRoute",
    "disable_source_dest_check": "ModifyNetworkInterfaceAttribute",
    "associate": "AssociateAddress",
}
COMBINATIONS = [
    {"AssignIPs": assign, "SourceDestCheck": check, "SubnetBasedLoopbacks": subnets, **eips}
    for assign, check, subnets, eips in itertools.product(
        ("Auto", "True", "False"),
        ("Disable", "Keep"),
        ("True", "False"),
        ({}, {"Intf1EIPs": f"{INSIDE}=eipalloc-00000001"}),
    )
]


def operation(call: Call) -> str:
    """The operation of EC2 behind a call of the port."""
    if call.operation in NAMES:
        return NAMES[call.operation]
    version = call.arguments[1].version
    verb = call.operation.capitalize()
    return f"{verb}Ipv6Addresses" if version == 6 else f"{verb}PrivateIpAddresses"


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """One with an address of each placement; another worker has two of them."""
    pods = Pods(tmp_path)
    made = pods([INSIDE, INSIDE6, ROUTED, IN_SUBNET])
    made.ec2.add_eip("eipalloc-00000001", "203.0.113.1")
    made.ec2.assign(PEER, [ip_address(INSIDE6)])
    made.region.ec2.faults.calls.clear()
    yield made
    pods.close()


def beyond(pod: Pod, settings: dict[str, str], mode: str) -> set[str]:
    """What was called and is not in the policy."""
    return {operation(call) for call in pod.calls()} - set(iam.operations(load(settings), mode))


@pytest.mark.parametrize("imds", [True, False], ids=["", "without IMDS"])
@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda settings: " ".join(settings.values()))
def test_an_init_run_stays_within_its_policy(pod: Pod, settings: dict[str, str], imds: bool) -> None:
    if not imds:
        pod.imds.faults.fail("enis", ErrorKind.INVALID, times=None)
    pod.init(**settings)
    assert pod.calls()
    assert beyond(pod, settings, "init") == set()


@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda settings: " ".join(settings.values()))
def test_a_sidecar_stays_within_its_policy(pod: Pod, settings: dict[str, str]) -> None:
    """Addresses come, some leave, and the rest is released at the end."""
    settings = {**settings, "DeleteRoutesOnExit": "True"}
    run = pod.sidecar(**settings)
    first = INSIDE if settings["AssignIPs"] != "False" else ROUTED

    def there() -> bool:
        return pod.routed(ROUTED) if first == ROUTED else pod.ec2.holder(INSIDE) == "eni-1"

    pod.wait(there)
    pod.kernel.set_addresses("net1", INSIDE6)
    pod.pass_time(1.0)
    pod.wait(lambda: run.agent._plan.claims.get(ip_address(first)) is None or _vanished(run, first))
    pod.pass_time(20.0)
    pod.wait(lambda: not there())
    assert run.stop() == 0
    assert beyond(pod, settings, "sidecar") == set()


def _vanished(run: object, address: str) -> bool:
    claims = run.agent._plan.claims  # type: ignore[attr-defined]
    return claims[ip_address(address)].vanished is not None
