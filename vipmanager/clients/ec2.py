"""EC2 through botocore, the engine of boto3 (its resource layer is not used and costs start-up time).

Imported modules are loaded by the first call, because an init run has other work to overlap with it. botocore's own
retries are off: the agent's loop retries, and knows what else may go on meanwhile.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vipmanager import __version__
from vipmanager.clients import ec2_parse
from vipmanager.clients.answers import bound_answers
from vipmanager.clients.ec2_errors import failure
from vipmanager.clients.ec2_model import trimmed_model_path
from vipmanager.clients.tls import share_authorities
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import Address, ElasticIp, EniDescription, Network, RouteTable, Subnet

log = logging.getLogger("vipmanager.ec2")

CONNECT_TIMEOUT = 2.0
READ_TIMEOUT = 10.0
MAX_CONNECTIONS = 16
PAGE_SIZE = 100
"""DescribeRouteTables gives at most 100 a page (EC2 API reference)."""
MAX_PAGES = 1000

Found = TypeVar("Found")


class Ec2Client:
    """The EC2 port. `region` is asked for when the first client is made; `role_arn` is for route table calls.

    `clock` tells when something was seen. `guard` is called just before a write goes out: what it raises ends the call,
    and nothing is sent. So a process that was stopped between deciding and sending does not act on an old decision.
    `observer` is told how each request ended: its operation as EC2 names it, "ok" or the error's code, and seconds.
    """

    def __init__(
        self,
        region: Callable[[], str],
        role_arn: str = "",
        *,
        clock: Callable[[], float] = monotonic,
        guard: Callable[[], None] | None = None,
        observer: Callable[[str, str, float], None] | None = None,
    ) -> None:
        self._region = region
        self._role_arn = role_arn
        self._clock = clock
        self._guard = guard
        self._observer = observer
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    def warm_up(self) -> None:
        """Import the SDK and make the session, which needs neither region nor credentials."""
        with self._lock:
            self._open_session()

    def route_tables(self, vpc_id: str) -> tuple[RouteTable, ...]:
        """See Ec2Port."""
        seen = self._clock()
        pages = self._pages("describe_route_tables", "RouteTables", vpc_id, Filters=filters("vpc-id", [vpc_id]))
        return self._read(pages, partial(ec2_parse.route_table, seen=seen), "describe_route_tables", vpc_id)

    def enis(self, ids: Sequence[str]) -> tuple[EniDescription, ...]:
        """See Ec2Port. Asked for by filter, because one id that is gone would fail a request by id whole."""
        return self._describe_enis(filters("network-interface-id", ids), ",".join(ids))

    def enis_by_mac(self, macs: Sequence[str]) -> tuple[EniDescription, ...]:
        """See Ec2Port."""
        wanted = filters("mac-address", macs) + filters("attachment.status", ["attached"])
        return self._describe_enis(wanted, ",".join(macs))

    def enis_holding(self, vpc_id: str, addresses: Sequence[Address]) -> tuple[EniDescription, ...]:
        """See Ec2Port. Filters are joined by AND, hence one request for each family."""
        found: dict[str, EniDescription] = {}
        for version, name in ((4, "addresses.private-ip-address"), (6, "ipv6-addresses.ipv6-address")):
            wanted = [str(address) for address in addresses if address.version == version]
            if wanted:
                both = filters("vpc-id", [vpc_id]) + filters(name, wanted)
                found.update((eni.id, eni) for eni in self._describe_enis(both, ",".join(wanted)))
        return tuple(found.values())

    def subnets(self, vpc_id: str) -> tuple[Subnet, ...]:
        """See Ec2Port."""
        return self._describe_subnets(filters("vpc-id", [vpc_id]), vpc_id)

    def create_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """See Ec2Port."""
        self._route("create_route", table_id, destination, NetworkInterfaceId=eni_id)

    def replace_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """See Ec2Port."""
        self._route("replace_route", table_id, destination, NetworkInterfaceId=eni_id)

    def delete_route(self, table_id: str, destination: Network) -> None:
        """See Ec2Port."""
        try:
            self._route("delete_route", table_id, destination)
        except CallError as error:
            if error.kind is not ErrorKind.RACE:
                raise

    def assign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """See Ec2Port."""
        if addresses[0].version == 6:
            self._call("assign_ipv6_addresses", eni_id, NetworkInterfaceId=eni_id, Ipv6Addresses=_texts(addresses))
            return
        self._call(
            "assign_private_ip_addresses",
            eni_id,
            NetworkInterfaceId=eni_id,
            PrivateIpAddresses=_texts(addresses),
            AllowReassignment=True,
        )

    def unassign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """See Ec2Port."""
        operation, key = (
            ("unassign_ipv6_addresses", "Ipv6Addresses")
            if addresses[0].version == 6
            else ("unassign_private_ip_addresses", "PrivateIpAddresses")
        )
        self._call(operation, eni_id, NetworkInterfaceId=eni_id, **{key: _texts(addresses)})

    def disable_source_dest_check(self, eni_id: str) -> None:
        """See Ec2Port."""
        self._call(
            "modify_network_interface_attribute",
            eni_id,
            NetworkInterfaceId=eni_id,
            SourceDestCheck={"Value": False},
        )

    def elastic_ips(self, allocation_ids: Sequence[str]) -> tuple[ElasticIp, ...]:
        """See Ec2Port. By filter, as in `enis`; DescribeAddresses has no pages."""
        seen = self._clock()
        wanted = filters("allocation-id", allocation_ids)
        answer = self._call("describe_addresses", ",".join(allocation_ids), Filters=wanted)
        found = answer.get("Addresses", ())
        return self._read(found, partial(ec2_parse.elastic_ip, seen=seen), "describe_addresses", "Elastic IPs")

    def associate(self, allocation_id: str, eni_id: str, address: IPv4Address) -> None:
        """See Ec2Port."""
        self._call(
            "associate_address",
            f"{allocation_id},{eni_id}",
            AllocationId=allocation_id,
            NetworkInterfaceId=eni_id,
            PrivateIpAddress=str(address),
            AllowReassociation=True,
        )

    def dry_run(self, operation: str, resource: str, params: Mapping[str, Any]) -> Failure | None:
        """Ask whether a request would be allowed (DryRun); None where it is, else why it would be refused."""
        try:
            self._call(operation, resource, **params, DryRun=True)
        except CallError as error:
            return None if error.failure.code == "DryRunOperation" else error.failure
        text = f"the endpoint does not know DryRun: it has made the change that it was asked about ({resource})"
        return Failure(ErrorKind.INVALID, f"ec2:{api_name(operation)}", "NoDryRun", text, "check AWS_ENDPOINT_URL")

    def _describe_enis(self, wanted: list[dict[str, Any]], resource: str) -> tuple[EniDescription, ...]:
        pages = self._pages("describe_network_interfaces", "NetworkInterfaces", resource, Filters=wanted)
        return self._read(pages, ec2_parse.eni, "describe_network_interfaces", resource)

    def _describe_subnets(self, wanted: list[dict[str, Any]], resource: str) -> tuple[Subnet, ...]:
        pages = self._pages("describe_subnets", "Subnets", resource, Filters=wanted)
        return self._read(pages, ec2_parse.subnet, "describe_subnets", resource)

    @staticmethod
    def _read(
        items: Iterable[Mapping[str, Any]], parse: Callable[[Mapping[str, Any]], Found], operation: str, resource: str
    ) -> tuple[Found, ...]:
        """Each of the items, or CallError where one cannot be understood."""
        name = api_name(operation)
        return tuple(ec2_parse.understood(name, resource, partial(parse, item)) for item in items)

    def _route(self, operation: str, table_id: str, destination: Network, **target: str) -> None:
        key = "DestinationIpv6CidrBlock" if destination.version == 6 else "DestinationCidrBlock"
        self._call(operation, table_id, RouteTableId=table_id, **{key: str(destination)}, **target)

    def _pages(self, operation: str, result: str, resource: str, **params: Any) -> Iterator[Mapping[str, Any]]:
        token = ""
        for _ in range(MAX_PAGES):
            page = self._call(
                operation, resource, MaxResults=PAGE_SIZE, **params, **({"NextToken": token} if token else {})
            )
            yield from page.get(result, ())
            token = page.get("NextToken", "")
            if not token:
                return
        raise CallError(ec2_parse.bad_answer(api_name(operation), resource, f"it has no end after {MAX_PAGES} pages"))

    def _call(self, operation: str, resource: str, **params: Any) -> Mapping[str, Any]:
        """One request, logged at DEBUG; every exception of the SDK ends here."""
        started = self._clock()
        code = "ok"
        try:
            result: Mapping[str, Any] = getattr(self._client(operation), operation)(**params)
            return result
        except CallError as error:
            code = error.failure.code
            raise
        except Exception as error:
            translated = translate(error, operation, resource, self._role_arn)
            if translated is None:
                code = type(error).__name__
                raise
            code = translated.code
            raise CallError(translated) from error
        finally:
            took = self._clock() - started
            event(log, logging.DEBUG, "call", operation=operation, on=resource, result=code, took=took)
            if self._observer is not None:
                self._observer(api_name(operation), code, took)

    def _client(self, operation: str) -> Any:
        name = "routes" if self._role_arn and "route" in operation else "ec2"
        with self._lock:
            if name not in self._clients:
                self._clients[name] = self._make_client(name)
            return self._clients[name]

    def _open_session(self) -> Any:
        if self._session is None:
            import botocore.session

            self._session = botocore.session.Session()
            path = trimmed_model_path()
            if path is not None:
                import botocore.loaders

                loader = botocore.loaders.Loader(extra_search_paths=[path], include_default_search_paths=True)
                self._session.register_component("data_loader", loader)
        return self._session

    def _make_client(self, name: str) -> Any:
        from botocore.config import Config
        from botocore.exceptions import NoCredentialsError

        session = self._open_session()
        if session.get_credentials() is None:  # a client made now would stay without them when they come
            raise NoCredentialsError
        region = self._region()
        if name == "routes":
            session = self._assume_role(session, region)
        config = Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=MAX_CONNECTIONS,
            parameter_validation=False,  # the agent's own types are checked; this costs CPU at each call
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent_extra=f"vipmanager/{__version__}",
        )
        try:
            client = session.create_client("ec2", region_name=region, config=config)
            share_authorities(client)
            bound_answers(client)
            if self._guard is not None:
                client.meta.events.register("before-send.ec2", self._check_guard)
            _ = urlsplit(client.meta.endpoint_url).port
            return client
        except ValueError as error:  # botocore's word for an AWS_ENDPOINT_URL that is no URL
            wrong = Failure(ErrorKind.INVALID, "ec2", "InvalidEndpoint", str(error), "correct AWS_ENDPOINT_URL")
            raise CallError(wrong) from error

    def _check_guard(self, event_name: str, **_: Any) -> None:
        """botocore's last event before a request's first byte: `before-send.ec2.CreateRoute`."""
        if self._guard is not None and not event_name.rpartition(".")[2].startswith("Describe"):
            self._guard()

    def _assume_role(self, source: Any, region: str) -> Any:
        """A session whose credentials come from the role, refreshed by botocore before they expire."""
        import botocore.session
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

        def regional(service: str, **kwargs: Any) -> Any:
            # With botocore's own minute, a call would be sent long after its address has left again.
            client = source.create_client(service, **{"region_name": region, "config": brief(), **kwargs})
            bound_answers(client)
            return client

        fetcher = AssumeRoleCredentialFetcher(
            client_creator=regional,
            source_credentials=source.get_credentials(),
            role_arn=self._role_arn,
            extra_args={"RoleSessionName": "vipmanager"},
        )
        session = botocore.session.Session()
        session.register_component("data_loader", source.get_component("data_loader"))
        session._credentials = DeferredRefreshableCredentials(  # no public way to give a session refreshable ones
            method="assume-role", refresh_using=fetcher.fetch_credentials
        )
        return session


def brief() -> Any:
    """botocore's settings for STS: one attempt, with our timeouts."""
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )


def translate(error: Exception, operation: str, resource: str, role_arn: str = "") -> Failure | None:
    """The classified failure behind an SDK exception, or None when it is none of the SDK's (a bug: let it show)."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError  # no BotoCoreError: an answer that is not EC2's, as of a proxy

    api = api_name(operation)
    if isinstance(error, exceptions.ClientError):
        answer = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        assuming = error.operation_name == "AssumeRole"
        service, resource = ("sts", role_arn) if assuming else ("ec2", resource)
        return failure(
            error.operation_name,
            str(answer.get("Code", "")),
            str(answer.get("Message", "")),
            status,
            service=service,
            resource=resource,
            role=role_arn if "route" in operation and not assuming else "",
        )
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return Failure(
            ErrorKind.RETRY,
            f"ec2:{api}",
            type(error).__name__,
            str(error).rstrip("."),
            "give the pod's service account a role (EKS Pod Identity or IRSA), or let it reach IMDS (hop limit 2)",
        )
    if isinstance(error, exceptions.NoRegionError):
        return Failure(ErrorKind.INVALID, f"ec2:{api}", "NoRegion", str(error), "set AWS_REGION in the container")
    if isinstance(error, exceptions.BotoCoreError | ResponseParserError | RuntimeError):  # last: new, yet expired
        return Failure(ErrorKind.RETRY, f"ec2:{api}", type(error).__name__, f"{error} ({resource})")
    if isinstance(error, ec2_parse.UNREADABLE) and _raised_by_parser(error):
        return ec2_parse.bad_answer(api, resource, error)
    return None


def _raised_by_parser(error: Exception) -> bool:
    """botocore lets show what int() and the like say of a field, and trips over an error that says nothing.

    A mistake of ours comes from elsewhere.
    """
    frames = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "botocore.parsers" in frames or frames[-1:] == ["botocore.endpoint"]


def api_name(operation: str) -> str:
    """EC2's name of one of botocore's: `CreateRoute` of `create_route`."""
    return "".join(word.capitalize() for word in operation.split("_"))


def filters(name: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """A describe's Filters parameter; several are joined by AND, the values of one by OR."""
    return [{"Name": name, "Values": list(values)}]


def _texts(addresses: Sequence[Address]) -> list[str]:
    return [str(address) for address in addresses]
