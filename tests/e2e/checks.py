"""What the image is, apart from any manifest: its size, what is in it, its user and capabilities."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.e2e.image import Images
from tests.e2e.podman import history, podman, run_command, run_options
from tests.e2e.runtime import OLD_DOCKER

Say = Callable[[str], None]

ADDED_AT_MOST = 20e6
"""Bytes on top of the base."""
PROGRAMS = {"/opt/vipmanager/bin/vipmanager", "/app/script.sh", "/usr/bin/sh"}
"""What can be run besides Python: three scripts of ours."""
LOOK = """
import json, os, sys
LEFT_OUT = ("/proc", "/sys", "/dev", "/run", "/tmp", "/etc")
tag = f".{sys.implementation.cache_tag}.pyc"
found = {"programs": [], "setuid": [], "writable": [], "bytecode": []}
for here, folders, names in os.walk("/"):
    here = here.rstrip("/")
    folders[:] = [each for each in folders if f"{here}/{each}" not in LEFT_OUT]
    for name in names:
        path = f"{here}/{name}"
        if os.path.islink(path):
            continue
        mode = os.stat(path).st_mode
        if mode & 0o6000:
            found["setuid"].append(path)
        if mode & 0o111 and not name.endswith((".py", ".so")) and ".so." not in name:
            found["programs"].append(path)
        if os.access(path, os.W_OK):
            found["writable"].append(path)
        if name.endswith(".py"):
            made = f"{here}/__pycache__/{name[:-3]}{tag}"
            if not os.path.exists(made) or open(made, "rb").read(8)[4:] != bytes((1, 0, 0, 0)):
                found["bytecode"].append(path)
print(json.dumps(found))
"""
CAPABILITIES = """
from vipmanager.clients import privileges
privileges.take_effect()
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(lines["Uid"].split()[0], int(lines["CapEff"], 16) >> 12 & 1)
"""
IMPORTED_LATE = """
import warnings
warnings.simplefilter("error")
from kubernetes import client
print("imported")
"""
"""Of the nodeport mode: what lacks something says so in the log."""
CAPABLE = (
    ("as the samples of the documents: nothing said but NET_ADMIN", ["--cap-add=NET_ADMIN"], "65532 1"),
    ("not root, nothing else", ["--cap-drop=all", "--cap-add=NET_ADMIN"], "65532 1"),
    (
        "not root, allowPrivilegeEscalation: false",
        ["--cap-drop=all", "--cap-add=NET_ADMIN", "--security-opt=no-new-privileges"],
        "65532 1",
    ),
    (
        "runAsUser: 0, allowPrivilegeEscalation: false",
        ["--user=0", "--cap-drop=all", "--cap-add=NET_ADMIN", "--security-opt=no-new-privileges"],
        "0 1",
    ),
    (
        "old Docker, not root",
        [f"--annotation={OLD_DOCKER}=", "--cap-drop=all", "--cap-add=NET_ADMIN"],
        "65532 1",
    ),
    (
        "old Docker, not root, allowPrivilegeEscalation: false: runAsUser: 0 is needed",
        [f"--annotation={OLD_DOCKER}=", "--cap-drop=all", "--cap-add=NET_ADMIN", "--security-opt=no-new-privileges"],
        "65532 0",
    ),
    ("NET_ADMIN not added: it starts without", ["--cap-drop=all"], "65532 0"),
)


def check(images: Images, say: Say) -> None:
    """All of it. Raises AssertionError."""
    check_layers(images, say)
    _content(images, say)
    for title, options, wanted in CAPABLE:
        found = _python(images, CAPABILITIES, options)
        assert found == wanted, f"{title}: {found}"
        uid, has = found.split()
        say(f"  {title}: user {uid} {'has' if has == '1' else 'has not'} NET_ADMIN")
    assert _python(images, IMPORTED_LATE, ["--cap-drop=all"]) == "imported"
    _ways_in(images, say)


def materials(images: Images) -> str:
    """The image's bill of materials."""
    return _python(images, "print(open('/opt/vipmanager/sbom.cdx.json').read())", [])


def check_layers(images: Images, say: Say) -> None:
    """What each layer adds. Raises AssertionError where that is too much."""
    base = sum(size for _, size in history(images.base))
    layers = {how.split()[-1]: size for how, size in reversed(history(images.name))}  # COPY dir:… in PLACE
    assert list(layers) == ["/", "/app", "/opt/vipmanager"], layers
    say(f"  layer /: {_mb(layers['/'])}, what is needed of the base's {_mb(base)}, with bytecode")
    added = layers["/app"] + layers["/opt/vipmanager"]
    for place in ("/app", "/opt/vipmanager"):
        say(f"  layer {place}: {_mb(layers[place])}")
    say(f"  size: {_mb(sum(layers.values()))}, {_mb(added)} of it on top of Python")
    assert added <= ADDED_AT_MOST, f"{added} bytes added"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _content(images: Images, say: Say) -> None:
    found = json.loads(_python(images, LOOK, ["--cap-drop=all"]))
    others = {path for path in found["programs"] if path not in PROGRAMS}
    names = {Path(path).name.rstrip("0123456789.") for path in others}
    assert names == {"python"}, others
    for kind in ("setuid", "writable", "bytecode"):
        assert not found[kind], (kind, found[kind][:10])
    say(
        f"  programs: {', '.join(sorted(others | PROGRAMS))}; none set-uid, no file its user may write, "
        f"all bytecode there; {len(json.loads(materials(images))['components'])} components in the bill of materials"
    )


def _ways_in(images: Images, say: Say) -> None:
    """By the entrypoint, and the ways of the documents: both args and command."""
    options = [*run_options(images.base), "--rm", "--network=none", "--read-only", "--read-only-tmpfs=false"]
    asked = ["iam-policy", "init"]
    said = _output([*options, images.name, *asked])
    script = f"/app/script.sh {' '.join(asked)}"
    ways: dict[str, Sequence[str]] = {
        "command /app/script.sh": ["--entrypoint=/app/script.sh", images.name, *asked],
        "command sh -c": ['--entrypoint=["/bin/sh","-c"]', images.name, script],
        "args sh -c": [images.name, "/bin/sh", "-c", script],
    }
    assert '"Version"' in said, said
    for name, way in ways.items():
        assert _output([*options, *way]) == said, name
    say(f"  {len(ways)} ways to /app/script.sh do what the entrypoint does; the root file system is read-only")


def _python(images: Images, program: str, options: Sequence[str]) -> str:
    more = [*run_options(images.base), "--rm", "--network=none", *options, "--entrypoint=python3"]
    return _output([*more, images.name, "-IB", "-c", program])


def _output(arguments: Sequence[str]) -> str:
    return podman(*run_command(()), *arguments)
