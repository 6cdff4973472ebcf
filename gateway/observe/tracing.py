"""Traces: which one a notification belongs to (W3C Trace Context), and spans for whoever collects them.

A caller's `traceparent` is kept with its notification and handed on, whether spans are recorded or not. Spans are
recorded only where the operator has set an OpenTelemetry SDK up in this process (`opentelemetry-instrument`, or a few
lines of Python before ours). Without the API package, or without an SDK, a span costs one comparison.

Promises: one trace shows the acceptance, every attempt at a relay, and every webhook that tells of it, however much
later they come. Never puts an address, a subject, a relay's words or a secret into a span.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from gateway.observe.spans import Recorder

_PARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_recorder: "Recorder | None" = None


class Headers(Protocol):
    """The headers of a request, by names that ignore case."""

    def getall(self, name: str, default: tuple[str, ...], /) -> Sequence[str]:
        """All values of a header."""


class Span(Protocol):
    """Something that is being done in a trace, and is recorded."""

    traceparent: str | None
    """What is handed on: the span itself if its trace is sampled, else its parent."""

    def end(self, came: str | int, *, failed: bool = False) -> None:
        """It is over, and this came of it."""


def start() -> None:
    """Record spans from now on if an OpenTelemetry SDK is set up in this process, and none otherwise."""
    global _recorder  # noqa: PLW0603 - a process has one SDK
    try:
        from gateway.observe.spans import recorder
    except ImportError:  # the API is an extra
        _recorder = None
    else:
        _recorder = recorder()


def given(headers: Headers) -> str | None:
    """Read a caller's traceparent; None if there is none, or one that is to be ignored (Trace Context §3.2)."""
    found = headers.getall("traceparent", ())
    return found[0] if len(found) == 1 and _PARENT.fullmatch(found[0]) else None


def trace_id(traceparent: str) -> str:
    """Give the id of the trace alone."""
    return traceparent.split("-")[1]


def request(method: str, path: str, headers: Headers) -> Span | None:
    """A request that brings mail begins to be answered, by its route's path; None if no spans are recorded."""
    if _recorder is None:
        return None
    return _recorder.request(method, path, given(headers), ",".join(headers.getall("tracestate", ())))


def relay(traceparent: str | None, id_: str, owner: str, profile: str) -> Span | None:
    """A notification begins to be handed to a profile's relay; None if no spans are recorded."""
    if _recorder is None:
        return None
    attributes = {"notification.id": id_, "profile.owner": owner, "profile.name": profile}
    return _recorder.attempt("relay", traceparent, attributes)


def webhook(traceparent: str | None, event_id: str, tenant: str) -> Span | None:
    """An event begins to be told to an endpoint; None if no spans are recorded."""
    if _recorder is None:
        return None
    attributes = {"webhook.event": event_id, "webhook.owner": tenant}
    return _recorder.attempt("webhook", traceparent, attributes)
