"""For each alert what makes it fire, and what looks like it and must not: series as `promtool test rules` writes them.

A value `a+bxN` goes on for N more minutes, growing by b; `axN` stays. The names are without `notification_gateway_`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Series = dict[str, str]

JOB: Final = 'job="notification-gateway"'
A: Final = f'{JOB}, instance="a"'
B: Final = f'{JOB}, instance="b"'
CORP: Final = f'{A}, connection="corp"'
DAY: Final = 86_400


class Case(NamedTuple):
    """What is there for the first `minutes`, and what the alert does then: once it fires, and once it is `quiet`."""

    fires: Series
    quiet: Series
    minutes: int = 20


def posts(ok: str, failed: str, **more: str) -> Series:
    """Requests that bring mail, by what was answered."""
    requests = f'http_requests_total{{{A}, route="notification.post", status='
    return {f'{requests}"2xx"}}': ok, f'{requests}"5xx"}}': failed, **more}


def lags(name: str, below: str, all_: str) -> Series:
    """A histogram with one bucket that is quick enough, and one that is not."""
    return {
        f'{name}_bucket{{{A}, le="0.1"}}': below,
        f'{name}_bucket{{{A}, le="1"}}': all_,
        f'{name}_bucket{{{A}, le="+Inf"}}': all_,
    }


def outcomes(relayed: str, failed: str) -> Series:
    """What became of recipients."""
    return {
        f'recipient_outcomes_total{{{A}, outcome="relayed"}}': relayed,
        f'recipient_outcomes_total{{{A}, outcome="failed"}}': failed,
    }


def by_result(name: str, ok: str, other: str, failure: str = "unreachable") -> Series:
    """A counter of a connection's, by result."""
    return {f'{name}{{{CORP}, result="ok"}}': ok, f'{name}{{{CORP}, result="{failure}"}}': other}


CASES: Final[dict[str, Case]] = {
    "GatewayGone": Case({f"up{{{A}}}": "1x5 0x20"}, {f"up{{{A}}}": "0x30", f"up{{{B}}}": "1x30"}),
    "GatewayDown": Case({f"up{{{A}}}": "0x30", f"up{{{B}}}": "1x30"}, {f"up{{{A}}}": "0x30", f"up{{{B}}}": "0x30"}),
    "GatewayNotReady": Case({f"ready{{{A}}}": "0x30"}, {f"ready{{{A}}}": "0x30", f"store_away{{{A}}}": "1x30"}),
    "GatewayRestarting": Case(
        {f"process_start_time_seconds{{{A}}}": "100x5 200x5 300x5 400x5"},
        {f"process_start_time_seconds{{{A}}}": "100x5 200x5 300x10"},
    ),
    "GatewayLoopLagging": Case(
        lags("loop_lag_seconds", "0+90x30", "0+100x30"), lags("loop_lag_seconds", "0+100x30", "0+100x30")
    ),
    "GatewayMemoryHigh": Case(
        {f"process_resident_memory_bytes{{{A}}}": "3e9x60"}, {f"process_resident_memory_bytes{{{A}}}": "1.2e9x60"}, 45
    ),
    "GatewayDescriptorsLow": Case(
        {f"process_open_fds{{{A}}}": "900x30", f"process_max_fds{{{A}}}": "1024x30"},
        {f"process_open_fds{{{A}}}": "90x30", f"process_max_fds{{{A}}}": "1024x30"},
    ),
    "GatewayClockWrong": Case(
        {f"clock_timestamp_seconds{{{A}}}": "100+60x30"}, {f"clock_timestamp_seconds{{{A}}}": "1+60x30"}
    ),
    "GatewayAcceptFailing": Case(
        posts("0+80x30", "0+20x30"), posts("0+80x30", "0+20x30", **{f"store_away{{{A}}}": "1x30"})
    ),
    "GatewayInternalErrors": Case(
        {f'http_refusals_total{{{A}, code="internal"}}': "0x10 1x20"},
        {
            f'http_refusals_total{{{A}, code="internal"}}': "1x30",
            f'http_refusals_total{{{A}, code="invalid"}}': "0+9x30",
        },
    ),
    "GatewayKeysRefused": Case(
        {f"http_keys_refused_total{{{A}}}": "0+60x60"}, {f"http_keys_refused_total{{{A}}}": "0+3x60"}, 50
    ),
    "GatewayStorageFull": Case({f"store_space_low{{{A}}}": "1x30"}, {f"store_space_low{{{A}}}": "0x30"}),
    "GatewayStorageFilling": Case(
        {f"store_disk_free_bytes{{{A}}}": "5e9-1e7x500", f"store_disk_floor_bytes{{{A}}}": "268435456x500"},
        {f"store_disk_free_bytes{{{A}}}": "80e9-1e6x500", f"store_disk_floor_bytes{{{A}}}": "268435456x500"},
        450,
    ),
    "GatewayStoreAway": Case({f"store_away{{{A}}}": "1x30"}, {f"store_away{{{A}}}": "0x15 1x1 0x30"}, 17),
    "GatewayCommitsSlow": Case(
        lags("store_commit_seconds", "0+90x60", "0+100x60"), lags("store_commit_seconds", "0+100x60", "0+100x60"), 40
    ),
    "GatewayBackupOld": Case(
        {f"last_backup_success_timestamp_seconds{{{A}}}": "60x5000"},
        {f"last_backup_success_timestamp_seconds{{{A}}}": "0x5000"},
        3000,
    ),
    "GatewayQueueOverdue": Case(
        {f"outbox_overdue_seconds{{{A}}}": "0+60x30"}, {f"outbox_overdue_seconds{{{A}}}": "0x8 400x3 0x30"}, 14
    ),
    "GatewayLanesNotCarried": Case(
        {f"lanes{{{A}}}": "0x30", f"lanes{{{B}}}": "0x30", f'outbox_depth{{{A}, state="ready"}}': "5x30"},
        {f"lanes{{{A}}}": "0x30", f"lanes{{{B}}}": "2x30", f'outbox_depth{{{A}, state="ready"}}': "5x30"},
    ),
    "GatewayNothingLeaves": Case(
        {
            f'relay_sessions_total{{{A}, result="opened"}}': "5x60",
            f'relay_sessions_total{{{A}, result="unreachable"}}': "0+1x60",
        },
        {
            f'relay_sessions_total{{{A}, result="opened"}}': "0+1x60",
            f'relay_sessions_total{{{A}, result="unreachable"}}': "0+9x60",
        },
        50,
    ),
    "GatewayDeferredGrowing": Case(
        {f'outbox_depth{{{A}, state="deferred"}}': "10x60 500x60"},
        {f'outbox_depth{{{A}, state="deferred"}}': "450x60 500x60"},
        100,
    ),
    "GatewayMailFailing": Case(outcomes("0+10x60", "0+10x60"), outcomes("0+1000x60", "0+10x60"), 50),
    "GatewayMailExpiring": Case(
        {f'recipient_outcomes_total{{{A}, outcome="expired"}}': "0x10 3x20"},
        {f'recipient_outcomes_total{{{A}, outcome="expired"}}': "3x30"},
    ),
    "GatewayMailUncertain": Case(
        {f'outbox_depth{{{A}, state="resting"}}': "1x90"}, {f'outbox_depth{{{A}, state="held"}}': "1x90"}, 80
    ),
    "GatewayPaused": Case({f"paused{{{A}}}": "1x60"}, {f"paused{{{A}}}": "1x20 0x40"}, 45),
    "GatewayProfileParked": Case(
        {f'profiles_parked{{{A}, reason="auth_failed"}}': "0x5 2x30"},
        {f'profiles_parked{{{A}, reason="auth_held_back"}}': "2x30"},
    ),
    "GatewayRelayAway": Case(
        {f"breaker_open_seconds{{{A}}}": "0+60x60"}, {f"breaker_open_seconds{{{A}}}": "0+60x25 0+60x40"}, 50
    ),
    "GatewayWebhooksFailing": Case(
        {
            f'webhook_attempts_total{{{A}, result="ok"}}': "0x90",
            f'webhook_attempts_total{{{A}, result="timeout"}}': "0+5x90",
        },
        {
            f'webhook_attempts_total{{{A}, result="ok"}}': "0+5x90",
            f'webhook_attempts_total{{{A}, result="timeout"}}': "0+5x90",
        },
        80,
    ),
    "GatewaySecretStale": Case({f"secrets_stale{{{CORP}}}": "2x30"}, {f"secrets_stale{{{CORP}}}": "2x10 0x30"}),
    "GatewaySecretsRunningOut": Case(
        {f"secrets_stale{{{CORP}}}": "2x30", f"secret_oldest_seconds{{{CORP}}}": "70000+60x30"},
        {f"secrets_stale{{{CORP}}}": "0x30", f"secret_oldest_seconds{{{CORP}}}": "70000+60x30"},
    ),
    "GatewaySecretSourceDown": Case(
        by_result("secret_fetches_total", "5x60", "0+2x60"), by_result("secret_fetches_total", "0+1x60", "0+2x60"), 50
    ),
    "GatewaySecretLoginFailing": Case(
        by_result("secret_logins_total", "5x60", "0+2x60", "denied"),
        by_result("secret_logins_total", "0+1x60", "0+1x60", "denied"),
        50,
    ),
    "GatewaySecretTokenEnding": Case(
        {f"secret_token_seconds{{{CORP}}}": "3600-60x60", f'secret_uses_total{{{CORP}, state="hit"}}': "0+9x60"},
        {f"secret_token_seconds{{{CORP}}}": "3600-60x60", f'secret_uses_total{{{CORP}, state="hit"}}': "9x60"},
        60,
    ),
    "GatewaySecretExpiring": Case(
        {f"secret_expiry_seconds{{{CORP}}}": f"{3 * DAY}-60x90"},
        {f"secret_expiry_seconds{{{CORP}}}": f"{30 * DAY}-60x90"},
        80,
    ),
    "GatewaySecretExpired": Case(
        {f"secret_expiry_seconds{{{CORP}}}": "300-60x30"}, {f"secret_expiry_seconds{{{CORP}}}": "3600-60x30"}
    ),
    "GatewayCertificateExpiring": Case(
        {f'secret_connection_certificate_end_timestamp_seconds{{{CORP}, role="client"}}': f"{10 * DAY}x90"},
        {f"http_certificate_end_timestamp_seconds{{{A}}}": f"{60 * DAY}x90"},
        80,
    ),
    "GatewayCertificateEnds": Case(
        {f"http_certificate_end_timestamp_seconds{{{A}}}": "3600x30"},
        {f"http_certificate_end_timestamp_seconds{{{A}}}": f"{3 * DAY}x30"},
    ),
    "GatewayRelayCertificateExpiring": Case(
        {f'relay_certificate_end_timestamp_seconds{{{A}, relay="relay.test:587"}}': f"{2 * DAY}x90"},
        {f'relay_certificate_end_timestamp_seconds{{{A}, relay="relay.test:587"}}': f"{-8 * DAY}x90"},
        80,
    ),
    "GatewayReloadFailed": Case(
        {f"last_reload_successful{{{A}}}": "0x30"}, {f"last_reload_successful{{{A}}}": "0x3 1x30"}
    ),
    "GatewayRestartNeeded": Case({f"restart_needed{{{A}}}": "1x90"}, {f"restart_needed{{{A}}}": "1x30 0x60"}, 80),
}
