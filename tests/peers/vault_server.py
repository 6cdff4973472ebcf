"""A Vault that is no Vault: its wire format, one key-value engine, every sign-in that we know, and bad manners on cue.

Owns two listening sockets on 127.0.0.1, both in the loop that starts it: the server, and the host to which a redirect
leads, which only counts. State is in memory and public; tests read `asked`, what came in, in order.

Promises: statuses and bodies are those of Vault 1.x and OpenBao 2.x. It is as strict as they can be set to be: without
`X-Vault-Request` nothing is answered, a token counts only in its namespace, a wrapping token and a withdrawn one are
worth nothing, and a sign-in succeeds only with exactly the body that `admit` told.

    async with FakeVault() as vault:
        vault.admit("auth/approle/login", {"role_id": "r", "secret_id": "s"})
        await vault.put("smtp/relay-a", {"password": "x"})
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.credentials.contract import BODY_CANARY, RETRY_AFTER, How

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

HOUR = 3600
TTL_OF_V1 = 2_764_800  # what Vault says where nobody said otherwise
LONG = 100_000
_CREATED = "2026-01-02T03:04:05.678901234Z"
_DELETED = "2026-02-03T04:05:06.789012345Z"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as it came."""

    method: str
    path: str  # raw, with its query
    token: str
    namespace: str
    body: Any
    headers: Mapping[str, str]
    certificate: Mapping[str, Any] | None
    port: int  # the client's, which tells connections apart


@dataclass(slots=True)
class Issued:
    """A token."""

    life: int = HOUR
    renewable: bool = True


@dataclass(slots=True)
class FakeVault:
    """The server. Attributes may be changed at any time."""

    mount: str = "secret"
    versioned: bool = True
    namespace: str = ""
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    elsewhere: int = 0
    tokens: dict[str, Issued] = field(default_factory=dict)
    secrets: dict[str, list[Mapping[str, Any] | None]] = field(default_factory=dict)  # by version; None: deleted
    wrapped: dict[str, dict[str, str]] = field(default_factory=dict)
    issue: Issued = field(default_factory=Issued)  # what the next sign-ins bring
    grant: int | None = None  # seconds that a renewal brings; None: as many as the sign-in
    troubles: dict[str, int] = field(default_factory=dict)  # the status of all answers at a path
    pages: bool = False  # these answers are pages of somebody in between
    prefix: str = "hvs."  # of the tokens
    lease_id: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # reading waits for it
    waiting: int = 0
    _more_waits: asyncio.Condition = field(default_factory=asyncio.Condition)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)  # a client was tired of dripping
    _how: How | None = None
    _sign_ins: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _names: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _runners: list[web.AppRunner] = field(default_factory=list)
    url: str = ""
    other_url: str = ""

    async def __aenter__(self) -> Self:
        """Listen."""
        self.gate.set()
        self.url = await self._listen(self._answer, self.tls)
        self.other_url = await self._listen(self._count, None)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop, in the middle of answers too."""
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(self, handler: Any, tls: ssl.SSLContext | None) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        return f"{'https' if tls else 'http'}://{host}:{port}"

    # What tests do with it.

    async def put(self, key: str, fields: Mapping[str, Any]) -> None:
        """Keep a secret, or its next version."""
        self.secrets.setdefault(key, []).append(dict(fields))

    async def delete(self, key: str) -> None:
        """Delete its latest version; version 1 of the engine has no other."""
        if self.versioned:
            self.secrets[key][-1] = None
        else:
            del self.secrets[key]

    def misbehave(self, how: How | None) -> None:
        """Do so from now on; `EXPIRE` is over at once."""
        if how is How.EXPIRE:
            self.tokens.clear()
            how = None
        self._how = how

    def admit(self, path: str, body: Mapping[str, Any]) -> None:
        """Let in who posts exactly this body there."""
        self._sign_ins[path] = dict(body)

    def count(self, path: str) -> int:
        """How often was it asked for?"""
        return sum(one.path == f"/v1/{path}" for one in self.asked)

    async def wait_until_asked(self, number: int) -> None:
        """Return when so many readers wait at the gate."""
        async with self._more_waits:
            await self._more_waits.wait_for(lambda: self.waiting >= number)

    # Answers.

    async def _count(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.json_response({"data": {"data": {"password": BODY_CANARY}, "metadata": {"version": 1}}})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        self.asked.append(asked)
        if asked.headers.get("X-Vault-Request") != "true":
            return _errors(412, "required header missing")
        if self._how not in (None, How.DENY):
            return await self._misbehave(request)
        path = asked.path.removeprefix("/v1/").partition("?")[0]
        if path in self.troubles:
            return self._trouble(self.troubles[path])
        if path == "sys/wrapping/unwrap":
            return self._unwrap(asked)
        if path in self._sign_ins:
            return self._sign_in(path, asked)
        if asked.token not in self.tokens:
            return _errors(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
        if path == "auth/token/renew-self":
            return self._renew(asked)
        if path == "auth/token/lookup-self":
            told = self.tokens[asked.token]
            data = {"id": asked.token, "ttl": told.life, "renewable": told.renewable, "policies": ["default"]}
            return _told(data=data)
        if path == "auth/token/revoke-self":
            del self.tokens[asked.token]
            return web.Response(status=204)
        return await self._read(path, request, asked)

    async def _misbehave(self, request: web.Request) -> web.StreamResponse:
        match self._how:
            case How.THROTTLE:
                headers = {"Retry-After": str(int(RETRY_AFTER))}
                return _errors(429, "request path: rate limit quota exceeded", headers)
            case How.BROKEN:
                return _errors(503, "Vault is sealed")
            case How.HTML:
                return web.Response(
                    text=f"<html>Sign in to the guest network {BODY_CANARY}</html>", content_type="text/html"
                )
            case How.REDIRECT:
                location = self.other_url + request.rel_url.raw_path
                return web.Response(status=307, text=BODY_CANARY, headers={"Location": location})
            case How.OVERSIZE:
                return _told(data={"data": {"password": BODY_CANARY * LONG}, "metadata": _metadata(1)})
            case _:
                try:
                    return await _drip(request)
                finally:
                    self.hung_up.set()

    def _trouble(self, status: int) -> web.Response:
        if status == 204:
            return web.Response(status=204)
        return web.Response(status=status, text=BODY_CANARY) if self.pages else _errors(status, "not now")

    def _sign_in(self, path: str, asked: Asked) -> web.Response:
        if asked.body != self._sign_ins[path]:
            return _errors(400, f"invalid role or secret ID {asked.body}")
        if "cert" in path and asked.certificate is None:
            return _errors(400, "client certificate must be supplied")
        token = f"{self.prefix}{next(self._names)}"
        self.tokens[token] = Issued(self.issue.life, self.issue.renewable)
        return self._auth(token, self.issue.life)

    def _auth(self, token: str, life: int) -> web.Response:
        auth = {
            "client_token": token,
            "accessor": "a",
            "policies": ["default"],
            "token_policies": ["default"],
            "metadata": {},
            "lease_duration": life,
            "renewable": self.tokens[token].renewable,
            "entity_id": "",
            "token_type": "service",
            "orphan": True,
        }
        return _told(auth=auth)

    def _renew(self, asked: Asked) -> web.Response:
        if not self.tokens[asked.token].renewable:
            return _errors(400, "lease is not renewable")
        return self._auth(asked.token, self.tokens[asked.token].life if self.grant is None else self.grant)

    def _unwrap(self, asked: Asked) -> web.Response:
        data = self.wrapped.pop(asked.token, None)
        if data is None:
            return _errors(400, "wrapping token is not valid or does not exist")
        return _told(data=data)

    async def _read(self, path: str, request: web.Request, asked: Asked) -> web.Response:
        if asked.namespace != self.namespace or self._how is How.DENY:
            return _errors(403, "1 error occurred:\n\t* permission denied\n\n")
        async with self._more_waits:
            self.waiting += 1
            self._more_waits.notify_all()
        await self.gate.wait()
        self.waiting -= 1
        prefix = f"{self.mount}/data/" if self.versioned else f"{self.mount}/"
        key = request.match_info["path"].removeprefix("v1/")
        versions = self.secrets.get(key.removeprefix(prefix), []) if key.startswith(prefix) else []
        if not self.versioned:
            return self._read_v1(versions)
        number = int(request.query.get("version", "0")) or len(versions)
        if not 0 < number <= len(versions):
            return web.json_response({"errors": []}, status=404)
        fields = versions[number - 1]
        if fields is None:
            return _told(404, data={"data": None, "metadata": {**_metadata(number), "deletion_time": _DELETED}})
        return _told(data={"data": fields, "metadata": _metadata(number)}, lease_id=self.lease_id)

    def _read_v1(self, versions: list[Mapping[str, Any] | None]) -> web.Response:
        if not versions or (fields := versions[-1]) is None:
            return web.json_response({"errors": []}, status=404)
        return _told(data=fields, lease_duration=int(fields.get("ttl", TTL_OF_V1)), lease_id=self.lease_id)


async def _asked(request: web.Request) -> Asked:
    transport = request.transport
    return Asked(
        request.method,
        request.raw_path,
        request.headers.get("X-Vault-Token", ""),
        request.headers.get("X-Vault-Namespace", ""),
        await request.json() if request.can_read_body else None,
        request.headers.copy(),
        transport.get_extra_info("peercert") if transport is not None else None,
        transport.get_extra_info("peername")[1] if transport is not None else 0,
    )


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(f'{{"errors": ["{BODY_CANARY}"'.encode())
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)
    return response


def _told(status: int = 200, **given: Any) -> web.Response:
    body = {
        "request_id": "0b5e",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": None,
        "wrap_info": None,
        "warnings": None,
        "auth": None,
        "mount_type": "kv",
    }
    return web.json_response({**body, **given}, status=status, headers={"Set-Cookie": "node=a; Path=/"})


def _errors(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [f"{text} {BODY_CANARY}"]}, status=status, headers=headers)


def _metadata(version: int) -> dict[str, Any]:
    return {
        "created_time": _CREATED,
        "custom_metadata": None,
        "deletion_time": "",
        "destroyed": False,
        "version": version,
    }
