"""No secret is shown: real processes with every kind of credentials, on good days and bad ones, and all they wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.ec2.auth import Credentials
from lab.ec2.web import Handler, Server
from lab.kube import apiserver, cluster
from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.support import Run, start, until
from tests.scenario.test_health import inside

pytestmark = pytest.mark.namespaces

ONE, TWO, THREE, FOUR, FIVE = (f"192.168.0.{number}" for number in range(1, 6))
ROLE = "arn:aws:iam::123456789012:role/route-tables"
SHOWN = 12
"""Characters of a secret that are enough to find it by."""

SITE = '''
import os, sys
from pathlib import Path

audit = os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def hook(event, _arguments):
    if event in WATCHED:
        os.write(audit, event.encode() + b"\\n")

WATCHED = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn",
           "socket.connect", "subprocess.Popen"}
sys.addaudithook(hook)

import botocore.httpsession
send = botocore.httpsession.URLLib3Session.send

def crash(self, request):
    if Path(os.environ["CRASH"]).exists():
        raise ZeroDivisionError("a bug")
    return send(self, request)

botocore.httpsession.URLLib3Session.send = crash
'''  # fmt: skip
"""Says what the process starts (docs.python.org, "Audit events table"), and has it crash deep in the SDK on demand."""


@dataclass
class Given:
    """What a process is given: its environment, and the secrets in it or behind it that EC2's keys do not tell."""

    env: dict[str, str]
    secrets: tuple[str, ...] = ()


class _PodIdentity(Handler):
    """The EKS Pod Identity agent: credentials for whoever shows the token."""

    def do_GET(self) -> None:
        self.body()
        token, credentials = self.owner
        if self.headers.get("Authorization") != token:
            self.answer(401, b"", "text/plain")
            return
        answer = {"AccessKeyId": credentials.access_key, "SecretAccessKey": credentials.secret_key,
                  "Token": credentials.token, "Expiration": _time(credentials)}  # fmt: skip
        self.answer(200, json.dumps(answer).encode(), "application/json")


def _time(credentials: Credentials) -> str:
    return (credentials.expires or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


NO_KEY = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


def access_key(lab: Lab, _pod: Pod, _directory: Path, _stack: ExitStack) -> Given:
    """In the environment."""
    user = lab.ec2.keys.add_user("pod")
    return Given({"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key})


def instance_role(lab: Lab, pod: Pod, _directory: Path, _stack: ExitStack) -> Given:
    """From IMDS."""
    lab.imds.register(pod.address, lab.workers["a"].instance_id, role="node")
    return Given(NO_KEY)


def web_identity(_lab: Lab, _pod: Pod, directory: Path, _stack: ExitStack) -> Given:
    """IAM roles for service accounts: a token in a file."""
    token = "eyWebIdentityHead.eyWebIdentityBody.WebIdentitySignature"
    (directory / "token").write_text(token)
    role = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/pod"}
    return Given({**NO_KEY, **role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(directory / "token")}, (token,))


def pod_identity(lab: Lab, pod: Pod, directory: Path, stack: ExitStack) -> Given:
    """EKS Pod Identity: an agent on the node, and a token in a file."""
    token = "eyPodIdentityHead.eyPodIdentityBody.PodIdentitySignature"
    (directory / "token").write_text(token)
    credentials = lab.ec2.keys.add_role_session("pod", "pod-identity", 3600.0)
    server = pod.ns.run(lambda: Server(("127.0.0.1", 0), _PodIdentity, (token, credentials)))
    stack.callback(server.stop)
    agent = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.port}/v1/credentials"}
    return Given({**NO_KEY, **agent, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(directory / "token")}, (token,))


KINDS = (access_key, instance_role, web_identity, pod_identity)


@pytest.fixture(scope="module", autouse=True)
def _own_api() -> None:
    if apiserver.assets() is None and cluster.kubeconfig() is not None:
        pytest.skip("pods have a service account in the lab's own Kubernetes API only: unset KUBECONFIG")


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(kube=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_in_anything_that_it_writes_and_it_starts_nothing(
    lab: Lab, tmp_path: Path, stack: ExitStack, kind: Callable[[Lab, Pod, Path, ExitStack], Given]
) -> None:
    pod = lab.pod("app", "a", {"net1": [f"{ONE}/32"]}, service_account=True)
    lab.kube.allow_events(pod.name)
    given = kind(lab, pod, tmp_path, stack)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = f"{tmp_path / 'site'}{os.pathsep}{pod.env['PYTHONPATH']}"
    env = {**given.env, "PYTHONPATH": path, "AUDIT": str(tmp_path / "audit"), "CRASH": str(tmp_path / "crash")}
    settings = {"RouteTableRole": ROLE, "LogLevel": "DEBUG"}

    run = start(pod, "sidecar", env=env, **settings)
    run.wait("claimed", address=ONE)
    told = _bad_days(lab, pod, run)
    for command in (("plan", "--json"), ("doctor", "--json")):
        start(pod, *command, env=env, **settings).ends()
    told += json.dumps(lab.kube.events(pod.account)) if pod.account else ""
    assert "Claimed" in told and "Failing" in told

    _expire_what_was_used(lab)
    pod.add_address("net1", f"{FOUR}/32")
    run.wait_mention("RequestExpired")
    (tmp_path / "crash").touch()
    pod.add_address("net1", f"{FIVE}/32")
    assert run.ends() == 70
    assert "Traceback" in run.text and "botocore" in run.text

    secrets = {*given.secrets, *_secrets(lab, pod)}
    _assert_used(lab, kind)
    written = {str(file): file.read_text(errors="replace") for file in pod.directory.rglob("*") if file.is_file()}
    assert {"status.json", "claims.json"} <= {Path(name).name for name in written}
    for where, text in {**written, "metrics, readiness and Events": told}.items():
        assert {secret for secret in secrets if secret[:SHOWN] in text} == set(), where
    started = set((tmp_path / "audit").read_text().split())
    assert started == {"socket.connect"}


def _bad_days(lab: Lab, pod: Pod, run: Run) -> str:
    """A denial and throttling, and their end. What is said of them by HTTP."""
    lab.ec2.faults.deny("ec2:CreateRoute")
    pod.add_address("net1", f"{TWO}/32")
    run.wait_mention("UnauthorizedOperation")
    until(lambda: "CreateRoute" in inside(pod, "/readyz")[1], "the refusal is a reason")
    told = inside(pod, "/readyz")[1] + inside(pod, "/metrics")[1] + inside(pod, "/healthz")[1]
    until(lambda: "Failing" in json.dumps(lab.kube.events(pod.account)) if pod.account else True, "an Event")
    lab.ec2.faults.allow_all()
    run.wait("claimed", address=TWO)
    lab.ec2.faults.fail("CreateRoute", "RequestLimitExceeded", times=2)
    pod.add_address("net1", f"{THREE}/32")
    run.wait("claimed", address=THREE)
    return told + inside(pod, "/metrics")[1]


def _expire_what_was_used(lab: Lab) -> None:
    for key in {call.access_key for call in lab.ec2.calls if call.access_key}:
        lab.ec2.keys.expire(key)


def _secrets(lab: Lab, pod: Pod) -> Iterator[str]:
    """Every secret that EC2, IMDS and the Kubernetes API of this lab know; an access key's id is not shown either."""
    for credentials in lab.ec2.keys._keys.values():
        yield credentials.access_key
        yield credentials.secret_key
        if credentials.token:
            yield credentials.token
    yield from lab.imds._tokens
    if pod.account:
        yield pod.account.token


def _assert_used(lab: Lab, kind: object) -> None:
    """Else nothing could have been shown: route tables by the role, the rest by what was given."""
    users = {call.action: lab.ec2.keys._keys[call.access_key] for call in lab.ec2.calls if call.access_key}
    assert ":assumed-role/route-tables/" in users["CreateRoute"].principal
    other = users["DescribeNetworkInterfaces"].principal
    assert {access_key: ":user/pod", instance_role: "/node/", web_identity: "/pod/", pod_identity: "/pod/"}[
        kind
    ] in other  # type: ignore[index]
