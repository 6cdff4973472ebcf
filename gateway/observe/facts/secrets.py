"""Secrets and where they come from."""

from collections.abc import Mapping
from typing import Any

import structlog

from gateway.observe import metrics
from gateway.observe.certificates import Role

_log: Any = structlog.get_logger()


def secret_connection(connection: str, *, signs_in: bool) -> None:
    """There is such a source of secrets: what has not happened there yet, sign-ins if there are any, is shown as 0."""
    for result in metrics.FETCHES:
        metrics.SECRET_FETCHES.add(connection, result, count=0)
    for result in metrics.LOGINS if signs_in else ():
        metrics.SECRET_LOGINS.add(connection, result, count=0)
    for outcome in metrics.REFUSED:
        metrics.SECRET_REFUSALS.add(connection, outcome, count=0)
    metrics.SECRET_CHANGES.add(connection, count=0)
    metrics.SECRET_DENIALS.add(connection, count=0)


def secret_fetched(connection: str, result: str, seconds: float) -> None:
    """A secret was asked for at its source."""
    metrics.SECRET_FETCHES.add(connection, result)
    metrics.SECRET_FETCH_SECONDS.observe(seconds, connection)


def secret_stale(connection: str, stale: bool) -> None:  # noqa: FBT001 - told by a hook
    """A secret begins to be served on without its source, or no longer is; `SecretLook` counts them."""
    if stale:
        _log.warning("secret_stale", connection=connection)
    else:
        _log.info("secret_fresh_again", connection=connection)


def secret_changed(connection: str) -> None:
    """A secret was fetched and is another one than before."""
    metrics.SECRET_CHANGES.add(connection)
    _log.info("secret_changed", connection=connection)


def secret_refused(connection: str, outcome: str) -> None:
    """A secret that a relay refused was fetched anew: it is `changed` or `unchanged`, or fetching `failed`."""
    metrics.SECRET_REFUSALS.add(connection, outcome)
    _log.info("secret_refused", connection=connection, outcome=outcome)


def secret_denied(owner: str, connection: str) -> None:
    """A tenant's profile asked for what the operator does not lend; `connection` is never the tenant's own word."""
    metrics.SECRET_DENIALS.add(connection)
    _log.warning("secret_denied", owner=owner, connection=connection)


def secret_login(connection: str, result: str, detail: str = "") -> None:
    """The daemon signed in at a secret store, or was not let in; `detail` says why, and nothing that is secret."""
    metrics.SECRET_LOGINS.add(connection, result)
    if result != "ok":
        _log.warning("secret_login_failed", connection=connection, result=result, detail=detail)


def secret_expiring(connection: str, seconds: float) -> None:
    """A secret is near the end that its source tells, or past it."""
    _log.warning("secret_expiring", connection=connection, days=round(seconds / 86_400, 1))


def connection_certificates(ends: Mapping[Role, float]) -> None:
    """When the certificates of connections to secret stores end, in seconds since the epoch."""
    metrics.CERTIFICATES.connections = ends


def provisioned_key_revoked(file: str) -> None:
    """A key file holds a key that was revoked: it is refused."""
    _log.error("provisioned_key_revoked", file=file)
