"""Faults by name: those that test_bad_days*.py, test_sidecar.py and test_failover.py have not."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from lab import burst
from lab.ec2.faults import ConnectionLost
from lab.lab import Lab
from lab.pod import Pod
from lab.volume import Volume
from lab.walltime import WallClock
from tests.scenario.support import (
    ONE_AZ,
    Run,
    assert_answers,
    eni,
    eni_state,
    everywhere,
    holder,
    init,
    names_in,
    own_address6,
    point,
    sidecar,
    start,
    targets,
    until,
    wait_routed,
)

pytestmark = pytest.mark.namespaces

ONE, TWO, THREE = "192.168.0.1", "192.168.0.2", "192.168.0.3"
INSIDE = "10.10.11.77"
ROUTED = {"net1": [f"{ONE}/32"]}

# EC2's API


@pytest.mark.parametrize("family", [4, 6])
def test_partial_success_of_a_batch(lab: Lab, family: int) -> None:
    """Of three addresses in one call two are assigned, and the answer is an error: all three are there in the end."""
    addresses = [f"10.10.11.{number}" for number in (77, 78, 79)]
    if family == 6:
        addresses = [own_address6(lab, "a", 1, number) for number in (0x77, 0x78, 0x79)]
    lab.ec2.faults.partial("Assign*")
    init(lab.pod("pod", "a", {"net1": [f"{each}/{32 if family == 4 else 128}" for each in addresses]}))
    assert {holder(lab, each) for each in addresses} == {eni(lab, "a", 1)}
    assert_answers(lab, *addresses)


def test_a_hanging_call_delays_no_other(lab: Lab) -> None:
    """One table's write gets no answer, nor does any describe; the other tables and a second address do not wait.

    What was hanging is given up after ten seconds, and asked again.
    """
    pod = lab.pod("pod", "a", ROUTED)
    run = sidecar(pod, ONE)
    stuck, *others = lab.route_table_ids
    lab.ec2.faults.hang("CreateRoute", 600, None, when=lambda params: params["RouteTableId"] == stuck)
    lab.ec2.faults.hang("Describe*", 600, None)
    for address in (TWO, THREE):
        pod.add_address("net1", f"{address}/32")
        until(
            lambda it=address: {*targets(lab, f"{it}/32")} >= {*others},
            lambda: f"the other tables' routes:\n{run.text}",
        )
    assert not run.events("claimed", address=TWO), "what has no answer is not known to be done"
    lab.ec2.faults.clear()
    for address in (TWO, THREE):
        run.wait("claimed", address=address)
    assert_answers(lab, ONE, TWO, THREE)


def test_credentials_that_expire_are_asked_with_until_there_are_new_ones(lab: Lab) -> None:
    """EC2 says RequestExpired, which time mends: it is no missing permission, and is tried again soon."""
    user = lab.ec2.keys.add_user("pod")
    keys = {"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key}
    pod = lab.pod("pod", "a", ROUTED)
    run = sidecar(pod, ONE, env=keys)
    lab.ec2.keys.expire(user.access_key)
    pod.add_address("net1", f"{TWO}/32")
    assert run.wait_mention("failed", "RequestExpired")["kind"] == "retry"
    lab.ec2.keys.add(user)
    run.wait("claimed", address=TWO)
    run.wait("recovered")
    assert_answers(lab, ONE, TWO)


def test_a_route_table_that_is_removed_is_forgotten(make_lab: Callable[..., Lab]) -> None:
    """A write to it fails; what is left is complete, and the next look tells that it is."""
    lab = make_lab(route_tables=5)
    unused = lab.route_table_ids[-1]
    pod = lab.pod("pod", "a", ROUTED)
    run = sidecar(pod, ONE, ResyncInterval=2)
    lab.ec2.admin().delete_route_table(RouteTableId=unused)
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)
    for table in lab.route_table_ids[:-1]:
        assert lab.ec2.state().route_tables[table].by_destination[ip_network(TWO)].target == eni(lab, "a", 1)
    assert_answers(lab, ONE, TWO)


# IMDS


@pytest.mark.parametrize("imds", ["errors", "slow", "tokens that expire at once"])
def test_imds_that_fails_delays_nothing_else(lab: Lab, imds: str) -> None:
    """For as long as it does, for a container that starts and for an interface that comes."""
    {
        "errors": lambda: lab.imds.fail(503),
        "slow": lambda: lab.imds.slow(1.5),
        "tokens that expire at once": lambda: lab.imds.expire_tokens(0.0),
    }[imds]()
    pod = lab.pod("pod", "a", ROUTED)
    run = sidecar(pod, ONE)
    pod.add_interface("net2", [f"{TWO}/32"], device_index=2)
    run.wait("claimed", address=TWO)
    assert targets(lab, f"{TWO}/32") == everywhere(lab, eni(lab, "a", 2))
    assert_answers(lab, ONE, TWO)


# The kernel


def overruns(run: Run) -> int:
    """How many messages the kernel could not put into the process's netlink sockets (the column Drops)."""
    inodes = set()
    for descriptor in Path(f"/proc/{run.container.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    lines = Path(f"/proc/{run.container.pid}/net/netlink").read_text().splitlines()[1:]
    return sum(int(line.split()[8]) for line in lines if line.split()[9] in inodes)


def test_a_netlink_overrun_loses_nothing(lab: Lab) -> None:
    """10,000 address changes while it is stopped; the change that matters is among those whose message is lost."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO)
    assert overruns(run) == 0
    run.container.send_signal(signal.SIGSTOP)
    burst.flap(pod.ns, "net1", "192.168.9.9", 10_000)
    pod.del_address("net1", f"{TWO}/32")
    pod.add_address("net1", f"{THREE}/32")
    assert overruns(run) > 0
    run.container.send_signal(signal.SIGCONT)
    run.wait("claimed", address=THREE)
    run.wait("withdrawn", address=TWO)
    assert targets(lab, f"{TWO}/32") == targets(lab, "192.168.9.9/32") == {}
    assert_answers(lab, ONE, THREE)


def test_a_burst_of_changes_of_a_held_address_ends_with_it_delivered(lab: Lab) -> None:
    """10,000 changes while it looks on; the address is another worker's before, and is there when they end."""
    point(lab, f"{TWO}/32", eni(lab, "b", 1))
    pod = lab.pod("pod", "a", ROUTED)
    run = sidecar(pod, ONE)
    burst.flap(pod.ns, "net1", TWO, 10_000)
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)
    wait_routed(lab, f"{TWO}/32", eni(lab, "a", 1))
    assert_answers(lab, ONE, TWO)


def test_an_eni_is_detached_and_attached_again(lab: Lab) -> None:
    """Its interface goes and comes back with other names and numbers; in between its addresses are another pod's."""
    pod, standby = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32", f"{INSIDE}/24"]}), lab.pod("st", "b", {})
    standby.add_interface("net1", device_index=1)
    run, other = sidecar(pod, ONE, TWO, INSIDE), sidecar(standby)
    ours, theirs = eni(lab, "a", 1), eni(lab, "b", 1)
    attachment = eni_state(lab, ours).attachment
    assert attachment is not None
    lab.ec2.admin().detach_network_interface(AttachmentId=attachment.attachment_id)
    run.wait("address gone", address=ONE)
    addresses = pod.lost_interface("net1")
    standby.add_address("net1", f"{TWO}/32")
    other.wait("claimed", address=TWO)
    assert_answers(lab, TWO)

    lab.ec2.admin().attach_network_interface(
        NetworkInterfaceId=ours, InstanceId=attachment.instance_id, DeviceIndex=attachment.device_index
    )
    until(lambda: ours in {each.eni_id for _, each in lab.workers["a"].plugged()}, "the interface")
    pod.add_interface("net1", [each for each in addresses if each != f"{TWO}/32"], device_index=1)
    run.wait("claimed", count=2, address=ONE)
    run.wait("claimed", count=2, address=INSIDE)
    wait_routed(lab, f"{ONE}/32", ours)
    wait_routed(lab, f"{TWO}/32", theirs)
    assert holder(lab, INSIDE) == ours
    assert_answers(lab, ONE, TWO, INSIDE)


# The process


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
def test_kill_9_at_every_step(make_lab: Callable[..., Lab], applied: bool) -> None:
    """At its first call to EC2, at its second, … until one run is never killed; the next start completes each."""
    step, killed = 0, True
    while killed:
        step += 1
        lab = make_lab()
        point(lab, f"{ONE}/32", eni(lab, "b", 1), lab.route_table_ids[:2])
        pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/24", "fd12::1/128"]})
        killed = _run_until_call(lab, pod, step, applied)
        run = sidecar(pod, ONE, INSIDE, "fd12::1")
        assert targets(lab, f"{ONE}/32") == targets(lab, "fd12::1/128") == everywhere(lab, eni(lab, "a", 1))
        assert holder(lab, INSIDE) == eni(lab, "a", 1)
        assert_answers(lab, ONE, INSIDE, "fd12::1")
        assert run.stop() == 0
        lab.close()
    assert step > 2 + 2 * len(lab.route_table_ids), "two describes, and a write for each table and routed address"


def _run_until_call(lab: Lab, pod: Pod, number: int, applied: bool) -> bool:
    """Run a sidecar that is killed at its call of that number; False when it was done before."""
    left = number
    runs: list[Run] = []

    def count(_: Mapping[str, str]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            until(lambda: runs, "the run's process")
            runs[0].container.kill()
            if not applied:
                raise ConnectionLost

    end = lab.ec2.faults.before("*", count, times=None)
    run = start(pod, "sidecar")
    runs.append(run)
    done = {ONE, INSIDE, "fd12::1"}
    until(
        lambda: run.container.poll() is not None or done <= {event["address"] for event in run.events("claimed")},
        lambda: f"claimed or killed:\n{run.text}",
    )
    end()
    if run.container.poll() is None:
        assert run.stop() == 0
        return False
    assert run.container.returncode == -signal.SIGKILL
    return True


def test_a_stopped_process_gives_nothing_back_and_takes_nothing_away(lab: Lab) -> None:
    """SIGSTOP; its address goes to a standby meanwhile. When it goes on it does not take it, nor delete its routes."""
    active, standby = lab.pod("active", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]}), lab.pod("standby", "b", {})
    standby.add_interface("net1", device_index=1)
    run, other = sidecar(active, ONE, TWO), sidecar(standby)
    run.container.send_signal(signal.SIGSTOP)
    active.del_address("net1", f"{ONE}/32")
    standby.add_address("net1", f"{ONE}/32")
    active.add_address("net1", f"{THREE}/32")
    other.wait("claimed", address=ONE)
    assert_answers(lab, ONE)
    run.container.send_signal(signal.SIGCONT)
    run.wait("claimed", address=THREE)
    run.wait("withdrawn", address=ONE)
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "b", 1))
    assert_answers(lab, ONE, TWO, THREE)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_state_directory_that_cannot_be_written(lab: Lab, fault: str) -> None:
    """It is said once, and lived without; when it can be written again, it is."""
    pod = lab.pod("pod", "a", ROUTED)
    volume = Volume(pod)
    settings = {"LogFormat": "json", "StateDir": volume.path, "ResyncInterval": 1}
    run = Run(pod.vipmanager(["sidecar"], settings, inside=volume.command))
    run.wait("claimed", address=ONE)
    claims = volume.seen_from_outside / "claims.json"
    until(lambda: ONE in claims.read_text(), "the claim on disk")
    if fault == "full":
        volume.fill()
    else:
        volume.set_read_only(True)
    for address in (TWO, THREE):
        pod.add_address("net1", f"{address}/32")
        run.wait("claimed", address=address)
    assert len(run.events("state not kept")) == 1
    assert TWO not in claims.read_text()
    assert ONE in claims.read_text(), "what was there is whole"

    volume.free() if fault == "full" else volume.set_read_only(False)
    until(lambda: {ONE, TWO, THREE} <= set(claims.read_text().split('"')), lambda: f"written:\n{run.text}")
    until(lambda: names_in(claims.parent) == ["claims.json", "status.json"], lambda: str(names_in(claims.parent)))
    run.container.kill()
    again = Run(pod.vipmanager(["sidecar"], settings, inside=volume.command))
    again.wait("claimed", address=THREE)
    assert_answers(lab, ONE, TWO, THREE)


def test_a_clock_that_jumps_changes_nothing(lab: Lab) -> None:
    """As far as EC2 accepts its signatures, and back, before an address comes and after."""
    pod = lab.pod("pod", "a", ROUTED)
    clock = WallClock(pod.directory / "clock")
    run = sidecar(pod, ONE, env=clock.env(pod.env), ResyncInterval=1)
    for offset, address in ((840.0, TWO), (-840.0, THREE), (0.0, "192.168.0.4")):
        clock.jump(offset)
        pod.add_address("net1", f"{address}/32")
        run.wait("claimed", address=address)
        mark = lab.ec2.mark()
        until(lambda since=mark: lab.ec2.calls_since(since, "DescribeRouteTables"), "the next resync")
    assert run.events("failed") == []
    assert_answers(lab, ONE, TWO, THREE, "192.168.0.4")


def test_a_clock_that_is_a_day_off_costs_nothing_that_is_there(lab: Lab) -> None:
    """EC2 refuses every call meanwhile, and what has come is claimed when the clock is right again."""
    pod = lab.pod("pod", "a", ROUTED)
    clock = WallClock(pod.directory / "clock")
    run = sidecar(pod, ONE, env=clock.env(pod.env))
    clock.jump(86400.0)
    pod.add_address("net1", f"{TWO}/32")
    run.wait_mention("AuthFailure", TWO)
    assert_answers(lab, ONE)
    clock.jump(0.0)
    run.wait("claimed", address=TWO)
    assert_answers(lab, ONE, TWO)


# Two pods


def test_two_pods_that_claim_one_address_at_once_end_with_one_that_has_it(make_lab: Callable[..., Lab]) -> None:
    """Each may have some of the tables at first, and each concede; one has all in the end, and the other says so."""
    lab = make_lab(workers=ONE_AZ)
    pods = {name: lab.pod(name, worker, {"net1": []}) for name, worker in (("first", "a"), ("second", "c"))}
    runs = {name: sidecar(pod) for name, pod in pods.items()}
    for run in runs.values():
        run.wait("interface", name="net1")
        run.container.send_signal(signal.SIGSTOP)
    for pod in pods.values():
        pod.add_address("net1", f"{ONE}/32")
    for run in runs.values():
        run.container.send_signal(signal.SIGCONT)

    def winner() -> str | None:
        for name, other in (("first", "second"), ("second", "first")):
            ours = eni(lab, pods[name].worker.name, 1)
            conceded = runs[other].events("conceded", to=ours)
            if targets(lab, f"{ONE}/32") == everywhere(lab, ours) and conceded:
                return name
        return None

    until(winner, lambda: "".join(run.text for run in runs.values()), within=60.0)
    assert_answers(lab, ONE)
