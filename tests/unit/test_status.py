"""The status file, and `vipmanager status` that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vipmanager.status import FILE, StatusFile, show

STATUS: dict[str, Any] = {
    "mode": "nodeport",
    "role": "MASTER",
    "identity": "vipmanager-x",
    "node": "node-1",
    "lease": "kube-system/vipmanager",
    "holder": "vipmanager-x",
    "since": 1_000_000_000.0,
    "transitions": 3,
    "why": "took over from vipmanager-y",
    "lease_problem": "",
    "health": "",
    "floating": [
        {"name": "10.10.1.80", "state": "delivered", "eni": "eni-1", "interface": "eth0"},
        {"name": "eipalloc-1", "state": "reading Elastic IPs", "eni": "", "interface": ""},
    ],
    "problems": ["eni-1: has its source/dest check on"],
}


def shown(capsys: pytest.CaptureFixture[str], directory: Path) -> tuple[int, str]:
    """The exit code and what is printed."""
    code = show(str(directory), as_json=False)
    return code, capsys.readouterr().out


def test_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert StatusFile(str(tmp_path)).write(STATUS) == ""
    code, text = shown(capsys, tmp_path)
    assert code == 0
    assert text.splitlines() == [
        "MASTER  vipmanager-x",
        "holder      vipmanager-x, since 2001-09-09T01:46:40Z",
        "lease       kube-system/vipmanager, 3 transitions",
        "last change took over from vipmanager-y",
        "health      good",
        "10.10.1.80               delivered on eni-1 eth0",
        "eipalloc-1               reading Elastic IPs",
        "problem     eni-1: has its source/dest check on",
    ]


def test_a_standby_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = {"name": "10.10.1.80", "state": "held by another node", "eni": "eni-1", "interface": "", "answers": True}
    status = {**STATUS, "role": "BACKUP", "holder": "", "since": 0.0, "why": "", "problems": [], "floating": [item]}
    status |= {"health": "tcp://:30007: refused (2 in a row)", "lease_problem": "lease:update failed"}
    StatusFile(str(tmp_path)).write(status)
    assert shown(capsys, tmp_path)[1].splitlines() == [
        "BACKUP  vipmanager-x",
        "holder      nobody",
        "lease       kube-system/vipmanager, 3 transitions",
        "lease calls lease:update failed",
        "last change none seen",
        "health      tcp://:30007: refused (2 in a row)",
        "10.10.1.80               held by another node on eni-1, answers",
    ]
    StatusFile(str(tmp_path)).write({**status, "floating": [{**item, "answers": False}]})
    assert "does not answer from here" in shown(capsys, tmp_path)[1]


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StatusFile(str(tmp_path)).write(STATUS)
    assert show(str(tmp_path), as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in STATUS} == STATUS
    assert found["running"] is True


def test_of_a_process_that_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file outlives it: what it said last is shown, and that it is no more."""
    code = f"from vipmanager.status import StatusFile; StatusFile({str(tmp_path)!r}).write({STATUS!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    code_, text = shown(capsys, tmp_path)
    assert code_ == 1
    assert text.startswith("NOT RUNNING (process ")
    assert "10.10.1.80" in text
    assert show(str(tmp_path), as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_a_process_id_that_is_used_again_is_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StatusFile(str(tmp_path)).write(STATUS)
    path = tmp_path / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": "1"}))
    assert shown(capsys, tmp_path)[0] == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}", '{"pid": "x", "started": "1"}', "\udcff"])
def test_a_broken_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / FILE).write_bytes(content.encode(errors="surrogateescape"))
    assert show(str(tmp_path), as_json=False) == 1
    assert "it cannot be read" in capsys.readouterr().err


def test_where_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(str(tmp_path), as_json=False) == 1
    assert "No such file or directory; is vipmanager running in this container?" in capsys.readouterr().err


class TestWriting:
    """The other side."""

    def test_only_what_differs_is_written(self, tmp_path: Path) -> None:
        file, path = StatusFile(str(tmp_path)), tmp_path / FILE
        file.write(STATUS)
        path.unlink()
        assert file.write(dict(STATUS)) == ""
        assert not path.exists()
        file.write({**STATUS, "role": "BACKUP"})
        assert json.loads(path.read_text())["role"] == "BACKUP"

    def test_the_directory_is_made_and_nothing_else_is_left_in_it(self, tmp_path: Path) -> None:
        StatusFile(str(tmp_path / "a" / "b")).write(STATUS)
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [FILE]

    def test_a_place_that_cannot_be_written_is_said_each_time_and_tried_again(self, tmp_path: Path) -> None:
        """The reporter says it once; were it silent for what has not changed, it would be said again and again."""
        (tmp_path / "x").write_text("not a directory")
        file = StatusFile(str(tmp_path / "x" / "y"))
        why = file.write(STATUS)
        assert why == f"{tmp_path}/x/y/{FILE}: Not a directory"
        assert file.write(STATUS) == why
        (tmp_path / "x").unlink()
        assert file.write(STATUS) == ""
        assert (tmp_path / "x" / "y" / FILE).exists()
