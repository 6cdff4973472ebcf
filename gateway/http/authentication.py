"""Who is asking: an API key in `Authorization: Bearer ngw_<id>_<secret>`, or the Unix socket's peer credentials.

Promises: a wrong secret, an unknown, expired or revoked key and a client outside the key's networks look alike from
outside, in words and in work done; nothing of a key is logged or answered. Failed attempts are counted by client
address in a bounded table, and answered 429 once there are too many; a right key is never kept out by them. However
many they are, a client has few lines in the log.

The Unix socket makes its peer an administrator of `system` if the kernel says that it is root or the daemon's own user.
"""

import hmac
import os
import socket
import struct
from typing import Final

from aiohttp import web

from gateway.directory.keys import parse_key
from gateway.directory.snapshot import Key, Snapshot
from gateway.http.admission import Buckets, seconds
from gateway.http.call import SOCKET_CALLER, Caller, Services
from gateway.http.client import bucket_name, client_address, is_within
from gateway.problems import Code, Problem

FAILURES: Final = 1_000  # attempts a client may get wrong in a row …
FAILURE_INTERVAL: Final = 500.0  # ms … and how often it gets one back
LINES: Final = 10  # in the log for such attempts in a row …
LINE_INTERVAL: Final = 6_000.0  # ms … and how often there is one more
FORGOTTEN_LATER: Final = 100  # keys that were revoked
NOBODY: Final = bytes(32)  # no secret is known to hash to it
CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)

CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="notification-gateway"'}


class Authenticator:
    """Knows callers of one listener."""

    def __init__(self, services: Services, *, admin_socket: bool = False) -> None:
        """Work for the admin socket, or for a listener where keys are needed."""
        self._services = services
        self._admin_socket = admin_socket
        self._failures = Buckets()
        self._lines = Buckets()

    def caller(self, request: web.BaseRequest, snapshot: Snapshot) -> Caller:
        """Find who asks. Raises `unauthorized`, or `rate_limited` after too many wrong keys."""
        if self._admin_socket and "Authorization" not in request.headers:
            return _peer(request)
        authorization = request.headers.get("Authorization", "")
        if not authorization:
            raise Problem(Code.UNAUTHORIZED, headers=CHALLENGE)
        scheme, _, text = authorization.partition(" ")
        return caller_of(self.key(request, snapshot, text if scheme.lower() == "bearer" else ""))

    def key(self, request: web.BaseRequest, snapshot: Snapshot, text: str) -> Key:
        """Find the key that somebody shows. Raises `unauthorized`, or `rate_limited` after too many wrong ones."""
        key = self._key(request, snapshot, text)
        if key is None:
            raise self._refusal(request)
        return key

    def _key(self, request: web.BaseRequest, snapshot: Snapshot, text: str) -> Key | None:
        parts = parse_key(text.strip())
        if parts is None:
            return None
        key = snapshot.key(parts.id)
        right = hmac.compare_digest(parts.sha256, NOBODY if key is None else key.sha256)
        if key is None or not right or not is_good(key, request, self._services):
            return None
        used(key, snapshot, self._services)
        return key

    def _refusal(self, request: web.BaseRequest) -> Problem:
        address = client_address(request, self._services.settings.http.trusted_proxies)
        name, now = bucket_name(address), self._services.outbox.clock()
        enough = self._lines.take(name, now, interval=LINE_INTERVAL, burst=LINES)
        self._services.on_refused("" if enough else str(address or "unix"))
        wait = self._failures.take(name, now, interval=FAILURE_INTERVAL, burst=FAILURES)
        if wait:
            return Problem(Code.RATE_LIMITED, "Too many wrong API keys.", headers={"Retry-After": seconds(wait)})
        return Problem(Code.UNAUTHORIZED, headers=CHALLENGE)


def caller_of(key: Key) -> Caller:
    """Who asks with this key."""
    return Caller(key.tenant, key.scopes, key.id, key.mode == "test")


def is_good(key: Key, request: web.BaseRequest, services: Services) -> bool:
    """Has a key that is not revoked its time yet, and does this client stand in one of its networks?"""
    if key.expires_at is not None and key.expires_at <= services.outbox.clock():
        return False
    if not key.cidrs:
        return True
    address = client_address(request, services.settings.http.trusted_proxies)
    return address is not None and is_within(address, key.cidrs)


def used(key: Key, snapshot: Snapshot, services: Services) -> None:
    """Note that a key is used; those of keys that are no more are forgotten once they are the most."""
    last_used = services.last_used
    last_used[key.id] = services.outbox.clock()
    if len(last_used) > 2 * len(snapshot.keys) + FORGOTTEN_LATER:
        for gone in last_used.keys() - snapshot.keys.keys():
            del last_used[gone]


def _peer(request: web.BaseRequest) -> Caller:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        raise Problem(Code.UNAUTHORIZED)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, _ = CREDENTIALS.unpack(credentials)
    if uid not in (0, os.geteuid()):
        raise Problem(Code.UNAUTHORIZED, "This socket is for root and the daemon's own user.")
    return SOCKET_CALLER
