"""Alert rules and dashboard: the predictor has every metric and label that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from mistere.predictor import metrics
from mistere.predictor.traffic.prometheus import TrafficCollector
from mistere.predictor.traffic.recorder import TrafficRecorder
from mistere.serving.traffic.figures import Figures
from tests.manifests.conftest import MANIFESTS, Builds, of_kind

SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
    "gauge": ("",),
}
DASHBOARD = MANIFESTS / "components" / "alerts" / "dashboard.json"
SCRAPED = {"pod", "namespace", "job", "instance"}
"""Labels that Prometheus adds."""


def exported() -> dict[str, set[str]]:
    """The names of the predictor's samples, with their labels."""
    traffic = TrafficCollector()
    traffic.recorder = TrafficRecorder(Figures(("joy",), ("text",), ("text",)))
    names: dict[str, set[str]] = {}
    for metric in traffic.collect():
        for sample in metric.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    for metric in REGISTRY.collect():
        if metric.name.startswith("mistere_"):
            labels = {label for sample in metric.samples for label in sample.labels}
            for suffix in SUFFIXES[metric.type]:
                names[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    declared = {}
    for value in vars(metrics).values():
        if hasattr(value, "_labelnames"):
            declared[value._name] = set(value._labelnames)
    return {
        name: labels | next((more for base, more in declared.items() if name.startswith(base)), set())
        for name, labels in names.items()
    }


def problems(expression: str, names: dict[str, set[str]]) -> Iterator[str]:
    """What is wrong with an expression, as far as it can be seen without Prometheus."""
    found = re.findall(r"\b(mistere_\w+)(?:\{([^}]*)\})?", expression)
    if not found:
        yield "it names no metric of the predictor"
    known: set[str] = set(SCRAPED)
    for name, matchers in found:
        if name not in names:
            yield f"there is no metric {name}"
            continue
        known |= names[name]
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            if label not in names[name] | SCRAPED:
                yield f"{name} has no label {label}"
    for grouped in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression):
        for label in filter(None, re.split(r"[,\s]+", grouped)):
            if label not in known:
                yield f"it groups by {label}, which none of its metrics has"
    for one, other in ("()", "[]", "{}"):
        if expression.count(one) != expression.count(other):
            yield f"{one} and {other} do not match"


def rules(builds: Builds) -> list[dict[str, Any]]:
    content = of_kind(builds["production"], "PrometheusRule")["mistere-predictor"]
    return [rule for group in content["spec"]["groups"] for rule in group["rules"]]


def test_alerts_name_metrics_that_exist(builds: Builds) -> None:
    names = exported()
    assert {rule["alert"]: list(problems(rule["expr"], names)) for rule in rules(builds)} == {
        rule["alert"]: [] for rule in rules(builds)
    }
    assert len({rule["alert"] for rule in rules(builds)}) == len(rules(builds)) >= 9


def test_a_candidate_that_remains_is_told_of_however_few_its_requests(builds: Builds) -> None:
    """A rate over minutes falls to 0 between rare requests, so that no alert would last for two hours."""
    (rule,) = [rule for rule in rules(builds) if rule["alert"] == "MistereCandidateRemains"]
    assert rule["expr"].startswith("count(mistere_model_info{") and rule["for"] == "2h"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(mistere_requests[5m])", "no metric mistere_requests"),
        ('sum(mistere_traffic_label_total{emotion="joy"})', "no label emotion"),
        ("sum by (label) (mistere_queue_depth)", "groups by label"),
        ("sum(mistere_queue_depth", "do not match"),
        ("up == 0", "names no metric"),
    ],
)
def test_mistakes_in_expressions_are_found(expression: str, problem: str) -> None:
    assert any(problem in each for each in problems(expression, exported()))


def test_alerts_say_what_and_what_to_do(builds: Builds) -> None:
    for rule in rules(builds):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["annotations"]["summary"].endswith(".") and rule["annotations"]["description"].endswith(".")


def test_dashboard_is_valid_and_names_metrics_that_exist(builds: Builds) -> None:
    shipped = of_kind(builds["production"], "ConfigMap")["mistere-dashboard"]
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(shipped["data"]["dashboard.json"])
    assert dashboard == json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert isinstance(dashboard["schemaVersion"], int) and dashboard["uid"] and dashboard["title"]
    names = exported()
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    taken: dict[tuple[int, int], str] = {}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"], cell
        if panel["type"] == "row":
            continue
        assert panel["type"] in {"timeseries", "table", "heatmap"}
        assert set(re.findall(r"\$\{(\w+)\}", panel["datasource"]["uid"])) <= variables
        for target in panel["targets"]:
            assert not list(problems(target["expr"], names)), panel["title"]
