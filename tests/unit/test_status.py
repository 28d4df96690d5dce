"""The status file, and `vipmanager status` that shows it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.clock import BOUND, until
from vipmanager import status, status_file
from vipmanager.http_messages import Answer, write
from vipmanager.status import NOT_RUNNING, probe, show
from vipmanager.status_file import FILE, StatusFile, is_outdated, is_stopped, started

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
    ended(tmp_path, STATUS)
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


def address(name: str, state: str, **facts: Any) -> dict[str, Any]:
    """As status_pod.document has it."""
    known = {"interface": "net1", "placement": "host-route", "eni": "eni-1", "destination": f"{name}/32", "why": ""}
    counted = {"next_retry": None, "conceded_to": "", "since": 1_000_000_000.0, "tables": {"done": 4, "total": 4}}
    return {"name": name, **known, "state": state, **counted, **facts}


POD: dict[str, Any] = {
    "mode": "sidecar",
    "ready": False,
    "not_ready": "192.168.0.20 is pending: denied",
    "result": "",
    "addresses": [
        address("192.168.0.1", "claimed"),
        address("192.168.0.20", "pending", why="denied", next_retry=1.0, tables={"done": 3, "total": 4}),
        address("10.10.1.5", "conceded", conceded_to="eni-9", placement="eni-address", tables=None),
        address("10.10.7.7", "refused", placement="", eni="", tables=None, why="lies in the VPC"),
    ],
    "failing": [{"item": "fact discovery", "why": "imds: Timeout", "attempts": 3, "next_retry": 1.0}],
    "ignored": ["192.168.9.9 on br0: no ENI of this worker has its MAC none"],
    "problems": ["10.10.7.7 on net1: lies in the VPC", "eni-1: has its source/dest check on"],
}


class TestOfAPod:
    """Init and sidecar."""

    def test_as_text_an_address_is_a_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        StatusFile(str(tmp_path)).write(POD)
        code, text = shown(capsys, tmp_path)
        assert code == 0
        at = "since 2001-09-09T01:46:40Z"
        assert text.splitlines() == [
            "sidecar  not ready: 192.168.0.20 is pending: denied",
            f"192.168.0.1   host-route   net1  eni-1  claimed            {at}, 4 of 4 tables",
            f"192.168.0.20  host-route   net1  eni-1  pending            {at}, 3 of 4 tables: denied; next try at once",
            f"10.10.1.5     eni-address  net1  eni-1  conceded to eni-9  {at}",
            f"10.10.7.7     -            net1  -      refused            {at}: lies in the VPC",
            "failing     fact discovery: imds: Timeout (3 times; next try at once)",
            "problem     eni-1: has its source/dest check on",
            "ignored     192.168.9.9 on br0: no ENI of this worker has its MAC none",
        ]

    def test_when_it_is_tried_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        later = address("192.168.0.1", "pending", next_retry=time.time() + 3600.0)
        StatusFile(str(tmp_path)).write({**POD, "addresses": [later]})
        assert re.search(r"; next try in 3[56]\d\d s \(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)", shown(capsys, tmp_path)[1])

    def test_a_standby(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        StatusFile(str(tmp_path)).write({"mode": "sidecar", "ready": True, "not_ready": "", "addresses": []})
        assert shown(capsys, tmp_path)[1].splitlines() == ["sidecar  ready", "no floating address on this pod"]

    @pytest.mark.parametrize(
        ("result", "code", "first"),
        [
            ("", 1, "NOT RUNNING (process "),
            ("ok", 0, "ENDED: ok ("),
            ("failed", 1, "ENDED: failed ("),
            ("stopped", 1, "E"),
        ],
    )
    def test_of_a_process_that_has_ended(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], result: str, code: int, first: str
    ) -> None:
        """An init run that has done its job does not run, and that is no error."""
        ended(tmp_path, {**POD, "result": result, "ready": result == "ok"})
        found, text = shown(capsys, tmp_path)
        assert found == code and text.startswith(first)
        assert probe(str(tmp_path)) == code


class TestProbe:
    """`--ready`."""

    def test_of_one_that_runs(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = StatusFile(str(tmp_path))
        file.write(POD)
        assert probe(str(tmp_path)) == 1
        assert capsys.readouterr().err == "vipmanager: not ready: 192.168.0.20 is pending: denied\n"
        file.write({**POD, "ready": True, "not_ready": ""})
        assert probe(str(tmp_path)) == 0
        assert capsys.readouterr() == ("", "")

    def test_of_one_that_has_ended(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ended(tmp_path, {**POD, "ready": True, "not_ready": ""})
        assert probe(str(tmp_path)) == 1
        assert "not running: process" in capsys.readouterr().err

    @pytest.mark.parametrize("content", [None, "", "{}", '{"pid": 1}'])
    def test_of_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
        if content is not None:
            (tmp_path / FILE).write_text(content)
        assert probe(str(tmp_path)) == 1
        assert "is vipmanager running" in capsys.readouterr().err

    def test_what_says_nothing_of_readiness_is_not_ready(self, tmp_path: Path) -> None:
        StatusFile(str(tmp_path)).write({"mode": "sidecar"})
        assert probe(str(tmp_path)) == 1


def ended(directory: Path, status: dict[str, Any]) -> None:
    """The status of a process that has ended since."""
    code = f"from vipmanager.status_file import StatusFile; StatusFile({str(directory)!r}).write({status!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


class Port:
    """A health port that answers the same to everybody, or nothing."""

    def __init__(self, answer: bytes | None) -> None:
        self.asked: list[bytes] = []
        self._answer, self._taken = answer, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.asked.append(connection.recv(4096))
                    if self._answer is None:
                        self._taken.wait(BOUND)
                    else:
                        connection.sendall(self._answer)

    def close(self) -> None:
        """No more."""
        self._taken.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(BOUND)


def answer(status: int, body: str) -> bytes:
    """As the health port gives it."""
    return write(Answer(status, body.encode()), "GET", 0.0)


class TestAsked:
    """Where the health port is open, it is asked: the file is as old as the last round."""

    @pytest.fixture
    def port(self, request: pytest.FixtureRequest) -> Iterator[Port]:
        made = Port(request.param)
        yield made
        made.close()

    def write(self, directory: Path, port: Port, *, ready: bool) -> None:
        StatusFile(str(directory)).write(
            {**POD, "ready": ready, "not_ready": "" if ready else "pending", "serves": port.at}
        )

    @pytest.mark.parametrize("port", [answer(200, "ok\n")], indirect=True)
    def test_what_it_says_counts(self, tmp_path: Path, port: Port) -> None:
        self.write(tmp_path, port, ready=False)
        assert probe(str(tmp_path)) == 0
        assert port.asked[0].startswith(b"GET /readyz ")
        assert show(str(tmp_path), as_json=False) == 0
        assert port.asked[1].startswith(b"GET /healthz ")

    @pytest.mark.parametrize("port", [answer(503, "the loop hangs\n")], indirect=True)
    def test_a_loop_that_hangs(self, tmp_path: Path, port: Port, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(tmp_path, port, ready=True)
        assert probe(str(tmp_path)) == 1
        assert capsys.readouterr().err == "vipmanager: not ready: the loop hangs\n"
        code, text = shown(capsys, tmp_path)
        assert code == 1
        assert text.splitlines()[:2] == [
            "NOT CERTAIN (the loop hangs; this is the last it said)",
            "sidecar  not ready: the loop hangs",
        ]
        assert show(str(tmp_path), as_json=True) == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["doubt"], found["ready"], found["running"]) == ("the loop hangs", False, True)

    @pytest.mark.parametrize("port", [None, b"", b"\x00" * 70_000], ids=["silent", "empty", "junk"], indirect=True)
    def test_no_answer_is_not_ready(
        self, tmp_path: Path, port: Port, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status, "WITHIN", 0.05)
        self.write(tmp_path, port, ready=True)
        assert probe(str(tmp_path)) == 1
        assert f"{port.at} does not answer" in capsys.readouterr().err or port.asked

    @pytest.mark.parametrize("at", ["10.0.0.1:80", "127.0.0.1:99999999", "127.0.0.1", 7, "[::1]:x"])
    def test_nobody_else_is_asked(self, tmp_path: Path, at: object, capsys: pytest.CaptureFixture[str]) -> None:
        StatusFile(str(tmp_path)).write({**POD, "ready": True, "serves": at})
        assert probe(str(tmp_path)) == 1
        assert show(str(tmp_path), as_json=False) == 1
        assert capsys.readouterr().err.count("it cannot be read") == 2


def test_a_process_that_was_stopped_is_not_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where there is no port to ask."""
    code = (
        f"import time; from vipmanager.status_file import StatusFile; StatusFile({str(tmp_path)!r}).write("
        "{'mode': 'sidecar', 'ready': True}); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            until((tmp_path / FILE).exists)
            assert probe(str(tmp_path)) == 0
            process.send_signal(signal.SIGSTOP)
            until(lambda: is_stopped(process.pid))
            assert probe(str(tmp_path)) == 1
            assert "has been stopped by a signal" in capsys.readouterr().err
            status_code, text = shown(capsys, tmp_path)
            assert status_code == 1 and text.startswith("NOT CERTAIN (")
            process.send_signal(signal.SIGCONT)
            until(lambda: not is_stopped(process.pid))
            assert probe(str(tmp_path)) == 0
        finally:
            process.kill()


class TestWriting:
    """The other side."""

    def test_one_that_can_be_neither_replaced_nor_removed_is_marked_until_it_can(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As on a file system that has become read-only."""
        file = StatusFile(str(tmp_path))
        file.write({**POD, "ready": True})
        assert probe(str(tmp_path)) == 0

        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(status_file, "write_atomically", refuse)
            patch.setattr(Path, "unlink", refuse)
            for _ in range(2):
                assert "Read-only" in file.write({**POD, "ready": True, "addresses": []})
        assert probe(str(tmp_path)) == probe(str(tmp_path)) == 1
        assert "could not be written anew" in capsys.readouterr().err
        code, text = shown(capsys, tmp_path)
        assert code == 1 and "could not be written anew" in text.splitlines()[0] and "192.168.0.1 " in text
        assert file.write({**POD, "ready": True, "addresses": []}) == ""
        assert probe(str(tmp_path)) == 0
        assert shown(capsys, tmp_path)[0] == 0

    def test_two_who_look_at_once_do_not_take_each_other_for_a_mark(self, tmp_path: Path) -> None:
        StatusFile(str(tmp_path)).write({**POD, "ready": True})
        with open(tmp_path / FILE) as other:
            fcntl.flock(other, fcntl.LOCK_SH)
            assert not is_outdated(tmp_path / FILE)

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

    def test_a_status_that_is_no_longer_true_does_not_stay(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where it cannot be written anew, but removed, as on a full disk."""
        file = StatusFile(str(tmp_path))
        file.write(STATUS)

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", refuse)
            assert "No space left" in file.write({**STATUS, "role": "BACKUP"})
            assert list(tmp_path.iterdir()) == []
        assert file.write({**STATUS, "role": "BACKUP"}) == ""
        assert json.loads((tmp_path / FILE).read_text())["role"] == "BACKUP"
        assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "junk",
    ['{"started": "1", "pid": 1e999}', "[" * 100_000, '{"started": "1", "pid": 1, "addresses": [{}]}', "null", "\x00"],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_that_somebody_else_wrote_is_no_status(tmp_path: Path, junk: str, as_json: bool) -> None:
    (tmp_path / FILE).write_text(junk)
    assert show(str(tmp_path), as_json=as_json) == NOT_RUNNING
    assert probe(str(tmp_path)) == NOT_RUNNING


def test_a_file_of_a_running_process_with_fields_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = {"started": started(os.getpid()), "pid": os.getpid(), "addresses": [{}], "updated": "x"}
    (tmp_path / FILE).write_text(json.dumps(mine))
    assert show(str(tmp_path), as_json=False) == NOT_RUNNING
    assert "it cannot be read" in capsys.readouterr().err


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    assert show(str(tmp_path), as_json=True) == NOT_RUNNING
