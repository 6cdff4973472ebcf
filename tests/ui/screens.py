"""Pictures of the main pages for the README: `make screens`.

Runs a daemon with the sample tenants of `config/tenants.toml` and a little life: mail that went, mail whose relay is away,
a profile whose password is refused. What is shown is what the pages are; nothing is drawn by hand.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gateway.app import daemon
from gateway.settings import load
from tests.peers.postfix import free_port
from tests.ui.asking import asked
from tests.ui.browser import DESK, PHONE, Seen, chromium, watched
from tests.ui.gateway import SETTINGS, Gateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "screens"
KEYS = {"acme": "acme.key", "system": "admin.key"}


@dataclass(frozen=True)
class Screen:
    """A page as somebody sees it; `do` is what they did there."""

    name: str
    path: str
    width: int = DESK
    scheme: Literal["light", "dark"] = "light"
    height: int = 800
    do: Callable[[Seen], Awaitable[None]] | None = None


async def tested(seen: Seen) -> None:
    """Run the connection test to its green end."""
    await seen.page.get_by_label("Send to").fill("ann@example.test")
    await seen.page.get_by_role("button", name="Send the test").click()
    await seen.page.locator(".good").first.wait_for()


SCREENS = (
    Screen("overview", "/ui/"),
    Screen("overview-phone", "/ui/", PHONE, "dark"),
    Screen("profiles", "/ui/tenants/acme/profiles", scheme="dark"),
    Screen("profile", "/ui/tenants/acme/profiles/news/edit"),
    Screen("test", "/ui/tenants/acme/profiles/alerts/test", do=tested),
    Screen("push", "/ui/tenants/acme/profiles/push"),
    Screen("notification-phone", "last", PHONE),
)

PROFILES: tuple[dict[str, Any], ...] = (
    {
        "name": "news",
        "host": "smtp.office365.example",
        "preset": "microsoft365",
        "from": {"name": "Acme news", "address": "news@acme.example.test"},
        "auth": {"username": "news@acme.example.test", "credential": {"source": "stored", "key": "news"}},
    },
)


async def live(gateway: Gateway, catcher: int) -> str:
    """Give the tenants something to show; answers the last notification's id."""
    await asked(gateway, "PUT", "tenants/acme/secrets/news", {"value": "correct horse"})
    for profile in PROFILES:
        await asked(gateway, "POST", "tenants/acme/profiles", profile)
    last = ""
    kinds = (("account.password_recovery", "info"), ("billing.invoice", "info"), ("backup.failed", "error"))
    for number in range(24):
        category, severity = kinds[number % len(kinds)]
        mail = {"to": [f"ann{number}@example.test"], "subject": "Hello", "text": "Hello.", "category": category}
        told = await asked(gateway, "POST", "notifications", {**mail, "severity": severity}, "acme")
        last = told["id"]
    for _ in range(3):
        mail = {"tenant": "acme", "to": ["bob@example.test"], "subject": "News", "text": "News.", "profile": "news"}
        await asked(gateway, "POST", "notifications", mail)
    for _ in range(100):
        listed = await asked(gateway, "GET", f"notifications/{last}")
        if listed["status"] == "relayed":
            break
        await asyncio.sleep(0.1)
    return last


async def main(names: list[str]) -> None:
    """Write the pictures of these names, or of all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        catcher = free_port()
        tenants = (ROOT / "config" / "tenants.toml").read_text().replace("port = 1025", f"port = {catcher}")
        (folder / "tenants.toml").write_text(re.sub(r'"var/(\w+\.key)"', r'"\1"', tenants))
        (folder / "gateway.toml").write_text(SETTINGS.format(catcher=catcher))
        running = await stack.enter_async_context(daemon(load(folder / "gateway.toml", {}), {}))
        keys = {tenant: (folder / file).read_text().strip() for tenant, file in KEYS.items()}
        gateway = Gateway(f"http://127.0.0.1:{running.http.port}", keys, running)
        last = await live(gateway, catcher)
        browser = await stack.enter_async_context(watched(await stack.enter_async_context(chromium())))
        for screen in SCREENS:
            if names and screen.name not in names:
                continue
            seen = await browser.open(f"{gateway.url}/ui/sign-in", width=screen.width, scheme=screen.scheme)
            await seen.page.fill("#key", keys["system"])
            await seen.page.keyboard.press("Enter")
            await seen.page.wait_for_url("**/ui/")
            await seen.goto(f"/ui/notifications/{last}" if screen.path == "last" else screen.path)
            if screen.do is not None:
                await screen.do(seen)
            await seen.page.screenshot(path=FOLDER / f"{screen.name}.png")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
