"""State files: whole or not at all, and the owner's only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vipmanager.files import write_atomically


def test_it_is_written_and_replaced_by_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_atomically(path, "1")
    with path.open() as before:
        write_atomically(path, "2")
        assert before.read() == "1"  # who reads meanwhile has the old one, whole
    assert path.read_text() == "2"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["b.json"]


def test_what_fails_changes_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.json"
    write_atomically(path, "1")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "2")
    assert path.read_text() == "1"
    assert [each.name for each in tmp_path.iterdir()] == ["b.json"]


def test_a_link_that_somebody_put_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    path = tmp_path / "b.json"
    path.with_name(f".b.json.{os.getpid()}").symlink_to(tmp_path / "victim")
    write_atomically(path, "2")
    assert (tmp_path / "victim").read_text() == "mine"
    assert path.read_text() == "2"
    assert not path.is_symlink()
