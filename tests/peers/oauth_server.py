"""Token endpoints as their clients see them: Microsoft's, Google's, any other's, and a machine's own, on loopback.

The first three share one HTTPS port with a private CA; the machine's speak plain HTTP, as the real ones do. Shapes are
those of https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow,
https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token,
https://learn.microsoft.com/azure/app-service/overview-managed-identity,
https://developers.google.com/identity/protocols/oauth2/service-account, and RFC 6749.

What a client proves is checked as the real ones check it: secrets compared, assertions verified with the public key.
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote_plus

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.credentials.contract import BODY_CANARY, RETRY_AFTER, How
from tests.peers.web_peer import WebPeer

DIRECTORY = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "the client's secret: +&=%/é"
ACCOUNT = "mailer@project.iam.gserviceaccount.example"
KEY_ID = "0123456789abcdef"
MAILBOX = "alerts@example.test"
REFRESH_TOKEN = "1//the-refresh-token"
MACHINE_HEADER = "the-platform-s-header"

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class Asked:
    """A request for a token."""

    path: str
    sent: dict[str, str]
    headers: Mapping[str, str]
    claims: dict[str, Any] = field(default_factory=dict)  # of an assertion that was verified


class OAuthServer(WebPeer):
    """`async with OAuthServer() as server`; the attributes say how it is from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.elsewhere = 0  # requests that reached the host of the redirect
        self.how: How | None = None
        self.hang_up = False  # instead of an answer
        self.answer: dict[str, object] = {}  # instead of the members of a good one; None: without it
        self.error: dict[str, object] | None = None  # with status 400
        self.gate = asyncio.Event()  # closed: answers wait
        self.gate.set()
        self.lifetime = 3600
        self.rotates = False  # another refresh token with every answer, and the one before is taken back
        self.refresh_token = REFRESH_TOKEN
        self.public = True  # the client of the refresh token: it has no secret
        self.certificate: x509.Certificate | None = None  # that is registered with the application
        self.account_key: RSAPublicKey | None = None

    async def __aenter__(self) -> Self:
        service = web.Application()
        service.router.add_post("/{directory}/oauth2/v2.0/token", self._entra)
        service.router.add_post("/google/token", self._google)
        service.router.add_post("/other/token", self._other)
        self.url = f"https://127.0.0.1:{await self._listen(service, tls=True)}"
        machine = web.Application()
        machine.router.add_get("/metadata/identity/oauth2/token", self._machine)
        machine.router.add_get("/msi/token", self._app_service)
        self.machine_url = f"http://127.0.0.1:{await self._listen(machine, tls=False)}"
        away = web.Application()
        away.router.add_route("*", "/{anything:.*}", self._away)
        self._away_port = await self._listen(away, tls=True)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.gate.set()
        await super().__aexit__(*error)

    # Microsoft.

    async def _entra(self, request: web.Request) -> web.StreamResponse:
        asked, trouble = await self._begin(request)
        if trouble is not None:
            return trouble
        sent = asked.sent
        if sent.get("grant_type") != "client_credentials" or request.match_info["directory"] != DIRECTORY:
            return _entra_refusal(400, "invalid_request", 90002)
        if sent.get("client_id") != CLIENT:
            return _entra_refusal(400, "unauthorized_client", 700016)
        if sent.get("client_assertion_type") == _ASSERTION_TYPE:
            if not self._asserted(asked, self.url + request.path):
                return _entra_refusal(401, "invalid_client", 700027)
        elif sent.get("client_secret") != CLIENT_SECRET:
            return _entra_refusal(401, "invalid_client", 7000215)
        return self._issue({"expires_in": self.lifetime, "ext_expires_in": self.lifetime})

    def _asserted(self, asked: Asked, audience: str) -> bool:
        assertion = asked.sent["client_assertion"]
        if self.certificate is None:
            return False
        thumbprint = base64.urlsafe_b64encode(self.certificate.fingerprint(hashes.SHA256())).decode()
        if jwt.get_unverified_header(assertion).get("x5t#S256", "").rstrip("=") != thumbprint.rstrip("="):
            return False
        key = self.certificate.public_key()
        assert isinstance(key, RSAPublicKey)
        try:
            asked.claims = jwt.decode(assertion, key, ["PS256"], audience=audience, issuer=CLIENT)
        except jwt.InvalidTokenError:
            return False
        return True

    async def _machine(self, request: web.Request) -> web.StreamResponse:
        _, trouble = await self._begin(request)
        if trouble is not None:
            return trouble
        if request.headers.get("Metadata") != "true" or request.query.get("client_id", CLIENT) != CLIENT:
            return web.json_response({"error": "invalid_request", "error_description": BODY_CANARY}, status=400)
        life = {"expires_in": str(self.lifetime), "expires_on": str(int(time.time()) + self.lifetime)}
        return self._issue({"resource": request.query["resource"], **life})

    async def _app_service(self, request: web.Request) -> web.StreamResponse:
        _, trouble = await self._begin(request)
        if trouble is not None:
            return trouble
        if request.headers.get("X-IDENTITY-HEADER") != MACHINE_HEADER:
            return web.json_response({"statusCode": 401, "message": BODY_CANARY}, status=401)
        until = str(int(time.time()) + self.lifetime)
        return self._issue({"resource": request.query["resource"], "expires_on": until, "client_id": CLIENT})

    # Google.

    async def _google(self, request: web.Request) -> web.StreamResponse:
        asked, trouble = await self._begin(request)
        if trouble is not None:
            return trouble
        if asked.sent.get("grant_type") != _JWT_BEARER:
            return self._refreshed(asked, {"scope": "https://mail.google.com/"})
        assert self.account_key is not None
        try:
            claims = jwt.decode(
                asked.sent["assertion"], self.account_key, ["RS256"], audience=self.url + request.path, issuer=ACCOUNT
            )
        except jwt.InvalidTokenError:
            return _refusal(400, "invalid_grant")
        asked.claims = claims
        if claims["exp"] - claims["iat"] > 3600 or claims["sub"] != MAILBOX:
            return _refusal(400, "invalid_grant")
        if claims["scope"] != "https://mail.google.com/":
            return _refusal(401, "unauthorized_client")
        return self._issue({"expires_in": self.lifetime})

    # Any other.

    async def _other(self, request: web.Request) -> web.StreamResponse:
        asked, trouble = await self._begin(request)
        if trouble is not None:
            return trouble
        if asked.sent.get("grant_type") == "refresh_token":
            return self._refreshed(asked, {})
        if _client(asked) != (CLIENT, CLIENT_SECRET):
            return _refusal(401, "invalid_client")
        return self._issue({"expires_in": self.lifetime})

    def _refreshed(self, asked: Asked, more: Mapping[str, object]) -> web.Response:
        if _client(asked) != (CLIENT, None if self.public else CLIENT_SECRET):
            return _refusal(401, "invalid_client")
        if asked.sent["refresh_token"] != self.refresh_token:
            return _refusal(400, "invalid_grant")
        rotated = {}
        if self.rotates:
            self.refresh_token = rotated["refresh_token"] = f"rotated-{uuid.uuid4().hex}"
        return self._issue({"expires_in": self.lifetime, **more, **rotated})

    # All of them.

    async def _begin(self, request: web.Request) -> tuple[Asked, web.StreamResponse | None]:
        """Note the request; give the trouble that it meets."""
        sent = request.query if request.method == "GET" else await request.post()
        asked = Asked(request.path, {name: str(value) for name, value in sent.items()}, request.headers)
        self.asked.append(asked)
        await self.gate.wait()
        if self.hang_up:
            assert request.transport is not None
            request.transport.abort()
        if self.error is not None:
            return asked, web.json_response({"error_description": BODY_CANARY, **self.error}, status=400)
        return asked, None if self.how is None else await self._misbehaving(self.how, request)

    def _issue(self, more: Mapping[str, object]) -> web.Response:
        good = {"token_type": "Bearer", "access_token": f"token.{uuid.uuid4().hex}-._~+/=", **more, **self.answer}
        return web.json_response({name: value for name, value in good.items() if value is not None})

    async def _misbehaving(self, how: How, request: web.Request) -> web.StreamResponse:
        match how:
            case How.DENY:
                return web.json_response({"message": BODY_CANARY}, status=403)
            case How.THROTTLE:
                return web.Response(text=BODY_CANARY, status=429, headers={"Retry-After": f"{RETRY_AFTER:.0f}"})
            case How.BROKEN:
                return web.Response(text=BODY_CANARY, status=500)
            case How.HTML:
                return web.Response(text=f"<html>{BODY_CANARY}</html>", content_type="text/html")
            case How.REDIRECT:
                raise web.HTTPTemporaryRedirect(
                    f"https://localhost:{self._away_port}{request.path_qs}", text=BODY_CANARY
                )
            case How.OVERSIZE:
                return self._issue({"expires_in": 3600, "padding": BODY_CANARY * 10_000})
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

    async def _away(self, _: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()


def _client(asked: Asked) -> tuple[str | None, str | None]:
    """Who the client says it is, by a header or in the form (RFC 6749 §2.3.1)."""
    scheme, _, pair = asked.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        return unquote_plus(name), unquote_plus(secret)
    return asked.sent.get("client_id"), asked.sent.get("client_secret")


def _refusal(status: int, error: str) -> web.Response:
    return web.json_response({"error": error, "error_description": BODY_CANARY}, status=status)


def _entra_refusal(status: int, error: str, code: int) -> web.Response:
    body = {"error": error, "error_description": f"AADSTS{code}: {BODY_CANARY}", "error_codes": [code]}
    return web.json_response(body, status=status)
