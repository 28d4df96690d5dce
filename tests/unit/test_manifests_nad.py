"""nad/: the plugins understand it, its addresses lie where the folder says, and vipmanager places them so."""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import IPv6Network, ip_network
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lab.topology import SUBNETS, VPC_CIDR
from tests.unit import cni_schema
from tests.unit.manifests import (
    CONFIGMAPS,
    KINDS,
    NAD,
    PATTERNS,
    ROOT,
    SAMPLES,
    Given,
    Manifest,
    below,
    every,
    given,
    read,
)
from vipmanager import config
from vipmanager.manifest import read_configmap
from vipmanager.model import Eni, Network, Subnet
from vipmanager.plan.placement import Placement, place, reserved

DEFINITIONS = below(NAD)
README = (NAD / "README.md").read_text()
PLUGINS = [folder for folder in map(Path, ("/opt/cni/bin", "/usr/lib/cni")) if (folder / "host-local").exists()]

VPC6 = IPv6Network("2001:db8:10::/56")
VPC: tuple[Network, ...] = (ip_network(VPC_CIDR), VPC6)
CIDRS = {spec.name: spec.cidr for spec in SUBNETS}
"""The lab's VPC is the sample VPC, so that the same files serve in both."""
HOMES: dict[str, tuple[Network, ...]] = {
    "eth1": (ip_network(CIDRS["multus1-a"]), ip_network("2001:db8:10:b::/64")),
    "eth2": (ip_network(CIDRS["multus2-a"]), ip_network("2001:db8:10:c::/64")),
}
FLOATING: tuple[Network, ...] = (
    ip_network(CIDRS["floating-1"]),
    ip_network(CIDRS["floating-2"]),
    ip_network("2001:db8:10:fe::/64"),
)

each_definition = pytest.mark.parametrize("definition", DEFINITIONS, ids=str)


def device(definition: Manifest) -> str:
    """The worker's interface that it uses."""
    network = definition.network
    return str(network.get("master") or network["device"])


def ranges(definition: Manifest) -> list[Given]:
    """What its IPAM gives."""
    return list(given(definition.network["ipam"]))


def check(schema: dict[str, Any], value: Any) -> None:
    """Raises jsonschema.ValidationError."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)


@each_definition
def test_the_plugins_know_every_key(definition: Manifest) -> None:
    check(cni_schema.DEFINITION, definition.content)
    check(cni_schema.NETWORK, definition.network)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mastr": "eth1"},
        {"mode": "l4"},
        {"cniVersion": "0.1.0"},
        {"name": "nad/if1"},
        {"ipam": {"type": "host-local", "subnet": "192.168.0.0/29"}},
        {"ipam": {"type": "static", "addresses": [{"address": "192.168.0.2"}]}},
        {"ipam": {"type": "whereabouts", "range": "192.168.0.0/29", "rangeStart": "192.168.0.2"}},
        {"ipam": {"type": "dhcp"}},
    ],
    ids=str,
)
def test_the_schema_finds_what_a_plugin_would_not_say(wrong: dict[str, Any]) -> None:
    (right,) = read(NAD / "nonvpc" / "nad-1.yaml")
    with pytest.raises(jsonschema.ValidationError):
        check(cni_schema.NETWORK, {**right.network, **wrong})


@each_definition
def test_the_network_has_the_name_of_the_object(definition: Manifest) -> None:
    """host-local keeps its addresses by the network's name."""
    assert definition.network["name"] == definition.name


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_has_each_ipam_in_each_family(pattern: str) -> None:
    mine = [each for each in DEFINITIONS if each.pattern == pattern]
    assert len({each.name for each in mine}) == len(mine)
    ipvlan = [each for each in mine if each.network["type"] == "ipvlan" and device(each) == "eth1"]
    found = sorted(
        (each.network["ipam"]["type"], "".join(str(part.network.version) for part in ranges(each))) for each in ipvlan
    )
    assert found == sorted(product(("host-local", "static", "whereabouts"), ("4", "6", "46")))
    assert {each.network["type"] for each in mine} == {"ipvlan", "host-device"}
    assert device(read(NAD / pattern / "nad-2.yaml")[0]) == "eth2"


def test_ipvlan_is_in_the_mode_in_which_a_pod_answers_arp() -> None:
    assert {each.network["mode"] for each in DEFINITIONS if each.network["type"] == "ipvlan"} == {"l2"}


@each_definition
def test_each_address_is_one_of_its_network_and_no_gateway(definition: Manifest) -> None:
    """host-local takes the first host address for the gateway, and gives it to nobody."""
    for part in ranges(definition):
        assert part.first <= part.last
        assert part.first in part.network and part.last in part.network
        assert part.first > part.network[1]
        assert part.network.version == 6 or part.last < part.network.broadcast_address


@each_definition
def test_each_address_lies_where_the_folder_says(definition: Manifest) -> None:
    for part in ranges(definition):
        inside = [cidr for cidr in VPC if cidr.version == part.network.version and part.network.subnet_of(cidr)]  # type: ignore[arg-type]
        if definition.pattern == "nonvpc":
            assert not any(cidr.version == part.network.version and cidr.overlaps(part.network) for cidr in VPC)
            assert not part.network.overlaps(ip_network("169.254.0.0/16"))
            assert part.network.is_private
        elif definition.pattern == "vpc":
            assert inside and part.network in FLOATING
        else:
            assert inside and part.network in HOMES[device(definition)]
            assert not any(reserved(address, part.network) for address in every(part))


@each_definition
def test_vipmanager_places_each_address_as_the_folder_says(definition: Manifest) -> None:
    settings = config.load(read_configmap(str(SAMPLES / CONFIGMAPS[definition.pattern])))
    eni = Eni("eni-1", "02:00:00:00:00:01", 1, "subnet-1", HOMES[device(definition)], "vpc-1", VPC)
    subnets = (Subnet("subnet-1", eni.subnet_cidrs), *(Subnet(f"subnet-{cidr}", (cidr,)) for cidr in FLOATING))
    for part in ranges(definition):
        for address in every(part):
            found = place(address, "net1", eni, settings, subnets)
            assert isinstance(found, Placement), found
            assert found.kind is KINDS[definition.pattern]


def test_a_floating_subnet_has_one_pod() -> None:
    """It is routed whole, so that two pods with addresses of it would have only one of them delivered."""
    for definition in DEFINITIONS:
        if definition.pattern == "vpc":
            assert all(part.first == part.last for part in ranges(definition)), definition


@pytest.mark.skipif(not PLUGINS, reason="no CNI plugins here: apt-get install containernetworking-plugins")
@pytest.mark.parametrize(
    "definition", [each for each in DEFINITIONS if each.network["ipam"]["type"] != "whereabouts"], ids=str
)
def test_the_ipam_plugin_gives_these_addresses(definition: Manifest, tmp_path: Path) -> None:
    network = definition.network
    if network["ipam"]["type"] == "host-local":
        network["ipam"]["dataDir"] = str(tmp_path)
    asked = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "test",
        "CNI_NETNS": "/run/netns/none",
        "CNI_IFNAME": "net1",
        "CNI_PATH": str(PLUGINS[0]),
    }
    plugin = PLUGINS[0] / network["ipam"]["type"]
    done = subprocess.run(
        [plugin], input=json.dumps(network), env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    got = [each["address"] for each in json.loads(done.stdout)["ips"]]
    assert got == [f"{part.first}/{part.network.prefixlen}" for part in ranges(definition)]


# nad/README.md


def test_the_readme_tells_of_the_sample_vpc() -> None:
    told = [str(VPC6), VPC_CIDR, *(str(cidr) for cidrs in HOMES.values() for cidr in cidrs), *map(str, FLOATING)]
    assert [each for each in told if f"`{each}`" not in README] == []


def test_the_readme_names_every_file_and_definition_and_no_other() -> None:
    files = {path.name for path in NAD.glob("*/*.yaml")}
    assert {path for path in files if f"`{path}`" not in README} == set()
    names = {each.name for each in DEFINITIONS}
    rows = [line for line in README.splitlines() if line.startswith("| `") and ".yaml`" in line]
    told = {word.strip("`") for row in rows for word in row.split() if word.startswith("`nad-if")}
    assert told == names


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_readme_gives_the_address_of_each_pattern(pattern: str) -> None:
    for number in (1, 2):
        (part,) = ranges(read(NAD / pattern / f"nad-{number}.yaml")[0])
        assert f"`{part.first}`" in README


def test_the_readmes_edits_find_what_they_change() -> None:
    """The documented sed renames both interfaces in every file and touches nothing else."""
    assert """sed -i 's/"eth1"/"ens6"/; s/"eth2"/"ens7"/' nad/*/*.yaml""" in README
    for path in sorted(NAD.glob("*/*.yaml")):
        text = path.read_text()
        assert text.count('"eth1"') + text.count('"eth2"') == len(read(path)), path.relative_to(ROOT)
