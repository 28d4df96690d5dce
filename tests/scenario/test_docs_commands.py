"""The commands in the documents work as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.namespaces


def test_lab_by_hand(tmp_path: Path) -> None:
    """docs/lab.md from top to bottom, in a runtime directory of its own so that a lab of the user's is left alone."""
    block = re.search(r"```sh\n(.*?)```", (ROOT / "docs/lab.md").read_text(), re.DOTALL)
    assert block is not None
    commands = block[1].replace("vipmanager init", f"{sys.executable} -m vipmanager init")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    script = f"set -eux\ntrap 'python -m lab down || true' EXIT\n{commands}"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    claimed = re.findall(r"claimed address=192\.168\.0\.2 .*", done.stdout + done.stderr)
    assert len(claimed) == 2, done.stdout + done.stderr
    assert "moved_from=eni-" in claimed[1]
