"""The workers' ways to the lab's Kubernetes API, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import links
from lab.kube import apiserver, cluster, rbac
from lab.kube.labkube import LabKube
from lab.lab import Lab
from lab.netns import Namespace
from tests.contract.lease_worlds import NAME, InNamespace, KubeHost, Watching
from tests.doubles.clock import until
from vipmanager.clients.kube import LeaseClient
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model_node import Lease

pytestmark = pytest.mark.namespaces

OURS = Lease(holder="node-a", duration=6, renewed="", transitions=0)


@pytest.fixture(scope="module")
def shared() -> Iterator[KubeHost]:
    made = KubeHost(real=False)
    yield made
    made.close()


@pytest.fixture
def host(shared: KubeHost) -> KubeHost:
    shared.reset()
    return shared


def client(host: KubeHost, node: str, timeout: float = 5.0) -> InNamespace:
    return InNamespace(LeaseClient(host.kube.namespace, NAME, timeout, environment=host.kube.env(node)), host.ns)


def fails(call: Callable[..., object], *arguments: Any, **options: Any) -> None:
    with pytest.raises(CallError) as caught:
        call(*arguments, **options)
    assert caught.value.kind is ErrorKind.RETRY


def skip_without(real: bool) -> None:
    if real and apiserver.assets() is None and cluster.kubeconfig() is None:
        pytest.skip("neither KUBEBUILDER_ASSETS nor KUBECONFIG is set: make kube-assets")


def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBEBUILDER_ASSETS", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_faults_are_one_workers(host: KubeHost) -> None:
    a, b = client(host, "a", 0.5), client(host, "b")
    made = a.create(OURS)
    for fault in (host.kube.faults("a").hang, host.kube.faults("a").refuse):
        fault()
        fails(a.read)
        assert b.read() == made
    host.kube.faults("a").clear()
    assert a.read() == made


def test_all_ways_can_be_cut(host: KubeHost) -> None:
    ports = [client(host, node, 0.5) for node in "ab"]
    made = ports[0].create(OURS)
    assert ports[1].read() == made
    for refuse in (False, True):
        host.kube.cut_all(refuse=refuse)
        for port in ports:
            fails(port.read)
        assert host.kube.lease(NAME) is not None  # the API itself is there
        host.kube.restore_all()
        assert [port.read() for port in ports] == [made, made]


def test_what_was_sent_while_it_hung_arrives_afterwards(host: KubeHost) -> None:
    """As after a partition: a renewal may be stored long after its sender has given it up."""
    a, b = client(host, "a", 0.5), client(host, "b")
    made = a.create(OURS)
    host.kube.faults("a").hang()
    fails(a.update, made, renew=True)
    assert b.read() == made
    watching = Watching(b)
    host.kube.faults("a").clear()
    until(lambda: bool(watching.seen))
    late = watching.seen[0]
    assert late is not None
    assert late.renewed > made.renewed
    host.kube.faults("b").refuse()
    watching.wait_for_end()


def test_latency_is_a_round_trips(host: KubeHost) -> None:
    patient, impatient = client(host, "a", 20.0), client(host, "a", 0.3)
    made = patient.create(OURS)
    assert impatient.read() == made
    host.kube.faults("a").latency = 0.9
    fails(impatient.read)
    assert patient.read() == made


def test_an_open_watch_is_reset_when_connections_are_refused(host: KubeHost) -> None:
    made = client(host, "a").create(OURS)
    watching = Watching(client(host, "b"))
    watching.wait_for(made)
    host.kube.faults("b").refuse()
    error = watching.wait_for_end()
    assert error is not None
    assert error.kind is ErrorKind.RETRY


def test_others_may_write_and_delete_a_lease(host: KubeHost) -> None:
    assert host.kube.lease(NAME) is None
    host.kube.put_lease({"metadata": {"name": NAME}, "spec": {"holderIdentity": "somebody"}})
    found = client(host, "a").read()
    assert found is not None
    assert found.holder == "somebody"
    host.kube.delete_lease(NAME)
    host.kube.delete_lease(NAME)
    assert client(host, "a").read() is None


def test_a_worker_without_an_account(host: KubeHost) -> None:
    with pytest.raises(LookupError, match="no account for z"):
        host.kube.env("z")


def test_credentials_are_for_their_owner_only(host: KubeHost) -> None:
    for node in "ab":
        assert Path(host.kube.env(node)["KUBECONFIG"]).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("real", [False, True])
def test_nothing_of_it_stays(real: bool) -> None:
    skip_without(real)
    threads = set(threading.enumerate())
    host = KubeHost(real=real)
    scratch, inode = host.children.scratch, host.ns.inode
    watching = Watching(client(host, "a"))
    made = client(host, "b").create(OURS)
    watching.wait_for(made)
    host.close()
    host.kube.close()  # again: nothing more to do
    assert watching.wait_for_end() is not None
    assert not scratch.exists()
    until(lambda: set(threading.enumerate()) <= threads)
    until(lambda: f"net:[{inode}]" not in namespaces_in_use())


def namespaces_in_use() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal():
                found.add(str((entry / "ns/net").readlink()))
        except OSError:
            continue
    return found


def test_binaries_that_are_not_where_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(RuntimeError, match="make kube-assets"):
        KubeHost(real=True)
    nothing_is_set(monkeypatch)
    with pytest.raises(RuntimeError, match="make kube-assets"):
        KubeHost(real=True)


def test_which_api_server_it_is(monkeypatch: pytest.MonkeyPatch, host: KubeHost) -> None:
    nothing_is_set(monkeypatch)
    ns = Namespace("kube")
    links.set_up_host(ns)
    kube = LabKube(ns, host.children)
    assert kube.version == "test server for leases"
    kube.close()
    ns.close()


def test_the_rules_are_narrow() -> None:
    """What the manifest allows, and that it allows no more: the authorizer's decisions, as the lab makes them."""
    given = rbac.rules()
    for verb in ("get", "update", "watch"):
        assert rbac.allows(given, verb, NAME)
        assert not rbac.allows(given, verb, "another")
    assert rbac.allows(given, "create", "")
    for verb in ("delete", "list", "patch", "deletecollection"):
        assert not rbac.allows(given, verb, NAME)
    assert not rbac.allows(given, "get", NAME, group="", resource="secrets")


# In the lab -----------------------------------------------------------------------------------------------------------


def in_lab(lab: Lab, worker: str, timeout: float = 5.0) -> InNamespace:
    lease = LeaseClient(lab.kube.namespace, NAME, timeout, environment=lab.kube.env(worker))
    return InNamespace(lease, lab.workers[worker].ns)


@pytest.mark.parametrize("real", [False, True])
def test_workers_reach_it_until_they_are_cut_off(monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    skip_without(real)
    if not real:
        nothing_is_set(monkeypatch)
    with Lab(kube=True) as lab:
        made = in_lab(lab, "a").create(OURS)
        assert in_lab(lab, "b").read() == made
        lab.cut("a")
        fails(in_lab(lab, "a", 0.5).read)
        assert in_lab(lab, "b").read() == made
        lab.restore("a")
        until(lambda: reads(in_lab(lab, "a"), made))  # the link's carrier takes a moment


def reads(port: InNamespace, lease: Lease) -> bool:
    try:
        return port.read() == lease
    except CallError:
        return False


def test_a_lab_without_it() -> None:
    with Lab() as lab, pytest.raises(LookupError, match="kube=True"):
        lab.kube.cut_all()


@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user")
def test_the_real_one_works_without_privileges() -> None:
    if apiserver.assets() is None:
        pytest.skip("KUBEBUILDER_ASSETS is not set: make kube-assets")
    script = """
from lab import privileges
privileges.ensure()
from tests.contract.lease_worlds import KubeHost, KubeWorld
host = KubeHost(real=True)
print(KubeWorld(host).port("a").read())
host.close()
"""
    # Without capabilities, root is like anybody else; but it needs CAP_SETFCAP to be root in its user namespace too.
    ended = subprocess.run(
        ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "None\n"), ended.stderr
