"""Which Pod this is, by its environment and the claims of its token."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipmanager.clients.event_api import EventApi, PodRef, bound_pod, own_pod
from vipmanager.clients.event_queue import PodEvent
from vipmanager.errors import CallError, ErrorKind

CLAIMS = {"kubernetes.io": {"namespace": "shop", "pod": {"name": "app-1", "uid": "u-1"}, "node": {"name": "n"}}}


def token(claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{payload}.c2ln"


BOUND = token(CLAIMS)


def test_a_bound_token_says_it_all() -> None:
    assert bound_pod(BOUND) == PodRef("shop", "app-1", "u-1")
    assert own_pod({}, BOUND, "ignored") == PodRef("shop", "app-1", "u-1")


def test_the_environment_comes_first() -> None:
    given = {"POD_NAME": "app-2", "POD_NAMESPACE": "other", "POD_UID": "u-2"}
    assert own_pod(given, BOUND, "shop") == PodRef("other", "app-2", "u-2")


def test_the_uid_of_the_token_is_that_of_its_own_pod_only() -> None:
    assert own_pod({"POD_NAME": "app-1"}, BOUND, "") == PodRef("shop", "app-1", "u-1")
    assert own_pod({"POD_NAME": "app-2"}, BOUND, "") == PodRef("shop", "app-2", "")
    assert own_pod({"POD_NAMESPACE": "other"}, BOUND, "") == PodRef("other", "app-1", "")


def test_a_token_that_is_bound_to_nothing() -> None:
    """As those that are kept in Secrets."""
    assert own_pod({}, "opaque", "shop") is None
    assert own_pod({"POD_NAME": "app-1"}, "opaque", "shop") == PodRef("shop", "app-1", "")
    assert own_pod({"POD_NAME": "app-1", "POD_UID": "u-1"}, "opaque", "shop") == PodRef("shop", "app-1", "u-1")


@pytest.mark.parametrize("name", ["../../nodes", "a/b", "A", "", "a b", "a\n", "x" * 254])
def test_what_is_no_name_goes_into_no_path(name: str) -> None:
    assert own_pod({"POD_NAME": name, "POD_NAMESPACE": "shop"}, "opaque", "") is None
    assert own_pod({"POD_NAME": "app", "POD_NAMESPACE": name}, "opaque", "") is None


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(token))
def test_no_token_is_too_odd(text: str) -> None:
    assert bound_pod(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["kubernetes.io", "namespace", "pod", "x"]), inner),
)


@given(JSON)
def test_claims_of_any_shape(claims: object) -> None:
    found = bound_pod(token({"kubernetes.io": claims}))
    assert found is None or {type(each) for each in (found.namespace, found.name, found.uid)} == {str}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"KUBERNETES_SERVICE_PORT": "443"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "https"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "70000"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"},  # but no service account
    ],
)
def test_outside_of_a_cluster_it_is_off(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(CallError) as caught:
        EventApi(environment, tmp_path).create(PodEvent("R", "m", False, 0.0, 0.0), "1")
    assert caught.value.kind is ErrorKind.DENIED
