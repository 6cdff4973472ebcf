"""What is measured: each scenario starts its systems afresh, loads them, and answers figures by name.

End to end is from the first request until `smtp-sink` has got the last message and ended.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.message.address import Mailbox
from gateway.message.compose import Draft, compose
from tests.bench import pages
from tests.bench.cluster import CALLERS, Cluster
from tests.bench.cluster import drive as drive_cluster
from tests.bench.loadgen import TEXT, Answers, Load
from tests.bench.process import Child, Endpoint, Generator, Proxy, Sink, Watch, module, tool
from tests.bench.secrets import HUNG, HangingVault, VaultGateway
from tests.bench.systems import Gateway, Naive, Route, postfix, slow_disk
from tests.peers.postfix import free_port
from tests.peers.postgresql import VERSIONS, Postgresql
from tests.peers.smtp_server import issue_tls

Measured = dict[str, float]
PATIENCE = 120.0
LIMIT_MESSAGES = 20_000
BATCH = 500
AHEAD = 8.0  # seconds in which the queue for the drain is filled
DEPTHS = (10_000, 200_000)
SHARED_DEPTHS = (10_000, 1_000_000)
TENANTS = 100_000


@dataclass(frozen=True, slots=True)
class Bench:
    """Where scenarios work, and how much of it they do."""

    base: Path
    scale: float = 1.0

    def count(self, full: int) -> int:
        """So many messages, or fewer when it shall be quick."""
        return max(200, round(full * self.scale))

    @contextmanager
    def home(self) -> Iterator[Path]:
        """A directory for the files of one run; Postfix's own users must be able to pass through it."""
        with tempfile.TemporaryDirectory(dir=self.base, ignore_cleanup_errors=True) as home:
            Path(home).chmod(0o755)
            yield Path(home)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A measurement with a name; `once`: too long to be repeated in every round."""

    name: str
    says: str
    run: Callable[[Bench], Measured]
    once: bool = False


def drive(home: Path, load: Load, watch: Watch, sink: Sink) -> Measured:
    """Send a load, wait until its last message has arrived."""
    with Generator(home, load) as generator:

        def look() -> None:
            watch.look()
            generator.check()

        arrived = sink.wait(PATIENCE, look)
        used = watch.used(load.requests)
        answers = generator.answers()
    return {"e2e": load.requests / (arrived - answers.began), **accepting(answers), **used}


def accepting(answers: Answers) -> Measured:
    """How the load generator saw it."""
    return {"accept": answers.per_second, "p50": answers.p50, "p99": answers.p99, "p999": answers.p999}


def through_gateway(
    bench: Bench,
    messages: int,
    *,
    clients: int = 32,
    connections: int = 8,
    sync_milliseconds: float = 0.0,
    proxied: Mapping[str, object] | None = None,
) -> Measured:
    """Our daemon end to end, with what a scenario puts in its way."""
    tracer = slow_disk(sync_milliseconds) if sync_milliseconds else ()
    with ExitStack() as stack:
        home = stack.enter_context(bench.home())
        sink = stack.enter_context(Sink(home, messages))
        relay_port, ca_pem = sink.port, ""
        if proxied is not None:
            options, ca_pem = _proxy_options(home, proxied)
            relay_port = stack.enter_context(Proxy(home, sink.port, *options)).port
        gateway = stack.enter_context(Gateway(home, Route(relay_port, connections, ca_pem), tracer))
        return drive(home, gateway.load(messages, clients), gateway.watch(), sink)


def _proxy_options(home: Path, proxied: Mapping[str, object]) -> tuple[list[object], str]:
    if "tls" not in proxied:
        return ["--delay", proxied["delay"]], ""
    issued = issue_tls("localhost", "127.0.0.1")
    file = home / "relay.pem"
    file.write_text(issued.key_pem + issued.chain_pem)
    return ["--tls", file], issued.ca_pem


# The systems that are compared.


def ours(bench: Bench) -> Measured:
    """Our daemon, the reference run."""
    return through_gateway(bench, bench.count(3000))


def naive(bench: Bench) -> Measured:
    """The naive service on the same work; when it answers, the message has arrived."""
    messages = bench.count(3000)
    with bench.home() as home, Sink(home) as sink, Naive(home, sink.port) as service:
        watch = service.watch()
        with Generator(home, service.load(messages, 32)) as generator:
            answers = generator.answers(look=watch.look)
        return {"e2e": answers.per_second, **accepting(answers), **watch.used(messages)}


def with_postfix(bench: Bench) -> Measured:
    """Postfix on the same work, given over SMTP."""
    messages = bench.count(3000)
    with bench.home() as home, Sink(home, messages) as sink, postfix(sink.port) as relay:
        watch = Watch(relay.processes)
        began = time.monotonic()
        with Child(source(32, messages, relay.port), home / "source.log") as giving:
            accepted = giving.wait(PATIENCE, watch.look)
            arrived = sink.wait(PATIENCE, watch.look)
        used = watch.used(messages)
    del used["hwm"]  # of many processes that share most of their pages the sum says nothing
    return {"e2e": messages / (arrived - began), "accept": messages / (accepted - began), **used}


def limit(bench: Bench) -> Measured:
    """`smtp-source` straight to `smtp-sink`: what the receiving side can take here."""
    with bench.home() as home, Sink(home, LIMIT_MESSAGES) as sink:
        began = time.monotonic()
        with Child(source(10, LIMIT_MESSAGES, sink.port), home / "source.log"):
            arrived = sink.wait(PATIENCE)
    return {"e2e": LIMIT_MESSAGES / (arrived - began)}


def source(sessions: int, messages: int, port: int) -> list[str]:
    """The command that gives messages of 1.5 KiB over kept sessions."""
    return [
        tool("smtp-source"), "-d", "-s", str(sessions), "-m", str(messages), "-l", str(len(TEXT)),
        "-f", "noreply@example.test", "-t", "ann@example.test", f"127.0.0.1:{port}",
    ]  # fmt: skip


# Our daemon under more than the reference run.


def open_loop(rate: int) -> Callable[[Bench], Measured]:
    """Requests at a fixed rate for ten seconds while the relay works."""

    def run(bench: Bench) -> Measured:
        with bench.home() as home, Sink(home) as sink, Gateway(home, Route(sink.port)) as gateway:
            load = gateway.load(bench.count(10 * rate), 64, rate=rate)
            with Generator(home, load) as generator:
                return accepting(generator.answers())

    return run


def accept_only(bench: Bench) -> Measured:
    """Accepting at full speed while nothing can be relayed."""
    with bench.home() as home, Gateway(home, Route(free_port())) as gateway:
        load = gateway.load(bench.count(15_000), 32)
        watch = gateway.watch()
        with Generator(home, load) as generator:
            return {**accepting(generator.answers()), **watch.used(load.requests)}


def drain(bench: Bench) -> Measured:
    """A queue that falls due all at once; counted from that moment."""
    messages = bench.count(15_000) // BATCH * BATCH
    with bench.home() as home, Sink(home, messages) as sink, Gateway(home, Route(sink.port)) as gateway:
        due = time.monotonic() + AHEAD
        send_at = datetime.fromtimestamp(time.time() + AHEAD, UTC).isoformat(timespec="milliseconds")
        load = gateway.load(messages // BATCH, 4, batch=BATCH, extra={"send_at": send_at.replace("+00:00", "Z")})
        with Generator(home, load) as generator:
            queued = generator.answers()
        if queued.ended > due:
            raise RuntimeError(f"the queue was filled {queued.ended - due:.1f} s too late")
        watch = gateway.watch()
        arrived = sink.wait(PATIENCE + AHEAD, watch.look)
        return {"rate": messages / (arrived - due), "batch": queued.per_second, **watch.used(messages)}


def told(bench: Bench) -> Measured:
    """The reference run, of whose every mail a webhook is told; counted until the last event is there."""
    messages = bench.count(3000)
    with ExitStack() as stack:
        home = stack.enter_context(bench.home())
        sink = stack.enter_context(Sink(home))
        endpoint = stack.enter_context(Endpoint(home, messages))
        gateway = stack.enter_context(Gateway(home, Route(sink.port)))
        hook = {"url": f"http://127.0.0.1:{endpoint.port}/", "events": ["notification.relayed"]}
        gateway.ask_as_operator("/v1/tenants/acme/webhooks", hook)
        watch = gateway.watch()
        with Generator(home, gateway.load(messages, 32)) as generator:
            heard = endpoint.wait(PATIENCE, watch.look)
            used = watch.used(messages)
            answers = generator.answers()
        return {"e2e": messages / (heard - answers.began), **accepting(answers), **used}


def compose_time(_bench: Bench) -> Measured:
    """Composing text and HTML with non-ASCII headers."""
    text = TEXT.replace("finished", "abgeschlossen: geprüft")
    draft = Draft(
        message_id="<0123456789abcdef0123456789abcdef@example.test>",
        date=1_767_225_600.0,
        sender=Mailbox("noreply@example.test", "Müller & Söhne Benachrichtigungen"),
        to=(Mailbox("ann@example.test", "Ann Übermäßig"),),
        cc=(),
        reply_to=(),
        subject="Der nächtliche Export wurde abgeschlossen – bitte prüfen",
        text=text,
        html=f"<html><body><p>{text}</p></body></html>",
    )
    laps = []
    for _ in range(60):
        began = time.perf_counter()
        for _ in range(100):
            compose(draft)
        laps.append((time.perf_counter() - began) * 1e6 / 100)
    return {"us": statistics.median(laps)}


def claim_rate(bench: Bench) -> Measured:
    """Claim and settle on the store itself, with little and with much queued."""
    with bench.home() as home:
        depths = [bench.count(depth) for depth in DEPTHS]
        batches = min(20, depths[0] // 400)
        command = module("tests.bench.backlog", home / "backlog.db", batches, *depths)
        with Child(command, home / "backlog.json") as child:
            child.wait(PATIENCE)
            rates = json.loads(child.output.read_text().splitlines()[-1])
        shallow, deep = (rates[str(depth)] for depth in depths)
        return {"shallow": shallow, "deep": deep}


def full_queue(bench: Bench) -> Measured:
    """Many queued for a relay that cannot be reached: memory, and the way back after kill -9."""
    messages = bench.count(DEPTHS[1]) // BATCH * BATCH
    with bench.home() as home, Gateway(home, Route(free_port())) as gateway:
        watch = gateway.watch()
        with Generator(home, gateway.load(messages // BATCH, 4, batch=BATCH)) as generator:
            queued = generator.answers(look=watch.look)
        used = watch.used(messages)
        size = (home / "gateway.db").stat().st_size / 2**20
        gateway.kill()
        began = time.monotonic()
        gateway.start()
        restart = time.monotonic() - began
        after = gateway.watch().used(messages)
    return {"batch": queued.per_second, "restart": restart, "file": size, "pss_after": after["pss"], **used}


def shared(daemons: int, messages: int = 6000) -> Callable[[Bench], Measured]:
    """So many daemons on one PostgreSQL, six tenants with a profile each."""

    def run(bench: Bench) -> Measured:
        count = bench.count(messages) // CALLERS * CALLERS
        with bench.home() as home, Sink(home, count) as sink, Cluster(home, daemons, sink.port) as cluster:
            return drive_cluster(home, cluster, cluster.loads(count, 30 * daemons), sink, PATIENCE)

    return run


def shared_claim_rate(bench: Bench) -> Measured:
    """Claim and settle on PostgreSQL itself, with little and with very much queued."""
    with bench.home() as home:
        database = Postgresql(VERSIONS[-1], home / "postgresql")
        database.start()
        try:
            depths = [bench.count(depth) for depth in SHARED_DEPTHS]
            command = module("tests.bench.backlog", database.url, min(20, depths[0] // 400), *depths)
            with Child(command, home / "backlog.json") as child:
                child.wait(10 * PATIENCE)
                rates = json.loads(child.output.read_text().splitlines()[-1])
        finally:
            database.stop()
        shallow, deep = (rates[str(depth)] for depth in depths)
        return {"shallow": shallow, "deep": deep}


def secrets(what: str) -> Callable[[Bench], Measured]:
    """What `tests.bench.secrets` measures in a process of its own."""

    def run(bench: Bench) -> Measured:
        with bench.home() as home, Child(module("tests.bench.secrets", what), home / "secrets.json") as child:
            child.wait(PATIENCE)
            figures: Measured = json.loads(child.output.read_text().splitlines()[-1])
            return figures

    return run


def beside_a_vault(*, hung: bool, rate: int | None = None) -> Callable[[Bench], Measured]:
    """The daemon while six fetches hang at a Vault, or none: at a fixed rate, or at full speed until all has arrived."""

    def run(bench: Bench) -> Measured:
        messages = bench.count(3000 if rate is None else 3 * rate)
        with ExitStack() as stack:
            home = stack.enter_context(bench.home())
            vault = stack.enter_context(HangingVault(home))
            sink = stack.enter_context(Sink(home, messages if rate is None else 0))
            gateway = stack.enter_context(VaultGateway(home, Route(sink.port), vault.lines(1)[0]))
            load = gateway.load(messages, 32 if rate is None else 64, rate=rate)
            if hung:
                gateway.want_all()
                vault.lines(2)
            if rate is None:
                measured = drive(home, load, gateway.watch(), sink)
            else:
                with Generator(home, load) as generator:
                    measured = accepting(generator.answers())
            if gateway.in_flight() != (HUNG if hung else 0):
                raise RuntimeError("the fetches did not hang for as long as it was measured")
            return measured

    return run


def directory(bench: Bench) -> Measured:
    """A large directory: loading, resolving, changing."""
    with bench.home() as home:
        command = module("tests.bench.directory", home / "directory.db", bench.count(TENANTS))
        with Child(command, home / "directory.json") as child:
            child.wait(PATIENCE)
            figures: Measured = json.loads(child.output.read_text().splitlines()[-1])
            return figures


def web_pages(bench: Bench) -> Measured:
    """The web pages where there is much to show."""
    with bench.home() as home:
        return pages.measure(home)


def start(bench: Bench) -> Measured:
    """From nothing to ready, for comparison with the restart."""
    with bench.home() as home:
        began = time.monotonic()
        with Gateway(home, Route(free_port())):
            return {"seconds": time.monotonic() - began}


def slow(milliseconds: float, clients: int) -> Callable[[Bench], Measured]:
    """Every sync of the disk takes longer."""
    return lambda bench: through_gateway(bench, bench.count(6000), clients=clients, sync_milliseconds=milliseconds)


def distant(connections: int, messages: int) -> Callable[[Bench], Measured]:
    """A relay with a round trip of 20 ms."""
    return lambda bench: through_gateway(bench, bench.count(messages), connections=connections, proxied={"delay": 10.0})


SCENARIOS = (
    Scenario("limit", "`smtp-source` → `smtp-sink`, 10 kept sessions", limit),
    Scenario("ours", "the daemon, 32 clients", ours),
    Scenario("naive", "aiohttp awaiting aiosmtplib, 32 clients", naive),
    Scenario("postfix", "`smtp-source`, 32 kept sessions → Postfix", with_postfix),
    Scenario("open-1000", "open loop, 1000/s for 10 s, 64 connections", open_loop(1000)),
    Scenario("open-2000", "open loop, 2000/s for 10 s, 64 connections", open_loop(2000)),
    Scenario("accept", "accepting only (relay unreachable), 15 000 from 32 clients", accept_only),
    Scenario("drain", "15 000 queued, all due at once", drain),
    Scenario("disk-2ms", "every sync 2 ms longer, 6000 from 32 clients", slow(2, 32)),
    Scenario("disk-10ms", "every sync 10 ms longer, 6000 from 256 clients", slow(10, 256)),
    Scenario("distant-1", "round trip 20 ms to the relay, 1 connection", distant(1, 300)),
    Scenario("distant-16", "round trip 20 ms to the relay, 16 connections", distant(16, 6000)),
    Scenario(
        "tls",
        "relay with TLS (a TLS-ending uvloop proxy before `smtp-sink`, same 2 cores), 6000 messages",
        lambda bench: through_gateway(bench, bench.count(6000), proxied={"tls": True}),
    ),
    Scenario("memory", "20 000 from 32 clients", lambda bench: through_gateway(bench, bench.count(20_000))),
    Scenario("told", "3000 from 32 clients until a webhook was told of each", told),
    Scenario("compose", "compose text + HTML, non-ASCII headers", compose_time),
    Scenario("secret", "a secret out of the cache", secrets("cached")),
    Scenario("stampede", "1000 secrets of one Vault, wanted all at once", secrets("stampede"), once=True),
    Scenario("vault-calm", "open loop, 1000/s for 3 s, no fetch hangs", beside_a_vault(hung=False, rate=1000)),
    Scenario("vault-hung", "the same while six fetches hang at a Vault", beside_a_vault(hung=True, rate=1000)),
    Scenario("vault-calm-full", "3000 from 32 clients, no fetch hangs", beside_a_vault(hung=False)),
    Scenario("vault-hung-full", "the same while six fetches hang at a Vault", beside_a_vault(hung=True)),
    Scenario("shared-1", "one daemon on PostgreSQL, 6000 of six tenants, 30 clients", shared(1)),
    Scenario("shared-2", "two daemons on one PostgreSQL, the same, 60 clients", shared(2)),
    Scenario("shared-3", "three daemons on one PostgreSQL, the same, 90 clients", shared(3)),
    Scenario("shared-claim", "PostgreSQL alone: claim and settle, 200 at a time", shared_claim_rate, once=True),
    Scenario("start", "start on an empty database", start),
    Scenario("claim", "the store alone: claim and settle, 200 at a time", claim_rate, once=True),
    Scenario("directory", "the directory alone: 100 000 tenants, 300 000 profiles", directory, once=True),
    Scenario("pages", "the web pages: 5000 tenants, 10 000 profiles, 10 000 notifications", web_pages, once=True),
    Scenario("queue", "200 000 queued for a relay that cannot be reached", full_queue, once=True),
)


def room(root: Path) -> Path:
    """A directory on the checkout's own disk, preferably one through which other users may pass."""
    system = Path("/var/tmp")
    shared = system.is_dir() and system.stat().st_dev == root.stat().st_dev
    base = system if shared else root / "var"
    base.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="notification-bench-", dir=base))


def clear(base: Path) -> None:
    """Remove what `room` made."""
    shutil.rmtree(base, ignore_errors=True)
