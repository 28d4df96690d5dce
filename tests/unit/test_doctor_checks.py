"""What doctor makes of the facts: each check in each of its verdicts."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import islice

import pytest

from vipmanager.actions import AssignAddress, SetRoute
from vipmanager.config import Config, load
from vipmanager.doctor.checks import findings
from vipmanager.doctor.model import Answer, Asked, Facts, Finding, Instance, Verdict
from vipmanager.doctor.routes import ROUTES_PER_TABLE
from vipmanager.doctor.text import as_text, worst
from vipmanager.errors import ErrorKind, Failure
from vipmanager.model import (
    Claim,
    Eni,
    EniDescription,
    EniState,
    Holder,
    Observed,
    PlacementKind,
    PodInterface,
    Problem,
    Route,
    RouteTable,
)
from vipmanager.model_node import NO_MANAGE_TAG

VIP = ip_address("192.168.0.2")
ENI = Eni("eni-1", "02:00:00:00:00:01", 1, "subnet-1", (ip_network("10.10.1.0/24"),), "vpc-1", ())
NET1 = PodInterface(7, "net1", ENI.mac, True, (VIP,))
ROUTE = Route(ip_network(VIP), "eni-1", True)
TABLE = RouteTable("rtb-1", {ROUTE.destination: ROUTE}, (ip_network("10.10.0.0/16"),), {})
DESCRIBED = EniDescription(
    "eni-1", ENI.mac, 1, "subnet-1", "vpc-1", "1", (ip_address("10.10.1.4"),), frozenset(), False, True,
    tags={NO_MANAGE_TAG: "true"},
)  # fmt: skip
CLAIM = Claim(VIP, "eni-1", PlacementKind.HOST_ROUTE, ip_network(VIP), 0.0)
OBSERVED = Observed(interfaces=(NET1,), enis={ENI.mac: ENI}, tables=(TABLE,), appeared={VIP: 0.0})
FOREIGN = replace(OBSERVED, enis={}, foreign=frozenset((ENI.mac,)))
GOOD = Facts(
    "sidecar",
    frozenset(("NET_ADMIN",)),
    (NET1,),
    OBSERVED,
    {VIP: CLAIM},
    enis=(DESCRIBED,),
    tables=1,
    imds=Answer(took=0.004),
    identity=Answer("arn:aws:sts::1:assumed-role/pod/x"),
    skew=0.2,
    instance=Instance("i-1", "m5.large", 2, 10, 10),
    permissions=(Asked("CreateRoute", {"rtb-1": None}),),
    rp_filter={"net1": 2},
)
DENIED = Failure(ErrorKind.DENIED, "ec2:CreateRoute", "UnauthorizedOperation", "not allowed", "allow ec2:CreateRoute")
THROTTLED = Failure(ErrorKind.RETRY, "ec2:CreateRoute", "RequestLimitExceeded", "too many")


def asked(*answers: Asked) -> dict[str, object]:
    """A change of the facts: what was asked, and where a describe failed, what is not known then."""
    unknown = {"observed": replace(OBSERVED, tables=None)} if answers[0].operation == "DescribeRouteTables" else {}
    return {"permissions": answers, **unknown}


def check(facts: Facts, name: str, config: Config | None = None) -> Finding:
    """The one finding of that name."""
    found = [finding for finding in findings(facts, config or load({})) if finding.check == name]
    assert len(found) == 1, [finding.check for finding in findings(facts, config or load({}))]
    return found[0]


def test_where_all_is_well_everything_is_ok_and_nothing_is_to_be_mended() -> None:
    found = findings(GOOD, load({}))
    assert {finding.verdict for finding in found} == {Verdict.OK}
    assert not [finding.mend for finding in found if finding.mend]
    assert worst(found) is Verdict.OK


@pytest.mark.parametrize(
    ("change", "name", "verdict", "said"),
    [
        ({"capabilities": frozenset()}, "NET_ADMIN", Verdict.FAIL, "no route, rule or address can be set"),
        ({"capabilities": frozenset()}, "NET_RAW", Verdict.OK, "not needed in this mode"),
        ({"mode": "nodeport"}, "NET_RAW", Verdict.WARN, "not announced"),
        ({"interfaces": (replace(NET1, up=False),)}, "interface net1", Verdict.FAIL, "down"),
        ({"observed": FOREIGN}, "interface net1", Verdict.WARN, "no ENI of this worker"),
        ({"observed": FOREIGN}, "interfaces", Verdict.FAIL, "no interface on an ENI"),
        ({"observed": Observed(), "looked": THROTTLED}, "interface net1", Verdict.WARN, "its ENI is not known"),
        ({"interfaces": ()}, "interfaces", Verdict.FAIL, "no interface on an ENI"),
        ({"imds": Answer(failure=THROTTLED)}, "IMDS", Verdict.WARN, "blocked or switched off"),
        (
            {"imds": Answer(failure=THROTTLED), "instance": Instance(hop_limit=1)},
            "IMDS",
            Verdict.WARN,
            "one hop further",
        ),
        ({"identity": Answer(failure=DENIED)}, "credentials", Verdict.FAIL, "not allowed"),
        ({"skew": -45.0}, "clock", Verdict.WARN, "45 s behind"),
        ({"skew": 400.0}, "clock", Verdict.FAIL, "400 s ahead of"),
        ({"skew": None}, "clock", Verdict.WARN, "does not tell its time"),
        ({"skew": None, "identity": Answer(failure=THROTTLED)}, "clock", Verdict.WARN, "did not answer"),
        (asked(Asked("CreateRoute", {"rtb-1": DENIED})), "IAM ec2:CreateRoute", Verdict.FAIL, "not allowed"),
        (asked(Asked("CreateRoute", {"rtb-1": THROTTLED})), "IAM ec2:CreateRoute", Verdict.WARN, "too many"),
        (asked(Asked("CreateRoute", why_not="none yet")), "IAM ec2:CreateRoute", Verdict.OK, "not asked: none yet"),
        (asked(Asked("DescribeRouteTables", {"": DENIED})), "route tables", Verdict.WARN, "how full they are"),
        (asked(Asked("DescribeNetworkInterfaces", {"": DENIED})), "ENIs", Verdict.WARN, "free addresses"),
        ({"lease": Answer(failure=DENIED)}, "Lease", Verdict.FAIL, "not allowed"),
        ({"lease": Answer("vipmanager/vipmanager: held by node-1")}, "Lease", Verdict.OK, "node-1"),
        ({"health": Answer(failure=DENIED)}, "HealthCheck", Verdict.WARN, "not allowed"),
        ({"marks": Answer(failure=DENIED)}, "nftables", Verdict.WARN, "not allowed"),
        ({"looked": THROTTLED}, "EC2", Verdict.FAIL, "too many"),
        ({"observed": replace(OBSERVED, tables=())}, "route tables", Verdict.FAIL, "selects none of 1"),
        ({"enis": (replace(DESCRIBED, tags={}),)}, "no_manage of eni-1", Verdict.WARN, "VPC CNI"),
        ({"enis": (replace(DESCRIBED, source_dest_check=True),)}, "source/dest check of eni-1", Verdict.OK, "turns"),
        ({"problems": (Problem("10.10.9.9 on net1", "is nowhere"),)}, "10.10.9.9 on net1", Verdict.FAIL, "nowhere"),
        ({"problems": (Problem("Intf2Peers", "none", fatal=False),)}, "Intf2Peers", Verdict.WARN, "none"),
        ({"state_dir": "/run/vipmanager: Read-only file system"}, "StateDir", Verdict.WARN, "Read-only"),
    ],
)  # fmt: skip
def test_what_is_wrong(change: dict[str, object], name: str, verdict: Verdict, said: str) -> None:
    finding = check(replace(GOOD, **change), name)  # type: ignore[arg-type]
    assert finding.verdict is verdict
    assert said in finding.seen
    assert (
        finding.mend or verdict is Verdict.OK or "problems" in change or finding.check in ("EC2", "IAM ec2:CreateRoute")
    )


class TestDuplicates:
    """Another live ENI has what is on this pod."""

    POOL = ip_network("192.168.0.0/29")

    @staticmethod
    def routed(*routes: Route, **claim: object) -> Facts:
        """The one table has these routes."""
        tables = (replace(TABLE, routes={each.destination: each for each in routes}),)
        claims = {VIP: replace(CLAIM, **claim)}  # type: ignore[arg-type]
        return replace(GOOD, observed=replace(OBSERVED, tables=tables), claims=claims)

    def test_a_host_route(self) -> None:
        finding = check(self.routed(replace(ROUTE, target="eni-9")), "claim of 192.168.0.2")
        assert (finding.verdict, "eni-9 in rtb-1" in finding.seen) == (Verdict.WARN, True)

    def test_a_route_whose_target_is_gone_is_nobodys(self) -> None:
        facts = self.routed(replace(ROUTE, target="eni-9", live=False))
        assert worst(findings(facts, load({}))) is Verdict.OK

    def test_a_pool(self) -> None:
        facts = self.routed(Route(self.POOL, "eni-9", True), destination=self.POOL)
        assert "192.168.0.2 to eni-9 in rtb-1" in check(facts, "claim of 192.168.0.0/29").seen

    def test_the_route_of_a_subnet(self) -> None:
        facts = self.routed(Route(self.POOL, "eni-9", True), destination=self.POOL, kind=PlacementKind.SUBNET_ROUTE)
        assert "eni-9" in check(facts, "claim of 192.168.0.0/29").seen

    def test_a_default_route_is_nobodys_claim(self) -> None:
        facts = self.routed(Route(ip_network("0.0.0.0/0"), "eni-9", True))
        assert worst(findings(facts, load({}))) is Verdict.OK

    def test_another_eni_of_the_same_worker(self) -> None:
        """It is another pod's; what is this pod's own is on its interfaces."""
        facts = self.routed(replace(ROUTE, target="eni-2"))
        second = replace(ENI, id="eni-2", mac="02:00:00:00:00:02")
        facts = replace(facts, observed=replace(facts.observed, enis={ENI.mac: ENI, second.mac: second}))
        assert "eni-2" in check(facts, "claim of 192.168.0.2").seen
        both = replace(facts, interfaces=(NET1, replace(NET1, name="net2", mac=second.mac, addresses=())))
        assert worst(findings(both, load({}))) is Verdict.OK

    def test_an_address_of_the_subnet(self) -> None:
        state = EniState("eni-1", {}, frozenset(), False, True, 1.0)
        observed = replace(OBSERVED, states={"eni-1": state}, holders={VIP: Holder("eni-9", True, False, 1.0)})
        facts = replace(self.routed(kind=PlacementKind.ENI_ADDRESS), observed=observed)
        assert "EC2 delivers it to eni-9, and" in check(facts, "claim of 192.168.0.2").seen

    def test_on_a_node(self) -> None:
        facts = replace(self.routed(replace(ROUTE, target="eni-9")), mode="nodeport", claims={})
        assert "it is on this node too" in check(facts, "claim of 192.168.0.2").seen


class TestGranted:
    """No more is said than was asked."""

    @pytest.mark.parametrize(
        ("answers", "seen"),
        [
            ({"": None}, "allowed"),
            ({"rtb-1": None}, "allowed on rtb-1"),
            ({"rtb-1": None, "rtb-2": None}, "allowed on all 2 route tables"),
        ],
    )
    def test_what_is_allowed(self, answers: dict[str, None], seen: str) -> None:
        assert check(replace(GOOD, permissions=(Asked("CreateRoute", answers),)), "IAM ec2:CreateRoute").seen == seen

    def test_which_of_several_is_denied(self) -> None:
        answers = {"rtb-1": None, "rtb-2": DENIED, "rtb-3": None, "rtb-4": DENIED, "rtb-5": THROTTLED}
        facts = replace(GOOD, permissions=(Asked("CreateRoute", answers),))
        finding = check(facts, "IAM ec2:CreateRoute")
        assert finding.verdict is Verdict.FAIL
        assert finding.seen.startswith("denied on 2 of 5 (rtb-2, rtb-4): ec2:CreateRoute: UnauthorizedOperation")
        assert finding.mend == "allow ec2:CreateRoute; the same for rtb-4"

    def test_of_many_only_some_are_named(self) -> None:
        answers = {f"rtb-{number}": DENIED for number in range(48)}
        facts = replace(GOOD, permissions=(Asked("CreateRoute", answers),))
        assert (
            "denied on 48 of 48 (rtb-0, rtb-1, rtb-2, rtb-3, rtb-4, 43 more)"
            in check(facts, "IAM ec2:CreateRoute").seen
        )


def test_where_nobody_told_of_enis_no_line_of_its_own_fails() -> None:
    """The CNI may be as it should: what fails is IMDS, the credentials or the way to EC2."""
    facts = replace(GOOD, observed=Observed(), looked=THROTTLED, claims={}, permissions=(), enis=())
    failed = [finding.check for finding in findings(facts, load({})) if finding.verdict is Verdict.FAIL]
    assert failed == ["EC2"]
    node = replace(facts, mode="nodeport", capabilities=frozenset(("NET_ADMIN", "NET_RAW")), interfaces=())
    failed = [finding.check for finding in findings(node, load({})) if finding.verdict is Verdict.FAIL]
    assert failed == ["EC2"]
    assert check(node, "interfaces").verdict is Verdict.WARN


def test_a_source_dest_check_that_is_to_be_kept_on_drops_packets() -> None:
    facts = replace(GOOD, enis=(replace(DESCRIBED, source_dest_check=True),))
    finding = check(facts, "source/dest check of eni-1", load({"SourceDestCheck": "Keep"}))
    assert finding.verdict is Verdict.FAIL


class TestQuota:
    """Routes that are there, and those to come."""

    @staticmethod
    def table(number: int) -> RouteTable:
        """With so many IPv4 routes, its local one included."""
        destinations = islice(ip_network("172.16.0.0/16").subnets(16), number - 1)
        routes = {each: Route(each, "tgw-1", True) for each in destinations}
        return replace(TABLE, routes=routes)

    def test_far_from_it_the_fullest_is_told(self) -> None:
        observed = replace(OBSERVED, tables=(TABLE, replace(self.table(ROUTES_PER_TABLE * 9 // 10), id="rtb-2")))
        facts = replace(GOOD, observed=observed)
        assert not [f for f in findings(facts, load({})) if f.check.startswith("quota")]
        told = "the fullest, rtb-2, has 450 IPv4 routes: 50 free of the default 500"
        assert check(facts, "route tables").seen.endswith(told)

    def test_near_it_the_routes_to_come_count(self) -> None:
        observed = replace(OBSERVED, tables=(self.table(ROUTES_PER_TABLE * 9 // 10),))
        coming = SetRoute("rtb-1", ip_network(VIP), "eni-1", "", VIP)
        finding = check(replace(GOOD, observed=observed, actions=(coming,)), "quota of rtb-1, IPv4")
        assert finding.verdict is Verdict.WARN
        assert finding.seen.startswith("has 450 IPv4 routes and 1 to come: 49 free")


class TestRoom:
    """Addresses of an ENI against the instance type's limit."""

    def test_those_to_come_count(self) -> None:
        coming = tuple(AssignAddress("eni-1", ip_address(f"10.10.1.{number}")) for number in range(20, 30))
        finding = check(replace(GOOD, actions=coming), "IPv4 addresses of eni-1")
        assert (finding.verdict, finding.seen) == (Verdict.FAIL, "1 of 10 used, 10 to come")
        assert check(replace(GOOD, actions=coming[:9]), "IPv4 addresses of eni-1").verdict is Verdict.OK

    def test_a_limit_that_is_not_known_matters_only_where_something_is_to_be_assigned(self) -> None:
        facts = replace(GOOD, instance=Instance("i-1", failures=(DENIED,)))
        assert worst(findings(facts, load({}))) is Verdict.OK
        coming = (AssignAddress("eni-1", ip_address("10.10.1.20")),)
        finding = check(replace(facts, actions=coming), "addresses per ENI")
        assert finding.verdict is Verdict.WARN
        assert "iam-policy --doctor" in finding.mend


class TestRpFilter:
    """Strict is harmless where the way back goes by the same interface."""

    STRICT = replace(GOOD, rp_filter={"net1": 1})

    @pytest.mark.parametrize("settings", [{}, {"UseSBR": "True", "Intf1Peers": "10.9.0.0/16"}])
    def test_with_source_rules(self, settings: dict[str, str]) -> None:
        assert not [f for f in findings(self.STRICT, load(settings)) if f.check.startswith("rp_filter")]

    @pytest.mark.parametrize("settings", [{"UseSBR": "False"}, {"Intf1Peers": "10.9.0.0/16"}])
    def test_without(self, settings: dict[str, str]) -> None:
        finding = check(self.STRICT, "rp_filter of net1", load(settings))
        assert finding.verdict is Verdict.WARN
        assert "Intf1Peers" in finding.mend

    def test_on_a_node(self) -> None:
        finding = check(replace(self.STRICT, mode="nodeport"), "rp_filter of net1")
        assert finding.verdict is Verdict.FAIL
        assert "net.ipv4.conf.net1.rp_filter" in finding.mend


def test_the_text_ends_with_the_mode_and_steers_no_terminal() -> None:
    """EC2's words may hold anything; how to mend is said below, unless it was said."""
    found = [Finding("a", Verdict.OK, "fine"), Finding("bc", Verdict.FAIL, "no\x1b[2J\nok   a", "do it")]
    assert as_text("init", found).splitlines() == [
        "ok   a   fine",
        "fail bc  no\\u001b[2J\\nok   a",
        "         → do it",
        "init: 1 ok, 0 warn, 1 fail",
    ]


def test_the_worst_counts() -> None:
    ok, warn, fail = (Finding("x", verdict, "") for verdict in Verdict)
    assert worst([]) is Verdict.OK
    assert worst([ok, warn]) is Verdict.WARN
    assert worst([fail, warn, ok]) is Verdict.FAIL
