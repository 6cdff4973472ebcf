"""The composition root: builds every part by hand, in the order of life, and takes them down in reverse.

When the block is entered the store has written, the files are provisioned and the listeners listen. Leaving it takes no
new mail, gives what is on the wire its final reply, and commits results.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from gateway.catcher import Catcher
from gateway.credentials import connections
from gateway.credentials.credentials import FILES_NAME, Credentials
from gateway.credentials.identity import read_identity
from gateway.credentials.local import LocalSecrets
from gateway.credentials.master_key import load_seal
from gateway.credentials.sealed import SealError
from gateway.credentials.tokens import Tokens
from gateway.directory.changes import GATEWAY, pause_all
from gateway.directory.directory import Directory
from gateway.directory.rules import Policy
from gateway.directory.shapes import PauseReason
from gateway.gauges import Gauges, certificate_files
from gateway.http.call import Services
from gateway.http.metrics import MetricsServer
from gateway.http.server import HttpServer
from gateway.observe import facts
from gateway.observe.certificates import first_end
from gateway.outbox.outbox import Outbox, Retention
from gateway.outbox.verdict import Schedule
from gateway.relay.dispatcher import Dispatcher
from gateway.relay.guard import Guard
from gateway.relay.holding import Holding, SharedHolding
from gateway.relay.sign_in import SignIns
from gateway.relay.tester import Tester
from gateway.settings import Fault, PostgresqlUrl, Settings, SettingsError, SqliteUrl
from gateway.smtp.dial import Dialer
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.session import Opener
from gateway.store.identity import held_name
from gateway.store.protocol import Copied, Store, StoreBroken, StoreError
from gateway.store.sqlite import SqliteStore
from gateway.ui.pages import Pages
from gateway.webhooks.endpoint import Poster
from gateway.webhooks.events import Composer
from gateway.webhooks.sender import Sender

if TYPE_CHECKING:
    from gateway.store.postgresql.server import Server

WAITING_THREADS: Final = 64  # a silent name server keeps one for each relay's name that somebody looks up
LAST_WORDS: Final = 5.0  # seconds for loops to end in
LIFE_SECONDS: Final = 3600.0  # after which a copy of the database shows as one
COPIES: Final[Mapping[Copied, PauseReason]] = {Copied.RESTORED: "restored", Copied.CLONED: "cloned"}


@dataclass(slots=True)
class Running:
    """A daemon that is up, as those who start it in the same process see it."""

    settings: Settings
    http: HttpServer
    metrics: MetricsServer | None
    catcher: Catcher | None
    directory: Directory
    outbox: Outbox
    dispatcher: Dispatcher
    store: Store
    restart_needed: list[str]

    def adopt(self, settings: Settings, certificate: ssl.SSLContext | None) -> None:
        """Put those settings into force that a running daemon can change; `settings` stays what it was started with.

        The `certificate` is what `[http]` names, read already.
        """
        self.http.renew_certificate(certificate)
        if self.settings.http.tls_certificate is not None:
            facts.http_certificate(_certificate_end(settings))
        self.outbox.adopt(_schedule(settings), _retention(settings))


@asynccontextmanager
async def daemon(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[Running]:
    """Run the whole daemon for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        waiting = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="waiting")
        asyncio.get_running_loop().set_default_executor(waiting)
        store = await _store(settings, environ, stack)
        store.on_commit = facts.commit
        directory = await _directory(settings, store, environ)
        await _look_at_copy(store, directory)
        outbox = await _outbox(settings, store, directory)
        await directory.provision(settings.provision.files, settings.paths.base)
        lent = directory.policy
        credentials = Credentials(directory.seal, directory.stored, lent.local, lent.connections)
        credentials.on_denied = directory.denied
        for source in (*settings.connections, FILES_NAME):
            facts.secret_connection(source, signs_in=source != FILES_NAME)
        stack.push_async_callback(lent.connections.close)
        tokens = Tokens(settings.oauth, credentials.cache, time.monotonic)
        stack.push_async_callback(tokens.close)
        sign_ins = SignIns(credentials, tokens, opener(settings), Guard(store), settings.connectors)
        holding = _holding(store, directory)
        directory.on_change.append(lambda: _stand_back(directory, holding))
        _stand_back(directory, holding)
        dispatcher = Dispatcher(outbox, directory, sign_ins, settings.relay.connections, holding)
        webhooks = await _webhooks(store, directory, outbox, dispatcher, stack)
        catcher = await _catcher(settings, stack)
        await outbox.start()
        await store.check()
        tasks = await stack.enter_async_context(_Loops())
        for work in (dispatcher.run(), outbox.keep(), webhooks.run()):
            tasks.start(work)
        if store.roster is not None:
            tasks.start(outbox.keep_count())
        else:
            tasks.start(_renew_life(store))
        stack.push_async_callback(webhooks.drain)
        stack.push_async_callback(dispatcher.drain, settings.relay.drain_seconds)
        restart_needed: list[str] = []
        services = Services(
            settings=settings, directory=directory, outbox=outbox, store=store, credentials=credentials,
            held=dispatcher.holds, lags=holding.lags, catch_up=holding.catch_up,
            states=dispatcher.all_states, resume=dispatcher.resume, test=Tester(sign_ins).test,
            test_webhook=webhooks.test,
            relays=dispatcher.relays, reasons=lambda: _reasons(store, directory), catcher=catcher, on_answer=facts.answered,
            on_failure=facts.request_failed, on_refused=facts.key_refused, restart_needed=restart_needed,
        )  # fmt: skip
        admin = await stack.enter_async_context(HttpServer.for_administrators(services))
        metrics = await _metrics(settings, services, stack)
        pages = Pages(services)
        http = await stack.enter_async_context(HttpServer(services, pages=pages))  # last: it says that all is ready
        facts.http_certificate(_certificate_end(settings))
        if store.copier is not None:
            stack.callback(store.copier.stop)
        gauges = Gauges(outbox, store, dispatcher, (http, admin), services.reasons, certificate_files(settings))
        for reading in (gauges.each_second(), gauges.loop_lag(), gauges.now_and_then(), pages.sessions.keep()):
            tasks.start(reading)
        yield Running(settings, http, metrics, catcher, directory, outbox, dispatcher, store, restart_needed)


class _Loops:
    """Background loops: the first that dies takes the process down, instead of leaving half a service."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._owner = asyncio.current_task()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        if self._tasks:  # what waits for a store that is away ends once that is closed
            await asyncio.wait(self._tasks, timeout=LAST_WORDS)

    def start(self, loop: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(loop)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or (error := task.exception()) is None or _only_broken_store(error):
            return
        facts.loop_died(error)  # of a broken store the store itself tells whoever owns us
        owner, self._owner = self._owner, None  # once: a second one shall not cut off what ends in order
        if owner is not None:
            owner.cancel(f"a loop died: {type(error).__name__}")


def _only_broken_store(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_only_broken_store, error.exceptions))
    return isinstance(error, StoreBroken)


async def _store(settings: Settings, environ: Mapping[str, str], stack: AsyncExitStack) -> Store:
    if isinstance(settings.store.url, SqliteUrl):
        path = settings.store.url.path
        return await stack.enter_async_context(SqliteStore(path, disk_floor_bytes=settings.store.disk_floor_bytes))
    server = postgresql_server(settings, environ)
    from gateway.store.postgresql import PostgresqlStore  # with the driver, which not everybody needs

    name = stack.enter_context(held_name(Path(f"{settings.admin.socket}.id")))
    return await stack.enter_async_context(PostgresqlStore(server, name))


def postgresql_server(settings: Settings, environ: Mapping[str, str]) -> "Server":
    """Name the server of the settings; nothing is opened. Raises `SettingsError`."""
    url, password = settings.store.url, settings.store.password
    if not isinstance(url, PostgresqlUrl):
        raise SettingsError((Fault("", "[store] url", "is not PostgreSQL's", "write postgresql://host/name"),))
    try:
        from gateway.store.postgresql.server import Server
    except ImportError:
        remedy = "install notification-gateway[postgresql]"
        raise SettingsError((Fault("", "[store] url", "needs the PostgreSQL driver", remedy),)) from None
    given = None if password is None else lambda: read_identity(password, environ).reveal()
    return Server(url.url.get_secret_value(), password=given)


def _holding(store: Store, directory: Directory) -> Holding:
    return Holding() if store.roster is None else SharedHolding(store.roster, directory.learn, store.clock)


def _stand_back(directory: Directory, holding: Holding) -> None:
    """Leave sending to daemons that can read the whole directory: mail might go another way than it should."""
    if directory.snapshot.unreadable:
        holding.retire()


def _reasons(store: Store, directory: Directory) -> list[str]:
    return [*store.reasons(), *(["directory_unreadable"] if directory.snapshot.unreadable else [])]


async def _directory(settings: Settings, store: Store, environ: Mapping[str, str]) -> Directory:
    revision, _ = await store.directory()
    try:
        seal = load_seal(settings.master_key.sources, environ, may_make=revision == 0)
    except SealError as error:
        raise SettingsError((Fault("", "[master_key]", str(error), "give the key that sealed the database"),)) from None
    directory = Directory(store, policy(settings, environ), seal)
    await directory.load()
    return directory


async def _outbox(settings: Settings, store: Store, directory: Directory) -> Outbox:
    """Make the outbox, and count what waits: by that the directory keeps tenants that still have mail."""
    outbox = Outbox(store, _schedule(settings), retention=_retention(settings))
    outbox.on_accepted = facts.accepted
    outbox.on_event = facts.recipient
    await outbox.recount()
    directory.unfinished = outbox.queued.__getitem__
    directory.forget = outbox.forget
    return outbox


def policy(settings: Settings, environ: Mapping[str, str]) -> Policy:
    """What the operator allows tenants to do."""
    return Policy(
        _egress(settings),
        settings.egress.plaintext_auth,
        {name: connector.allow for name, connector in settings.connectors.items()},
        {name: provider.allow for name, provider in settings.oauth.items()},
        _local_secrets(settings, environ),
        connections.made(settings.connections, environ, time.monotonic),
        _webhook_egress(settings),
        settings.tenants.quota_bytes,
    )


def _local_secrets(settings: Settings, environ: Mapping[str, str]) -> LocalSecrets:
    local = settings.local_secrets
    lent = {name: value for name, value in environ.items() if any(fnmatchcase(name, one) for one in local.env)}
    return LocalSecrets(local.directory, tuple(local.env), local.allow, lent)


def _egress(settings: Settings) -> EgressPolicy:
    return EgressPolicy(settings.egress.ports, settings.egress.allow, settings.egress.deny)


def _webhook_egress(settings: Settings) -> EgressPolicy:
    webhooks = settings.egress.webhooks
    return EgressPolicy(webhooks.ports, webhooks.allow, settings.egress.deny, public=True)


async def _webhooks(
    store: Store, directory: Directory, outbox: Outbox, dispatcher: Dispatcher, stack: AsyncExitStack
) -> Sender:
    poster = await stack.enter_async_context(Poster(directory.policy.webhooks, directory.seal, store.clock))
    sender = Sender(store, directory, poster)
    composer = Composer(directory, store.clock, sender.backlog)
    outbox.tell = composer.ended
    outbox.on_told = sender.noted
    dispatcher.on_parked = lambda place, reason: sender.tell(composer.parked(place, reason))
    dispatcher.on_unparked = lambda place, reason: sender.tell(composer.unparked(place, reason))
    return sender


def opener(settings: Settings) -> Opener:
    """What opens sessions with relays."""
    in_clear = frozenset(settings.egress.plaintext_auth)
    return Opener(Dialer(_egress(settings)), settings.relay.ehlo_name, plaintext_auth=in_clear)


def _certificate_end(settings: Settings) -> float | None:
    file = settings.http.tls_certificate
    with suppress(OSError):  # it may just be replaced
        return None if file is None else first_end(file.read_bytes())
    return None


def _schedule(settings: Settings) -> Schedule:
    return Schedule(settings.relay.retry_seconds, settings.relay.greylist_seconds)


def _retention(settings: Settings) -> Retention:
    return Retention(settings.retention.finished_days, settings.retention.content == "until_final")


async def _catcher(settings: Settings, stack: AsyncExitStack) -> Catcher | None:
    listen = settings.mail_catcher.listen
    if listen is None:
        return None
    catcher = Catcher()
    await catcher.start(listen.host, listen.port)
    stack.push_async_callback(catcher.stop)
    return catcher


async def _metrics(settings: Settings, services: Services, stack: AsyncExitStack) -> MetricsServer | None:
    if not settings.metrics.listen:
        return None
    metrics = MetricsServer(services)
    await metrics.start(settings.metrics.listen)
    stack.push_async_callback(metrics.stop)
    return metrics


async def _look_at_copy(store: Store, directory: Directory) -> None:
    """Keep the mail of a copy back until a person has looked, and begin a life of its own."""
    copied = await store.copied()
    if copied is not None:
        reason = COPIES[copied]
        await directory.change(GATEWAY, lambda snapshot: pause_all(snapshot, store.clock(), reason))
        facts.started_paused(reason)
    await store.settle_in()
    health = await store.health()
    if health.backed_up_at is not None:
        facts.last_backup(health.backed_up_at)


async def _renew_life(store: Store) -> None:
    """Have what is copied by other means show, also while one daemon runs for months."""
    while True:
        await asyncio.sleep(LIFE_SECONDS)
        try:
            await store.settle_in()
        except StoreError as error:
            facts.life_unwritten(str(error))
