"""Profiles for the tests of their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.ui.asking import asked

if TYPE_CHECKING:
    from tests.ui.gateway import Gateway

TABLE = "/ui/tenants/acme/profiles"
HOSTILE = '"><script>alert(1)</script>'
JINJA = "{{ 7*7 }}<img src=x onerror=alert(1)>"


async def made(gateway: Gateway, name: str = "main", tenant: str = "acme", **fields: Any) -> Any:
    """Make a profile; where nothing is said its relay is not there."""
    usual = {"name": name, "host": "127.0.0.9", "port": 9, "security": "none", "from": "noreply@acme.example"}
    return await asked(gateway, "POST", f"tenants/{tenant}/profiles", {**usual, **fields})
