"""What operators do meanwhile: change, lend, pause and test profiles, make and revoke keys, look around, reload.

One errand after the other. Names, hosts and users that nobody had before are used wherever the API lets callers choose
them, because what a daemon remembers by such a name it may remember for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.soak.load import Load
    from tests.soak.place import Place

RELOAD_EVERY: Final = 60.0  # seconds
LIVE: Final = "/v1/tenants/live"
USER, PASSWORD = "live", "l1ve"
SENDER: Final = {"address": "noreply@live.example.test"}
TESTED: Final = "tested@live.example.test"
EVENTS: Final = ["notification.relayed", "notification.failed", "notification.expired", "profile.parked"]
TEMPLATES: Final = 10
BATCH: Final = 500
MANY_TESTS: Final = (200, 429)
LONGEST_MAIL: Final = 90.0  # seconds until mail has ended for which a relay's breaker opens twice


@dataclass
class Errands:
    """An operator who is never done; `pause` is the seconds between two errands."""

    place: Place
    load: Load
    pause: float
    dice: random.Random
    done: int = 0

    async def prepare(self) -> None:
        """Make the tenants that are there to be changed, and a test key."""
        self.load.ledger.abandoned.add(TESTED)  # tests are no notifications
        self.place.secure.users = {**(self.place.secure.users or {}), USER: PASSWORD}
        for tenant, parent in (("live", "system"), ("live-child", "live")):
            await self._ask("POST", "/v1/tenants", 201, json={"id": tenant, "parent": parent})
        auth = {"method": "plain", "username": USER, "credential": {"source": "plaintext", "value": PASSWORD}}
        tls = {"ca_certificates": self.place.authority}
        profile = self._profile("main", host="localhost", port=self.place.secure.port, security="starttls", auth=auth)
        await self._ask("POST", f"{LIVE}/profiles", 201, json={**profile, "tls": tls, "is_default": True})
        await self._ask("POST", f"{LIVE}/profiles", 201, json=self._profile("scratch", host=self._nowhere(), port=1))
        for tenant in ("live", "beta"):
            hook = {"url": self.place.endpoint.url, "events": EVENTS}
            await self._ask("POST", f"/v1/tenants/{tenant}/webhooks", 201, json=hook)
        key = {"name": "test", "scopes": ["send", "read"], "mode": "test"}
        _, made = await self._ask("POST", "/v1/tenants/beta/keys", 201, json=key)
        self.load.add_caller("test", made["key"])

    async def fill(self, keys: int) -> None:
        """Give the database so many idempotency keys, as it has after some days of use, by mail that never leaves.

        Its cache would otherwise grow with it for hours before it is full.
        """
        for _ in range(keys // BATCH):
            mail = {"to": ["ann@example.test"], "subject": "x", "text": "x"}
            batch = [{**mail, "idempotency_key": f"{self.load.word()}-{self.load.word()}"} for _ in range(BATCH)]
            await self.load.ask("POST", "/v1/notifications/batch", "test", 200, json={"notifications": batch})

    async def run(self) -> None:
        """Run errands, for ever."""
        errands: tuple[Callable[[], Awaitable[None]], ...] = (
            self._edit, self._pause_and_resume, self._push, self._keys, self._test, self._test_unsaved, self._template,
            self._preferences, self._tenant, self._secret, self._credential, self._webhook, self._look, self._apply,
        )  # fmt: skip
        for errand in itertools.cycle(errands):
            try:
                await errand()
            except (aiohttp.ClientError, OSError) as error:
                self.load.ledger.surprises[f"{errand.__name__}: {type(error).__name__}"] += 1
            self.done += 1
            await asyncio.sleep(self.pause)

    async def reload(self) -> None:
        """Have the daemon read its files again once a minute, for ever; each time they say something else."""
        file = self.place.daemon.folder / "gateway.toml"
        for lap in itertools.count():
            await asyncio.sleep(RELOAD_EVERY)
            before, after = f"greylist_seconds = {1 + lap % 2}", f"greylist_seconds = {2 - lap % 2}"
            file.write_text(file.read_text().replace(before, after))
            self.place.daemon.signal(signal.SIGHUP)

    async def resume(self) -> None:
        """Let everything go on."""
        for tenant, profile in (("acme", "main"), ("acme", "spare"), ("system", "house"), ("live", "main")):
            await self._ask("POST", f"/v1/tenants/{tenant}/profiles/{profile}/resume", 200)

    async def _ask(self, method: str, path: str, *expected: int, **more: Any) -> tuple[int, Any]:
        return await self.load.ask(method, path, "admin", *expected, **more)

    def _profile(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "host": "127.0.0.1",
            "port": self.place.plain.port,
            "security": "none",
            "from": SENDER,
            **more,
        }

    def _nowhere(self) -> str:
        """Give an address where nobody listens, probably never named before."""
        return f"127.{self.dice.randint(1, 250)}.{self.dice.randint(0, 250)}.{self.dice.randint(1, 250)}"

    async def _edit(self) -> None:
        """A footnote of a profile that has much mail; host and user of one whose mail goes nowhere."""
        note = {"footnote": {"text": self.load.word()}, "limits": {"connections": self.dice.randint(1, 4)}}
        await self._ask("PATCH", f"{LIVE}/profiles/main", 200, json=note)
        change = {"host": self._nowhere(), "port": self.dice.randint(1, 1023)}
        await self._ask("PATCH", f"{LIVE}/profiles/scratch", 200, json=change)

    async def _pause_and_resume(self) -> None:
        await self._ask("POST", f"{LIVE}/profiles/main/pause", 200)
        await asyncio.sleep(self.pause)
        await self._ask("POST", f"{LIVE}/profiles/main/resume", 200)

    async def _push(self) -> None:
        push = {"children": ["live-child"], "profiles": ["main"], "default": "main"}
        await self._ask("POST", f"{LIVE}/profiles/push", 200, json=push)
        await self.load.send_for("live-child")
        await asyncio.sleep(self.pause)
        await self._ask("DELETE", "/v1/tenants/live-child/profiles/main", 204)

    async def _keys(self) -> None:
        """A key that is made, used, revoked, and then worth nothing."""
        body = {"name": self.load.word(), "scopes": ["send", "read"]}
        _, made = await self._ask("POST", f"{LIVE}/keys", 201, json=body)
        for expected in (200, 401):
            async with (
                self.load.session(made["key"]) as session,
                session.get("/v1/notifications?limit=1") as answer,
            ):
                if answer.status != expected:
                    self.load.ledger.surprises[f"a key that is worth {answer.status}"] += 1
            await self._ask("DELETE", f"{LIVE}/keys/{made['id']}", 204 if expected == 200 else 404)

    async def _test(self) -> None:
        to = {"to": TESTED}
        await self._ask("POST", f"{LIVE}/profiles/main/test", *MANY_TESTS, json=to)

    async def _test_unsaved(self) -> None:
        """Under a user that nobody ever was."""
        credential = {"source": "plaintext", "value": self.load.word()}
        auth = {"method": "plain", "username": self.load.word(), "credential": credential}
        tls = {"ca_certificates": self.place.authority}
        profile = self._profile("other", port=self.place.secure.port, security="starttls", auth=auth, tls=tls)
        body = {"profile": profile, "to": TESTED}
        await self._ask("POST", "/v1/tenants/live-child/profiles/test", *MANY_TESTS, json=body)

    async def _template(self) -> None:
        """Some that nobody wrote before: what the daemon keeps of each shall be full before the figures count."""
        for _ in range(TEMPLATES):
            where = f"{LIVE}/templates/t-{self.load.word()}"
            body = {
                "subject": f"{self.load.word()} {{{{ name }}}}",
                "text": f"{self.load.word()} {{{{ name | upper }}}}",
            }
            await self._ask("PUT", where, 201, json=body)
            await self._ask("POST", f"{where}/render", 200, json={"data": {"name": self.load.word()}})
            await self._ask("DELETE", where, 204)

    async def _preferences(self) -> None:
        rules = [{"category": f"soak.{self.load.word()}", "bcc": True}]
        body = {"cc": [], "bcc": [f"{self.load.word()}@live.example.test"], "rules": rules}
        await self._ask("PUT", f"{LIVE}/preferences", 200, json=body)

    async def _tenant(self) -> None:
        """A tenant that comes, sends by its parent's profile, and goes once that is done."""
        name = f"t-{self.load.word()}"
        limits = {"per_minute": 600, "queued": 100}
        await self._ask("POST", "/v1/tenants", 201, json={"id": name, "parent": "beta", "limits": limits})
        await self.load.send_for(name)
        await self._ask("PATCH", f"/v1/tenants/{name}", 200, json={"name": self.load.word()})
        until = time.monotonic() + LONGEST_MAIL
        while time.monotonic() < until:
            await asyncio.sleep(self.pause)
            status, _ = await self._ask("DELETE", f"/v1/tenants/{name}", 204, 409)
            if status == 204:
                return
        self.load.ledger.surprises["a tenant whose mail does not end"] += 1

    async def _secret(self) -> None:
        where = f"{LIVE}/secrets/s-{self.load.word()}"
        for expected in (201, 200):
            await self._ask("PUT", where, expected, json={"value": self.load.word()})
        await self._ask("DELETE", where, 204)

    async def _credential(self) -> None:
        for what in ("check", "refresh"):
            await self._ask("POST", f"/v1/tenants/acme/profiles/main/credential/{what}", *MANY_TESTS)

    async def _webhook(self) -> None:
        """One that is made, tested and deleted."""
        where, url = "/v1/tenants/live-child/webhooks", f"{self.place.endpoint.url}{self.load.word()}"
        _, made = await self._ask("POST", where, 201, json={"url": url, "events": EVENTS[:1]})
        await self._ask("POST", f"{where}/{made['id']}/test", *MANY_TESTS)
        await self._ask("DELETE", f"{where}/{made['id']}", 204)

    async def _look(self) -> None:
        for path in (
            "/v1/doctor", "/v1/queue", f"{LIVE}/audit?limit=50", "/v1/tenants?limit=50", "/v1/tenants/acme/keys",
            "/v1/tenants/acme/profiles", "/v1/tenants/acme/secret-connections", "/openapi.json",
            f"/v1/tenants/acme-emea/resolution?category=soak.{self.load.word()}", "/v1/presets",
        ):  # fmt: skip
            await self._ask("GET", path, 200)

    async def _apply(self) -> None:
        document = {"tenants": [{"id": f"t-{self.load.word()}", "parent": "live"}]}
        await self._ask("POST", "/v1/apply?dry_run=true", 200, json=document)
