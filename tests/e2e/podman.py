"""podman, with the options that this machine needs: found by trying."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

RUNTIME = Path(__file__).with_name("runtime.py")
RUN = f"vipmanager-e2e={uuid.uuid4().hex[:12]}"
"""The label of all containers of this process."""
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
_BUILDS_WITHIN = 1200.0  # seconds
_DONE_WITHIN = 120.0


class PodmanError(RuntimeError):
    """podman could not do it; the text is what it said."""


def podman(*arguments: str, within: float = _DONE_WITHIN, stdin: str | None = None) -> str:
    """Run podman; what it printed. Raises PodmanError."""
    command = ["podman", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, input=stdin, check=False)
    except subprocess.TimeoutExpired:
        raise PodmanError(f"podman {arguments[0]} has not ended within {within:g} s") from None
    if done.returncode != 0:
        raise PodmanError(f"podman {' '.join(arguments)}: {done.stderr[-4000:]}")
    return done.stdout.strip()


def has_image(name: str) -> bool:
    """Whether the image is here."""
    return subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0


@functools.cache
def run_options(image: str) -> tuple[str, ...]:
    """What `podman run` needs here besides the runtime: where it may not raise limits, limits that need no raising."""
    errors = []
    for options in ((), _LIMITS):
        try:
            podman(*run_command(options), "--rm", "--network=none", "--entrypoint=python3", image, "-c", "")
            return options
        except PodmanError as error:
            errors.append(str(error))
    raise PodmanError("no container can be run here:\n" + "\n".join(errors))


def run_command(options: Sequence[str]) -> list[str]:
    """`podman run` with this package's runtime."""
    return ["--runtime", str(RUNTIME), "run", "--log-driver=k8s-file", "--label", RUN, *options]


@functools.cache
def build_options(base: str) -> tuple[str, ...]:
    """What `podman build` needs here: nothing, or no isolation but chroot and the machine's network."""
    errors = []
    for options in ((), ("--isolation=chroot", "--net=host")):
        try:
            trial = f"FROM {base}\nRUN python3 -c ''\n"
            made = podman("build", "--quiet", "--no-cache", "--force-rm", *options, "-f", "-", stdin=trial)
            podman("rmi", "--force", made.split()[-1])
            return options
        except PodmanError as error:
            errors.append(str(error))
    raise PodmanError("no image can be built here:\n" + "\n".join(errors))


def build(context: Path, *options: str, base: str) -> None:
    """Build an image. Raises PodmanError."""
    podman("build", *build_options(base), "--layers", *options, str(context), within=_BUILDS_WITHIN)


def history(image: str) -> list[tuple[str, int]]:
    """The layers that are not empty: how they were made, bytes; the last one first."""
    layers = json.loads(podman("history", "--format=json", image))
    return [(layer["CreatedBy"], int(layer["size"])) for layer in layers if int(layer["size"])]


def remove_containers() -> None:
    """Remove all containers of this process, running or not."""
    names = podman("ps", "--all", "--quiet", "--filter", f"label={RUN}").split()
    if names:
        podman("rm", "--force", "--time=0", *names)


def environment() -> dict[str, str]:
    """That of podman itself, wherever it is started."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
