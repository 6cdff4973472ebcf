"""Whatever is posted as alerts: it is refused as a problem, or it becomes a mail within its bounds."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.http.faults import read
from gateway.http.receivers.data import MAX_ALERTS, MAX_DATA, MAX_TITLE, data
from gateway.http.receivers.payload import AlertGroup
from gateway.http.receivers.wording import wording
from gateway.message.address import check_text
from gateway.message.notification import compact, from_json
from gateway.message.template import render
from gateway.problems import Problem

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OURS = ("h2", "h3", "p", "b", "a", "br", "div", "code", "body", "html", "!DOCTYPE")

ODD = st.text(
    st.sampled_from(list("<>&'\"{}%#=?\\/:. \n\r\t\x00\x1b\x7f\x85\u2028\u202e\ufeff\U0001f525ab")), max_size=40
)
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    ODD,
    st.sampled_from(
        ["=?utf-8?q?=0a?=", "{{ title }}", "javascript:alert(1)", "https://x.example/?a=1&b='", "x" * 2_500]
    ),
    ODD.map(lambda text: f"https://{text}"),
    st.integers(0, 400).map(lambda n: "\U0001f525\"'" * n),
)
LABELS = st.one_of(
    st.none(),
    st.dictionaries(
        st.one_of(st.sampled_from(["alertname", "severity", "instance", "runbook_url", "items"]), TEXTS), TEXTS
    ),
    st.integers(1, 40).map(lambda n: {f"label{i}" * n: "value\n" * n for i in range(n)}),
)
MAYBE = st.one_of(st.none(), TEXTS)
HUGE = st.integers(300, 4_300).map(lambda digits: 10 ** (digits - 1))
WHOLE = st.one_of(st.integers(), HUGE, HUGE.map(lambda number: -number))
NUMBERS = st.dictionaries(TEXTS, st.one_of(st.none(), WHOLE, st.floats(), st.lists(WHOLE), TEXTS))
STATUS = st.sampled_from(["firing", "resolved"])
ALERT = st.fixed_dictionaries(
    {"status": STATUS, "labels": LABELS.filter(lambda labels: labels is not None)},
    optional={
        "annotations": LABELS,
        "startsAt": st.one_of(
            TEXTS, st.datetimes().map(lambda at: f"{at.isoformat()}Z"), st.just("0001-01-01T00:00:00Z")
        ),
        "endsAt": MAYBE,
        "values": st.one_of(st.none(), NUMBERS),
        **dict.fromkeys(("generatorURL", "silenceURL", "dashboardURL", "panelURL", "imageURL"), MAYBE),
        "fingerprint": MAYBE,
        "valueString": MAYBE,
        "unknown": NUMBERS,
    },
)
GROUP = st.fixed_dictionaries(
    {
        "status": STATUS,
        "alerts": st.one_of(
            st.lists(ALERT, min_size=1, max_size=4),
            st.tuples(ALERT, st.integers(1, 120)).map(lambda pair: [pair[0]] * pair[1]),
        ),
    },
    optional={
        **dict.fromkeys(("version", "groupKey", "receiver", "externalURL", "title", "state", "message"), MAYBE),
        **dict.fromkeys(("groupLabels", "commonLabels", "commonAnnotations"), LABELS),
        "truncatedAlerts": st.integers(0, 2**53),
        "orgId": st.integers(0, 2**53),
    },
)
JSON: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), WHOLE, st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)
WORST = {
    "status": "firing",
    "alerts": [
        {
            "status": "firing",
            "labels": {f"{number:02}": "" for number in range(99)},
            "annotations": {f"{number:02}": "'" for number in range(99)},
            **{f"{name}URL": "https://x.example/" for name in ("generator", "silence", "dashboard", "panel", "image")},
        }
    ]
    * 1000,
}
QUOTES = '"' * 9000  # JSON doubles them
LINK = f"https://x.example/{'&' * 1982}"
LONG = {f"{QUOTES[:98]}{number:02}": QUOTES for number in range(99)}
GREATEST = {
    "status": "resolved",
    "alerts": [
        {
            "status": "resolved",
            "labels": LONG,
            "annotations": {"runbook_url": LINK, **LONG},
            "values": dict.fromkeys(LONG, 0.1234567890123456),
            "valueString": QUOTES,
            "fingerprint": QUOTES,
            **{f"{name}URL": LINK for name in ("generator", "silence", "dashboard", "panel", "image")},
        }
    ]
    * 20,
    **dict.fromkeys(("groupLabels", "commonLabels", "commonAnnotations"), LONG),
    **dict.fromkeys(("version", "groupKey", "receiver", "title", "state", "message"), QUOTES),
    "externalURL": LINK,
}


def posted(document: object) -> AlertGroup:
    reading = read(AlertGroup, json.dumps(document).encode())
    assert reading.value is not None, reading.faults
    assert not reading.faults
    return reading.value


@settings(max_examples=150, deadline=None)
@given(GROUP)
@example(WORST)
@example(GREATEST)
def test_every_group_becomes_a_mail_within_bounds(document: dict[str, Any]) -> None:
    """The subject is one line, no control character gets through, the data suits any template, nothing is lost count of."""
    filled = data(posted(document))
    said = wording(filled, "A note.")

    check_text(said.subject)
    assert 0 < len(said.subject) <= MAX_TITLE
    for text in (said.subject, said.text or "", said.html or ""):
        assert not CONTROL.search(text)
    alerts: Any = filled["alerts"]
    assert 1 <= len(alerts) <= MAX_ALERTS
    assert len(alerts) + filled["truncatedAlerts"] == len(document["alerts"]) + document.get("truncatedAlerts", 0)  # type: ignore[operator]
    assert len(compact(filled)) <= MAX_DATA or len(alerts) == 1
    assert filled["firing"] + filled["resolved"] == len(document["alerts"])  # type: ignore[operator]


def test_what_is_long_is_cut() -> None:
    """Labels and annotations to what a mail can show, with an ellipsis; beyond that they are left out."""
    filled: Any = data(posted(GREATEST))
    [alert] = filled["alerts"]
    assert [len(value) for value in alert["labels"].values()] == [500] * 10
    assert [len(value) for value in alert["annotations"].values()] == [2000] * 4
    assert len(alert["values"]) == 20
    assert all(value.endswith("…") for value in alert["labels"].values())
    assert (len(filled["message"]), len(alert["valueString"])) == (5000, 2000)


@settings(max_examples=100, deadline=None)
@given(GROUP)
def test_html_has_our_tags_and_links_of_the_web(document: dict[str, Any]) -> None:
    """What was posted opens no tag, ends no attribute and names no scheme but http and https."""
    html = wording(data(posted(document))).html or ""
    for tag in re.findall(r"<[^>]*>", html):
        name, *rest = tag.strip("</>").split(maxsplit=1)
        assert name in OURS, tag
        if name == "a" and rest:
            assert re.fullmatch(r'href="https?:[^"]*"', rest[0], re.IGNORECASE), tag


@settings(max_examples=100, deadline=None)
@given(GROUP)
def test_a_template_can_count_on_every_name(document: dict[str, Any]) -> None:
    """All fields are there whatever was left out, and what is kept for sending is what was checked."""
    filled = data(posted(document))
    names = (
        "version",
        "groupKey",
        "receiver",
        "externalURL",
        "orgId",
        "title",
        "state",
        "message",
        "severity",
        "firing",
    )
    of_alerts = ("status", "startsAt", "endsAt", "generatorURL", "fingerprint", "silenceURL", "dashboardURL", "panelURL",
                 "imageURL", "runbookURL", "valueString")  # fmt: skip
    text = "".join(f"{{{{ {name} }}}}" for name in names)
    text += "{% for alert in alerts %}" + "".join(f"{{{{ alert.{name} }}}}" for name in of_alerts) + "{% endfor %}"
    assert render("{{ title }}", text, None, filled) == render("{{ title }}", text, None, from_json(compact(filled)))


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_any_json_is_a_group_or_a_problem(document: object) -> None:
    """Nothing raises but problems."""
    try:
        reading = read(AlertGroup, json.dumps(document).encode())
    except Problem:
        return
    assert reading.faults or data(reading.value)  # type: ignore[arg-type]


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "soon", "", "9999-12-31T23:59:59-23:00", None])
def test_what_is_no_time_is_left_out(at: str | None) -> None:
    """Go's zero time, and whatever else nobody could read."""
    [alert] = data(posted({"status": "firing", "alerts": [{"status": "firing", "labels": {}, "startsAt": at}]}))[
        "alerts"
    ]  # type: ignore[misc]
    assert alert["startsAt"] == ""


def test_values_are_numbers_that_everybody_reads() -> None:
    """Infinity, what is beyond a double's whole numbers, and what is no number are left out; the rest can be rendered."""
    given = '{"a": 1, "b": -2.5, "c": 1e400, "d": NaN, "e": 1180591620717411303424, "f": "1", "g": null, "h": [1]}'
    body = f'{{"status": "firing", "alerts": [{{"status": "firing", "labels": {{}}, "values": {given}}}]}}'
    group = read(AlertGroup, body.encode()).value
    assert group is not None
    filled: Any = data(group)
    assert filled["alerts"][0]["values"] == {"a": 1, "b": -2.5}
    assert render(
        "x", "{% for name, n in alerts[0]['values']|items %}{{ name }}{{ n }} {% endfor %}", None, filled
    ).text


@pytest.mark.parametrize("digits", [17, 309, 310, 401, 4_300])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_many_digits_is_left_out(sign: str, digits: int) -> None:
    """However many JSON's reader lets through, also more than a float can hold."""
    group = {"status": "firing", "alerts": [{"status": "firing", "labels": {}, "values": {"a": 1}}]}
    body = json.dumps(group).replace('"a": 1', f'"a": {sign}{"9" * digits}, "b": 2')
    filled: Any = data(posted(json.loads(body)))
    assert filled["alerts"][0]["values"] == {"b": 2}


def test_alerts_fill_the_data_and_no_more() -> None:
    """The names and the count that stand around the alerts need room too, wherever the last alert happens to end."""
    alert = {"status": "firing", "labels": {"a": "x" * 500, "b": "x" * 400}}
    for length in range(0, 1_400, 20):
        group = {"status": "firing", "alerts": [alert] * 100, "message": "x" * length}
        assert len(compact(data(posted(group)))) <= MAX_DATA
