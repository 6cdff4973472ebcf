"""Somebody who may do less than an administrator: an administrator makes them a key, and they sign in with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.ui.visitor import Shown, Visitor

KEY = re.compile(r"ngw_[a-z0-9]+_[\w-]+")


def key_on(page: Shown) -> str:
    """Find the key that a page shows this once."""
    [key] = KEY.findall(page.source)
    return str(key)


async def become(visitor: Visitor, tenant: str, *scopes: str, name: str = "scoped") -> None:
    """Go on as the holder of a new key of a tenant."""
    made = await visitor.post(
        f"/ui/tenants/{tenant}/new-key", [("/name", name), *(("/scopes", scope) for scope in scopes)]
    )
    await visitor.post("/ui/sign-in", {"key": key_on(made)})
