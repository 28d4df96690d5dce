"""What only `vipmanager doctor` asks AWS: who am I, what is the worker, what may its type hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from time import time
from typing import Any

from vipmanager.clients.answers import bound_answers
from vipmanager.clients.ec2 import brief, translate
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.clients.ec2_parse import understood
from vipmanager.clients.tls import share_authorities
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import Network
from vipmanager.ports import Identity, Worker

UNASSIGNABLE = (
    (4, ("192.0.2.1", "198.51.100.1", "203.0.113.1")),
    (6, ("2001:db8::1", "3fff::1")),
)
"""Addresses for documentation (RFC 5737, 3849, 9637): of each family one at least lies in no subnet of an ENI."""


class FactsClient(FloatingEc2Client):
    """The facts port."""

    def identity(self) -> Identity:
        """See FactsPort. GetCallerIdentity needs no permission."""
        from botocore.exceptions import ClientError

        sent = time()
        try:
            answer = self._sts().get_caller_identity()
        except CallError:
            raise
        except Exception as error:
            translated = translate(error, "get_caller_identity", "sts")
            if translated is None:
                raise
            translated = replace(translated, call="sts:GetCallerIdentity")
            if isinstance(error, ClientError) and translated.kind is not ErrorKind.RETRY:
                return Identity("", _skew(error.response, sent), translated)
            raise CallError(translated) from error
        return understood("GetCallerIdentity", "sts", lambda: _identity(answer, sent))

    def _sts(self) -> Any:
        with self._lock:
            session = self._open_session()
        client = session.create_client("sts", region_name=self._region(), config=brief())
        share_authorities(client)
        bound_answers(client)
        return client

    def worker(self, instance_id: str) -> Worker:
        """See FactsPort."""
        answer = self._call("describe_instances", instance_id, InstanceIds=[instance_id])
        return understood("DescribeInstances", instance_id, lambda: _worker(answer))

    def addresses_per_eni(self, instance_type: str) -> tuple[int | None, int | None]:
        """See FactsPort."""
        answer = self._call("describe_instance_types", instance_type, InstanceTypes=[instance_type])
        return understood("DescribeInstanceTypes", instance_type, lambda: _addresses_per_eni(answer))

    def may_assign(self, eni_id: str, cidrs: Collection[Network], version: int, *, release: bool) -> None:
        """See FactsPort. It asks for what EC2 cannot do, because these calls take no DryRun.

        An address that is in no subnet of the ENI can be neither assigned to it nor taken from it: EC2 answers
        InvalidParameterValue, after it has looked at the permission.
        """
        texts = dict(UNASSIGNABLE)[version]
        address = next(a for a in map(ip_address, texts) if not any(a in cidr for cidr in cidrs))
        try:
            (self.unassign if release else self.assign)(eni_id, [address])
        except CallError as error:
            if error.kind not in (ErrorKind.INVALID, ErrorKind.LOST):
                raise


def _identity(answer: Mapping[str, Any], sent: float) -> Identity:
    return Identity(str(answer["Arn"]), _skew(answer, sent))


def _skew(answer: Mapping[str, Any], sent: float) -> float | None:
    """How far this clock is ahead of the one that the answer's Date header was written by (RFC 9110, 6.6.1)."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):  # there is none, or it is none
        return None
    return (sent + time()) / 2 - (told + 0.5)  # the header has whole seconds: it was written between them


def _worker(answer: Mapping[str, Any]) -> Worker:
    found: list[dict[str, Any]] = [each for one in answer.get("Reservations", ()) for each in one["Instances"]]
    item = found[0] if found else {}
    limit = item.get("MetadataOptions", {}).get("HttpPutResponseHopLimit")
    return Worker(str(item.get("InstanceType", "")), None if limit is None else int(limit))


def _addresses_per_eni(answer: Mapping[str, Any]) -> tuple[int | None, int | None]:
    types = answer.get("InstanceTypes", ())
    info: dict[str, Any] = types[0].get("NetworkInfo", {}) if types else {}
    ipv4, ipv6 = info.get("Ipv4AddressesPerInterface"), info.get("Ipv6AddressesPerInterface")
    return None if ipv4 is None else int(ipv4), None if ipv6 is None else int(ipv6)
