"""What the CNI plugins read of their configuration, as strict JSON schemas.

The plugins ignore what they do not know, so that a misspelt key goes unnoticed until a pod has the wrong address. The
keys are those of the plugins' Go structures: github.com/containernetworking/plugins (plugins/main/ipvlan,
plugins/main/host-device, plugins/ipam/static, plugins/ipam/host-local/backend/allocator), pkg/types of
github.com/containernetworking/cni, and pkg/types of github.com/k8snetworkplumbingwg/whereabouts.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
FLAG: dict[str, Any] = {"type": "boolean"}
NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
ADDRESS: dict[str, Any] = {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}
CIDR: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f.:]+/[0-9]{1,3}$"}
INTERFACE: dict[str, Any] = {"type": "string", "pattern": "^[^/\\s]{1,15}$"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": sorted(required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


ROUTES = _list(
    _object(
        {"dst": CIDR},
        {"gw": ADDRESS, "mtu": NUMBER, "advmss": NUMBER, "priority": NUMBER, "table": NUMBER, "scope": NUMBER},
    )
)
DNS = _object({}, {"nameservers": _list(ADDRESS), "domain": TEXT, "search": _list(TEXT), "options": _list(TEXT)})

HOST_LOCAL = _object(
    {
        "type": {"const": "host-local"},
        "ranges": _list(
            _list(_object({"subnet": CIDR, "rangeStart": ADDRESS, "rangeEnd": ADDRESS}, {"gateway": ADDRESS}))
        ),
    },
    {"routes": ROUTES, "dataDir": TEXT, "resolvConf": TEXT},
)
STATIC = _object(
    {"type": {"const": "static"}, "addresses": _list(_object({"address": CIDR}, {"gateway": ADDRESS}))},
    {"routes": ROUTES, "dns": DNS},
)
_RANGE = {"range": CIDR, "range_start": ADDRESS, "range_end": ADDRESS}
_WHEREABOUTS = {
    "routes": ROUTES,
    "dns": DNS,
    "exclude": _list(CIDR),
    "gateway": ADDRESS,
    "network_name": TEXT,
    "enable_overlapping_ranges": FLAG,
    "log_file": TEXT,
    "log_level": {"enum": ["debug", "verbose", "error", "panic"]},
    "configuration_path": TEXT,
    "kubernetes": _object({}, {"kubeconfig": TEXT, "k8s_api_root": TEXT}),
}
WHEREABOUTS = {
    "oneOf": [
        _object({"type": {"const": "whereabouts"}, **_RANGE}, _WHEREABOUTS),
        _object(
            {"type": {"const": "whereabouts"}, "ipRanges": _list(_object(_RANGE, {"exclude": _list(CIDR)}))},
            _WHEREABOUTS,
        ),
    ]
}
IPAM = {"oneOf": [HOST_LOCAL, STATIC, WHEREABOUTS]}

_COMMON = {
    # the network's name: of letters, digits, '.', '_' and '-' (CNI specification 1.0, "Network configuration format")
    "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$"},
    "cniVersion": {"enum": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]},
}
_OPTIONAL = {"capabilities": {"type": "object", "additionalProperties": FLAG}, "dns": DNS}

IPVLAN = _object(
    {**_COMMON, "type": {"const": "ipvlan"}, "master": INTERFACE, "mode": {"enum": ["l2", "l3", "l3s"]}, "ipam": IPAM},
    {**_OPTIONAL, "mtu": NUMBER, "linkInContainer": FLAG},
)
HOST_DEVICE = _object({**_COMMON, "type": {"const": "host-device"}, "device": INTERFACE}, {**_OPTIONAL, "ipam": IPAM})
NETWORK = {"oneOf": [IPVLAN, HOST_DEVICE]}

DEFINITION = _object(
    {
        "apiVersion": {"const": "k8s.cni.cncf.io/v1"},
        "kind": {"const": "NetworkAttachmentDefinition"},
        "metadata": _object({"name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}}),
        "spec": _object({"config": TEXT}),
    }
)
"""The object: Kubernetes Network Custom Resource Definition De-facto Standard, version 1."""
