"""The dashboard's queries, asked of a real Prometheus that scrapes real runs."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.containers import ContainerHost
from lab.lab import Lab
from tests.scenario.nodeport_support import LEASE, WORKERS, running
from tests.scenario.support import BOUND, Run, until
from vipmanager.monitor import FLAP_AFTER

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not there: apt-get install prometheus"
    ),
]

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "monitoring"
PANELS = {
    panel["title"]: [target["expr"] for target in panel["targets"]]
    for panel in json.loads((SAMPLES / "dashboard.json").read_text())["panels"]
}
ALERTS = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((SAMPLES / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
VARIABLES = {"$namespace": "core", "$pod": ".*", "$__rate_interval": "5m"}
"""As Grafana fills them in; the interval is longer than any run here, so that increases are of all of it."""
PORT = 8086
VIP, OTHER, REFUSED = "192.168.0.2", "192.168.0.3", "10.10.31.99"
"""The last lies in another subnet of the VPC, which `SubnetBasedLoopbacks` would have to allow."""

Expectation = Callable[[list[float]], bool]


def exactly(*numbers: int) -> Expectation:
    """These, in any order. An increase is extrapolated to the interval's ends, and rounded here."""
    return lambda found: [round(number) for number in found] == sorted(numbers)


def within(least: float, most: float) -> Expectation:
    """At least one, and all of them between these."""
    return lambda found: bool(found) and all(least <= number <= most for number in found)


def some(found: list[float]) -> bool:
    """At least one is more than nothing; those that did not change may be 0 or, of quantiles, no number."""
    return any(number > 0 and math.isfinite(number) for number in found)


SIDECAR: Mapping[str, Sequence[Expectation]] = {
    "Addresses delivered": [exactly(1)],
    "Addresses pending or refused": [exactly(1)],
    "Addresses conceded": [exactly(1)],
    "Pods not ready or down": [exactly(1)],
    "Problems": [exactly(1)],
    "Versions": [exactly(1)],
    "Addresses by state": [exactly(1, 1, 1)],
    "From event to converged": [some, some, some, within(0.1, 300)],
    "Claims, concessions, flaps, drift": [exactly(2), exactly(1), exactly(0), exactly(1)],
    "Changes by kind and result": [some],
    "Calls to EC2": [some],
    "Calls to EC2 that failed": [some, some],
    "Duration of calls to EC2, 95 %": [some],
    "Since the last resync": [within(0, 60)],
    "The loop's round, and netlink overruns": [within(0, 10), exactly(0)],
    "Memory": [within(1e7, 1e9)],
    "Descriptors": [within(3, 300)],
}
"""What each panel shows of a sidecar with one address of each kind: delivered, conceded, refused."""

NODEPORT: Mapping[str, Sequence[Expectation]] = {
    "Addresses delivered": [exactly(1)],
    "Pods not ready or down": [exactly(1)],
    "Addresses by state": [exactly(1)],
    "nodeport: who holds": [exactly(1)],
    "nodeport: age of the last renewal, renewals late or missed": [within(0, 6), within(0, 100)],
    "nodeport: changes of hands": [exactly(1)],
}
"""What is shown of two nodes, of which the first holder has been stopped and the other one holds."""


class Prometheus:
    """A server that runs beside what it scrapes."""

    def __init__(self, host: ContainerHost, port: int) -> None:
        self._host, self._url = host, f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """The result of an instant query; nothing while the server does not answer."""
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            answer = self._host.ns.run(lambda: urllib.request.urlopen(url, timeout=5).read())
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it has not read its own data yet
                return []
            raise AssertionError(error.read().decode()) from error
        except OSError:
            return []
        result: list[Mapping[str, Any]] = json.loads(answer)["data"]["result"]
        return result

    def values(self, expression: str) -> list[float]:
        """The same, without labels, sorted."""
        return sorted(float(each["value"][1]) for each in self.query(expression))


def scrape(targets: Mapping[str, str], folder: Path) -> Path:
    """A configuration that scrapes once a second, with the labels that the PodMonitor gives. `targets`: by pod."""
    found = [
        {"targets": [f"{address}:{PORT}"], "labels": {"namespace": "core", "pod": pod}}
        for pod, address in targets.items()
    ]
    jobs = [{"job_name": "monitoring/vipmanager", "static_configs": found}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    return path


@contextmanager
def prometheus(host: ContainerHost, folder: Path, targets: Mapping[str, str], port: int = 9090) -> Iterator[Prometheus]:
    """A server on this host."""
    argv = ["prometheus", f"--config.file={scrape(targets, folder)}", f"--storage.tsdb.path={folder / 'data'}"]
    with open(folder / "prometheus.log", "wb") as log:
        process = host.popen(
            [*argv, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield Prometheus(host, port)
    finally:
        process.kill()
        process.wait()


def assert_shown(server: Prometheus, expected: Mapping[str, Sequence[Expectation]]) -> None:
    """Every query of these panels answers with what is expected: by itself, without a 0 that is shown for nothing."""
    for title, expectations in expected.items():
        for expression, fits in zip(PANELS[title], expectations, strict=True):
            asked = expression.removesuffix(" or vector(0)")
            until(lambda: fits(server.values(asked)), lambda: f"{title}: {asked}: {server.query(asked)}")  # noqa: B023


def test_a_sidecars_metrics_answer_every_query(tmp_path: Path) -> None:
    """Of a run that has met it all: a claim, a denial, a throttle, a drift and a take-over."""
    with Lab() as lab:
        pod = lab.pod("p", "a", {"net1": [f"{VIP}/32", f"{OTHER}/32", f"{REFUSED}/32"]})
        refused = lab.route_table_ids[-1]
        lab.ec2.faults.fail(
            "*Route", "UnauthorizedOperation", status=403, times=None, when=lambda call: call["RouteTableId"] == refused
        )
        with prometheus(pod, tmp_path, {"upf-0": "127.0.0.1"}) as server:
            until(lambda: server.query(ALERTS["VipmanagerDown"]), "nothing tells that it does not run")
            run = pod.vipmanager(["sidecar"], {"ResyncInterval": 1})
            until(lambda: server.query(ALERTS["VipmanagerDenied"]), "denials are not seen to go on")
            assert_shown(server, {"Addresses pending or refused": [exactly(3)], "Pods not ready or down": [exactly(1)]})
            assert not server.query(ALERTS["VipmanagerDown"])
            lab.ec2.faults.clear()
            until(lambda: server.query('vipmanager_addresses{state="claimed"} == 2'), "not claimed")
            lab.ec2.faults.fail("DescribeRouteTables", "RequestLimitExceeded", times=None)
            until(lambda: server.query("increase(vipmanager_ec2_throttles_total[5m]) > 0"), "no throttles are seen")
            lab.ec2.faults.clear()
            admin = lab.ec2.admin()
            destination = f"{OTHER}/32"
            admin.delete_route(RouteTableId=lab.route_table_ids[0], DestinationCidrBlock=destination)
            until(lambda: server.query("vipmanager_drift_total > 0"), "the drift is not seen")
            taker = lab.workers["b"].eni(1).eni_id
            for table in lab.route_table_ids:
                admin.replace_route(RouteTableId=table, DestinationCidrBlock=f"{VIP}/32", NetworkInterfaceId=taker)
            until(lambda: server.query("vipmanager_concessions_total > 0"), "the concession is not counted")
            assert_shown(server, SIDECAR)
            assert not server.query("vipmanager_holds")
            assert run.poll() is None, run.output()


def test_a_start_that_was_over_before_the_first_scrape_is_shown(tmp_path: Path) -> None:
    """The fail-over itself: no rate() sees it, since the histogram's series begin with it."""
    with Lab() as lab:
        pod = lab.pod("p", "a", {"net1": [f"{VIP}/32"]})
        run = Run(pod.vipmanager(["sidecar"], {"LogFormat": "json"}))
        run.wait("claimed", address=VIP)
        with prometheus(pod, tmp_path, {"upf-0": "127.0.0.1"}) as server:
            (slowest,) = until(lambda: server.values("vipmanager_slowest_convergence_seconds"), "not scraped")
            assert server.values("vipmanager_convergence_seconds_count") >= [1.0]
        assert 0 < slowest < BOUND


def test_an_address_that_comes_and_goes_is_flapping_and_a_switch_over_is_not(tmp_path: Path) -> None:
    with Lab() as lab:
        pod = lab.pod("p", "a", {"net1": [f"{VIP}/32", f"{OTHER}/32"]})
        run = Run(pod.vipmanager(["sidecar"], {"LogFormat": "json"}))
        run.wait("claimed", address=OTHER)

        def come_and_go(claims: int) -> None:
            run.wait("claimed", address=VIP, count=claims - 1)
            pod.del_address("net1", f"{VIP}/32")
            run.wait("address gone", address=VIP, count=claims - 1)
            pod.add_address("net1", f"{VIP}/32")
            run.wait("claimed", address=VIP, count=claims)

        with prometheus(pod, tmp_path, {"upf-0": "127.0.0.1"}) as server:
            for claims in (2, FLAP_AFTER):
                come_and_go(claims)
            until(lambda: server.values("vipmanager_claims_total") == [1 + FLAP_AFTER], "its claims are not counted")
            assert server.values("vipmanager_flaps_total") == [0]
            assert not server.query(ALERTS["VipmanagerFlapping"])
            come_and_go(FLAP_AFTER + 1)
            until(lambda: server.query(ALERTS["VipmanagerFlapping"]), "it is not seen to flap")


def test_two_nodes_metrics_answer_those_of_the_nodeport_mode(tmp_path: Path) -> None:
    """A hand-over, and then an outage of both: what nobody exports any more still raises its alert."""
    with Lab(workers=WORKERS, kube=True) as lab, running(lab, "ac", FLOATING_IP="10.10.1.80") as nodes:
        nodes.start()
        holder = nodes.wait_holder()
        (other,) = set("ac") - {holder}
        targets = {nodes.pods[each]: str(lab.workers[each].eni(0).primary_ip) for each in "ac"}
        with prometheus(lab.workers["b"], tmp_path, targets) as server:
            until(
                lambda: server.values("vipmanager_holds and on (pod) vipmanager_ready == 1") == [0, 1],
                "not both are ready",
            )
            until(lambda: server.values("vipmanager_lease_transitions_total") == [0, 0], "the Lease is not counted")
            assert_shown(server, {"Addresses delivered": [exactly(1)], "nodeport: who holds": [exactly(0, 1)]})
            assert not server.query(ALERTS["VipmanagerNobodyHolds"])
            nodes.stop(holder)
            nodes.wait_holder(other)
            assert_shown(server, NODEPORT)
            assert not server.query(ALERTS["VipmanagerNobodyHolds"])
            (down,) = until(lambda: server.query(ALERTS["VipmanagerDown"]), "the stopped one is not seen as down")
            assert down["metric"]["pod"] == nodes.pods[holder]
            lab.kube.cut_all(refuse=True)
            (late,) = until(lambda: server.query(ALERTS["VipmanagerRenewalLate"]), "the renewal is not missed")
            assert late["metric"]["pod"] == nodes.pods[other]
            nodes.kill(other)
            until(lambda: server.values('up{job="monitoring/vipmanager"}') == [0, 0], "not both are down")
            (nobody,) = server.query(ALERTS["VipmanagerNobodyHolds"])
            assert nobody["metric"] == {"namespace": "core", "lease": f"{lab.kube.namespace}/{LEASE}"}
            assert not server.query("vipmanager_holds")


def test_each_panel_is_asked() -> None:
    assert set(SIDECAR) | set(NODEPORT) == set(PANELS)
    assert all(set(re.findall(r"\$\w+", each)) <= set(VARIABLES) for found in PANELS.values() for each in found)
