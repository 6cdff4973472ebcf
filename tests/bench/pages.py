"""How fast the web pages answer, and how large they are, where there is much to show.

A directory of 5,000 tenants below one and 10,000 profiles, and 10,000 notifications that are final. A daemon answers each
page one after the other to an administrator of the system, compressed as browsers take it.
"""

import asyncio
import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from gateway.store.rows import Entry
from gateway.store.sqlite import SqliteStore
from tests.bench.backlog import FILL, deliver, fresh_row, now
from tests.bench.directory import profile
from tests.bench.systems import Gateway, Route
from tests.peers.postfix import free_port

TENANTS = 5_000
NOTIFICATIONS = 10_000
LAPS = 21
PAGES = {
    "overview": "/ui/",
    "tree": "/ui/tenants",
    "search": "/ui/tenants?search=t49",
    "profiles": "/ui/tenants/t1/profiles",
    "form": "/ui/tenants/t1/profiles/p0",
    "push": "/ui/tenants/system/profiles/push",
    "list": "/ui/notifications",
    "rare": "/ui/notifications?status=failed",
    "audit": "/ui/tenants/acme/audit",
    "docs": "/docs",
}


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: seconds until its last octet, and how many octets came."""

    seconds: float
    octets: int


class Browser:
    """Signs in, and asks over one connection."""

    def __init__(self, port: int, key: str) -> None:
        """Sign in with an API key."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", "/ui/sign-in", urlencode({"key": key}), form)
        answer = self._connection.getresponse()
        answer.read()
        self._headers = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "Accept-Encoding": "gzip"}

    def ask(self, path: str) -> Answered:
        """Ask for a page, which has to be there."""
        began = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        octets = len(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered with {answer.status}")
        return Answered(time.perf_counter() - began, octets)


def measure(home: Path, tenants: int = TENANTS, notifications: int = NOTIFICATIONS) -> dict[str, float]:
    """Milliseconds (median, and the slowest of them) and kB of each page; the first answer is not counted."""
    figures: dict[str, float] = {}
    with Gateway(home, Route(free_port())) as gateway:
        gateway.kill()
        asyncio.run(_fill(home / "gateway.db", tenants, notifications))
        gateway.start()
        key = gateway.ask_as_operator("/v1/tenants/system/keys", {"name": "pages", "scopes": ["admin"]})
        browser = Browser(gateway.port, key["key"])
        for name, path in PAGES.items():
            browser.ask(path)
            answers = [browser.ask(path) for _ in range(LAPS)]
            figures[f"{name}_ms"] = median(answer.seconds for answer in answers) * 1e3
            figures[f"{name}_worst_ms"] = max(answer.seconds for answer in answers) * 1e3
            figures[f"{name}_kb"] = answers[0].octets / 1e3
    return figures


async def _fill(file: Path, tenants: int, notifications: int) -> None:
    async with SqliteStore(file) as store:
        entries = [
            Entry("tenant", f"t{number}", "", json.dumps({"id": f"t{number}", "name": f"Tenant {number}"}), "api")
            for number in range(tenants)
        ]
        entries.append(Entry("profile", "system", "p0", profile("system", 0), "api"))
        for number in range(tenants):
            entries += [
                Entry("profile", f"t{number}", f"p{which}", profile(f"t{number}", which), "api") for which in (0, 1)
            ]
        revision, _ = await store.directory()
        await store.change_directory(revision, entries, [])
        for _ in range(notifications // FILL):
            await store.accept([fresh_row() for _ in range(FILL)], now())
            while await deliver(store, least=0):
                pass
