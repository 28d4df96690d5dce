"""The lab's EC2 over HTTP: the rows of EC2-SEMANTICS.md on every call, and credentials."""

from __future__ import annotations

import contextlib
import http.client
import socket
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.auth
import pytest
from botocore.exceptions import ClientError

from lab.ec2.auth import Credentials
from tests.contract.lab_world import OUTSIDE, World, client, in_table, refused, until, works


def test_dry_run_tells_whether_and_changes_nothing(world: World) -> None:
    """Row "DryRun=True"."""
    refused(lambda: world.create(DryRun=True), "DryRunOperation", 412)
    assert world.route(OUTSIDE) is None
    world.ec2.faults.deny("ec2:CreateRoute")
    refused(lambda: world.create(DryRun=True), "UnauthorizedOperation", 403)


def test_too_many_calls_are_throttled_by_action(world: World) -> None:
    """Row "too many calls": a token bucket for each action, refilled with time."""
    world.create()
    world.ec2.faults.throttle("*Route", bucket=2, refill=0.001)
    world.replace()
    world.replace()
    refused(world.replace, "RequestLimitExceeded", 503)
    world.create("192.168.0.3/32")  # another action has a bucket of its own
    world.table()  # and this one none
    world.ec2.faults.clear()
    world.ec2.faults.throttle("*Route", bucket=1, refill=2.0)
    world.replace()
    until(lambda: works(world.replace))


def test_unknown_keys_are_refused(world: World) -> None:
    stranger = client(world.ec2, keys=world.ec2.keys.add_user("stranger"))
    stranger.describe_vpcs()
    world.ec2.keys.forget(stranger._request_signer._credentials.access_key)
    refused(stranger.describe_vpcs, "AuthFailure", 401)


def test_expired_keys_are_refused(world: World) -> None:
    session = world.ec2.keys.add_role_session("node", "i-1", lifetime=60)
    api = client(world.ec2, keys=session)
    api.describe_vpcs()
    world.ec2.keys.expire(session.access_key)
    refused(api.describe_vpcs, "RequestExpired")


@pytest.mark.parametrize("offset", [-1000, -800, 800, 1000])
def test_a_signature_is_good_for_fifteen_minutes(world: World, monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    """In the words that EC2 and STS have for it, and with the time by which a client may see why."""
    now = datetime.now(UTC) + timedelta(seconds=offset)
    ec2, sts = client(world.ec2), client(world.ec2, "sts")
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now.replace(tzinfo=None))
    if abs(offset) < 900:
        ec2.describe_vpcs()
        sts.get_caller_identity()
        return
    refused(ec2.describe_vpcs, "AuthFailure", 401)
    refused(sts.get_caller_identity, "SignatureDoesNotMatch", 403)
    with pytest.raises(ClientError) as caught:
        sts.get_caller_identity()
    late = "Signature expired: " if offset < 0 else "Signature not yet current: "
    assert caught.value.response["Error"]["Message"].startswith(f"{late}{now:%Y%m%dT%H%M%SZ} is ")
    date = parsedate_to_datetime(caught.value.response["ResponseMetadata"]["HTTPHeaders"]["date"])
    assert abs(date - datetime.now(UTC)) < timedelta(seconds=60)


def test_a_request_whose_sender_dies_in_the_middle_is_no_request(world: World) -> None:
    """What is cut off might make sense, e.g. with an address that lacks its last digit."""
    form = b"Action=CreateRoute&Version=2016-11-15&DestinationCidrBlock=192.168.0.1/32"
    head = f"POST / HTTP/1.1\r\nHost: ec2\r\nContent-Length: {len(form) + 1}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", world.ec2.port)) as connection:
        connection.sendall(head + form)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert world.ec2.calls == []


def test_unsigned_requests_are_refused(world: World) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.ec2.port)
    connection.request("POST", "/", "Action=DescribeVpcs&Version=2016-11-15")
    answer = connection.getresponse()
    body = answer.read().decode()
    assert answer.status == 403
    assert "<Response><Errors><Error><Code>MissingAuthenticationToken</Code>" in body
    assert body.endswith("</RequestID></Response>")
    connection.close()


def test_an_assumed_roles_keys_work_and_are_its_own(world: World) -> None:
    """A role for route tables in another account: `RouteTableRole`."""
    sts = client(world.ec2, "sts")
    assert sts.get_caller_identity()["Arn"] == world.ec2.keys.base.principal
    role = "arn:aws:iam::210987654321:role/route-writer"
    answer = sts.assume_role(RoleArn=role, RoleSessionName="pod-1", DurationSeconds=900)
    assert answer["AssumedRoleUser"]["Arn"] == "arn:aws:sts::210987654321:assumed-role/route-writer/pod-1"
    made = answer["Credentials"]
    keys = type(world.ec2.keys.base)(
        made["AccessKeyId"], made["SecretAccessKey"], "", "", made["SessionToken"], made["Expiration"]
    )
    identity = client(world.ec2, "sts", keys).get_caller_identity()
    assert (identity["Account"], identity["Arn"]) == ("210987654321", answer["AssumedRoleUser"]["Arn"])
    world.ec2.faults.deny("ec2:*Route", access_key=world.ec2.keys.base.access_key)
    refused(world.create, "UnauthorizedOperation", 403)
    client(world.ec2, keys=keys).create_route(**in_table(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[0])
    assert world.route(OUTSIDE)["NetworkInterfaceId"] == world.enis[0]
    world.ec2.faults.deny("sts:AssumeRole")
    message = refused(lambda: sts.assume_role(RoleArn=role, RoleSessionName="pod-1"), "AccessDenied", 403)
    assert message.startswith(f"User: {world.ec2.keys.base.principal} is not authorized to perform: sts:AssumeRole")
    refused(
        lambda: client(world.ec2, "sts", world.ec2.keys.add_role_session("x", "y", lifetime=-1)).get_caller_identity(),
        "RequestExpired",
    )


def test_a_web_identity_needs_no_signature(world: World) -> None:
    """IAM roles for service accounts: AssumeRoleWithWebIdentity is not signed."""
    answer = client(world.ec2, "sts").assume_role_with_web_identity(
        RoleArn="arn:aws:iam::123456789012:role/pod", RoleSessionName="pod", WebIdentityToken="eyJ0b2tlbiI6"
    )
    assert answer["Credentials"]["AccessKeyId"]
    assert world.ec2.calls[-1].access_key is None


def test_all_sessions_of_a_role_can_expire_at_once_and_say_how_long_they_last(world: World) -> None:
    """Not those of another role, and not those that STS gives from then on."""

    def session(name: str) -> Any:
        sts = client(world.ec2, "sts")
        role = f"arn:aws:iam::123456789012:role/{name}"
        return sts.assume_role(RoleArn=role, RoleSessionName="one")["Credentials"]

    def ask(credentials: Any) -> None:
        key, secret, token = (credentials[each] for each in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
        client(world.ec2, keys=Credentials(key, secret, "", "", token)).describe_route_tables()

    world.ec2.keys.session_lifetime = 1000.0
    first, other = session("pod"), session("other")
    assert 900 < (first["Expiration"] - datetime.now(UTC)).total_seconds() <= 1000
    world.ec2.keys.expire_sessions("pod")
    refused(lambda: ask(first), "RequestExpired")
    ask(other)
    ask(session("pod"))
    assert world.ec2.keys.principal(first["AccessKeyId"]).endswith(":assumed-role/pod/one")
