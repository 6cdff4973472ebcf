"""Facts for operators: one function each writes the log line and moves the metric; nobody else does either.

By subject; whoever tells one says `facts.` and what happened, whatever its subject.
"""

from gateway.observe.facts.http import answered, batch, http_certificate, key_refused, refused, replayed, request_failed
from gateway.observe.facts.mail import (
    LINES_A_MINUTE,
    OUTCOMES,
    accepted,
    depths,
    lease_lost,
    notification_accepted,
    outcome,
    overdue,
    recipient,
    row_unreadable,
    sending_paused,
    sending_resumed,
    started_paused,
    tell_left_out,
)
from gateway.observe.facts.process import (
    began,
    gauges,
    library,
    listening,
    loop_died,
    loop_lag,
    reload_failed,
    reloaded,
    start_failed,
    started,
    stopped,
    stopping,
    uncaught,
)
from gateway.observe.facts.relays import (
    breaker_opened,
    breakers,
    carried,
    certificate,
    failover_began,
    failover_ended,
    halved,
    lanes,
    lanes_lost,
    opening_failed,
    parked,
    phase_passed,
    profiles,
    relay_connections,
    session_failed,
    session_opened,
    stood_in,
    unparked,
)
from gateway.observe.facts.secrets import (
    connection_certificates,
    provisioned_key_revoked,
    secret_changed,
    secret_connection,
    secret_denied,
    secret_expiring,
    secret_fetched,
    secret_login,
    secret_refused,
    secret_stale,
)
from gateway.observe.facts.store import (
    backup_failed,
    backup_made,
    beat_missed,
    commit,
    daemons,
    disk,
    entry_unreadable,
    last_backup,
    life_unwritten,
    statements,
    store_away,
    store_broken,
    store_size,
    store_stuck,
)
from gateway.observe.facts.webhooks import (
    webhook_attempt,
    webhook_disabled,
    webhook_events,
    webhook_failed,
    webhook_gave_up,
    webhook_not_disabled,
)

__all__ = [
    "LINES_A_MINUTE", "OUTCOMES", "accepted", "answered", "backup_failed", "backup_made", "batch", "beat_missed",
    "began", "breaker_opened", "breakers", "carried", "certificate", "commit", "connection_certificates", "daemons",
    "depths", "disk", "entry_unreadable", "failover_began", "failover_ended", "gauges", "halved", "http_certificate",
    "key_refused", "lanes", "lanes_lost", "last_backup", "lease_lost", "library", "life_unwritten", "listening",
    "loop_died", "loop_lag", "notification_accepted", "opening_failed", "outcome", "overdue", "parked", "phase_passed",
    "profiles", "provisioned_key_revoked", "recipient", "refused", "relay_connections", "reload_failed", "reloaded",
    "replayed", "request_failed", "row_unreadable", "secret_changed", "secret_connection", "secret_denied",
    "secret_expiring", "secret_fetched", "secret_login", "secret_refused", "secret_stale", "sending_paused",
    "sending_resumed", "session_failed", "session_opened", "start_failed", "started", "started_paused", "statements",
    "stood_in", "stopped", "stopping", "store_away", "store_broken", "store_size", "store_stuck", "tell_left_out",
    "uncaught", "unparked", "webhook_attempt", "webhook_disabled", "webhook_events", "webhook_failed",
    "webhook_gave_up", "webhook_not_disabled",
]  # fmt: skip
