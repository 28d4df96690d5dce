"""Whatever lies in StateDir is claims or none: never an exception, never a wait, never another file written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipmanager import files
from vipmanager.claims import FILE, VERSION, ClaimStore
from vipmanager.files import read_limited, write_atomically
from vipmanager.model import Claim

NOW = 100.0
GOOD = {
    "address": "192.168.0.1", "eni": "eni-1", "placement": "host-route", "destination": "192.168.0.1/32", "since": 5.0,
    "held": {"rtb-1": 6.0}, "conceded_to": "", "conceded_at": 0.0, "vanished": None, "scope": None, "aimed": 0.0,
}  # fmt: skip
anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(list(GOOD.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=4),
    max_leaves=8,
)


def load(directory: Path) -> dict[Any, Claim]:
    """What a new process takes from it."""
    return ClaimStore(str(directory), "life").load(NOW)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(changes=st.dictionaries(st.sampled_from(list(GOOD)), anything, min_size=1, max_size=3))
def test_a_claim_of_any_values(directory: Path, changes: dict[str, Any]) -> None:
    claims = [GOOD, {**GOOD, **changes}]
    (directory / FILE).write_text(json.dumps({"version": VERSION, "life": "life", "claims": claims}))
    for claim in load(directory).values():
        assert claim.address in claim.destination
        times = (claim.since, claim.aimed, claim.conceded_at, claim.vanished or 0.0, *claim.held.values())
        assert all(0.0 <= at <= NOW for at in times)
        assert claim.destination.prefixlen > 0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
def test_a_file_of_any_content(directory: Path, data: bytes) -> None:
    (directory / FILE).write_bytes(data)
    assert load(directory) == {}


def test_a_good_claim_is_loaded(directory: Path) -> None:
    (directory / FILE).write_text(json.dumps({"version": VERSION, "life": "life", "claims": [GOOD]}))
    assert list(load(directory)) == [ip_address("192.168.0.1")]


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a directory": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("/proc/self/environ"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "deep": lambda path: path.write_text("[" * 200_000),
    "huge": lambda path: path.write_bytes(b" " * (files.LIMIT + 1)),
    "a number of many digits": lambda path: path.write_text('{"version": ' + "9" * 10_000 + "}"),
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_file_of_ours_is_lived_without(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    NOT_FILES[kind](tmp_path / FILE)
    store = ClaimStore(str(tmp_path), "life")
    assert store.load(NOW) == {}
    store.save({})
    assert [record.getMessage() for record in caplog.records if record.getMessage() == "state unreadable"]
    if kind != "a directory":
        assert load(tmp_path) == {} and (tmp_path / FILE).is_file() and not (tmp_path / FILE).is_symlink()


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, victim: path.symlink_to(victim),
    "a hard link": lambda path, victim: os.link(victim, path),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a file that all may read": lambda path, _: (path.write_text("x"), path.chmod(0o666)),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_put_where_we_write_next_is_not_written_to(tmp_path: Path, kind: str) -> None:
    """A pipe would stop the loop for ever; a link would have another file overwritten."""
    victim, path = tmp_path / "victim", tmp_path / "state.json"
    victim.write_text("mine")
    PLANTED[kind](tmp_path / f".state.json.{os.getpid()}", victim)
    write_atomically(path, "new")
    assert victim.read_text() == "mine"
    assert read_limited(path) == "new"
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_nlink == 1


def test_a_directory_where_we_write_next_is_an_error_of_the_os(tmp_path: Path) -> None:
    (tmp_path / f".state.json.{os.getpid()}").mkdir()
    with pytest.raises(OSError, match="exists"):
        write_atomically(tmp_path / "state.json", "new")


def test_what_dead_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".state.json.998", ".state.json.999", ".other.json.998"))
    for each in (old, young, other):
        each.write_text("half a fi")
    for each in (old, other):
        os.utime(each, (0, 0))
    write_atomically(tmp_path / "state.json", "new")
    assert sorted(each.name for each in tmp_path.iterdir()) == [other.name, young.name, "state.json"]


def test_the_directory_that_is_made_is_the_owners_only(tmp_path: Path) -> None:
    write_atomically(tmp_path / "state" / "state.json", "new")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
