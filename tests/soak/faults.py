"""What goes wrong meanwhile: relays, passwords and the Vault, one after the other, for a small part of the time.

Each fault is a context manager: it lasts as long as its block, and undoes itself however that ends. What a fault makes of
messages for good, or leaves unknown, is written down where it is done.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.credentials.contract import How
from tests.peers.smtp_server import AcceptThen, Action, Close, Hold, Reply, Reset, ScriptedRelay
from tests.soak.place import VAULT_KEY, address_of, id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.peers.smtp_script import Step
    from tests.soak.place import Place

SHARE: Final = 0.05  # of the time
KINDS: Final = 13
UNANSWERED: Final = 0.1  # of the messages, while a relay drops connections after final dots


@dataclass
class Faults:
    """Faults for `SHARE` of the time, each for `lasts` seconds."""

    place: Place
    lasts: float
    dice: random.Random
    happened: dict[str, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Let one after the other happen, for ever."""
        for kind in itertools.cycle(self._kinds()):
            await asyncio.sleep(self.lasts / SHARE - self.lasts)
            self.happened[kind.__name__.strip("_")] = self.happened.get(kind.__name__.strip("_"), 0) + 1
            async with kind():
                await asyncio.sleep(self.lasts)

    def _kinds(self) -> tuple[Callable[[], AbstractAsyncContextManager[None]], ...]:
        return (
            self._down, self._refused_for_good, self._vault_broken, self._reset, self._put_off, self._password_rotated,
            self._slow, self._unanswered, self._vault_hangs, self._crowded, self._no_tls, self._cut, self._no_webhooks,
        )  # fmt: skip

    @asynccontextmanager
    async def _script(self, relay: ScriptedRelay, step: Step, action: Action, **more: object) -> AsyncIterator[None]:
        rule = relay.on(step, action, **more)  # type: ignore[arg-type]
        try:
            yield
        finally:
            relay.forget(rule)

    @asynccontextmanager
    async def _down(self) -> AsyncIterator[None]:
        """A relay is not there."""
        relay = self.dice.choice(self.place.relays)
        self.place.cut(relay)
        await relay.stop()
        try:
            yield
        finally:
            await relay.start()

    @asynccontextmanager
    async def _cut(self) -> AsyncIterator[None]:
        """A relay hangs up on everybody once."""
        self.place.cut(self.dice.choice(self.place.relays))
        yield

    @asynccontextmanager
    async def _reset(self) -> AsyncIterator[None]:
        """Connections are reset in the next envelope, by which a final reply may be lost that was on its way."""

        def note(_: str) -> bool:
            self.place.tidy()
            self.place.relayed.cut()
            return True

        async with self._script(self.dice.choice(self.place.relays), "mail", Reset(), match=note):
            yield

    @asynccontextmanager
    async def _put_off(self) -> AsyncIterator[None]:
        async with self._script(self.dice.choice(self.place.relays), "final", Reply("451 4.3.0 not now")):
            yield

    @asynccontextmanager
    async def _refused_for_good(self) -> AsyncIterator[None]:
        def note(line: str) -> bool:
            self.place.relayed.refused.add(address_of(line))
            return True

        refusal = Reply("550 5.7.1 not from you")
        async with self._script(self.dice.choice(self.place.relays), "rcpt", refusal, match=note):
            yield

    @asynccontextmanager
    async def _slow(self) -> AsyncIterator[None]:
        """Final replies come when it is over."""
        over = asyncio.Event()
        async with self._script(self.dice.choice(self.place.relays), "final", Hold(over)):
            try:
                yield
            finally:
                over.set()

    @asynccontextmanager
    async def _unanswered(self) -> AsyncIterator[None]:
        """Some messages are taken, and the connection ends without a word."""

        def some(message: str) -> bool:
            if self.dice.random() >= UNANSWERED:
                return False
            head = message.partition("\r\n\r\n")[0]
            for line in head.split("\r\n"):
                if line.lower().startswith("message-id:"):
                    self.place.relayed.unanswered.add(id_of(line.partition(":")[2].strip()))
            return True

        async with self._script(self.dice.choice(self.place.relays), "final", AcceptThen(Close()), match=some):
            yield

    @asynccontextmanager
    async def _crowded(self) -> AsyncIterator[None]:
        relay = self.dice.choice(self.place.relays)
        self.place.cut(relay)
        async with self._script(relay, "connect", Reply("421 4.3.2 too many connections", then=Close())):
            yield

    @asynccontextmanager
    async def _no_tls(self) -> AsyncIterator[None]:
        self.place.cut(self.place.secure)
        async with self._script(self.place.secure, "starttls", Reply("454 4.7.0 not at the moment")):
            yield

    @asynccontextmanager
    async def _password_rotated(self) -> AsyncIterator[None]:
        """The relay has a new password before the Vault does, and ends its sessions; then an operator has it fetched."""
        self.place.password += 1
        users = self.place.secure.users
        assert users is not None
        self.place.secure.users = {**users, "app": str(self.place.password)}
        self.place.cut(self.place.secure)
        try:
            yield
        finally:
            await self.place.vault.put(VAULT_KEY, {"username": "app", "password": str(self.place.password)})
            await self.place.daemon.ask("POST", "/v1/tenants/acme/profiles/main/credential/refresh")

    @asynccontextmanager
    async def _vault_broken(self) -> AsyncIterator[None]:
        self.place.vault.misbehave(self.dice.choice((How.BROKEN, How.THROTTLE, How.HTML, How.EXPIRE)))
        try:
            yield
        finally:
            self.place.vault.misbehave(None)

    @asynccontextmanager
    async def _vault_hangs(self) -> AsyncIterator[None]:
        self.place.vault.gate.clear()
        try:
            yield
        finally:
            self.place.vault.gate.set()

    @asynccontextmanager
    async def _no_webhooks(self) -> AsyncIterator[None]:
        """The endpoint of webhooks is out of order."""
        self.place.endpoint.broken = True
        try:
            yield
        finally:
            self.place.endpoint.broken = False
