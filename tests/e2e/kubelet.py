"""The kubelet's part: runs a workload's pod in a namespace of the lab, with podman, as its manifest says."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.containers import ContainerHost
from lab.kube.incluster import InCluster
from lab.mounts import SERVICE_ACCOUNT
from tests.e2e.image import Images
from tests.e2e.manifests import Objects, environment, is_ours, memory
from tests.e2e.podman import environment as podmans_own
from tests.e2e.podman import podman, run_command, run_options

_INIT_ENDS_WITHIN = 120.0  # seconds
_READY_WITHIN = 60.0
_STOPS_WITHIN = 30
_names = itertools.count(1)


class PodError(RuntimeError):
    """A container did not do what the manifest asks of it; the text has its log."""


def until(what: str, condition: Callable[[], object], within: float = _READY_WITHIN) -> float:
    """Wait for a condition; how many seconds that took. Raises PodError."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + within:
            raise PodError(f"not within {within:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - started


class KubePod:
    """A pod's containers, in the namespace of `host`: a pod of the lab or, for the host network, a worker."""

    def __init__(
        self,
        host: ContainerHost,
        address: str,
        workload: Mapping[str, Any],
        objects: Objects,
        images: Images,
        fields: Mapping[str, str],
        *,
        extra_env: Mapping[str, str] | None = None,
        account: InCluster | None = None,
        notes: set[str],
    ) -> None:
        """Nothing runs before start(). `address` is the pod's, for its probes; `extra_env` stands for the account."""
        self.spec: dict[str, Any] = workload["spec"]["template"]["spec"]
        self._host, self._address = host, address
        self._objects, self._images, self._fields = objects, images, fields
        self._account, self._notes = account, notes
        aws = {name: value for name, value in host.env.items() if name.startswith("AWS_")}
        self._extra = {**aws, **(account.env if account else {}), **(extra_env or {})}
        self._running: list[str] = []  # names, in the order of their start
        self._ours: set[str] = set()
        self.names: dict[str, str] = {}  # in the manifest → podman's
        self._volumes = {volume["name"]: self._make_volume(volume) for volume in self.spec.get("volumes", ())}

    @property
    def watches(self) -> bool:
        """Whether a container of vipmanager's runs (an init container has ended)."""
        return any(name in self._ours for name in self._running)

    def start(self) -> None:
        """Init containers in order, sidecars among them as soon as they have started; then the others. PodError."""
        for container in self.spec.get("initContainers", ()):
            if container.get("restartPolicy") == "Always":
                self._start(container)
                self._probe(container, "startupProbe")
            else:
                self._run_to_end(container)
        for container in self.spec["containers"]:
            self._start(container)
        for container in self.spec["containers"]:
            self._probe(container, "readinessProbe")
        for container in (*self.spec.get("initContainers", ()), *self.spec["containers"]):
            self._probe(container, "livenessProbe")

    def stop(self) -> None:
        """Stop the containers, the last one first, as a pod that is deleted. Raises PodError for one that had died."""
        for name in reversed(self._running):
            if podman("inspect", "--format={{.State.Running}}", name) != "true":
                raise PodError(f"{name} has ended: {self._log(name)}")
            if name not in self._ours:  # what stands in does not listen to SIGTERM
                podman("kill", "--signal=KILL", name)
                continue
            podman("stop", f"--time={_STOPS_WITHIN}", name)
            code = podman("inspect", "--format={{.State.ExitCode}}", name)
            if code != "0":
                raise PodError(f"{name} ended with {code}: {self._log(name)}")
        self.remove()

    def kill(self) -> None:
        """Let the containers die at once, as with their node."""
        for name in self._running:
            podman("kill", "--signal=KILL", name)
        self.remove()

    def remove(self) -> None:
        """Remove what is left of the containers."""
        for name in self._running:
            podman("rm", "--force", "--time=0", name)
        self._running.clear()

    def logs(self, container: str) -> str:
        """What a container has said, by its name in the manifest."""
        return self._log(self.names[container])

    def get(self, port: int, path: str) -> tuple[int, str]:
        """Ask the pod by HTTP: status, text; status 0 where nothing answers."""

        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection(self._address, port, timeout=1.0)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""
            finally:
                connection.close()

        return self._host.ns.run(ask)

    def ports(self) -> list[int]:
        """Those that vipmanager serves health and metrics on; none for an init container."""
        containers = (*self.spec.get("initContainers", ()), *self.spec["containers"])
        return [port["containerPort"] for each in containers if is_ours(each) for port in each.get("ports", ())]

    def _make_volume(self, volume: Mapping[str, Any]) -> str:
        if "emptyDir" not in volume:
            raise PodError(f"no such volume can be made here: {volume}")
        folder = self._host.directory / f"volume-{volume['name']}-{next(_names)}"
        folder.mkdir()
        folder.chmod(0o777)  # as the kubelet makes an emptyDir
        return str(folder)

    def _run_to_end(self, container: Mapping[str, Any]) -> None:
        name = self._podman_run(container)
        try:
            said = podman("wait", name, within=_INIT_ENDS_WITHIN)
        finally:
            self._running.append(name)
        if said != "0":
            raise PodError(f"init container {container['name']} ended with {said}: {self._log(name)}")
        self._running.remove(name)

    def _start(self, container: Mapping[str, Any]) -> None:
        self._running.append(self._podman_run(container))

    def _podman_run(self, container: Mapping[str, Any]) -> str:
        name = f"vipmanager-e2e-{self._host.name}-{container['name']}-{next(_names)}"
        self.names[container["name"]] = name
        image = self._images.name if is_ours(container) else self._images.base
        if is_ours(container):
            self._ours.add(name)
        else:
            self._notes.add(f"{container['image']} cannot be fetched: the base image stands in")
        options = [*run_options(self._images.base), f"--name={name}", "--detach", "--network=host", "--no-hosts"]
        options += [*self._security(container), *self._resources(container), *self._mounts(container)]
        variables = {**self._extra, **environment(container, self._objects, self._fields)}
        options += [f"--env={key}={value}" for key, value in sorted(variables.items())]
        if "command" in container:
            options.append(f"--entrypoint={json.dumps(container['command'])}")
        argv = ["podman", *run_command(options), image, *container.get("args", ())]
        process = self._host.popen(argv, env=podmans_own(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = str(process.communicate(timeout=60)[0])
        if process.returncode != 0:
            raise PodError(f"{container['name']} did not start: {said}")
        return name

    def _security(self, container: Mapping[str, Any]) -> list[str]:
        merged = self._merged(container)
        user = merged.get("runAsUser")
        if merged.get("runAsNonRoot") and (user == 0 or (user is None and not is_ours(container))):
            raise PodError(f"{container['name']}: runAsNonRoot, but it is root")
        options = [] if user is None else [f"--user={user}:{merged.get('runAsGroup', 0)}"]
        if merged.get("allowPrivilegeEscalation") is False:
            options.append("--security-opt=no-new-privileges")
        if merged.get("readOnlyRootFilesystem"):
            options += ["--read-only", "--read-only-tmpfs=false"]
        capabilities = merged.get("capabilities", {})
        options += [f"--cap-drop={each}" for each in capabilities.get("drop", ())]
        return options + [f"--cap-add={each}" for each in capabilities.get("add", ())]

    def _merged(self, container: Mapping[str, Any]) -> dict[str, Any]:
        """The container's security context, which prevails over the pod's."""
        return {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}

    def _resources(self, container: Mapping[str, Any]) -> list[str]:
        limits = container.get("resources", {}).get("limits", {})
        options = [f"--cpus={limits['cpu']}"] if "cpu" in limits else []
        if "memory" in limits:
            size = memory(limits["memory"])
            options += [f"--memory={size}", f"--memory-swap={size}"]
        return options

    def _mounts(self, container: Mapping[str, Any]) -> list[str]:
        options = [
            f"--volume={self._volumes[each['name']]}:{each['mountPath']}{':ro' if each.get('readOnly') else ''}"
            for each in container.get("volumeMounts", ())
        ]
        if authorities := self._extra.get("AWS_CA_BUNDLE"):  # the lab's EC2 has a certificate of its own
            options.append(f"--volume={authorities}:{authorities}:ro")
        if self._account is not None:
            self._give_token(container, self._account.directory)
            options.append(f"--volume={self._account.directory}:{SERVICE_ACCOUNT}:ro")
        return options

    def _give_token(self, container: Mapping[str, Any], directory: Path) -> None:
        """The token is owned by the one user of the pod's containers, and only that user may read it.

        https://kubernetes.io/docs/concepts/storage/projected-volumes/#securitycontext-interactions
        """
        user = int(self._merged(container).get("runAsUser", 0))
        for path in (directory, *directory.iterdir()):
            os.chown(path, user, user)

    def _probe(self, container: Mapping[str, Any], kind: str) -> None:
        """Wait until a probe is content. (Its own periods and thresholds are Kubernetes' affair.)"""
        if kind not in container:
            return
        get = container[kind]["httpGet"]
        ports = {each.get("name"): each["containerPort"] for each in container.get("ports", ())}
        port = ports.get(get["port"], get["port"])
        name = self.names[container["name"]]
        try:
            until(f"{kind} of {container['name']}", lambda: self._answers(port, get.get("path", "/"), name))
        except PodError as error:
            raise PodError(f"{error}\n{self._log(name)}") from None

    def _answers(self, port: int, path: str, name: str) -> bool:
        if podman("inspect", "--format={{.State.Running}}", name) != "true":
            raise PodError(f"{name} has ended")
        return 200 <= self.get(port, path)[0] < 400

    def _log(self, name: str) -> str:
        said = subprocess.run(
            ["podman", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return said.stdout[-6000:]
