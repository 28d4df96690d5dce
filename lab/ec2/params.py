"""The flat parameters of an EC2 request: `Filter.1.Name=vpc-id`, `RouteTableId.1=rtb-…`, `DryRun=true`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lab.ec2.errors import Ec2Error, invalid_value, missing

Params = Mapping[str, str]

MAX_FILTERS = 50  # "up to 50 filters and up to 200 values per filter in a single request" (EC2 user guide, filtering)
MAX_FILTER_VALUES = 200


def required(params: Params, name: str) -> str:
    """The parameter's value; raises MissingParameter."""
    value = params.get(name)
    if not value:
        raise missing(name[0].lower() + name[1:])
    return value


def flag(params: Params, name: str, default: bool = False) -> bool:
    """A boolean parameter."""
    value = params.get(name)
    if value is None:
        return default
    if value.lower() not in ("true", "false"):
        raise invalid_value(f"Value ({value}) for parameter {name} is invalid. Expected a boolean.")
    return value.lower() == "true"


def count(params: Params, name: str) -> int | None:
    """A whole number, None when not given."""
    value = params.get(name)
    if value is None:
        return None
    if not value.isdecimal():
        raise invalid_value(f"Value ({value}) for parameter {name} is invalid. Expected an integer.")
    return int(value)


def items(params: Params, name: str) -> list[str]:
    """A list's values: `Name.1`, `Name.2`, … in order."""
    return list(_numbered(params, name))


def _numbered(params: Params, name: str) -> Iterator[str]:
    number = 1
    while (value := params.get(f"{name}.{number}")) is not None:
        yield value
        number += 1


def tags(params: Params, resource_type: str) -> dict[str, str]:
    """The tags that a create call asks for (`TagSpecifications`) of resources of that type."""
    found: dict[str, str] = {}
    number = 1
    while (kind := params.get(f"TagSpecification.{number}.ResourceType")) is not None:
        keys = items_of(params, f"TagSpecification.{number}.Tag", "Key")
        values = items_of(params, f"TagSpecification.{number}.Tag", "Value")
        if kind == resource_type:
            found |= dict(zip(keys, values, strict=True))
        number += 1
    return found


def items_of(params: Params, name: str, member: str) -> list[str]:
    """A member of each structure in a list: `Name.1.Member`, `Name.2.Member`, …; empty where one has it not."""
    found: list[str] = []
    while any(key.startswith(f"{name}.{len(found) + 1}.") for key in params):
        found.append(params.get(f"{name}.{len(found) + 1}.{member}", ""))
    return found


def filters(params: Params) -> list[tuple[str, list[str]]]:
    """The request's filters: (name, values). Raises FilterLimitExceeded and, for one without a name, the usual."""
    found: list[tuple[str, list[str]]] = []
    number = 1
    while any(key.startswith(f"Filter.{number}.") for key in params):
        name = params.get(f"Filter.{number}.Name")
        if not name:
            raise invalid_value("The filter 'null' is invalid")
        found.append((name, items(params, f"Filter.{number}.Value")))
        number += 1
    if len(found) > MAX_FILTERS or any(len(values) > MAX_FILTER_VALUES for _, values in found):
        raise Ec2Error(
            "FilterLimitExceeded",
            f"The maximum number of filters is {MAX_FILTERS}, of values for a filter {MAX_FILTER_VALUES}",
        )
    return found
