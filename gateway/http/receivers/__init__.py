"""Ways in that people have already: Alertmanager's and Grafana's webhooks, each post of theirs one notification.

The same keys, tenants, limits and answers as for any notification. What a sender cannot put into its body is in the
query: whom to tell, by which profile, under which category. The words are those of the tenant's own template, filled
with the payload, or ours.

A post whose answer got lost is sent again with the same body, and so is, on purpose and hours later, one of an alert that
still fires. Without an Idempotency-Key the same query and body of the same key are therefore one notification within
`WINDOW`, and another after it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Final

from gateway.http import notifications
from gateway.http.acceptance import Promise
from gateway.http.call import Answer, Call
from gateway.http.faults import Reading, read, read_query
from gateway.http.receivers.data import data
from gateway.http.receivers.payload import AlertGroup
from gateway.http.receivers.wording import wording
from gateway.http.schema import NotificationRequest, ReceiverQuery
from gateway.http.values import parse_time
from gateway.message.notification import Severity
from gateway.message.template import TemplateError
from gateway.message.template.allowance import AllowanceSpent
from gateway.store.rows import Replayed

WINDOW: Final = 300_000  # milliseconds; as long as Alertmanager tries, which is a group_interval


class Source(StrEnum):
    """Who posts; also the name of the tenant's template that is used unless the query names one."""

    ALERTMANAGER = "alertmanager"
    GRAFANA = "grafana"


async def alertmanager(call: Call) -> Answer:
    """Accept what Alertmanager's webhook_config posts."""
    return await _receive(call, Source.ALERTMANAGER)


async def grafana(call: Call) -> Answer:
    """Accept what Grafana's webhook contact point posts."""
    return await _receive(call, Source.GRAFANA)


async def _receive(call: Call, source: Source) -> Answer:
    asked = read_query(ReceiverQuery, call.asked)
    query = asked.value or ReceiverQuery()
    tenant = query.tenant or call.caller.tenant
    if "tenant" not in asked.broken:
        call.within_reach(tenant)
    posted = read(AlertGroup, call.body)
    group = None if posted.faults else posted.value
    request = NotificationRequest.model_construct(
        tenant=tenant,
        category=query.category or f"alerts.{source}",
        severity=query.severity or (Severity.INFO if group is None else group.severity),
        profile=query.profile,
        to=query.to,
        cc=query.cc,
        bcc=query.bcc,
        priority=query.priority,
        ttl_seconds=query.ttl_seconds,
        # Without words the query's faults are looked for all the same.
        **(_NO_WORDS if group is None else _words(call, tenant, query.template, source, data(group))),
    )
    faults = (*asked.faults, *posted.faults, *request.contradictions(asked.broken))
    reading = Reading(request, faults, asked.broken)
    return await notifications.accept(call, reading, await _promised(call, tenant, source))


_NO_WORDS: Final[Mapping[str, Any]] = {"subject": "", "text": ""}


def _words(call: Call, tenant: str, asked: str | None, source: Source, filling: dict[str, object]) -> Mapping[str, Any]:
    """Say it by the tenant's template, or in our words. A template that cannot be filled must not stop an alert.

    It is filled here and now: one that is changed while the alert waits could stop it then.
    """
    name = asked or source
    template = call.snapshot.templates.get((tenant, name))
    if template is None:
        return {"template": name, "data": filling} if asked else asdict(wording(filling))  # the former is a fault
    try:
        return asdict(call.services.directory.render(template, filling))
    except (TemplateError, AllowanceSpent) as error:
        return asdict(wording(filling, f"The template {name} could not be filled: {error}"))


async def _promised(call: Call, tenant: str, source: Source) -> Promise:
    """Give the caller's idempotency key; without one, that of the same post in the last five minutes, or a new one."""
    octets = f"{source}?{call.request.rel_url.raw_query_string}\n".encode() + call.body
    given = notifications.promised(call, octets)
    if given is not None:
        return given
    # Of the same key: what a test key posted stands for nothing else.
    digest = hashlib.sha256(f"{call.caller.key_id}\n".encode() + octets).hexdigest()
    now = call.now
    window = now // WINDOW
    last = Promise(f"{source}-{digest}-{window - 1}", octets)
    known = await call.services.outbox.recall(tenant, last.key, last.sha256(simulated=call.caller.simulated))
    if isinstance(known, Replayed) and now - parse_time(json.loads(known.answer)["accepted_at"]) < WINDOW:
        return last
    return Promise(f"{source}-{digest}-{window}", octets)
