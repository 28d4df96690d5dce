"""Fixtures for the suites of the EC2 port: accounts of the lab at one endpoint, and real clients for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab.ec2.auth import Credentials
from lab.ec2.server import LabEc2
from lab.ec2.web import Handler, Server
from tests.contract.ec2_worlds import QUOTAS
from vipmanager.clients import ec2_model
from vipmanager.clients.ec2 import Ec2Client

MakeClient = Callable[..., Any]
REGION = "us-east-2"
KEY = Credentials("AKIALABLABLABLABLAB", "not-a-secret", "arn:aws:iam::123456789012:user/contract", "AIDALAB")


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    """A monkeypatch that lasts for the module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def endpoint(module_patch: pytest.MonkeyPatch) -> int:
    """A port for the lab's EC2, and an environment in which the SDK finds it and nothing else."""
    with LabEc2() as ec2:
        ec2.serve("127.0.0.1")
        port = ec2.port
    point_sdk_at(module_patch, f"http://127.0.0.1:{port}", KEY.access_key, KEY.secret_key)
    return port


@pytest.fixture
def account(endpoint: int) -> Iterator[LabEc2]:
    """A new account at that endpoint. Clients may outlive it: making one takes half a second."""
    with LabEc2(REGION, quotas=QUOTAS) as ec2:
        ec2.keys.add(KEY)
        ec2.serve("127.0.0.1", endpoint)
        yield ec2


def point_sdk_at(patch: pytest.MonkeyPatch, url: str, access_key: str, secret_key: str) -> None:
    """Let the SDK's own settings name this endpoint and these credentials, and no others."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        patch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, "/dev/null")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.setenv("AWS_ACCESS_KEY_ID", access_key)
    patch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    patch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep the credentials that another test had


@pytest.fixture(scope="module")
def trimmed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cut-down model, made from the installed botocore; used from now on in this module."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ec2_model, "model_path", lambda: folder)
        assert ec2_model.build() == folder
    return folder


@pytest.fixture(scope="module")
def make_client(endpoint: int, trimmed_model: Path) -> MakeClient:
    """Makes real clients; with the cut-down model unless it is told `trimmed=False`."""

    def make(role_arn: str = "", *, trimmed: bool = True, kind: type[Ec2Client] = Ec2Client, **more: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ec2_model, "model_path", lambda: trimmed_model if trimmed else trimmed_model / "none")
            client = kind(lambda: REGION, role_arn, **more)
            client.warm_up()
        return client

    return make


class Canned:
    """Answers every request with one text."""

    def __init__(self) -> None:
        self.status, self.text = 200, ""
        self.server = Server(("127.0.0.1", 0), _CannedHandler, self)


class _CannedHandler(Handler):
    def do_POST(self) -> None:
        self.body()
        self.answer(self.owner.status, self.owner.text.encode(), "text/xml")


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canned]:
    made = Canned()
    point_sdk_at(monkeypatch, f"http://127.0.0.1:{made.server.port}", "AKIA", "secret")
    yield made
    made.server.stop()
