"""`vipmanager status`: what somebody sees who asks in the container of a pod, and what its readiness probe says."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.lab import Lab
from lab.pod import Pod
from lab.volume import Volume
from tests.scenario.support import BOUND, Run, eni, init, names_in, sidecar, start, targets, until

pytestmark = pytest.mark.namespaces

ONE, TWO, THREE, FOUR = (f"192.168.0.{number}" for number in range(1, 5))


def status(pod: Pod, *arguments: str, inside: Sequence[str] = (), **settings: object) -> tuple[int, str]:
    """The exit code of `vipmanager status`, and what it prints."""
    container = pod.vipmanager(["status", *arguments], settings, inside=inside)
    return container.wait(BOUND), container.output()


def shown(pod: Pod, **settings: object) -> dict[str, Any]:
    """What it says as JSON; nothing while there is no file."""
    code, text = status(pod, "--json", **settings)
    found: dict[str, Any] = json.loads(text) if text.startswith("{") else {}
    assert code == (0 if found.get("running") or found.get("result") == "ok" else 1)
    return found


def by_name(pod: Pod) -> dict[str, dict[str, Any]]:
    """The addresses."""
    return {item["name"]: item for item in shown(pod).get("addresses", ())}


def wait_state(pod: Pod, address: str, state: str) -> dict[str, Any]:
    """Wait until an address is in a state."""
    return until(
        lambda: (item := by_name(pod).get(address)) and item["state"] == state and item,
        lambda: f"{address} {state}: {by_name(pod)}",
    )


def file_of(pod: Pod) -> Path:
    """Where the status is kept."""
    return pod.directory / "state" / "status.json"


def deny_one_table(lab: Lab, address: str) -> str:
    """EC2 refuses one table the route to an address; which."""
    table = lab.route_table_ids[1]
    lab.ec2.faults.fail(
        "CreateRoute",
        "UnauthorizedOperation",
        times=None,
        status=403,
        when=lambda params: params["RouteTableId"] == table and params["DestinationCidrBlock"] == f"{address}/32",
    )
    return table


def test_an_address_in_each_state(lab: Lab) -> None:
    """Claimed, pending with its reason, conceded, withdrawing and then gone; each in one line of the text."""
    pod = lab.pod("pod", "a", {"net1": [f"{each}/32" for each in (ONE, THREE, FOUR)]})
    init(pod)
    run = sidecar(pod, ONE, THREE, FOUR, ResyncInterval=1)
    net1, other = eni(lab, "a", 1), eni(lab, "b", 1)
    deny_one_table(lab, TWO)
    pod.add_address("net1", f"{TWO}/32")
    pending = wait_state(pod, TWO, "pending")
    init(lab.pod("taker", "b", {"net1": [f"{ONE}/32"]}))
    conceded = wait_state(pod, ONE, "conceded")
    pod.del_address("net1", f"{THREE}/32")
    wait_state(pod, THREE, "withdrawing")

    pending = until(lambda: by_name(pod)[TWO]["next_retry"] and by_name(pod)[TWO], "the reason")
    assert pending["tables"] == {"done": 3, "total": 4}
    assert "UnauthorizedOperation" in pending["why"] and "ec2:CreateRoute" in pending["why"]
    assert pending["next_retry"] >= pending["since"]
    assert (conceded["conceded_to"], conceded["eni"]) == (other, net1)
    claimed = by_name(pod)[FOUR]
    wanted = {"state": "claimed", "interface": "net1", "placement": "host-route", "eni": net1, "why": ""}
    assert {key: claimed[key] for key in wanted} == wanted
    assert claimed["tables"] == {"done": 4, "total": 4}
    code, text = status(pod)
    assert code == 0
    for address, words in ((ONE, f"conceded to {other}"), (TWO, "3 of 4 tables"), (FOUR, "claimed")):
        (line,) = (line for line in text.splitlines() if line.startswith(f"{address} "))
        assert words in line and net1 in line and "net1" in line
    run.wait("withdrawn", address=THREE)
    until(lambda: THREE not in by_name(pod), "it is gone")


def test_ready_is_an_exec_probe(lab: Lab) -> None:
    """Not before everything is in place; then; and when an address has been conceded, because it is given up."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    code, text = status(pod, "--ready")
    assert code == 1 and "is vipmanager running" in text
    deny_one_table(lab, ONE)
    start(pod, "sidecar", ResyncInterval=1)
    wait_state(pod, ONE, "pending")
    until(lambda: "UnauthorizedOperation" in status(pod, "--ready")[1], "the reason")
    assert status(pod, "--ready")[0] == 1
    lab.ec2.faults.clear()
    until(lambda: status(pod, "--ready") == (0, ""), lambda: status(pod, "--ready")[1])
    wait_state(pod, ONE, "claimed")
    for table in lab.route_table_ids:
        replace = {"RouteTableId": table, "DestinationCidrBlock": f"{ONE}/32", "NetworkInterfaceId": eni(lab, "b", 1)}
        lab.ec2.admin().replace_route(**replace)
    wait_state(pod, ONE, "conceded")
    assert status(pod, "--ready") == (0, "")


def test_a_standby_is_ready_without_an_address(lab: Lab) -> None:
    """It waits for one: nothing that is desired is missing."""
    pod = lab.pod("pod", "a", {"net1": []})
    sidecar(pod)
    until(lambda: status(pod, "--ready") == (0, ""), lambda: status(pod, "--ready")[1])
    assert "no floating address on this pod" in status(pod)[1]


def test_a_pod_that_was_made_before_multus_ran_is_not_ready(lab: Lab) -> None:
    """It has eth0 alone, for good: an application that starts now has no address, and nobody would say so."""
    pod = lab.pod("pod", "a", {})
    run = sidecar(pod)
    said = run.wait("no interface")["why"]
    assert "delete the pod" in said
    until(lambda: said in status(pod, "--ready")[1], lambda: status(pod, "--ready")[1])
    assert status(pod, "--ready")[0] == 1
    assert len(run.events("no interface")) == 1


def test_an_init_run_that_has_ended(lab: Lab) -> None:
    """Done well it is no error that it does not run; failed it is, and the reason is kept."""
    good = lab.pod("good", "a", {"net1": [f"{ONE}/32"]})
    init(good)
    found = shown(good)
    assert (found["mode"], found["result"], found["running"], found["ready"]) == ("init", "ok", False, True)
    assert [(item["name"], item["state"]) for item in found["addresses"]] == [(ONE, "claimed")]
    assert status(good, "--ready") == (0, "")
    assert "ENDED: ok" in status(good)[1]

    bad = lab.pod("bad", "b", {"net1": [f"{TWO}/32"]})
    lab.ec2.faults.deny("ec2:CreateRoute")
    assert start(bad, "init").ends() != 0
    found = shown(bad)
    assert (found["result"], found["ready"]) == ("failed", False)
    assert found["addresses"][0]["state"] == "pending"
    assert "ec2:CreateRoute" in found["addresses"][0]["why"]
    assert status(bad, "--ready")[0] == 1


def test_after_a_kill_it_is_not_running(lab: Lab) -> None:
    """What it said last is shown, as the last; the probe fails; the next start is believed again."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE)
    wait_state(pod, ONE, "claimed")
    run.container.send_signal(signal.SIGKILL)
    run.ends()
    code, text = status(pod)
    assert code == 1 and text.startswith("NOT RUNNING") and ONE in text
    code, text = status(pod, "--ready")
    assert code == 1 and "not running" in text
    sidecar(pod, ONE)
    until(lambda: status(pod, "--ready") == (0, ""), lambda: status(pod, "--ready")[1])


def test_a_sidecar_that_was_told_to_stop_says_so(lab: Lab) -> None:
    """Stopped is not crashed."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE)
    assert run.stop() == 0
    code, text = status(pod)
    assert code == 1 and text.startswith("ENDED: stopped")


@pytest.mark.parametrize("port", [8086, 0])
def test_a_process_that_was_stopped_is_not_ready_and_its_status_is_not_certain(lab: Lab, port: int) -> None:
    """What comes meanwhile is not delivered; nor does the file know of it."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE, HealthPort=port)
    until(lambda: status(pod, "--ready") == (0, ""), lambda: status(pod, "--ready")[1])
    run.container.send_signal(signal.SIGSTOP)
    pod.add_address("net1", f"{TWO}/32")
    code, text = status(pod, "--ready")
    assert code == 1 and ("stopped by a signal" in text or "does not answer" in text)
    code, text = status(pod)
    assert code == 1 and text.startswith("NOT CERTAIN")
    run.container.send_signal(signal.SIGCONT)
    run.wait("claimed", address=TWO)
    until(lambda: status(pod, "--ready") == (0, ""), lambda: status(pod, "--ready")[1])
    assert status(pod)[0] == 0


@pytest.mark.parametrize("port", [8086, 0])
def test_where_the_status_cannot_be_written_the_last_is_not_taken_for_true(lab: Lab, port: int) -> None:
    """The health port still knows; without it nobody does, and that is said."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    volume, run = in_volume(pod, HealthPort=port)

    def here(*arguments: str) -> tuple[int, str]:
        return status(pod, *arguments, inside=volume.command, StateDir=volume.path)

    until(lambda: here("--ready") == (0, ""), lambda: here("--ready")[1])
    volume.set_read_only(True)
    deny_one_table(lab, TWO)
    pod.add_address("net1", f"{TWO}/32")
    run.wait("failed", code="UnauthorizedOperation")
    run.wait("status not written")
    until(lambda: here("--ready")[0] == 1, "not ready")
    assert (TWO if port else "could not be written anew") in here("--ready")[1]
    code, text = here()
    assert code == 1 and "could not be written anew" in text.splitlines()[0]
    volume.set_read_only(False)
    lab.ec2.faults.clear()
    run.wait("claimed", address=TWO)
    until(lambda: here("--ready") == (0, ""), lambda: here("--ready")[1])
    assert here()[0] == 0


def in_volume(pod: Pod, **settings: object) -> tuple[Volume, Run]:
    """A sidecar that has claimed ONE and keeps its state on a volume of its own."""
    volume = Volume(pod)
    known = {"LogFormat": "json", "StateDir": volume.path, **settings}
    run = Run(pod.vipmanager(["sidecar"], known, inside=volume.command))
    run.wait("claimed", address=ONE)
    return volume, run


def test_a_state_directory_that_is_read_only_breaks_nothing(lab: Lab) -> None:
    """The addresses are delivered; that there is no new status is said once; it is written as soon as it can be."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    volume, run = in_volume(pod)
    volume.set_read_only(True)
    for address in (TWO, THREE):
        pod.add_address("net1", f"{address}/32")
        run.wait("claimed", address=address)
        run.wait("status not written")
    assert len(run.events("status not written")) == 1
    volume.set_read_only(False)
    pod.add_address("net1", f"{FOUR}/32")
    run.wait("claimed", address=FOUR)
    until(
        lambda: f"{FOUR} " in status(pod, inside=volume.command, StateDir=volume.path)[1],
        "it is written where it can be",
    )


def test_a_state_directory_that_is_full_breaks_nothing(lab: Lab) -> None:
    """The addresses are delivered, and the status takes the place of the last, which is no longer true."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    volume, run = in_volume(pod)
    volume.fill()
    for address in (TWO, THREE):
        pod.add_address("net1", f"{address}/32")
        run.wait("claimed", address=address)
    until(
        lambda: f"{THREE} " in status(pod, inside=volume.command, StateDir=volume.path)[1],
        lambda: status(pod, inside=volume.command, StateDir=volume.path)[1],
    )


def test_the_file_is_the_owners_and_holds_no_secret_and_time_does_not_change_it(lab: Lab) -> None:
    """A resync later it is the same file, though the loop has gone round."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    init(pod)
    sidecar(pod, ONE, ResyncInterval=1)
    wait_state(pod, ONE, "claimed")
    until(lambda: shown(pod).get("ready"), "ready")
    before = file_of(pod).stat()
    assert stat.S_IMODE(before.st_mode) == 0o600
    mark = lab.ec2.mark()
    until(lambda: len(lab.ec2.calls_since(mark, "DescribeRouteTables")) >= 3, "three resyncs")
    after = file_of(pod).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert targets(lab, f"{ONE}/32")
    text = file_of(pod).read_text()
    secrets = [value for name, value in lab.env("a").items() if "KEY" in name or "TOKEN" in name]
    assert secrets and not any(secret in text for secret in secrets)
    until(lambda: names_in(file_of(pod).parent) == ["claims.json", "status.json"], "no temporary file")
