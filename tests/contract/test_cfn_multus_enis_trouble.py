"""The function that gives nodes their Multus ENIs: each of its calls fails, and nothing is missing or left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from tests.contract.cfn_enis_world import LAUNCH_CALLS, Context, World, function, world
from tests.contract.ec2_fixtures import endpoint, module_patch

__all__ = ["endpoint", "function", "module_patch", "world"]


# Trouble at each step ------------------------------------------------------------------------------------------------


@dataclass
class Trouble:
    """The call of that number, of EC2 or Auto Scaling, is refused ("throttled"), lost, or done with its answer lost."""

    world: World
    number: int
    kind: str
    hit: str = ""
    ended: list[Callable[[], None]] = field(default_factory=list)

    def __enter__(self) -> Trouble:
        faults = self.world.ec2.faults
        plan = {"throttled": faults.fail, "lost": faults.reset, "done": faults.fail_after}[self.kind]
        self.ended.append(plan("*", when=lambda params: self._now("ec2")))
        self.world.groups.before, self.world.groups.after = self._before, self._after
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.pop()()
        self.world.groups.before, self.world.groups.after = lambda action: None, lambda action: None

    def _now(self, what: str) -> bool:
        self.number -= 1
        if self.number == 0:
            self.hit = what
        return self.number == 0

    def _before(self, action: str) -> str | None:
        if self.kind == "done" or not self._now(action):
            return None
        if self.kind == "lost":
            raise EndpointConnectionError(endpoint_url="https://autoscaling")
        return "Throttling"

    def _after(self, action: str) -> None:
        if self.kind == "done" and self._now(action):
            raise ReadTimeoutError(endpoint_url="https://autoscaling")


KINDS = ["throttled", "lost", "done"]
each_launch_call = pytest.mark.parametrize("number", range(1, LAUNCH_CALLS + 1))


def launch_with_trouble(world: World, number: int, kind: str) -> None:
    """The launch, which must fail by that trouble."""
    with Trouble(world, number, kind) as trouble, pytest.raises(Exception) as caught:
        world.launch()
    assert trouble.hit, "the launch made fewer calls"
    assert not isinstance(caught.value, AssertionError)


def test_a_launch_takes_so_many_calls(world: World) -> None:
    with Trouble(world, LAUNCH_CALLS, "done") as trouble, pytest.raises(ReadTimeoutError):
        world.launch()
    assert trouble.hit == "CompleteLifecycleAction"  # the last one


@pytest.mark.parametrize("kind", KINDS)
@each_launch_call
def test_a_launch_that_failed_is_done_when_called_again(world: World, number: int, kind: str) -> None:
    launch_with_trouble(world, number, kind)
    world.launch()
    world.check_ready()
    assert world.groups.results == [(world.node, "CONTINUE")]


@pytest.mark.parametrize("kind", KINDS)
@each_launch_call
def test_nothing_is_left_of_a_launch_that_was_not_called_again(world: World, number: int, kind: str) -> None:
    launch_with_trouble(world, number, kind)
    world.call(world.groups.wait(world.node, "Terminating:Wait"))  # the launch hook's time is over
    world.end()
    assert world.enis() == []


@each_launch_call
def test_nothing_is_left_where_no_other_event_came(world: World, number: int) -> None:
    launch_with_trouble(world, number, "done")
    world.end()
    world.sweep()
    assert world.enis() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 5))
def test_trouble_at_the_end(world: World, number: int, kind: str) -> None:
    with Trouble(world, LAUNCH_CALLS - 2, "lost"), pytest.raises(Exception, match=r"onnection"):
        world.launch()  # the second ENI is attached, or not, and would not end with the node
    admin, detail = world.ec2.admin(), world.groups.wait(world.node, "Terminating:Wait")
    first, second = world.enis()
    admin.detach_network_interface(AttachmentId=first["Attachment"]["AttachmentId"])
    assert not second["Attachment"]["DeleteOnTermination"]
    with Trouble(world, number, kind) as trouble, pytest.raises(Exception) as caught:
        world.call(detail)
    assert trouble.hit
    assert not isinstance(caught.value, AssertionError)
    world.call(detail)  # Lambda's retry
    assert world.groups.results == [(world.node, "CONTINUE")]
    world.end()
    assert world.enis() == []


def test_a_node_may_end_though_its_enis_cannot_be_deleted(world: World) -> None:
    launch_with_trouble(world, 5, "lost")  # the first ENI is made, not attached
    world.ec2.faults.deny("ec2:DeleteNetworkInterface")
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        world.call(world.groups.wait(world.node, "Terminating:Wait"))
    assert world.groups.results == [(world.node, "CONTINUE")]
    world.ec2.faults.allow_all()
    world.end()
    world.sweep()
    assert world.enis() == []


# EC2 does not know at once what it has made ("eventual consistency") -------------------------------------------------

UNKNOWN = "InvalidNetworkInterfaceID.NotFound"
LATE = ["ModifyNetworkInterfaceAttribute", "AttachNetworkInterface"]


@pytest.mark.parametrize("action", LATE)
def test_an_eni_that_is_known_late(world: World, action: str) -> None:
    world.ec2.faults.fail(action, UNKNOWN, times=3, status=400)
    world.launch()  # in this call, not in Lambda's next after a minute
    world.check_ready()
    assert world.groups.results == [(world.node, "CONTINUE")]
    assert world.slept[:3] == [0.5, 1, 2]


@pytest.mark.parametrize("action", LATE)
def test_an_eni_that_is_never_known(world: World, action: str) -> None:
    world.ec2.faults.fail(action, UNKNOWN, times=None, status=400)
    with pytest.raises(ClientError, match=UNKNOWN):
        world.launch()
    assert sum(world.slept) == 30
    world.ec2.faults.clear()
    world.launch()
    world.check_ready()


def test_lambdas_time_is_not_slept_away(world: World) -> None:
    world.ec2.faults.fail("AttachNetworkInterface", UNKNOWN, times=None, status=400)
    with pytest.raises(ClientError, match=UNKNOWN):
        world.call(world.pending, Context(questions=2))
    assert world.slept == [0.5]


# The schedule --------------------------------------------------------------------------------------------------------


def test_the_sweep_leaves_alone_what_is_not_over(world: World) -> None:
    launch_with_trouble(world, 5, "lost")
    other = world.ec2.admin().create_network_interface(SubnetId=world.subnets[0])["NetworkInterface"]
    assert [eni["Status"] for eni in world.enis()] == ["available"]
    world.sweep()  # the node waits: Lambda will call again
    del world.groups.states[world.node]
    world.sweep()  # not in its group any more (detached), and running
    assert len(world.enis()) == 1
    world.end()
    world.sweep()
    assert world.enis() == []
    assert other["NetworkInterfaceId"] in world.ec2.state().enis


def test_an_eni_attached_while_it_is_swept_ends_with_its_node(world: World) -> None:
    launch_with_trouble(world, 5, "lost")
    (eni,) = world.enis()

    def attach(_: object) -> None:
        world.ec2.admin().attach_network_interface(
            NetworkInterfaceId=eni["NetworkInterfaceId"], InstanceId=world.node, DeviceIndex=1
        )

    world.ec2.faults.before("DeleteNetworkInterface", attach, times=1)
    world.call(world.groups.wait(world.node, "Terminating:Wait"))
    (attached,) = world.enis()
    assert attached["Attachment"]["DeleteOnTermination"] is True


def test_an_eni_deleted_meanwhile_is_no_trouble(world: World) -> None:
    launch_with_trouble(world, 5, "lost")
    (eni,) = world.enis()
    admin = world.ec2.admin()
    world.ec2.faults.before(
        "DeleteNetworkInterface",
        lambda _: admin.delete_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"]),
    )
    world.call(world.groups.wait(world.node, "Terminating:Wait"))
    assert world.enis() == []
