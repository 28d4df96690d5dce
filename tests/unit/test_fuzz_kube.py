"""Whatever the Kubernetes API answers is a Lease or a CallError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipmanager.clients import kube
from vipmanager.clients.kube import LeaseClient
from vipmanager.errors import CallError
from vipmanager.model_node import Lease

GOOD: dict[str, Any] = {
    "kind": "Lease",
    "metadata": {"name": "vipmanager", "resourceVersion": "7", "annotations": {kube.OFFERED: "a", kube.WANTED_BY: "b"}},
    "spec": {"holderIdentity": "a", "leaseDurationSeconds": 6, "renewTime": "2026-01-01T00:00:00.000000Z",
             "acquireTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 3},
}  # fmt: skip
NAMES = ["kind", "metadata", "spec", "status", "code", "reason", "type", "object", *GOOD["metadata"], *GOOD["spec"],
         kube.OFFERED, kube.WANTED_BY]  # fmt: skip
KINDS = ["ADDED", "DELETED", "BOOKMARK", "ERROR", "?"]
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(GOOD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=10,
)


class Answer:
    """What urllib3 gives."""

    def __init__(self, data: bytes, pieces: int = 1) -> None:
        self._data, self._size = data, max(1, len(data) // pieces)

    def read(self, amount: int, **_: object) -> bytes:
        """At most so much."""
        return self._data[:amount]

    def stream(self, **_: object) -> Iterator[bytes]:
        """In pieces."""
        for at in range(0, len(self._data), self._size):
            yield self._data[at : at + self._size]

    def close(self) -> None:
        """Nothing."""


def client(answer: Answer) -> LeaseClient:
    """A real client whose connection gives this."""
    made = LeaseClient("default", "vipmanager", 1.0, environment={})
    made._send = lambda *_, **__: answer  # type: ignore[method-assign]
    return made


def check(lease: Lease | None) -> None:
    """The elector calculates with these."""
    if lease is not None:
        texts = (lease.holder, lease.renewed, lease.acquired, lease.offered, lease.wanted_by, lease.version)
        assert all(isinstance(each, str) for each in texts)
        assert all(isinstance(each, int) and 0 <= each < 1 << 31 for each in (lease.duration, lease.transitions))


def read(data: bytes) -> Lease | str | None:
    """The lease, or the code of the failure."""
    try:
        lease = client(Answer(data)).read()
    except CallError as error:
        return error.failure.code
    check(lease)
    return lease


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    spec=st.dictionaries(st.sampled_from(list(GOOD["spec"])), anything), metadata=anything, body=st.none() | anything
)
def test_a_lease_of_any_values(spec: dict[str, Any], metadata: Any, body: Any) -> None:
    changed = {**GOOD, "spec": {**GOOD["spec"], **spec}}
    for found in (changed, {**changed, "metadata": metadata}, body):
        read(json.dumps(found).encode())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60))
def test_an_answer_of_any_bytes(data: bytes) -> None:
    assert isinstance(read(data), str)


def test_a_good_one_is_read() -> None:
    lease = read(json.dumps(GOOD).encode())
    assert isinstance(lease, Lease) and (lease.holder, lease.duration, lease.transitions) == ("a", 6, 3)


@pytest.mark.parametrize("duration", [-1, 1 << 31, 1.5, "6", float("inf"), [6]])
def test_a_duration_that_is_none_is_a_bad_answer(duration: Any) -> None:
    found = {**GOOD, "spec": {**GOOD["spec"], "leaseDurationSeconds": duration}}
    assert read(json.dumps(found).encode()) == "BadAnswer"


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b" " * 200])
def test_what_json_itself_does_not_take(data: bytes) -> None:
    assert isinstance(read(data), str)


def test_an_answer_that_is_longer_than_any_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "LONGEST", 10)
    assert read(json.dumps(GOOD).encode()) == "BadAnswer"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    lines=st.lists(
        anything.map(lambda found: json.dumps(found).encode())
        | st.fixed_dictionaries({"type": st.sampled_from(KINDS), "object": anything})
        .map(lambda found: json.dumps(found).encode())
        | st.binary(max_size=20),
        max_size=4,
    ),
    pieces=st.integers(1, 5),
)  # fmt: skip
def test_a_watch_of_any_lines(lines: list[bytes], pieces: int) -> None:
    seen: list[Lease | None] = []
    with suppress(CallError):
        client(Answer(b"\n".join(lines) + b"\n", pieces)).watch(seen.append, 1.0)
    for lease in seen:
        check(lease)


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "LONGEST", 1000)
    given_up = 0

    class Endless(Answer):
        def stream(self, **_: object) -> Iterator[bytes]:
            nonlocal given_up
            while True:
                given_up += 1
                yield b"x" * 100

    with closing(Endless(b"")) as answer, pytest.raises(CallError) as caught:
        client(answer).watch(lambda _: None, 1.0)
    assert caught.value.failure.code == "BadAnswer" and given_up < 20
