"""The HTTP listeners: where the API is heard, and where it stops.

One `HttpServer` listens on one set of addresses; the daemon has one for callers and one for the administrators' Unix
socket, on the same services. `start` binds and listens, `stop` takes no new connection, lets what is being answered
finish, and closes the rest.

A client that goes away does not cancel its request (aiohttp's handler cancellation stays off): what was about to be
committed is committed.
"""

import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from aiohttp import web

from gateway.http.call import Pages, Services
from gateway.http.dispatch import Dispatcher
from gateway.http.listeners import OWNER_ONLY, remove_socket, sockets_for, tls_context
from gateway.http.protocol import Server
from gateway.http.routes import ROUTES, reachable
from gateway.http.routing import Route, Router
from gateway.settings import ListenAddress, TcpAddress, UnixAddress

BACKLOG: Final = 1024
DRAIN_SECONDS: Final = 10.0
MAX_LINE: Final = 8190
LINGER_SECONDS: Final = 5.0  # in which what a refused client still sends is read, so that it can read why


class HttpServer:
    """Listens, and answers from the route table."""

    def __init__(
        self,
        services: Services,
        listen: Sequence[ListenAddress] | None = None,
        *,
        routes: Iterable[Route] = ROUTES,
        pages: Pages | None = None,
        admin_socket: bool = False,
    ) -> None:
        """Work for callers with keys on `[http] listen`, unless told otherwise. Nothing is opened yet."""
        self._services = services
        self._http = services.settings.http
        self._listen = tuple(self._http.listen if listen is None else listen)
        self._router = Router(reachable(routes, catcher=services.catcher is not None))
        self._admin_socket = admin_socket
        self._runner: web.ServerRunner | None = None
        self._tls: ssl.SSLContext | None = None
        self._files: list[Path] = []
        self._dispatcher = Dispatcher(services, self._router, pages=pages, admin_socket=admin_socket)
        self.port = 0

    @classmethod
    def for_administrators(cls, services: Services) -> Self:
        """Work for root and the daemon's own user, on `[admin] socket`."""
        return cls(services, [UnixAddress(services.settings.admin.socket)], admin_socket=True)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Bind all addresses and listen; `port` is then that of the first TCP address. OSError, and nothing is left open."""
        self._tls = None if self._admin_socket else tls_context(self._http)
        if self._tls is not None:
            self._tls.sni_callback = self._show_certificate
        server = Server(
            self._dispatcher.handle,
            keepalive_timeout=float(self._http.header_timeout_seconds),
            access_log=None,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=DRAIN_SECONDS)
        await self._runner.setup()
        try:
            for address in self._listen:
                await self._open(address)
        except OSError:
            await self.stop()
            raise

    async def _open(self, address: ListenAddress) -> None:
        if self._runner is None:
            raise RuntimeError("the server is not started")
        mode = OWNER_ONLY if self._admin_socket else None
        for listener in sockets_for(address, mode=mode):
            if self.port == 0 and isinstance(address, TcpAddress):
                self.port = listener.getsockname()[1]
            if isinstance(address, UnixAddress):
                self._files.append(address.path)
            await web.SockSite(self._runner, listener, ssl_context=self._tls, backlog=BACKLOG).start()

    def _show_certificate(self, tls: ssl.SSLObject, _name: str | None, _begun: ssl.SSLContext) -> None:
        """Go on with the certificate of the day; whether or not the client names a server, this is asked for."""
        if self._tls is not None:
            tls.context = self._tls

    @property
    def answering(self) -> int:
        """How many requests are being answered."""
        return self._dispatcher.answering

    @property
    def connections(self) -> int:
        """How many connections are open."""
        server = None if self._runner is None else self._runner.server
        return 0 if server is None else len(server.connections)

    def renew_certificate(self, certificate: ssl.SSLContext | None) -> None:
        """Show another certificate to whoever connects from now on; one that speaks no TLS goes on without."""
        if self._tls is not None and certificate is not None:
            self._tls = certificate

    async def stop(self) -> None:
        """Take no new connections, let answers finish, close."""
        if self._runner is None:
            return
        await self._runner.cleanup()
        self._runner = None
        for path in self._files:
            remove_socket(path)
