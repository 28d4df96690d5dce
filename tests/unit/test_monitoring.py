"""samples/monitoring: the rules and the dashboard fit each other, the metrics that there are, and the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vipmanager.metrics import BY_NAME, HISTOGRAM, METRICS, Metric

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "samples" / "monitoring"
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [rule for group in ALERTS for rule in group["rules"]]
EXPRESSIONS = [rule["expr"] for rule in RULES]
TARGETS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ADDED = {"namespace", "pod", "job", "le"}
"""Labels that come from the scrape, and the histograms' own."""

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)


def metrics_of(expression: str) -> Iterator[tuple[str, str]]:
    """Each metric of ours in an expression, as METRICS has it, with what stands in braces behind it."""
    for name, _, selector in re.findall(r"\b(vipmanager_\w+)(\{([^}]*)\})?", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        yield (base if base in BY_NAME and BY_NAME[base].kind == HISTOGRAM else name), selector


@promtool
@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_promtool_accepts_the_rules_and_each_fires_when_it_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    cases = [(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]
    assert set(cases) == {(rule["alert"], fires) for rule in RULES for fires in (False, True)}


def test_the_operators_rules_are_the_same() -> None:
    assert yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())["spec"]["groups"] == ALERTS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_each_rule_leads_to_its_place_in_the_runbook(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert rule["alert"] in headings


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *TARGETS])
def test_every_metric_and_label_in_a_query_is_one_that_there_is(expression: str) -> None:
    found = list(metrics_of(expression))
    assert found or re.search(r"\bprocess_(resident_memory_bytes|open_fds)\b|\bup\{", expression)
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    known = ADDED | {label for name, _ in found for label in BY_NAME[name].labels}
    assert grouped <= known
    for name, selector in found:
        selected = {label for label, _ in re.findall(r"(\w+)\s*(=~|!~|!=|=)", selector)}
        assert selected <= ADDED | set(BY_NAME[name].labels), name


def test_the_dashboard_shows_every_metric() -> None:
    assert {name for expression in TARGETS for name, _ in metrics_of(expression)} == set(BY_NAME)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_docs_have_every_metric_as_it_is(metric: Metric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    row = f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
    assert row in (ROOT / "docs" / "operations.md").read_text()


def test_the_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_scrape_asks_for_the_port_that_the_samples_name() -> None:
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for manifest in (ROOT / "samples" / "deployment-sidecar.yaml", ROOT / "samples" / "nodeport" / "deployment.yaml"):
        (found,) = (each for each in yaml.safe_load_all(manifest.read_text()) if each["kind"] == "Deployment")
        pod = found["spec"]["template"]["spec"]
        containers = [*pod.get("initContainers", ()), *pod["containers"]]
        ports = [port["name"] for each in containers if each["name"] == "vipmanager" for port in each["ports"]]
        assert ports == [endpoint["port"]], manifest


def test_what_is_down_is_looked_for_in_the_scrapes_own_job() -> None:
    """A PodMonitor's job is NAMESPACE/NAME; a process that does not run has no metric that would tell it apart."""
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    assert "jobLabel" not in monitor["spec"]
    wanted = {
        job for expression in (*EXPRESSIONS, *TARGETS) for job in re.findall(r'\bup\{[^}]*job=~"([^"]*)"', expression)
    }
    (pattern,) = wanted
    for job, ours in ((f"monitoring/{monitor['metadata']['name']}", True), ("vipmanager", True), ("core/db", False)):
        assert bool(re.fullmatch(pattern, job)) is ours, job
