"""The lab's Events: the small test server answers what the real API server does; and how a pod finds its account."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.kube import apiserver
from lab.kube.api import Api
from lab.lab import Lab
from lab.mounts import SERVICE_ACCOUNT, service_account
from tests.contract.lease_worlds import KubeHost

pytestmark = pytest.mark.namespaces

EVENTS = "/api/v1/namespaces/vipmanager/events"
TIME = "2026-11-21T10:00:00.000000Z"
ABOUT = {"kind": "Pod", "namespace": "vipmanager", "name": "p", "uid": "u-1"}
STRICT = {"eventTime": TIME, "reportingComponent": "c", "reportingInstance": "i", "action": "a", "reason": "r"}


@pytest.fixture(scope="module", params=["small", "real"])
def host(request: pytest.FixtureRequest) -> Iterator[KubeHost]:
    if request.param == "real" and apiserver.assets() is None:
        pytest.skip("KUBEBUILDER_ASSETS is not set: make kube-assets")
    made = KubeHost(real=request.param == "real")
    yield made
    made.close()


@pytest.fixture
def api(host: KubeHost) -> Api:
    return host.kube.backend.admin


def event(name: str = "e", **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "involvedObject": ABOUT, **fields}


UNQUALIFIED = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
INVALID = [
    (
        {"involvedObject": {**ABOUT, "namespace": "o"}},
        'involvedObject.namespace: Invalid value: "o": does not match event.namespace',
    ),
    (
        {"involvedObject": {"kind": "Pod", "name": "p"}},
        'involvedObject.namespace: Invalid value: "": does not match event.namespace',
    ),
    (
        {**STRICT, "involvedObject": {"kind": "Pod", "name": "p"}},
        'involvedObject.namespace: Invalid value: "": does not match event.namespace',
    ),
    (
        {"eventTime": TIME},
        '[reportingComponent: Required value, reportingComponent: Invalid value: "": name part must be non-empty, '
        f'reportingComponent: Invalid value: "": {UNQUALIFIED}, reportingInstance: Required value, '
        "action: Required value, reason: Required value]",
    ),
    ({**STRICT, "reportingComponent": "c d"}, f'reportingComponent: Invalid value: "c d": {UNQUALIFIED}'),
    ({**STRICT, "action": "a" * 129}, 'action: Invalid value: "": can have at most 128 characters'),
    (
        {**STRICT, "reportingInstance": "a" * 129},
        'reportingInstance: Invalid value: "": can have at most 128 characters',
    ),
    ({**STRICT, "reason": "a" * 129}, 'reason: Invalid value: "": can have at most 128 characters'),
    ({**STRICT, "message": "é" * 513}, 'message: Invalid value: "": can have at most 1024 characters'),
]


@pytest.mark.parametrize(("fields", "why"), INVALID)
def test_values_that_are_not_accepted(api: Api, fields: dict[str, Any], why: str) -> None:
    code, answer = api.request("POST", EVENTS, event(**fields))
    assert (code, answer["reason"], answer["message"]) == (422, "Invalid", f'Event "e" is invalid: {why}')


def test_a_name_is_required_but_any_will_do(api: Api) -> None:
    code, answer = api.request("POST", EVENTS, event(""))
    said = 'Event "" is invalid: metadata.name: Required value: name or generateName is required'
    assert (code, answer["message"]) == (422, said)
    assert api.request("POST", EVENTS, event("Any Name"))[0] == 201


@pytest.mark.parametrize(
    "fields",
    [
        {"eventTime": "yesterday"},
        {"eventTime": "2026-11-21T10:00:00Z"},
        {"lastTimestamp": "yesterday"},
        {"count": "three"},
        {"message": 5},
    ],
)
def test_values_of_the_wrong_type(api: Api, fields: dict[str, Any]) -> None:
    code, answer = api.request("POST", EVENTS, event(**fields))
    assert (code, answer["reason"]) == (400, "BadRequest")
    assert answer["message"].startswith('Event in version "v1" cannot be handled as a Event: ')


def test_where_it_is_made(api: Api) -> None:
    code, answer = api.request("POST", EVENTS, {**event(), "metadata": {"name": "e", "namespace": "o"}})
    assert (code, answer["reason"]) == (400, "BadRequest")
    code, answer = api.request("POST", "/api/v1/namespaces/elsewhere/events", event())
    assert (code, answer["message"]) == (404, 'namespaces "elsewhere" not found')


def test_it_is_kept_and_found_by_what_it_is_about(api: Api) -> None:
    about = {**ABOUT, "uid": "u-2"}
    given = event("kept", **{**STRICT, "involvedObject": about}, lastTimestamp="2026-11-21T11:00:00+01:00", odd=1)
    made = api.expect("POST", EVENTS, given)
    (found,) = api.expect("GET", f"{EVENTS}?fieldSelector=involvedObject.uid%3Du-2")["items"]
    for each in (made, found):
        assert each["metadata"]["namespace"] == "vipmanager"
        assert (each["lastTimestamp"], each["firstTimestamp"], each["eventTime"]) == (
            "2026-11-21T10:00:00Z",
            None,
            TIME,
        )
        assert each["involvedObject"] == about
        assert "odd" not in each
    assert api.expect("GET", f"{EVENTS}?fieldSelector=involvedObject.uid%3Dnobody")["items"] == []
    code, answer = api.request("POST", EVENTS, given)
    assert (code, answer["reason"], answer["message"]) == (409, "AlreadyExists", 'events "kept" already exists')


def test_who_may_not_make_one(host: KubeHost) -> None:
    pod = host.kube.pod("without", "a")
    account = "system:serviceaccount:vipmanager:vipmanager-without"
    backend = host.kube.backend
    api = Api(backend.ns, backend.address, backend.admin._context, f"Bearer {pod.token}")
    code, answer = api.request("POST", EVENTS, event())
    assert (code, answer["details"]) == (403, {"kind": "events"})
    assert answer["message"] == (
        f'events is forbidden: User "{account}" cannot create resource "events" in API group "" in the namespace '
        '"vipmanager"'
    )
    host.kube.allow_events("without")
    assert api.request("POST", EVENTS, event("with"))[0] == 201
    assert api.request("GET", EVENTS)[0] == 403


# what a container finds


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    for name in ("KUBEBUILDER_ASSETS", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")  # the lab may run in somebody's pod
    monkeypatch.setenv("POD_NAME", "developer")
    with Lab(kube=True) as made:
        yield made


LOOK = f"""
import json, os, sys
at = {str(SERVICE_ACCOUNT)!r}
found = {{name: open(os.path.join(at, name)).read() for name in sorted(os.listdir(at))}}
print(json.dumps(found), flush=True)
sys.stdin.readline()
print(open(os.path.join(at, "token")).read())
"""


def test_a_container_finds_its_account_and_the_machine_does_not(lab: Lab) -> None:
    before = Path("/proc/self/mounts").read_text()
    pod = lab.pod("pod", "a", {"net1": []}, service_account=True)
    account = pod.account
    assert account is not None
    process = pod.popen(
        [sys.executable, "-c", LOOK],
        prepare=service_account(account.directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    assert found == {
        "ca.crt": lab.kube.backend.authority.read_text(),
        "namespace": "vipmanager",
        "token": account.token,
    }
    account.rotate()
    assert process.communicate("\n", 20.0)[0].strip() == account.token != found["token"]
    assert Path("/proc/self/mounts").read_text() == before
    assert (account.directory / "token").stat().st_mode & 0o077 == 0


def test_what_is_around_the_lab_is_not_the_pods(lab: Lab) -> None:
    """Neither KUBERNETES_SERVICE_HOST nor POD_NAME of the pod that somebody runs the lab in."""
    pod = lab.pod("pod", "a", {"net1": []})
    shown = pod.vipmanager(["--version"], {}, inside=["sh", "-c", "env"])
    assert shown.wait(20.0) == 0
    names = {line.partition("=")[0] for line in shown.output().splitlines()}
    assert "StateDir" in names
    assert not names & {"KUBERNETES_SERVICE_HOST", "POD_NAME"}
