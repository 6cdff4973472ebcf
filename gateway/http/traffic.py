"""What came of mail in the last hour over HTTP: of the caller's reach, as this daemon saw it."""

from gateway.directory.snapshot import ROOT
from gateway.http.call import Answer, Call, json_answer
from gateway.http.values import ShownTime
from gateway.http.views import View
from gateway.message.times import time_text


class TrafficMinuteView(View):
    """How many recipients' mail was relayed, failed or ran out of time (`failed`), or was put off, in one minute."""

    at: ShownTime
    relayed: int
    failed: int
    deferred: int


class TrafficView(View):
    """The last sixty minutes, oldest first; the last one is not over yet."""

    minutes: tuple[TrafficMinuteView, ...]


async def show(call: Call) -> Answer:
    """Show the last hour of the reach."""
    call.no_query()
    snapshot, root = call.snapshot, call.caller.tenant
    sees = None if root == ROOT else lambda tenant: snapshot.within(tenant, root)
    minutes = call.services.outbox.traffic.minutes(sees)
    return json_answer({"minutes": [{**minute._asdict(), "at": time_text(minute.at)} for minute in minutes]})
