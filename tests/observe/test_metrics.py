"""What is scraped: closed sets of labels, as many series as may be, and numbers that are true."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from gateway import gauges
from gateway.credentials.provider import Kind
from gateway.directory.shapes import Pause
from gateway.gauges import Gauges, certificate_files
from gateway.http.metrics import MetricsServer
from gateway.observe import facts, metrics
from gateway.observe.tallies import MOST_TENANTS, OTHER, Spread, Tally, Tenants
from gateway.outbox.verdict import Park, Rest, consequence
from gateway.settings import TcpAddress, load
from gateway.smtp.outcome import Fault, Phase, Refused, Rejected, Relayed, Trouble, Unknown, Untaken, answer_class
from gateway.smtp.reply import Reply
from gateway.store.rows import Wait
from tests.http.world import running
from tests.observe.installation import installation
from tests.peers.postfix import free_port
from tests.peers.smtp_script import Hold
from tests.peers.smtp_script import Reply as SmtpReply
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.process.daemon import Daemon, mail, plain
from tests.relay.world import SEAL, World, password, profile, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gateway.observe.certificates import Role

PREFIX = "notification_gateway_"
TENANTS = 5_000
PATHS = 10_000
SERIES = 2_000
DAY = 86_400
SAYS = Reply(250, None, "ok")


def value(name: str, **labels: str) -> float:
    """A sample as it would be scraped now; 0 if there is none."""
    return metrics.REGISTRY.get_sample_value(PREFIX + name, labels) or 0.0


async def until(name: str, wanted: float, **labels: str) -> None:
    """Wait until a sample is so."""
    async with asyncio.timeout(10):
        while value(name, **labels) != wanted:
            await asyncio.sleep(0.01)


# Closed sets.


def test_the_sets_of_labels_are_those_of_the_code() -> None:
    """Whatever can happen is shown from the beginning, and nothing that cannot."""
    parked = [one for one in Trouble if isinstance(consequence(Fault(Phase.AUTH, one, "")), Park | Rest)]
    outcomes = (Relayed(SAYS), Refused(Phase.SENDER, Reply(450, None, "")), Refused(Phase.SENDER, Reply(550, None, "")))
    others = (Rejected(SAYS), Untaken(""), Unknown(""))

    assert set(metrics.TROUBLES) == {*Trouble}
    assert set(metrics.PARKINGS) == {*parked, Trouble.TLS_FAILED}  # which parks once it has lasted
    assert tuple(map(answer_class, outcomes + others)) == metrics.ANSWERS
    assert set(metrics.DEPTHS) == {*Wait, "held"}
    assert set(metrics.FETCHES) == {"ok", *Kind}
    assert set(facts.OUTCOMES) | {"lease_lost"} == set(metrics.OUTCOMES)


# The process.


def test_the_process_is_told_where_only_processes_are_shown(tmp_path: Path) -> None:
    """Under ProcSubset=pid there is no /proc/stat; all that the library tells with it is told without it, and as well."""
    (tmp_path / "self").symlink_to("/proc/self")
    hidden, whole = CollectorRegistry(), CollectorRegistry()
    type(metrics.PROCESS)(proc=str(tmp_path), registry=hidden)
    ProcessCollector(registry=whole)
    told, wanted = (
        {sample.name: sample.value for one in at.collect() for sample in one.samples} for at in (hidden, whole)
    )

    assert len(wanted) == 6
    assert told.keys() == wanted.keys()
    assert told["process_start_time_seconds"] == pytest.approx(wanted["process_start_time_seconds"], abs=2)


# Health.


@pytest.mark.parametrize("reasons", [[], ["storage_full"]])
async def test_both_listeners_say_alike_whether_mail_is_taken(tmp_path: Path, reasons: list[str]) -> None:
    """In the words of the API, with the same reasons: a load balancer may ask either."""
    async with running(tmp_path, reasons=lambda: reasons) as at:
        listener = MetricsServer(at.services)
        await listener.start([TcpAddress("127.0.0.1", 0)])
        for path in ("/livez", "/readyz"):
            one = await at.call("GET", path, None)
            async with at.session.get(f"http://127.0.0.1:{listener.port}{path}") as other:
                assert (other.status, await other.json()) == (one.status, one.json)
        await listener.stop()


# Counting without locks.


def scraped(collector: Tally | Spread) -> str:
    """What Prometheus would read."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_what_is_known_is_shown_before_it_happens() -> None:
    """So that the first time is an increase."""
    tally = Tally("x", "says", ["result"], known=(("ok",), ("failed",)))
    tally.add("ok", count=3)
    tally.add("late")
    assert scraped(tally).splitlines()[2:] == [
        'x_total{result="ok"} 3.0', 'x_total{result="failed"} 0.0', 'x_total{result="late"} 1.0'
    ]  # fmt: skip


def test_a_value_on_the_edge_is_within_its_bucket() -> None:
    """Buckets are cumulative, and include their upper bounds."""
    spread = Spread("x", "says", (1.0, 2.0))
    for one in (1.0, 1.5, 2.0, 2.5):
        spread.observe(one)
    assert scraped(spread).splitlines()[2:] == [
        'x_bucket{le="1.0"} 1.0', 'x_bucket{le="2.0"} 3.0', 'x_bucket{le="+Inf"} 4.0', "x_count 4.0", "x_sum 7.0"
    ]  # fmt: skip


def test_tenants_beyond_the_first_are_one() -> None:
    """Who is called like the rest is counted with the rest, and how much of that there is can be seen."""
    dropped = Tally("dropped", "says")
    tenants = Tenants(dropped, shown=True)
    tally = Tally("x", "says", tenants=tenants)
    tally.add(tenants.label(OTHER))
    for number in (*range(MOST_TENANTS + 10), 0):
        tally.add(tenants.label(f"t{number}"))

    lines = scraped(tally).splitlines()[2:]
    assert len(lines) == MOST_TENANTS + 1
    assert {'x_total{tenant="t0"} 2.0', 'x_total{tenant="other"} 11.0'} <= set(lines)
    assert "dropped_total 11.0" in scraped(dropped)


def test_tenants_are_one_unless_they_are_told_apart() -> None:
    """Without the label."""
    tenants = Tenants(Tally("dropped", "says"))
    tally = Tally("x", "says", ["outcome"], known=(("failed",),), tenants=tenants)
    for number in range(3):
        tally.add("relayed", tenants.label(f"t{number}"))
    assert scraped(tally).splitlines()[2:] == ['x_total{outcome="failed"} 0.0', 'x_total{outcome="relayed"} 3.0']


# Bounds.


async def scrape(daemon: Daemon) -> str:
    """Ask as Prometheus does."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{daemon.metrics}/metrics") as answer:
        return await answer.text()


async def test_a_scrape_is_bounded(tmp_path: Path) -> None:
    """Though tenants are told apart: five thousand send, and somebody asks for ten thousand paths that there are not."""
    tenants = "".join(f'[[tenants]]\nid = "t{number}"\n' for number in range(TENANTS))
    shared = '[[profiles]]\ntenant = "system"\nname = "main"\nis_default = true\nfrom = "a@example.test"\n'
    async with ScriptedRelay(keep_data=False) as relay:
        more = tenants + shared + plain(relay.port)
        daemon = Daemon(tmp_path / "gateway", plain(relay.port), more_tenants=more)
        await daemon.start(environ={"NOTIFICATION_GATEWAY_METRICS__TENANT_LABEL": "true"})
        try:
            async with daemon.client(daemon.admin_key) as client:
                for start in range(0, TENANTS, 500):
                    batch = [mail(tenant=f"t{number}") for number in range(start, start + 500)]
                    async with client.session.post("/v1/notifications/batch", json={"notifications": batch}) as answer:
                        assert {one["status"] for one in (await answer.json())["results"]} == {202}
                for number in range(PATHS):
                    async with client.session.get(f"/v1/nothing/{number}") as answer:
                        assert answer.status == 404
                text = await scrape(daemon)
        finally:
            await daemon.kill()

    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(text) < 1 << 20
    assert len(lines) < SERIES
    assert sum("accepted_total{tenant=" in line for line in lines) == MOST_TENANTS + 1
    assert f'accepted_total{{tenant="other"}} {TENANTS - MOST_TENANTS}.0' in text
    assert f'http_refusals_total{{code="not_found"}} {PATHS}.0' in text


# Numbers that are true.


class Moved:
    """How far metrics moved since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> Counter[str]:
        lines = generate_latest(metrics.REGISTRY).decode().splitlines()
        return Counter({line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"})

    def by(self, beginning: str) -> dict[str, float]:
        """Those that moved, and begin so."""
        now = self._now()
        moved = {name: now[name] - self._before[name] for name in now if name.startswith(PREFIX + beginning)}
        return {name.removeprefix(PREFIX): by for name, by in moved.items() if by}


async def test_what_is_refused_repeated_and_batched_is_counted(tmp_path: Path) -> None:
    """By the problem's code, each item of a batch for itself; what a repeated answer is of is not counted again."""
    moved = Moved()
    async with running(tmp_path) as at:
        at.outbox.on_accepted = facts.accepted
        for _ in range(2):
            await at.call("POST", "/v1/notifications", json=mail(), headers={"Idempotency-Key": "one"})
        items = [mail(), {"to": "nobody"}, mail(tenant="globex")]
        await at.call("POST", "/v1/notifications/batch", json={"notifications": items})
        await at.call("GET", "/v1/nothing")
        await at.call("GET", "/v1/queue", None)

    assert moved.by("http_refusals") == {
        'http_refusals_total{code="invalid"}': 1,
        'http_refusals_total{code="not_found"}': 2,
        'http_refusals_total{code="unauthorized"}': 1,
    }
    assert moved.by("idempotent_replays") == {"idempotent_replays_total": 1}
    assert moved.by("accept_batch_notifications_sum") == {"accept_batch_notifications_sum": 3}
    assert moved.by("accepted_total") == {"accepted_total": 2}
    assert moved.by("accepted_recipients") == {"accepted_recipients_total": 4}  # the tenant's own copies included
    assert moved.by("accepted_bytes")["accepted_bytes_total"] > 0


async def test_octets_are_counted_as_they_are_stored(tmp_path: Path) -> None:
    """Whatever the alphabet."""
    sizes = []
    async with running(tmp_path) as at:
        at.outbox.on_accepted = lambda _tenant, _recipients, size: sizes.append(size)
        for subject in ("hello", "h\N{LATIN SMALL LETTER E WITH ACUTE}llo"):
            await at.call("POST", "/v1/notifications", json=mail(subject=subject, text="x"))
    assert sizes[1] - sizes[0] == 1


async def test_a_session_and_its_message_are_timed(tmp_path: Path) -> None:
    """Each phase once, the message to the final reply, and what the relay said; who signs in nowhere has no such phase."""
    moved = Moved()
    async with ScriptedRelay() as taking, ScriptedRelay({"mail": SmtpReply("451 later")}) as putting_off:
        one, other = profile(taking.port), profile(putting_off.port, "zoo")
        async with world(tmp_path, one, other) as at:
            for tenant in ("acme", "zoo"):
                await at.post(tenant)
            await taking.wait_messages(1)
            await at.carried()

    phases = moved.by("relay_phase_seconds_count")
    assert phases == {f'relay_phase_seconds_count{{phase="{one}"}}': 2 for one in ("resolve", "connect", "greeting")}
    assert moved.by("relay_transaction_seconds_count") == {"relay_transaction_seconds_count": 2}
    assert moved.by("relay_answers") == {
        'relay_answers_total{answer="relayed"}': 1, 'relay_answers_total{answer="refused_4yz"}': 1
    }  # fmt: skip


async def test_signing_in_is_timed(tmp_path: Path) -> None:
    """With TLS before it."""
    moved = Moved()
    issued = issue_tls("127.0.0.1")
    async with ScriptedRelay(tls=issued.context, users={"app": "s3cret"}) as relay:
        secure = {"security": "starttls", "tls": {"ca_certificates": issued.ca_pem}}
        async with world(tmp_path, profile(relay.port, **secure, auth=password(SEAL, "acme", "main", "s3cret"))) as at:
            await at.post("acme")
            await relay.wait_messages(1)
    assert {name.split('"')[1] for name in moved.by("relay_phase_seconds_count")} == set(metrics.PHASES)


# What is looked at now and then.


@asynccontextmanager
async def watched(
    at: World, monkeypatch: pytest.MonkeyPatch, files: Mapping[Role, Path] | None = None
) -> AsyncIterator[None]:
    """Look at a world all the time."""
    monkeypatch.setattr(gauges, "EVERY", 0.01)
    monkeypatch.setattr(gauges, "SHARE", 0)
    reading = Gauges(at.outbox, at.store, at.dispatcher, (), list, files or {})
    tasks = [asyncio.ensure_future(one) for one in (reading.now_and_then(), reading.each_second(), reading.loop_lag())]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_waits_is_told_by_how_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held is what has no profile, or a paused one; overdue only what could leave, here behind a relay that thinks."""
    thinking = asyncio.Event()
    async with ScriptedRelay({"final": Hold(thinking)}) as relay:
        slow = profile(relay.port, limits={"connections": 1, "messages_per_connection": 1})
        halted = profile(relay.port, "zoo", name="halted", is_default=False, host="localhost")
        async with world(tmp_path, slow, halted, Pause(tenant="zoo", profile="halted")) as at, watched(at, monkeypatch):
            await at.post("zoo", profile="halted")
            await at.post("zoo")  # which has no default profile
            await until("outbox_depth", 2, state="held")
            assert value("outbox_overdue_seconds") == 0
            for _ in range(300):
                await at.post("acme")
            async with asyncio.timeout(10):
                while {one: value("outbox_depth", state=one) for one in ("leased", "ready")} != {
                    "leased": max(at.outbox.in_hand, 100), "ready": 300 - at.outbox.in_hand
                }:  # fmt: skip
                    await asyncio.sleep(0.01)
            await until("outbox_leased", at.outbox.in_hand)
            async with asyncio.timeout(10):
                while value("outbox_overdue_seconds") == 0:
                    await asyncio.sleep(0.01)
            assert 0 < value("outbox_overdue_seconds") < 60
            assert 0 < value("outbox_oldest_seconds", state="ready") < 60
            assert value("relay_connections", state="busy") == 1
            thinking.set()


async def test_profiles_and_breakers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many stand how and why, and since when the relay is away that is away longest."""
    async with ScriptedRelay(users={"app": "right"}, require_auth=True) as relay:
        parked = profile(relay.port, auth=password(SEAL, "acme", "main", "wrong"))
        gone = profile(free_port(relay.port), "zoo", name="gone")
        async with world(tmp_path, parked, gone) as at, watched(at, monkeypatch):
            await at.post("acme")
            await at.post("zoo")
            await until("profiles_parked", 1, reason="auth_failed")
            await until("profiles", 1, state="parked")
            await until("breakers_open", 1)
            first = value("breaker_open_seconds")
            await until("lanes", 2)
            async with asyncio.timeout(10):
                while value("breaker_open_seconds") <= first:
                    await asyncio.sleep(0.01)
            assert value("outbox_overdue_seconds") == 0
            await at.dispatcher.resume(("zoo", "gone"))
            at.dispatcher.let_go_on(("zoo", "gone"))
            await until("breakers_open", 0)


async def test_a_relays_certificate_is_told_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was only tried, or whose profile is gone, is nobody's to renew."""
    issued, ends = issue_tls("127.0.0.1"), "relay_certificate_end_timestamp_seconds"
    async with ScriptedRelay(tls=issued.context) as relay:
        secure = profile(relay.port, security="starttls", tls={"ca_certificates": issued.ca_pem})
        used = f"127.0.0.1:{relay.port}"
        async with world(tmp_path, secure) as at, watched(at, monkeypatch):
            await at.post("acme")
            await relay.wait_messages(1)
            facts.certificate("tried.example", 25, time.time() + DAY)
            await until(ends, 0, relay="tried.example:25")
            kept = value(ends, relay=used)
            await at.drop(secure)
            await until(ends, 0, relay=used)
    assert kept > time.time()


async def test_how_large_the_store_is_and_how_much_room_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database, its log and its disk."""
    async with world(tmp_path) as at, watched(at, monkeypatch):
        await until("store_size_bytes", (tmp_path / "gateway.db").stat().st_size, file="database")
        await until("store_size_bytes", (tmp_path / "gateway.db-wal").stat().st_size, file="log")
        assert 0 < value("store_disk_free_bytes") <= shutil.disk_usage(tmp_path).total


async def test_how_late_the_loop_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that stands still for half a second is seen as late, more or less by how long."""
    async with world(tmp_path) as at, watched(at, monkeypatch):
        await asyncio.sleep(0)
        moved = Moved()
        time.sleep(0.6)
        async with asyncio.timeout(10):
            while not moved.by("loop_lag_seconds_count"):
                await asyncio.sleep(0.01)
    assert 0.4 < moved.by("loop_lag_seconds_sum")["loop_lag_seconds_sum"] < 5
    assert (
        'loop_lag_seconds_bucket{le="0.25"}' not in moved.by("loop_lag_seconds_bucket")
        or moved.by("loop_lag_seconds_count")["loop_lag_seconds_count"] > 1
    )


# Certificates.


def pem(days: int) -> bytes:
    """A certificate that ends then."""
    issued = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=days))
    return issued.cert_chain_pems[0].bytes()


async def test_when_the_certificates_of_connections_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first in a file counts; what cannot be read is not told."""
    (tmp_path / "ca.pem").write_bytes(pem(90) + pem(30))
    client = trustme.CA().issue_cert("127.0.0.1")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "gateway.toml").write_text(
        """
[connections.ccp]
kind = "cyberark"
url = "https://ccp.example.test"
app_id = "gateway"
ca_certificates = "ca.pem"
client_certificate = "client.pem"
client_key = "key.pem"
"""
    )
    files = certificate_files(load(tmp_path / "gateway.toml", {}))
    (tmp_path / "client.pem").write_bytes(b"nothing")
    assert files == {("ccp", "ca"): tmp_path / "ca.pem", ("ccp", "client"): tmp_path / "client.pem"}
    name = "secret_connection_certificate_end_timestamp_seconds"
    async with world(tmp_path) as at, watched(at, monkeypatch, files):
        async with asyncio.timeout(10):
            while not value(name, connection="ccp", role="ca"):
                await asyncio.sleep(0.01)
    assert abs(value(name, connection="ccp", role="ca") - time.time() - 30 * DAY) < 3600
    assert not value(name, connection="ccp", role="client")
    facts.connection_certificates({})


async def test_the_listeners_own_certificate_is_the_one_in_force(tmp_path: Path) -> None:
    """After a reload the new one; without TLS there is none."""
    name = "http_certificate_end_timestamp_seconds"
    async with installation(tmp_path) as at:
        [ends] = re.findall(rf"^{PREFIX}{name} (.*)$", await scrape(at.daemon), re.MULTILINE)
        short = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=5))
        (tmp_path / "own.pem").write_bytes(short.cert_chain_pems[0].bytes())
        (tmp_path / "own.key").write_bytes(short.private_key_pem.bytes())
        at.daemon.signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while (found := re.findall(rf"^{PREFIX}{name} (.*)$", await scrape(at.daemon), re.MULTILINE)) == [ends]:
                await asyncio.sleep(0.05)
    assert float(ends) > time.time() + 6 * DAY
    assert abs(float(found[0]) - time.time() - 5 * DAY) < 3600
