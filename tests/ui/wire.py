"""Requests to the pages as they stand on the wire: nothing is followed, nothing is added, and cookies are kept by name."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

if TYPE_CHECKING:
    import ssl

    from tests.ui.gateway import Gateway

COOKIE = "notification-gateway"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: CIMultiDictProxy[str]
    text: str

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")

    @property
    def cookies(self) -> list[str]:
        """The values of its Set-Cookie headers."""
        return self.headers.getall("Set-Cookie", [])


@dataclass
class Wire:
    """One browser, or somebody who says so."""

    url: str
    session: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)  # of every request
    tls: ssl.SSLContext | bool = True

    async def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """Ask."""
        sent = {**self.headers, **(headers or {})}
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        url = URL(path if "://" in path else self.url + path, encoded=True)
        async with self.session.request(
            method,
            url,
            data=None if body is None else io.BytesIO(body),
            headers=sent,
            allow_redirects=False,
            ssl=self.tls,
        ) as answer:
            answered = Answered(answer.status, answer.headers, await answer.text())
        for cookie in answered.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in cookie:
                self.cookies[name] = value
        return answered

    async def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> Answered:
        """Send a form."""
        body = urlencode(fields).encode()
        return await self.ask(path, method="POST", body=body, headers={"Content-Type": FORM, **(headers or {})})

    async def sign_in(self, key: str, **fields: str) -> Answered:
        """Sign in with a key."""
        answered = await self.post("/ui/sign-in", key=key, **fields)
        assert answered.status == 303, answered.text
        return answered

    async def is_in(self, path: str = "/ui/tenants") -> bool:
        """Is a page shown to this person, and not sent to sign in?"""
        answered = await self.ask(path)
        if answered.status != 200:
            assert (answered.status, answered.location.partition("?")[0]) == (303, "/ui/sign-in"), answered.text
        return answered.status == 200


@asynccontextmanager
async def on_the_wire(gateway: Gateway, **headers: str) -> AsyncIterator[Wire]:
    """Ask a gateway; names of headers have underscores."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        yield Wire(gateway.url, session, headers=named)
