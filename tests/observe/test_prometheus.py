"""A real Prometheus scrapes a real daemon under load: what it scrapes is in order, and answers all that is asked of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.observe.expressions import CONFIG, known, metrics_of, unknown
from tests.observe.installation import Installation, installation
from tests.peers.prometheus import Prometheus, promtool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES = CONFIG / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((CONFIG / "grafana" / "dashboard.json").read_text())
UNDER_LOAD = 60.0  # seconds
PAUSE = 0.03
VARIABLES = {"$job": ".+", "$instance": ".+", "$__rate_interval": "30s"}
UNSEEN = {"notification_gateway_process_virtual_memory_bytes", "notification_gateway_tenant_label_dropped_total"}
"""What no panel shows."""


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows' titles."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """What the dashboard asks, each with its panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"][1:]:
        yield annotation["name"], annotation["expr"]


def filled(expression: str) -> str:
    """An expression with the dashboard's variables."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


async def load(world: Installation, seconds: float) -> None:
    """Keep it busy."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        await world.busy()
        await asyncio.sleep(PAUSE)


async def scrape(world: Installation, accept: str) -> str:
    """Ask as Prometheus does."""
    url = f"http://127.0.0.1:{world.daemon.metrics}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": accept}) as answer:
        return await answer.text()


async def test_prometheus_scrapes_under_load(tmp_path: Path) -> None:
    """Each second for a minute: no scrape fails or is slow, every query of the dashboard finds data, no alert fires."""
    async with installation(tmp_path) as world:
        with Prometheus(world.daemon.metrics, rules=RULES) as prometheus:
            await world.back_up()
            await load(world, UNDER_LOAD)
            ask = prometheus.query
            [scrapes] = ask("count_over_time(up[1m])")
            [worst] = ask("min_over_time(up[1m])")
            [slowest] = ask("max_over_time(scrape_duration_seconds[1m])")
            empty = [(title, filled(expr)) for title, expr in queries() if not ask(filled(expr))]
            alerts = ask("ALERTS")
            rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        text = await scrape(world, "text/plain")
        open_metrics = await scrape(world, "application/openmetrics-text; version=1.0.0")

    assert (worst["value"][1], int(scrapes["value"][1]) >= UNDER_LOAD * 0.9) == ("1", True)
    assert float(slowest["value"][1]) < 1.0
    assert [one for one in empty if one[0] != "Starts"] == []  # of the annotation only what happened is there
    assert [one["metric"]["alertname"] for one in alerts] == []
    assert {rule["health"] for rule in rules} == {"ok"}
    assert (checked := promtool("check", "metrics", given=text)).returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == ""
    assert open_metrics.endswith("# EOF\n")
    assert "_created" not in text + open_metrics
    assert "tenant=" not in text  # unless the settings say so
    assert 'secret_fetches_total{connection="corp",result="throttled"} 0.0' in text  # which never happened
    assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) == {one.name for one in known().values()}


def test_each_metric_is_on_the_dashboard() -> None:
    """And nothing else: metrics, labels, and of closed sets their values."""
    asked = {known()[name].name for _, expr in queries() for name in metrics_of(expr)}
    assert {one.name for one in known().values()} - asked == UNSEEN
    assert [found for _, expr in queries() for found in unknown(filled(expr))] == []


def test_the_dashboard_can_be_imported() -> None:
    """As Grafana wants it: ids and places of their own, one data source, asked for at the import, and units."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    sources = {json.dumps(one["datasource"]) for panel in panels() for one in (panel, *panel["targets"])}
    names = [one["name"] for one in DASHBOARD["templating"]["list"]]

    assert (DASHBOARD["uid"], DASHBOARD["id"], DASHBOARD["schemaVersion"]) == ("notification-gateway", None, 39)
    assert len(ids) == len(set(ids))
    assert sources == {'{"type": "prometheus", "uid": "${DS_PROMETHEUS}"}'}
    assert [one["name"] for one in DASHBOARD["__inputs"]] == ["DS_PROMETHEUS"]
    assert names == ["DS_PROMETHEUS", "job", "instance"]
    assert [panel["title"] for panel in panels() if not panel["fieldConfig"]["defaults"]["unit"]] == []
    assert [panel["title"] for panel in panels() if not panel["description"]] == []
    assert [p["title"] for p in panels() if len({t["refId"] for t in p["targets"]}) != len(p["targets"])] == []


def test_no_panel_lies_on_another() -> None:
    """In a grid of twenty-four columns, row after row."""
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
        assert {x for x, _ in cells} <= set(range(24))
        for cell in cells:
            assert taken.setdefault(cell, panel["title"]) == panel["title"], (panel["title"], taken[cell])
