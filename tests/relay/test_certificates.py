"""When relays' certificates end is known from the sessions that were opened, and bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from gateway.observe import metrics
from gateway.observe.certificates import MOST_KEPT, MOST_SHOWN, Certificates
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_session_tells_when_the_certificate_ends(tmp_path: Path) -> None:
    """By the relay's name, as the metric and `doctor` show it."""
    issued = issue_tls("127.0.0.1")
    async with ScriptedRelay(tls=issued.context) as relay:
        secure = profile(relay.port, security="starttls", tls={"ca_certificates": issued.ca_pem})
        async with world(tmp_path, secure) as at:
            await at.post("acme")
            await relay.wait_messages(1)
        ends = dict(metrics.CERTIFICATES.soonest())["127.0.0.1", relay.port]
        shown = generate_latest(metrics.REGISTRY).decode()

    assert datetime.fromtimestamp(ends, UTC) > datetime.now(UTC)
    assert f'notification_gateway_relay_certificate_end_timestamp_seconds{{relay="127.0.0.1:{relay.port}"}}' in shown


def test_only_those_that_end_first_are_shown() -> None:
    """Tenants choose the names, so their number is bounded; which of them says something is not a tenant's to choose."""
    certificates, now = Certificates("x_"), datetime.now(UTC)
    for number in range(MOST_KEPT + 10):
        certificates.showed((f"h{number}.test", 25), (now + timedelta(days=MOST_KEPT * 2 - number)).timestamp())
    ends, known, *_ = certificates.collect()

    assert [sample.labels["relay"] for sample in ends.samples][:2] == [
        f"h{MOST_KEPT + 9}.test:25",
        f"h{MOST_KEPT + 8}.test:25",
    ]
    assert (len(ends.samples), known.samples[0].value) == (MOST_SHOWN, MOST_KEPT)
