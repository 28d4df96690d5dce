"""What doctor makes of the facts: each check in each of its verdicts."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import islice

import pytest

from vipmanager.actions import AssignAddress, SetRoute
from vipmanager.config import Config, load
from vipmanager.doctor.checks import (
    ROUTES_PER_TABLE,
    Answer,
    Facts,
    Finding,
    Instance,
    Verdict,
    findings,
    worst,
)
from vipmanager.errors import ErrorKind, Failure
from vipmanager.model import Eni, EniDescription, Holder, Observed, PodInterface, Problem, Route, RouteTable
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
OBSERVED = Observed(interfaces=(NET1,), enis={ENI.mac: ENI}, tables=(TABLE,), appeared={VIP: 0.0})
GOOD = Facts(
    "sidecar",
    frozenset(("NET_ADMIN",)),
    (NET1,),
    OBSERVED,
    enis=(DESCRIBED,),
    tables=1,
    imds=Answer(took=0.004),
    identity=Answer("arn:aws:sts::1:assumed-role/pod/x"),
    skew=0.2,
    instance=Instance("i-1", "m5.large", 2, 10, 10),
    permissions={"CreateRoute": None},
    rp_filter={"net1": 2},
)
DENIED = Failure(ErrorKind.DENIED, "ec2:CreateRoute", "UnauthorizedOperation", "not allowed", "allow ec2:CreateRoute")
THROTTLED = Failure(ErrorKind.RETRY, "ec2:CreateRoute", "RequestLimitExceeded", "too many")


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
        ({"interfaces": (NET1, replace(NET1, name="mv0", mac="02:ff"))}, "interface mv0", Verdict.WARN, "no ENI"),
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
        ({"permissions": {"CreateRoute": DENIED}}, "IAM ec2:CreateRoute", Verdict.FAIL, "not allowed"),
        ({"permissions": {"CreateRoute": THROTTLED}}, "IAM ec2:CreateRoute", Verdict.WARN, "too many"),
        ({"unasked": ("AssociateVpcCidrBlock",)}, "IAM", Verdict.OK, "takes no DryRun"),
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
        (
            {"observed": replace(OBSERVED, holders={VIP: Holder("eni-9", True, False, 1.0)})},
            "claim of 192.168.0.2",
            Verdict.WARN,
            "eni-9",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong(change: dict[str, object], name: str, verdict: Verdict, said: str) -> None:
    finding = check(replace(GOOD, **change), name)  # type: ignore[arg-type]
    assert finding.verdict is verdict
    assert said in finding.seen
    assert (
        finding.mend or verdict is Verdict.OK or "problems" in change or finding.check in ("EC2", "IAM ec2:CreateRoute")
    )


def test_an_address_that_a_table_routes_to_another_live_eni_is_a_duplicate_claim() -> None:
    other = Route(ROUTE.destination, "eni-9", True)
    tables = (replace(TABLE, routes={other.destination: other}),)
    finding = check(replace(GOOD, observed=replace(OBSERVED, tables=tables)), "claim of 192.168.0.2")
    assert "eni-9 in rtb-1" in finding.seen
    dead = replace(other, live=False)
    tables = (replace(TABLE, routes={other.destination: dead}),)
    assert worst(findings(replace(GOOD, observed=replace(OBSERVED, tables=tables)), load({}))) is Verdict.OK


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

    def test_far_from_it_nothing_is_said(self) -> None:
        observed = replace(OBSERVED, tables=(self.table(ROUTES_PER_TABLE * 9 // 10),))
        assert not [f for f in findings(replace(GOOD, observed=observed), load({})) if f.check.startswith("quota")]

    def test_near_it_the_routes_to_come_count(self) -> None:
        observed = replace(OBSERVED, tables=(self.table(ROUTES_PER_TABLE * 9 // 10),))
        coming = SetRoute("rtb-1", ip_network(VIP), "eni-1", "", VIP)
        finding = check(replace(GOOD, observed=observed, actions=(coming,)), "quota of rtb-1")
        assert finding.verdict is Verdict.WARN
        assert finding.seen.startswith("450 IPv4 routes and 1 to come")


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


def test_the_worst_counts() -> None:
    ok, warn, fail = (Finding("x", verdict, "") for verdict in Verdict)
    assert worst([]) is Verdict.OK
    assert worst([ok, warn]) is Verdict.WARN
    assert worst([fail, warn, ok]) is Verdict.FAIL
