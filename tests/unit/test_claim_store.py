"""Claims outlive a container restart, and nothing else: not the pod, not a damaged file."""

from __future__ import annotations

import json
import logging
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.unit.builders import claim, claims
from vipmanager.claims import FILE, ClaimStore, pod_life
from vipmanager.model import PlacementKind

NOW = 10.0
CLAIMS = claims(
    claim("192.168.0.1", since=1.5, held={"rtb-1": 2.25, "rtb-2": 3.0}),
    claim("10.10.1.50", since=4.0, conceded_to="eni-9", conceded_at=5.5),
    claim("fd00::1", since=6.0, vanished=7.0),
    claim(
        "192.168.0.9",
        since=6.0,
        destination=ip_network("192.168.0.8/31"),
        scope=ip_network("192.168.0.8/29"),
        aimed=7.5,
    ),
    claim("10.10.2.5", since=8.0, kind=PlacementKind.SUBNET_ROUTE, destination=ip_network("10.10.2.0/24")),
)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The events that were warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    ClaimStore(str(tmp_path), "life").save(CLAIMS)
    assert ClaimStore(str(tmp_path), "life").load(NOW) == CLAIMS


def test_a_file_from_before_route_aggregation_is_read(tmp_path: Path) -> None:
    ClaimStore(str(tmp_path), "life").save(CLAIMS)
    data = json.loads((tmp_path / FILE).read_text())
    for item in data["claims"]:
        del item["scope"], item["aimed"]
    (tmp_path / FILE).write_text(json.dumps(data))
    loaded = ClaimStore(str(tmp_path), "life").load(NOW)
    assert set(loaded) == set(CLAIMS)
    assert {(each.scope, each.aimed) for each in loaded.values()} == {(None, 0.0)}


def test_without_a_file_there_are_no_claims(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ClaimStore(str(tmp_path / "none"), "life").load(NOW) == {}
    assert warnings(caplog) == []


def test_the_directory_is_made_and_the_file_is_the_owners_only(tmp_path: Path) -> None:
    ClaimStore(str(tmp_path / "a" / "b"), "life").save(CLAIMS)
    path = tmp_path / "a" / "b" / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [FILE]


def test_another_pods_life_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ClaimStore(str(tmp_path), "before").save(CLAIMS)
    assert ClaimStore(str(tmp_path), "after").load(NOW) == {}
    assert warnings(caplog) == []


def test_the_life_is_this_boot_and_this_network_namespace() -> None:
    boot, namespace = pod_life().rsplit("/", 1)
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert namespace in str(Path("/proc/self/ns/net").readlink())


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"version": 1, "life": "life"}',
        '{"version": 1, "life": "life", "claims": [{}]}',
        '{"version": 1, "life": "life", "claims": 5}',
        '{"version": 1, "life": "life", "claims": [{"address": "nobody"}]}',
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_said_and_lived_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    (tmp_path / FILE).write_text(damage, encoding="latin-1")
    store = ClaimStore(str(tmp_path), "life")
    assert store.load(NOW) == {}
    assert warnings(caplog) == ["state unreadable"]
    store.save(CLAIMS)
    assert ClaimStore(str(tmp_path), "life").load(NOW) == CLAIMS


@pytest.mark.parametrize(
    "field", ["address", "eni", "placement", "destination", "since", "held", "conceded_to", "conceded_at", "vanished"]
)
def test_a_field_that_is_missing_or_wrong_is_damage(tmp_path: Path, field: str) -> None:
    ClaimStore(str(tmp_path), "life").save(claims(claim("192.168.0.1")))
    data = json.loads((tmp_path / FILE).read_text())
    for wrong in ({}, {field: {"no": "sense"}} if field not in ("eni", "conceded_to") else {}):
        item = {key: value for key, value in data["claims"][0].items() if key != field} | wrong
        (tmp_path / FILE).write_text(json.dumps({**data, "claims": [item]}))
        assert ClaimStore(str(tmp_path), "life").load(NOW) == {}


def test_another_version_is_ignored(tmp_path: Path) -> None:
    ClaimStore(str(tmp_path), "life").save(CLAIMS)
    data = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**data, "version": 99}))
    assert ClaimStore(str(tmp_path), "life").load(NOW) == {}


def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    store = ClaimStore(str(tmp_path), "life")
    store.save(CLAIMS)
    (tmp_path / FILE).unlink()
    store.save(dict(CLAIMS))
    assert not (tmp_path / FILE).exists()
    store.save({})
    assert ClaimStore(str(tmp_path), "life").load(NOW) == {} and (tmp_path / FILE).exists()


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClaimStore(str(tmp_path), "life")
    store.save(CLAIMS)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.save({})
    assert ClaimStore(str(tmp_path), "life").load(NOW) == CLAIMS


@pytest.mark.parametrize("needed", [True, False])
def test_a_directory_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, needed: bool
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ClaimStore(str(tmp_path / "file" / "dir"), "life", needed=needed)
    store.save(CLAIMS)
    store.save({})
    store.save(CLAIMS)
    assert warnings(caplog) == (["state not kept"] if needed else [])


def test_a_directory_that_can_be_written_again_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With what could not be written, although it has not changed since; and the next time is said again."""
    (tmp_path / "dir").write_text("in the way")
    store = ClaimStore(str(tmp_path / "dir"), "life")
    store.save(CLAIMS)
    (tmp_path / "dir").unlink()
    store.save(CLAIMS)
    assert ClaimStore(str(tmp_path / "dir"), "life").load(NOW) == CLAIMS
    (tmp_path / "dir").rename(tmp_path / "away")
    (tmp_path / "dir").write_text("in the way")
    store.save({})
    assert warnings(caplog) == ["state not kept"] * 2


def test_addresses_are_keys(tmp_path: Path) -> None:
    ClaimStore(str(tmp_path), "life").save(CLAIMS)
    assert ip_address("192.168.0.1") in ClaimStore(str(tmp_path), "life").load(NOW)


def test_a_claim_of_the_future_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would take nothing that EC2 shows for news, and write the same without end."""
    ClaimStore(str(tmp_path), "life").save(CLAIMS)
    assert ClaimStore(str(tmp_path), "life").load(8.0) == CLAIMS
    assert ClaimStore(str(tmp_path), "life").load(7.9) == {}
    assert warnings(caplog) == ["state unreadable"]
