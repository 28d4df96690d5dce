"""What the kubelet puts into a pod, so that it finds the API and may speak to it."""

from __future__ import annotations

from pathlib import Path

from lab.kube.backend import Backend
from lab.kube.proxy import Faults


class InCluster:
    """A Pod of the API with a service account: `env` and `directory` are for its containers.

    There is no kubelet, so that it is a Pod in name only; its processes are the lab's.
    """

    def __init__(self, backend: Backend, way: Faults, owner: str, name: str, directory: Path) -> None:
        """`owner` is whose account it has, a worker's or a pod's; `way` leads to the API."""
        self.name = name
        self.way = way
        self.directory = directory
        self.uid = backend.make_pod(name, owner)
        self._backend = backend
        self._owner = owner
        host, port = way.address
        self.env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
        directory.mkdir(mode=0o700)
        (directory / "ca.crt").write_bytes(backend.authority.read_bytes())
        (directory / "namespace").write_text(backend.namespace)
        self.rotate()

    @property
    def token(self) -> str:
        """The token as it is now."""
        return self._path.read_text()

    def rotate(self) -> None:
        """Replace the token by a new one, as the kubelet does; the old one goes on being accepted."""
        new = self._path.with_name("token.new")
        new.touch(mode=0o600)
        new.write_text(self._backend.pod_token(self._owner, self.name, self.uid))
        new.replace(self._path)

    @property
    def _path(self) -> Path:
        return self.directory / "token"
