"""The dashboard's queries, asked of a real Prometheus that scrapes real runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.containers import ContainerHost
from lab.lab import Lab
from tests.scenario.nodeport_support import WORKERS, running
from tests.scenario.support import until

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not there: apt-get install prometheus"
    ),
]

DASHBOARD = Path(__file__).resolve().parents[2] / "samples" / "monitoring" / "dashboard.json"
PANELS = {
    panel["title"]: [target["expr"] for target in panel["targets"]]
    for panel in json.loads(DASHBOARD.read_text())["panels"]
}
QUERIES = {title: found for title, found in PANELS.items() if not title.startswith("nodeport")}
NODE_QUERIES = {title: found for title, found in PANELS.items() if title.startswith("nodeport")}
VARIABLES = {"$namespace": "core", "$pod": ".*", "$__rate_interval": "4s"}
VIP, OTHER = "192.168.0.2", "192.168.0.3"


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


@contextmanager
def prometheus(host: ContainerHost, folder: Path, port: int = 9090) -> Iterator[Prometheus]:
    """Scrape 127.0.0.1:8086 once a second, with the labels that the PodMonitor gives."""
    labels = {"namespace": "core", "pod": "upf-0"}
    jobs = [{"job_name": "core/vipmanager", "static_configs": [{"targets": ["127.0.0.1:8086"], "labels": labels}]}]
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with open(folder / "prometheus.log", "wb") as log:
        process = host.popen(
            [*argv, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield Prometheus(host, port)
    finally:
        process.kill()
        process.wait()


def assert_answered(server: Prometheus, queries: Mapping[str, list[str]]) -> None:
    """Every query of every panel gives something."""
    for title, expressions in queries.items():
        for expression in expressions:
            until(lambda query=expression: server.query(query), f"{title}: {expression}: no result")  # type: ignore[misc]


def test_a_sidecars_metrics_answer_every_query(tmp_path: Path) -> None:
    """Of a run that has met it all: a claim, a denial, a throttle, a drift and a take-over."""
    with Lab() as lab:
        pod = lab.pod("p", "a", {"net1": [f"{VIP}/32", f"{OTHER}/32"]})
        refused = lab.route_table_ids[-1]
        lab.ec2.faults.fail("CreateRoute", "RequestLimitExceeded", times=2)
        lab.ec2.faults.fail(
            "*Route", "UnauthorizedOperation", status=403, times=None, when=lambda call: call["RouteTableId"] == refused
        )
        run = pod.vipmanager(["sidecar"], {"ResyncInterval": 1})
        with prometheus(pod, tmp_path) as server:
            until(lambda: server.query('vipmanager_actions_total{result="denied"} > 0'), "denials are not counted")
            until(lambda: server.query("vipmanager_ec2_throttles_total > 0"), "throttles are not counted")
            lab.ec2.faults.clear()
            until(lambda: server.query('vipmanager_addresses{state="claimed"} == 2'), "not claimed")
            admin = lab.ec2.admin()
            destination = f"{OTHER}/32"
            admin.delete_route(RouteTableId=lab.route_table_ids[0], DestinationCidrBlock=destination)
            until(lambda: server.query("vipmanager_drift_total > 0"), "the drift is not seen")
            taker = lab.workers["b"].eni(1).eni_id
            for table in lab.route_table_ids:
                admin.replace_route(RouteTableId=table, DestinationCidrBlock=f"{VIP}/32", NetworkInterfaceId=taker)
            until(lambda: server.query("vipmanager_concessions_total > 0"), "the concession is not counted")
            assert_answered(server, QUERIES)
            assert not server.query("vipmanager_holds")
        assert run.poll() is None, run.output()


def test_a_nodes_metrics_answer_those_of_the_nodeport_mode(tmp_path: Path) -> None:
    with Lab(workers=WORKERS, kube=True) as lab, running(lab, "ac", FLOATING_IP="10.10.1.80") as nodes:
        nodes.start()
        holder = nodes.wait_holder()
        with prometheus(lab.workers[holder], tmp_path) as server:
            until(
                lambda: server.query("vipmanager_holds == 1 and vipmanager_ready == 1"), "it does not say that it holds"
            )
            assert_answered(server, NODE_QUERIES)
            (age,) = server.query("vipmanager_lease_renewal_age_seconds")
            assert 0 <= float(age["value"][1]) < 6


def test_each_panel_is_asked() -> None:
    assert set(QUERIES) | set(NODE_QUERIES) == set(PANELS)
    assert QUERIES and NODE_QUERIES
    assert all(set(re.findall(r"\$\w+", each)) <= set(VARIABLES) for found in PANELS.values() for each in found)
