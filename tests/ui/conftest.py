"""A browser for all tests of this folder, and a gateway for each.

They share the process's one event loop, since the browser lives in it: an async fixture that they use has to say
`loop_scope="session"`. A test names the gateway before the browser, so that its pages close before their server does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.peers.requirements import require
from tests.ui import gateway as gateways
from tests.ui.asking import opened
from tests.ui.browser import CHROMIUM, DESK, PHONE, Browser, axe_available, browser_available, chromium, watched
from tests.ui.hands import Keyboard, Mouse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser as Chromium

    from tests.ui.hands import Hand, Opens

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what awaits in this folder in the session's event loop."""
    for item in items:
        if item.path.is_relative_to(HERE) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started_chromium() -> AsyncIterator[Chromium]:
    """Start Chromium when it is first asked for, and keep it for all tests of this process."""
    require(f"{CHROMIUM} (apt: chromium-headless-shell)", browser_available())
    require("axe-core (pip: axe-playwright-python)", axe_available())
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def browser(started_chromium: Chromium) -> AsyncIterator[Browser]:
    """Give a browser; its test fails if its pages do something wrong that it does not expect."""
    async with watched(started_chromium) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(tmp_path: Path) -> AsyncIterator[gateways.Gateway]:
    """Run a daemon of the test's own."""
    async with gateways.running(tmp_path) as running:
        yield running


@pytest_asyncio.fixture(
    params=[(hand, width) for hand in (Keyboard, Mouse) for width in (PHONE, DESK)],
    ids=lambda way: f"{way[0].__name__.lower()}-{way[1]}",
    loop_scope="session",
)
async def at(request: pytest.FixtureRequest, gateway: gateways.Gateway, browser: Browser) -> Opens:
    """Use the pages by keyboard alone and with a mouse, on a phone in the dark and at a desk in the light."""
    hand, width = request.param
    how: Any = {"width": width, "scheme": "dark" if width == PHONE else "light"}

    async def opens(path: str, tenant: str = "acme") -> Hand:
        if not tenant:
            return hand(await browser.open(gateway.url + path, **how))
        return hand(await opened(gateway, browser, path, tenant, **how))

    return opens
