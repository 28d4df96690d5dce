"""Settings: every key, every default, every accepted word, and every problem at once."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from vipmanager.config import SETTINGS, Config, is_setting, load
from vipmanager.errors import ConfigError
from vipmanager.floating import Floating, FloatingMode, HealthCheck
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
    assert load(dict.fromkeys([*keys, "Intf1Peers", "Intf1EIPs"], " ")) == Config()


def test_each_field_has_one_setting() -> None:
    names = [setting.field for setting in SETTINGS]
    assert sorted([*names, "eips", "peers", "pools", "warnings"]) == sorted(field.name for field in fields(Config))


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("HealthPort", "0", "health_port", 0),
        ("HealthPort", "65535", "health_port", 65535),
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
        ("FLOATING_IP", "10.0.0.80", "floating", Floating((ip_address("10.0.0.80"),))),
        (
            "FLOATING_IP",
            "eipalloc-0123abcd, 10.0.0.80,, 2001:db8::80, eipalloc-0123456789abcdef0",
            "floating",
            Floating(
                (ip_address("10.0.0.80"), ip_address("2001:db8::80")),
                ("eipalloc-0123abcd", "eipalloc-0123456789abcdef0"),
            ),
        ),
        *(("FloatingMode", mode.value.upper(), "floating_mode", mode) for mode in FloatingMode),
        ("FloatingSubnetCidr", "192.168.248.0/24", "floating_subnet", IPv4Network("192.168.248.0/24")),
        ("FloatingSubnetCidr", "10.1.0.0/16", "floating_subnet", IPv4Network("10.1.0.0/16")),
        ("FloatingSubnetCidr", "10.1.0.16/28", "floating_subnet", IPv4Network("10.1.0.16/28")),
        ("LeaseName", "a", "lease_name", "a"),
        ("LeaseName", "web-1.prod--x", "lease_name", "web-1.prod--x"),
        ("LeaseName", "a" * 253, "lease_name", "a" * 253),
        ("LeaseDuration", "5", "lease_duration", 5),
        ("LeaseDuration", "3600", "lease_duration", 3600),
        ("RenewDeadline", "4.5", "renew_deadline", 4.5),
        ("RetryPeriod", "0.1", "retry_period", 0.1),
        ("HealthCheck", "tcp://:30007", "health_check", HealthCheck("tcp", "", 30007)),
        ("HealthCheck", "TCP://10.0.0.1:80/", "health_check", HealthCheck("tcp", "10.0.0.1", 80)),
        ("HealthCheck", "http://:30007/a?b=c", "health_check", HealthCheck("http", "", 30007, "/a?b=c")),
        ("HealthCheck", "http://[::1]:8080", "health_check", HealthCheck("http", "::1", 8080, "/")),
        ("HealthCheck", "http://Node/x", "health_check", HealthCheck("http", "node", 80, "/x")),
        ("HealthCheck", "https://node", "health_check", HealthCheck("https", "node", 443, "/")),
        ("HealthThreshold", "1", "health_threshold", 1),
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
        ("FLOATING_IP", "10.0.0.80/32", "leave the prefix length away"),
        ("FLOATING_IP", "10.0.0.256", "eipalloc-…"),
        ("FLOATING_IP", "EIPALLOC-0123abcd", "eipalloc-…"),
        ("FLOATING_IP", "eipalloc-0123abc", "8 to 17 hexadecimal"),
        ("FLOATING_IP", "eipalloc-0123abcg", "8 to 17 hexadecimal"),
        ("FLOATING_IP", "10.0.0.80,10.0.0.80", "10.0.0.80 is named twice"),
        ("FLOATING_IP", "2001:db8::80,2001:DB8:0::80", "2001:db8::80 is named twice"),
        ("FLOATING_IP", "eipalloc-0123abcd,eipalloc-0123abcd", "eipalloc-0123abcd is named twice"),
        ("FLOATING_IP", "224.0.0.1", "multicast"),
        ("FLOATING_IP", "127.0.0.1", "loopback"),
        ("FLOATING_IP", "169.254.1.1", "link-local"),
        ("FLOATING_IP", "fe80::1", "link-local"),
        ("FLOATING_IP", "0.0.0.0", "unspecified"),
        ("FLOATING_IP", "2001:db8::1%eth0", "names an interface"),
        ("FloatingMode", "both", "address, route, eni, subnet"),
        ("FloatingSubnetCidr", "subnet-1", "192.168.248.0/24"),
        ("FloatingSubnetCidr", "fd00::/64", "no IPv4 network"),
        ("FloatingSubnetCidr", "192.168.248.7/24", "192.168.248.0/24"),
        ("FloatingSubnetCidr", "192.168.248.0", "/16 to /28"),
        ("FloatingSubnetCidr", "10.0.0.0/15", "/16 to /28"),
        ("FloatingSubnetCidr", "10.0.0.0/29", "/16 to /28"),
        *(("LeaseName", text, "lower-case") for text in ("Web", "a_b", "-a", "a-", "a..b", "a.-b", "a" * 254)),
        *(("LeaseDuration", text, "2 to 3600") for text in ("1", "3601", "6.5", "-6", "+6", "six", "9" * 5000)),
        ("RenewDeadline", "0.4", "0.5 or more"),
        ("RetryPeriod", "0", "0.1 or more"),
        ("HealthCheck", "udp://:53", "tcp://:30007"),
        ("HealthCheck", ":30007", "tcp://:30007"),
        ("HealthCheck", "http:30007", "tcp://:30007"),
        ("HealthCheck", "tcp://node", "tcp://:30007"),
        ("HealthCheck", "tcp://:0", "tcp://:30007"),
        ("HealthCheck", "http://:0/", "tcp://:30007"),
        ("HealthCheck", "tcp://:65536", "out of range"),
        ("HealthCheck", "tcp://:port", "tcp://:30007"),
        ("HealthCheck", "tcp://:80/path", "tcp://:30007"),
        ("HealthCheck", "tcp://:80?path", "tcp://:30007"),
        ("HealthCheck", "http://[::1/", "tcp://:30007"),
        ("HealthCheck", "http://:80/a b", "tcp://:30007"),
        ("HealthCheck", "http://:80/a\r\nb", "tcp://:30007"),
        ("HealthCheck", "http://:80/ä", "tcp://:30007"),
        ("HealthCheck", "http://:80/a#b", "tcp://:30007"),
        ("HealthCheck", "http://user:word@node/", "tcp://:30007"),
        ("HealthThreshold", "0", "1 to 1000"),
        *(("HealthPort", text, "1 to 65535") for text in ("65536", "-1", "+80", "http", "80.0", "٨٠", "9" * 5000)),
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
        ("Intf1Peers", "2001:db8::1%eth0", "no address or network"),
        ("Intf1EIPs", "10.0.0.80", "10.0.0.80=eipalloc-…"),
        ("Intf1EIPs", "10.0.0.80/32=eipalloc-0123abcd", "leave the prefix length away"),
        ("Intf1EIPs", "10.0.0=eipalloc-0123abcd", "10.0.0.80=eipalloc-…"),
        ("Intf1EIPs", "fd00::1=eipalloc-0123abcd", "IPv4 address"),
        ("Intf1EIPs", "10.0.0.80=3.3.3.3", "allocation id"),
        ("Intf1EIPs", "10.0.0.80=", "allocation id"),
        ("Intf1EIPs", "10.0.0.80=eipalloc-0123abcd,10.0.0.81=eipalloc-0123abcd", "repeats"),
        ("Intf1EIPs", "10.0.0.80=eipalloc-0123abcd,10.0.0.80=eipalloc-0123abce", "repeats"),
        ("Intf0EIPs", "10.0.0.80=eipalloc-0123abcd", "primary interface"),
        ("Intf1EIP", "10.0.0.80=eipalloc-0123abcd", "unknown setting"),
        ("Intf01EIPs", "10.0.0.80=eipalloc-0123abcd", "unknown setting"),
        ("Intf1Pools", "192.168.0.1/28", "192.168.0.0/28"),
        ("Intf1Pools", "192.168.0.0-15", "no address or network"),
        ("Intf1Pools", "::/0", "everything"),
        ("Intf1Pools", "224.0.0.0/28", "multicast"),
        ("Intf1Pools", "fe80::/64", "link-local"),
        ("Intf1Pools", "192.168.0.0/28, 192.168.0.0/24", "overlaps"),
        ("Intf0Pools", "192.168.0.0/28", "primary interface"),
        ("RouteAggregation", "auto", "true/false"),
    ],
)
def test_a_wrong_value_is_one_problem_with_key_value_and_what_is_accepted(key: str, text: str, said: str) -> None:
    (problem,) = problems(**{key: text})
    assert key in problem and said in problem
    if not key.endswith(("Peers", "Pools")) or "unknown" in problem:
        assert repr(text) in problem


def test_pools_are_read_by_device_index_and_do_not_overlap() -> None:
    read = load({"Intf1Pools": "192.168.0.0/28, fd00::/120", "Intf2Pools": "192.168.0.16/28"})
    assert read.pools == {
        1: (ip_network("192.168.0.0/28"), ip_network("fd00::/120")),
        2: (ip_network("192.168.0.16/28"),),
    }
    (problem,) = problems(Intf1Pools="192.168.0.0/28", Intf2Pools="192.168.0.0/24")
    assert "Intf2Pools" in problem and "Intf1Pools" in problem


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


# Elastic IPs of pods -------------------------------------------------------------------------------------------------


def test_elastic_ips_are_by_device_index_and_address() -> None:
    found = load({"Intf1EIPs": " 10.0.0.80 = eipalloc-0123abcd ,, 10.0.0.81=eipalloc-0123abce,", "Intf12EIPs": ","})
    assert found.eips == {
        1: {ip_address("10.0.0.80"): "eipalloc-0123abcd", ip_address("10.0.0.81"): "eipalloc-0123abce"}
    }


def test_an_elastic_ip_of_two_interfaces_is_a_problem_that_names_both() -> None:
    (problem,) = problems(Intf1EIPs="10.0.0.80=eipalloc-0123abcd", Intf2EIPs="10.0.1.80=eipalloc-0123abcd")
    assert all(word in problem for word in ("eipalloc-0123abcd", "Intf1EIPs", "Intf2EIPs"))
