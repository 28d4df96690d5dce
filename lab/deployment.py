"""A Deployment of `vipmanager nodeport`: pods on the host network of workers, in all their lives."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.containers import Container
from lab.kube.incluster import InCluster
from lab.lab import Lab

PORT = 30007
"""Where each worker answers HTTP with its name, as a NodePort would."""


class Deployment:
    """At most one pod on each worker, as its anti-affinity has it. Nothing runs before start().

    Each worker's pods have AWS credentials of their own, so that their calls can be told apart: `keys`.
    """

    def __init__(
        self,
        lab: Lab,
        workers: Sequence[str],
        config: Mapping[str, object],
        name: str = "np",
        *,
        in_cluster: bool = False,
    ) -> None:
        """`config`: the ConfigMap; `name` begins the pods' names, and tells Deployments on one worker apart.

        `in_cluster`: they reach the Kubernetes API as a pod does, by the service account of their worker, and not by
        KUBECONFIG.
        """
        self.accounts: dict[str, InCluster] = {}  # worker → that of the pod
        self.workers = tuple(workers)
        self.pods: dict[str, str] = {}  # worker → name
        self.runs: dict[str, Container] = {}  # worker → the pod's container, or the last one
        self.keys: dict[str, str] = {}  # worker → access key
        self._lab = lab
        self._name = name
        self._in_cluster = in_cluster
        self._config = dict(config)
        self._numbers = itertools.count(1)
        self._env: dict[str, dict[str, str]] = {}
        for worker in workers:
            user = lab.ec2.keys.add_user(f"{name}-{worker}")
            self.keys[worker] = user.access_key
            aws = {"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key}
            kube = {"POD_NAMESPACE": lab.kube.namespace} if in_cluster else lab.kube.env(worker)
            self._env[worker] = {**kube, **aws, "NODE_NAME": worker}

    def start(self, worker: str) -> Container:
        """Start a new pod there, with an emptyDir for its state."""
        self.pods[worker] = f"{self._name}-{worker}{next(self._numbers)}"
        if self._in_cluster:
            self.accounts[worker] = self._lab.kube.pod(self.pods[worker], worker, owner=worker)
        shutil.rmtree(self._state(worker), ignore_errors=True)
        return self.restart(worker)

    def restart(self, worker: str) -> Container:
        """Start the container of a pod (again), as the kubelet does when it has ended."""
        env = {**self._env[worker], "POD_NAME": self.pods[worker]}
        self.runs[worker] = self._lab.workers[worker].vipmanager(
            ["nodeport"], self._settings(worker), env, account=self.accounts.get(worker)
        )
        return self.runs[worker]

    def command(self, worker: str, *arguments: str) -> Container:
        """Start another vipmanager in the pod, as `kubectl exec` would."""
        return self._lab.workers[worker].vipmanager(arguments, self._settings(worker))

    def other(self, worker: str) -> str:
        """The other one of two workers."""
        return next(each for each in self.workers if each != worker)

    def status(self, worker: str) -> dict[str, Any]:
        """What the running container says of itself; empty while it has said nothing, or when it has ended."""
        run = self.runs.get(worker)
        try:
            found: dict[str, Any] = json.loads((self._state(worker) / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if run is not None and run.poll() is None and found["pid"] == run.pid else {}

    def has_all(self, worker: str) -> bool:
        """Whether it holds, and everything is delivered."""
        status = self.status(worker)
        return status.get("role") == "MASTER" and all(item["state"] == "delivered" for item in status["floating"])

    def holder(self) -> str:
        """The worker whose pod has everything; empty while there is none."""
        return next((worker for worker in self.workers if self.has_all(worker)), "")

    def stands_by(self, worker: str, holder: str) -> bool:
        """Whether it knows that the other one holds, and could take over."""
        status = self.status(worker)
        return status.get("role") == "BACKUP" and status["holder"] == self.pods[holder] and not status["health"]

    def logs(self) -> str:
        """What the last container of each pod has logged."""
        return "\n".join(f"--- {self.pods[worker]}\n{run.output()}" for worker, run in self.runs.items())

    def _state(self, worker: str) -> Path:
        return self._lab.workers[worker].directory / f"state-{self._name}"

    def _settings(self, worker: str) -> dict[str, object]:
        return {**self._config, "StateDir": self._state(worker)}
