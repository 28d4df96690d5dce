"""What vipmanager does not do at all: start programs, run a shell, or leave half a file when it is killed."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vipmanager
from vipmanager.claims import FILE
from vipmanager.clients import ec2_calls, exposition
from vipmanager.metrics import Metrics

PACKAGE = Path(vipmanager.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_model" not in path.parts)

FORBIDDEN_MODULES = frozenset(
    ("asyncio.subprocess", "code", "commands", "marshal", "multiprocessing", "os.spawn", "pexpect", "pickle", "popen2",
     "posix", "pty", "runpy", "shelve", "subprocess")
)  # fmt: skip
"""What starts programs, or makes code of data."""
FORBIDDEN_CALLS = frozenset(("eval", "exec", "compile", "__import__"))
FORBIDDEN_OF_OS = ("exec", "fork", "popen", "posix_spawn", "spawn", "startfile", "system")
LIBC = {
    "clients/deadline.py": {"_exit", "signal", "timer_create", "timer_settime"},
    "clients/privileges.py": {"capget", "capset"},
    "memory.py": {"mallopt"},
}
"""The modules that call libc, and what they call; none of it starts anything."""


def found(tree: ast.AST) -> set[str]:
    """What is not allowed, as it is written."""
    bad: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bad |= {name.name for name in node.names if name.name in FORBIDDEN_MODULES}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            bad |= {f"{node.module}.{name.name}" for name in node.names if _is_bad(node.module or "", name.name)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            bad.add(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "posix"):
            bad |= {f"os.{node.attr}"} if node.attr.startswith(FORBIDDEN_OF_OS) else set()
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            bad.add("shell=")
    return bad


def _is_bad(module: str, name: str) -> bool:
    if module == "os":
        return name.startswith(FORBIDDEN_OF_OS)
    return module in FORBIDDEN_MODULES or f"{module}.{name}" in FORBIDDEN_MODULES


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_can_start_a_program(path: Path) -> None:
    assert found(ast.parse(path.read_text())) == set()


@pytest.mark.parametrize(
    "code",
    ["import subprocess", "from subprocess import run", "import os\nos.system('x')", "from os import execv",
     "eval('1')", "import os\nos.posix_spawn('x', [], {})", "f(shell=True)",
     "import os\nos.fork()", "import pickle", "import pty"],
)  # fmt: skip
def test_what_would_be_found(code: str) -> None:
    assert found(ast.parse(code))


def test_libc_is_called_in_few_places_and_for_one_thing_in_each() -> None:
    users = {str(path.relative_to(PACKAGE)) for path in MODULES if "ctypes" in path.read_text()}
    assert users == set(LIBC)
    for module, allowed in LIBC.items():
        of_libc = {
            node.attr
            for node in ast.walk(ast.parse((PACKAGE / module).read_text()))
            if isinstance(node, ast.Attribute)
            and ("libc" in ast.unparse(node.value) or ast.unparse(node.value).startswith("ctypes.CDLL("))
            and node.attr != "_libc"
        }
        assert of_libc <= allowed, module


def test_who_answers_cannot_fill_the_memory_with_error_codes() -> None:
    metrics = Metrics()
    observe = ec2_calls.counter(metrics)
    for number in range(1000):
        observe("CreateRoute", f"Code{number}", 0.1)
        observe("CreateRoute", "<html>" * number, 0.1)
    observe("CreateRoute", "ok", 0.1)
    text = exposition.text(metrics.snapshot()).decode()
    lines = [line for line in text.splitlines() if line.startswith("vipmanager_ec2_calls_total")]
    assert len(lines) <= ec2_calls.MOST_CODES + 1
    assert any('code="ok"' in line for line in lines)
    assert any('code="other"' in line for line in lines) and "html" not in text


# State files ---------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys, signal
from pathlib import Path
from vipmanager import files
moment, path = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(path, "old" * 100_000)
if moment == "before opening": files.os.open = die
elif moment == "before writing": files.open = die
elif moment == "before renaming": Path.replace = die
elif moment == "half written":
    def half(descriptor, mode):
        os.write(descriptor, b"new" * 10); die()
    files.open = half
files.write_atomically(path, "new" * 100_000)
if moment == "after renaming": die()
"""


@pytest.mark.parametrize(
    ("moment", "left"),
    [("before opening", "old"), ("before writing", "old"), ("half written", "old"), ("before renaming", "old"),
     ("after renaming", "new")],
)  # fmt: skip
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one_whole(tmp_path: Path, moment: str, left: str) -> None:
    path = tmp_path / "state" / FILE
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    ended = subprocess.run([sys.executable, "-c", WRITER, moment, str(path)], env=environment, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == left * 100_000
    for each in path.parent.iterdir():
        assert each.stat().st_mode & 0o777 == 0o600
    for each in path.parent.iterdir():  # a minute later the next writer finds what was left
        os.utime(each, (0, 0))
    subprocess.run([sys.executable, "-c", WRITER, "", str(path)], env=environment, timeout=60, check=True)
    assert [each.name for each in path.parent.iterdir()] == [FILE]


def test_a_umask_of_zero_opens_nothing(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from vipmanager.status_file import StatusFile; os.umask(0); "
    code += "StatusFile(sys.argv[1]).write({'mode': 'init'})"
    state = tmp_path / "state"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code, str(state)], env=environment, timeout=60, check=True)
    assert state.stat().st_mode & 0o777 == 0o700
    (file,) = state.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["mode"] == "init"
