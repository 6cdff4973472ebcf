"""What tests of pages do besides: ask the API as an administrator, and look at a page in the browser as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import aiohttp

from tests.ui.browser import DESK

if TYPE_CHECKING:
    from tests.ui.browser import Browser, Seen
    from tests.ui.gateway import Gateway


async def asked(gateway: Gateway, method: str, path: str, document: object = None, tenant: str = "system") -> Any:
    """Ask the API below `/v1/`; it must answer well."""
    headers = {"Authorization": f"Bearer {gateway.keys.get(tenant, tenant)}"}
    async with aiohttp.request(method, f"{gateway.url}/v1/{path}", json=document, headers=headers) as response:
        answer = await response.json() if response.content_type.endswith("json") else None
        assert response.status < 300, answer
        return answer


async def opened(
    gateway: Gateway,
    browser: Browser,
    path: str,
    tenant: str = "acme",
    *,
    width: int = DESK,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
) -> Seen:
    """Open a page as an administrator of a tenant, who signs in on the way."""
    seen = await browser.open(
        f"{gateway.url}/ui/sign-in?next={quote(path, safe='')}", width=width, scheme=scheme, scripts=scripts
    )
    await seen.page.fill("#key", gateway.keys[tenant])
    await seen.page.keyboard.press("Enter")
    await seen.page.wait_for_url(f"**{path}")
    return seen
