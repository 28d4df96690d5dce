"""botocore's EC2 model, cut down to the operations used: loading the whole one costs 0.15 CPU s and 30 MB.

`python -m vipmanager.clients.ec2_model` makes it from the installed botocore when the package is installed or the image
is built; it is never committed. A copy made from another version of botocore is not used, and without one the full
model is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

READ_MEMBERS = {
    "Reservation": ("Instances",),
    "Instance": ("InstanceId", "InstanceType", "MetadataOptions", "State"),
    "InstanceMetadataOptionsResponse": ("HttpPutResponseHopLimit",),
    "InstanceTypeInfo": ("InstanceType", "NetworkInfo"),
    "NetworkInfo": ("Ipv4AddressesPerInterface", "Ipv6AddressesPerInterface"),
}
"""Of these shapes only what is read: the whole of an instance would be half of the model, loaded by every init run."""

REVISION = "5e19d35e"
"""Changes with the operations, so that a model made before they grew is not used; a test says what it must be."""

SERVICES = ("ec2", "sts")
VERSION = "2016-11-15"


def model_path() -> Path:
    """Where the cut-down model of the installed botocore belongs."""
    import botocore

    return Path(__file__).resolve().parent / "_model" / f"botocore-{botocore.__version__}-{REVISION}"


def trimmed_model_path() -> str | None:
    """The folder of the cut-down model, or None where it was not made for this botocore."""
    path = model_path()
    return str(path) if (path / "endpoints.json").exists() else None


def trim(model: dict[str, Any]) -> dict[str, Any]:
    """A service model with our operations, the shapes they reach as far as they are read, and no documentation."""
    from vipmanager.clients.ec2_operations import OPERATIONS

    operations = {name: model["operations"][name] for name in OPERATIONS}
    shapes: dict[str, Any] = {}
    pending = [
        reference["shape"]
        for operation in operations.values()
        for reference in [operation.get("input"), operation.get("output"), *operation.get("errors", ())]
        if reference
    ]
    while pending:
        name = pending.pop()
        if name in shapes:
            continue
        shape = shapes[name] = _read_part(name, model["shapes"][name])
        references = [
            *shape.get("members", {}).values(),
            *(shape[key] for key in ("member", "key", "value") if key in shape),
        ]
        pending += [reference["shape"] for reference in references]
    return {
        **_undocumented({"operations": operations, "shapes": shapes}),
        "metadata": model["metadata"],
        "version": "2.0",
    }


def _read_part(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    if name not in READ_MEMBERS:
        return shape
    return {**shape, "members": {key: value for key, value in shape["members"].items() if key in READ_MEMBERS[name]}}


def _undocumented(node: Any) -> Any:
    """Without words, and without lists of the values of a string: nothing checks them here."""
    if isinstance(node, dict):
        return {
            key: _undocumented(value)
            for key, value in node.items()
            if not (key == "documentation" and isinstance(value, str))
            and not (key == "enum" and isinstance(value, list))
        }
    return [_undocumented(item) for item in node] if isinstance(node, list) else node


def build() -> Path:
    """Write the cut-down model; returns its folder. Raises OSError where that cannot be written."""
    import json

    import botocore.loaders

    loader = botocore.loaders.Loader()
    folder = model_path()
    service = folder / "ec2" / VERSION
    service.mkdir(parents=True, exist_ok=True)
    for name in ("service-2", "endpoint-rule-set-1"):
        data = loader.load_data(f"ec2/{VERSION}/{name}")
        (service / f"{name}.json").write_text(json.dumps(trim(data) if name == "service-2" else data))
    endpoints = loader.load_data("endpoints")
    for partition in endpoints["partitions"]:
        partition["services"] = {key: value for key, value in partition["services"].items() if key in SERVICES}
    (folder / "endpoints.json").write_text(json.dumps(endpoints))  # last: its presence says that all of it is there
    return folder


if __name__ == "__main__":
    print(build(), file=sys.stdout)
