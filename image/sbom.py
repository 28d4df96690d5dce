"""Prints a software bill of materials, CycloneDX 1.6: `python3 sbom.py SITE_PACKAGES DPKG_STATUS`.

It lists what is in the image and not what was asked for: the Python distributions that are left, Python itself, and the
Debian packages of which a file was copied. The same content gives the same text: there is no time and no serial number
in it. (https://cyclonedx.org/docs/1.6/json/)
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

NAME = "vipmanager"


def main(site: str, status: str, os_release: str = "/etc/os-release") -> dict[str, Any]:
    """The document."""
    python = [*distributions(site)]
    (ours,) = (each for each in python if each["name"] == NAME)
    others = [interpreter(), *(each for each in python if each is not ours), *debian(status, os_release)]
    references = sorted(each["bom-ref"] for each in others)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**ours, "type": "application"}},
        "components": sorted(others, key=lambda each: str(each["bom-ref"])),
        "dependencies": [{"ref": ours["bom-ref"], "dependsOn": references}],
    }


def distributions(site: str) -> Iterator[dict[str, Any]]:
    """The Python distributions below a folder."""
    for found in metadata.distributions(path=[site]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        yield _component(name, found.version, f"pkg:pypi/{name}@{found.version}", licence=_licence(found.metadata))


def interpreter() -> dict[str, Any]:
    """Python itself, which in the official images is no package."""
    version = platform.python_version()
    cpe = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
    return {**_component("python", version, f"pkg:generic/python@{version}"), "cpe": cpe}


def debian(status: str, os_release: str) -> Iterator[dict[str, Any]]:
    """The packages in dpkg's records."""
    release = dict(line.split("=", 1) for line in Path(os_release).read_text().splitlines() if "=" in line)
    distribution = f"{release['ID']}-{release.get('VERSION_ID', '')}".replace('"', "")
    for paragraph in Path(status).read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture): (\S+)$", paragraph, re.MULTILINE))
        if fields:
            where = f"?arch={fields['Architecture']}&distro={distribution}"
            name, version = fields["Package"], fields["Version"]
            yield _component(name, version, f"pkg:deb/debian/{quote(name)}@{quote(version)}{where}")


def _component(name: str, version: str, purl: str, licence: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**made, "licenses": [{"license": {"name": licence}}]} if licence else made


def _licence(found: Any) -> str:
    """What the metadata say: an SPDX expression, else the first line of what is written there, else a classifier."""
    classifiers = [each.rpartition(" :: ")[2] for each in found.get_all("Classifier", []) if "License ::" in each]
    said = found.get("License-Expression") or (found.get("License") or "").strip().partition("\n")[0]
    return str(said or ", ".join(classifiers))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2]), indent=1, sort_keys=True) + "\n")
