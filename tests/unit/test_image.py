"""What the image is made from: the locks, what is left of the packages, the ways in, the capability, the materials."""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import vipmanager
from vipmanager.clients import ec2_model

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "image"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SITE = Path(sysconfig.get_path("purelib"))
BOUND = 120.0


def script(name: str) -> ModuleType:
    """A script of image/ as a module."""
    spec = importlib.util.spec_from_file_location(f"image_{name}", IMAGE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(name: str) -> dict[str, tuple[str, int]]:
    """What a lock file pins: name → version, number of hashes."""
    found = {}
    for each in re.split(r"\n(?=[a-z])", (IMAGE / name).read_text()):
        if pin := re.match(r"([a-z0-9-]+)==(\S+)", each):
            found[pin[1]] = (pin[2], each.count("--hash=sha256:"))
    return found


def normal(requirement: str) -> tuple[str, str]:
    """A pinned requirement: normalized name, version."""
    name, _, version = requirement.partition("==")
    return re.sub(r"[-_.]+", "-", name).lower(), version


def required() -> list[tuple[str, str]]:
    """What setup.cfg requires for the image."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options"]["install_requires"] + settings["options.extras_require"]["nodeport"]
    return [normal(line) for line in lines.split()]


def test_the_lock_has_what_setup_cfg_requires_and_a_hash_of_everything() -> None:
    pins = locked("requirements.lock")
    assert {name: pins[name][0] for name, _ in required()} == dict(required())  # else: make lock
    assert all(hashes for _, hashes in (*pins.values(), *locked("build.lock").values()))


def test_the_image_is_built_with_the_setuptools_of_pyproject() -> None:
    (wanted,) = re.findall(r'requires = \["setuptools==([^"]+)"\]', (ROOT / "pyproject.toml").read_text())
    assert locked("build.lock")["setuptools"][0] == wanted


def test_the_dockerfile_says_who_and_what() -> None:
    assert f"ARG VERSION={vipmanager.__version__}\n" in DOCKERFILE
    assert re.search(r"^USER 65532:65532$", DOCKERFILE, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["vipmanager"\]$', DOCKERFILE, re.MULTILINE)
    assert "HEALTHCHECK" not in DOCKERFILE
    everything = DOCKERFILE + "".join(path.read_text() for path in IMAGE.glob("*.*") if path.suffix != ".lock")
    assert not re.search(r"amd64|x86_64|aarch64|arm64", everything)


@pytest.fixture(scope="module")
def slimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the image, taken from this environment, after slim.py."""
    site = tmp_path_factory.mktemp("site")
    for name, _ in [normal(each) for each in locked("requirements.lock")]:
        with contextlib.suppress(metadata.PackageNotFoundError):  # for another system, or another Python
            copy_distribution(metadata.distribution(name), site)
    shutil.copytree(ROOT / "vipmanager", site / "vipmanager", ignore=shutil.ignore_patterns("__pycache__"))
    script("slim").main(site)
    return site


def copy_distribution(found: metadata.Distribution, site: Path) -> None:
    """Copy what a distribution has installed."""
    for path in found.files or ():
        source = Path(str(found.locate_file(path)))
        if ".." not in path.parts and "__pycache__" not in path.parts and source.exists():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, site / path)


def run_with(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python that has these packages and no others."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); exec(sys.argv.pop(1))"
    return subprocess.run(
        [sys.executable, "-S", "-E", "-c", program, str(site), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def test_what_is_left_of_botocore_serves_ec2_and_sts(slimmed: Path) -> None:
    assert ec2_model.trimmed_model_path() is not None
    done = run_with(
        slimmed,
        "import botocore.session, botocore.loaders\n"
        "from vipmanager.clients.ec2_model import trimmed_model_path\n"
        "session = botocore.session.Session()\n"
        "loader = botocore.loaders.Loader([trimmed_model_path()], include_default_search_paths=True)\n"
        "session.register_component('data_loader', loader)\n"
        "made = [session.create_client(name, region_name='eu-central-1') for name in ('ec2', 'sts')]\n"
        "print(*(each.meta.endpoint_url for each in made))",
    )
    assert done.stdout.split() == [
        "https://ec2.eu-central-1.amazonaws.com",
        "https://sts.eu-central-1.amazonaws.com",
    ], done.stderr


def test_every_module_of_vipmanager_can_be_imported_with_what_is_left(slimmed: Path) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "vipmanager").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    done = run_with(slimmed, f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_what_is_left_of_the_kubernetes_client_misses_nothing(slimmed: Path) -> None:
    """requests, which it imports, says in a warning what it lacks."""
    done = run_with(slimmed, "import warnings\nwarnings.simplefilter('error')\nfrom kubernetes import client")
    assert done.returncode == 0, done.stderr


def test_what_is_left_of_the_kubernetes_client_does_all_that_the_lease_port_asks(slimmed: Path, tmp_path: Path) -> None:
    (tmp_path / "kubernetes").symlink_to(slimmed / "kubernetes")
    suite = ["-q", "-p", "no:cacheprovider", "tests/contract/test_lease_client_port.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *suite],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=5 * BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert not (slimmed / "kubernetes/client/models/v1_pod.py").exists()


def test_packages_that_nothing_imports_go_with_their_metadata(slimmed: Path) -> None:
    left = {each.name for each in slimmed.iterdir()}
    assert {"botocore", "kubernetes", "prometheus_client", "pyroute2", "urllib3", "vipmanager", "yaml"} <= left
    gone = {"aiohttp", "yarl", "multidict", "websocket"}
    assert not {name for name in left if name.partition("-")[0] in gone}


def test_a_package_that_has_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    with pytest.raises(FileNotFoundError):
        script("slim").keep_only(tmp_path, frozenset(("here", "missing")))
    assert (tmp_path / "here").exists()


@pytest.mark.parametrize("words", ["/app/script.sh --version", "exec /app/script.sh --version"])
def test_the_shell_that_is_none_does_the_script(words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-IB", str(IMAGE / "sh.py"), "-c", words],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    )
    assert done.stdout.strip() == vipmanager.__version__


@pytest.mark.parametrize("arguments", [[], ["-c"], ["-c", "ls /app/script.sh"], ["-c", "/app/script.sh", "x"], ["x"]])
def test_the_shell_that_is_none_does_nothing_else(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-IB", str(IMAGE / "sh.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no shell" in done.stderr


def test_the_file_capability_is_permitted_and_not_effective() -> None:
    module = script("capability")
    value = module.value(module.NET_ADMIN, module.NET_RAW)
    assert value == bytes.fromhex(
        "00000002 00300000 00000000 00000000 00000000"
    )  # as setcap cap_net_admin,cap_net_raw=p


USER = """
import ctypes, os
from vipmanager.clients import privileges
if {keep}:
    ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: what is permitted stays, what is effective goes
os.setgid(65532)
os.setuid(65532)
def effective():
    (line,) = (line for line in open("/proc/thread-self/status") if line.startswith("CapEff"))
    return int(line.split()[1], 16) >> 12 & 1
print(effective(), privileges.take_effect(), effective())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which takes root")
@pytest.mark.parametrize(("keep", "wanted"), [(True, "0 True 1"), (False, "0 False 0")])
def test_a_permitted_capability_takes_effect(keep: bool, wanted: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USER.format(keep=keep)], capture_output=True, text=True, timeout=BOUND, cwd=ROOT
    )
    assert done.stdout.strip() == wanted, done.stderr


def test_the_bill_of_materials_says_each_component_once(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n\n")
    release = tmp_path / "os-release"
    release.write_text('ID=debian\nVERSION_ID="13"\n')
    made = script("sbom").main(str(SITE), str(status), str(release))
    assert json.loads(json.dumps(made)) == made
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    ours = made["metadata"]["component"]
    assert (ours["name"], ours["version"]) == ("vipmanager", vipmanager.__version__)
    references = [each["bom-ref"] for each in made["components"]]
    assert len(set(references)) == len(references)
    assert "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13" in references
    versions = {each["name"]: each["version"] for each in made["components"]}
    assert {name: versions[name] for name, _ in required()} == dict(required())
    assert made["dependencies"][0]["dependsOn"] == sorted(references)
