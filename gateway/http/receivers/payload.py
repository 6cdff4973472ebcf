"""What Alertmanager and Grafana post: one shape for both, since Grafana's is Alertmanager's and more.

Senders add fields with every version, so unknown ones are ignored; what a notification cannot do without is checked,
and null is as good as absent. How grave a group is comes from the labels of its firing alerts.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, JsonValue

from gateway.http.faults import Shape
from gateway.message.notification import Severity
from gateway.problems import Fault

Status = Literal["firing", "resolved"]
Labels = dict[str, str]
Count = Annotated[int, Field(ge=0, le=2**53)]

MAX_POSTED: Final = 5_000  # alerts; far fewer are shown, and all are counted

SEVERITIES: Final[Mapping[Severity, tuple[str, ...]]] = {
    Severity.CRITICAL: ("critical", "crit", "fatal", "emergency", "emerg", "alert", "disaster", "page", "p0", "p1"),
    Severity.ERROR: ("error", "err", "high", "major", "p2"),
    Severity.WARNING: ("warning", "warn", "medium", "minor", "average", "p3"),
}
"""The words of a label `severity`, in lower case; all others mean info."""
_BY_WORD: Final = {word: severity for severity, words in SEVERITIES.items() for word in words}


def _given_name(name: str) -> str:
    """Spell a field as the senders do: `generator_url` is generatorURL."""
    first, *rest = name.split("_")
    return first + "".join("URL" if word == "url" else word.capitalize() for word in rest)


class Payload(Shape):
    """Something that is posted here by programs of others."""

    model_config = ConfigDict(extra="ignore", alias_generator=_given_name)


class Alert(Payload):
    """One alert of a group. The last seven fields are Grafana's."""

    status: Status
    labels: Labels
    annotations: Labels | None = None
    starts_at: str | None = None
    ends_at: str | None = None
    generator_url: str | None = None
    fingerprint: str | None = None
    silence_url: str | None = None
    dashboard_url: str | None = None
    panel_url: str | None = None
    image_url: str | None = None
    values: dict[str, JsonValue] | None = None
    value_string: str | None = None

    @property
    def firing(self) -> bool:
        """Does it still burn?"""
        return self.status == "firing"

    @property
    def severity(self) -> Severity:
        """How grave it is by its own label."""
        return _meant(self.labels.get("severity", ""))


class AlertGroup(Payload):
    """Alerts that are told together. The last four fields are Grafana's; fields of no name here are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "4",
                    "groupKey": '{}:{alertname="HighErrorRate", service="api"}',
                    "truncatedAlerts": 0,
                    "status": "firing",
                    "receiver": "mail",
                    "groupLabels": {"alertname": "HighErrorRate", "service": "api"},
                    "commonLabels": {"alertname": "HighErrorRate", "service": "api", "severity": "critical"},
                    "commonAnnotations": {"summary": "One request in ten fails."},
                    "externalURL": "http://alertmanager.example.test:9093",
                    "alerts": [
                        {
                            "status": "firing",
                            "labels": {"alertname": "HighErrorRate", "service": "api", "severity": "critical"},
                            "annotations": {"summary": "One request in ten fails."},
                            "startsAt": "2030-01-31T12:00:00.123456789Z",
                            "endsAt": "0001-01-01T00:00:00Z",
                            "generatorURL": "http://prometheus.example.test:9090/graph?g0.expr=up",
                            "fingerprint": "c6eadffa33fcdf37",
                        }
                    ],
                }
            ],
        }
    )

    status: Status
    alerts: Annotated[tuple[Alert, ...], Field(max_length=MAX_POSTED, json_schema_extra={"minItems": 1})]
    version: str | None = None
    group_key: str | None = None
    truncated_alerts: Count | None = None
    receiver: str | None = None
    group_labels: Labels | None = None
    common_labels: Labels | None = None
    common_annotations: Labels | None = None
    external_url: str | None = None
    org_id: Count | None = None
    title: str | None = None
    state: str | None = None
    message: str | None = None

    def contradictions(self, broken: frozenset[str]) -> Iterable[Fault]:
        """Give the faults between fields."""
        if not self.alerts and "alerts" not in broken:
            yield Fault("/alerts", "required", "A group has at least one alert.")

    @property
    def severity(self) -> Severity:
        """The gravest that a firing alert's label says, else what the common label says; info once all is resolved."""
        firing = [alert for alert in self.alerts if alert.firing]
        if not firing:
            return Severity.INFO
        if any("severity" in alert.labels for alert in firing):
            return _gravest(alert.severity for alert in firing)
        return _meant((self.common_labels or {}).get("severity", ""))


def _meant(word: str) -> Severity:
    return _BY_WORD.get(word.strip().lower(), Severity.INFO)


def _gravest(severities: Iterable[Severity]) -> Severity:
    return max(severities, key=lambda severity: severity.rank)
