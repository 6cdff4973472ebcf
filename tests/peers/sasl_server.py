"""A relay that knows how to let somebody in: the acceptor's side of each SASL mechanism, by other people's engines.

SCRAM is scramp's server, NTLM pyspnego's acceptor; CRAM-MD5, XOAUTH2, OAUTHBEARER and EXTERNAL are short enough to
stand here. What the client said is kept, decoded, in `said`; who got in is in `accepted`, mail in `messages`.

    async with SaslServer("SCRAM-SHA-256", users={"app": "s3cret"}) as server:
        ...                                   # sign in at server.host, server.port
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import scramp

from tests.peers.stream_peer import StreamPeer


class Refusal(Exception):
    """The client is not who it says."""


class Dialogue:
    """One AUTH under way: `ask` gives a challenge and answers what the client says to it."""

    def __init__(self, server: SaslServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.initial: bytes | None = None

    async def ask(self, challenge: bytes = b"") -> bytes:
        if self.initial is not None:
            said, self.initial = self.initial, None
        else:
            self.writer.write(b"334 " + base64.b64encode(challenge) + b"\r\n")
            line = (await self.reader.readline()).strip()
            if line == b"*":
                raise Refusal("cancelled")
            said = base64.b64decode(line, validate=True)
        self.server.said.append(said)
        return said


class SaslServer(StreamPeer):
    """Offers these mechanisms on a free loopback port; `tokens` are the access tokens that hold."""

    def __init__(
        self,
        *mechanisms: str,
        users: Mapping[str, str] | None = None,
        tokens: frozenset[str] = frozenset(),
        domain: str = "",
        iterations: int = 4096,
        lies: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls)
        self.mechanisms, self.users, self.tokens, self.domain = mechanisms, dict(users or {}), tokens, domain
        self.iterations, self.lies = iterations, lies
        self.said: list[bytes] = []
        self.lines: list[str] = []
        self.accepted: list[str] = []
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="sasl-")
        accounts = Path(self._folder.name) / "ntlm"
        accounts.write_text("".join(f"{self.domain}:{name}:{word}\n" for name, word in self.users.items()))
        os.environ["NTLM_USER_FILE"] = str(accounts)  # where pyspnego's acceptor looks
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        assert self._folder is not None
        os.environ.pop("NTLM_USER_FILE", None)
        self._folder.cleanup()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sasl.test ESMTP\r\n")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            self.lines.append(line)
            verb, _, rest = line.partition(" ")
            if verb.upper() == "EHLO":
                offer = f"250-sasl.test\r\n250 AUTH {' '.join(self.mechanisms)}\r\n"
                writer.write(offer.encode())
            elif verb.upper() == "AUTH":
                await self._auth(rest, reader, writer)
            elif verb.upper() == "DATA":
                writer.write(b"354 go on\r\n")
                self.messages.put_nowait(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 ok\r\n")
            else:
                writer.write(b"221 bye\r\n" if verb.upper() == "QUIT" else b"250 ok\r\n")

    async def _auth(self, rest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, _, initial = rest.partition(" ")
        dialogue = Dialogue(self, reader, writer)
        if initial:
            dialogue.initial = b"" if initial == "=" else base64.b64decode(initial, validate=True)
        steps = getattr(self, "_" + name.lower().replace("-", "_"))
        try:
            user = await steps(dialogue, writer)
        except Refusal as error:
            writer.write(b"501 5.7.0 cancelled\r\n" if str(error) == "cancelled" else b"535 5.7.8 no\r\n")
        else:
            self.accepted.append(user)
            writer.write(b"235 2.7.0 welcome\r\n")

    def _check(self, user: str, password: str) -> str:
        if self.users.get(user) != password:
            raise Refusal
        return user

    async def _plain(self, dialogue: Dialogue, _: asyncio.StreamWriter) -> str:
        _, user, password = (await dialogue.ask()).decode().split("\0")
        return self._check(user, password)

    async def _login(self, dialogue: Dialogue, _: asyncio.StreamWriter) -> str:
        user = await dialogue.ask(b"Username:")
        return self._check(user.decode(), (await dialogue.ask(b"Password:")).decode())

    async def _cram_md5(self, dialogue: Dialogue, _: asyncio.StreamWriter) -> str:
        challenge = b"<1.2@sasl.test>"
        user, _, digest = (await dialogue.ask(challenge)).decode().rpartition(" ")
        expected = hmac.new(self.users.get(user, "").encode(), challenge, "md5").hexdigest()
        if user not in self.users or digest != expected:
            raise Refusal
        return user

    async def _scram_sha_256(self, dialogue: Dialogue, writer: asyncio.StreamWriter) -> str:
        mechanism = scramp.ScramMechanism("SCRAM-SHA-256")
        names: list[str] = []

        def account(user: str) -> object:
            names.append(user)
            if user not in self.users:
                raise Refusal
            return mechanism.make_auth_info(self.users[user], iteration_count=self.iterations)

        server = mechanism.make_server(account)
        server.set_client_first((await dialogue.ask()).decode())
        try:
            server.set_client_final((await dialogue.ask(server.get_server_first().encode())).decode())
        except scramp.ScramException:
            if not self.lies:
                raise Refusal from None
            return names[0]
        if self.lies:
            await dialogue.ask(b"v=" + base64.b64encode(b"x" * 32))
            return names[0]
        await dialogue.ask(server.get_server_final().encode())
        return names[0]

    async def _ntlm(self, dialogue: Dialogue, _: asyncio.StreamWriter) -> str:
        import spnego

        context = spnego.server(protocol="ntlm")
        token = context.step(await dialogue.ask())
        try:
            context.step(await dialogue.ask(token or b""))
        except spnego.exceptions.SpnegoError:
            raise Refusal from None
        return str(context.client_principal)

    async def _xoauth2(self, dialogue: Dialogue, _: asyncio.StreamWriter) -> str:
        user, bearer = (await dialogue.ask()).decode().rstrip("\x01").split("\x01")
        if bearer.removeprefix("auth=Bearer ") not in self.tokens:
            assert await dialogue.ask(b'{"status":"401","schemes":"Bearer"}') == b""
            raise Refusal
        return user.removeprefix("user=")

    async def _oauthbearer(self, dialogue: Dialogue, _: asyncio.StreamWriter) -> str:
        header, bearer = (await dialogue.ask()).decode().rstrip("\x01").split("\x01")
        if bearer.removeprefix("auth=Bearer ") not in self.tokens:
            assert await dialogue.ask(b'{"status":"invalid_token"}') == b"\x01"
            raise Refusal
        return header.removeprefix("n,a=").removesuffix(",").replace("=2C", ",").replace("=3D", "=")

    async def _external(self, dialogue: Dialogue, writer: asyncio.StreamWriter) -> str:
        asked = (await dialogue.ask()).decode()
        certificate = writer.get_extra_info("peercert")
        if not certificate:
            raise Refusal
        subject = {name: value for part in certificate["subject"] for name, value in part}
        return asked or subject["commonName"]
