"""The real EC2 client over TLS, as it reaches AWS: verified as always, and at no cost for each connection."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.ec2 import certificate
from lab.ec2.server import LabEc2
from tests.contract.ec2_fixtures import REGION, point_sdk_at
from vipmanager.clients.ec2 import Ec2Client
from vipmanager.errors import CallError, ErrorKind

AT_ONCE = 8


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabEc2]:
    """The lab's EC2 with a certificate of its own, and an SDK that is told to trust it."""
    context, bundle = certificate.make(tmp_path, "127.0.0.1")
    with LabEc2(REGION) as ec2:
        ec2.serve("127.0.0.1", tls=context)
        point_sdk_at(monkeypatch, ec2.url, ec2.keys.base.access_key, ec2.keys.base.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        yield ec2


def test_connections_share_the_authorities_they_load(endpoint: LabEc2, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = ssl.SSLContext.load_verify_locations

    def counting(context: ssl.SSLContext, *arguments: Any, **more: Any) -> None:
        loaded.append(threading.current_thread().name)
        load(context, *arguments, **more)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counting)
    client = Ec2Client(lambda: REGION)
    endpoint.latency = 0.2  # long enough for all of them to be under way at once, each on a connection of its own
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(client.subnets, ["vpc-1"] * AT_ONCE)) == [()] * AT_ONCE
    assert len(endpoint.calls) == AT_ONCE
    assert len(loaded) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(endpoint: LabEc2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(CallError) as caught:
        Ec2Client(lambda: REGION).subnets("vpc-1")
    assert (caught.value.kind, caught.value.failure.code) == (ErrorKind.RETRY, "SSLError")
    assert not endpoint.calls
