"""The commands beside the modes: where their real clients are made. Each returns an exit code."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from vipmanager import logs
from vipmanager.arguments import Arguments, UsageError
from vipmanager.clients.imds import region
from vipmanager.config import Config
from vipmanager.errors import CallError

if TYPE_CHECKING:
    from vipmanager.doctor.node import NodeOutside
    from vipmanager.iam import Scope
    from vipmanager.preview.steps import Preview

EX_USAGE = 64


def mode_of(parsed: Arguments, config: Config) -> str:
    """The mode that a command is asked about: the one that is named, else what a container without arguments runs."""
    return parsed.mode or ("sidecar" if config.sidecar else "init")


def mode_here(parsed: Arguments, config: Config) -> str:
    """The same for a command that looks at this container: if no mode is named, that of the vipmanager that runs."""
    from vipmanager.status import running_mode

    return parsed.mode or running_mode(config.state_dir) or mode_of(parsed, config)


def run_status(parsed: Arguments, config: Config) -> int:
    """Show what the vipmanager in this container says of itself."""
    from vipmanager.status import probe, show

    return probe(config.state_dir) if parsed.ready else show(config.state_dir, as_json=parsed.json)


def run_free_ips(parsed: Arguments) -> int:
    """Print free addresses of a subnet."""
    from vipmanager.clients.ec2_floating import FloatingEc2Client
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.free_ips import run as print_free

    logs.set_up("WARNING", "text")
    imds = ImdsClient(os.environ)
    ec2 = FloatingEc2Client(partial(region, os.environ, imds))
    return print_free(ec2, parsed.operand, parsed.family, parsed.limit)


def run_plan(parsed: Arguments, config: Config) -> int:
    """Show what would be done."""
    from vipmanager.preview.text import as_json, as_text, error_as_json

    mode = mode_here(parsed, config)
    try:
        if parsed.on and mode == "nodeport":
            raise UsageError("--on does not belong to nodeport")
        preview = _preview_node(config) if mode == "nodeport" else _preview_pod(parsed, config, mode)
    except UsageError as error:
        sys.stderr.write(f"vipmanager: {error}\n")
        return EX_USAGE
    except CallError as error:
        if parsed.json:
            sys.stdout.write(error_as_json(mode, str(error)) + "\n")
        sys.stderr.write(f"vipmanager: cannot look: {error}\n")
        return 1
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    sys.stdout.write((as_json(preview) if parsed.json else as_text(preview, colour=colour)) + "\n")
    return preview.exit_code


def _preview_pod(parsed: Arguments, config: Config, mode: str) -> Preview:
    from vipmanager.apply_node import carry_out
    from vipmanager.asking import Asker
    from vipmanager.claims import ClaimStore, pod_life
    from vipmanager.clients.ec2 import Ec2Client
    from vipmanager.clients.ec2_permissions import Ec2Permissions
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.netlink import NetlinkClient
    from vipmanager.preview.pod import Sources, parse_on, preview_on, preview_pod

    imds = ImdsClient(os.environ)
    ec2 = Ec2Client(partial(region, os.environ, imds), config.route_table_role)
    sources = Sources(NetlinkClient(), imds, ec2, Ec2Permissions(ec2, carry_out), Asker())
    supposed = parse_on(parsed.on)
    if supposed:
        return preview_on(config, mode, sources, supposed)
    claims = ClaimStore(config.state_dir, pod_life()).load(monotonic()) if mode == "sidecar" else {}
    return preview_pod(config, mode, sources, claims)


def _preview_node(config: Config) -> Preview:
    from vipmanager.apply_node import carry_out
    from vipmanager.asking import Asker
    from vipmanager.clients.ec2_floating import FloatingEc2Client
    from vipmanager.clients.ec2_permissions import Ec2Permissions
    from vipmanager.clients.host import HostNetlinkClient
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.kube import LeaseClient
    from vipmanager.preview.node import NodeSources, preview_node

    imds = ImdsClient(os.environ)
    ec2 = FloatingEc2Client(partial(region, os.environ, imds), config.route_table_role)
    namespace = os.environ.get("POD_NAMESPACE", "")
    lease = LeaseClient(namespace, config.lease_name, config.renew_deadline / 2).read if namespace else None
    why = "POD_NAMESPACE is empty; set it from fieldRef metadata.namespace"
    return preview_node(
        config, NodeSources(HostNetlinkClient(), imds, ec2, Ec2Permissions(ec2, carry_out), Asker(), lease, why)
    )


def run_doctor(parsed: Arguments, config: Config) -> int:
    """Check what the mode needs."""
    from vipmanager.apply_node import carry_out
    from vipmanager.asking import Asker
    from vipmanager.claims import ClaimStore, pod_life
    from vipmanager.clients.ec2_facts import FactsClient
    from vipmanager.clients.ec2_permissions import Ec2Permissions
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.clients.netlink import NetlinkClient
    from vipmanager.doctor.look import Outside, run
    from vipmanager.doctor.node import NodeReads
    from vipmanager.preview.pod import Sources

    mode = mode_here(parsed, config)
    imds = ImdsClient(os.environ)
    ec2 = FactsClient(partial(region, os.environ, imds), config.route_table_role)
    claims = ClaimStore(config.state_dir, pod_life(), needed=False).load(monotonic()) if mode == "sidecar" else {}
    node = _node_outside(config) if mode == "nodeport" else None
    reads = NodeReads(node.host) if node else NetlinkClient()
    sources = Sources(reads, imds, ec2, Ec2Permissions(ec2, carry_out), Asker())
    return run(config, mode, Outside(sources, ec2, claims, node), as_json=parsed.json)


def _node_outside(config: Config) -> NodeOutside:
    """What doctor asks of the Kubernetes API, of the kernel's nftables and of the node's health."""
    from vipmanager.clients.checks import run_check
    from vipmanager.clients.host import HostNetlinkClient
    from vipmanager.clients.kube_access import LeaseAccessClient
    from vipmanager.doctor.node import NodeOutside

    namespace, name = os.environ.get("POD_NAMESPACE", ""), config.lease_name
    lease = LeaseAccessClient(namespace, name, 2.0) if namespace else None
    return NodeOutside(HostNetlinkClient(), lease, f"{namespace}/{name}", run_check)


def run_iam_policy(parsed: Arguments, config: Config) -> int:
    """Print the least IAM policy; with RouteTableRole that role's too, as a second document."""
    import json

    from vipmanager import iam

    mode, scope = mode_of(parsed, config), _scope(parsed)
    own, routes = iam.policy(config, mode, scope, doctor=parsed.doctor), iam.role_policy(config, mode, scope)
    if scope.placeholders:
        sys.stderr.write(f"vipmanager: replace {', '.join(scope.placeholders)} in the policy\n")
    for role, document in ((f"the role that {mode} runs with", own), (config.route_table_role, routes)):
        if document is None:
            continue
        if iam.size(document) > iam.MAX_SIZE:
            sys.stderr.write(f"vipmanager: longer than the {iam.MAX_SIZE} characters that IAM takes: {role}\n")
        if routes is not None:
            sys.stderr.write(f"vipmanager: policy of {role}:\n")
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    return 0


def _scope(parsed: Arguments) -> Scope:
    """As the command line says, else the SDK's setting of the region, else as IMDS says within a second."""
    from vipmanager.clients.imds import ImdsClient
    from vipmanager.iam import Scope

    place = parsed.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    account, vpc = parsed.account, parsed.vpc
    if not (place and account and vpc):
        imds = ImdsClient(os.environ, timeout=0.5)  # it tries twice
        with suppress(CallError):
            primary = min(imds.enis().values(), key=lambda eni: eni.device_index, default=None)
            account = account or (primary.owner_id if primary else "")
            vpc = vpc or (primary.vpc_id if primary else "")
            place = place or imds.region()
    known = {"region": place, "account": account, "vpc": vpc}
    return Scope(**{name: value for name, value in known.items() if value})
