"""The dashboard, the alerts and the page ask for metrics that exist: ours by the code, Ray's by the installed Ray."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import ray
import yaml

from tests.helpers.metric_names import OURS

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DASHBOARD = INFRA / "grafana" / "faceid-nightly.json"
PAGE = ROOT / "docs" / "watching.md"
RAYS_OWN = {
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_gram_available",
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
}
_NAME = re.compile(r"\b(?:faceid|ray)_[a-z0-9_]+")


def queries() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    board = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    found += [each["expr"] for each in board["annotations"]["list"]]
    groups = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())["groups"]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_metric_of_a_query_exists():
    series = {name for names in OURS.values() for name in names} | RAYS_OWN
    asked = {name for query in queries() for name in _NAME.findall(query)}
    assert asked - series == set()
    for name, own in OURS.items():
        assert asked & set(own), f"{name} is shown nowhere"
    for query in queries():
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}"), query


@pytest.mark.parametrize("name", sorted(RAYS_OWN))
def test_the_installed_ray_has_its_own_metrics(name):
    source = (Path(ray.__file__).parent / "dashboard/modules/reporter/reporter_agent.py").read_text()
    assert f'"{name.removeprefix("ray_")}"' in source


def test_the_page_has_every_metric_and_no_other():
    page = PAGE.read_text(encoding="utf-8")
    told = {
        name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`([a-z_]+)`", row)
    }
    assert {name for name in told if name.startswith(("faceid_", "ray_"))} - {"ray_port"} == set(
        OURS
    ) | RAYS_OWN


def test_no_label_can_hold_a_person():
    labels = set()
    for path in ("faceid_core/monitoring/metrics.py", "tasks/worker_metrics.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in ("labels", "tag_keys"):
                labels |= set(ast.literal_eval(node.value))
            if isinstance(node, ast.Tuple) and any(
                getattr(each, "value", "") == "run_name" for each in node.elts
            ):
                labels |= set(ast.literal_eval(node))
    assert labels == {"run_name", "run", "stage", "result", "status", "outcome", "operation", "kind"}


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) >= 10
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_example_scrapes_what_the_page_configures():
    example = (INFRA / "prometheus" / "prometheus.yml").read_text()
    config = yaml.safe_load(example)
    for file in config["rule_files"]:
        assert (INFRA / "prometheus" / file).is_file()
    block = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S).group(1)
    port = yaml.safe_load(block)["metrics"]["ray_port"]
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == "ray")
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
