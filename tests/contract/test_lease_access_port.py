"""What LeaseAccessClient is told, by each API server that the lab can have, of what a worker may do with its Lease."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.lease_worlds import NAME, InNamespace, KubeWorld
from tests.contract.test_lease_client_port import Canned
from tests.contract.test_lease_port import existing, real, served, small
from tests.doubles.clock import BOUND
from vipmanager.clients.kube_access import CALL, LeaseAccessClient
from vipmanager.doctor.node import VERBS
from vipmanager.errors import CallError, ErrorKind
from vipmanager.ports import LeaseAccessPort

__all__ = ["existing", "real", "served", "small"]


def access(world: KubeWorld, name: str = NAME) -> LeaseAccessPort:
    """A client of worker `a`."""
    return LeaseAccessClient(world.kube.namespace, name, BOUND, environment=world.kube.env("a"))


def may(world: KubeWorld, name: str = NAME) -> set[str]:
    """The verbs that are allowed."""
    port = access(world, name)
    return world.host.ns.run(lambda: {verb for verb in VERBS if port.may(verb)})


def test_the_rights_of_the_manifest_are_all_that_an_elector_needs(served: KubeWorld) -> None:
    assert may(served) == set(VERBS)
    assert InNamespace(access(served), served.host.ns).read() is None, "asking has made nothing"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_asked_for_by_itself(served: KubeWorld, verb: str) -> None:
    served.kube.grant("a", without=[verb])
    assert may(served) == set(VERBS) - {verb}


def test_the_rights_are_for_leases_of_one_name(served: KubeWorld) -> None:
    """But for create, which has none."""
    assert may(served, "another") == {"create"}


def test_without_rights_it_may_be_asked_all_the_same(served: KubeWorld) -> None:
    served.kube.revoke("a")
    assert may(served) == set()


def test_an_answer_that_is_no_review(tmp_path: Path) -> None:
    server = Canned(tmp_path)
    try:
        port = LeaseAccessClient("ns", NAME, BOUND, environment={"KUBECONFIG": str(tmp_path / "kubeconfig")})
        for body in ("{}", json.dumps({"status": {"allowed": "yes"}}), "<html>"):
            server.body = body
            with pytest.raises(CallError) as raised:
                port.may("get")
            assert (raised.value.kind, raised.value.failure.code) == (ErrorKind.RETRY, "BadAnswer")
        server.status(403, "Forbidden")
        with pytest.raises(CallError) as raised:
            port.may("get")
        assert (raised.value.kind, raised.value.failure.call) == (ErrorKind.DENIED, CALL)
    finally:
        server.close()
