"""Leaves of the installed packages what vipmanager can reach: `python3 slim.py SITE_PACKAGES`, when an image is built.

Taken out: of botocore's data all services but EC2 and STS (of EC2's model the cut-down one is used), of the Kubernetes
client all but the Lease's API, a few ways into other frameworks, and whole packages that nothing imports any more.
"""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

BOTOCORE_DATA = frozenset(
    (
        "_retry.json",
        "partitions.json",
        "sdk-default-configuration.json",
        "sts/2011-06-15/endpoint-rule-set-1.json.gz",
        "sts/2011-06-15/service-2.json.gz",
    )
)
"""Of botocore's data what is used. EC2's and endpoints.json are there as the smaller copies of
`vipmanager.clients.ec2_model`."""

KUBERNETES = {
    "__init__.py": "from kubernetes import client\n",
    "client/__init__.py": (
        "from kubernetes.client.api.coordination_v1_api import CoordinationV1Api\n"
        "from kubernetes.client.api_client import ApiClient\n"
        "from kubernetes.client.configuration import Configuration\n"
        "from kubernetes.client.exceptions import ApiException\n"
    ),
    "client/models/__init__.py": "",
    "client/api/__init__.py": "",
    "config/__init__.py": "from .config_exception import ConfigException\n",
}
"""The Kubernetes client's modules that are made anew: they import what is there. Its models are of no use, because
vipmanager handles objects as JSON."""
KUBERNETES_KEPT = (
    *KUBERNETES,
    "client/api/coordination_v1_api.py",
    "client/api_client.py",
    "client/configuration.py",
    "client/exceptions.py",
    "client/rest.py",
    "config/config_exception.py",
    "config/dateutil.py",
    "config/exec_provider.py",
    "config/incluster_config.py",
    "config/kube_config.py",
)

UNUSED = (
    "charset_normalizer/*.so",  # twins of its modules that ask for libpthread.so.0, which root.py does not copy
    "prometheus_client/aiohttp",
    "prometheus_client/bridge",
    "prometheus_client/django",
    "prometheus_client/twisted",
    "urllib3/contrib/emscripten",
    "yaml/_yaml.*.so",  # the parser in C, which nobody asks for
)
"""Ways into other frameworks, which import them; and compiled code that is not needed."""

ROOTS = ("vipmanager", "botocore", "kubernetes", "prometheus_client", "pyroute2", "yaml")
"""What vipmanager imports itself; the rest stays if one of these can reach it."""


def main(site: Path) -> None:
    """Take out what is not needed. Raises FileNotFoundError where a package has changed, so that somebody looks."""
    slim_botocore(site / "botocore")
    slim_kubernetes(site / "kubernetes")
    for pattern in UNUSED:
        for each in site.glob(pattern):
            _delete(each)
    for gone in sorted(unreached(site)):
        remove(site, gone)


def slim_botocore(package: Path) -> None:
    """Leave the data that is used."""
    keep_only(package / "data", BOTOCORE_DATA)


def slim_kubernetes(package: Path) -> None:
    """Leave the Lease's API, and the settings of a pod or a kubeconfig."""
    keep_only(package, frozenset(KUBERNETES_KEPT))
    for name, text in KUBERNETES.items():
        (package / name).write_text(text)


def keep_only(folder: Path, names: frozenset[str]) -> None:
    """Delete every other file below a folder. Raises FileNotFoundError where one of them is not there."""
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(folder / name)
    for each in sorted(folder.rglob("*"), reverse=True):
        if each.is_dir():
            if not any(each.iterdir()):
                each.rmdir()
        elif str(each.relative_to(folder)) not in names:
            each.unlink()


def unreached(site: Path) -> set[str]:
    """The top-level packages and modules that cannot be reached from ROOTS by any import statement."""
    present = {each.stem if each.suffix == ".py" else each.name.partition(".")[0]: each for each in _top_level(site)}
    reached: set[str] = set()
    pending = [name for name in ROOTS if name in present]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += {imported for imported in imports(present[name]) if imported in present}
    return set(present) - reached


def imports(package: Path) -> Iterator[str]:
    """The top-level names that the modules of a package import, wherever in them."""
    for path in package.rglob("*.py") if package.is_dir() else [package]:
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.partition(".")[0]


def remove(site: Path, name: str) -> None:
    """Delete a top-level package or module with its distribution's metadata, if it has no other."""
    for each in _top_level(site):
        if each.name.partition(".")[0] == name:
            _delete(each)
    for info in site.glob("*.dist-info"):
        files = [line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()]
        code = [file for file in files if not file.startswith((info.name, "..", "/"))]
        if not any((site / file).exists() for file in code):
            shutil.rmtree(info)


def _top_level(site: Path) -> Iterator[Path]:
    for each in sorted(site.iterdir()):
        if each.suffix in (".dist-info", ".pth") or each.name in ("__pycache__", "bin"):
            continue
        yield each


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
