"""What Alertmanager and Grafana post: whom it reaches, how grave it is, in which words, and how often."""

import asyncio
import json
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import yaml

from gateway.directory.shapes import Template, Tenant
from gateway.http.receivers import WINDOW
from gateway.http.receivers.data import MAX_ALERTS
from gateway.http.receivers.payload import SEVERITIES, AlertGroup
from gateway.message.notification import Content, Role, decode_content
from gateway.message.template.allowance import Allowance
from gateway.outbox.states import decode
from tests.http.world import Answered, Json, World, running

CONFIG = Path(__file__).parents[2] / "config/receivers"
GRAFANA = json.loads((Path(__file__).parent / "grafana.json").read_text())
LABELS = {"alertname": "HighErrorRate", "service": "api", "env": "prod"}


def alert(status: str = "firing", severity: str | None = None, **more: Any) -> Json:
    """One of Alertmanager's alerts."""
    labels = {**LABELS, **({} if severity is None else {"severity": severity})}
    return {
        "status": status,
        "labels": labels,
        "annotations": {"summary": "Many requests fail.", "description": "One in ten.\nSince noon."},
        "startsAt": "2030-01-31T13:00:00.123456789+01:00",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.test/graph?g0.expr=rate%28errors%5B5m%5D%29&g0.tab=1",
        "fingerprint": "c6eadffa33fcdf37",
        **more,
    }


def group(*alerts: Json, **more: Any) -> Json:
    """What Alertmanager posts of these alerts; fields given as None are left out."""
    told = list(alerts) or [alert()]
    body = {
        "receiver": "mail",
        "status": "firing" if any(one["status"] == "firing" for one in told) else "resolved",
        "alerts": told,
        "groupLabels": LABELS,
        "commonLabels": LABELS,
        "commonAnnotations": {"summary": "Many requests fail."},
        "externalURL": "http://alertmanager.example.test",
        "version": "4",
        "groupKey": '{}:{alertname="HighErrorRate"}',
        "truncatedAlerts": 0,
        **more,
    }
    return {name: value for name, value in body.items() if value is not None}


async def post(
    world: World, body: object, *query: tuple[str, str], source: str = "alertmanager", **more: Any
) -> Answered:
    """Post it as acme, unless another key is given."""
    return await world.call("POST", f"/v1/receivers/{source}?{urlencode(query)}", json=body, **more)


async def content(world: World, answered: Answered) -> Content:
    """What will be sent."""
    assert answered.status == 202, answered.text
    row = await world.store.get(answered.json["id"], content=True)
    assert row is not None
    assert row.content is not None
    return decode_content(row.content)


async def shown(world: World, answered: Answered) -> Json:
    """The notification as its caller sees it."""
    assert answered.status == 202, answered.text
    return (await world.call("GET", answered.json["href"])).json


# Whom it reaches.


async def test_it_is_a_notification_like_any(world: World) -> None:
    """The answer is the one to a posted notification, and the words are there in text and HTML."""
    answered = await post(world, group())
    assert answered.status == 202, answered.text
    assert set(answered.json) == {"id", "status", "tenant", "profile", "accepted_at", "expires_at", "href"}
    assert answered.headers["Location"] == answered.json["href"]
    said = await content(world, answered)
    assert said.subject == "[FIRING:1] HighErrorRate (api, prod)"
    assert "description: One in ten.\nSince noon." in (said.text or "")
    assert "since: 2030-01-31T12:00:00Z" in (said.text or "")
    assert "<b>summary:</b> Many requests fail." in (said.html or "")


async def test_the_query_names_whom_to_tell(world: World) -> None:
    """`to`, `cc` and `bcc` may come several times; the tenant's own copies are added."""
    query = ("to", "a@x.example"), ("to", "b@x.example"), ("cc", "c@x.example"), ("bcc", "d@x.example")
    answered = await post(world, group(), *query)
    row = await world.store.get(answered.json["id"])
    assert row is not None
    assert [(one.address, one.role) for one in decode(row.recipients)] == [
        ("a@x.example", Role.TO),
        ("b@x.example", Role.TO),
        ("c@x.example", Role.CC),
        ("d@x.example", Role.BCC),
        ("audit@acme.example", Role.BCC),
    ]


async def test_without_a_name_the_profile_says_whom_to_tell(world: World) -> None:
    """No `to` in the query: the default recipients of the profile."""
    assert (await content(world, await post(world, group()))).to[0].address == "desk@acme.example"


async def test_the_rest_of_the_query(world: World) -> None:
    """Profile, category, severity, priority and life are the query's."""
    query = {"profile": "lent", "category": "ops.night", "severity": "error", "priority": "high", "ttl_seconds": "60"}
    answered = await post(world, group(), *query.items(), ("to", "a@x.example"))
    told = await shown(world, answered)
    assert {name: told[name] for name in ("profile", "category", "severity", "priority")} == {
        name: query[name] for name in ("profile", "category", "severity", "priority")
    }
    assert answered.json["expires_at"][:17] != answered.json["accepted_at"][:17]
    assert (world.settings.relay.default_ttl_seconds, answered.json["profile"]) == (86400, "lent")


@pytest.mark.parametrize("source", ["alertmanager", "grafana"])
async def test_each_source_has_its_category(world: World, source: str) -> None:
    """Unless the query says otherwise."""
    assert (await shown(world, await post(world, group(), source=source)))["category"] == f"alerts.{source}"


async def test_another_tenant_by_the_query(world: World) -> None:
    """A tenant below the key's is served; one outside its reach is not there, whatever else is wrong."""
    assert (await post(world, group(), ("tenant", "acme-emea"), ("to", "a@x.example"))).json["tenant"] == "acme-emea"
    for body in (group(), {}):
        answered = await post(world, body, ("tenant", "globex"), ("to", "nobody"))
        assert (answered.status, answered.code) == (404, "not_found")


# How grave it is.


@pytest.mark.parametrize(
    ("word", "severity"),
    [(word, str(severity)) for severity, words in SEVERITIES.items() for word in words]
    + [(word, "info") for word in ("info", "none", "low", "p4", "", "strange")]
    + [("CRITICAL", "critical"), (" Warning ", "warning")],
)
def test_words_for_severity(word: str, severity: str) -> None:
    """The label's word is one of the table, in any spelling, or it means info."""
    assert AlertGroup.model_validate_json(json.dumps(group(alert(severity=word)))).severity == severity


@pytest.mark.parametrize(
    ("alerts", "common", "severity"),
    [
        ([alert(severity="warning"), alert(severity="page"), alert(severity="info")], "error", "critical"),
        ([alert(severity="warning"), alert("resolved", severity="critical")], "error", "warning"),
        ([alert()], "error", "error"),
        ([alert()], "", "info"),
        ([alert("resolved", severity="critical")], "critical", "info"),
    ],
)
async def test_the_gravest_that_fires_decides(world: World, alerts: list[Json], common: str, severity: str) -> None:
    """What is over does not count; the common label does only where no firing alert has one."""
    body = group(*alerts, commonLabels={"severity": common})
    assert (await shown(world, await post(world, body)))["severity"] == severity


async def test_severity_decides_about_copies(world: World) -> None:
    """A grave alert is copied to whom the tenant's preferences say."""
    assert (await content(world, await post(world, group(alert(severity="page"))))).cc[0].address == "ops@acme.example"
    assert (await content(world, await post(world, group(alert(severity="info"))))).cc == ()


# In which words.


async def test_grafanas_own_title_is_the_subject(world: World) -> None:
    """Grafana's payload as its documentation shows it; values and links of its own are in the mail."""
    said = await content(world, await post(world, GRAFANA, source="grafana"))
    assert said.subject == GRAFANA["title"]
    for link in ("dashboardURL", "panelURL", "silenceURL", "imageURL"):
        assert GRAFANA["alerts"][0][link] in (said.text or "")
    assert GRAFANA["alerts"][0]["valueString"] in (said.text or "")


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        (group(alert(), alert(), alert("resolved")), "[FIRING:2] HighErrorRate (api, prod)"),
        (group(alert("resolved")), "[RESOLVED] HighErrorRate (api, prod)"),
        (group(groupLabels={"alertname": "Down"}, commonLabels={"instance": "db1:9100"}), "[FIRING:1] Down (db1:9100)"),
        (group(groupLabels={"service": "api"}, commonLabels={}), "[FIRING:1] api"),
        (group(groupLabels=None, commonLabels=None), "[FIRING:1] mail"),
        (group(groupLabels=None, commonLabels=None, receiver=None), "[FIRING:1] alerts"),
    ],
)
async def test_subjects(world: World, body: Json, subject: str) -> None:
    """How many, what, and where, as far as it is told."""
    assert (await content(world, await post(world, body))).subject == subject


@pytest.mark.parametrize("query", [(), (("template", "pager"),)])
async def test_a_template_of_the_tenant(world: World, query: tuple[tuple[str, str], ...]) -> None:
    """The one that the query names, else the one of the source's name; its data is the payload."""
    name = dict(query).get("template", "alertmanager")
    text = "{{ severity }} {{ firing }} {{ externalURL }}"
    await world.put(Template(tenant="acme", name=name, subject="{{ alerts|length }} {{ title }}", text=text))
    said = await content(world, await post(world, group(alert(severity="p2")), *query))
    assert (said.subject or "").startswith("1 [FIRING:1]")
    assert (said.text, said.html) == ("error 1 http://alertmanager.example.test", None)


async def test_a_template_that_is_changed_stops_no_alert(world: World) -> None:
    """What was accepted says what the template said then."""
    await world.put(Template(tenant="acme", name="alertmanager", subject="s", text="{{ severity }}"))
    answered = await post(world, group(alert(severity="p2")))
    await world.put(Template(tenant="acme", name="alertmanager", subject="s", text="{{ nobody }}"))
    assert (await content(world, answered)).text == "error"


async def test_a_template_that_is_not_there(world: World) -> None:
    """The query names one that the tenant does not have: that is told, and at the query's place."""
    answered = await post(world, group(), ("template", "none"))
    assert (answered.status, answered.faults) == (422, {"/template": "unknown_template"})


async def test_a_template_that_takes_too_long_stops_no_alert(tmp_path: Path) -> None:
    """The organisation's templates have used up their time: the alert comes in our words, and says so."""
    async with running(tmp_path) as world:
        world.directory.allowance = Allowance(used=count(step=60.0).__next__)
        await world.put(Template(tenant="acme", name="alertmanager", subject="s", text="x"))
        world.directory.allowance.charge("acme", 60.0)
        said = await content(world, await post(world, group()))
    assert said.subject == "[FIRING:1] HighErrorRate (api, prod)"
    assert "The template alertmanager could not be filled: The templates of this organisation took" in (said.text or "")


async def test_a_template_that_cannot_be_filled_stops_no_alert(world: World) -> None:
    """The alert comes in our words, with a note of what is wrong with the tenant's."""
    await world.put(Template(tenant="acme", name="alertmanager", subject="{{ commonLabels.team }}", text="x"))
    said = await content(world, await post(world, group()))
    assert said.subject == "[FIRING:1] HighErrorRate (api, prod)"
    assert "The template alertmanager could not be filled: In the subject" in (said.text or "")
    assert "The template alertmanager could not be filled" in (said.html or "")


async def test_only_links_of_the_web_are_links(world: World) -> None:
    """Everything else that claims to be one is left out, and what is shown as text is escaped."""
    evil = alert(
        generatorURL="javascript:alert(1)",
        silenceURL='https://x.example/"onclick="alert(1)',
        annotations={"runbook_url": "data:text/html,<script>", "summary": "<script>alert(1)</script>"},
    )
    html = (await content(world, await post(world, group(evil, externalURL="ftp://x.example")))).html or ""
    assert "href" not in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


async def test_a_number_that_no_float_can_hold_loses_no_alert(world: World) -> None:
    """It is left out like any that is too large, and the alert is told."""
    each = "{% for name, value in alerts[0].values|items %}{{ name }}={{ value }} {% endfor %}"
    await world.put(Template(tenant="acme", name="grafana", subject="x", text=each))
    answered = await post(world, group(alert(values={"a": 10**400, "b": 2})), source="grafana")
    assert (await content(world, answered)).text == "b=2 "


async def test_many_alerts_are_counted_rather_than_shown(world: World) -> None:
    """The gravest that fire come first; those that do not fit are a number, with those that the sender left out."""
    many = [alert("resolved")] * 80 + [alert(severity="info")] * 70 + [alert(severity="page", fingerprint="gravest")]
    body = group(*many, truncatedAlerts=7)
    counts, each = (
        "{{ firing }} {{ resolved }} {{ truncatedAlerts }}",
        "{% for one in alerts %}{{ one.status }} {% endfor %}",
    )
    await world.put(
        Template(tenant="acme", name="alertmanager", subject=counts, text=each, html="{{ alerts[0].fingerprint }}")
    )
    said = await content(world, await post(world, body))
    assert (said.text or "").split() == ["firing"] * 71 + ["resolved"] * (MAX_ALERTS - 71)
    assert (said.subject, said.html) == (f"71 80 {151 - MAX_ALERTS + 7}", "gravest")


# What is refused.


async def test_faults_of_query_and_body_are_told_together(world: World) -> None:
    """Each with its place."""
    body = {"status": "burning", "alerts": [{"status": "firing"}]}
    query = ("to", "a@x.example"), ("to", "nobody"), ("severity", "bad"), ("ttl_seconds", "1"), ("colour", "red")
    answered = await post(world, body, *query)
    assert (answered.status, answered.code) == (422, "invalid")
    assert answered.faults == {
        "/to/1": "bad_address",
        "/severity": "bad_value",
        "/ttl_seconds": "bad_value",
        "/colour": "unknown_field",
        "/status": "bad_value",
        "/alerts/0/labels": "required",
    }


async def test_faults_of_query_body_and_directory_are_told_together(world: World) -> None:
    """Nobody to tell is found even where the body is wrong."""
    answered = await post(world, group(alerts=[]), ("profile", "lent"))
    assert answered.faults == {"/alerts": "required", "/to": "no_recipient"}


async def test_only_recipients_may_be_repeated(world: World) -> None:
    """Of anything else a second one is a contradiction, even if it says the same."""
    answered = await post(world, group(), ("profile", "own"), ("profile", "own"))
    assert (answered.status, answered.faults) == (422, {"": "repeated"})


async def test_too_many_recipients(world: World) -> None:
    """As for any notification."""
    query = [("to", f"a{n}@x.example") for n in range(60)] + [("cc", f"b{n}@x.example") for n in range(41)]
    assert (await post(world, group(), *query)).faults == {"/to": "too_many"}


async def test_unknown_fields_are_ignored_and_null_is_absent(world: World) -> None:
    """Senders add fields with every version, and Go writes null for what is empty."""
    body = group(
        alert(annotations=None, ruleUID="x", values=None),
        newField={"a": [1]},
        commonAnnotations={},
        title=None,
        extra=1,
    )
    body["groupLabels"] = body["message"] = None
    assert (await post(world, body)).status == 202


async def test_deep_nesting_is_refused(world: World) -> None:
    """A body of a thousand brackets is no JSON that anybody sends."""
    deep = '{"status": "firing", "alerts": [], "x": ' + "[" * 1000 + "]" * 1000 + "}"
    headers = {"Content-Type": "application/json"}
    answered = await world.call("POST", "/v1/receivers/grafana", data=deep, headers=headers)
    assert (answered.status, answered.code) == (400, "bad_json")


# How often.


async def test_a_repeated_post_is_one_notification(world: World) -> None:
    """The same body again: the first answer, marked as such."""
    first, again = await post(world, group()), await post(world, group())
    assert again.json == first.json
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")


@pytest.mark.parametrize("offset", [0, 1, WINDOW // 2, WINDOW - 1])
async def test_five_minutes_run_from_the_first_post(world: World, offset: int) -> None:
    """Wherever in the clock's own five minutes it began: until then one notification, and after that another."""
    world.offset = offset - world.outbox.clock() % WINDOW + WINDOW
    start = world.outbox.clock
    moment = start()
    world.outbox.clock = lambda: moment + world.offset
    world.offset = 0
    first = (await post(world, group())).json["id"]
    world.offset = WINDOW - 1
    assert (await post(world, group())).json["id"] == first
    world.offset = WINDOW
    second = (await post(world, group())).json["id"]
    assert second != first
    world.offset = 2 * WINDOW - 1
    assert (await post(world, group())).json["id"] == second


async def test_ten_at_once_are_one(world: World) -> None:
    """Posts that overlap find each other."""
    answers = await asyncio.gather(*(post(world, group()) for _ in range(10)))
    assert {answered.status for answered in answers} == {202}
    assert len({answered.json["id"] for answered in answers}) == 1


async def test_what_differs_is_another_notification(world: World) -> None:
    """Another body, another query, another source or another key is another notification."""
    answers = [
        await post(world, group()),
        await post(world, group(), ("to", "a@x.example")),
        await post(world, group(), ("to", "b@x.example")),
        await post(world, group(alert("resolved"))),
        await post(world, group(), source="grafana"),
        await post(world, group(), key="acme:send"),
    ]
    assert {answered.status for answered in answers} == {202}
    assert len({answered.json["id"] for answered in answers}) == len(answers)


async def test_what_a_test_key_posted_is_not_the_live_one(world: World) -> None:
    """Somebody tries it out by a test key, and then the alert comes: it is sent."""
    await world.key_for("acme:send,trial", mode="test")
    tried = await post(world, group(), key="acme:send,trial")
    meant = await post(world, group())
    assert (tried.status, meant.status) == (202, 202)
    assert tried.json["id"] != meant.json["id"]


async def test_a_key_of_the_senders_own(world: World) -> None:
    """An Idempotency-Key is taken instead: for as long as any is kept, and for one query and body."""
    headers = {"Idempotency-Key": "alert-1"}
    first = await post(world, group(), headers=headers)
    world.offset = 3 * WINDOW
    assert (await post(world, group(), headers=headers)).json["id"] == first.json["id"]
    assert (await post(world, group(), ("to", "a@x.example"), headers=headers)).code == "idempotency_mismatch"
    assert (await post(world, group(), headers={"Idempotency-Key": " "})).status == 422


async def test_a_repeated_post_is_answered_though_the_tenant_is_disabled(world: World) -> None:
    """What was accepted was accepted."""
    to = ("to", "a@x.example")
    first = await post(world, group(), to)
    await world.put(Tenant(id="acme", enabled=False))
    assert (await post(world, group(), to)).json["id"] == first.json["id"]
    assert (await post(world, group(alert("resolved")), to)).code == "tenant_disabled"


# What people paste.


async def test_grafanas_contact_point(world: World) -> None:
    """The provisioning file is for a webhook here, by POST, with the key as a bearer, and its URL is one that is answered."""
    [point] = yaml.safe_load((CONFIG / "grafana-contact-point.yaml").read_text())["contactPoints"]
    [receiver] = point["receivers"]
    told = receiver["settings"]
    url = urlsplit(told["url"])
    answered = await world.call(told["httpMethod"], f"{url.path}?{url.query}", json=GRAFANA)
    assert receiver["type"] == "webhook"
    assert told["authorization_scheme"] == "Bearer"
    assert (await content(world, answered)).to[0].address == "ops@example.test"
