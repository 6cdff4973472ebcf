"""What a template is filled with for a group of alerts: all that was posted, tamed.

Nothing of a payload is trusted. Control characters, and those that turn the direction of writing, are removed; labels,
names and the title become one line; a link is http or https, or it is empty; what is long is cut, with an ellipsis. What
is left is within the limits of the template language, so that the built-in template can always be filled.
"""

import re
from collections.abc import Callable
from itertools import islice
from typing import Final

from gateway.http.receivers.payload import Alert, AlertGroup, Labels
from gateway.http.values import parse_time
from gateway.message.notification import compact
from gateway.message.times import time_text

MAX_ALERTS: Final = 100
MAX_DATA: Final = 90_000  # characters of JSON; templates take 100,000
MAX_TITLE: Final = 200
MAX_LABEL: Final = 500
MAX_ANNOTATION: Final = 2_000
MAX_MESSAGE: Final = 5_000
MAX_LINK: Final = 2_000
MAX_NAME: Final = 100
MAX_LABELS: Final = 30, 6_000  # so many, of so many characters together …
MAX_ANNOTATIONS: Final = 20, 10_000
MAX_VALUES: Final = 20
MAX_NUMBER: Final = 2**53  # beyond it JSON's readers disagree

_BREAK: Final = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_LINK: Final = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.IGNORECASE)  # RFC 3986 §2


def data(group: AlertGroup) -> dict[str, object]:
    """Give what a template is filled with: every field of the payload, and `severity`, `firing` and `resolved`.

    All are always there. The alerts are the firing ones first, the gravest first; `truncatedAlerts` counts all that are
    not among them.
    """
    firing = sum(alert.firing for alert in group.alerts)
    head: dict[str, object] = {
        "version": _line(group.version, MAX_NAME),
        "groupKey": _line(group.group_key, MAX_LABEL),
        "status": group.status,
        "severity": str(group.severity),
        "firing": firing,
        "resolved": len(group.alerts) - firing,
        "receiver": _line(group.receiver, MAX_NAME),
        "groupLabels": _labels(group.group_labels),
        "commonLabels": _labels(group.common_labels),
        "commonAnnotations": _annotations(group.common_annotations),
        "externalURL": _link(group.external_url),
        "orgId": group.org_id or 0,
        "title": _line(group.title, MAX_TITLE) or _title(group, firing),
        "state": _line(group.state, MAX_NAME),
        "message": _text(group.message, MAX_MESSAGE),
    }
    untold = group.truncated_alerts or 0
    without = {**head, "alerts": [], "truncatedAlerts": untold + len(group.alerts)}
    alerts = _fitting(group, MAX_DATA - len(compact(without)))
    return {**head, "alerts": alerts, "truncatedAlerts": untold + len(group.alerts) - len(alerts)}


def _fitting(group: AlertGroup, room: int) -> list[dict[str, object]]:
    """Give as many alerts as there is room for (characters of JSON); for the first there always is."""
    order = sorted(group.alerts, key=lambda alert: (not alert.firing, -alert.severity.rank))
    fitting: list[dict[str, object]] = []
    for alert in order[:MAX_ALERTS]:
        one = _alert(alert)
        room -= len(compact(one)) + 1
        if fitting and room < 0:
            break
        fitting.append(one)
    return fitting


def _alert(alert: Alert) -> dict[str, object]:
    annotations = _annotations(alert.annotations)
    return {
        "status": alert.status,
        "labels": _labels(alert.labels),
        "annotations": annotations,
        "startsAt": _time(alert.starts_at),
        "endsAt": _time(alert.ends_at),
        "generatorURL": _link(alert.generator_url),
        "fingerprint": _line(alert.fingerprint, MAX_NAME),
        "silenceURL": _link(alert.silence_url),
        "dashboardURL": _link(alert.dashboard_url),
        "panelURL": _link(alert.panel_url),
        "imageURL": _link(alert.image_url),
        "runbookURL": _link(annotations.get("runbook_url")),
        "values": dict(islice(((_line(name, MAX_NAME), n) for name, n in _numbers(alert)), MAX_VALUES)),
        "valueString": _text(alert.value_string, MAX_ANNOTATION),
    }


def _numbers(alert: Alert) -> list[tuple[str, int | float]]:
    """The values that are numbers as everybody knows them."""
    return [
        (name, value)
        for name, value in (alert.values or {}).items()
        # Compared, never converted: JSON's whole numbers may have more digits than a float can hold.
        if isinstance(value, int | float) and -MAX_NUMBER < value < MAX_NUMBER
    ]


def _title(group: AlertGroup, firing: int) -> str:
    """Make the title that Alertmanager does not send: `[FIRING:2] HighErrorRate (api, prod)`."""
    grouped, common = _labels(group.group_labels), _labels(group.common_labels)
    name = grouped.get("alertname") or common.get("alertname") or ""
    others = [value for label, value in grouped.items() if label != "alertname"]
    if not others and common.get("instance"):
        others = [common["instance"]]
    place = ", ".join(others)
    about = f"{name} ({place})" if name and place else name or place or _line(group.receiver, MAX_NAME) or "alerts"
    return _line(f"[{group.status.upper()}{f':{firing}' if firing else ''}] {about}", MAX_TITLE)


# Taming.


def _labels(given: Labels | None) -> dict[str, str]:
    return _mapping(given, _line, MAX_LABEL, *MAX_LABELS)


def _annotations(given: Labels | None) -> dict[str, str]:
    return _mapping(given, _text, MAX_ANNOTATION, *MAX_ANNOTATIONS)


def _mapping(given: Labels | None, tame: Callable[[str, int], str], limit: int, most: int, room: int) -> dict[str, str]:
    """Keep so many entries, as long as there is room for them (characters)."""
    kept: dict[str, str] = {}
    for name, value in islice((given or {}).items(), most):
        pair = _line(name, MAX_NAME), tame(value, limit)
        room -= sum(map(len, pair))
        if room < 0:
            break
        kept.update([pair])
    return kept


def _text(given: str | None, limit: int) -> str:
    """Remove what is no text, and cut."""
    text = _CONTROL.sub("", _BREAK.sub("\n", (given or "")[: 2 * limit]))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _line(given: str | None, limit: int) -> str:
    """Make one line of it, that can go into a subject: what looks like an encoded word (RFC 2047) is taken apart."""
    line = " ".join(_text(given, limit).split()).replace("=?", "= ?")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _link(given: str | None) -> str:
    """Keep it if it is one that a person may follow from a mail. A link that were cut would lead elsewhere."""
    return given if given and len(given) <= MAX_LINK and _LINK.fullmatch(given) else ""


def _time(given: str | None) -> str:
    """Write it to the second, in UTC; Go's zero time is none, and so is what is no time."""
    try:
        at = parse_time(given)
        return f"{time_text(at)[:19]}Z" if at > 0 else ""
    except ValueError:  # also of a time that only its offset takes past the year 9999
        return ""
