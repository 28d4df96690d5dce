"""Settings from a ConfigMap manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from vipmanager.errors import ConfigError
from vipmanager.manifest import read_configmap

CONFIGMAP = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: floating
data:
  Intf1Peers: "10.0.0.0/24"
  RunAsSidecar: "True"
"""


def read(tmp_path: Path, text: str) -> dict[str, str]:
    """Read a manifest with this text."""
    path = tmp_path / "map.yaml"
    path.write_text(text, encoding="utf-8")
    return read_configmap(str(path))


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return caught.value.problems


def test_the_data_of_the_configmap(tmp_path: Path) -> None:
    assert read(tmp_path, CONFIGMAP) == {"Intf1Peers": "10.0.0.0/24", "RunAsSidecar": "True"}


def test_other_documents_of_the_file_do_not_matter(tmp_path: Path) -> None:
    pod = "kind: Pod\nmetadata: {name: x}\n"
    assert read(tmp_path, f"{pod}---\n{CONFIGMAP}\n---\n# nothing\n---\n[1, 2]\n") == read(tmp_path, CONFIGMAP)


@pytest.mark.parametrize("data", ["", "data:\n", "data: {}\n"])
def test_a_configmap_without_data_is_empty(tmp_path: Path, data: str) -> None:
    assert read(tmp_path, f"kind: ConfigMap\n{data}") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pod\n", "0 ConfigMaps"),
        ("", "0 ConfigMaps"),
        (f"{CONFIGMAP}---{CONFIGMAP}", "2 ConfigMaps"),
        ("kind: ConfigMap\ndata: [1]\n", "no mapping"),
        ("kind: [unclosed\n", "map.yaml"),
    ],
)
def test_a_file_that_is_not_one_configmap_is_a_problem(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert said in problem and "--configmap" in problem


def test_every_unquoted_value_is_named_as_kubernetes_refuses_it(tmp_path: Path) -> None:
    told = problems(tmp_path, 'kind: ConfigMap\ndata: {RunAsSidecar: True, InitTimeout: 60, UseSBR: "auto"}\n')
    assert len(told) == 2
    assert 'RunAsSidecar: "True"' in told[0] and 'InitTimeout: "60"' in told[1]


def test_a_file_that_is_not_there_is_a_problem() -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        read_configmap("/no-such-file.yaml")


def test_a_file_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ConfigError):
        read_configmap(str(tmp_path / "map.yaml"))
