"""Every exception that botocore can raise, and every code of the tables, is classified; nothing escapes."""

from __future__ import annotations

import inspect
import re
from string import Formatter
from typing import Any

import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError

from vipmanager import iam
from vipmanager.clients import ec2_errors, ec2_model, ec2_operations
from vipmanager.clients.ec2 import translate
from vipmanager.config import load
from vipmanager.errors import CREDENTIAL_CODES, ErrorKind, Failure


def name_of(operation: str) -> str:
    """The name of botocore's method for an operation."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation).lower()


OPERATIONS = [name_of(operation) for operation in ec2_operations.OPERATIONS]


def _made(kind: type[BaseException]) -> Exception:
    """An instance of one of botocore's exception classes."""
    if issubclass(kind, exceptions.ClientError):
        return kind({"Error": {"Code": "Unheard", "Message": "of"}}, "CreateRoute")  # type: ignore[return-value]
    names = [name for _, name, _, _ in Formatter().parse(getattr(kind, "fmt", "")) if name]
    extra = {"last_response": {}} if kind is exceptions.WaiterError else {}
    return kind(**dict.fromkeys(names, "x"), **extra)  # type: ignore[return-value]


CLASSES = [
    kind
    for _, kind in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(kind, exceptions.BotoCoreError | exceptions.ClientError)
]


def client_error(code: str, status: int = 400, operation: str = "CreateRoute", message: str = "text.") -> Exception:
    """What botocore raises for an error answer."""
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(answer, operation)


def translated(error: Exception, operation: str = "create_route", resource: str = "rtb-1", role: str = "") -> Failure:
    """The failure behind an exception that must have one."""
    found = translate(error, operation, resource, role)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_botocores_is_translated(kind: type[BaseException]) -> None:
    found = translated(_made(kind))
    assert isinstance(found.kind, ErrorKind)
    assert found.code and found.message and found.call == "ec2:CreateRoute"


def test_there_are_as_many_classes_as_one_expects() -> None:
    assert len(CLASSES) > 60


def test_what_is_no_exception_class_of_the_sdks_is_a_bug_and_shows() -> None:
    for bug in (ZeroDivisionError("a"), KeyError("b"), TypeError("c"), AttributeError("d")):
        assert translate(bug, "create_route", "rtb-1") is None


@pytest.mark.parametrize(
    "error",
    [
        exceptions.EndpointConnectionError(endpoint_url="u", error="e"),
        exceptions.ConnectTimeoutError(endpoint_url="u"),
        exceptions.ReadTimeoutError(endpoint_url="u"),
        exceptions.ConnectionClosedError(endpoint_url="u"),
        exceptions.SSLError(endpoint_url="u", error="e"),
        exceptions.ProxyConnectionError(proxy_url="u"),
        exceptions.HTTPClientError(error="e"),
        exceptions.CredentialRetrievalError(provider="p", error_msg="e"),
        exceptions.MetadataRetrievalError(error_msg="e"),
        exceptions.NoCredentialsError(),
        exceptions.PartialCredentialsError(provider="p", cred_var="v"),
        ResponseParserError("no XML"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_by_itself_is_to_be_retried(error: Exception) -> None:
    assert translated(error).kind is ErrorKind.RETRY


def test_a_missing_region_names_the_setting() -> None:
    found = translated(exceptions.NoRegionError())
    assert (found.kind, "AWS_REGION" in found.remedy) == (ErrorKind.INVALID, True)


# Codes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(ec2_errors.RETRY_CODES))
def test_codes_to_retry(code: str) -> None:
    for operation in ec2_operations.OPERATIONS:
        if (operation, code) not in ec2_errors.BY_OPERATION:
            assert translated(client_error(code, operation=operation)).kind is ErrorKind.RETRY


@pytest.mark.parametrize("code", sorted(ec2_errors.DENIED_CODES))
def test_codes_of_denial_name_what_to_allow(code: str) -> None:
    found = translated(client_error(code, 403))
    assert found.kind is ErrorKind.DENIED
    if code in CREDENTIAL_CODES:
        assert "credentials" in found.remedy
    elif code in ec2_errors.REMEDIES:
        assert found.remedy == ec2_errors.REMEDIES[code]
    else:
        assert "ec2:CreateRoute" in found.remedy and "route-table/rtb-1" in found.remedy


def test_codes_of_credentials_are_denials() -> None:
    assert CREDENTIAL_CODES <= ec2_errors.DENIED_CODES
    assert not ec2_errors.RETRY_CODES & ec2_errors.DENIED_CODES


@pytest.mark.parametrize("code", [*sorted(ec2_errors.QUOTAS), "NewLimitExceeded", "X.Limit.Exceeded"])
def test_codes_of_quotas_name_a_quota(code: str) -> None:
    operation = "CreateNetworkInterface" if code == "InsufficientFreeAddressesInSubnet" else "CreateRoute"
    found = translated(client_error(code, operation=operation))
    assert found.kind is ErrorKind.LIMIT
    assert "quota" in found.remedy.lower() or "limit" in found.remedy


# What the calls of the nodeport mode answer, as it was found in documentation, issues and other clients' code.
FLOATING = [
    ("AssociateAddress", "InvalidAllocationID.NotFound", ErrorKind.INVALID, "eipalloc-"),
    ("AssociateAddress", "InvalidAddress.NotFound", ErrorKind.INVALID, "eipalloc-"),
    ("AssociateAddress", "Resource.AlreadyAssociated", ErrorKind.RACE, ""),
    ("AssociateAddress", "InvalidParameterValue", ErrorKind.LOST, ""),
    ("AssociateAddress", "InvalidNetworkInterfaceID.NotFound", ErrorKind.LOST, ""),
    ("AssociateAddress", "IncorrectInstanceState", ErrorKind.RETRY, ""),
    ("AssociateAddress", "Gateway.NotAttached", ErrorKind.INVALID, "internet gateway"),
    ("AssociateAddress", "AuthFailure", ErrorKind.DENIED, "another account"),
    ("AssociateAddress", "UnauthorizedOperation", ErrorKind.DENIED, "ec2:AssociateAddress on *"),
    ("CreateNetworkInterface", "InvalidIPAddress.InUse", ErrorKind.LOST, ""),
    ("CreateNetworkInterface", "Resource.AlreadyAssigned", ErrorKind.LOST, ""),
    ("CreateNetworkInterface", "InsufficientFreeAddressesInSubnet", ErrorKind.LIMIT, "free-ips"),
    ("CreateNetworkInterface", "NetworkInterfaceLimitExceeded", ErrorKind.LIMIT, "L-DF5E4CA3"),
    ("CreateNetworkInterface", "SecurityGroupsPerInterfaceLimitExceeded", ErrorKind.LIMIT, "L-2AFB9258"),
    ("CreateNetworkInterface", "InvalidSubnetID.NotFound", ErrorKind.RETRY, ""),
    ("CreateNetworkInterface", "InvalidGroup.NotFound", ErrorKind.INVALID, "security groups"),
    ("CreateNetworkInterface", "IdempotentParameterMismatch", ErrorKind.RACE, ""),
    ("CreateNetworkInterface", "InvalidNetworkInterfaceID.NotFound", ErrorKind.RACE, ""),
    ("CreateNetworkInterface", "ConcurrentTagAccess", ErrorKind.RETRY, ""),
    ("CreateNetworkInterface", "TagLimitExceeded", ErrorKind.LIMIT, "50 tags"),
    ("CreateNetworkInterface", "UnauthorizedOperation", ErrorKind.DENIED, "ec2:CreateTags"),
    ("AttachNetworkInterface", "InvalidNetworkInterface.InUse", ErrorKind.RACE, ""),
    ("AttachNetworkInterface", "InvalidParameterValue", ErrorKind.RACE, ""),
    ("AttachNetworkInterface", "InvalidParameterCombination", ErrorKind.INVALID, "Availability Zone"),
    ("AttachNetworkInterface", "AttachmentLimitExceeded", ErrorKind.LIMIT, "MAX_ENI"),
    ("AttachNetworkInterface", "InvalidNetworkInterfaceID.NotFound", ErrorKind.RETRY, ""),
    ("AttachNetworkInterface", "InvalidInstanceID.NotFound", ErrorKind.INVALID, ""),
    ("AttachNetworkInterface", "IncorrectState", ErrorKind.RETRY, ""),
    ("AttachNetworkInterface", "IncorrectInstanceState", ErrorKind.RETRY, ""),
    ("AttachNetworkInterface", "OperationNotPermitted", ErrorKind.DENIED, "not a matter of IAM"),
    ("DetachNetworkInterface", "InvalidAttachmentID.NotFound", ErrorKind.RACE, ""),
    ("DetachNetworkInterface", "InvalidAttachment.NotFound", ErrorKind.RACE, ""),
    ("DetachNetworkInterface", "IncorrectState", ErrorKind.RACE, ""),
    ("DetachNetworkInterface", "OperationNotPermitted", ErrorKind.DENIED, "not a matter of IAM"),
    ("DeleteNetworkInterface", "InvalidNetworkInterface.InUse", ErrorKind.RACE, ""),
    ("DeleteNetworkInterface", "InvalidParameterValue", ErrorKind.RACE, ""),
    ("CreateSubnet", "InvalidSubnet.Conflict", ErrorKind.RACE, "FloatingSubnetCidr"),
    ("CreateSubnet", "InvalidSubnet.Range", ErrorKind.INVALID, "FloatingSubnetCidr"),
    ("CreateSubnet", "SubnetLimitExceeded", ErrorKind.LIMIT, "L-407747CB"),
    ("CreateSubnet", "UnauthorizedOperation", ErrorKind.DENIED, "ec2:CreateTags"),
    ("DeleteSubnet", "DependencyViolation", ErrorKind.RETRY, "network interfaces"),
    ("AssociateVpcCidrBlock", "InvalidVpc.Range", ErrorKind.INVALID, "FloatingSubnetCidr"),
    ("AssociateVpcCidrBlock", "InvalidVpcRange", ErrorKind.INVALID, "FloatingSubnetCidr"),
    ("AssociateVpcCidrBlock", "CidrConflict", ErrorKind.INVALID, "FloatingSubnetCidr"),
    ("AssociateVpcCidrBlock", "CidrLimitExceeded", ErrorKind.LIMIT, "L-83CA0A9D"),
]


@pytest.mark.parametrize(("operation", "code", "kind", "remedy"), FLOATING)
def test_codes_of_enis_subnets_and_elastic_ips(operation: str, code: str, kind: ErrorKind, remedy: str) -> None:
    found = translated(client_error(code, operation=operation), resource="eni-1,i-1")
    assert found.kind is kind
    assert remedy in found.remedy


def test_every_code_of_the_tables_is_in_the_list_above_or_a_route_or_address() -> None:
    listed = {code for _, code, _, _ in FLOATING}
    assert set(ec2_errors.REMEDIES) <= listed
    assert {code for _, code in ec2_errors.BY_OPERATION_REMEDIES} <= listed
    older = {"RouteLimitExceeded", "PrivateIpAddressLimitExceeded"}
    assert set(ec2_errors.QUOTAS) - older <= listed
    older_operations = {"CreateRoute", "ReplaceRoute", "DeleteRoute"}
    for operation, code in ec2_errors.BY_OPERATION:
        of_addresses = operation in older_operations or operation.startswith(("Assign", "Unassign"))
        assert of_addresses or (operation, code) in {(each, known) for each, known, _, _ in FLOATING}


@pytest.mark.parametrize(("operation", "code"), sorted(ec2_errors.BY_OPERATION))
def test_codes_that_mean_something_of_one_operation(operation: str, code: str) -> None:
    kind = ec2_errors.BY_OPERATION[operation, code]
    assert translated(client_error(code, operation=operation)).kind is kind
    elsewhere = ErrorKind.RETRY if code in ec2_errors.RETRY_CODES else ErrorKind.INVALID
    assert translated(client_error(code, operation="DescribeSubnets")).kind is elsewhere


@pytest.mark.parametrize("operation", sorted({operation for operation, _ in ec2_errors.BY_OPERATION}))
def test_the_table_speaks_of_operations_that_are_used(operation: str) -> None:
    assert operation in ec2_operations.OPERATIONS


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, ErrorKind.RETRY), (503, ErrorKind.RETRY), (429, ErrorKind.RETRY), (400, ErrorKind.INVALID)],
)
def test_a_code_that_nobody_knows_goes_by_its_status(status: int, kind: ErrorKind) -> None:
    assert translated(client_error("NewInThisYear", status)).kind is kind


@pytest.mark.parametrize("response", [{}, {"Error": {}}, {"Error": {"Code": "X"}, "ResponseMetadata": {}}])
def test_an_error_answer_that_lacks_things_is_invalid(response: Any) -> None:
    assert translated(exceptions.ClientError(response, "CreateRoute")).kind is ErrorKind.INVALID


def test_a_failure_tells_what_on_what_why_and_what_to_do() -> None:
    text = str(translated(client_error("UnauthorizedOperation", 403, message="You are not authorized.")))
    for part in ("ec2:CreateRoute", "denied", "UnauthorizedOperation", "You are not authorized", "rtb-1", "allow"):
        assert part in text


def test_the_resource_is_named_once() -> None:
    found = translated(client_error("RouteLimitExceeded", message="rtb-1 is full."))
    assert found.message.count("rtb-1") == 1
    assert translated(client_error("RouteLimitExceeded", message="It is full.")).message.count("rtb-1") == 1


def test_a_role_that_cannot_be_assumed_is_a_matter_of_sts() -> None:
    role = "arn:aws:iam::123456789012:role/tables"
    found = translated(client_error("AccessDenied", 403, "AssumeRole"), role=role)
    assert (found.kind, found.call) == (ErrorKind.DENIED, "sts:AssumeRole")
    assert "sts:AssumeRole" in found.remedy and role in found.remedy


@pytest.mark.parametrize(
    ("resource", "arn"),
    [
        ("rtb-1", "arn:aws:ec2:*:*:route-table/rtb-1"),
        ("eni-1", "arn:aws:ec2:*:*:network-interface/eni-1"),
        ("subnet-1", "arn:aws:ec2:*:*:subnet/subnet-1"),
        ("eni-1,eni-2", "*"),
        ("eni-attach-1", "*"),
        ("vpc-1", "*"),
        ("", "*"),
    ],
)
def test_a_resource_is_named_as_iam_names_it(resource: str, arn: str) -> None:
    assert ec2_errors.resource_arn(resource) == arn


# The cut-down model --------------------------------------------------------------------------------------------------


BOUND = {"Intf1EIPs": "10.10.1.80=eipalloc-0123456789abcdef0"}


def test_the_models_operations_are_all_that_the_clients_call() -> None:
    from vipmanager.clients import ec2, ec2_facts, ec2_floating

    pod, nodeport = inspect.getsource(ec2), inspect.getsource(ec2_floating) + inspect.getsource(ec2_facts)
    called = {name for name in OPERATIONS if f'"{name}"' in pod}
    needed = {name for mode in ("init", "sidecar") for name in iam.operations(load(BOUND), mode)}
    assert called == {name_of(operation) for operation in needed}
    assert called | {name for name in OPERATIONS if f'"{name}"' in nodeport} == set(OPERATIONS)


def test_a_cut_down_model_holds_every_shape_it_refers_to() -> None:
    shapes: dict[str, Any] = {
        "In": {"type": "structure", "documentation": "d", "members": {"A": {"shape": "Many", "documentation": "d"}}},
        "Many": {"type": "list", "member": {"shape": "One"}},
        "One": {"type": "structure", "members": {"documentation": {"shape": "Text"}, "Self": {"shape": "One"}}},
        "Text": {"type": "string"},
        "Unused": {"type": "string"},
    }
    shapes["In"]["members"]["Seen"] = {"shape": "Instance"}
    shapes["Instance"] = {"type": "structure", "members": {"State": {"shape": "Text"}, "Kernel": {"shape": "Unread"}}}
    operations = {
        name: {"name": name, "input": {"shape": "In"}, "documentation": "d"} for name in ec2_operations.OPERATIONS
    }
    model = {"metadata": {"m": 1}, "operations": {**operations, "Other": {}}, "shapes": shapes, "waiters": {}}
    cut = ec2_model.trim(model)
    assert set(cut["shapes"]) == {"In", "Many", "One", "Text", "Instance"}
    assert set(cut["shapes"]["Instance"]["members"]) == {"State"}  # the others are not read
    assert set(cut["operations"]) == set(ec2_operations.OPERATIONS)
    assert "documentation" not in cut["shapes"]["In"] and "documentation" not in cut["operations"]["CreateRoute"]
    assert "documentation" in cut["shapes"]["One"]["members"]  # a member of that name is no documentation
