"""The lab with KUBECONFIG: a Kubernetes namespace of its own in a cluster that is there already, and nothing more.

(test_lease_port.py has what its workers may and can do there, and the faults on their ways.)
"""

from __future__ import annotations

import base64
import datetime
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from lab.kube import apiserver, keys
from lab.kube.api import Api, trusting
from tests.contract.kube_cluster import Cluster
from tests.contract.lease_worlds import NAME, NODES, InNamespace, KubeHost
from vipmanager.clients.kube import LeaseClient
from vipmanager.model_node import Lease

pytestmark = pytest.mark.namespaces

OURS = Lease(holder="node-a", duration=6, renewed="", transitions=0)
SECRET = "secret-of-the-test"
TERMINATING = "Terminating"
DEPLOYMENT = """
from lab.demo.nodeport import CONFIG, PORT, WORKERS
from lab.deployment import Deployment
from lab.lab import Lab
from tests.doubles.clock import until

with Lab(workers=WORKERS, kube=True) as lab:
    for worker in lab.workers.values():
        worker.serve_http(PORT)
    deployment = Deployment(lab, tuple(lab.workers), CONFIG)
    for worker in deployment.workers:
        deployment.start(worker)
    try:
        until(lambda: bool(deployment.holder()))
        holder = deployment.holder()
        until(lambda: deployment.stands_by(deployment.other(holder), holder))
    except AssertionError:
        raise SystemExit(deployment.logs())
    assert lab.kube.lease("vipmanager")["spec"]["holderIdentity"] == deployment.pods[holder]
    print(lab.kube.namespace)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if apiserver.assets() is None:
        pytest.skip("KUBEBUILDER_ASSETS is not set: make kube-assets")
    made = Cluster()
    yield made
    made.close()


def works(host: KubeHost) -> None:
    """A worker writes its Lease, and another one reads it."""
    a, b = (
        InNamespace(LeaseClient(host.kube.namespace, NAME, 5.0, environment=host.kube.env(node)), host.ns)
        for node in NODES
    )
    made = a.create(OURS)
    assert b.read() == made
    assert host.kube.lease(NAME) is not None


def test_a_deployment_holds_an_address_by_it(cluster: Cluster) -> None:
    """A process in the cluster's network, as a user's is; the workers are where they always are."""
    process = cluster.children.popen(
        cluster.ns,
        [sys.executable, "-c", DEPLOYMENT],
        cwd=Path(__file__).resolve().parents[2],
        env=cluster.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert cluster.namespaces()[said.strip()] == TERMINATING


def test_each_has_a_namespace_of_its_own_that_goes(cluster: Cluster) -> None:
    hosts = [cluster.host(), cluster.host(real=True)]
    names = [host.kube.namespace for host in hosts]
    try:
        assert len(set(names)) == 2
        for host in hosts:
            works(host)
            assert host.kube.version.endswith("of KUBECONFIG")
            assert host.kube.env("a")["POD_NAMESPACE"] == host.kube.namespace
            assert cluster.namespaces()[host.kube.namespace] == "Active"
    finally:
        for host in hosts:
            host.close()
    assert [cluster.namespaces()[name] for name in names] == [TERMINATING, TERMINATING]
    hosts[0].kube.close()  # again: nothing more to do


def test_it_goes_when_the_lab_fails_half_way(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(cluster.namespaces())
    monkeypatch.setattr("tests.contract.lease_worlds.NODES", ("a", "No_Name"))
    with pytest.raises(RuntimeError, match="vipmanager-No_Name"):
        cluster.host()
    left = {name: phase for name, phase in cluster.namespaces().items() if name not in before}
    assert list(left.values()) == [TERMINATING]


def test_a_cluster_that_is_gone_at_the_end(cluster: Cluster) -> None:
    host = cluster.host()
    kube = host.kube
    kube.backend.admin = Api(cluster.ns, ("127.0.0.1", 1), trusting(cluster.authority), "")
    with pytest.raises(RuntimeError, match=f"{kube.namespace} .* stays behind"):
        kube.close()
    host.close()


# How the user gets in -------------------------------------------------------------------------------------------------


def client_certificate(cluster: Cluster) -> tuple[Path, Path]:
    """An administrator's certificate, signed by what the API server knows, and its key."""
    authority = x509.load_pem_x509_certificate(cluster.authority.read_bytes())
    signing: Any = load_pem_private_key((cluster.directory / "tls.key").read_bytes(), None)
    key_file = cluster.directory / "user.key"
    key = keys.make_key(key_file)
    now = datetime.datetime.now(datetime.UTC)
    subject = [(NameOID.COMMON_NAME, "user"), (NameOID.ORGANIZATION_NAME, "system:masters")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in subject]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(signing, hashes.SHA256())
    )
    path = cluster.directory / "user.crt"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path, key_file


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def token(cluster: Cluster) -> str:
    return (cluster.directory / "token").read_text().strip()


def with_files(cluster: Cluster) -> Path:
    certificate, key = client_certificate(cluster)
    return cluster.write("files", {"client-certificate": certificate.name, "client-key": key.name})


def with_data(cluster: Cluster) -> Path:
    certificate, key = client_certificate(cluster)
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    return cluster.write("data", user, {"certificate-authority-data": encoded(cluster.authority)})


def with_another_name(cluster: Cluster) -> Path:
    known = {"certificate-authority": str(cluster.authority), "tls-server-name": "127.0.0.1"}
    return cluster.write("name", {"token": token(cluster)}, known, "https://localhost:6443/")


def without_verification(cluster: Cluster) -> Path:
    return cluster.write("insecure", {"token": token(cluster)}, {"insecure-skip-tls-verify": True})


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("made", [with_files, with_data, with_another_name, without_verification])
def test_ways_in(cluster: Cluster, made: Any) -> None:
    host = cluster.host(made(cluster))
    try:
        works(host)
        config = yaml.safe_load(Path(host.kube.env("a")["KUBECONFIG"]).read_text())
        assert set(config["users"][0]["user"]) == {"token"}, "a worker has its own rights only"
        assert config["users"][0]["user"]["token"] != token(cluster)
    finally:
        host.close()


# What cannot be used --------------------------------------------------------------------------------------------------


def refused(cluster: Cluster, kubeconfig: Path, why: str) -> None:
    before = cluster.namespaces()
    with pytest.raises(RuntimeError, match=why) as caught:
        cluster.host(kubeconfig)
    assert SECRET not in str(caught.value)
    assert cluster.namespaces() == before


PLUGINS: list[Mapping[str, Any]] = [
    {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false"}},
    {"auth-provider": {"name": "gcp", "config": {}}},
]


@pytest.mark.parametrize("user", PLUGINS)
def test_credential_plugins_are_not_run(cluster: Cluster, user: Mapping[str, Any]) -> None:
    refused(cluster, cluster.write("plugin", user), "credential plugin of user u; .* client certificate, a token")


def test_a_kubeconfig_that_is_none(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    refused(cluster, path, f"{path}: there is no such file")
    for text in ("", "[]", "a: [", f"users:\n- {SECRET}: [", "current-context: x"):
        path.write_text(text)
        refused(cluster, path, f"KUBECONFIG={path}")


def test_files_that_it_names_and_are_not_there(cluster: Cluster) -> None:
    refused(cluster, cluster.write("lost", {"client-certificate": "lost.crt", "client-key": "lost.key"}), "lost.crt")
    refused(cluster, cluster.write("lost", {"tokenFile": "lost.token"}), "lost.token")
    refused(cluster, cluster.write("lost", {"token": SECRET}, {"certificate-authority": "lost.ca"}), "lost.ca")


def test_a_cluster_that_is_not_what_it_says(cluster: Cluster) -> None:
    good = {"token": token(cluster)}
    refused(cluster, cluster.write("ca", good, {"certificate-authority": certifi.where()}), "(?i)certificate verify")
    known = {"certificate-authority": str(cluster.authority)}
    refused(cluster, cluster.write("gone", good, known, "https://127.0.0.1:1"), r"127.0.0.1:1: .*refused")
    refused(cluster, cluster.write("plain", good, known, "http://127.0.0.1:6443"), "is no https URL")


def test_a_user_without_rights(cluster: Cluster) -> None:
    refused(cluster, cluster.write("stranger", {"token": SECRET}), "401 Unauthorized")
    accounts = "/api/v1/namespaces/vipmanager/serviceaccounts"
    cluster.server.admin.expect("POST", accounts, {"metadata": {"name": "poor"}})
    answer = cluster.server.admin.expect("POST", f"{accounts}/poor/token", {"spec": {}})
    poor = cluster.write("poor", {"token": answer["status"]["token"]})
    refused(cluster, poor, "/api/v1/namespaces: 403 .*vipmanager:poor")


# Which API it is ------------------------------------------------------------------------------------------------------


def test_binaries_come_before_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(RuntimeError, match="KUBEBUILDER_ASSETS"):
        KubeHost(real=None)


def test_the_small_one_in_spite_of_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    host = KubeHost(real=False)
    assert host.kube.version == "test server for leases"
    host.close()
