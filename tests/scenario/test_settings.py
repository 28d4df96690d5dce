"""Settings and arguments that say how: the route table role, placements, the source/dest check, modes, manifests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab.lab import Lab
from tests.scenario.support import (
    PEER1_NET,
    assert_answers,
    assert_silent,
    eni,
    eni_state,
    holder,
    init,
    pod_routes,
    sidecar,
    start,
    start_by,
    targets,
)

pytestmark = pytest.mark.namespaces

ONE, TWO = "192.168.0.1", "192.168.0.2"
INSIDE = "10.10.11.77"
ROUTED = {"net1": [f"{ONE}/32"], "net2": [f"{TWO}/32"]}

# Roles and placements as configured


def test_the_route_table_role_is_used_for_route_tables_and_nothing_else(lab: Lab) -> None:
    """A shared VPC's tables belong to another account, its ENIs do not."""
    arn = f"arn:aws:iam::{lab.ec2.account_id}:role/tables"
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/32"]}), RouteTableRole=arn)
    assert_answers(lab, ONE, INSIDE)
    workers = lab.env("a")["AWS_ACCESS_KEY_ID"]
    keys: dict[bool, set[str | None]] = {True: set(), False: set()}
    for call in lab.ec2.calls:
        keys["Route" in call.action].add(call.access_key)
    assert keys[False] == {workers}
    assert len(keys[True]) == 1
    assert workers not in keys[True]
    assumed = lab.ec2.calls_since(0, "AssumeRole")
    assert [(call.params["RoleArn"], call.access_key) for call in assumed] == [(arn, workers)]


def test_a_route_table_role_that_may_not_be_assumed_is_named(lab: Lab) -> None:
    """And what needs no route table goes on."""
    lab.ec2.faults.deny("sts:AssumeRole")
    arn = f"arn:aws:iam::{lab.ec2.account_id}:role/tables"
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/32"]})
    run = sidecar(pod, INSIDE, RouteTableRole=arn)
    run.wait_mention("sts:AssumeRole", arn)
    assert holder(lab, INSIDE) == eni(lab, "a", 1)


def test_source_dest_check_keep_leaves_it_on_and_warns(lab: Lab) -> None:
    """No packet passes until somebody turns it off."""
    run = init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), SourceDestCheck="Keep")
    net1 = eni(lab, "a", 1)
    assert run.mentions(net1, "SourceDestCheck")
    assert eni_state(lab, net1).source_dest_check
    assert not lab.ec2.calls_since(0, "ModifyNetworkInterfaceAttribute")
    assert_silent(lab, ONE)
    assert {drop.reason for drop in lab.router.last_drops if drop.destination == ONE} == {"dest-check"}
    lab.ec2.admin().modify_network_interface_attribute(NetworkInterfaceId=net1, SourceDestCheck={"Value": False})
    assert_answers(lab, ONE)


def test_assign_ips_false_never_assigns(lab: Lab) -> None:
    """Routed addresses are none of its business."""
    run = init(lab.pod("pod", "a", {"net1": [f"{INSIDE}/24", f"{ONE}/32"]}), AssignIPs="False")
    assert not [call for call in lab.ec2.calls if call.action.startswith("Assign")]
    assert holder(lab, INSIDE) is None
    assert run.mentions(INSIDE, "AssignIPs")
    assert_answers(lab, ONE)


def test_assign_ips_true_makes_an_address_outside_the_subnet_an_error(lab: Lab) -> None:
    """It is named and not routed; the others are assigned."""
    run = start(lab.pod("pod", "a", {"net1": [f"{INSIDE}/24", f"{ONE}/32"]}), "init", AssignIPs="True")
    assert run.ends() == 1
    assert run.mentions(ONE, "AssignIPs")
    assert targets(lab, f"{ONE}/32") == {}
    assert holder(lab, INSIDE) == eni(lab, "a", 1)
    assert_answers(lab, INSIDE)


# Ways to be started


def test_settings_from_a_configmap_manifest(lab: Lab, tmp_path: Path) -> None:
    """The environment wins over it."""
    manifest = tmp_path / "settings.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vipmanager}\n"
        f'data:\n  Intf1Peers: "{PEER1_NET}"\n  VPCRTTag: "nothere"\n'
    )
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = start(pod, "init", "--configmap", str(manifest), VPCRTTag="vipmanager=yes")
    assert run.ends() == 0, run.text
    assert pod_routes(pod)[254, PEER1_NET] == ("10.10.11.1", "net1")
    assert_answers(lab, ONE, peers=["peer1"])


def test_a_configmap_that_cannot_be_read_is_a_wrong_setting(lab: Lab, tmp_path: Path) -> None:
    """78, naming the file."""
    missing = tmp_path / "missing.yaml"
    run = start(lab.pod("pod", "a", ROUTED), "init", f"--configmap={missing}")
    assert run.ends() == 78
    assert str(missing) in run.text
    assert lab.ec2.calls == []


@pytest.mark.parametrize(
    ("argument", "settings", "stays"),
    [
        ("initContainers", {"RunAsSidecar": "True"}, False),
        ("sidecar", {"RunAsSidecar": "False"}, True),
        ("init", {}, False),
        ("", {"RunAsSidecar": "True"}, True),
        ("", {"RunAsSidecar": "False"}, False),
        ("", {}, False),
    ],
)
def test_the_mode_comes_from_the_argument_or_else_from_run_as_sidecar(
    lab: Lab, argument: str, settings: dict[str, str], stays: bool
) -> None:
    """The console script's entry, with today's arguments and those of the old image."""
    entry = "from vipmanager.__main__ import entrypoint; entrypoint()"
    pod = lab.pod("pod", "a", ROUTED)
    run = start_by(lab, pod, sys.executable, "-c", entry, *filter(None, [argument]), **settings)
    run.wait("claimed", address=ONE)
    run.wait("claimed", address=TWO)
    if stays:
        pod.add_address("net1", "192.168.0.3/32")
        run.wait("claimed", address="192.168.0.3")
        assert run.stop() == 0
    else:
        assert run.ends() == 0
    assert_answers(lab, ONE, TWO)


def test_text_logs_tell_a_failover_in_under_ten_lines(lab: Lab) -> None:
    """The default format: an event a line, its facts as key=value."""
    run = init(lab.pod("pod", "a", ROUTED), LogFormat="text")
    lines = run.text.splitlines()
    assert len(lines) < 10, run.text
    claimed = [line for line in lines if " claimed " in line]
    assert len(claimed) == 2
    assert f"address={ONE} " in claimed[0]
    assert f"eni={eni(lab, 'a', 1)} " in claimed[0]
