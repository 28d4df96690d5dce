"""Builds the image of the Dockerfile, once for each content, on whatever base this machine can have."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.podman import PodmanError, build, has_image, podman

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ("registry-1.docker.io", 443)
OFFICIAL = "docker.io/library/python:3.13-slim"
SUITE = "trixie"  # whose Python is 3.13, too
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "python3,python3-venv,ca-certificates"
CONTENT = ("Dockerfile", ".dockerignore", "setup.cfg", "pyproject.toml", "README.md", "image", "vipmanager")
NOT_CONTENT = ("__pycache__", "_model")
STAGE = "vipmanager.stage=build"
"""The label of what is built on the way."""
_REGISTRY_ANSWERS_WITHIN = 3.0  # seconds

Say = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """The image, and what it was built on."""

    name: str
    base: str


def prepare(say: Say) -> Images:
    """The image of the present content, built if need be. Raises PodmanError."""
    base = _base(say)
    content = hashlib.sha256(podman("image", "inspect", "--format={{.Id}}", base).encode())
    for path in sorted(_content()):
        content.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    images = Images(f"localhost/vipmanager:{content.hexdigest()[:12]}", base)
    if has_image(images.name):
        say(f"image {images.name}: of this content already")
    else:
        _build(images, say)
    return images


def _build(images: Images, say: Say) -> None:
    say(f"image {images.name}: building on {images.base} …")
    with tempfile.TemporaryDirectory() as scratch:
        common = ["--build-arg", f"BASE_IMAGE={images.base}", *_pip(Path(scratch))]
        build(ROOT, *common, "--target=dependencies", "-t", "localhost/vipmanager-dependencies", base=images.base)
        build(ROOT, *common, "-t", images.name, base=images.base)
    kept = {images.name, images.base}
    for name in podman("images", "--format={{.Repository}}:{{.Tag}}", "localhost/vipmanager").split():
        if name not in kept and name.startswith("localhost/vipmanager:"):
            podman("rmi", "--force", name)
    podman("image", "prune", "--force", "--filter", f"label={STAGE}")


def _content() -> Iterator[Path]:
    for name in CONTENT:
        path = ROOT / name
        found = [path] if path.is_file() else (each for each in path.rglob("*") if each.is_file())
        yield from (each for each in found if not set(NOT_CONTENT) & set(each.parts))


def _pip(scratch: Path) -> list[str]:
    """Options that give the pip of the build what this machine's pip has: authorities and an index of its own."""
    settings, volumes = [], []
    authorities = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if authorities and Path(authorities).is_file():
        settings.append("cert = /etc/pip-authorities.crt")
        volumes += ["--volume", f"{authorities}:/etc/pip-authorities.crt:ro"]
    if index := os.environ.get("PIP_INDEX_URL"):
        settings.append(f"index-url = {index}")
    (scratch / "pip.conf").write_text("\n".join(["[global]", *settings, ""]))
    return [*volumes, "--volume", f"{scratch}/pip.conf:/etc/pip.conf:ro"]


def _base(say: Say) -> str:
    """$BASE_IMAGE; else the Dockerfile's own where a registry can be reached; else one made by debootstrap."""
    given = os.environ.get("BASE_IMAGE")
    for name in [given] if given else [OFFICIAL]:
        if has_image(name):
            return name
    if given or (not _tarball().exists() and _registry_answers()):
        podman("pull", given or OFFICIAL, within=600)
        return given or OFFICIAL
    name = f"localhost/vipmanager-base:{SUITE}"
    if not has_image(name):
        if not _tarball().exists():
            _debootstrap(say)
        podman("import", "--change", "CMD=python3", str(_tarball()), name, within=600)
    return name


def _registry_answers() -> bool:
    try:
        with socket.create_connection(REGISTRY, _REGISTRY_ANSWERS_WITHIN):
            return True
    except OSError:
        return False


def _tarball() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "vipmanager" / "e2e" / f"base-{SUITE}-{platform.machine()}.tar"


def _debootstrap(say: Say) -> None:
    """Debian with Python and nothing else, as the official image has it. Raises PodmanError."""
    if shutil.which("debootstrap") is None:
        raise PodmanError("no registry answers, and debootstrap is not installed: apt-get install debootstrap")
    say(f"no registry answers: making a base image by debootstrap ({SUITE}, two minutes) …")
    tarball = _tarball()
    tarball.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, f"{scratch}/root", MIRROR]
        done = subprocess.run(made, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PodmanError(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        left_out = [f"--exclude=./{each}/*" for each in ("dev", "proc", "sys", "var/cache/apt", "var/lib/apt/lists")]
        part = tarball.with_suffix(".part")
        subprocess.run(["tar", "-C", f"{scratch}/root", *left_out, "-cf", str(part), "."], check=True)
        part.replace(tarball)
