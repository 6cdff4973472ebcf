"""CyberArk Conjur on the real wire format: three ways to sign in, tokens that expire, variables one by one and in lots.

Written after the controllers of Conjur 1.24: a token is a JSON document that is shown in base64; a value is raw; a lot
is all or nothing, and in base64 for whoever accepts exactly that. It also answers as Azure's metadata service.

    async with ConjurServer() as server:
        await server.put("smtp/relay-a", {"password": "s3cret"})
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import unquote

from aiohttp import web

from tests.credentials.contract import BODY_CANARY, How
from tests.peers.cyberark_server import FakeStore

API_KEY = "3kzxr-the-api-key"
JWT = "eyJ.the-jwt.sig"
AZURE_TOKEN = "eyJ.of-the-machine.sig"
METADATA = "/metadata/identity/oauth2/token"
SIGN_INS = {
    "/authn/main/host%2Fgateway/authenticate": API_KEY.encode(),
    "/authn-jwt/k8s/main/authenticate": f"jwt={JWT}".encode(),
    "/authn-jwt/k8s/main/host%2Fgateway/authenticate": f"jwt={JWT}".encode(),
    "/authn-azure/prod/main/host%2Fgateway/authenticate": f"jwt={AZURE_TOKEN}".encode(),
}


class ConjurServer(FakeStore):
    """The account `main`; `host/gateway` may read everything there."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[str, list[bytes]] = {}
        self.forbidden: set[str] = set()
        self.lifetime: int | None = None  # seconds that a token says it lives
        self.at_sign_in: How | None = None  # misbehave there only, and where Azure's tokens come from
        self.tokens: list[str] = []
        self.refused: set[str] = set()

    @property
    def sign_ins(self) -> int:
        """How often somebody signed in."""
        return len(self.tokens)

    async def put(self, key: str, fields: Mapping[str, str]) -> None:
        """Keep the next version of a variable: the password alone, or an object of all fields."""
        value = fields["password"] if set(fields) == {"password"} else json.dumps(dict(fields))
        self.variables.setdefault(key, []).append(value.encode())

    async def delete(self, key: str) -> None:
        """Delete a variable."""
        del self.variables[key]

    def misbehave(self, how: How | None) -> None:
        """Do so from now on; EXPIRE: the tokens issued so far are refused."""
        if how is How.EXPIRE:
            self.refused.update(self.tokens)
            how = None
        super().misbehave(how)

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer as Conjur does, or as Azure's metadata service."""
        path = request.raw_path.partition("?")[0]
        if path.startswith("/authn") or path == METADATA:
            return await self._sign_in(request, path, body)
        if request.headers.get("Authorization") not in set(self.tokens) - self.refused:
            return web.Response(status=401, text=BODY_CANARY)
        if self.how is How.DENY:
            return web.Response(status=403, text=BODY_CANARY)
        if trouble := await self.trouble(request):
            return trouble
        if path == "/secrets":
            return self._lot(request)
        return self._one(path, request.query.get("version"))

    async def _sign_in(self, request: web.Request, path: str, body: bytes) -> web.StreamResponse:
        self.how, how = self.at_sign_in, self.how
        try:
            if trouble := await self.trouble(request):
                return trouble
        finally:
            self.how = how
        if path == METADATA:
            return _machine(request)
        if request.method != "POST" or SIGN_INS.get(path) != body:
            return web.Response(status=401, text=BODY_CANARY)
        token = self._token()
        self.tokens.append(f'Token token="{base64.b64encode(token).decode()}"')
        return web.Response(body=token, content_type="application/json")

    def _token(self) -> bytes:
        claims = {"sub": "host/gateway", "iat": 1_700_000_000, "n": len(self.tokens)}
        if self.lifetime is not None:
            claims["exp"] = claims["iat"] + self.lifetime  # type: ignore[operator]
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
        return json.dumps({"protected": "eyJ9", "payload": payload, "signature": "c2ln"}).encode()

    def _one(self, path: str, version: str | None) -> web.Response:
        segments = path.split("/")
        if segments[:4] != ["", "secrets", "main", "variable"] or len(segments) != 5:
            return web.Response(status=404, text=BODY_CANARY)
        value = self._value(unquote(segments[4]), version)
        if isinstance(value, int):
            return web.json_response({"error": {"message": BODY_CANARY}}, status=value)
        return web.Response(body=value, content_type="application/octet-stream")

    def _lot(self, request: web.Request) -> web.Response:
        accepts = request.headers.get("Accept-Encoding", "").lower() == "base64"
        told: dict[str, str] = {}
        for full in request.query["variable_ids"].split(","):
            value = self._value(full.removeprefix("main:variable:"), None)
            if isinstance(value, int):
                return web.json_response({"error": {"message": BODY_CANARY}}, status=value)
            told[full] = base64.encodebytes(value).decode() if accepts else value.decode()
        return web.json_response(told, headers={"Content-Encoding": "base64"} if accepts else {})

    def _value(self, variable: str, version: str | None) -> bytes | int:
        if variable in self.forbidden:
            return 403
        versions = self.variables.get(variable, [])
        index = len(versions) if version is None else int(version)
        return versions[index - 1] if 1 <= index <= len(versions) else 404


def _machine(request: web.Request) -> web.Response:
    if request.headers.get("Metadata") != "true" or request.query["resource"] != "https://management.azure.com":
        return web.json_response({"error": "invalid_request", "error_description": BODY_CANARY}, status=400)
    token = {"access_token": AZURE_TOKEN, "expires_in": "3599", "resource": request.query["resource"]}
    return web.json_response({**token, "token_type": "Bearer"})
