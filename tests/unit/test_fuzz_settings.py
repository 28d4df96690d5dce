"""Whatever a ConfigMap holds is a Config or a ConfigError; a manifest of little text stays little work."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipmanager.config import SETTINGS, Config, check_nodeport, load
from vipmanager.errors import ConfigError
from vipmanager.iam import operations
from vipmanager.manifest import read_configmap

KEYS = [
    *(setting.key for setting in SETTINGS),
    "Intf1Peers",
    "Intf2EIPs",
    "Intf3Pools",
    "Intf٣Peers",
    "Intf",
    "IntfXPools",
]
WORDS = [
    "True", "0", "-0", "1e308", "1e999", "nan", "inf", "-1", "٣", "１２", "1_0", "0x10", "9" * 5000, "ALL", "a=b=c,=",
    "10.0.0.1", "10.0.0.0/8", "10.0.0.1/8", "0.0.0.0/0", "::/0", "::ffff:10.0.0.1", "fe80::1%eth0",
    "10.0.0.1=eipalloc-12345678", "eipalloc-12345678", "tcp://:30007", "http://[::1]:80/x?y#z", "http://:99999/", "http://[",
    "https://user@h/", "/run/x", "/",
    "/\0", "arn:aws:iam::123456789012:role/x", "subnet", "192.168.248.0/24", "\x1b[2J", "a\r\nb",
    "\ud800", "{a: [b]}", "*" * 300,
]  # fmt: skip
texts = st.sampled_from(WORDS) | st.text(max_size=30) | st.lists(st.sampled_from(WORDS), max_size=6).map(",".join)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(values=st.dictionaries(st.sampled_from(KEYS), texts, max_size=8))
def test_settings_of_any_text(values: dict[str, str]) -> None:
    try:
        config = load(values)
    except ConfigError as error:
        assert error.problems
        return
    assert isinstance(config, Config)
    for mode in ("init", "sidecar", "nodeport"):
        assert operations(config, mode)
    try:
        check_nodeport(config)
    except ConfigError as error:
        assert error.problems


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(text=texts)
def test_each_setting_says_which_it_is(key: str, text: str) -> None:
    try:
        load({key: text})
    except ConfigError as error:
        assert any(key in problem or "RetryPeriod" in problem for problem in error.problems)


@pytest.mark.parametrize(
    ("key", "item"),
    [
        ("FLOATING_IP", "10.{}.{}.1"),
        ("Intf1Peers", "10.{}.{}.0/24"),
        ("Intf1Pools", "10.{}.{}.0/24"),
        ("Intf1EIPs", "10.{}.{}.1=eipalloc-{:04x}{:04x}"),
    ],
)
def test_a_list_as_long_as_the_environment_takes_is_read_in_linear_time(key: str, item: str) -> None:
    """One variable holds 128 KiB at most (execve(2)). Counted in steps, not in seconds."""

    def steps(count: int) -> int:
        text = ",".join(item.format(n // 256, n % 256, n // 256, n % 256) for n in range(count))
        return _steps(lambda: load({key: text}))

    assert steps(1600) < 5 * steps(400)


def _steps(call: Callable[[], object]) -> int:
    """How many calls of functions it takes."""
    count = 0

    def count_calls(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_calls)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


# The file of --configmap


def read(directory: Path, text: str) -> dict[str, str] | tuple[str, ...]:
    """The data, or the problems."""
    path = directory / "map.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        return read_configmap(str(path))
    except ConfigError as error:
        return error.problems


SNIPPETS = [
    "kind: ConfigMap\n", "data:\n", "  a: b\n", "  a: 'x'\n", "  a: &x [1, 2]\n", "  b: *x\n",
    "  <<: *x\n", "  <<: {a: b}\n", "---\n",
    "  a: 2026-99-99\n", "  a: !!int ''\n", "  a: !!timestamp x\n", "  a: !!bool x\n",
    "  a: !!float ''\n", "  ? [1]\n  : b\n", "  1: b\n",
    "  a: !!python/object/apply:os.getpid []\n", "  a: !!set {b}\n", "  a: !!binary x\n", "  a: 190:20:30\n",
    "  a: 0x" + "f" * 9000 + "\n",
    "  0x" + "f" * 9000 + ": b\n", "  a: |\n   b\n", "%YAML 9.9\n", "\t", "{", "[", "  a: .nan\n", "  a: ~\n",
]  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.lists(st.sampled_from(SNIPPETS), max_size=8).map("".join) | st.text(max_size=60))
def test_a_manifest_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    read(tmp_path_factory.getbasetemp(), text)


def bomb(levels: int, first: str, wrap: str) -> str:
    """Each level refers to the one before it nine times."""
    above = (f"l{n}: &l{n} " + wrap % ", ".join([f"*l{n - 1}"] * 9) for n in range(1, levels))
    return f"kind: ConfigMap\nl0: &l0 {first}\n" + "\n".join(above) + f"\ndata: {{a: *l{levels - 1}}}\n"


@pytest.mark.parametrize(
    "text",
    [
        bomb(30, "[x]", "[%s]"),
        bomb(30, "{x: y}", "{<<: [%s]}"),
        "kind: ConfigMap\ndata: {a: &a [*a]}\n",
        "kind: ConfigMap\ndata: &a {<<: *a}\n",
        "kind: ConfigMap\ndata: {a: " + "[" * 500 + "]" * 500 + "}\n",
        "kind: ConfigMap\ndata: {a: 0x" + "f" * 100_000 + "}\n",
        "#" * (5 << 20),
    ],
    ids=["aliases", "merges", "in itself", "merged into itself", "deep", "a huge number", "a huge file"],
)
def test_a_bomb_is_refused_and_stays_small(tmp_path: Path, text: str) -> None:
    tracemalloc.start()
    try:
        told = read(tmp_path, text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told == {} or (isinstance(told, tuple) and sum(map(len, told)) < 2000)
    assert peak < 100 << 20
