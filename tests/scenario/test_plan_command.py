"""`vipmanager plan`: what it says is what a run does, nothing is changed by that, and its exit code can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab import links
from lab.ec2.layer import Call
from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.nodeport_support import Nodes
from tests.scenario.support import (
    ONE_AZ,
    PEER1_NET,
    Run,
    add_bridge,
    eni,
    init,
    own_address6,
    pod_routes,
    pod_rules,
    point,
    set_check,
    sidecar,
    start,
)

pytestmark = pytest.mark.namespaces

ROUTED, ROUTED6, OWN = "192.168.0.1", "fd12::1", "10.10.11.77"
SUBNET_ADDRESS, SUBNET = "10.10.254.5", "10.10.254.0/28"
NOTHING, ERROR, CHANGES = 0, 1, 2
CALLS_OF_A_PAGE = 6  # attempts for one describe


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Workers a and c share an AZ, so that a subnet's own address can move between them."""
    return make_lab(workers=ONE_AZ, internet=True)


def kernel(pod: Pod) -> tuple[Any, ...]:
    """What of a pod's network a plan might have changed."""
    addresses = links.netlink(pod.ns, lambda iproute: list(iproute.get_addr()))
    kept = sorted((each["index"], str(each.get("IFA_ADDRESS")), each["prefixlen"]) for each in addresses)
    return pod_routes(pod), pod_rules(pod), kept


def files(pod: Pod) -> dict[str, bytes]:
    """What it has written beside the logs."""
    found = (each for each in pod.directory.rglob("*") if each.is_file() and each.suffix != ".log")
    return {str(each): each.read_bytes() for each in found}


def plan(lab: Lab, pod: Pod, *arguments: str, env: Mapping[str, str] | None = None, **settings: object) -> Run:
    """Run `vipmanager plan ARGUMENTS` to its end. EC2, the pod's kernel and its files are as they were."""
    mark, state, before = lab.ec2.mark(), lab.ec2.state(), (kernel(pod), files(pod))
    run = start(pod, "plan", *arguments, env=env, **settings)
    run.ends()
    assert lab.ec2.state() is state
    assert (kernel(pod), files(pod)) == before
    assert all(only_asks(call) for call in lab.ec2.calls_since(mark)), run.text
    return run


def only_asks(call: Call) -> bool:
    """Whether a call changes nothing: a describe, or a question about what would be allowed."""
    return call.action.startswith("Describe") or call.params.get("DryRun") == "true" or call.service != "ec2"


def told(run: Run) -> dict[str, Any]:
    """The JSON."""
    data: dict[str, Any] = json.JSONDecoder().raw_decode(run.text[run.text.index("{\n") :])[0]
    return data


def code(run: Run) -> int | None:
    """The exit code."""
    return run.container.returncode


Write = tuple[str, ...]


def planned(data: Mapping[str, Any]) -> list[Write]:
    """The writes to EC2 that a plan announces."""
    steps = [step for address in data["addresses"] for step in address["steps"]] + data["shared"]
    return sorted(_write(step) for step in steps if step["do"] != "keep")


def _write(step: Mapping[str, Any]) -> Write:
    if step["kind"] == "route":
        verb = {"add": "CreateRoute", "change": "ReplaceRoute", "remove": "DeleteRoute"}[step["do"]]
        return verb, step["table"], step["destination"], step.get("to", "")
    if step["kind"] == "address":
        verb = "unassign" if step["do"] == "remove" else "assign"
        return verb, step["address"], step["from"] if verb == "unassign" else step["to"]
    if step["kind"] == "eip":
        return "AssociateAddress", step["eip"], step["address"], step["to"]
    return "ModifyNetworkInterfaceAttribute", step["eni"]


def written(calls: list[Call]) -> list[Write]:
    """The writes to EC2 that were made, in the same words; addresses that went in one call each for itself."""
    found: list[Write] = []
    for call in calls:
        params, on = call.params, call.params.get("NetworkInterfaceId", "")
        if call.action.endswith("Route"):
            destination = params.get("DestinationCidrBlock") or params["DestinationIpv6CidrBlock"]
            found.append((call.action, params["RouteTableId"], destination, on))
        elif "assign" in call.action.lower():
            verb = "unassign" if call.action.startswith("Un") else "assign"
            listed = (key for key in params if re.fullmatch(r"(PrivateIpAddress|Ipv6Addresses)\.\d+", key))
            found += [(verb, params[key], on) for key in listed]
        elif call.action == "AssociateAddress":
            found.append((call.action, params["AllocationId"], params["PrivateIpAddress"], on))
        else:
            found.append((call.action, on))
    return sorted(found)


# what it says is what is done


@dataclass(frozen=True)
class World:
    """What a pod on worker a finds: `make` is done to the lab first, and returns further settings."""

    name: str
    net1: tuple[str, ...]
    make: Callable[[Lab], Mapping[str, object]] = lambda _: {}
    settings: Mapping[str, object] = field(default_factory=dict)
    net2: tuple[str, ...] = ()


def _dead_holder(lab: Lab) -> Mapping[str, object]:
    point(lab, f"{ROUTED}/32", eni(lab, "b", 1))
    lab.terminate("b")
    return {}


def _live_holder(lab: Lab) -> Mapping[str, object]:
    point(lab, f"{ROUTED}/32", eni(lab, "b", 1), lab.route_table_ids[:2])
    point(lab, f"{ROUTED}/32", eni(lab, "a", 1), lab.route_table_ids[2:3])
    return {}


def _own_address_elsewhere(lab: Lab) -> Mapping[str, object]:
    lab.ec2.admin().assign_private_ip_addresses(NetworkInterfaceId=eni(lab, "c", 1), PrivateIpAddresses=[OWN])
    return {}


def _own_address6_elsewhere(lab: Lab) -> Mapping[str, object]:
    address = own_address6(lab, "a", 1, 0x77)
    lab.ec2.admin().assign_ipv6_addresses(NetworkInterfaceId=eni(lab, "c", 1), Ipv6Addresses=[address])
    return {}


def _eip_elsewhere(lab: Lab) -> Mapping[str, object]:
    eip, _ = lab.allocate_eip()
    _own_address_elsewhere(lab)
    lab.ec2.admin().associate_address(
        AllocationId=eip, NetworkInterfaceId=eni(lab, "c", 1), PrivateIpAddress=OWN, AllowReassociation=True
    )
    return {"Intf1EIPs": f"{OWN}={eip}"}


def _check_is_off(lab: Lab) -> Mapping[str, object]:
    set_check(lab, eni(lab, "a", 1), on=False)
    return {}


WORLDS = (
    World("nothing is there", (f"{ROUTED}/32", f"{ROUTED6}/128")),
    World("a dead holder, peers", (f"{ROUTED}/32",), _dead_holder, {"Intf1Peers": PEER1_NET}),
    World("a live holder of some tables", (f"{ROUTED}/32",), _live_holder),
    World("the subnet's own address, on another ENI", (f"{OWN}/24", f"{ROUTED}/32"), _own_address_elsewhere),
    World("an IPv6 address of the subnet, on another ENI", ("{own6}/64",), _own_address6_elsewhere),
    World("an Elastic IP, bound elsewhere", (f"{OWN}/24",), _eip_elsewhere),
    World("an address of another subnet", (f"{SUBNET_ADDRESS}/28",), settings={"SubnetBasedLoopbacks": "True"}),
    World("one table only, its check off", (f"{ROUTED}/32",), _check_is_off, {"VPCRTTag": "Name=rt-1"}),
    World("two interfaces", (f"{ROUTED}/32",), net2=("192.168.0.2/32", "10.10.12.77/24"), settings={"UseSBR": "True"}),
)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_an_init_run_does_what_the_plan_said(lab: Lab, world: World) -> None:
    """The same writes to EC2, the same routes and rules in the pod, and nothing left to do then."""
    settings = {**world.settings, **world.make(lab)}
    net1 = [each.format(own6=own_address6(lab, "a", 1, 0x77)) for each in world.net1]
    pod = lab.pod("pod", "a", {"net1": net1, **({"net2": list(world.net2)} if world.net2 else {})})
    run = plan(lab, pod, "init", "--json", **settings)
    data = told(run)
    assert (code(run), data["result"]) == (CHANGES, "changes")
    routes, mark = pod_routes(pod), lab.ec2.mark()
    init(pod, **settings)
    assert written([call for call in lab.ec2.calls_since(mark) if not only_asks(call)]) == planned(data)
    new = {key: value for key, value in pod_routes(pod).items() if routes.get(key) != value}
    here = [step for step in data["here"] if step["kind"] == "pod-route"]
    assert new == {(step["table"], step["destination"]): (step["via"], step["device"]) for step in here}
    rules = [step for step in data["here"] if step["kind"] == "pod-rule"]
    assert pod_rules(pod) == {step["source"].partition("/")[0]: step["table"] for step in rules}
    again = plan(lab, pod, "init", "--json", **settings)
    assert (code(again), told(again)["result"], told(again)["changes"]) == (NOTHING, "nothing to do", 0)


def test_the_text_reads_like_a_diff(lab: Lab) -> None:
    """Grouped by address, in the words of the status, without colours where nobody looks."""
    tables, own, other = sorted(lab.route_table_ids), eni(lab, "a", 1), eni(lab, "b", 1)
    point(lab, f"{ROUTED}/32", other, [tables[0]])
    lab.terminate("b")
    point(lab, f"{ROUTED}/32", own, [tables[1]])
    pod = lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]})
    run = plan(lab, pod, "init", Intf1Peers=PEER1_NET)
    assert run.text.splitlines() == [
        f"{ROUTED} on net1 ({own} index 1): host-route, pending",
        f"    ~ {own} source/dest check on -> off",
        f"    ~ {tables[0]}  {ROUTED}/32  {other} (blackhole) -> {own}",
        f"      {tables[1]}  {ROUTED}/32  {own} (in place)",
        f"    + {tables[2]}  {ROUTED}/32  -> {own}",
        f"    + {tables[3]}  {ROUTED}/32  -> {own}",
        "pod",
        f"    + route {PEER1_NET} via 10.10.11.1 dev net1",
        "5 changes, 0 denied, 0 problems",
    ]


# what cannot be done


def test_what_would_be_denied_is_named_by_table(lab: Lab) -> None:
    """One of four tables: exit code 1, because it cannot be done, and the remedy that an init run would give."""
    table = lab.route_table_ids[2]
    refused = {"status": 403, "times": None, "when": lambda params: params["RouteTableId"] == table}
    lab.ec2.faults.fail("CreateRoute", "UnauthorizedOperation", **refused)  # type: ignore[arg-type]
    pod = lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]})
    run = plan(lab, pod, "init", "--json")
    (denied,) = told(run)["denied"]
    assert (code(run), denied["action"], denied["ids"], denied["changes"]) == (ERROR, "ec2:CreateRoute", table, 1)
    text = plan(lab, pod, "init").text
    assert f"denied: ec2:CreateRoute on arn:aws:ec2:*:*:route-table/{table} (1 change): {denied['remedy']}" in text
    real = start(pod, "init", InitTimeout=1)
    assert real.ends() == ERROR
    assert real.mentions(denied["remedy"])


def test_an_address_without_placement_is_a_problem(lab: Lab) -> None:
    pod = lab.pod("pod", "a", {"net1": [f"{SUBNET_ADDRESS}/28"]})
    run = plan(lab, pod, "init", "--json")
    (problem,) = told(run)["problems"]
    assert (code(run), problem["fatal"]) == (ERROR, True)
    assert "SubnetBasedLoopbacks" in problem["text"]


@pytest.mark.parametrize("interface", ["none", "one that is no ENI's"])
def test_a_pod_without_interface_has_nothing_to_plan(lab: Lab, interface: str) -> None:
    pod = lab.pod("pod", "a", {})
    if interface != "none":
        add_bridge(pod, "br0", f"{ROUTED}/32")
    run = plan(lab, pod, "init")
    assert code(run) == ERROR
    assert "nothing to deliver" in run.text


def test_throttled_describes_are_repeated_within_bounds(lab: Lab) -> None:
    """A few times; then it says why it cannot look, in JSON too."""
    lab.ec2.faults.throttle("DescribeRouteTables", bucket=0, refill=0.0)
    pod = lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]})
    mark = lab.ec2.mark()
    run = plan(lab, pod, "init", "--json")
    asked = [call for call in lab.ec2.calls_since(mark) if call.action == "DescribeRouteTables"]
    assert 1 < len(asked) <= CALLS_OF_A_PAGE
    assert (code(run), told(run)["result"]) == (ERROR, "error")
    assert "RequestLimitExceeded" in told(run)["error"]
    assert "cannot look" in run.text


def test_describes_that_are_denied_end_it_at_once(lab: Lab) -> None:
    lab.ec2.faults.deny("ec2:DescribeRouteTables")
    pod = lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]})
    mark = lab.ec2.mark()
    run = plan(lab, pod, "init")
    assert code(run) == ERROR
    assert "ec2:DescribeRouteTables" in run.text
    assert [call.action for call in lab.ec2.calls_since(mark)].count("DescribeRouteTables") == 1


# where it looks from


def test_without_imds_it_sees_the_same(lab: Lab) -> None:
    pod = lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]})
    seen = told(plan(lab, pod, "init", "--json"))
    lab.imds.block()
    assert told(plan(lab, pod, "init", "--json")) == seen


def test_what_a_sidecar_has_conceded_stays_conceded(lab: Lab) -> None:
    """By the claims in StateDir, which it shares with the sidecar; an init run would take the address back."""
    pod = lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]})
    running = sidecar(pod, ROUTED, ResyncInterval=1)
    other = eni(lab, "b", 1)
    point(lab, f"{ROUTED}/32", other)
    running.wait("conceded", address=ROUTED, to=other)
    assert running.stop() == 0
    run = plan(lab, pod, "sidecar", "--json")
    (address,) = told(run)["addresses"]
    assert (code(run), address["state"], address["conceded_to"]) == (NOTHING, "conceded", other)
    assert f"conceded to {other}" in plan(lab, pod, "sidecar").text
    assert code(plan(lab, pod, "init")) == CHANGES


def test_a_pod_can_be_supposed(lab: Lab) -> None:
    """Neither pod interface nor IMDS: facts of the ENI come from EC2, and the routes are what the pod would get."""
    there = lab.pod("there", "a", {"net1": [f"{ROUTED}/32", f"{OWN}/24"]})
    wanted = told(plan(lab, there, "init", "--json", Intf1Peers=PEER1_NET))
    lab.imds.block()
    nowhere = lab.pod("nowhere", "b", {})
    on = ("--on", f"{eni(lab, 'a', 1)}={ROUTED},{OWN}")
    run = plan(lab, nowhere, "init", "--json", *on, Intf1Peers=PEER1_NET)
    assert code(run) == CHANGES
    assert planned(told(run)) == planned(wanted)
    (route,) = told(run)["here"]
    assert (route["destination"], route["via"], route["device"]) == (PEER1_NET, "10.10.11.1", "the interface")
    assert code(plan(lab, nowhere, "init", "--on", f"eni-0123456789abcdef0={ROUTED}")) == ERROR
    assert code(plan(lab, nowhere, "init", "--on", "net1=192.168.0.1")) == 64


# nodeport


@pytest.fixture
def node_lab(make_lab: Callable[..., Lab]) -> Lab:
    """With a Kubernetes API."""
    return make_lab(workers=ONE_AZ, internet=True, kube=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"FLOATING_IP": "10.10.11.80,{eip}"},
        {"FLOATING_IP": "{address6}"},
        {"FLOATING_IP": "192.168.0.80,fd12::80", "FloatingMode": "route"},
    ],
    ids=["address with an Elastic IP", "address, IPv6", "route"],
)
def test_a_standby_says_what_it_would_do_and_then_does_it(node_lab: Lab, settings: dict[str, object]) -> None:
    """With the lease at another node, who is named; and once that node has ended, it does just that."""
    lab = node_lab
    nodes = Nodes(lab, "ac", **settings)
    try:
        nodes.start("a")
        nodes.wait_holder("a")
        mark = lab.ec2.mark()
        run = nodes.launch("plan", "nodeport", "--json", worker="c")
        assert run.ends() == CHANGES, run.text
        worker = lab.workers["c"].env["AWS_ACCESS_KEY_ID"]
        mine = [call for call in lab.ec2.calls_since(mark) if call.access_key == worker]
        assert mine
        assert all(only_asks(call) for call in mine)
        data = told(run)
        assert "np-a has it" in data["holder"]
        assert [address["name"] for address in data["addresses"]] == nodes.names
        mark = lab.ec2.mark()
        nodes.start("c")
        nodes.stop("a")
        nodes.wait_holder("c")
        made = [call for call in lab.ec2.calls_since(mark) if call.access_key == worker and not only_asks(call)]
        assert written(made) == planned(data)
        after = nodes.launch("plan", "nodeport", "--json", worker="c")
        assert after.ends() == NOTHING, after.text
    finally:
        nodes.close()


def test_without_kubernetes_the_holder_is_not_known(node_lab: Lab) -> None:
    nodes = Nodes(node_lab, "a", FLOATING_IP="10.10.11.80")
    try:
        run = nodes.launch("plan", "nodeport", worker="a", env={"POD_NAMESPACE": ""})
        assert run.ends() == CHANGES, run.text
        assert "who has it is not known: POD_NAMESPACE is empty" in run.text
        assert "+ address 10.10.11.80 dev" in run.text
    finally:
        nodes.close()
