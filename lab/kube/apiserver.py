"""The real thing: etcd and kube-apiserver, from $KUBEBUILDER_ASSETS, with the RBAC authorizer."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.children import Children
from lab.kube import keys, rbac
from lab.kube.accounts import Accounts
from lab.kube.api import Api, trusting
from lab.kube.backend import NAMESPACE, SERVER_ADDRESS, cluster_at
from lab.netns import Namespace

_ETCD = "http://127.0.0.1:2379"
_PORT = 6443
_READY_WITHIN = 60.0  # seconds; 3 on an idle machine


def assets() -> Path | None:
    """Where the binaries are, as envtest lays them out; None where it is not said. Raises RuntimeError."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if not given:
        return None
    for name in ("etcd", "kube-apiserver"):
        if not os.access(Path(given) / name, os.X_OK):
            raise RuntimeError(f"KUBEBUILDER_ASSETS={given} has no {name}; make kube-assets builds it")
    return Path(given)


class ApiServer:
    """One etcd and one kube-apiserver on the loopback of a namespace. See Backend."""

    namespace = NAMESPACE

    def __init__(
        self,
        ns: Namespace,
        children: Children,
        binaries: Path,
        directory: Path,
        addresses: Sequence[str] = (SERVER_ADDRESS, "127.0.0.1"),
    ) -> None:
        """Start both and wait until they answer. Raises RuntimeError with the end of the log.

        `addresses`: what its certificate is for.
        """
        self.ns = ns
        self._logs = {name: directory / f"{name}.log" for name in ("etcd", "kube-apiserver")}
        self.authority, tls_key = keys.make_certificate(directory, addresses)
        keys.make_key(directory / "accounts.key")
        token = secrets.token_urlsafe(24)
        users = directory / "users.csv"
        users.write_text(f'{token},admin,admin,"system:masters"\n')
        users.chmod(0o600)
        self.address = ("127.0.0.1", _PORT)
        self.admin = Api(ns, self.address, trusting(self.authority), f"Bearer {token}")
        self._accounts = Accounts(self.admin, self.namespace)
        self._processes = [
            _start(ns, children, self._logs["etcd"], [str(binaries / "etcd"), *_etcd_flags(directory)]),
            _start(
                ns,
                children,
                self._logs["kube-apiserver"],
                [str(binaries / "kube-apiserver"), *_api_flags(directory, self.authority, tls_key, users)],
            ),
        ]
        try:
            self._wait_until_ready()
            self.version = str(self.admin.expect("GET", "/version")["gitVersion"])
            self.admin.expect("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        except BaseException:
            self.close()
            raise

    def cluster(self, address: tuple[str, int]) -> Mapping[str, object]:
        """See Backend."""
        return cluster_at(address, self.authority)

    def token(self, worker: str) -> str:
        """See Backend."""
        return self._accounts.token(worker)

    def make_pod(self, name: str, owner: str) -> str:
        """See Backend."""
        return self._accounts.make_pod(name, owner)

    def pod_token(self, owner: str, pod: str, uid: str) -> str:
        """See Backend."""
        return self._accounts.pod_token(owner, pod, uid)

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """See Backend."""
        self._accounts.allow(worker, rules)

    def close(self) -> None:
        """See Backend. Killed: on SIGTERM the API server would wait for its watches to end."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _READY_WITHIN
        said = ""
        while True:
            try:
                status, answer = self.admin.request("GET", "/readyz")
                if status == 200:
                    return
                said = str(answer.get("message"))
            except OSError as error:
                said = str(error)
            ended = [name for name, process in zip(self._logs, self._processes, strict=True) if process.poll()]
            if ended or time.monotonic() > end:
                raise RuntimeError(f"the Kubernetes API does not come up: {said}\n{self._last_words(ended)}")
            time.sleep(0.05)

    def _last_words(self, ended: list[str]) -> str:
        return "\n".join(self._logs[name].read_text(errors="replace")[-2000:] for name in ended or self._logs)


def _start(ns: Namespace, children: Children, log: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    with open(log, "wb") as output:
        return children.popen(ns, argv, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _etcd_flags(directory: Path) -> list[str]:
    return [
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]


def _api_flags(directory: Path, certificate: Path, key: Path, users: Path) -> list[str]:
    accounts = directory / "accounts.key"
    return [
        f"--etcd-servers={_ETCD}",
        "--bind-address=127.0.0.1",
        f"--secure-port={_PORT}",
        f"--advertise-address={SERVER_ADDRESS}",  # without it a default route is looked for
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={accounts}",
        f"--service-account-signing-key-file={accounts}",
        f"--token-auth-file={users}",
        f"--client-ca-file={certificate}",
        "--anonymous-auth=false",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",  # it waits for what a controller would make
        "--service-cluster-ip-range=10.0.0.0/24",
    ]
