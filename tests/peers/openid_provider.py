"""An OpenID provider on loopback whose people say yes at once: discovery, authorization, token endpoint, keys.

What the client sends is checked as real ones check it: client, redirect URI, PKCE (RFC 7636 §4.6), the client's secret, and
that a code is used once. How it lies, or fails, is set by its attributes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
from typing import Any, Self
from urllib.parse import unquote_plus, urlencode

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.peers.web_peer import WebPeer

CLIENT = "notification-gateway"
CLIENT_SECRET = "the client's secret: +&=%/é"
GROUP = "mail-operators"
SUBJECT = "6f1c-ann"


class Key:
    """What signs: `private`, under a name, as a JWK."""

    def __init__(self, kid: str, algorithm: str = "ES256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private: Any
        match algorithm:
            case "ES256":
                self.private = ec.generate_private_key(ec.SECP256R1())
                told = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
            case "EdDSA":
                self.private = ed25519.Ed25519PrivateKey.generate()
                told = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
            case _:
                self.private = rsa.generate_private_key(65537, 2048)
                told = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
                told.pop("key_ops", None)
        self.jwk: dict[str, Any] = {**told, "kid": kid, "use": "sig"}

    def sign(self, claims: dict[str, Any], **head: Any) -> str:
        """Make a token."""
        return jwt.encode(claims, self.private, self.algorithm, headers={"kid": self.kid, **head})


class OpenIdProvider(WebPeer):
    """`async with OpenIdProvider() as provider`; the attributes say how it is from now on."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self._over_tls = tls
        self.key = Key("one")
        self.keys = [self.key]  # what is published
        self.metadata: dict[str, Any] = {}  # over what is true; None: without the member
        self.claims: dict[str, Any] = {}  # likewise
        self.head: dict[str, Any] = {}
        self.back: dict[str, str] = {}  # likewise, in the answer that the browser brings
        self.token: dict[str, Any] = {}  # likewise, at the token endpoint
        self.status = 200  # of the token endpoint
        self.junk: bytes | None = None  # instead of any document
        self.gate = asyncio.Event()  # closed: answers wait
        self.gate.set()
        self.asked: dict[str, int] = {"configuration": 0, "keys": 0, "token": 0}
        self.sent: list[dict[str, str]] = []  # what clients brought to the authorization endpoint
        self.pages: dict[str, str] = {}  # HTML by path: whatever else is on that site
        self._codes: dict[str, dict[str, str]] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._configuration)
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        app.router.add_get("/keys", self._keys)
        app.router.add_get("/bye", self._bye)
        app.router.add_get("/{other:.*}", self._page)
        scheme = "https" if self._over_tls else "http"  # under a name: for browsers another site than 127.0.0.1
        self.issuer = f"{scheme}://localhost:{await self._listen(app, tls=self._over_tls)}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.gate.set()
        await super().__aexit__(*error)

    async def _configuration(self, _request: web.Request) -> web.StreamResponse:
        known = {
            "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize?realm=main",
            "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/bye", "response_types_supported": ["code"],
            "authorization_response_iss_parameter_supported": True,
        }  # fmt: skip
        return await self._answer("configuration", _over(known, self.metadata))

    async def _keys(self, _request: web.Request) -> web.StreamResponse:
        return await self._answer("keys", {"keys": [key.jwk for key in self.keys]})

    async def _bye(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text="Bye")

    async def _page(self, request: web.Request) -> web.StreamResponse:
        shown = self.pages.get(request.path)
        return web.Response(status=204) if shown is None else web.Response(text=shown, content_type="text/html")

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        asked = dict(request.query)
        self.sent.append(asked)
        if asked["client_id"] != CLIENT or asked["response_type"] != "code" or asked["realm"] != "main":
            return web.Response(status=400)
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        back = _over({"code": code, "state": asked["state"], "iss": self.issuer}, self.back)
        raise web.HTTPSeeOther(f"{asked['redirect_uri']}?{urlencode(back)}")

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        began = self._codes.pop(form["code"], None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if not self._knows(request, form):
            return web.json_response({"error": "invalid_client"}, status=401)
        if (
            began is None
            or form["grant_type"] != "authorization_code"
            or form["redirect_uri"] != began["redirect_uri"]
            or began["code_challenge_method"] != "S256"
            or began["code_challenge"] != base64.urlsafe_b64encode(challenge).decode().rstrip("=")
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {
            "iss": self.issuer, "sub": SUBJECT, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": began["nonce"],
            "preferred_username": "ann", "groups": ["everybody", GROUP],
        }  # fmt: skip
        token = self.key.sign(_over(claims, self.claims), **self.head)
        answer = _over({"access_token": "at", "token_type": "Bearer", "id_token": token}, self.token)
        return await self._answer("token", answer, self.status)

    def _knows(self, request: web.Request, form: dict[str, str]) -> bool:
        if self.metadata.get("token_endpoint_auth_methods_supported") == ["client_secret_post"]:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT, CLIENT_SECRET)
        kind, _, pair = request.headers.get("Authorization", "").partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        return (kind, unquote_plus(name), unquote_plus(secret)) == ("Basic", CLIENT, CLIENT_SECRET)

    async def _answer(self, what: str, document: object, status: int = 200) -> web.StreamResponse:
        self.asked[what] += 1
        await self.gate.wait()
        body = json.dumps(document).encode() if self.junk is None else self.junk
        return web.Response(status=status, body=body, content_type="application/json")


def _over(known: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**known, **changes}.items() if value is not None}
