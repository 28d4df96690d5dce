"""How `python -m lab` talks to a lab that runs in the background: a Unix socket with one JSON line each way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import status
from lab.environment import without_aws

if TYPE_CHECKING:
    from lab.lab import Lab

_TIMEOUT = 30.0  # seconds for one request and its answer
_LONGEST = 1 << 24  # bytes of a request or an answer

_log = logging.getLogger(__name__)


class ControlError(RuntimeError):
    """No lab is running, or it refused; the text says which."""


def directory() -> Path:
    """Where the socket and the log are: a directory that only this user can enter. Raises ControlError."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(runtime) / "vipmanager-lab" if runtime else Path(f"/tmp/vipmanager-lab-{os.geteuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ControlError(f"{path} is not a directory of ours alone (mode 0700): remove it")
    return path


class ControlServer:
    """Answers requests about a lab, one at a time, in a thread of its own."""

    def __init__(self, lab: Lab, path: Path, on_down: Callable[[], object]) -> None:
        """Listen at `path`; a socket that a lab which was killed left there is replaced."""
        self._lab = lab
        self._path = path
        self._on_down = on_down
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name="lab-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(_TIMEOUT)
                try:
                    self._answer(connection)
                except OSError as error:
                    _log.warning("a control connection failed: %s", error)

    def _answer(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            request = json.loads(_read_line(connection))
            action = getattr(self, f"_do_{request.pop('command')}")
            answer = {"result": action(descriptors, **request)}
        except OSError:
            raise
        except Exception as error:  # whatever failed, the client is told
            _log.info("a control request failed", exc_info=True)
            answer = {"error": str(error) or type(error).__name__}
        text = json.dumps(answer).encode() + b"\n"
        if descriptors:
            sent = socket.send_fds(connection, [text], descriptors)
            text = text[sent:]
            for descriptor in descriptors:
                os.close(descriptor)
        connection.sendall(text)

    def _do_status(self, _: list[int]) -> dict[str, Any]:
        return status.collect(self._lab)

    def _do_down(self, _: list[int]) -> dict[str, Any]:
        self._on_down()
        return {"pid": os.getpid()}

    def _do_pod(self, _: list[int], name: str, worker: str, addresses: dict[str, list[str]]) -> None:
        if worker not in self._lab.workers:
            raise ControlError(f"no worker {worker}; there are: {', '.join(self._lab.workers)}")
        self._lab.pod(name, worker, addresses)

    def _do_delete_pod(self, _: list[int], name: str) -> None:
        if name not in self._lab.pods:
            raise ControlError(f"no pod {name}")
        self._lab.delete_pod(name)

    def _do_worker(self, _: list[int], action: str, worker: str) -> None:
        actions = {"cut": self._lab.cut, "restore": self._lab.restore, "terminate": self._lab.terminate}
        if worker not in self._lab.workers:
            raise ControlError(f"no worker {worker}; there are: {', '.join(self._lab.workers)}")
        actions[action](worker)

    def _do_ping(self, _: list[int], host: str, address: str, timeout: float) -> bool:
        return self._lab.host(host).reach(address, timeout=timeout)

    def _do_enter(self, descriptors: list[int], host: str) -> dict[str, str]:
        """The environment for a process in the host; its namespace and our user namespace go along as descriptors."""
        found = self._lab.host(host)
        descriptors.append(os.dup(found.ns.fileno()))
        descriptors.append(os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
        return found.env


def running() -> bool:
    """Whether a lab answers."""
    try:
        request("status")
    except ControlError:
        return False
    return True


def request(command: str, **arguments: Any) -> Any:
    """Ask the running lab; its answer. Raises ControlError."""
    result, descriptors = request_with_descriptors(command, **arguments)
    for descriptor in descriptors:
        os.close(descriptor)
    return result


def request_with_descriptors(command: str, **arguments: Any) -> tuple[Any, list[int]]:
    """The same, with the descriptors that came along, which are the caller's to close."""
    path = directory() / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError("no lab is running; start one: python -m lab up") from None
        connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
        begin, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
        answer = json.loads(begin + (b"" if begin.endswith(b"\n") else _read_line(connection)))
    if "error" in answer:
        raise ControlError(answer["error"])
    return answer["result"], descriptors


def shell_environment(env: dict[str, str]) -> dict[str, str]:
    """This process's environment with a host's on top, which takes the place of any AWS settings."""
    region = {"AWS_DEFAULT_REGION": env["AWS_REGION"]} if "AWS_REGION" in env else {}  # boto3 reads that name only
    return without_aws(os.environ) | env | region


def _read_line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.readline(_LONGEST)
