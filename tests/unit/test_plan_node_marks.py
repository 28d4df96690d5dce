"""Replies of NodePorts, and which ENI has an address when several could: what the VPC CNI and kube-proxy ask for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.unit.builders import mac
from tests.unit.node_builders import NOW, OUTSIDE, described, host, node, node_eni, rules_and_marks, settings
from vipmanager.actions import AddPodRule, AssignAddress, DeletePodRoute, DeletePodRule
from vipmanager.actions_node import DeleteMarks, PutAddress, SetMarks
from vipmanager.config import Config
from vipmanager.model import Eni, PodNetwork, PodRoute, PodRule
from vipmanager.model_node import MARK_MASK, NO_MANAGE_TAG, Mark, NodeObserved
from vipmanager.plan.node import plan_node
from vipmanager.plan.node_draft import NodeNeed, Target
from vipmanager.plan.node_host import marks_table

BEGAN = NOW - 1.0
ASIDE, ASIDE6, BESIDE = "10.10.2.80", "2600:1f14:0:2::80", "10.10.2.99"
CONFIG = settings(ASIDE)
TABLE, OTHER = marks_table(CONFIG.floating), marks_table(settings(BESIDE).floating)
RULE, MARK_RULE = PodRule(f"{ASIDE}/32", 8602), PodRule("0.0.0.0/0", 8602, 0x2000000, MARK_MASK)
ROUTE = PodRoute(8602, "0.0.0.0/0", "10.10.2.1", 2)
MARKS = frozenset({Mark(ip_address(ASIDE), 2, 0x2000000)})
TAGGED = {NO_MANAGE_TAG: "true"}


def two_enis(*addresses: str, **facts: object) -> NodeObserved:
    """A node with a second ENI, of device index 2, whose interface is number 2 and has these addresses."""
    known = {
        "enis": {mac(1): node_eni(), mac(2): node_eni(2, index=2)},
        "own": (described(), described(2, *addresses, index=2, tags=TAGGED)),
    }
    return node(host(), host(2, *addresses, name="eth2"), **{**known, **facts})


def in_place(**facts: object) -> NodeObserved:
    """Everything is as it should be for the holder of CONFIG."""
    network = PodNetwork(frozenset({ROUTE}), frozenset({RULE, MARK_RULE}))
    return two_enis(ASIDE, **{"network": network, "marks": {TABLE: MARKS}, **facts})


class TestMarks:
    """Connections to an address that is not on the primary ENI."""

    def test_both_families_and_one_table(self) -> None:
        """A rule for each family; the marks of all addresses are set in one step."""
        config = settings(f"{ASIDE},{ASIDE6}")
        actions = plan_node(two_enis(), config, BEGAN).actions
        mark_rules = {a.rule for a in actions if isinstance(a, AddPodRule) and a.rule.mask}
        assert mark_rules == {MARK_RULE, replace(MARK_RULE, source="::/0")}
        both = MARKS | {Mark(ip_address(ASIDE6), 2, 0x2000000)}
        assert [a for a in actions if isinstance(a, SetMarks)] == [SetMarks(marks_table(config.floating), both)]

    def test_in_place_they_cost_nothing(self) -> None:
        """Level-triggered."""
        assert plan_node(in_place(), CONFIG, BEGAN).actions == ()

    @pytest.mark.parametrize("found", [frozenset(), frozenset({Mark(ip_address(ASIDE), 7, 0x2000000)})])
    def test_others_are_replaced(self, found: frozenset[Mark]) -> None:
        """Rules that somebody flushed, or the number that an interface had before."""
        assert plan_node(in_place(marks={TABLE: found}), CONFIG, BEGAN).actions == (SetMarks(TABLE, MARKS),)

    def test_the_primary_eni_needs_none(self) -> None:
        """Nor does an address outside the VPC: replies leave by it anyway."""
        for config in (settings(), settings(OUTSIDE, "route")):
            assert not any(isinstance(a, SetMarks) for a in plan_node(node(), config, BEGAN).actions)

    def test_a_standby_removes_ours(self) -> None:
        """Those of a process that was killed, say."""
        assert set(plan_node(in_place(), CONFIG, None).actions[1:]) == {
            DeleteMarks(TABLE),
            DeletePodRule(RULE),
            DeletePodRule(MARK_RULE),
            DeletePodRoute(ROUTE),
        }
        assert plan_node(two_enis(), CONFIG, None).actions == ()

    def test_the_rule_stays_while_another_deployment_needs_it(self) -> None:
        """Addresses on one ENI share its mark; what nobody needs any more goes with whoever sees it."""
        seen = in_place(marks={TABLE: MARKS, OTHER: frozenset({Mark(ip_address(BESIDE), 2, 0x2000000)})})
        assert set(plan_node(seen, CONFIG, None).actions[1:]) == {DeleteMarks(TABLE), DeletePodRule(RULE)}
        left = two_enis(network=PodNetwork(frozenset({ROUTE}), frozenset({MARK_RULE})))
        assert plan_node(left, CONFIG, None).actions == (DeletePodRule(MARK_RULE), DeletePodRoute(ROUTE))

    def test_a_kernel_without_them(self) -> None:
        """Is a problem that keeps no node from holding; all the rest is done."""
        plan = plan_node(two_enis(marks=None, no_marks="it has no nf_tables"), CONFIG, BEGAN)
        (problem,) = plan.problems
        assert not problem.fatal
        assert all(word in str(problem) for word in ("eni-2", "it has no nf_tables"))
        assert {type(action) for action in plan.actions} >= {PutAddress, AssignAddress}
        assert [a.rule for a in plan.actions if isinstance(a, AddPodRule)] == [RULE]
        assert not any(isinstance(action, SetMarks) for action in plan.actions)

    def test_a_kernel_without_them_is_no_problem_of_the_primary_eni(self) -> None:
        """It needs none."""
        plan = plan_node(node(marks=None, no_marks="it has no nf_tables"), settings(), BEGAN)
        assert not any("nf_tables" in str(problem) for problem in plan.problems)

    def test_each_device_index_has_bits_of_its_own(self) -> None:
        """All within the mask."""
        values = {Target("eni-1", mac(1), index, ()).mark for index in range(1, 256)}
        assert len(values) == 255
        assert all(value and value & ~MARK_MASK == 0 for value in values)


class TestChoice:
    """Two ENIs of the node lie in the address's subnet."""

    @staticmethod
    def seen(tags: dict[str, str] | None, **facts: object) -> NodeObserved:
        """ENI 1 is the primary one; ENI 2, in the same subnet, has these tags."""
        second = Eni("eni-2", mac(2), 3, "subnet-1", node_eni().subnet_cidrs, "vpc-1", node_eni().vpc_cidrs)
        own = (described(tags=TAGGED), described(2, index=3, tags=tags))
        known = {"enis": {mac(2): second, mac(1): node_eni()}, "own": own}
        return node(host(), host(2, name="eth3"), **{**known, **facts})

    @staticmethod
    def chosen(observed: NodeObserved, config: Config) -> tuple[str, ...]:
        """The ENI that gets the address."""
        actions = plan_node(observed, config, BEGAN).actions
        return tuple(action.eni_id for action in actions if isinstance(action, AssignAddress))

    def test_the_one_that_the_cni_leaves_alone(self) -> None:
        """The tag does nothing on the primary ENI, and nothing when it says no."""
        assert self.chosen(self.seen(TAGGED), settings()) == ("eni-2",)
        assert self.chosen(self.seen({NO_MANAGE_TAG: "false"}), settings()) == ("eni-1",)
        assert self.chosen(self.seen(None), settings()) == ("eni-1",)

    def test_until_the_nodes_enis_are_known_nothing_is_chosen(self) -> None:
        """The address might be the node's own."""
        plan = plan_node(self.seen(TAGGED, own=()), settings(), BEGAN)
        assert (plan.actions, plan.needs) == ((), {NodeNeed.OWN})

    @pytest.mark.parametrize(("tags", "warned"), [(TAGGED, False), (None, True), ({NO_MANAGE_TAG: "no"}, True)])
    @pytest.mark.parametrize("began", [None, BEGAN])
    def test_a_managed_eni_is_a_problem_to_be_said(
        self, tags: dict[str, str] | None, warned: bool, began: float | None
    ) -> None:
        """The CNI may hand the address to a pod; it keeps no node from holding."""
        observed = two_enis(own=(described(), described(2, index=2, tags=tags)))
        problems = plan_node(observed, CONFIG, began).problems
        assert [(each.subject, each.fatal) for each in problems] == [(ASIDE, False)] * warned
        assert all(word in str(each) for each in problems for word in ("eni-2", NO_MANAGE_TAG, "FloatingMode"))

    def test_ipv6_addresses_are_not_handed_out(self) -> None:
        """With IPv6 the CNI gives pods addresses of a prefix."""
        assert plan_node(two_enis(own=(described(), described(2, index=2))), settings(ASIDE6), BEGAN).problems == ()


def test_the_builders_agree() -> None:
    """What other tests expect of an address that is not on the primary ENI is what is in place here."""
    *rules, marks = rules_and_marks(ASIDE, 2, 2)
    assert rules == [AddPodRule(MARK_RULE), AddPodRule(RULE)]
    assert marks == SetMarks(TABLE, MARKS)
