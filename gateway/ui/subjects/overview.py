"""The overview: what needs a person now, what went in the last hour, what waits and why, and how the rest is.

Everybody sees of it what their scopes let them, and is told what they do not see. It stays fresh by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.directory.snapshot import ROOT
from gateway.http.call import Answer
from gateway.ui.forms import Document
from gateway.ui.page import Page
from gateway.ui.standing import why
from gateway.ui.subjects.needs import Heard, needs
from gateway.ui.subjects.profile_form import own_path
from gateway.ui.visit import MOST_AT_ONCE, Visit, at, place
from gateway.ui.words import age, mark, moment

LINES: Final = 1_000  # of the queue that are read …
ROWS: Final = 100  # … that are shown, and how many sentences, relays and tenants with disabled webhooks
NEEDS: Final = 40
RELAYS: Final = 12
HOOKED: Final = 10
WIDE, HIGH, BAR, STEP = 240, 48, 3, 4  # of a chart, in its own units
RANKS: Final = ("bad", "wait", "going", "good", "quiet")

CHARTS: Final = (
    ("relayed", "Relayed", "accepted by the relay"),
    ("deferred", "Deferred", "put off, tried again by itself"),
    ("failed", "Failed", "refused for good, or out of time"),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """One number of the last hour: its sum, that of the present minute, the most in a minute, and its bars."""

    name: str
    title: str
    means: str
    total: int
    latest: int
    peak: int
    bars: str


async def overview(visit: Visit) -> Answer:
    """Show how things are."""
    context = await _known(visit)
    return visit.part("overview/now.html", context) if visit.in_part else visit.page("overview/page.html", context)


async def _known(visit: Visit) -> Document:
    heard = await _heard(visit)
    found = needs(heard)
    minutes = (await visit.get("/v1/traffic"))["minutes"] if visit.may("read") else []
    lines = sorted(heard.lines, key=_rank)
    return {
        "needs": found[:NEEDS],
        "more_needs": len(found) - NEEDS,
        "charts": [_chart(name, title, means, minutes) for name, title, means in CHARTS] if minutes else [],
        "rows": [_row(line, heard) for line in lines[:ROWS]],
        "more_rows": len(lines) - ROWS,
        "uncertain": any(line["uncertain"] for line in lines),
        "connections": [{**one, "look": _health(one["health"])} for one in heard.connections],
        "doctor": heard.doctor,
        "relays": [] if heard.doctor is None else [_relay(one) for one in heard.doctor["relays"][:RELAYS]],
        "more_relays": 0 if heard.doctor is None else len(heard.doctor["relays"]) - RELAYS,
        "as_of": moment(heard.now),
    }


async def _heard(visit: Visit) -> Heard:
    """Ask all that this person may know."""
    of_all = visit.root == ROOT and visit.may("admin")
    queue = await visit.get("/v1/queue", limit=MOST_AT_ONCE) if visit.may("read") else None
    lines = [] if queue is None else await _lines(visit, queue)
    doctor = await visit.get("/v1/doctor") if of_all else None
    tenants = {line["tenant"] for line in lines if line["profile"] is None}
    return Heard(
        now=visit.services.outbox.clock(),
        reasons=(await visit.get("/readyz"))["reasons"],
        paused=None if queue is None else queue["paused"],
        lines=lines,
        credentials=await _credentials(visit),
        connections=await _connections(visit, doctor),
        webhooks=await _webhooks(visit) if visit.may("admin") else [],
        doctor=doctor,
        disabled=frozenset(one for one in tenants if (found := visit.snapshot.tenant(one)) and not found.enabled),
        may_read=visit.may("read"),
        may_resume=of_all,
    )


async def _lines(visit: Visit, queue: Document) -> list[Document]:
    """Read the rest of the queue, up to as much of it as a page has use for."""
    lines: list[Document] = list(queue["items"])
    while queue["next_cursor"] is not None and len(lines) < LINES:
        queue = await visit.get("/v1/queue", limit=MOST_AT_ONCE, cursor=queue["next_cursor"])
        lines += queue["items"]
    return lines


async def _credentials(visit: Visit) -> list[Document]:
    if not visit.may("secrets"):
        return []
    listed: list[Document] = (await visit.get("/v1/credentials", limit=MOST_AT_ONCE))["items"]
    return listed


async def _connections(visit: Visit, doctor: Document | None) -> list[Document]:
    if doctor is not None:
        told: list[Document] = doctor["connections"]
        return told
    if not (visit.may("read") or visit.may("secrets")):
        return []
    listed = await visit.every(at("tenants", visit.root, "secret-connections"))
    return [{**one, "answered_seconds": None} for one in listed]


async def _webhooks(visit: Visit) -> list[tuple[str, Document]]:
    """Find the webhooks that are told nothing any more: the snapshot says where to look, the API what is there."""
    snapshot = visit.snapshot
    tenants = {
        webhook.tenant
        for webhook in snapshot.webhooks.values()
        if webhook.disabled_reason is not None and snapshot.within(webhook.tenant, visit.root)
    }
    return [
        (tenant, one)
        for tenant in sorted(tenants)[:HOOKED]
        for one in await visit.every(at("tenants", tenant, "webhooks"))
        if one["disabled_reason"] is not None
    ]


def _chart(name: str, title: str, means: str, minutes: Sequence[Document]) -> Chart:
    """Draw a bar for each minute, in one path."""
    values = [minute[name] for minute in minutes]
    peak = max(values)
    heights = [round(value * HIGH / peak, 1) if peak else 0 for value in values]
    bars = "".join(
        f"M{number * STEP} {HIGH}v-{max(height, 1)}h{BAR}v{max(height, 1)}z"
        for number, (value, height) in enumerate(zip(values, heights, strict=True))
        if value
    )
    return Chart(name, title, means, sum(values), values[-1], peak, bars)


def _rank(line: Document) -> tuple[bool, int, int, str]:
    """Put first what waits or is wrong, the worst and oldest of it at the top."""
    look, oldest = mark(line["state"]), line["oldest_seconds"] or 0
    return look == "wait" and not oldest, RANKS.index(look), -oldest, f"{line['tenant']}/{line['profile']}"


def _row(line: Document, heard: Heard) -> Document:
    tenant, profile = line["tenant"], line["profile"]
    if tenant is None:
        name, way = "a profile outside your reach", ""
    elif profile is None:
        name, way = f"{tenant}, without a profile", place("tenants", tenant, "profiles")
    else:
        name, way = f"{tenant}/{profile}", own_path(tenant, profile)
    return {**line, "name": name, "way": way, "kind": line["state"].partition(":")[0], "why": _why(line, heard)}


def _why(line: Document, heard: Heard) -> str:
    """Tell why mail does not go, if it does not."""
    if line["tenant"] is None:
        return "How it goes is not yours to see."
    if line["profile"] is None:
        return "The tenant is disabled." if line["tenant"] in heard.disabled else "No profile may send it."
    if heard.paused is not None and line["state"] in ("paused", "held"):
        return "All sending is paused."
    if line["state"] == "held":
        return "The tenant that it is inherited from holds it."
    told = why(line["state"])
    return "" if told is None else told.wrong


def _health(health: str) -> str:
    return {"ok": "good", "unused": "quiet"}.get(health, "bad")


def _relay(relay: Document) -> Document:
    """Tell how a relay is: as well as the worst of its profiles stands."""
    states = sorted(relay["states"].items(), key=lambda one: RANKS.index(mark(one[0])))
    told = [{"word": state.partition(":")[0], "look": mark(state), "count": count} for state, count in states]
    proven = relay["proven_seconds"]
    return {**relay, "told": told, "proven": "" if proven is None else f"proven {age(proven)} ago"}


async def resume(visit: Visit) -> Answer:
    """Let sending go on after all of it was paused."""
    await visit.ask("POST", "/v1/queue/resume")
    return visit.go(place(""), "Sending goes on.")


PAGES: Final = (
    Page("GET", "/ui/", overview, live=True),
    Page("POST", "/ui/queue/resume", resume),
)
