"""Events on the own Pod: the client against the small test server and the real API server, reached as from a pod."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.ec2.web import Handler, Server
from lab.kube import apiserver, keys
from lab.kube.incluster import InCluster
from lab.kube.labkube import LabKube
from lab.netns import Namespace
from tests.contract.lease_worlds import KubeHost
from tests.contract.plain_authority import serve_with
from tests.doubles.clock import SkewedClock, until
from vipmanager.clients.event_api import EventApi, PodRef, event_object
from vipmanager.clients.event_queue import BURST, REFILL, PodEvent
from vipmanager.clients.events import QUIET, PodEvents
from vipmanager.errors import CallError, ErrorKind

pytestmark = pytest.mark.namespaces

AT = 1795285457.64005
EVENT = PodEvent("Claimed", "192.168.0.1 claimed by eni-1", False, AT, AT)
UNIQUE = "95be119235ddb9d8"


@pytest.fixture(scope="module", params=["small", "real"])
def host(request: pytest.FixtureRequest) -> Iterator[KubeHost]:
    if request.param == "real" and apiserver.assets() is None:
        pytest.skip("KUBEBUILDER_ASSETS is not set: make kube-assets")
    made = KubeHost(real=request.param == "real")
    yield made
    made.close()


class World:
    """A Pod whose account may make Events, and clients as they would be in it."""

    def __init__(self, host: KubeHost, name: str, owner: str = "") -> None:
        self.kube: LabKube = host.kube
        self.ns: Namespace = host.ns
        self.kube.restore_all()
        self.pod: InCluster = self.kube.pod(name, "a", owner)
        if not owner:  # a worker's account may make Events by samples/nodeport/rbac.yaml
            self.kube.allow_events(name)
        self.calls: list[str] = []
        self.answers: list[CallError | None] = []

    def api(self, **environment: str) -> EventApi:
        """It has to be called in the namespace."""
        return EventApi({**self.pod.env, **environment}, self.pod.directory)

    def create(self, event: PodEvent = EVENT, unique: str = UNIQUE) -> None:
        """Send one."""
        self.ns.run(lambda: self.api().create(event, unique))

    def refused(self, event: PodEvent = EVENT) -> CallError:
        """Send one that is not accepted; why."""
        with pytest.raises(CallError) as caught:
            self.create(event)
        return caught.value

    def recorded(self, event: PodEvent, unique: str) -> None:
        """Send one, and remember that: for PodEvents."""
        self.calls.append(event.message)
        answer: CallError | None = None
        try:
            self.create(event, unique)
        except CallError as error:
            answer = error
            raise
        finally:
            self.answers.append(answer)

    def sink(self, clock: Callable[[], float] | None = None) -> PodEvents:
        """A sink that loses no time between attempts."""
        return PodEvents(self.recorded, clock=clock or SkewedClock(), wall=lambda: AT, chance=lambda: 0.0)

    def messages(self) -> list[str]:
        """Of the Events that `kubectl describe pod` shows."""
        return sorted(event["message"] for event in self.kube.events(self.pod))


_numbers = iter(range(1000))


@pytest.fixture
def world(host: KubeHost) -> World:
    return World(host, f"app-{next(_numbers)}")


# one Event


def test_an_event_is_the_pods_and_says_when_what_happened_how_often(world: World) -> None:
    world.create(PodEvent("Conceded", "192.168.0.1 conceded to eni-2", True, AT, AT + 60.0, 3))
    (found,) = world.kube.events(world.pod)
    metadata = found.pop("metadata")
    assert (metadata["name"], metadata["namespace"]) == (f"{world.pod.name}.{UNIQUE}", world.kube.namespace)
    assert {key: value for key, value in found.items() if key not in ("kind", "apiVersion")} == {
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": world.kube.namespace,
            "name": world.pod.name,
            "uid": world.pod.uid,
        },
        "type": "Warning",
        "reason": "Conceded",
        "action": "Conceded",
        "message": "192.168.0.1 conceded to eni-2",
        "count": 3,
        "eventTime": "2026-11-21T18:24:17.640050Z",
        "firstTimestamp": "2026-11-21T18:24:17Z",
        "lastTimestamp": "2026-11-21T18:25:17Z",
        "source": {"component": "vipmanager"},
        "reportingComponent": "vipmanager",
        "reportingInstance": world.pod.name,
    }


def test_a_second_attempt_makes_no_second_event(world: World) -> None:
    """The answer to the first may have been lost."""
    world.create()
    world.create()
    assert len(world.kube.events(world.pod)) == 1


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 1000, "😀" * 500, "", "line\nline\t\x00"])
def test_whatever_is_said_is_accepted(world: World, text: str) -> None:
    world.create(PodEvent("R" * 500, text, False, AT, AT))
    (found,) = world.kube.events(world.pod)
    said = found.get("message", "")
    assert text.startswith(said)
    assert len(said.encode()) > 1020 or said == text
    assert found["reason"] == "R" * 128


def test_a_long_name_of_a_pod_is_accepted(host: KubeHost) -> None:
    name = ".".join("a" * 49 for _ in range(5))
    world = World(host, name, "a")
    world.create()
    assert len(world.kube.events(world.pod)) == 1


def test_a_pod_of_another_namespace_gets_none(world: World) -> None:
    """POD_NAMESPACE is wrong: no rights there, and no uid that would be another Pod's."""
    with pytest.raises(CallError) as caught:
        world.ns.run(lambda: world.api(POD_NAMESPACE="kube-system").create(EVENT, UNIQUE))
    assert caught.value.kind is ErrorKind.DENIED


def test_without_the_right_it_is_denied(world: World) -> None:
    world.kube.allow_events(world.pod.name, allowed=False)
    error = world.refused()
    assert (error.kind, error.failure.code) == (ErrorKind.DENIED, "Forbidden")
    assert "samples/rbac-events.yaml" in error.failure.remedy
    assert world.kube.events(world.pod) == []


def test_the_token_is_read_for_each_event(world: World) -> None:
    world.create(unique="1")
    path = world.pod.directory / "token"
    before = path.read_text()
    path.write_text("no.token.anymore")
    assert world.refused().kind is ErrorKind.DENIED  # it is nobody's, so it tells no Pod
    path.write_text(before[:-8] + "AAAAAAAA")
    error = world.refused()
    assert (error.kind, error.failure.code) == (ErrorKind.RETRY, "Unauthorized")
    world.pod.rotate()
    assert path.read_text() != before
    world.create(unique="2")
    assert len(world.kube.events(world.pod)) == 2


def test_a_server_that_is_not_the_clusters_gets_no_token(world: World, tmp_path: Path) -> None:
    certificate, _ = keys.make_certificate(tmp_path, ["127.0.0.1"])
    (world.pod.directory / "ca.crt").write_bytes(certificate.read_bytes())
    error = world.refused()
    assert (error.kind, error.failure.code) == (ErrorKind.RETRY, "SSLCertVerificationError")


def test_a_closed_port_is_worth_another_attempt(world: World) -> None:
    world.kube.faults("a").refuse()
    assert world.refused().kind is ErrorKind.RETRY


@pytest.mark.parametrize("name", ["token", "ca.crt", "namespace"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"a b\nc"])
def test_a_service_account_that_is_incomplete(world: World, name: str, content: bytes | None) -> None:
    path = world.pod.directory / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    if name == "namespace" and content is not None and content.isascii():
        world.create()  # the token says it too
        return
    assert world.refused().kind is ErrorKind.DENIED


# the sink


def test_what_is_emitted_arrives(world: World) -> None:
    sink = world.sink()
    sink.emit("Claimed", "one", warning=False)
    sink.emit("Claimed", "two", warning=True)
    until(lambda: world.messages() == ["one", "two"])
    sink.close()


def test_after_a_no_nothing_is_asked_for_an_hour(world: World) -> None:
    clock = SkewedClock()
    world.kube.allow_events(world.pod.name, allowed=False)
    sink = world.sink(clock)
    threads = threading.active_count()
    sink.emit("Claimed", "one", warning=False)
    until(lambda: len(world.answers) == 1 and threading.active_count() == threads)
    for number in range(5):
        sink.emit("Claimed", f"more {number}", warning=False)
    clock.advance(QUIET - 60.0)
    sink.emit("Claimed", "nearly", warning=False)
    assert threading.active_count() == threads  # no thread, so nothing is sent
    assert world.calls == ["one"]
    assert sink.dropped == 7
    world.kube.allow_events(world.pod.name)
    clock.advance(60.0)
    sink.emit("Claimed", "two", warning=False)
    until(lambda: world.messages() == ["two"])
    sink.close()


def test_a_server_that_hangs_holds_up_nobody(world: World) -> None:
    world.kube.faults("a").hang()
    sink = world.sink()
    sink.emit("Claimed", "one", warning=False)
    until(lambda: world.calls == ["one"])
    for number in range(100):
        sink.emit("Claimed", str(number), warning=False)
    assert world.answers == []  # the first was under way all the time
    sink.close(0.0)
    assert world.answers == []
    world.kube.faults("a").clear()


def test_an_outage_delays_what_is_said(world: World) -> None:
    faults = world.kube.faults("a")
    faults.refuse()
    sink = world.sink()

    def mended(event: PodEvent, unique: str) -> None:
        try:
            world.recorded(event, unique)
        finally:
            if len(world.calls) == 2:
                faults.clear()

    sink._create = mended
    sink.emit("Claimed", "one", warning=False)
    until(lambda: world.messages() == ["one"])
    assert world.calls == ["one"] * 3
    sink.close()


def test_an_event_that_fails_again_and_again_is_given_up(world: World) -> None:
    world.kube.faults("a").refuse()
    sink = world.sink()
    sink.emit("Claimed", "one", warning=False)
    until(lambda: sink.dropped == 1)
    assert world.calls == ["one"] * 4
    world.kube.faults("a").clear()
    sink.emit("Claimed", "two", warning=False)
    until(lambda: world.messages() == ["two"])
    sink.close()


def test_more_than_a_burst_waits(world: World) -> None:
    clock = SkewedClock()
    sink = world.sink(clock)
    for number in range(BURST + 5):
        sink.emit("Claimed", f"{number:02}", warning=False)
    until(lambda: len(world.answers) >= BURST)
    assert world.messages() == [f"{number:02}" for number in range(BURST)]
    clock.advance(REFILL)
    sink.emit("Claimed", "99", warning=False)  # wakes the thread, whose clock was put forward behind its back
    until(lambda: world.messages() == [f"{number:02}" for number in range(BURST + 1)])
    sink.close()


def test_what_waits_is_sent_at_the_end_and_nothing_after_it(world: World) -> None:
    sink = world.sink()
    for number in range(3):
        sink.emit("Stopping", str(number), warning=False)
    sink.close(20.0)
    assert world.messages() == ["0", "1", "2"]
    sink.emit("Stopping", "late", warning=False)
    assert world.calls == ["0", "1", "2"]
    assert sink.dropped == 1


def test_no_token_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong: with the server, with the rights, and with the token itself."""
    caplog.set_level(logging.DEBUG)
    path = world.pod.directory / "token"
    token = path.read_text()
    secret = token[-20:]
    world.kube.allow_events(world.pod.name, allowed=False)
    for content in (token, token + "x", f"{token}\r\n\r\n{token}", f"{token}\x01", token.replace(".", " ")):
        path.write_text(content)
        sink = world.sink()
        sink.emit("Claimed", "one", warning=False)
        until(lambda sink=sink: sink.dropped == 1)  # type: ignore[misc]
        sink.close()
    world.kube.faults("a").refuse()
    path.write_text(token)
    assert secret not in str(world.refused())
    assert secret not in caplog.text
    assert len([record for record in caplog.records if record.name == "vipmanager.events"]) >= 5
    assert secret not in repr([getattr(record, "facts", None) for record in caplog.records])


# without a server


class _Recorder(Handler):
    def do_POST(self) -> None:
        self.owner.append((self.headers["Host"], self.path, self.body()))
        self.answer(*self.owner[0])


def answering(tmp_path: Path, address: str, answer: tuple[int, bytes, str]) -> tuple[Server, list[Any], EventApi]:
    certificate, key = keys.make_certificate(tmp_path, [address])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[Any] = [answer]
    server = Server((address, 0), _Recorder, asked, context)
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    (tmp_path / "token").write_text("opaque")
    (tmp_path / "namespace").write_text("default")
    environment = {
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "POD_NAME": "app",
    }
    return server, asked, EventApi(environment, tmp_path)


def test_an_api_server_with_an_ipv6_address(tmp_path: Path) -> None:
    server, asked, api = answering(tmp_path, "::1", (201, b"{}", "application/json"))
    api.create(EVENT, UNIQUE)
    server.stop()
    ((name, path, _),) = asked[1:]
    assert (name, path) == (f"[::1]:{server.port}", "/api/v1/namespaces/default/events")


def test_the_authority_of_an_eks_cluster_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 is strict about what it lacks, where it is asked for the default context."""
    server, asked, api = answering(tmp_path, "127.0.0.1", (201, b"{}", "application/json"))
    authority, server.tls = serve_with(tmp_path, "127.0.0.1")
    (tmp_path / "ca.crt").write_bytes(authority.read_bytes())

    def strict(**options: Any) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(**options)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    monkeypatch.setattr(ssl, "create_default_context", strict)
    api.create(EVENT, UNIQUE)
    assert len(asked) == 2
    (tmp_path / "ca.crt").write_bytes(serve_with(tmp_path, "127.0.0.1")[0].read_bytes())  # another of the same name
    with pytest.raises(CallError):
        api.create(EVENT, UNIQUE)
    server.stop()
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b'{"reason": "NotFound", "message": "namespaces not found"}', ErrorKind.DENIED),
        (405, b"", ErrorKind.DENIED),
        (422, b'{"reason": "Invalid", "message": "Event is invalid"}', ErrorKind.INVALID),
        (400, b"[" * 60000, ErrorKind.INVALID),
        (301, b"", ErrorKind.INVALID),
        (401, b"[]", ErrorKind.RETRY),
        (429, b'{"reason": 5, "message": null}', ErrorKind.RETRY),
        (500, b"\xff", ErrorKind.RETRY),
        (503, b"busy", ErrorKind.RETRY),
    ],
)
def test_what_answers_mean(tmp_path: Path, status: int, body: bytes, kind: ErrorKind) -> None:
    server, _, api = answering(tmp_path, "127.0.0.1", (status, body, "application/json"))
    with pytest.raises(CallError) as caught:
        api.create(EVENT, UNIQUE)
    server.stop()
    assert caught.value.kind is kind


def test_names_are_ones_that_the_api_accepts() -> None:
    for name in ("a", "a" * 253, "a" * 199 + ".b" * 27):
        made = event_object(PodRef("default", name), EVENT, UNIQUE)["metadata"]["name"]
        assert len(made) <= 253
        assert ".." not in made
