"""samples/nodeport and docs/nodeport.md: what the manifests promise, and that they fit each other and the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from vipmanager import config, iam
from vipmanager.arguments import parse
from vipmanager.clients.kube import RESOURCE
from vipmanager.floating import FloatingMode
from vipmanager.manifest import read_configmap
from vipmanager.model_node import FLOATING_TAG
from vipmanager.nodeport import STOP_WITHIN, WRITE_WITHIN

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "nodeport"
DOCUMENT = ROOT / "docs" / "nodeport.md"


def manifest(name: str, kind: str) -> dict[str, Any]:
    """The one object of a kind in a manifest."""
    found = [each for each in yaml.safe_load_all((SAMPLES / name).read_text()) if each["kind"] == kind]
    assert len(found) == 1, (name, kind)
    return dict(found[0])


DEPLOYMENT = manifest("deployment.yaml", "Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
CONFIGMAP = manifest("configmap.yaml", "ConfigMap")
SERVICE = manifest("service.yaml", "Service")


# the Deployment


def test_two_pods_are_never_on_one_node() -> None:
    assert DEPLOYMENT["spec"]["replicas"] >= 2
    (term,) = POD["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"] == LABELS == DEPLOYMENT["spec"]["selector"]["matchLabels"]


def test_an_update_fits_the_nodes_and_leaves_a_pod() -> None:
    strategy = DEPLOYMENT["spec"]["strategy"]
    assert strategy["type"] == "RollingUpdate"
    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert DEPLOYMENT["spec"]["minReadySeconds"] > config.Config().lease_duration


def test_a_drain_leaves_a_pod() -> None:
    budget = manifest("deployment.yaml", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == LABELS


@pytest.mark.parametrize("key", ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"])
def test_a_node_that_is_away_for_a_moment_keeps_its_pod(key: str) -> None:
    (toleration,) = [each for each in POD["tolerations"] if each["key"] == key]
    assert (toleration["operator"], toleration["effect"]) == ("Exists", "NoExecute")
    assert toleration["tolerationSeconds"] >= 60


def test_it_is_on_the_host_network_with_the_nodes_resolver() -> None:
    assert POD["hostNetwork"] is True
    assert POD["dnsPolicy"] == "Default"


def test_exactly_two_capabilities_and_a_read_only_root() -> None:
    security = CONTAINER["securityContext"]
    assert {key: sorted(names) for key, names in security["capabilities"].items()} == {
        "drop": ["ALL"],
        "add": ["NET_ADMIN", "NET_RAW"],
    }
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (65532, 65532, True)
    assert "privileged" not in security


def test_the_state_has_a_place_of_its_own_to_be_written() -> None:
    (volume,) = POD["volumes"]
    (mount,) = CONTAINER["volumeMounts"]
    assert volume == {"name": mount["name"], "emptyDir": {}}
    assert mount["mountPath"] == config.load(read_configmap(str(SAMPLES / "configmap.yaml"))).state_dir


def test_it_runs_the_nodeport_mode_with_what_the_downward_api_tells() -> None:
    assert parse(CONTAINER["args"]).mode == "nodeport"
    paths = {each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"] for each in CONTAINER["env"]}
    assert paths == {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}


def test_it_has_time_to_hand_over() -> None:
    assert POD["terminationGracePeriodSeconds"] >= 2 * (WRITE_WITHIN + STOP_WITHIN)


def test_memory_is_limited_and_the_processor_is_not() -> None:
    resources = CONTAINER["resources"]
    assert {"cpu", "memory"} == set(resources["requests"])
    assert set(resources["limits"]) == {"memory"}


def test_the_probes_ask_what_is_served() -> None:
    """A standby is ready without ever having the addresses: a startup probe would have nothing to wait for."""
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == config.load(CONFIGMAP["data"]).health_port
    asked = {kind: CONTAINER[kind]["httpGet"] for kind in CONTAINER if kind.endswith("Probe")}
    assert asked == {
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
        "livenessProbe": {"path": "/healthz", "port": port["name"]},
    }


# the manifests among each other


def test_what_is_named_exists_in_the_same_namespace() -> None:
    account = manifest("rbac.yaml", "ServiceAccount")["metadata"]
    assert POD["serviceAccountName"] == account["name"]
    (source,) = CONTAINER["envFrom"]
    assert source["configMapRef"]["name"] == CONFIGMAP["metadata"]["name"]
    namespace = manifest("rbac.yaml", "Namespace")["metadata"]["name"]
    named = [account, manifest("rbac.yaml", "Role")["metadata"], manifest("rbac.yaml", "RoleBinding")["metadata"]]
    for metadata in [*named, DEPLOYMENT["metadata"], CONFIGMAP["metadata"]]:
        assert metadata["namespace"] == namespace, metadata


def test_the_role_is_for_its_own_lease_and_events_only() -> None:
    settings = config.load(CONFIGMAP["data"])
    resource, _, group = RESOURCE.partition(".")
    leases = {"apiGroups": [group], "resources": [resource]}
    assert manifest("rbac.yaml", "Role")["rules"] == [
        {**leases, "verbs": ["create"]},
        {**leases, "verbs": ["get", "update", "watch"], "resourceNames": [settings.lease_name]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]


def test_the_role_is_bound_to_the_account_of_the_pods() -> None:
    binding = manifest("rbac.yaml", "RoleBinding")
    role, account = manifest("rbac.yaml", "Role")["metadata"], manifest("rbac.yaml", "ServiceAccount")["metadata"]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["name"])
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]


def test_the_namespace_admits_the_pod() -> None:
    labels = manifest("rbac.yaml", "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


# the ConfigMap


def test_the_configmap_is_accepted() -> None:
    settings = config.load(read_configmap(str(SAMPLES / "configmap.yaml")))
    config.check_nodeport(settings)
    assert settings.warnings == ()
    assert settings.floating_mode is FloatingMode.ADDRESS


def test_each_key_of_the_configmap_is_a_setting() -> None:
    assert [key for key in CONFIGMAP["data"] if not config.is_setting(key)] == []


def test_defaults_in_comments_are_the_defaults() -> None:
    comments = dict(re.findall(r'^  # (\w+): "([^"]*)"', (SAMPLES / "configmap.yaml").read_text(), re.MULTILINE))
    assert comments == {each.key: each.default for each in config.SETTINGS if each.key in comments}
    nodeport = {each.key for each in config.SETTINGS if each.meaning.startswith("`nodeport`")}
    assert nodeport <= comments.keys() | CONFIGMAP["data"].keys()


# the Service


def test_the_health_check_asks_the_port_of_the_service() -> None:
    (port,) = SERVICE["spec"]["ports"]
    check = config.load(CONFIGMAP["data"]).health_check
    assert SERVICE["spec"]["type"] == "NodePort"
    assert check is not None
    assert port["nodePort"] == check.port == 30007


def test_the_service_has_a_backend() -> None:
    backend = manifest("service.yaml", "Deployment")["spec"]["template"]
    assert SERVICE["spec"]["selector"].items() <= backend["metadata"]["labels"].items()
    (container,) = backend["spec"]["containers"]
    (port,) = SERVICE["spec"]["ports"]
    assert port["targetPort"] in [each["containerPort"] for each in container["ports"]]
    assert f"-p {port['targetPort']}" in " ".join(container["command"])


# the IAM policies

ARN = "arn:aws:ec2:REGION:ACCOUNT:"
VPC = f"{ARN}vpc/VPC"
TAGS = {FLOATING_TAG: "10.0.1.80"}
ANY: Mapping[str, str] = {}


@dataclass(frozen=True)
class Asked:
    """One question to IAM: a resource of an action, and the context it is asked in."""

    resource: str
    context: Mapping[str, str]


def tagged(kind: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as condition keys: `aws:ResourceTag` or `aws:RequestTag`."""
    return {f"aws:{kind}/{key}": value for key, value in tags.items()}


OUR_ENI = Asked(f"{ARN}network-interface/eni-1", {"ec2:Vpc": VPC, **tagged("ResourceTag", TAGS)})
NODES_ENI = Asked(f"{ARN}network-interface/eni-2", {"ec2:Vpc": VPC})
NEW_ENI = Asked(f"{ARN}network-interface/*", tagged("RequestTag", TAGS))
OUR_SUBNET = Asked(f"{ARN}subnet/subnet-1", {"ec2:Vpc": VPC, **tagged("ResourceTag", TAGS)})
SUBNET = Asked(f"{ARN}subnet/subnet-2", {"ec2:Vpc": VPC})
NEW_SUBNET = Asked(f"{ARN}subnet/*", tagged("RequestTag", TAGS))
GROUP = Asked(f"{ARN}security-group/sg-1", {"ec2:Vpc": VPC})
INSTANCE = Asked(f"{ARN}instance/i-1", ANY)
EIP = Asked(f"{ARN}elastic-ip/eipalloc-1", ANY)
TABLE = Asked(f"{ARN}route-table/rtb-1", {"ec2:Vpc": VPC})
THE_VPC = Asked(VPC, ANY)
FOREIGN_VPC = {"ec2:Vpc": f"{ARN}vpc/vpc-other"}


def questions(mode: FloatingMode, operation: str) -> tuple[Asked, ...]:
    """What IAM asks for a call (service authorization reference, Amazon EC2: resource types and condition keys)."""
    eni = OUR_ENI if mode in (FloatingMode.ENI, FloatingMode.SUBNET) else NODES_ENI
    new = tuple(
        Asked(each.resource, {**each.context, "ec2:CreateAction": action})
        for each, action in ((NEW_ENI, "CreateNetworkInterface"), (NEW_SUBNET, "CreateSubnet"))
    )
    return {
        "AssociateAddress": (EIP, eni),
        "AssociateVpcCidrBlock": (THE_VPC,),
        "AttachNetworkInterface": (INSTANCE, eni),
        "CreateNetworkInterface": (NEW_ENI, OUR_SUBNET if mode is FloatingMode.SUBNET else SUBNET, GROUP),
        "CreateRoute": (TABLE,),
        "CreateSubnet": (NEW_SUBNET, THE_VPC),
        "CreateTags": new if mode is FloatingMode.SUBNET else new[:1],
        "DeleteNetworkInterface": (eni,),
        "DeleteSubnet": (OUR_SUBNET,),
        "DetachNetworkInterface": (INSTANCE, eni),
        "ReplaceRoute": (TABLE,),
    }.get(operation, (Asked("*", ANY),) if operation.startswith("Describe") else (eni,))


def statements(mode: FloatingMode) -> list[dict[str, Any]]:
    """The statements of a mode's policy."""
    policy = json.loads((SAMPLES / f"iam-policy-{mode.value}.json").read_text())
    assert policy["Version"] == "2012-10-17"
    return list(policy["Statement"])


def allowed(mode: FloatingMode, operation: str, asked: Asked) -> bool:
    """Whether a statement allows it, as IAM decides; a condition on a key that is not there does not hold."""
    return any(
        f"ec2:{operation}" in each["Action"]
        and any(_covers(pattern, asked.resource) for pattern in _many(each["Resource"]))
        and all(_holds(*condition, asked.context) for condition in _conditions(each))
        for each in statements(mode)
    )


def _covers(pattern: str, resource: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), resource) is not None


def _conditions(statement: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    for operator, wanted in statement.get("Condition", {}).items():
        for key, values in wanted.items():
            yield operator, key, _many(values)


def _holds(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    if operator == "Null":
        return values == ["false"] and key in context
    assert operator in ("ArnEquals", "StringEquals")
    return context.get(key) in values


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def settings(mode: FloatingMode) -> config.Config:
    """The sample's settings, for a mode."""
    values = {**read_configmap(str(SAMPLES / "configmap.yaml")), "FloatingMode": mode.value}
    return config.load({**values, "FloatingSubnetCidr": "10.0.1.64/26" if mode is FloatingMode.SUBNET else ""})


OPERATIONS = {mode: iam.operations(settings(mode), "nodeport") for mode in FloatingMode}
CALLS = [(mode, operation) for mode in FloatingMode for operation in OPERATIONS[mode]]
each_mode = pytest.mark.parametrize("mode", list(FloatingMode), ids=lambda mode: mode.value)


@each_mode
def test_a_policy_has_the_actions_of_its_mode_and_no_other(mode: FloatingMode) -> None:
    actions = {action for each in statements(mode) for action in each["Action"]}
    assert actions == {f"ec2:{operation}" for operation in OPERATIONS[mode]}
    assert all(each["Effect"] == "Allow" for each in statements(mode))


@each_mode
def test_a_policy_is_what_the_command_prints_for_the_sample_settings(mode: FloatingMode) -> None:
    assert statements(mode) == iam.policy(settings(mode), "nodeport", iam.Scope())["Statement"]


@pytest.mark.parametrize(("mode", "operation"), CALLS, ids=lambda value: getattr(value, "value", value))
def test_a_policy_allows_each_call_of_its_mode(mode: FloatingMode, operation: str) -> None:
    for asked in questions(mode, operation):
        assert allowed(mode, operation, asked), asked


@each_mode
def test_only_reading_is_allowed_on_everything(mode: FloatingMode) -> None:
    for each in statements(mode):
        writes = [action for action in each["Action"] if not action.startswith("ec2:Describe")]
        assert (each["Resource"] == "*") is not bool(writes), each


@pytest.mark.parametrize("mode", [FloatingMode.ADDRESS, FloatingMode.ROUTE], ids=lambda mode: mode.value)
def test_another_vpc_is_not_touched(mode: FloatingMode) -> None:
    tables = [Asked(TABLE.resource, FOREIGN_VPC)]
    enis = [Asked(NODES_ENI.resource, {**FOREIGN_VPC, **tagged("ResourceTag", TAGS)})]
    for operation in OPERATIONS[mode]:
        for asked in tables + enis:
            assert operation.startswith("Describe") or not allowed(mode, operation, asked), (operation, asked)


@pytest.mark.parametrize("mode", [FloatingMode.ENI, FloatingMode.SUBNET], ids=lambda mode: mode.value)
def test_an_eni_that_is_not_ours_is_not_touched(mode: FloatingMode) -> None:
    for operation in OPERATIONS[mode]:
        assert operation.startswith("Describe") or not allowed(mode, operation, NODES_ENI), operation


def test_a_subnet_that_is_not_ours_is_not_touched() -> None:
    for operation in OPERATIONS[FloatingMode.SUBNET]:
        assert operation.startswith("Describe") or not allowed(FloatingMode.SUBNET, operation, SUBNET), operation


@pytest.mark.parametrize("mode", [FloatingMode.ENI, FloatingMode.SUBNET], ids=lambda mode: mode.value)
def test_tags_are_set_only_on_what_is_being_made(mode: FloatingMode) -> None:
    """Else the tag could be put on any ENI, which would make it ours."""
    retag = Asked(NODES_ENI.resource, {**NODES_ENI.context, **tagged("RequestTag", TAGS)})
    assert not allowed(mode, "CreateTags", retag)
    assert not allowed(mode, "CreateNetworkInterface", Asked(NEW_ENI.resource, ANY))


# the document


def test_events_in_the_document_are_events_of_the_code() -> None:
    """The troubleshooting table goes by what the log says."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "vipmanager").rglob("*.py")))
    text = DOCUMENT.read_text()
    table = text[text.index("## Troubleshooting") :]
    named = re.findall(r"^\| `([a-z][a-z ]+)`", table, re.MULTILINE)
    assert len(named) > 8
    for name in named:
        assert f'"{name}"' in code, name


def test_settings_in_the_document_exist() -> None:
    word = r"`((?:Floating|Lease|Renew|Retry|Health|VPCRT|SourceDest|RouteTable|State|Log)[A-Z]\w*)`"
    named = set(re.findall(word, DOCUMENT.read_text()))
    assert {"FloatingMode", "LeaseDuration"} <= named
    assert sorted(name for name in named if not config.is_setting(name)) == []


def test_files_in_the_document_exist() -> None:
    named = set(re.findall(r"samples/nodeport/[\w.-]+", DOCUMENT.read_text()))
    assert {f"samples/nodeport/{path.name}" for path in SAMPLES.iterdir() if path.suffix == ".yaml"} <= named
    for name in sorted(named):
        assert (ROOT / name).exists(), name
