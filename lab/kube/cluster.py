"""A cluster that is there already, as $KUBECONFIG says: the lab has a Kubernetes namespace of its own in it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lab.kube import rbac
from lab.kube.accounts import Accounts
from lab.kube.api import Api
from lab.netns import Namespace, Surroundings

LABEL = {"app.kubernetes.io/managed-by": "vipmanager-lab"}
"""Of the namespaces, for when a lab is killed: the kernel does not tidy up in a cluster."""
_TIMEOUT = 10.0  # seconds
_HINT = "run as an ordinary user, the lab has no network besides its own"


def kubeconfig() -> str | None:
    """The user's kubeconfig; None where none is set. (~/.kube/config is not meant by not saying so.)"""
    return os.environ.get("KUBECONFIG") or None


@dataclass(frozen=True)
class Access:
    """How the user reaches the cluster. `authorization` is the header, empty with a client certificate."""

    host: str
    port: int
    base: str
    name: str  # that its certificate is for
    authority: Path
    verified: bool
    context: ssl.SSLContext
    authorization: str


class ExistingCluster:
    """An API server that others run, reached from the network that the lab is made in. See Backend."""

    def __init__(self, given: str, directory: Path) -> None:
        """Make the namespace. `given`: as in KUBECONFIG; files go to `directory`. Raises RuntimeError."""
        self._access = access = read(given, directory)
        self.authority = access.authority
        self.namespace = f"vipmanager-lab-{secrets.token_hex(4)}"
        self.ns: Namespace = Surroundings("surroundings")
        self._made = False
        try:
            self.address = self.ns.run(lambda: _address(access))
            self.admin = Api(
                self.ns, self.address, access.context, access.authorization, name=access.name, base=access.base
            )
            self.version = f"{self.admin.expect('GET', '/version')['gitVersion']}, of KUBECONFIG"
            self._made = True  # also if the answer to this does not come:
            self.admin.expect("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": LABEL}})
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                raise RuntimeError(f"KUBECONFIG={given}: {access.host}:{access.port}: {error} ({_HINT})") from error
            raise
        self._accounts = Accounts(self.admin, self.namespace)

    def cluster(self, address: tuple[str, int]) -> Mapping[str, object]:
        """See Backend: there it is still known by its own name."""
        host, port = address
        known: Mapping[str, object] = (
            {"certificate-authority": str(self.authority)}
            if self._access.verified
            else {"insecure-skip-tls-verify": True}
        )
        return {"server": f"https://{host}:{port}{self._access.base}", "tls-server-name": self._access.name, **known}

    def token(self, worker: str) -> str:
        """See Backend."""
        return self._accounts.token(worker)

    def make_pod(self, name: str, owner: str) -> str:
        """See Backend. Raises RuntimeError: pods know the API by an address that its certificate is not for."""
        raise RuntimeError("pods with a service account need the lab's own Kubernetes API: unset KUBECONFIG")

    def pod_token(self, owner: str, pod: str, uid: str) -> str:
        """See make_pod()."""
        return self.make_pod(pod, owner)

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """See Backend."""
        self._accounts.allow(worker, rules)

    def close(self) -> None:
        """Delete the namespace; what is in it goes with it. May be called again. Raises RuntimeError."""
        made, self._made = self._made, False
        try:
            if made:
                self._delete()
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"the namespace {self.namespace} of KUBECONFIG's cluster stays behind: {error}"
            ) from error
        finally:
            self.ns.close()

    def _delete(self) -> None:
        path = f"/api/v1/namespaces/{self.namespace}"
        status, answer = self.admin.request("DELETE", path)
        if status not in (200, 202, 404):
            raise RuntimeError(f"DELETE {path}: {status} {answer.get('message')}")

    def _abandon(self) -> None:
        """Close, where something else is being told already."""
        with contextlib.suppress(RuntimeError):
            self.close()


def read(given: str, directory: Path) -> Access:
    """What a kubeconfig's current context says; its authority goes to a file in `directory`. Raises RuntimeError."""
    from kubernetes.config.config_exception import ConfigException

    try:
        found = _configuration(given)
        url = urlsplit(found.host)
        if url.scheme != "https" or not url.hostname:
            raise ValueError(f"{found.host} is no https URL")
        authority = directory / "cluster-ca.crt"
        authority.write_bytes(Path(found.ssl_ca_cert or _usual_authorities()).read_bytes())
        context = _context(found, authority)
    except yaml.YAMLError:  # its text may quote a token
        raise RuntimeError(f"KUBECONFIG={given} is no YAML") from None
    except (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"KUBECONFIG={given}: {error}") from error
    return Access(
        host=url.hostname,
        port=url.port or 443,
        base=url.path.rstrip("/"),
        name=found.tls_server_name or url.hostname,
        authority=authority,
        verified=bool(found.verify_ssl),
        context=context,
        authorization=found.api_key.get("BearerToken", "").strip(),
    )


def _configuration(given: str) -> Any:
    """A kubernetes.client.Configuration with what the kubeconfig says."""
    from kubernetes import client
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

    merged = KubeConfigMerger(given).config
    if merged is None:
        raise ValueError("there is no such file")
    loader = KubeConfigLoader(merged, config_base_path=None)  # None: paths are relative to the file they are in
    name = loader.current_context["context"].get("user")
    user = merged["users"].get_with_name(name, safe=True)
    if user is not None and (user.value.get("user") or {}).keys() & {"exec", "auth-provider"}:
        raise ValueError(
            f"the lab does not run the credential plugin of user {name}; it takes a client certificate, a token or a "
            "tokenFile (kubectl create token makes one)"
        )
    configuration = client.Configuration()
    loader.load_and_set(configuration)
    return configuration


def _context(found: Any, authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if found.cert_file:
        context.load_cert_chain(found.cert_file, found.key_file)
    return context


def _usual_authorities() -> str:
    """Where a kubeconfig names none, the server's certificate is one that everybody knows."""
    import certifi

    return certifi.where()


def _address(access: Access) -> tuple[str, int]:
    """The address that answers, by number: the workers' proxies ask no DNS."""
    with socket.create_connection((access.host, access.port), _TIMEOUT) as connection:
        host, port, *_ = connection.getpeername()
    return host, port
