"""TLS servers whose clients may let them choose the prime of each handshake (DHE), and what clients agree on with them."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


def server_tls(authority: trustme.CA, ciphers: str, folder: Path) -> ssl.SSLContext:
    """TLS 1.2 of a server with these ciphers, and 2048 bits for DHE: nobody looks whether they are a prime."""
    group = bytes.fromhex("3082010802820101") + ((1 << 2048) - 1).to_bytes(257) + bytes.fromhex("020102")  # PKCS #3
    text = base64.encodebytes(group).decode()
    (folder / "dh.pem").write_text(f"-----BEGIN DH PARAMETERS-----\n{text}-----END DH PARAMETERS-----\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    context.load_dh_params(str(folder / "dh.pem"))
    authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA).configure_cert(context)
    return context


@dataclass
class Greeter:
    """A server on loopback that hangs up after the handshake; `agreed` names the cipher of each."""

    url: str = ""
    agreed: list[str] = field(default_factory=list)


@asynccontextmanager
async def greeting(tls: ssl.SSLContext) -> AsyncIterator[Greeter]:
    """Run it for as long as the block lasts."""
    greeter = Greeter()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeter.agreed.append(writer.get_extra_info("cipher")[0])
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls)
    async with server:
        greeter.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield greeter


async def agreed_on(call: Callable[[str, Path], Awaitable[object]], folder: Path) -> tuple[list[str], list[str]]:
    """Have a client call a server that takes ECDHE and DHE, and one that takes DHE only; which ciphers they agreed on.

    The client is given the address, and a file with whom to trust.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    both, old = (server_tls(authority, ciphers, folder) for ciphers in ("ECDHE+AESGCM:DHE+AESGCM", "DHE+AESGCM"))
    async with greeting(both) as modern, greeting(old) as ancient:
        for one in (modern, ancient):
            await call(one.url, folder / "ca.pem")
    return modern.agreed, ancient.agreed
