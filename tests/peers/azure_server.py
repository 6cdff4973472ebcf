"""Azure as its clients see it: one key vault, the sign-in service and a machine's identity endpoint, on loopback.

Vault and sign-in share one HTTPS port with a private CA; the identity endpoint speaks plain HTTP, as the real one
does. Request and answer shapes are those of the Key Vault REST API and of Microsoft's identity platform:
https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret/get-secret,
https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses,
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow and
https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token.

Implements `tests.credentials.contract.Fake`. A name of the contract is spelled as Azure allows: see `azure_name`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

from tests.credentials.contract import BODY_CANARY, RETRY_AFTER, How
from tests.peers.web_peer import WebPeer

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "the-application-s-secret"


def azure_name(key: str) -> str:
    """`smtp/relay-a` → `smtp-relay-a`."""
    return key.replace("/", "-").replace(".", "-")


@dataclass
class Version:
    """A version of a secret."""

    value: object
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    enabled: bool = True
    ends: int | None = None  # Unix time


@dataclass
class SignIn:
    """What a client sent to be let in."""

    path: str
    sent: dict[str, str]


class AzureServer(WebPeer):
    """`async with AzureServer() as azure`."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: dict[str, list[Version]] = {}
        self.requests: list[web.Request] = []  # to the vault, in order
        self.sign_ins: list[SignIn] = []
        self.elsewhere = 0
        self.tenant = TENANT  # of the challenge
        self.resource: str | None = None  # of the challenge; None: one that fits this vault
        self.client_secret = CLIENT_SECRET
        self.lifetime = 3599  # of a token, in seconds
        self.sign_in_how: How | None = None
        self.refuse_all_tokens = False
        self.hang_up = self.hang_up_at_sign_in = False  # instead of an answer
        self._how: How | None = None
        self._tokens: set[str] = set()

    async def __aenter__(self) -> Self:
        service = web.Application()
        service.router.add_get("/secrets/{name}/{version:.*}", self._secret)
        service.router.add_post("/{tenant}/oauth2/v2.0/token", self._sign_in)
        self.port = await self._listen(service, tls=True)
        self.url = self.authority = f"https://127.0.0.1:{self.port}"
        machine = web.Application()
        machine.router.add_get("/metadata/identity/oauth2/token", self._machine)
        self.machine_url = f"http://127.0.0.1:{await self._listen(machine, tls=False)}"
        other = web.Application()
        other.router.add_route("*", "/{anything:.*}", self._other)
        self._other_port = await self._listen(other, tls=True)
        return self

    # The contract's fake.

    async def put(self, key: str, fields: Mapping[str, str]) -> None:
        """Keep a secret: its one field as it is, several as a JSON object."""
        value = next(iter(fields.values())) if len(fields) == 1 else json.dumps(dict(fields))
        self.put_value(key, value)

    def put_value(self, key: str, value: object) -> Version:
        """Keep the next version."""
        version = Version(value)
        self.secrets.setdefault(azure_name(key), []).append(version)
        return version

    async def delete(self, key: str) -> None:
        """Delete a secret with all of its versions."""
        del self.secrets[azure_name(key)]

    def misbehave(self, how: How | None) -> None:
        """Do so at the vault; `EXPIRE` happens at once, and once."""
        if how is How.EXPIRE:
            self._tokens.clear()
        else:
            self._how = how

    # The vault.

    async def _secret(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.hang_up:
            _cut(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self._tokens or self.refuse_all_tokens:
            return self._challenge()
        if self._how is not None:
            return await self._misbehaving(self._how, request)
        if "api-version" not in request.query:
            return _error(400, "BadParameter")
        name, version = request.match_info["name"], request.match_info["version"]
        known = [one for one in self.secrets.get(name, ()) if version in {"", one.name}]
        if not known:
            return _error(404, "SecretNotFound")
        if not known[-1].enabled:
            return _error(403, "Forbidden", "SecretDisabled")
        return web.json_response(self._bundle(name, known[-1]))

    def _bundle(self, name: str, version: Version) -> dict[str, object]:
        now = int(time.time())
        attributes = {"enabled": True, "created": now, "updated": now, "recoveryLevel": "Recoverable+Purgeable"}
        attributes |= {} if version.ends is None else {"exp": version.ends}
        bundle: dict[str, object] = {"id": f"{self.url}/secrets/{name}/{version.name}", "attributes": attributes}
        return bundle | ({} if version.value is None else {"value": version.value})

    def _challenge(self) -> web.Response:
        # The SDK wants the vault's host within the resource's domain; 127.0.0.1 is "within" 0.0.1.
        resource = self.resource or f"https://0.0.1:{self.port}"
        challenge = f'Bearer authorization="{self.authority}/{self.tenant}", resource="{resource}"'
        return _error(401, "Unauthorized", headers={"WWW-Authenticate": challenge})

    # The sign-in service, and the machine's identity.

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.sign_ins.append(SignIn(request.path, form))
        if self.hang_up_at_sign_in:
            _cut(request)
        if self.sign_in_how is not None:
            return await self._misbehaving(self.sign_in_how, request)
        if form.get("client_id") != CLIENT or form.get("grant_type") != "client_credentials":
            return _refusal(400, "unauthorized_client", 700016)
        if form.get("client_secret", self.client_secret) != self.client_secret:
            return _refusal(401, "invalid_client", 7000215)
        if "client_secret" not in form and "client_assertion" not in form:
            return _refusal(401, "invalid_client", 7000218)
        return web.json_response(
            {"token_type": "Bearer", "expires_in": self.lifetime, "ext_expires_in": 3599, "access_token": self._token()}
        )

    async def _machine(self, request: web.Request) -> web.StreamResponse:
        self.sign_ins.append(SignIn(request.path, dict(request.query)))
        if self.hang_up_at_sign_in:
            _cut(request)
        if self.sign_in_how is not None:
            return await self._misbehaving(self.sign_in_how, request)
        if request.headers.get("Metadata") != "true" or request.query.get("client_id", CLIENT) != CLIENT:
            return web.json_response({"error": "invalid_request", "error_description": BODY_CANARY}, status=400)
        life = {"expires_in": str(self.lifetime), "expires_on": str(int(time.time()) + self.lifetime)}
        answer = {"access_token": self._token(), "resource": request.query["resource"], "token_type": "Bearer"}
        return web.json_response(answer | life)

    def _token(self) -> str:
        token = f"token-{uuid.uuid4().hex}"
        self._tokens.add(token)
        return token

    # Trouble.

    async def _misbehaving(self, how: How, request: web.Request) -> web.StreamResponse:
        match how:
            case How.DENY:
                return _error(403, "Forbidden", "ForbiddenByRbac")
            case How.THROTTLE:
                return _error(429, "Throttled", headers={"Retry-After": f"{RETRY_AFTER:.0f}"})
            case How.BROKEN:
                return _error(503, "ServiceUnavailable")
            case How.HTML:
                return web.Response(text=f"<html>{BODY_CANARY} error</html>", content_type="text/html")
            case How.REDIRECT:
                raise web.HTTPFound(f"https://localhost:{self._other_port}{request.path_qs}", text=BODY_CANARY)
            case How.OVERSIZE:
                return web.json_response(self._bundle("a", Version(BODY_CANARY * 10_000)))
            case How.DRIP | How.EXPIRE:
                return await self._drip(request)

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for octet in base64.b64encode(BODY_CANARY.encode() * 1000):
            await response.write(bytes([octet]))
            try:
                await asyncio.wait_for(self._stopping.wait(), 0.05)
            except TimeoutError:
                continue
            break
        return response

    async def _other(self, _: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()


def _cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


def _error(status: int, code: str, inner: str | None = None, headers: Mapping[str, str] | None = None) -> web.Response:
    error: dict[str, object] = {"code": code, "message": BODY_CANARY}
    if inner is not None:
        error["innererror"] = {"code": inner}
    return web.json_response({"error": error}, status=status, headers=headers)


def _refusal(status: int, error: str, code: int) -> web.Response:
    body = {"error": error, "error_description": f"AADSTS{code}: {BODY_CANARY}", "error_codes": [code]}
    return web.json_response(body, status=status)
