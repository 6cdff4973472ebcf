"""Do expressions speak of metrics that the daemon has, with labels and values that these can have?"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import Gauge

from gateway.http.routes import ROUTES
from gateway.observe import metrics
from gateway.observe.metrics import CLASSES, Everything, SecretLook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

CONFIG = Path(__file__).parents[2] / "config"
OPEN = frozenset({"version", "python", "store", "relay", "connection", "role", "tenant", "le"})
"""Labels whose values are not a closed set."""
OF_PROMETHEUS = frozenset({"job", "instance"})
FETCHED = {"ok", "unreachable", "throttled", "not_found", "denied", "malformed", "rotating", "policy"}
LATER = {
    ("http_requests", "route"): {route.name for route in ROUTES} | {"none"},
    ("http_requests", "status"): set(CLASSES),
    ("secret_fetches", "result"): FETCHED,
    ("secret_logins", "result"): FETCHED | {"no_identity"},
    ("secret_refusals", "outcome"): {"changed", "unchanged", "failed"},
    ("store_size_bytes", "file"): {"database", "log"},
}
"""Values of labels that are not shown from the beginning; what tests before showed of them says nothing."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}

_SELECTOR = re.compile(r"\b(notification_gateway_\w+)(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")


class Known(NamedTuple):
    """A metric: its name as Prometheus lists it, its type, its labels with the values that each may have (None: any)."""

    name: str
    type: str
    labels: dict[str, set[str] | None]


def families() -> list[Metric]:
    """All metrics, as a daemon with one secret store would show them at its beginning."""
    return list(Everything(lambda: [SecretLook("corp", {"hit": 0}, oldest=0.0, expiry=0.0, token=0.0)]).collect())


@cache
def known() -> dict[str, Known]:
    """All metrics by each of the names under which their series are scraped."""
    gauges = {one._name: one._labelnames for one in vars(metrics).values() if isinstance(one, Gauge)}
    found: dict[str, Known] = {}
    for family in families():
        names = gauges.get(family.name) or getattr(family, "_labelnames", ())
        labels = {label: _values(family, label) for label in names}
        listed = family.name + ("_total" if family.type == "counter" else "")
        if family.type == "histogram":
            labels["le"] = None
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = Known(listed, family.type, labels)
    return found


def _values(family: Metric, label: str) -> set[str] | None:
    shown = {sample.labels[label] for sample in family.samples if label in sample.labels}
    later = LATER.get((family.name.removeprefix("notification_gateway_"), label))
    return None if label in OPEN else later if later is not None else shown if len(shown) > 1 else set()


def unknown(expression: str) -> list[str]:
    """The selectors, and the lists of labels, that speak of what there is not."""
    selectors = [found[0] for found in _SELECTOR.finditer(expression) if _is_wrong(found[1], found[2] or "")]
    labels = OF_PROMETHEUS.union(*(one.labels for one in known().values()))
    return selectors + [
        found[0] for found in _GROUPING.finditer(expression) if not labels.issuperset(re.findall(r"\w+", found[1]))
    ]


def _is_wrong(name: str, matchers: str) -> bool:
    metric = known().get(name)
    if metric is None:
        return True
    return any(not _can_match(metric, label, pattern) for label, pattern in _MATCHER.findall(matchers))


def _can_match(metric: Known, label: str, pattern: str) -> bool:
    """Has the metric this label, and is each alternative of the pattern one of its values?"""
    if label in OF_PROMETHEUS:
        return True
    if label not in metric.labels:
        return False
    values = metric.labels[label]
    return values is None or all(any(re.fullmatch(one, value) for value in values) for one in pattern.split("|"))


def metrics_of(expression: str) -> Iterator[str]:
    """The names of the metrics that an expression speaks of."""
    for found in _SELECTOR.finditer(expression):
        yield found[1]
