"""A pod's vipmanager, as the kubelet has it: started, killed, told to stop, started again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.chaos.world import PodSpec
from lab.ec2.auth import Credentials
from lab.pod import Container, Pod
from lab.volume import Volume
from lab.walltime import WallClock

DONE_WITHIN = 30.0
"""Seconds for what only a broken lab would not do."""

_SITE = Path(__file__).with_name("site")


def named_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """What a Python process needs in its environment, which else were `environment`, to show its threads' names."""
    return {"PYTHONPATH": os.pathsep.join([str(_SITE), *filter(None, [environment.get("PYTHONPATH")])])}


@dataclass
class Sidecar:
    """A pod with its vipmanager. `container` None: it is not running, and is to be started again.

    `credentials` None: it has those of `role`, an ARN, by a web identity. `unreliable`: its state could not be written
    at some time; `forgetful`: it has ended since, so that it may not know what it has left behind. `shot`: by kill -9.
    """

    spec: PodSpec
    pod: Pod
    credentials: Credentials | None
    settings: Mapping[str, object]
    role: str = ""
    clock: WallClock | None = None
    volume: Volume | None = None
    container: Container | None = None
    unreliable: bool = False
    forgetful: bool = False
    shot: bool = False

    def start(self) -> None:
        """Start the container, unless it runs."""
        if self.container is not None:
            return
        env = self._credentials()
        if self.clock is not None:
            env |= self.clock.env({**self.pod.env})
        env |= named_threads({**self.pod.env, **env})
        inside = self.volume.command if self.volume is not None else ()
        self.container = self.pod.vipmanager(["sidecar"], self.settings, env, inside=inside)

    def _credentials(self) -> dict[str, str]:
        """As variables; an empty one is to botocore as if it was not there."""
        if self.credentials is not None:
            key, secret = self.credentials.access_key, self.credentials.secret_key
            return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        token = self.pod.directory / "web-identity"
        token.write_text(f"web-identity-of-{self.spec.name}")
        keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        return {**keys, "AWS_ROLE_ARN": self.role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}

    def shoot(self) -> None:
        """kill -9 it, if it runs; for any thread. `reap` does the rest."""
        if self.container is not None:
            self.forgetful |= self.unreliable
            self.shot = True
            self.container.kill()

    def reap(self) -> int | None:
        """Wait for the end of what was killed or told to stop; its exit code. Raises subprocess.TimeoutExpired."""
        if self.container is None:
            return None
        self.forgetful |= self.unreliable
        code = self.container.wait(DONE_WITHIN)
        self.container, self.shot = None, False
        return code

    def tell_to_stop(self) -> None:
        """SIGTERM, which one that is stopped by SIGSTOP gets too."""
        if self.container is not None:
            self.container.terminate()
            self.container.send_signal(signal.SIGCONT)

    def claims(self) -> dict[str, Any]:
        """What it has put down: address → claim."""
        directory = self.volume.seen_from_outside if self.volume else self.pod.directory / "state"
        try:
            found = json.loads((directory / "claims.json").read_text())["claims"]
        except FileNotFoundError:
            return {}
        return {claim["address"]: claim for claim in found}
