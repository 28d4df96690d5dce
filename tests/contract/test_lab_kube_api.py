"""The small test server answers what the real API server answers: every request here is made to both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.kube import apiserver
from lab.kube.api import Api, trusting
from tests.contract.lease_worlds import KubeHost

pytestmark = pytest.mark.namespaces

LEASES = "/apis/coordination.k8s.io/v1/namespaces/vipmanager/leases"
ELSEWHERE = "/apis/coordination.k8s.io/v1/namespaces/elsewhere/leases"
ONE = f"{LEASES}/vipmanager"
SELECTED = "fieldSelector=metadata.name%3Dvipmanager"


@pytest.fixture(scope="module", params=["small", "real"])
def host(request: pytest.FixtureRequest) -> Iterator[KubeHost]:
    if request.param == "real" and apiserver.assets() is None:
        pytest.skip("KUBEBUILDER_ASSETS is not set: make kube-assets")
    made = KubeHost(real=request.param == "real")
    yield made
    made.close()


@pytest.fixture
def api(host: KubeHost) -> Api:
    host.reset()
    return host.kube.backend.admin


def lease(spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "vipmanager", **metadata}, "spec": spec or {}}


def refused(api: Api, method: str, path: str, body: object = None) -> tuple[int, str, str]:
    code, answer = api.request(method, path, body)
    assert answer["kind"] == "Status"
    assert answer["status"] == "Failure"
    assert answer["code"] == code
    return code, answer.get("reason", ""), answer["message"]


INVALID = [
    ({"leaseDurationSeconds": 0}, "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"),
    ({"leaseDurationSeconds": -6}, "spec.leaseDurationSeconds: Invalid value: -6: must be greater than 0"),
    ({"leaseTransitions": -1}, "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"),
]


@pytest.mark.parametrize(("spec", "why"), INVALID)
def test_values_that_are_not_accepted(api: Api, spec: dict[str, Any], why: str) -> None:
    message = f'Lease.coordination.k8s.io "vipmanager" is invalid: {why}'
    assert refused(api, "POST", LEASES, lease(spec)) == (422, "Invalid", message)
    made = api.expect("POST", LEASES, lease())
    bad = {**made, "spec": spec}
    assert refused(api, "PUT", ONE, bad) == (422, "Invalid", message)


@pytest.mark.parametrize(
    "time", ["2026-11-21T10:00:00Z", "2026-11-21T10:00:00.5Z", "2026-11-21 10:00:00.000000Z", "yesterday", 5]
)
def test_times_that_are_not_micro_times(api: Api, time: object) -> None:
    code, reason, message = refused(api, "POST", LEASES, lease({"renewTime": time}))
    assert (code, reason) == (400, "BadRequest")
    assert message.startswith('Lease in version "v1" cannot be handled as a Lease: ')


def test_times_come_back_in_utc_with_six_digits(api: Api) -> None:
    made = api.expect("POST", LEASES, lease({"renewTime": "2026-11-21T10:00:00.500000+01:00", "unknown": 1}))
    assert made["spec"] == {"renewTime": "2026-11-21T09:00:00.500000Z"}
    assert api.expect("GET", ONE)["spec"] == made["spec"]


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ("{bad", 400, "BadRequest"),
        ("[]", 400, "BadRequest"),
        ({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}}, 400, "BadRequest"),
        (lease({"leaseDurationSeconds": "x"}), 400, "BadRequest"),
        (lease({"holderIdentity": 5}), 400, "BadRequest"),
        (lease(annotations={"a": 5}), 400, "BadRequest"),
        (lease(annotations={"Bad Key!": "x"}), 422, "Invalid"),
        (lease(name="Bad_Name"), 422, "Invalid"),
        (lease(name=""), 422, "Invalid"),
        (lease(namespace="elsewhere"), 400, "BadRequest"),
        (lease(resourceVersion="5"), 500, ""),
    ],
)
def test_bodies_that_are_not_accepted(api: Api, body: object, code: int, reason: str) -> None:
    assert refused(api, "POST", LEASES, body)[:2] == (code, reason)


def test_what_is_there_and_what_is_not(api: Api) -> None:
    missing = 'leases.coordination.k8s.io "vipmanager" not found'
    assert refused(api, "GET", ONE) == (404, "NotFound", missing)
    assert refused(api, "DELETE", ONE) == (404, "NotFound", missing)
    api.expect("POST", LEASES, lease())
    message = 'leases.coordination.k8s.io "vipmanager" already exists'
    assert refused(api, "POST", LEASES, lease()) == (409, "AlreadyExists", message)
    gone = api.expect("DELETE", ONE)
    assert gone["status"] == "Success"
    assert refused(api, "GET", ONE) == (404, "NotFound", missing)


def test_namespaces_and_paths_that_are_not_there(api: Api) -> None:
    assert refused(api, "POST", ELSEWHERE, lease()) == (404, "NotFound", 'namespaces "elsewhere" not found')
    assert refused(api, "GET", f"{ELSEWHERE}/vipmanager")[:2] == (404, "NotFound")
    unknown = (404, "NotFound", "the server could not find the requested resource")
    assert refused(api, "GET", LEASES.replace("leases", "leasez")) == unknown
    assert refused(api, "POST", ONE, lease())[:2] == (405, "MethodNotAllowed")


def test_an_update_wants_the_stored_version(api: Api) -> None:
    made = api.expect("POST", LEASES, lease({"holderIdentity": "a"}))
    changed = api.expect("PUT", ONE, {**made, "spec": {"holderIdentity": "b"}})
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    message = (
        'Operation cannot be fulfilled on leases.coordination.k8s.io "vipmanager": '
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    assert refused(api, "PUT", ONE, made) == (409, "Conflict", message)
    assert refused(api, "PUT", ONE, lease())[:2] == (422, "Invalid")
    assert refused(api, "PUT", ONE, lease(resourceVersion="x"))[:2] == (500, "")
    assert refused(api, "PUT", ONE, lease(name="other"))[:2] == (400, "BadRequest")
    assert refused(api, "PUT", ONE, lease(name=""))[:2] == (400, "BadRequest")
    assert api.expect("GET", ONE)["spec"] == {"holderIdentity": "b"}


def test_an_update_that_changes_nothing_makes_no_version(api: Api) -> None:
    made = api.expect("POST", LEASES, lease({"holderIdentity": "a"}))
    again = api.expect("PUT", ONE, made)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_an_update_makes_what_is_not_there_unless_it_names_a_uid(api: Api) -> None:
    made = api.expect("POST", LEASES, lease({"holderIdentity": "a"}))
    api.expect("DELETE", ONE)
    assert refused(api, "PUT", ONE, made)[:2] == (409, "Conflict")
    status, again = api.request("PUT", ONE, lease(resourceVersion=made["metadata"]["resourceVersion"]))
    assert status == 201
    assert again["metadata"]["uid"] != made["metadata"]["uid"]
    stale = lease(uid=made["metadata"]["uid"], resourceVersion=again["metadata"]["resourceVersion"])
    assert refused(api, "PUT", ONE, stale)[:2] == (409, "Conflict")


def test_lists(api: Api) -> None:
    empty = api.expect("GET", LEASES)
    assert (empty["kind"], empty["items"]) == ("LeaseList", [])
    made = api.expect("POST", LEASES, lease())
    api.expect("POST", LEASES, lease(name="other"))
    found = api.expect("GET", LEASES)
    assert [each["metadata"]["name"] for each in found["items"]] == ["other", "vipmanager"]
    assert int(found["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    (only,) = api.expect("GET", f"{LEASES}?{SELECTED}")["items"]
    assert only["metadata"]["uid"] == made["metadata"]["uid"]
    assert refused(api, "GET", f"{LEASES}?fieldSelector=spec.x%3Dy")[:2] == (400, "BadRequest")
    api.expect("DELETE", f"{LEASES}/other")


def events(api: Api, query: str) -> list[tuple[str, str]]:
    """The types and holders of the events of a watch of one second."""
    import json

    status, answer = api.request("GET", f"{LEASES}?watch=true&timeoutSeconds=1&{SELECTED}{query}")
    assert status == 200
    lines = [answer] if "type" in answer else [json.loads(line) for line in answer["message"].splitlines()]
    return [(line["type"], line["object"]["spec"].get("holderIdentity", "")) for line in lines]


def test_watches(api: Api) -> None:
    assert events(api, "") == []
    made = api.expect("POST", LEASES, lease({"holderIdentity": "a"}))
    api.expect("PUT", ONE, {**made, "spec": {"holderIdentity": "b"}})
    api.expect("POST", LEASES, lease(name="other"))
    assert events(api, "") == [("ADDED", "b")]
    version = f"&resourceVersion={made['metadata']['resourceVersion']}"
    assert events(api, version) == [("MODIFIED", "b")]
    api.expect("DELETE", ONE)
    api.expect("DELETE", f"{LEASES}/other")
    assert events(api, version) == [("MODIFIED", "b"), ("DELETED", "b")]
    assert refused(api, "GET", f"{LEASES}?watch=true&resourceVersion=x")[:2] == (500, "")


def test_tokens_and_rules(host: KubeHost, api: Api) -> None:
    import yaml

    def as_token(token: str) -> Api:
        return Api(host.ns, host.kube.backend.address, trusting(host.kube.backend.authority), f"Bearer {token}")

    assert refused(as_token("nonsense"), "GET", ONE) == (401, "Unauthorized", "Unauthorized")
    with open(host.kube.env("a")["KUBECONFIG"]) as file:
        a = as_token(yaml.safe_load(file)["users"][0]["user"]["token"])
    a.expect("POST", LEASES, lease())
    a.expect("PUT", ONE, a.expect("GET", ONE))
    a.expect("GET", f"{LEASES}?watch=true&timeoutSeconds=1&{SELECTED}")
    user = 'User "system:serviceaccount:vipmanager:vipmanager-a"'
    where = 'resource "leases" in API group "coordination.k8s.io" in the namespace "vipmanager"'
    named = 'leases.coordination.k8s.io "vipmanager" is forbidden: ' + user
    for method, path, message in (
        ("DELETE", ONE, f"{named} cannot delete {where}"),
        ("GET", f"{LEASES}?watch=true", f"leases.coordination.k8s.io is forbidden: {user} cannot watch {where}"),
        ("GET", LEASES, f"leases.coordination.k8s.io is forbidden: {user} cannot list {where}"),
        ("GET", f"{LEASES}?{SELECTED}", f"{named} cannot list {where}"),
    ):
        assert refused(a, method, path) == (403, "Forbidden", message)
    host.kube.grant("a", without=["update"])
    assert refused(a, "PUT", ONE, lease()) == (403, "Forbidden", f"{named} cannot update {where}")
    host.kube.revoke("a")
    assert refused(a, "GET", ONE) == (403, "Forbidden", f"{named} cannot get {where}")
    host.kube.grant("a")
    a.expect("GET", ONE)
