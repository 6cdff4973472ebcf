"""The alerts of config/prometheus: each fires when it should and not otherwise, and speaks of metrics that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.observe.alert_cases import CASES
from tests.observe.expressions import CONFIG, unknown
from tests.peers.prometheus import promtool

if TYPE_CHECKING:
    from pathlib import Path

RULES = CONFIG / "prometheus" / "alerts.yml"
PREFIX = "notification_gateway_"
SEVERITIES = {"critical", "warning"}


def alerts() -> list[dict[str, Any]]:
    """All alerts, as the file has them."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def named(series: str) -> str:
    """The name that Prometheus gives a series of the cases."""
    return series if series.startswith("up{") else PREFIX + series


def trial(name: str, series: dict[str, str], minutes: int, firing: int) -> dict[str, Any]:
    """One test as promtool reads it: how many alerts of this name fire after so many minutes?"""
    wanted = [{"labels": "{}", "value": firing}] if firing else []
    question = f'count(ALERTS{{alertname="{name}", alertstate="firing"}})'
    return {
        "name": "fires" if firing else "is quiet",
        "interval": "1m",
        "input_series": [{"series": named(one), "values": values} for one, values in series.items()],
        "promql_expr_test": [{"expr": question, "eval_time": f"{minutes}m", "exp_samples": wanted}],
    }


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path, alert: dict[str, Any]) -> None:
    """By `promtool test rules`, on series as a daemon gives them."""
    name = alert["alert"]
    case = CASES[name]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "alone", "rules": [alert]}]}))
    tests = [trial(name, case.fires, case.minutes, 1), trial(name, case.quiet, case.minutes, 0)]
    told = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(told))

    done = promtool("test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried() -> None:
    """No alert is without a case, and no case without an alert."""
    assert [alert["alert"] for alert in alerts()] == list(dict.fromkeys(alert["alert"] for alert in alerts()))
    assert {alert["alert"] for alert in alerts()} == set(CASES)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    """How grave it is, what it means, and where in the README one reads on."""
    assert alert["labels"]["severity"] in SEVERITIES
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"README.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_speaks_of_what_there_is(alert: dict[str, Any]) -> None:
    """Metrics, labels, and of closed sets their values."""
    assert unknown(alert["expr"]) == []


def test_expressions_that_speak_of_what_there_is_not_are_found() -> None:
    """A metric, a label, a value and a matcher that matches nothing, each misspelt."""
    assert unknown(f"{PREFIX}acepted_total") == [f"{PREFIX}acepted_total"]
    assert unknown(f'{PREFIX}outbox_depth{{stat="ready"}}') == [f'{PREFIX}outbox_depth{{stat="ready"}}']
    assert unknown(f'{PREFIX}outbox_depth{{state="redy"}}') == [f'{PREFIX}outbox_depth{{state="redy"}}']
    assert unknown(f'{PREFIX}outbox_depth{{state=~"redy|waiting"}}') == [
        f'{PREFIX}outbox_depth{{state=~"redy|waiting"}}'
    ]
    assert unknown(f'sum({PREFIX}outbox_depth{{job="x", state=~"ready|.*ing"}}) by (le)') == []


def test_promtool_takes_the_files() -> None:
    """The rules, and the example of a scrape configuration that names them."""
    done = promtool("check", "config", CONFIG / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in done.stdout
