"""The contract of LeasePort: the double, and the real client with each API server that the lab can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from lab.kube import apiserver, cluster
from tests.contract.kube_cluster import Cluster
from tests.contract.lease_worlds import NAME, FakeWorld, InNamespace, KubeHost, KubeWorld, LeaseWorld, Watching
from vipmanager.clients.kube import LeaseClient
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model_node import Lease

OURS = Lease(holder="node-a", duration=6, renewed="", transitions=0)
THEIRS = {"example.com/owner": "somebody"}


@pytest.fixture(scope="module")
def small() -> Iterator[KubeHost]:
    host = KubeHost(real=False)
    yield host
    host.close()


@pytest.fixture(scope="module")
def real() -> Iterator[KubeHost]:
    if apiserver.assets() is None and cluster.kubeconfig() is None:
        pytest.skip("neither KUBEBUILDER_ASSETS nor KUBECONFIG is set: make kube-assets")
    host = KubeHost(real=True)
    yield host
    host.close()


@pytest.fixture(scope="module")
def existing() -> Iterator[KubeHost]:
    if apiserver.assets() is None:
        pytest.skip("KUBEBUILDER_ASSETS is not set: make kube-assets")
    outside = Cluster()
    try:
        host = outside.host()
        yield host
        host.close()
    finally:
        outside.close()


SERVERS = [pytest.param(name, marks=pytest.mark.namespaces) for name in ("small", "real", "existing")]


@pytest.fixture(params=["fake", *SERVERS])
def world(request: pytest.FixtureRequest) -> LeaseWorld:
    if request.param == "fake":
        return FakeWorld()
    host: KubeHost = request.getfixturevalue(request.param)
    host.reset()
    return KubeWorld(host)


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest) -> KubeWorld:
    host: KubeHost = request.getfixturevalue(request.param)
    host.reset()
    return KubeWorld(host)


def fails(kind: ErrorKind, call: Callable[..., object], *arguments: Any, **options: Any) -> CallError:
    """Expect a call to fail as this kind."""
    with pytest.raises(CallError) as caught:
        call(*arguments, **options)
    assert caught.value.kind is kind, caught.value
    return caught.value


def at_once(*calls: Callable[[], Lease]) -> tuple[list[Lease], list[CallError]]:
    """Make calls at the same time; what they returned and what they raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
    errors = [future.exception() for future in futures]
    returned = [future.result() for future, error in zip(futures, errors, strict=True) if error is None]
    raised = [error for error in errors if isinstance(error, CallError)]
    assert len(returned) + len(raised) == len(calls), errors
    return returned, raised


def nothing(_: Lease | None) -> None:
    """For a watch of which nothing is expected."""


# Read, create, update ------------------------------------------------------------------------------------------------


def test_there_is_none_at_first(world: LeaseWorld) -> None:
    assert world.port("a").read() is None


def test_what_was_created_is_read(world: LeaseWorld) -> None:
    made = world.port("a").create(OURS)
    assert made.renewed == made.acquired != ""
    assert made.version
    assert replace(made, renewed="", acquired="", version="") == OURS
    assert world.port("b").read() == made


def test_create_when_there_is_one(world: LeaseWorld) -> None:
    made = world.port("a").create(OURS)
    fails(ErrorKind.RACE, world.port("b").create, replace(OURS, holder="node-b"))
    assert world.port("b").read() == made


def test_of_two_that_create_at_once_one_does(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made, raised = at_once(lambda: a.create(OURS), lambda: b.create(replace(OURS, holder="node-b")))
    assert [error.kind for error in raised] == [ErrorKind.RACE]
    assert [a.read()] == made


def test_a_renewal_stamps_its_time_and_no_other(world: LeaseWorld) -> None:
    port = world.port("a")
    made = port.create(OURS)
    renewed = port.update(made, renew=True)
    assert renewed.renewed > made.renewed
    assert renewed.version != made.version
    assert replace(renewed, renewed=made.renewed, version=made.version) == made
    assert port.read() == renewed


def test_an_update_without_renewal_leaves_the_times(world: LeaseWorld) -> None:
    made = world.port("a").create(OURS)
    b = world.port("b")
    found = b.read()
    assert found is not None
    wanted = b.update(replace(found, wanted_by="node-b"), renew=False)
    assert (wanted.holder, wanted.renewed, wanted.transitions) == (made.holder, made.renewed, made.transitions)
    assert wanted.acquired == made.acquired
    assert wanted.wanted_by == "node-b"
    assert world.port("a").read() == wanted


def test_update_of_a_stale_version(world: LeaseWorld) -> None:
    a = world.port("a")
    made = a.create(OURS)
    renewed = a.update(made, renew=True)
    fails(ErrorKind.RACE, a.update, made, renew=True)
    b = world.port("b")  # which has seen none of the versions
    fails(ErrorKind.RACE, b.update, made, renew=True)
    assert a.read() == renewed
    assert b.update(renewed, renew=True).renewed > renewed.renewed


def test_of_two_that_update_at_once_one_does(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made = a.create(OURS)
    assert b.read() == made
    stored, raised = at_once(
        lambda: a.update(made, renew=True),
        lambda: b.update(replace(made, holder="node-b", transitions=1), renew=True, acquire=True),
    )
    assert [error.kind for error in raised] == [ErrorKind.RACE]
    assert [a.read()] == stored


def test_an_update_does_not_make_what_was_deleted(world: LeaseWorld) -> None:
    a = world.port("a")
    made = a.create(OURS)
    world.delete()
    fails(ErrorKind.RACE, a.update, made, renew=True)
    assert a.read() is None


def test_an_update_does_not_replace_what_was_made_anew(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made = a.create(OURS)
    world.delete()
    anew = b.create(replace(OURS, holder="node-b"))
    fails(ErrorKind.RACE, a.update, made, renew=True)
    assert a.read() == anew


def test_release_and_take(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    released = a.update(replace(a.create(OURS), holder=""), renew=True)
    assert (released.holder, released.duration) == ("", 1)
    found = b.read()
    assert found == released
    assert found is not None
    taken = b.update(replace(found, holder="node-b", duration=6, transitions=1), renew=True, acquire=True)
    assert (taken.holder, taken.duration, taken.transitions) == ("node-b", 6, 1)
    assert taken.acquired > released.acquired
    assert a.read() == taken


# Annotations and what others write -----------------------------------------------------------------------------------


def test_annotations_are_written_kept_and_dropped(world: LeaseWorld) -> None:
    port = world.port("a")
    offered = port.update(replace(port.create(OURS), offered="no route", wanted_by="node-b"), renew=True)
    assert (offered.offered, offered.wanted_by) == ("no route", "node-b")
    kept = port.update(offered, renew=True)
    assert (kept.offered, kept.wanted_by) == ("no route", "node-b")
    dropped = port.update(replace(kept, offered="", wanted_by=""), renew=True)
    assert (dropped.offered, dropped.wanted_by) == ("", "")
    assert world.port("b").read() == dropped


def test_what_others_wrote_survives_every_update(world: LeaseWorld) -> None:
    a = world.port("a")
    made = a.create(replace(OURS, offered="no route"))
    world.write_foreign(THEIRS)
    fails(ErrorKind.RACE, a.update, made, renew=True)
    found = a.read()
    assert found is not None
    renewed = a.update(replace(found, offered=""), renew=True)
    world.port("b").update(renewed, renew=False)  # by a client that has seen no version of it
    a.update(replace(found, version=_version(a.read()), holder=""), renew=True)
    assert world.foreign() == THEIRS


def _version(lease: Lease | None) -> str:
    assert lease is not None
    return lease.version


# Watches -------------------------------------------------------------------------------------------------------------


def test_a_watch_sees_what_others_do(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    watching = Watching(b)
    made = a.create(OURS)
    watching.wait_for(made)
    renewed = a.update(made, renew=True)
    watching.wait_for(renewed)
    released = a.update(replace(renewed, holder=""), renew=True)
    watching.wait_for(released)
    world.delete()
    watching.wait_for(None)
    again = a.create(OURS)
    watching.wait_for(again)
    assert watching.seen == [made, renewed, released, None, again]
    world.refuse("b")
    assert watching.wait_for_end() is not None


def test_a_watch_begins_after_what_was_read(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made = a.create(OURS)
    assert b.read() == made
    between = a.update(made, renew=True)
    watching = Watching(b)
    watching.wait_for(between)
    after = a.update(between, renew=True)
    watching.wait_for(after)
    assert watching.seen == [between, after]
    world.refuse("b")
    watching.wait_for_end()


def test_a_watch_of_one_who_has_read_nothing_begins_with_the_present_state(world: LeaseWorld) -> None:
    made = world.port("a").create(OURS)
    watching = Watching(world.port("b"))
    watching.wait_for(made)
    world.refuse("b")
    watching.wait_for_end()


def test_what_a_watch_has_seen_can_be_updated(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made = a.create(OURS)
    assert b.read() == made
    watching = Watching(b)
    released = a.update(replace(made, holder=""), renew=True)
    watching.wait_for(released)
    fails(ErrorKind.RACE, b.update, replace(made, holder="node-b"), renew=True, acquire=True)
    taken = b.update(replace(released, holder="node-b", duration=6), renew=True, acquire=True)
    assert a.read() == taken
    watching.wait_for(taken)
    world.refuse("b")
    watching.wait_for_end()


def test_a_silent_watch_ends(world: LeaseWorld) -> None:
    port = world.port("a")
    port.create(OURS)
    fails(ErrorKind.RETRY, port.watch, nothing, 0.3)


def test_a_watch_on_a_dead_connection_ends(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made = a.create(OURS)
    watching = Watching(b, silence=1.0)
    watching.wait_for(made)
    world.hang("b")
    a.update(made, renew=True)
    error = watching.wait_for_end()
    assert error is not None
    assert error.kind is ErrorKind.RETRY
    assert watching.seen == [made]


def test_after_a_failed_watch_nothing_is_missed(world: LeaseWorld) -> None:
    a, b = world.port("a"), world.port("b")
    made = a.create(OURS)
    watching = Watching(b)
    watching.wait_for(made)
    world.refuse("b")
    assert watching.wait_for_end() is not None
    renewed = a.update(made, renew=True)
    world.restore("b")
    again = Watching(b)
    again.wait_for(renewed)
    world.refuse("b")
    again.wait_for_end()


# The API server is away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hang", "refuse"])
def test_every_call_fails_while_the_server_is_away(world: LeaseWorld, how: str) -> None:
    made = world.port("b").create(OURS)
    port = world.impatient("a")
    assert port.read() == made
    getattr(world, how)("a")
    fails(ErrorKind.RETRY, port.read)
    fails(ErrorKind.RETRY, port.create, OURS)
    fails(ErrorKind.RETRY, port.update, made, renew=True)
    fails(ErrorKind.RETRY, port.watch, nothing, 0.3)
    world.restore("a")
    found = port.read()
    assert found is not None
    assert found.holder == OURS.holder


# Rights --------------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[Any, Lease], object]] = {
    "get": lambda port, _: port.read(),
    "create": lambda port, lease: port.create(lease),
    "update": lambda port, lease: port.update(lease, renew=True),
    "watch": lambda port, _: port.watch(nothing, 0.3),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_right_that_is_missing(served: KubeWorld, verb: str) -> None:
    port = served.port("a")
    made = port.create(OURS)
    served.kube.grant("a", without=[verb])
    error = fails(ErrorKind.DENIED, VERBS[verb], port, made)
    lease = f"{served.kube.namespace}/{NAME}"
    for part in (verb, "leases.coordination.k8s.io", lease, "apply samples/nodeport/rbac.yaml"):
        assert part in error.failure.remedy
    for other in {"get", "update"} - {verb}:
        VERBS[other](port, made)


def test_rights_that_are_taken_away_and_given_back(served: KubeWorld) -> None:
    port = served.port("a")
    made = port.create(OURS)
    served.kube.revoke("a")
    for call in VERBS.values():
        fails(ErrorKind.DENIED, call, port, made)
    assert served.port("b").read() == made
    served.kube.grant("a")
    assert port.read() == made


def test_nobody_may_touch_another_lease(served: KubeWorld) -> None:
    client = LeaseClient(served.kube.namespace, "another", 5.0, environment=served.kube.env("a"))
    other = InNamespace(client, served.host.ns)
    error = fails(ErrorKind.DENIED, other.read)
    assert f"{served.kube.namespace}/another" in error.failure.remedy
    fails(ErrorKind.DENIED, other.watch, nothing, 0.3)
