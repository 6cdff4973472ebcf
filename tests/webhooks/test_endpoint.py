"""One request to whoever a tenant names: only where the operator permits, never longer than it may take, nothing believed."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
import time
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gateway.credentials.sealed import Seal
from gateway.credentials.secret import Secret
from gateway.directory.kinds import web_place
from gateway.settings import EgressRule
from gateway.smtp.egress import EgressPolicy
from gateway.store.clock import wall_clock
from gateway.webhooks import endpoint as module
from gateway.webhooks import names
from gateway.webhooks.endpoint import Attempt, Message, Poster, Result
from tests.credentials.primes import server_tls
from tests.peers.smtp_server import issue_tls
from tests.peers.stream_peer import StreamPeer
from tests.peers.webhook_endpoint import Reply, WebhookEndpoint
from tests.smtp.test_egress import CLOSED, PRIVATE, PUBLIC
from tests.webhooks.world import HERE, HOOK, SEAL, SECRET, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MESSAGE = Message("msg_1", '{"n":1}')
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def poster(
    policy: EgressPolicy = HERE, *, tls: ssl.SSLContext | None = None, seal: Seal = SEAL
) -> AsyncIterator[Callable[[str], Any]]:
    """Give what makes one attempt at an address, of acme's or of another tenant's."""
    async with Poster(policy, seal, wall_clock, tls) as made:
        yield lambda url, tenant="acme": made.post(webhook(url, tenant=tenant), MESSAGE)


class Raw(StreamPeer):
    """Answers every request with these octets, one piece after the other, as long as it is asked."""

    def __init__(
        self, *pieces: bytes, pause: float = 0.0, endless: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(tls)
        self.pieces, self.pause, self.endless = pieces, pause, endless
        self.sent = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in self.pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(self.pause)
        while self.endless:
            writer.write(self.pieces[-1])
            await writer.drain()
            self.sent += len(self.pieces[-1])
            await asyncio.sleep(self.pause)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/"


def answers(monkeypatch: pytest.MonkeyPatch, *answered: str | BaseException) -> list[str]:
    """Let the machine's resolver answer so, one after the other; gives the names that were asked for."""
    asked: list[str] = []
    waiting = list(answered)

    def looked_up(host: str, port: int, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, BaseException):
            raise answer
        family = socket.AF_INET6 if ":" in answer else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (answer, port))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return asked


# What is answered.


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Result.OK), (204, Result.OK), (299, Result.OK), (301, Result.REFUSED), (304, Result.REFUSED),
        (307, Result.REFUSED), (400, Result.REFUSED), (404, Result.REFUSED), (410, Result.REFUSED),
        (500, Result.FAILED), (503, Result.FAILED),
    ],
)  # fmt: skip
async def test_only_2xx_is_good(status: int, result: Result) -> None:
    """Whatever else is answered is told by its class."""
    async with WebhookEndpoint() as endpoint, poster() as post:
        endpoint.usual = Reply(status, body=b"" if status in (204, 304) else b"words")
        attempt = await post(endpoint.url)
    assert (attempt.result, attempt.status, attempt.gone) == (result, status, status == 410)


async def test_no_redirect_is_followed() -> None:
    """Not even to where the same policy would permit it."""
    async with WebhookEndpoint() as other, WebhookEndpoint() as endpoint, poster() as post:
        endpoint.usual = Reply(308, {"Location": other.url})
        attempt = await post(endpoint.url)
        assert other.requests == []
    assert attempt.result is Result.REFUSED


@pytest.mark.parametrize(
    ("told", "status", "pause"),
    [
        ("7", 503, 7), ("7", 429, 7), ("7", 500, None), ("7", 200, None), ("0", 503, 5), ("99999999", 503, 3600),
        ("-1", 503, None), ("soon", 503, None), ("9" * 5000, 503, None), ("٣", 503, 5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 503, 5), ("Wed, 21 Oct 2199 07:28:00 GMT", 503, 3600),
    ],
)  # fmt: skip
async def test_retry_after(told: str, status: int, pause: int | None) -> None:
    """Seconds or a date, within bounds; where it says nothing of use, nothing."""
    async with WebhookEndpoint() as endpoint, poster() as post:
        endpoint.usual = Reply(status, {"Retry-After": told})
        attempt: Attempt = await post(endpoint.url)
    assert attempt.pause == pause


async def test_no_cookie_comes_back() -> None:
    """One tenant's endpoint leaves nothing behind for another's, on the same host, nor for its own next time."""
    async with WebhookEndpoint() as endpoint, poster() as post:
        endpoint.usual = Reply(200, {"Set-Cookie": "session=1"})
        await post(endpoint.url)
        await post(endpoint.url)
        await post(endpoint.url, "globex")
    assert ["cookie" in one.headers for one in endpoint.requests] == [False] * 3


async def test_the_environments_proxy_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set it did not mean tenants' endpoints."""
    async with WebhookEndpoint() as proxy, WebhookEndpoint() as endpoint, poster() as post:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert (await post(endpoint.url)).ok
        assert proxy.requests == []


# Connections that are kept.


class Keeping(StreamPeer):
    """Answers one request after the other, so many over each connection; then it hangs up when one more has come."""

    def __init__(self, *pieces: bytes, requests: int = 1_000) -> None:
        super().__init__()
        self.pieces, self.requests = pieces or (HEAD + b"Content-Length: 2\r\n\r\nok",), requests
        self.came: list[str] = []  # the id of each request
        self.connections = self.ended = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for number in itertools.count():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(len(MESSAGE.body))
                self.came.append(head.partition("webhook-id: ")[2].partition("\r\n")[0])
                if number == self.requests:
                    return
                writer.writelines(self.pieces)
                await writer.drain()
        finally:
            self.ended += 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


async def test_a_connection_is_kept_for_its_tenant_alone() -> None:
    """What one tenant is told goes over one connection, what another is told at the same place over its own."""
    async with Keeping() as peer, poster() as post:
        told = [await post(peer.url, tenant) for tenant in ("acme", "acme", "globex", "acme", "globex")]
        assert all(attempt.ok for attempt in told)
        assert (len(peer.came), peer.connections) == (5, 2)


async def test_a_kept_connection_that_is_hung_up_is_no_failure() -> None:
    """It goes over a new one at once, under the same id: the endpoint may hang up on an idle one at any moment."""
    async with Keeping(requests=1) as peer, poster() as post:
        assert [(await post(peer.url)).ok for _ in range(3)] == [True] * 3
        assert (peer.came, peer.connections) == (["msg_1"] * 5, 3)


async def test_a_new_connection_that_is_hung_up_is_one() -> None:
    """It is not asked once more before its time."""
    async with Keeping(requests=0) as peer, poster() as post:
        assert (await post(peer.url)).result is Result.UNREACHABLE
        assert (len(peer.came), peer.connections) == (1, 1)


async def test_each_answer_has_its_own_measure() -> None:
    """A connection may bring far more than one answer may, in many; also where their ends are told by chunks."""
    body = b"x" * 3_000
    for pieces in ((HEAD + b"Content-Length: 3000\r\n\r\n", body), (CHUNKED, b"bb8\r\n", body, b"\r\n0\r\n\r\n")):
        async with Keeping(*pieces) as peer, poster() as post:
            assert all([(await post(peer.url)).ok for _ in range(40)])
            assert (len(peer.came), peer.connections) == (40, 1)


async def test_an_answer_without_an_end_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it can become the answer to the next."""
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.2)
    async with Keeping(HEAD + b"Content-Length: 10\r\n\r\nok") as peer, poster() as post:
        assert [(await post(peer.url)).ok for _ in range(3)] == [True] * 3
        assert (len(peer.came), peer.connections) == (3, 3)


async def test_only_so_many_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was told for longest makes room."""
    monkeypatch.setattr(module, "KEPT", 2)
    async with Keeping() as peer, poster() as post:
        for tenant in ("a", "b", "a", "c", "a", "b"):
            assert (await post(peer.url, tenant)).ok
        async with asyncio.timeout(5):
            while peer.ended < 2:
                await asyncio.sleep(0.01)
        assert (peer.connections, peer.ended) == (4, 2)


async def test_a_connection_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hung up when nothing was told for a moment."""
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.05)
    async with Keeping() as peer, poster() as post:
        assert (await post(peer.url)).ok
        async with asyncio.timeout(5):
            while peer.ended < 1:
                await asyncio.sleep(0.01)


# Time and size.


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(Raw, id="silent"),
        pytest.param(lambda: Raw(b"HTTP/1.1 2", pause=60), id="half a line"),
        pytest.param(lambda: Raw(HEAD, b"X: 1\r\n", pause=0.05, endless=True), id="headers one by one"),
        pytest.param(lambda: Raw(b"HTTP/1.1 103 Early Hints\r\n\r\n", pause=0.01, endless=True), id="hints"),
    ],
)
async def test_an_answer_has_its_time(peer: Callable[[], Raw], monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly it trickles, the attempt is over when its time is."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.5)
    began = time.monotonic()
    async with peer() as raw, poster() as post:
        raw.endless = True
        raw.pieces = raw.pieces or (b"",)
        attempt = await post(raw.url)
    assert attempt.result in (Result.TIMEOUT, Result.UNREACHABLE)
    assert time.monotonic() - began < 3


async def test_a_body_that_never_ends_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status has been told: it is good, and the rest is cut off."""
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.3)
    head = HEAD + b"Content-Length: 99999999999\r\n\r\n"
    async with Raw(head, b"x" * 65_536, endless=True) as raw, poster() as post:
        attempt = await post(raw.url)
        await asyncio.sleep(0.2)
        sent = raw.sent
    assert attempt.ok
    assert sent < 32 << 20  # what fits into the buffers of two sockets


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"HTTP/1.1 103 E\r\n\r\n", id="hints"),
        pytest.param(b"HTTP/1.1 103 E\r\n" + b"A: b\r\n" * 99 + b"\r\n", id="hints with headers"),
        pytest.param(b"HTTP/1.1 100 C\r\n\r\n", id="continue"),
        pytest.param(b"\r\n", id="empty lines"),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
async def test_interim_answers_come_to_an_end(piece: bytes, encrypted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever never comes to the status is hung up on, long before the time is over."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 5.0)
    authority = trustme.CA()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    tls = issue_tls("127.0.0.1", authority=authority).context if encrypted else None
    async with Raw(piece * (16_384 // len(piece)), endless=True, tls=tls) as raw, poster(tls=trusting) as post:
        attempt = await post(raw.url)
    assert (attempt.result, attempt.status) == (Result.UNREACHABLE, None)


async def test_of_one_piece_only_so_much_is_parsed() -> None:
    """A status that comes after more than an answer may have is not seen, though it was read with the rest."""
    hints = b"HTTP/1.1 103 E\r\n\r\n"
    async with Raw(hints * (module.ANSWER_OCTETS // len(hints)) + HEAD + b"\r\n") as raw, poster() as post:
        assert (await post(raw.url)).result is Result.UNREACHABLE


async def test_a_few_interim_answers_are_no_harm() -> None:
    """The status after them counts."""
    async with Raw(b"HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" * 20 + HEAD + b"\r\n") as raw, poster() as post:
        assert (await post(raw.url)).ok


async def test_a_long_body_in_one_piece_with_the_status_is_no_harm() -> None:
    """The status has been told, though the connection is cut off after it."""
    body = b"Content-Length: 250000\r\n\r\n" + b"x" * 250_000
    async with Raw(HEAD + body) as raw, poster() as post:
        attempt = await post(raw.url)
    assert (attempt.result, attempt.status) == (Result.OK, 200)


async def test_a_body_that_trickles_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good answer is good, though its body never comes."""
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.3)
    began = time.monotonic()
    async with Raw(HEAD + b"Content-Length: 10\r\n\r\n", pause=60) as raw, poster() as post:
        assert (await post(raw.url)).ok
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "pieces",
    [
        (b"SSH-2.0-OpenSSH_9\r\n",), (b"HTTP/1.1 abc\r\n\r\n",), (HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",),
        (HEAD + b"Content-Length: -1\r\n\r\n",), (b"\0" * 100,), (b"",),
    ],
)  # fmt: skip
async def test_what_is_no_http_is_no_answer(pieces: tuple[bytes, ...]) -> None:
    """Other protocols, endless lines and nonsense are told as one thing."""
    async with Raw(*pieces) as raw, poster() as post:
        assert (await post(raw.url)).result is Result.UNREACHABLE


async def test_a_secret_before_that_does_not_open_is_left_out() -> None:
    """The present one signs all the same."""
    lost = Seal([b"x" * 32]).close(Secret(SECRET), ("webhook", "acme", HOOK))
    async with WebhookEndpoint() as endpoint, Poster(HERE, SEAL, wall_clock) as made:
        hook = webhook(endpoint.url, previous=lost, rotated_at=wall_clock())
        assert (await made.post(hook, MESSAGE)).ok
    assert len(endpoint.requests[0].headers["webhook-signature"].split()) == 1


async def test_nobody_there() -> None:
    """A port that is closed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with poster() as post:
            attempt = await post(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert (attempt.result, attempt.status) == (Result.UNREACHABLE, None)


async def test_a_secret_that_does_not_open_signs_nothing() -> None:
    """Its master key is gone: nothing is sent that could not be verified."""
    async with WebhookEndpoint() as endpoint, poster(seal=Seal([b"x" * 32])) as post:
        assert (await post(endpoint.url)).result is Result.UNSIGNED
        assert endpoint.requests == []


# TLS.


async def test_the_certificate_is_for_the_urls_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for another name, or from nobody who is known, is no endpoint; the right one is."""
    authority = trustme.CA()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    answers(monkeypatch, "127.0.0.1")
    async with WebhookEndpoint(tls=True) as stranger:
        async with poster(tls=trusting) as post:
            assert (await post(stranger.url)).result is Result.UNTRUSTED
        assert stranger.requests == []
    endpoint = WebhookEndpoint(tls=True)
    endpoint.tls = issue_tls("hook.example.test", authority=authority)
    async with endpoint, poster(tls=trusting) as post:
        right = await post(f"https://hook.example.test:{endpoint.port}/")
        wrong = await post(f"https://other.example.test:{endpoint.port}/")
    assert (right.result, wrong.result) == (Result.OK, Result.UNTRUSTED)
    assert [one.headers["host"] for one in endpoint.requests] == [f"hook.example.test:{endpoint.port}"]


async def test_a_receiver_does_not_choose_the_prime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With DHE it would say how long each handshake holds the loop, so there is no TLS with who has nothing else."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    both, old = (server_tls(authority, ciphers, tmp_path) for ciphers in ("ECDHE+AESGCM:DHE+AESGCM", "DHE+AESGCM"))
    answered = HEAD + b"Content-Length: 0\r\n\r\n"
    async with Raw(answered, tls=both) as modern, Raw(answered, tls=old) as ancient, poster() as post:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        taken, refused = await post(modern.url), await post(ancient.url)
    assert (taken.ok, refused.ok) == (True, False)


async def test_the_machines_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When the first endpoint wants them; others of other tenants wait for no disk."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = issue_tls("127.0.0.1", authority=authority).context
    async with Raw(HEAD + b"Content-Length: 0\r\n\r\n", tls=tls) as peer, poster() as post:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        first = await post(peer.url)
        monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
        second = await post(peer.url, "globex")
    assert (first.result, second.result) == (Result.OK, Result.OK)


# Where it may go.

OPEN = EgressPolicy((443,), public=True)


@pytest.mark.parametrize("address", [*CLOSED, *PRIVATE, "fec0::1", "192.0.2.1", "2001:db8::1"])
def test_what_is_not_public_is_closed(address: str) -> None:
    """Private networks, this machine, metadata services and the rest, in whatever IPv6 they hide."""
    assert not OPEN.permits(ip_address(address), 443)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_open_on_its_ports(address: str) -> None:
    """With TLS alone, and on no other port."""
    assert OPEN.permits(ip_address(address), 443)
    assert not any(OPEN.permits(ip_address(address), port) for port in (25, 80, 8443))
    assert not OPEN.over("http").permits(ip_address(address), 443)


def test_deny_wins() -> None:
    """Also over what `allow` says."""
    network = EgressRule(ip_network("203.0.113.0/24"), None)
    policy = EgressPolicy((443,), allow=[network], deny=[network], public=True)
    assert not policy.permits(ip_address("203.0.113.5"), 443)


async def test_a_literal_that_egress_refuses_is_not_dialled() -> None:
    """Also one that was saved when the operator still permitted it."""
    async with WebhookEndpoint() as endpoint, poster(OPEN) as post:
        assert (await post(endpoint.url)).result is Result.EGRESS_REFUSED
        assert (await post(endpoint.url.replace("http:", "https:"))).result is Result.EGRESS_REFUSED
        assert endpoint.requests == []


@pytest.mark.parametrize("answer", ["127.0.0.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::1"])
async def test_a_name_that_leads_inside_is_not_dialled(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told of where it led."""
    answers(monkeypatch, answer)
    async with poster(OPEN) as post:
        attempt = await post("https://hook.example.test/")
    assert (attempt.result, attempt.status) == (Result.EGRESS_REFUSED, None)


async def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is another one the next time changes nothing for the attempt whose address was judged."""
    async with WebhookEndpoint() as endpoint, poster() as post:
        asked = answers(monkeypatch, "127.0.0.1", "10.0.0.1")
        attempt = await post(f"http://hook.example.test:{endpoint.port}/")
        later = await post(f"http://hook.example.test:{endpoint.port}/", "globex")
    assert (attempt.result, later.result) == (Result.OK, Result.EGRESS_REFUSED)
    assert asked == ["hook.example.test"] * 2


async def test_clear_text_goes_only_where_allow_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public address on an open port is not enough without TLS."""
    answers(monkeypatch, "93.184.216.34")
    async with poster(EgressPolicy((80, 443), public=True)) as post:
        assert (await post("http://hook.example.test/")).result is Result.EGRESS_REFUSED


async def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there."""
    answers(monkeypatch, socket.gaierror(socket.EAI_NONAME, "unknown"))
    async with poster() as post:
        assert (await post("http://hook.example.test/")).result is Result.UNREACHABLE


class SilentNames:
    """The machine's resolver: silent about all names but `good.example.test` until `end`; counts the threads it holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended = threading.Event()
        self.threads: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._looked_up)

    def _looked_up(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        if host != "good.example.test":
            self.threads.append(threading.current_thread().name)
            if not self.ended.wait(20):
                raise socket.gaierror(socket.EAI_AGAIN, "again")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]


async def test_a_silent_name_server_keeps_no_mail_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of endpoints are looked up by threads of their own: those for relays' names stay free."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.3)
    silent = SilentNames(monkeypatch)
    async with poster() as post:
        attempts = await asyncio.gather(
            *(post(f"http://h{n}.example.test/", f"tenant{n}") for n in range(names.THREADS + 8))
        )
        free = await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5)
        silent.ended.set()
    assert free == "free"
    assert {attempt.result for attempt in attempts} == {Result.TIMEOUT}
    assert all(name.startswith("webhook-names") for name in silent.threads)


async def test_a_tenants_silent_name_server_is_its_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lookups count until their threads are free, however many requests have given up; others' names are answered."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.3)
    silent = SilentNames(monkeypatch)
    async with WebhookEndpoint() as endpoint, poster() as post:
        good = f"http://good.example.test:{endpoint.port}/"
        for _ in range(2):
            late = await asyncio.gather(*(post(f"http://h{n}.example.test/") for n in range(names.THREADS)))
            assert {attempt.result for attempt in late} == {Result.TIMEOUT}
        held = len(silent.threads)
        own, others = await post(good), await post(good, "globex")
        silent.ended.set()
    assert held == names.OF_TENANT
    assert (own.result, others.result) == (Result.TIMEOUT, Result.OK)


async def test_a_lookup_that_ended_late_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the name server speaks, the tenant's names are looked up as before; an unknown one costs nothing either."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.3)
    silent = SilentNames(monkeypatch)
    async with WebhookEndpoint() as endpoint, poster() as post:
        late = await asyncio.gather(*(post(f"http://h{n}.example.test/") for n in range(names.OF_TENANT)))
        silent.ended.set()
        monkeypatch.setattr(module, "REQUEST_SECONDS", 5.0)
        good = await asyncio.gather(*(post(f"http://h.example.test:{endpoint.port}/") for _ in range(12)))
        answers(monkeypatch, socket.gaierror(socket.EAI_NONAME, "unknown"))
        unknown = [await post("http://hook.example.test/") for _ in range(2 * names.OF_TENANT)]
    assert {attempt.result for attempt in late} == {Result.TIMEOUT}
    assert {attempt.result for attempt in good} == {Result.OK}
    assert {attempt.result for attempt in unknown} == {Result.UNREACHABLE}


def test_places() -> None:
    """Whom an address leads to, as it is judged."""
    assert web_place("https://hook.example/a?b") == ("https", "hook.example", 443)
    assert web_place("http://[::1]:8080/") == ("http", "::1", 8080)
