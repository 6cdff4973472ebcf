"""Spans by the OpenTelemetry API, which is an extra: only `tracing` imports this, and only when a daemon starts."""

import logging
from collections.abc import Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__

MAX_STATE: Final = 512  # characters; a longer tracestate is left out (Trace Context §3.3.1.5)


class Span:
    """Something that is done in a trace. `traceparent` is what is handed on: ours while we are recorded, else the parent's."""

    __slots__ = ("_recorded", "_tells", "traceparent")

    def __init__(self, recorded: trace.Span, parent: str | None, tells: str) -> None:
        """`tells` names the attribute that holds what came of it."""
        self._recorded = recorded
        self._tells = tells
        self.traceparent = parent
        if recorded.is_recording():
            own = recorded.get_span_context()
            self.traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def end(self, came: str | int, *, failed: bool = False) -> None:
        """It is over, and this came of it."""
        self._recorded.set_attribute(self._tells, came)
        if failed:
            self._recorded.set_status(StatusCode.ERROR)
        self._recorded.end()


class Recorder:
    """Begins spans; none is ever a child of what merely happens to go on in the same task."""

    def __init__(self, tracer: Tracer) -> None:
        """Record by the operator's SDK."""
        self._tracer = tracer
        self._reader = TraceContextTextMapPropagator()

    def request(self, method: str, path: str, parent: str | None, state: str) -> Span:
        """Begin to answer a request."""
        attributes = {"http.request.method": method, "http.route": path}
        name = f"{method} {path}"
        recorded = self._tracer.start_span(name, self._context(parent, state), SpanKind.SERVER, attributes)
        return Span(recorded, parent, "http.response.status_code")

    def attempt(self, name: str, parent: str | None, attributes: Mapping[str, str]) -> Span:
        """Begin to try something for a notification."""
        recorded = self._tracer.start_span(name, self._context(parent), SpanKind.CLIENT, dict(attributes))
        return Span(recorded, parent, "outcome")

    def _context(self, parent: str | None, state: str = "") -> Context:
        if parent is None:
            return Context()
        kept = {"tracestate": state} if 0 < len(state) <= MAX_STATE else {}
        return self._reader.extract({"traceparent": parent, **kept}, Context())


def recorder() -> Recorder | None:
    """Record if an SDK is set up in this process; None if there is only the API, which does nothing."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it warns of what any caller may write
    return Recorder(provider.get_tracer("notification-gateway", __version__))
