"""The life of the daemon's process: it starts, says that it is ready, watches itself, reloads, and ends.

READY is told to systemd once requests are answered. While it runs, WATCHDOG is told as long as the loop turns and the
store writes. SIGTERM and SIGINT end it in order: STOPPING first, then no new mail is taken, what is on the wire gets
its final reply, results are committed. An error of ours ends it likewise, with exit code 1. It ends at once, with exit
code 1, when the store can no longer be trusted to write.

SIGHUP reads the settings, the certificate and the provisioned files again, all or nothing: on any fault everything
stays as it was. What a running daemon cannot change is told by name, and waits for a restart.
"""

import asyncio
import ctypes
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Self

from gateway import __version__
from gateway.app import Running, daemon
from gateway.credentials.secret import living
from gateway.http.listeners import tls_context
from gateway.observe import facts, foreign, log, service_manager, tracing
from gateway.settings import Fault, Settings, SettingsError, load
from gateway.store.protocol import Store, StoreBroken, StoreBusy, StoreError, StoreUnavailable

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 78  # sysexits.h EX_CONFIG
PR_SET_DUMPABLE: Final = 4
GC_THRESHOLD: Final = (20_000, 5, 1_000)
"""Little here is cyclic, and a full collection stops the loop for 40 ms; but each connection that was closed leaves a
cycle behind, and one that outlived the youngest generation waits for the next."""
START_SECONDS: Final = 1800.0  # a large file is checked, or brought to a new schema
LAST_SECONDS: Final = 60.0  # beyond draining: commits, lanes, connections

RELOADED: Final = (
    "log", "provision", "retention", "relay.retry_seconds", "relay.greylist_seconds", "http.tls_certificate",
    "http.tls_key",
)  # fmt: skip
"""The sections and keys that a reload puts into force."""


async def serve(
    config: Path | None, environ: Mapping[str, str], *, when_ready: Callable[[Running], object] = lambda _: None
) -> int:
    """Run until a signal says stop; answers the exit code."""
    settings = load(config, environ)
    log.live_secrets = living
    log.configure(settings.log.format, settings.log.level)
    foreign.listen(asyncio.get_running_loop())
    tracing.start()
    facts.began(tenants=settings.metrics.tenant_label)
    gc.set_threshold(*GC_THRESHOLD)
    os.umask(0o077)
    _keep_memory_private()
    signals, ready = _Signals(), False
    try:
        async with _Patience() as patience:
            patience.ask(START_SECONDS)
            async with daemon(settings, environ) as running:
                ready = True
                patience.ask(0)
                try:
                    code = await _run(running, signals, _Reloading(running, config, environ), when_ready)
                finally:
                    patience.ask(settings.relay.drain_seconds + LAST_SECONDS)
    except (StoreBusy, StoreUnavailable) as error:
        facts.start_failed(str(error))
        return EXIT_FAILED
    except StoreBroken as error:
        tell = facts.store_broken if ready else facts.start_failed
        tell(str(error))
        return EXIT_FAILED
    except OSError as error:
        if ready:
            raise
        facts.start_failed(str(error))  # a listener cannot be opened
        return EXIT_FAILED
    facts.stopped()
    return code


async def _run(
    running: Running, signals: "_Signals", reloading: "_Reloading", when_ready: Callable[[Running], object]
) -> int:
    """Be ready until it is time to end."""
    _tell_listeners(running.settings)
    facts.started(__version__, running.store.engine)
    service_manager.notify(READY="1", STATUS="ready")
    when_ready(running)
    gc.freeze()  # what is there now stays: no collection need look at it again
    try:
        async with _beside(_watchdog(running.store)), _beside(reloading.run(signals.reload)):
            await _first(signals.stop, running.store.failed)
    finally:  # also when a loop of ours died: nobody shall end what is on the wire for want of pings
        service_manager.notify(STOPPING="1", STATUS="draining")
    facts.stopping(running.outbox.in_hand)
    if not running.store.failed.is_set():
        return EXIT_OK
    facts.store_broken(await _what_broke(running.store))
    return EXIT_FAILED


async def _what_broke(store: Store) -> str:
    try:
        async with asyncio.timeout(1):
            await store.check()
    except (StoreError, TimeoutError) as error:
        return f"{error}; the database is checked at the next start"
    return "a write failed; the database is checked at the next start"


def _keep_memory_private() -> None:
    """No core dump, and no look into our memory for others of the same user: secrets are there (prctl(2), core(5)).

    The limit alone does not hold for dumps that the kernel pipes to a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _tell_listeners(settings: Settings) -> None:
    for address in settings.http.listen:
        facts.listening("http", str(address))
    for address in settings.metrics.listen:
        facts.listening("metrics", str(address))


class _Signals:
    """What was asked for by signals, from the first moment on: also while the daemon starts."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)


async def _first(*events: asyncio.Event) -> None:
    """Wait for any of them."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


@asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Do something for as long as the block lasts."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class _Patience:
    """Asks the service manager for time, again and again, for as long as a start or a stop may take."""

    EVERY: Final = 10.0  # seconds
    SPARE: Final = 30.0  # seconds that each request is good for

    async def __aenter__(self) -> Self:
        self._until = 0.0
        self._asking = asyncio.ensure_future(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking.cancel()

    def ask(self, seconds: float) -> None:
        """From now on it may take so long; 0: no time is needed."""
        self._until = asyncio.get_running_loop().time() + seconds
        if seconds:
            self._extend()

    def _extend(self) -> None:
        service_manager.notify(EXTEND_TIMEOUT_USEC=str(int(self.SPARE * 1_000_000)))

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self.EVERY)
            if asyncio.get_running_loop().time() < self._until:
                self._extend()


async def _watchdog(store: Store) -> None:
    """Tell the service manager that the loop turns and the store writes, as often as it wants to hear it."""
    seconds = service_manager.watchdog_seconds()
    while seconds is not None:
        if await _writes(store, seconds):
            service_manager.notify(WATCHDOG="1")
        await asyncio.sleep(seconds)


async def _writes(store: Store, seconds: float) -> bool:
    """Does the store write? One that is full or away says so: then a restart would help nobody."""
    if store.reasons():
        return True
    check = asyncio.ensure_future(store.check())  # which cannot be cancelled
    await asyncio.wait({check}, timeout=seconds)
    if not check.done():
        check.add_done_callback(lambda late: late.cancelled() or late.exception())  # the next look asks anew
        facts.store_stuck(seconds)
        return bool(store.reasons())
    try:
        check.result()
    except StoreUnavailable:
        return True
    except StoreError:
        return False
    return True


class _Reloading:
    """Puts what the settings file says now into force."""

    def __init__(self, running: Running, config: Path | None, environ: Mapping[str, str]) -> None:
        self._running = running
        self._config = config
        self._environ = environ

    async def run(self, asked: asyncio.Event) -> None:
        """Reload whenever it is asked for, one after the other."""
        while True:
            await asked.wait()
            asked.clear()
            service_manager.reloading()
            try:
                await self._reload()
            except SettingsError as error:
                facts.reload_failed([str(fault) for fault in error.faults])
            except StoreError as error:
                facts.reload_failed([f"the store did not take it: {error}"])
            except Exception as error:  # noqa: BLE001 - whatever it is, the next reload may go better
                facts.reload_failed([f"an error of ours: {type(error).__name__}"])
            service_manager.notify(READY="1")

    async def _reload(self) -> None:
        """Check everything first. What comes last cannot fail any more."""
        running = self._running
        if self._config is not None and not self._config.is_file():  # to read a pipe would stop the loop
            raise SettingsError((Fault(str(self._config), "", "is no regular file", "put the settings file back"),))
        settings = load(self._config, self._environ)
        try:
            certificate = tls_context(settings.http)
        except OSError as error:
            fault = Fault("", "[http] tls_certificate", f"cannot be used: {error}", "give a certificate with its key")
            raise SettingsError((fault,)) from None
        await running.directory.provision(settings.provision.files, settings.paths.base)
        running.adopt(settings, certificate)
        log.configure(settings.log.format, settings.log.level)
        running.restart_needed[:] = _waiting(running.settings, settings)
        facts.reloaded(running.restart_needed)


def _waiting(began: Settings, now: Settings) -> Iterator[str]:
    """Name the keys that have another value than the daemon was started with, and need a restart."""
    for section in type(began).model_fields:
        before, after = getattr(began, section), getattr(now, section)
        if before == after or section in RELOADED:
            continue
        names = getattr(type(before), "model_fields", {})
        keys = [key for key in names if getattr(before, key) != getattr(after, key)]
        yield from (f"{section}.{key}" for key in keys if f"{section}.{key}" not in RELOADED)
        if not names:
            yield section
    if (began.http.tls_certificate is None) != (now.http.tls_certificate is None):  # a listener stays what it is
        yield "http.tls_certificate"
