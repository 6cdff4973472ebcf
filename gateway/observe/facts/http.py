"""Requests: what was answered, and what was refused."""

from typing import Any

import structlog

from gateway.observe import metrics

_log: Any = structlog.get_logger()


def answered(route: str, status: int, seconds: float) -> None:
    """A request was answered."""
    metrics.REQUESTS.add(route or "none", metrics.CLASSES[status // 100 - 1])
    metrics.HTTP_SECONDS.observe(seconds, route if route in metrics.TIMED_ROUTES else "other")


def refused(code: str) -> None:
    """A request, or one item of a batch, was refused with this problem's code."""
    metrics.REFUSALS.add(code)


def batch(size: int) -> None:
    """A batch of so many notifications came."""
    metrics.BATCH_SIZE.observe(size)


def replayed() -> None:
    """A request was answered again under its idempotency key."""
    metrics.REPLAYS.add()


def request_failed(request_id: str, error: BaseException) -> None:
    """A request met an error of ours."""
    _log.error("request_failed", request_id=request_id, error=type(error).__name__, exc_info=error)


def key_refused(address: str) -> None:
    """An API key was refused, of this client; "": the log has told of the client often enough."""
    metrics.REFUSED_KEYS.add()
    if address:
        _log.warning("key_refused", client=address)


def signed_in(how: str, tenant: str) -> None:
    """Somebody signed in to the pages, by a `key`, a `link` or `oidc`; their reach begins at this tenant."""
    metrics.SIGN_INS.add(how, "ok")
    _log.info("signed_in", how=how, tenant=tenant)


def link_refused() -> None:
    """Somebody opened a link that signs nobody in, or not any more; anybody can, so the log does not tell it."""
    metrics.SIGN_INS.add("link", "failed")


def sign_in_failed(reason: str, detail: str) -> None:
    """The OpenID provider signed nobody in, or somebody without a right here; `detail` is a sentence of ours."""
    metrics.SIGN_INS.add("oidc", "no_right" if reason == "no_right" else "failed")
    _log.warning("sign_in_failed", reason=reason, detail=detail)


def http_certificate(ends: float | None) -> None:
    """The listener shows a certificate that ends then, in seconds since the epoch; None: it speaks no TLS."""
    metrics.CERTIFICATES.http = ends
