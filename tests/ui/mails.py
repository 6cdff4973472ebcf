"""Notifications for the tests of the pages that show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.process.cluster import until
from tests.ui.asking import asked

if TYPE_CHECKING:
    from tests.ui.gateway import Gateway

LATE = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}"


async def post(gateway: Gateway, *, tenant: str = "acme", **said: object) -> str:
    """Post a notification; answers the path of its page."""
    usual = {"to": ["ann@example.test"], "subject": "Hello", "text": "Hello Ann"}
    accepted = await asked(gateway, "POST", "notifications", {**usual, **said}, tenant)
    return f"/ui/notifications/{accepted['id']}"


async def status(gateway: Gateway, page: str) -> str:
    """Where the notification of a page stands."""
    return str((await asked(gateway, "GET", page.removeprefix("/ui/")))["status"])


async def until_status(gateway: Gateway, page: str, wanted: str) -> None:
    """Wait until a notification stands so."""

    async def stands() -> bool:
        return await status(gateway, page) == wanted

    await until(stands, 10)
