"""`vipmanager plan` for pods: what it shows is what an init run then does, and nothing is done by looking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.faults import Call
from tests.unit.agents import PEER, WRITES, Pod, Pods
from tests.unit.builders import claim, claims
from vipmanager import commands
from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    PodAction,
    SetRoute,
    UnassignAddress,
)
from vipmanager.actions_node import CloudAction
from vipmanager.apply_node import carry_out
from vipmanager.arguments import UsageError, parse
from vipmanager.asking import ATTEMPTS, Asker
from vipmanager.claims import ClaimStore
from vipmanager.clients.ec2 import Ec2Client
from vipmanager.clients.ec2_permissions import Ec2Permissions
from vipmanager.config import load
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.ports import Permission
from vipmanager.preview.pod import Sources, parse_on, preview_on, preview_pod
from vipmanager.preview.steps import CHANGES, ERROR, NOTHING, Preview
from vipmanager.preview.text import as_json, as_text

OUTSIDE, OTHER, OUTSIDE6 = "192.168.0.1", "192.168.0.2", "fd12::1"
OWN, OWN6 = "10.10.1.50", "2600:1f14:0:1::50"
IN_SUBNET_3 = "10.10.3.7"
EIP = "eipalloc-0123456789abcdef0"
GONE = "eni-8"


class Permissions(Ec2Permissions):
    """What EC2 would say, without EC2: all is allowed but these (IAM action, id)."""

    def __init__(self, *refused: tuple[str, str], kind: ErrorKind = ErrorKind.DENIED) -> None:
        super().__init__(Ec2Client(str), carry_out)
        self.refused, self.kind = set(refused), kind
        self.asked: list[Permission] = []

    def check(self, action: CloudAction) -> Failure | None:
        permission = self.needed(action)
        self.asked.append(permission)
        if (permission.action, permission.ids) not in self.refused:
            return None
        return Failure(self.kind, permission.action, "UnauthorizedOperation", "not authorized", "allow it")


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path)
    yield made
    made.close()


def sources(pod: Pod, permissions: Permissions | None = None) -> Sources:
    asker = Asker(pod.clock, lambda _: None, lambda: 0.5)
    return Sources(pod.kernel, pod.imds, pod.ec2, permissions or Permissions(), asker)


def plan(pod: Pod, permissions: Permissions | None = None, **given: str) -> Preview:
    """What `vipmanager plan init` shows in the pod; it has changed nothing."""
    before, kernel = pod.ec2.state, (pod.kernel.interfaces(), pod.kernel.pod_network())
    preview = preview_pod(load(given), "init", sources(pod, permissions), {})
    assert pod.ec2.state == before
    assert (pod.kernel.interfaces(), pod.kernel.pod_network()) == kernel
    return preview


def planned(preview: Preview) -> list[tuple[Any, ...]]:
    """The changes as calls of the ports."""
    return sorted((_as_call(change) for change in preview.changes), key=str)


def _as_call(change: Any) -> tuple[Any, ...]:
    if isinstance(change, SetRoute):
        verb = "replace_route" if change.replaces else "create_route"
        return (verb, change.table_id, change.destination, change.eni_id)
    if isinstance(change, DeleteRoute):
        return ("delete_route", change.table_id, change.destination)
    if isinstance(change, AssignAddress | UnassignAddress):
        verb = "assign" if isinstance(change, AssignAddress) else "unassign"
        return (verb, change.eni_id, change.address)
    if isinstance(change, DisableSourceDestCheck):
        return ("disable_source_dest_check", change.eni_id)
    if isinstance(change, AssociateEip):
        return ("associate", change.allocation_id, change.eni_id, change.address)
    assert isinstance(change, PodAction)
    return (change.key[0].replace("pod-", "set_" if "Set" in type(change).__name__ else "add_"), *change.key[1:])


def done(calls: list[Call]) -> list[tuple[Any, ...]]:
    """EC2's writes, one for each address of those that went together."""
    found: list[tuple[Any, ...]] = []
    for call in calls:
        if call.operation in ("assign", "unassign"):
            found += [(call.operation, call.arguments[0], address) for address in call.arguments[1:]]
        else:
            found.append((call.operation, *call.arguments))
    return sorted(found, key=str)


def of_ec2(calls: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [call for call in calls if call[0] in WRITES]


# what it shows is what is done


HOLDERS = st.sampled_from(["", "eni-1", PEER])
TARGETS = st.sampled_from(["", "eni-1", PEER, GONE])


@settings(max_examples=40, deadline=None)
@given(
    addresses=st.lists(st.sampled_from([OUTSIDE, OTHER, OUTSIDE6, OWN, OWN6, IN_SUBNET_3]), min_size=1, unique=True),
    targets=st.lists(TARGETS, min_size=8, max_size=8),
    holder=HOLDERS,
    holder6=HOLDERS,
    eip_on=st.sampled_from(["", "eni-1", PEER]),
    check=st.booleans(),
    given_settings=st.fixed_dictionaries(
        {"SubnetBasedLoopbacks": st.just("True")},
        optional={
            "UseSBR": st.just("True"),
            "RouteAggregation": st.just("True"),
            "Intf1Pools": st.just("192.168.0.0/29"),
            "SourceDestCheck": st.just("Keep"),
            "Intf1Peers": st.just("10.10.2.0/24"),
            "Intf1EIPs": st.just(f"{OWN}={EIP}"),
        },
    ),
)
def test_an_init_run_does_what_the_plan_said(
    addresses: list[str],
    targets: list[str],
    holder: str,
    holder6: str,
    eip_on: str,
    check: bool,
    given_settings: dict[str, str],
) -> None:
    """Whatever is there before: the writes to EC2 are the same, the pod is then as planned, and nothing is left."""
    with TemporaryDirectory() as directory:
        pods = Pods(Path(directory))
        try:
            pod = pods(addresses)
            for number, table in enumerate(pods.region.tables):
                for destination, target in (
                    (f"{OUTSIDE}/32", targets[2 * number]),
                    ("10.10.3.0/24", targets[2 * number + 1]),
                ):
                    if target:
                        pod.ec2.put_route(table, destination, target)
            pod.ec2.detach(GONE)
            if holder:
                pod.ec2.give(holder, OWN)
            if holder6:
                pod.ec2.give(holder6, OWN6)
            if not check:
                pod.ec2.disable_source_dest_check("eni-1")
            bound = OWN if eip_on and eip_on == holder else ""
            pod.ec2.add_eip(EIP, "203.0.113.1", eip_on if bound else "", bound)
            preview = plan(pod, **given_settings)
            wanted = planned(preview)
            mark = pod.mark()
            assert pod.init(**given_settings) == 0
            assert done(pod.calls(*WRITES, since=mark)) == of_ec2(wanted)
            after = plan(pod, **given_settings)
            assert (planned(after), after.exit_code) == ([], NOTHING)
            assert all(shown.state == "claimed" for shown in after.shown)
        finally:
            pods.close()


def test_the_pod_is_changed_as_planned(pods: Pods) -> None:
    """Routes and rules of an earlier run with other settings are replaced and removed, and nothing else is."""
    pod = pods([OUTSIDE])
    assert pod.init(Intf1Peers="10.10.2.0/24,10.10.3.0/24") == 0
    before = pod.kernel.pod_network()
    preview = plan(pod, Intf1Peers="10.10.2.0/24", UseSBR="True")
    assert [step.text.split(" via ")[0] for step in preview.here if step.sign == "-"] == ["route 10.10.3.0/24"]
    assert pod.init(Intf1Peers="10.10.2.0/24", UseSBR="True") == 0
    after = pod.kernel.pod_network()
    added = {change.route for change in preview.changes if type(change).__name__ == "SetPodRoute"}
    removed = {change.route for change in preview.changes if type(change).__name__ == "DeletePodRoute"}
    assert after.routes == (before.routes - removed) | added
    assert {change.rule for change in preview.changes if type(change).__name__ == "AddPodRule"} == after.rules


# what it says


def test_a_plan_reads_like_a_diff(pods: Pods) -> None:
    pod = pods([OUTSIDE, OWN])
    tables = pods.region.tables
    pod.ec2.put_route(tables[0], f"{OUTSIDE}/32", PEER)
    pod.ec2.put_route(tables[1], f"{OUTSIDE}/32", GONE)
    pod.ec2.put_route(tables[2], f"{OUTSIDE}/32", "eni-1")
    pod.ec2.detach(GONE)
    pod.ec2.give(PEER, OWN)
    pod.ec2.add_eip(EIP, "203.0.113.1")
    text = as_text(plan(pod, Intf1EIPs=f"{OWN}={EIP}", Intf1Peers="10.10.2.0/24"))
    assert text.splitlines() == [
        f"{OWN} on net1 (eni-1 index 1): eni-address, pending",
        f"    + assign {OWN} to eni-1 (moves it from {PEER})",
        f"    + bind {EIP} (203.0.113.1) to {OWN}",
        f"{OUTSIDE} on net1 (eni-1 index 1): host-route, pending",
        "    ~ eni-1 source/dest check on -> off",
        f"    ~ {tables[0]}  {OUTSIDE}/32  {PEER} -> eni-1",
        f"    ~ {tables[1]}  {OUTSIDE}/32  {GONE} (blackhole) -> eni-1",
        f"      {tables[2]}  {OUTSIDE}/32  eni-1 (in place)",
        f"    + {tables[3]}  {OUTSIDE}/32  -> eni-1",
        "pod",
        "    + route 10.10.2.0/24 via 10.10.1.1 dev net1",
        "not asked: ec2:AssignPrivateIpAddresses takes no DryRun (1 change)",
        "7 changes, 0 denied, 0 problems",
    ]


def test_an_ipv6_address_is_taken_over_in_two_steps(pods: Pods) -> None:
    pod = pods([OWN6])
    pod.ec2.give(PEER, OWN6)
    (shown,) = plan(pod).shown
    assert [(step.sign, step.text) for step in shown.steps] == [
        ("-", f"unassign {OWN6} from {PEER} (taken over)"),
        ("+", f"assign {OWN6} to eni-1"),
    ]


def test_colours_are_of_the_signs_only(pods: Pods) -> None:
    text = as_text(plan(pods([OUTSIDE])), colour=True)
    assert "\033[32m+ rtb-0" in text
    assert "\033[33m~ eni-1" in text
    plain = text.replace("\033[32m", "").replace("\033[33m", "").replace("\033[0m", "")
    assert "\033" not in plain


def test_the_json_holds_the_same(pods: Pods) -> None:
    """And is the same text for the same world."""
    pod = pods([OUTSIDE])
    pod.ec2.put_route("rtb-0", f"{OUTSIDE}/32", PEER)
    text = as_json(plan(pod))
    assert text == as_json(plan(pod))
    data = json.loads(text)
    assert (data["version"], data["mode"], data["result"], data["changes"]) == (1, "init", "changes", 7)
    (address,) = data["addresses"]
    assert (address["name"], address["state"], address["eni"], address["index"]) == (OUTSIDE, "pending", "eni-1", 1)
    assert address["steps"][1] == {
        "do": "change",
        "kind": "route",
        "table": "rtb-0",
        "destination": f"{OUTSIDE}/32",
        "to": "eni-1",
        "from": PEER,
        "blackhole": False,
    }
    assert data["here"] == [
        {
            "do": "add",
            "kind": "pod-route",
            "destination": "0.0.0.0/0",
            "via": "10.10.1.1",
            "device": "net1",
            "table": 101,
        },
        {"do": "add", "kind": "pod-rule", "source": f"{OUTSIDE}/32", "table": 101},
    ]


# exit codes


def test_changes_are_2_and_nothing_to_do_is_0(pods: Pods) -> None:
    pod = pods([OUTSIDE])
    assert plan(pod).exit_code == CHANGES
    assert pod.init() == 0
    assert plan(pod).exit_code == NOTHING


@pytest.mark.parametrize("address", ["10.10.3.7", "10.10.1.2"], ids=["in another subnet", "reserved"])
def test_an_address_without_placement_is_an_error(pods: Pods, address: str) -> None:
    preview = plan(pods([OUTSIDE, address]))
    assert preview.exit_code == ERROR
    refused = [shown for shown in preview.shown if shown.state == "refused"]
    assert [(shown.name, bool(shown.why)) for shown in refused] == [(address, True)]
    assert any(problem.fatal and address in problem.subject for problem in preview.problems)


def test_a_primary_address_of_another_eni_is_an_error(pods: Pods) -> None:
    preview = plan(pods(["10.10.1.19"]))
    assert preview.exit_code == ERROR
    assert any(PEER in problem.text for problem in preview.problems)


def test_a_pod_without_addresses_has_nothing_to_deliver(pods: Pods) -> None:
    preview = plan(pods([]))
    assert preview.exit_code == ERROR
    assert "net1" in preview.problems[0].text


# permissions


def test_what_is_denied_is_named_with_its_remedy(pods: Pods) -> None:
    """One table of four: the others are allowed, but not all can be done."""
    preview = plan(pods([OUTSIDE]), Permissions(("ec2:CreateRoute", "rtb-2")))
    assert preview.exit_code == ERROR
    assert [(each.permission.ids, each.changes) for each in preview.denied] == [("rtb-2", 1)]
    line = next(line for line in as_text(preview).splitlines() if line.startswith("denied"))
    assert line == "denied: ec2:CreateRoute on arn:aws:ec2:*:*:route-table/rtb-2 (1 change): allow it"


def test_an_answer_that_is_neither_yes_nor_no_is_shown_as_it_is(pods: Pods) -> None:
    preview = plan(pods([OUTSIDE]), Permissions(("ec2:CreateRoute", "rtb-2"), kind=ErrorKind.LIMIT))
    assert preview.exit_code == ERROR
    assert ([each.permission.ids for each in preview.unclear], preview.denied) == (["rtb-2"], ())
    assert as_text(preview).splitlines()[-1] == f"{len(preview.changes)} changes, 0 denied, 1 unclear, 0 problems"


def test_what_is_only_said_is_no_problem_in_the_summary(pods: Pods) -> None:
    """The exit code does not follow from it either."""
    preview = plan(pods([OWN, OUTSIDE]), AssignIPs="False")
    assert [problem.fatal for problem in preview.problems] == [False]
    assert preview.exit_code == CHANGES
    assert as_text(preview).splitlines()[-1].endswith(" changes, 0 denied, 0 problems, 1 warning")


def test_one_question_for_what_iam_cannot_tell_apart(pods: Pods) -> None:
    """Two routes in each of four tables: four questions, and one for the source/dest check."""
    permissions = Permissions(("ec2:CreateRoute", "rtb-1"))
    preview = plan(pods([OUTSIDE, OTHER]), permissions)
    assert len(permissions.asked) == len(set(permissions.asked)) == 5
    assert [each.changes for each in preview.denied] == [2]


def test_what_takes_no_dry_run_is_not_asked(pods: Pods) -> None:
    permissions = Permissions()
    preview = plan(pods([OWN, OWN6]), permissions)
    assert permissions.asked == []
    assert preview.not_asked == {"ec2:AssignIpv6Addresses": 1, "ec2:AssignPrivateIpAddresses": 1}


# looking


def test_a_describe_that_is_throttled_is_repeated_within_bounds(pods: Pods) -> None:
    pod = pods([OUTSIDE])
    pod.ec2.faults.fail("route_tables", times=ATTEMPTS - 1)
    assert plan(pod).exit_code == CHANGES
    pod.ec2.faults.fail("route_tables", times=None)
    mark = pod.mark()
    with pytest.raises(CallError) as caught:
        plan(pod)
    assert caught.value.failure.code == "Told"
    assert len(pod.calls("route_tables", since=mark)) == ATTEMPTS


def test_a_describe_that_is_denied_is_not_repeated(pods: Pods) -> None:
    pod = pods([OUTSIDE])
    pod.ec2.faults.fail("route_tables", ErrorKind.DENIED, times=None)
    mark = pod.mark()
    with pytest.raises(CallError):
        plan(pod)
    assert len(pod.calls("route_tables", since=mark)) == 1


def test_without_imds_ec2_is_asked(pods: Pods) -> None:
    pod = pods([OUTSIDE])
    pod.imds.faults.fail("enis", times=None)
    assert planned(plan(pod)) == planned(plan(pod))
    assert pod.calls("enis_by_mac")


def test_a_conceded_address_is_left_where_it_is(pods: Pods, tmp_path: Path) -> None:
    """By the claims that the pod's sidecar keeps; an init run would claim it anew."""
    pod = pods([OUTSIDE])
    run = pod.sidecar(ResyncInterval="60")
    pod.wait(lambda: pod.routed(OUTSIDE))
    pod.wait(lambda: _all_held(tmp_path))
    for table in pods.region.tables:
        pod.ec2.put_route(table, f"{OUTSIDE}/32", PEER)
    pod.pass_time(80)
    pod.wait(lambda: any(claim.conceded_to for claim in _claims(tmp_path).values()))
    preview = preview_pod(load({}), "sidecar", sources(pod), _claims(tmp_path))
    assert [(shown.state, shown.conceded_to) for shown in preview.shown] == [("conceded", PEER)]
    assert (preview.changes, preview.exit_code) == ((), NOTHING)
    assert plan(pod).exit_code == CHANGES
    run.agent.stop()


def _claims(directory: Path) -> Any:
    return ClaimStore(str(directory / "eni-1"), "life").load(float("inf"))


def _all_held(directory: Path) -> bool:
    return any(len(claim.held) == 4 for claim in _claims(directory).values())


@pytest.mark.parametrize(("ago", "texts"), [(20.0, ["rtb-0  192.168.0.1/32  eni-1"]), (1.0, [])])
def test_what_has_left_the_pod_is_taken_back_when_it_is_due(pods: Pods, ago: float, texts: list[str]) -> None:
    """Routes not before a sidecar would: they may have been taken over, which describes show late."""
    pod = pods([])
    pod.ec2.put_route("rtb-0", f"{OUTSIDE}/32", "eni-1")
    now = pod.clock()
    left = claim(OUTSIDE, since=now - 60, held={"rtb-0": now - 50}, vanished=now - ago)
    preview = preview_pod(load({}), "sidecar", sources(pod), claims(left))
    (shown,) = preview.shown
    assert shown.state == "withdrawing"
    assert [step.text for step in shown.steps if step.sign == "-"] == texts
    assert bool(preview.notes) is not bool(texts)
    assert preview.exit_code == (CHANGES if texts else NOTHING)


# without a pod


def test_a_node_cannot_be_supposed(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = parse(["plan", "nodeport", "--on", "eni-1=192.168.0.1"])
    assert commands.run_plan(parsed, load({"FLOATING_IP": "192.168.0.1"})) == 64
    assert "--on" in capsys.readouterr().err


def test_a_pod_can_be_supposed(pods: Pods) -> None:
    """By the id of its ENI: neither IMDS nor the kernel is asked, and what is planned is what the pod would do."""
    pod = pods([OUTSIDE, OWN])
    there = plan(pod, Intf1Peers="10.10.2.0/24")
    pod.imds.faults.fail("enis", times=None)
    supposed = parse_on([f"eni-1={OUTSIDE},{OWN}"])
    preview = preview_on(load({"Intf1Peers": "10.10.2.0/24"}), "init", sources(pod), supposed)
    assert of_ec2(planned(preview)) == of_ec2(planned(there))
    assert {shown.interface for shown in preview.shown} == {"the interface"}
    assert [step.text for step in preview.here] == ["route 10.10.2.0/24 via 10.10.1.1 dev the interface"]


def test_two_interfaces_can_be_supposed_on_one_eni(pods: Pods) -> None:
    supposed = parse_on([f"eni-1={OUTSIDE}", f"eni-1={OTHER}"])
    preview = preview_on(load({}), "init", sources(pods()), supposed)
    assert [shown.interface for shown in preview.shown] == ["interface 1", "interface 2"]


def test_an_eni_that_does_not_exist_cannot_be_looked_at(pods: Pods) -> None:
    with pytest.raises(CallError, match="eni-77"):
        preview_on(load({}), "init", sources(pods()), parse_on(["eni-77=192.168.0.1"]))


def test_an_eni_that_is_attached_nowhere_is_said_to_be(pods: Pods) -> None:
    pod = pods()
    pod.ec2.detach(GONE)
    preview = preview_on(load({}), "init", sources(pod), parse_on([f"{GONE}={OUTSIDE}"]))
    assert any(GONE in note for note in preview.notes)


@pytest.mark.parametrize("text", ["eni-1", "eni-1=", "eni-1=192.168.0.300", "net1=192.168.0.1", "=192.168.0.1"])
def test_what_is_supposed_must_make_sense(text: str) -> None:
    with pytest.raises(UsageError, match="accepted"):
        parse_on([text])


@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "169.254.1.1", "::1", "ff02::1", "fe80::1"])
def test_what_cannot_float_cannot_be_supposed(address: str) -> None:
    with pytest.raises(UsageError, match="cannot float"):
        parse_on([f"eni-1={OUTSIDE},{address}"])


def test_addresses_are_taken_once() -> None:
    (supposed,) = parse_on(["eni-1=192.168.0.1, fd12::1,192.168.0.1"])
    assert supposed.addresses == (ip_address("192.168.0.1"), ip_address("fd12::1"))
