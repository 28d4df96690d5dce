"""Settings: every key, every default, every accepted word, and every problem at once."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_network

import pytest

from vipmanager.config import SETTINGS, Config, is_setting, load
from vipmanager.errors import ConfigError
from vipmanager.parsers import TagSelector


def problems(**values: str) -> tuple[str, ...]:
    """What is wrong with these settings."""
    with pytest.raises(ConfigError) as caught:
        load(values)
    return caught.value.problems


def test_nothing_set_means_the_defaults() -> None:
    assert load({}) == Config()


def test_the_default_of_each_setting_is_what_its_text_says() -> None:
    assert load({setting.key: setting.default for setting in SETTINGS}) == Config()


def test_an_empty_value_means_the_default() -> None:
    keys = [setting.key for setting in SETTINGS]
    assert load(dict.fromkeys([*keys, "Intf1Peers"], " ")) == Config()


def test_each_field_has_one_setting() -> None:
    names = [setting.field for setting in SETTINGS]
    assert sorted([*names, "eips", "peers", "warnings"]) == sorted(field.name for field in fields(Config))


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("VPCRTTag", "ALL", "route_tables", TagSelector()),
        ("VPCRTTag", "all", "route_tables", TagSelector()),
        ("VPCRTTag", "Name", "route_tables", TagSelector((("Name", None),))),
        ("VPCRTTag", "Name=a, Env = prod ", "route_tables", TagSelector((("Name", "a"), ("Env", "prod")))),
        ("VPCRTTag", "Name=", "route_tables", TagSelector((("Name", ""),))),
        ("VPCRTTag", "Name=a=b", "route_tables", TagSelector((("Name", "a=b"),))),
        ("RunAsSidecar", "True", "sidecar", True),
        ("SubnetBasedLoopbacks", "yes", "subnet_routes", True),
        ("UseSBR", "True", "source_routing", True),
        ("UseSBR", "False", "source_routing", False),
        ("UseSBR", "Auto", "source_routing", None),
        ("AssignIPs", "true", "assign", True),
        ("AssignIPs", "False", "assign", False),
        ("AssignIPs", "AUTO", "assign", None),
        ("SourceDestCheck", "keep", "disable_source_dest_check", False),
        ("SourceDestCheck", "Disable", "disable_source_dest_check", True),
        (
            "RouteTableRole",
            "arn:aws:iam::123456789012:role/a/b",
            "route_table_role",
            "arn:aws:iam::123456789012:role/a/b",
        ),
        (
            "RouteTableRole",
            "arn:aws-cn:iam::123456789012:role/x",
            "route_table_role",
            "arn:aws-cn:iam::123456789012:role/x",
        ),
        ("InitTimeout", "1.5", "init_timeout", 1.5),
        ("ResyncInterval", "0", "resync_interval", 0.0),
        ("ResyncInterval", "60", "resync_interval", 60.0),
        ("ReleaseOnExit", "no", "release_on_exit", False),
        ("DeleteRoutesOnExit", "1", "delete_routes_on_exit", True),
        ("StateDir", "/var/lib/x", "state_dir", "/var/lib/x"),
        ("LogLevel", "debug", "log_level", "DEBUG"),
        ("LogFormat", "JSON", "log_format", "json"),
    ],
)
def test_each_setting_is_read(key: str, text: str, field: str, value: object) -> None:
    assert getattr(load({key: f" {text} "}), field) == value


@pytest.mark.parametrize("word", ["true", "TRUE", "True", "yes", "on", "1"])
def test_words_for_true(word: str) -> None:
    assert load({"RunAsSidecar": word}).sidecar is True


@pytest.mark.parametrize("word", ["false", "FALSE", "False", "no", "off", "0"])
def test_words_for_false(word: str) -> None:
    assert load({"ReleaseOnExit": word}).release_on_exit is False


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("RunAsSidecar", "maybe", "true/false"),
        ("SubnetBasedLoopbacks", "2", "true/false"),
        ("UseSBR", "sometimes", "auto"),
        ("AssignIPs", "never", "auto"),
        ("SourceDestCheck", "Enable", "Disable, Keep"),
        ("VPCRTTag", "=prod", "key"),
        ("VPCRTTag", "Name=a,", "key"),
        ("VPCRTTag", "Name=a,,Env=b", "key"),
        ("RouteTableRole", "tables", "arn:aws:iam"),
        ("RouteTableRole", "arn:aws:iam::1:role/x", "arn:aws:iam"),
        ("InitTimeout", "0", "1 or more"),
        ("InitTimeout", "-1", "1 or more"),
        ("InitTimeout", "soon", "seconds"),
        ("InitTimeout", "nan", "seconds"),
        ("InitTimeout", "inf", "seconds"),
        ("ResyncInterval", "-1", "off"),
        ("ResyncInterval", "0.5", "off"),
        ("ReleaseOnExit", "da", "true/false"),
        ("DeleteRoutesOnExit", "?", "true/false"),
        ("StateDir", "run/vipmanager", "absolute"),
        ("LogLevel", "LOUD", "DEBUG"),
        ("LogFormat", "xml", "json"),
        ("Intf1Peers", "10.0.0.256", "no address or network"),
        ("Intf1Peers", "peer.example.com", "no address or network"),
        ("Intf1Peers", "10.0.0.5/24", "10.0.0.0/24"),
        ("Intf1Peers", "0.0.0.0/0", "UseSBR"),
        ("Intf1Peers", "::/0", "UseSBR"),
        ("Intf1Peers", "224.0.0.1", "multicast"),
        ("Intf1Peers", "127.0.0.1", "loopback"),
        ("Intf1Peers", "ff02::1", "multicast"),
        ("Intf1Peers", "::1", "loopback"),
        ("Intf1Peer", "10.0.0.1", "unknown setting"),
        ("IntfPeers", "10.0.0.1", "unknown setting"),
        ("Intf01Peers", "10.0.0.1", "unknown setting"),
        ("Intf100Peers", "10.0.0.1", "Intf99Peers"),
        ("Intf0Peers", "10.0.0.1", "primary interface"),
        ("Intf1peers", "10.0.0.1", "unknown setting"),
    ],
)
def test_a_wrong_value_is_one_problem_with_key_value_and_what_is_accepted(key: str, text: str, said: str) -> None:
    (problem,) = problems(**{key: text})
    assert key in problem and said in problem
    if not key.endswith("Peers") or "unknown" in problem:
        assert repr(text) in problem


def test_all_problems_are_told_at_once() -> None:
    told = problems(
        Intf1Peers="10.0.0.1,nonsense,10.0.0.5/24",
        Intf1Peer="10.0.0.1",
        VPCRTTag="=x",
        RunAsSidecar="maybe",
        ResyncInterval="-1",
        StateDir="here",
    )
    assert len(told) == 7
    for word in ("nonsense", "10.0.0.5/24", "Intf1Peer=", "VPCRTTag", "RunAsSidecar", "ResyncInterval", "StateDir"):
        assert sum(word in problem for problem in told) == 1


def test_other_variables_of_the_environment_are_left_alone() -> None:
    assert load({"PATH": "/bin", "AWS_REGION": "us-east-2", "runassidecar": "maybe"}) == Config()
    assert not is_setting("PATH")
    assert is_setting("VPCRTTag") and is_setting("Intf1Peers") and is_setting("Intf1Peer")


def test_peers_are_hosts_and_networks_of_both_families() -> None:
    peers = load({"Intf1Peers": " 10.0.0.1 ,, 10.1.0.0/16, fd00::/64,2001:db8::1,", "Intf12Peers": "10.9.0.0/16"}).peers
    assert peers == {
        1: tuple(map(ip_network, ("10.0.0.1/32", "10.1.0.0/16", "fd00::/64", "2001:db8::1/128"))),
        12: (ip_network("10.9.0.0/16"),),
    }


def test_a_peer_that_is_named_twice_counts_once() -> None:
    assert load({"Intf1Peers": "10.0.0.1,10.0.0.1/32"}).peers == {1: (ip_network("10.0.0.1/32"),)}


def test_a_peer_of_two_interfaces_is_warned_of() -> None:
    (warning,) = load({"Intf1Peers": "10.0.0.1,10.0.0.2", "Intf2Peers": "10.0.0.1"}).warnings
    assert all(word in warning for word in ("10.0.0.1", "Intf1Peers", "Intf2Peers"))


@pytest.mark.parametrize(
    ("text", "tags", "selected"),
    [
        ("ALL", {}, True),
        ("Name", {"Name": ""}, True),
        ("Name", {"name": "x"}, False),
        ("Name=a", {"Name": "a"}, True),
        ("Name=a", {"Name": "ab"}, False),
        ("Name=a", {"Name": "A"}, False),
        ("Name=rt-*", {"Name": "rt-1"}, True),
        ("Name=rt-?", {"Name": "rt-12"}, False),
        ("Name=a,Env=p", {"Name": "a"}, False),
        ("Name=a,Env", {"Name": "a", "Env": "x", "Other": "y"}, True),
        ("Name=rt[1]", {"Name": "rt[1]"}, True),
        ("Name=rt[1]", {"Name": "rt1"}, False),
    ],
)
def test_route_tables_are_selected_by_all_of_their_tags(text: str, tags: dict[str, str], selected: bool) -> None:
    """Wildcards are EC2's own, * and ?: brackets mean themselves."""
    assert load({"VPCRTTag": text}).route_tables.matches(tags) is selected


@pytest.mark.parametrize("text", ["ALL", "Name", "Name=a", "Name=a,Env=b", "Name="])
def test_a_selector_prints_as_it_is_written(text: str) -> None:
    assert str(load({"VPCRTTag": text}).route_tables) == text
