"""The agent as init: the job once, everything that can be done done, and an exit code that tells the truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.doubles.faults import Call
from tests.unit.agents import DESCRIBES, PEER, Pod, Region, events
from tests.unit.builders import mac
from vipmanager.agent import EXIT_STOPPED
from vipmanager.apply import PASSING
from vipmanager.errors import ErrorKind
from vipmanager.report import FAILED, OK

FIRST, SECOND, SIXTH = "192.168.0.1", "192.168.0.2", "fd00::6"
OWN, OWN6 = "10.10.1.50", "2600:1f14:0:1::50"
MakePod = Callable[..., Pod]


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[MakePod]:
    made: list[Pod] = []

    def make(*addresses: list[str], tables: int = 4) -> Pod:
        made.append(Pod(Region(tables), tmp_path, *addresses))
        return made[-1]

    yield make
    for pod in made:
        pod.close()


# The job -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tables", [1, 4, 16, 48])
def test_two_addresses_on_two_enis_cost_2t_plus_4_calls(make_pod: MakePod, tables: int) -> None:
    """Two describes, two source/dest checks, and a write for each address and table."""
    pod = make_pod([FIRST], [SECOND], tables=tables)
    assert pod.init() == OK
    assert pod.routed(FIRST, "eni-1") and pod.routed(SECOND, "eni-2")
    assert len(pod.calls()) == 2 * tables + 4
    assert sorted(call.operation for call in pod.calls(*DESCRIBES)) == ["enis", "route_tables"]


def test_when_nothing_is_to_do_only_describes_are_made(make_pod: MakePod) -> None:
    pod = make_pod([FIRST, OWN], [SECOND, SIXTH])
    assert pod.init() == OK
    mark = pod.mark()
    assert pod.init() == OK
    assert sorted(call.operation for call in pod.calls(since=mark)) == ["enis", "route_tables"]


def test_every_placement_of_both_families(make_pod: MakePod) -> None:
    pod = make_pod([FIRST, SIXTH, OWN, OWN6], ["10.10.3.5"])
    assert pod.init(SubnetBasedLoopbacks="True", Intf1Peers="10.10.31.0/24") == OK
    assert pod.routed(FIRST) and pod.routed(SIXTH)
    assert (pod.ec2.holder(OWN), pod.ec2.holder(OWN6)) == ("eni-1", "eni-1")
    assert set(pod.ec2.targets("10.10.3.0/24").values()) == {"eni-2"}
    assert {route.destination for route in pod.kernel.routes()} == {"10.10.31.0/24", "0.0.0.0/0"}
    assert {rule.source for rule in pod.kernel.rules()} == {"10.10.3.5/32"}


def test_what_others_have_is_taken_over(make_pod: MakePod) -> None:
    pod = make_pod([FIRST, OWN, OWN6])
    for address in (OWN, OWN6):
        pod.ec2.give(PEER, address)
    pod.ec2.put_route("rtb-1", f"{FIRST}/32", PEER)
    assert pod.init() == OK
    assert pod.routed(FIRST)
    assert (pod.ec2.holder(OWN), pod.ec2.holder(OWN6)) == ("eni-1", "eni-1")
    freed = [call.arguments[0] for call in pod.calls("unassign")]
    assert freed == [PEER]  # never from its own ENI


def test_addresses_of_one_eni_share_a_call(make_pod: MakePod) -> None:
    pod = make_pod([OWN, "10.10.1.51", "10.10.1.52"])
    assert pod.init() == OK
    assert len(pod.calls("assign")) == 1


def test_edge_tables_and_untagged_ones_are_left_alone(make_pod: MakePod) -> None:
    pod = make_pod([FIRST])
    pod.ec2.add_table("rtb-tagged", use="yes")
    assert pod.init(VPCRTTag="use=yes") == OK
    assert [call.arguments[0] for call in pod.calls("create_route")] == ["rtb-tagged"]


def test_without_imds_the_same_is_learnt_from_ec2(make_pod: MakePod) -> None:
    pod = make_pod([FIRST, OWN], [SECOND])
    pod.imds.faults.fail("enis", times=None)
    assert pod.init() == OK
    assert pod.routed(FIRST) and pod.routed(SECOND, "eni-2") and pod.ec2.holder(OWN) == "eni-1"
    assert len(pod.calls("enis_by_mac")) == 1


def test_an_interface_that_is_no_enis_stops_nobody(make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
    pod = make_pod([FIRST])
    pod.kernel.add("net7", mac(77), "192.168.0.77")
    assert pod.init() == OK
    assert pod.routed(FIRST)
    assert [facts["interface"] for facts in events(caplog, "ignored")] == ["net7"]


# Waiting -------------------------------------------------------------------------------------------------------------


def test_it_waits_for_an_address_and_goes_on_by_the_kernels_event(make_pod: MakePod) -> None:
    pod = make_pod()
    run = pod.start()
    pod.wait(lambda: len(pod.kernel.faults.named("interfaces")) >= 1)
    assert run.running and pod.calls() == []
    pod.kernel.set_addresses("net1", FIRST)
    assert run.result() == OK
    assert pod.routed(FIRST)


def test_it_waits_for_an_interface(make_pod: MakePod) -> None:
    pod = make_pod()
    pod.kernel.remove("net1")
    pod.kernel.remove("net2")
    run = pod.start()
    pod.wait(lambda: len(pod.kernel.faults.named("interfaces")) >= 1)
    pod.kernel.add("net1", mac(1), FIRST)
    assert run.result() == OK


def test_it_waits_for_an_interface_to_come_up(make_pod: MakePod) -> None:
    pod = make_pod([FIRST])
    pod.kernel.set_up("net1", False)
    run = pod.start()
    pod.wait(lambda: len(pod.kernel.faults.named("interfaces")) >= 1)
    pod.kernel.set_up("net1", True)
    assert run.result() == OK


def test_an_eni_that_is_attached_late_is_discovered(make_pod: MakePod) -> None:
    pod = make_pod([FIRST])
    pod.imds.eni_ids.clear()
    run = pod.start()
    pod.wait(lambda: len(pod.imds.faults.named("enis")) >= 2)
    pod.imds.eni_ids.append("eni-1")
    pod.pass_time(6.0)
    pod.wait(lambda: not run.running or len(pod.imds.faults.named("enis")) >= 3)
    pod.pass_time(6.0)
    assert run.result() == OK


def test_without_anything_to_deliver_it_says_what_it_saw_at_init_timeout(
    make_pod: MakePod, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod()
    run = pod.start(InitTimeout="60")
    pod.pass_time(61.0)
    assert run.result() == FAILED
    (facts,) = events(caplog, "nothing to deliver")
    assert "net1" in facts["seen"] and facts["waited"] == "60s"


def test_at_init_timeout_what_is_still_throttled_is_listed(make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
    pod = make_pod([FIRST], tables=3)
    pod.draw = 0.9
    pod.ec2.faults.fail("create_route", code="RequestLimitExceeded", times=None, when=table("rtb-1"))
    run = pod.start(InitTimeout="60")
    pod.wait(lambda: len(pod.ec2.faults.answered) >= 6)
    for tries in (4, 5):  # by then it has noted what was answered
        pod.pass_time(5.0)
        pod.wait(lambda tries=tries: len(pod.calls("create_route")) >= tries)
    pod.pass_time(61.0)
    assert run.result() == FAILED
    (facts,) = events(caplog, "missing")
    assert "rtb-1" in facts["item"] and "RequestLimitExceeded" in facts["why"]
    assert pod.ec2.targets(f"{FIRST}/32") == {"rtb-0": "eni-1", "rtb-1": None, "rtb-2": "eni-1"}


def test_an_init_run_that_is_stopped_has_not_succeeded(make_pod: MakePod) -> None:
    run = make_pod().start()
    assert run.stop() == EXIT_STOPPED


def table(name: str) -> Callable[[Call], bool]:
    """Calls on that table."""
    return lambda call: call.arguments[0] == name


# Bad days ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["route_tables", "enis", "create_route", "assign", "disable_source_dest_check"])
def test_what_passes_by_itself_is_retried(make_pod: MakePod, operation: str) -> None:
    pod = make_pod([FIRST, OWN])
    pod.ec2.faults.fail(operation, ErrorKind.RETRY, times=3)
    assert pod.init() == OK
    assert pod.routed(FIRST) and pod.ec2.holder(OWN) == "eni-1"


def test_only_what_failed_is_retried(make_pod: MakePod) -> None:
    pod = make_pod([FIRST], tables=4)
    pod.ec2.faults.fail("create_route", ErrorKind.RETRY, times=2, when=table("rtb-2"))
    assert pod.init() == OK
    tried = [call.arguments[0] for call in pod.calls("create_route")]
    assert sorted(tried) == ["rtb-0", "rtb-1", "rtb-2", "rtb-2", "rtb-2", "rtb-3"]


@pytest.mark.parametrize("kind", [ErrorKind.DENIED, ErrorKind.LIMIT, ErrorKind.INVALID])
def test_what_will_not_pass_fails_the_run_and_all_else_is_done(
    make_pod: MakePod, caplog: pytest.LogCaptureFixture, kind: ErrorKind
) -> None:
    pod = make_pod([FIRST, OWN], [SECOND])
    pod.draw = 0.5
    pod.ec2.faults.fail("create_route", kind, times=None, when=table("rtb-2"))
    assert pod.init() == FAILED
    assert pod.ec2.holder(OWN) == "eni-1"
    for address, eni in ((FIRST, "eni-1"), (SECOND, "eni-2")):
        assert pod.ec2.targets(f"{address}/32") == dict.fromkeys(["rtb-0", "rtb-1", "rtb-3"], eni) | {"rtb-2": None}
    assert len(events(caplog, "missing")) == 2


def test_a_denied_describe_fails_the_run_and_what_does_not_need_it_is_done(make_pod: MakePod) -> None:
    pod = make_pod([FIRST, OWN])
    pod.draw = 0.5
    pod.ec2.faults.fail("route_tables", ErrorKind.DENIED, times=None)
    assert pod.init() == FAILED
    assert pod.ec2.holder(OWN) == "eni-1"


def test_one_address_that_is_refused_does_not_keep_the_others_from_their_eni(make_pod: MakePod) -> None:
    """AssignPrivateIpAddresses is all or none, so what failed together goes alone; 10.10.1.19 is another's primary."""
    pod = make_pod([OWN, "10.10.1.51", "10.10.1.19"])
    pod.draw = 0.5
    assert pod.init() == FAILED
    assert (pod.ec2.holder(OWN), pod.ec2.holder("10.10.1.51")) == ("eni-1", "eni-1")


def test_a_route_that_appears_under_us_is_replaced(make_pod: MakePod) -> None:
    pod = make_pod([FIRST], tables=1)
    pod.ec2.faults.before("create_route", lambda _: pod.ec2.put_route("rtb-0", f"{FIRST}/32", PEER))
    assert pod.init() == OK
    assert pod.routed(FIRST)
    assert [call.operation for call in pod.calls("create_route", "replace_route")] == ["create_route", "replace_route"]


def test_a_route_that_vanishes_under_us_is_created(make_pod: MakePod) -> None:
    pod = make_pod([FIRST], tables=1)
    pod.ec2.put_route("rtb-0", f"{FIRST}/32", PEER)
    pod.ec2.faults.before("replace_route", lambda _: pod.ec2.drop_route("rtb-0", f"{FIRST}/32"))
    assert pod.init() == OK
    assert pod.routed(FIRST)


def test_an_ipv6_address_that_somebody_takes_under_us_is_looked_for_again(make_pod: MakePod) -> None:
    pod = make_pod([OWN6])
    pod.ec2.faults.before("assign", lambda _: pod.ec2.give(PEER, OWN6))
    assert pod.init() == OK
    assert pod.ec2.holder(OWN6) == "eni-1"


def test_describes_that_lag_do_not_confuse_it(make_pod: MakePod) -> None:
    pod = make_pod([FIRST, OWN], [SECOND])
    pod.clock.advance(60.0)
    pod.ec2.lag = 3.0
    assert pod.init() == OK
    assert pod.routed(FIRST) and pod.ec2.holder(OWN) == "eni-1"
    assert len(pod.calls("create_route")) == 8


def test_a_tag_that_selects_nothing_fails_the_run(make_pod: MakePod, caplog: pytest.LogCaptureFixture) -> None:
    pod = make_pod([FIRST, OWN])
    assert pod.init(VPCRTTag="use=no") == FAILED
    assert pod.ec2.holder(OWN) == "eni-1"
    assert any("VPCRTTag" in facts["item"] for facts in events(caplog, "missing"))


def test_without_net_admin_the_vpc_part_is_done_and_the_run_fails(
    make_pod: MakePod, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod([FIRST])
    pod.draw = 0.5
    pod.kernel.may_write = False
    assert pod.init() == FAILED
    assert pod.routed(FIRST)
    assert any("NET_ADMIN" in facts["why"] for facts in events(caplog, "missing"))


def test_without_net_admin_and_pod_routes_there_is_nothing_wrong(make_pod: MakePod) -> None:
    pod = make_pod([FIRST])
    pod.kernel.may_write = False
    assert pod.init(UseSBR="False") == OK
    assert pod.routed(FIRST)


def test_a_kernel_that_cannot_be_read_at_first_is_read_again(make_pod: MakePod) -> None:
    pod = make_pod([FIRST])
    pod.kernel.faults.fail("interfaces", times=3)
    assert pod.init() == OK


def test_answers_that_never_satisfy_a_need_are_asked_for_ever_more_seldom(make_pod: MakePod) -> None:
    """EC2 does not show the ENI that IMDS tells of: no hot loop."""
    pod = make_pod([OWN])
    pod.draw = 1.0
    asked: list[float] = []
    pod.ec2.lag = 1e9
    pod.ec2.faults.before("enis", lambda _: asked.append(pod.clock()), times=None)
    run = pod.start(InitTimeout="9999")
    for count in range(1, 8):
        pod.wait(lambda count=count: len(asked) >= count)
        pod.pass_time(PASSING.cap)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert all(gap >= PASSING.base * 2**attempt for attempt, gap in enumerate(gaps, 1) if attempt < 7)
    assert run.running


def test_a_bug_on_a_thread_ends_the_run(make_pod: MakePod) -> None:
    pod = make_pod([FIRST])
    pod.ec2.faults.crash("route_tables", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pod.init()


def test_a_call_that_hangs_does_not_outlast_init_timeout_and_is_listed(
    make_pod: MakePod, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod([FIRST], tables=3)
    go_on = pod.ec2.faults.hang("create_route", when=table("rtb-1"))
    run = pod.start(InitTimeout="60")
    pod.wait(lambda: len(pod.ec2.faults.answered) >= 6)
    pod.pass_time(61.0)
    try:
        assert run.result() == FAILED
    finally:
        go_on.set()
    assert any("rtb-1" in facts["item"] for facts in events(caplog, "missing"))
