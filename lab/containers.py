"""vipmanager as a container runtime runs it: in a pod, or on the host network of a worker."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.children import Children
from lab.environment import without_aws
from lab.host import Host
from lab.kube.incluster import InCluster
from lab.mounts import service_account


class Container:
    """A process whose output, both streams, goes to a file, as a container runtime keeps it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs (or nobody has called poll() or wait() since)."""
        return self.process.returncode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM), as Kubernetes does first."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self.process.kill()

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")


def _outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, without what would lead to AWS, or (where the lab runs in a pod) to that pod's cluster."""
    return {
        name: value
        for name, value in without_aws(environment).items()
        if not name.startswith(("KUBERNETES_SERVICE_", "POD_"))
    }


class ContainerHost(Host):
    """Where vipmanager runs."""

    def __init__(self, name: str, children: Children) -> None:
        super().__init__(name, children)
        # New for each pod, like an emptyDir, but kept until the lab ends: for the logs.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=children.scratch))
        self.env["StateDir"] = str(self.directory / "state")
        self.account: InCluster | None = None
        self._runs = itertools.count(1)

    def vipmanager(
        self,
        arguments: Sequence[str],
        config: Mapping[str, object],
        extra_env: Mapping[str, str] | None = None,
        *,
        inside: Sequence[str] = (),
        account: InCluster | None = None,
    ) -> Container:
        """Start `python -m vipmanager ARGUMENTS` here with the configuration in its environment, as envFrom puts it.

        `inside`: what it is a command line of, e.g. `Volume.command`. `account`: the service account that it finds, if
        not the host's own.
        """
        account = account or self.account
        given = {key: str(value) for key, value in config.items()}
        log = self.directory / f"vipmanager-{next(self._runs)}.log"
        with open(log, "wb") as output:
            process = self.popen(
                [*inside, sys.executable, "-m", "vipmanager", *arguments],
                prepare=service_account(account.directory) if account else None,
                env={
                    **_outside(os.environ),
                    **self.env,
                    **(account.env if account else {}),
                    **given,
                    **(extra_env or {}),
                },
                cwd=self.directory,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return Container(process, log)
