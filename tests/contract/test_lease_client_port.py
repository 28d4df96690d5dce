"""What LeaseClient makes of answers that an API server does not give every day, and of its settings."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from urllib3.util.ssl_ import create_urllib3_context

from lab.ec2.web import Handler, Server
from lab.kube.backend import SERVER_ADDRESS
from lab.kube.server import LeaseServer
from tests.contract.lease_worlds import NAME, InNamespace, KubeHost, Watching
from tests.contract.plain_authority import serve_with
from vipmanager.clients.kube import LONGEST, LeaseClient, micro_time
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model_node import Lease

OURS = Lease(holder="node-a", duration=6, renewed="", transitions=0)
SECRET = "secret-of-the-test"
RAW: dict[str, Any] = {
    "metadata": {"name": NAME, "resourceVersion": "7", "uid": "u"},
    "spec": {"holderIdentity": "node-a", "leaseDurationSeconds": 6, "renewTime": "2026-01-01T00:00:00.000000Z"},
}


class Canned:
    """A server that gives one answer to everything."""

    def __init__(self, directory: Path) -> None:
        self.code = 200
        self.body = json.dumps(RAW)
        self.cut_off = threading.Event()
        self.requests: list[tuple[str, str, Mapping[str, str], Any]] = []
        self._server = Server(("127.0.0.1", 0), _CannedHandler, self)
        self._config = directory / "kubeconfig"
        self.set_token(SECRET)

    def set_token(self, token: str) -> None:
        """Write a kubeconfig with this token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self._server.port}"}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        self._config.write_text(yaml.safe_dump(config))

    def status(
        self, code: int, reason: str, message: str = "told to", details: Mapping[str, str] | None = None
    ) -> None:
        """Refuse with a Status from now on."""
        self.code = code
        self.body = json.dumps(
            {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details or {}}
        )

    def client(self) -> LeaseClient:
        return LeaseClient("ns", NAME, 2.0, environment={"KUBECONFIG": str(self._config)})

    def close(self) -> None:
        self._server.stop()


class _CannedHandler(Handler):
    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        canned: Canned = self.owner
        canned.requests.append((self.command, self.path, dict(self.headers), self.body()))
        if "watch=True" not in self.path or canned.code != 200:
            try:
                self.answer(canned.code, canned.body.encode(), "application/json")
            except OSError:
                canned.cut_off.set()
                raise
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(canned.body) // 2
        for part in (canned.body[:half], canned.body[half:]):  # lines come in pieces
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part.encode()))
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def canned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canned]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Canned(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="module")
def host() -> Iterator[KubeHost]:
    made = KubeHost(real=False)
    yield made
    made.close()


CALLS: dict[str, Callable[[LeaseClient], object]] = {
    "get": lambda client: client.read(),
    "create": lambda client: client.create(OURS),
    "watch": lambda client: client.watch(lambda _: None, 2.0),
}


def fails(kind: ErrorKind, call: Callable[..., object], *arguments: Any, **options: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        call(*arguments, **options)
    assert caught.value.kind is kind, caught.value
    assert SECRET not in str(caught.value)
    return caught.value


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", ErrorKind.INVALID),
        (401, "Unauthorized", ErrorKind.DENIED),
        (403, "Forbidden", ErrorKind.DENIED),
        (408, "Timeout", ErrorKind.RETRY),
        (409, "AlreadyExists", ErrorKind.RACE),
        (422, "Invalid", ErrorKind.INVALID),
        (429, "TooManyRequests", ErrorKind.RETRY),
        (500, "InternalError", ErrorKind.RETRY),
        (503, "ServiceUnavailable", ErrorKind.RETRY),
        (504, "Timeout", ErrorKind.RETRY),
    ],
)
def test_statuses(canned: Canned, verb: str, code: int, reason: str, kind: ErrorKind) -> None:
    canned.status(code, reason)
    error = fails(kind, CALLS[verb], canned.client())
    assert error.failure.code == reason
    assert error.failure.call == f"leases.coordination.k8s.io:{verb}"
    assert len(canned.requests) == 1, "no call is repeated"


@pytest.mark.parametrize("code", [403, 500])
def test_a_refusal_without_end_is_not_read_to_it(canned: Canned, code: int) -> None:
    canned.code, canned.body = code, " " * (8 * LONGEST)
    failed = fails(ErrorKind.DENIED if code == 403 else ErrorKind.RETRY, canned.client().read)
    assert failed.failure.code == f"HTTP{code}"
    assert canned.cut_off.wait(20.0)


def test_an_update_is_classified_too(canned: Canned) -> None:
    client = canned.client()
    lease = client.read()
    assert lease is not None
    for code, reason, kind in (
        (404, "NotFound", ErrorKind.RACE),
        (409, "Conflict", ErrorKind.RACE),
        (422, "Invalid", ErrorKind.INVALID),
        (500, "InternalError", ErrorKind.RETRY),
    ):
        canned.status(code, reason)
        fails(kind, client.update, lease, renew=True)


def test_a_namespace_that_is_not_there(canned: Canned) -> None:
    canned.status(404, "NotFound", 'namespaces "ns" not found', {"kind": "namespaces"})
    error = fails(ErrorKind.INVALID, canned.client().create, OURS)
    assert "POD_NAMESPACE" in error.failure.remedy


@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (404, "<html>no such page</html>", ErrorKind.INVALID),
        (502, "<html>bad gateway</html>", ErrorKind.RETRY),
        (200, "<html>log in here</html>\n", ErrorKind.RETRY),
        (200, "{}\n", ErrorKind.RETRY),
        (200, "[]\n", ErrorKind.RETRY),
    ],
)
def test_what_answers_is_no_api_server(canned: Canned, verb: str, code: int, body: str, kind: ErrorKind) -> None:
    canned.code, canned.body = code, body
    fails(kind, CALLS[verb], canned.client())


def test_a_port_where_nothing_listens(canned: Canned) -> None:
    client = canned.client()
    canned.close()
    for call in CALLS.values():
        fails(ErrorKind.RETRY, call, client)


def test_a_token_that_cannot_be_sent_is_not_shown(canned: Canned) -> None:
    canned.set_token(f"{SECRET}\nnext line")
    fails(ErrorKind.INVALID, canned.client().read)


# What is sent --------------------------------------------------------------------------------------------------------


def test_an_update_sends_the_rest_back_as_it_was_read(canned: Canned) -> None:
    raw: dict[str, Any] = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {**RAW["metadata"], "labels": {"x": "y"}, "annotations": {"z": "1", "vipmanager/offered": "why"}},
        "spec": {**RAW["spec"], "acquireTime": "2026-01-01T00:00:00.5+01:00", "leaseTransitions": 3, "strategy": "new"},
        "status": {"unknown": [1, None]},
    }
    canned.body = json.dumps(raw)
    client = canned.client()
    lease = client.read()
    assert lease == Lease("node-a", 6, raw["spec"]["renewTime"], 3, raw["spec"]["acquireTime"], "why", "", "7")
    client.update(lease, renew=False)
    assert json.loads(canned.requests[-1][3]) == raw


def test_a_watch_asks_for_one_name(canned: Canned) -> None:
    canned.body = ""
    canned.client().watch(lambda _: None, 2.0)
    assert "fieldSelector=metadata.name%3Dvipmanager" in canned.requests[-1][1]


def test_a_time_has_six_digits() -> None:
    assert micro_time(datetime(2026, 1, 2, 3, 4, 5, 0, UTC)) == "2026-01-02T03:04:05.000000Z"
    assert micro_time(datetime(2026, 1, 2, 3, 4, 5, 60, UTC)) == "2026-01-02T03:04:05.000060Z"
    east = timezone(timedelta(hours=2))
    assert micro_time(datetime(2026, 1, 2, 3, 4, 5, 6, east)) == "2026-01-02T01:04:05.000006Z"


# Watches -------------------------------------------------------------------------------------------------------------


def events(*given: tuple[str, Mapping[str, Any]]) -> str:
    return "".join(json.dumps({"type": kind, "object": found}) + "\n" for kind, found in given)


def test_bookmarks_are_no_events(canned: Canned) -> None:
    bookmark = {"metadata": {"resourceVersion": "9"}, "spec": {}}
    canned.body = events(("BOOKMARK", bookmark), ("MODIFIED", RAW), ("DELETED", RAW))
    seen: list[Lease | None] = []
    canned.client().watch(seen.append, 2.0)
    assert [each and each.holder for each in seen] == ["node-a", None]


@pytest.mark.parametrize(("code", "kind"), [(410, ErrorKind.RETRY), (500, ErrorKind.RETRY), (403, ErrorKind.DENIED)])
def test_an_error_event_ends_the_watch(canned: Canned, code: int, kind: ErrorKind) -> None:
    canned.body = events(("ERROR", {"kind": "Status", "code": code, "reason": "Expired", "message": "told to"}))
    fails(kind, canned.client().watch, lambda _: None, 2.0)


def test_what_the_caller_raises_comes_out(canned: Canned) -> None:
    def boom(_: Lease | None) -> None:
        raise ZeroDivisionError

    canned.body = events(("MODIFIED", RAW))
    with pytest.raises(ZeroDivisionError):
        canned.client().watch(boom, 2.0)


@pytest.mark.namespaces
def test_a_version_that_has_expired(host: KubeHost) -> None:
    """The watch ends, and the next one begins with the present state."""
    host.reset()
    a, b = (client(host, node) for node in "ab")
    made = a.create(OURS)
    assert b.read() == made
    renewed = a.update(made, renew=True)
    server = host.kube.backend
    assert isinstance(server, LeaseServer)
    server.leases.compact()
    expired = Watching(b)
    assert expired.wait_for_end() is None
    assert expired.seen == []
    again = Watching(b)
    again.wait_for(renewed)
    host.kube.faults("b").refuse()
    again.wait_for_end()


# Settings ------------------------------------------------------------------------------------------------------------


def client(host: KubeHost, node: str) -> InNamespace:
    return InNamespace(LeaseClient(host.kube.namespace, NAME, 5.0, environment=host.kube.env(node)), host.ns)


def token_of(host: KubeHost, node: str) -> str:
    config = yaml.safe_load(Path(host.kube.env(node)["KUBECONFIG"]).read_text())
    return str(config["users"][0]["user"]["token"])


def test_the_authority_of_an_eks_cluster_is_good_enough(
    canned: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no key identifiers, about which urllib3 is strict with Python 3.13: so it is here with any."""
    authority, context = serve_with(tmp_path, "127.0.0.1")
    server = Server(("127.0.0.1", 0), _CannedHandler, canned, context)

    def strict(*arguments: Any, **options: Any) -> ssl.SSLContext:
        made = create_urllib3_context(*arguments, **options)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    for module in ("util.ssl_", "connection"):
        monkeypatch.setattr(f"urllib3.{module}.create_urllib3_context", strict)
    for name in ("token", "namespace"):
        (tmp_path / name).write_text("text")
    (tmp_path / "ca.crt").write_bytes(authority.read_bytes())
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    found = LeaseClient("default", NAME, 5.0, environment=environment, service_account=tmp_path).read()
    assert found is not None
    (tmp_path / "ca.crt").write_bytes(serve_with(tmp_path, "127.0.0.1")[0].read_bytes())  # another of the same name
    other = LeaseClient("default", NAME, 5.0, environment=environment, service_account=tmp_path)
    fails(ErrorKind.RETRY, other.read)
    server.stop()


@pytest.mark.namespaces
def test_in_a_cluster_the_token_may_change_at_any_time(host: KubeHost, tmp_path: Path) -> None:
    host.reset()
    token, port = tmp_path / "token", host.kube.faults("a").address[1]
    token.write_text(token_of(host, "a"))
    (tmp_path / "ca.crt").write_bytes(host.kube.backend.authority.read_bytes())
    environment = {"KUBERNETES_SERVICE_HOST": SERVER_ADDRESS, "KUBERNETES_SERVICE_PORT": str(port)}
    inside = LeaseClient(host.kube.namespace, NAME, 5.0, environment=environment, service_account=tmp_path)
    made = InNamespace(inside, host.ns).create(OURS)
    token.write_text(SECRET)
    error = fails(ErrorKind.DENIED, InNamespace(inside, host.ns).update, made, renew=True)
    assert "does not accept this pod's token" in error.failure.remedy
    assert "get" not in error.failure.remedy
    token.write_text(token_of(host, "a") + "\n")
    assert InNamespace(inside, host.ns).read() == made
    token.unlink()
    fails(ErrorKind.RETRY, InNamespace(inside, host.ns).read)


@pytest.mark.namespaces
def test_a_kubeconfig_is_read_again_when_its_token_has_ended(host: KubeHost, tmp_path: Path) -> None:
    host.reset()
    config = Path(host.kube.env("a")["KUBECONFIG"]).read_text()
    path = tmp_path / "kubeconfig"
    path.write_text(config.replace(token_of(host, "a"), SECRET))
    lease = LeaseClient(host.kube.namespace, NAME, 5.0, environment={"KUBECONFIG": str(path)})
    fails(ErrorKind.DENIED, InNamespace(lease, host.ns).read)
    path.write_text(config)
    assert InNamespace(lease, host.ns).read() is None


@pytest.mark.namespaces
def test_a_server_that_is_not_the_one(host: KubeHost, tmp_path: Path) -> None:
    """Its certificate is not signed by the authority we know."""
    import certifi

    host.reset()
    config = Path(host.kube.env("a")["KUBECONFIG"]).read_text()
    path = tmp_path / "kubeconfig"
    path.write_text(config.replace(str(host.kube.backend.authority), certifi.where()))
    lease = LeaseClient(host.kube.namespace, NAME, 5.0, environment={"KUBECONFIG": str(path)})
    error = fails(ErrorKind.RETRY, InNamespace(lease, host.ns).read)
    assert "certificate" in error.failure.message.lower()


def test_neither_a_cluster_nor_a_kubeconfig(tmp_path: Path) -> None:
    lost = LeaseClient("ns", NAME, 2.0, environment={}, service_account=tmp_path)
    for call in CALLS.values():
        error = fails(ErrorKind.INVALID, call, lost)
        assert "KUBECONFIG" in error.failure.remedy


def test_a_kubeconfig_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    for text in ("", "a: [", f"users:\n- {SECRET}: ["):
        path.write_text(text)
        fails(ErrorKind.INVALID, LeaseClient("ns", NAME, 2.0, environment={"KUBECONFIG": str(path)}).read)


def test_without_the_kubernetes_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    lease = LeaseClient("ns", NAME, 2.0, environment={})
    for call in CALLS.values():
        error = fails(ErrorKind.INVALID, call, lease)
        assert error.failure.remedy == "pip install vipmanager[nodeport]"
