"""The private Postfix, its sink and the cutting proxy do what they promise."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from itertools import islice

import aiosmtplib
import pytest

from tests.peers.cutting_proxy import CuttingProxy, How
from tests.peers.postfix import PostfixRelay, SmtpSink, free_port, postfix_available, smtp_sink_available
from tests.peers.requirements import require
from tests.peers.smtp_server import Reply, ScriptedRelay

MESSAGE = b"From: <a@example.com>\r\nMessage-ID: <1@example.com>\r\nSubject: hi\r\n\r\n.dot\r\n"


@pytest.fixture(scope="module")
def postfix() -> Iterator[PostfixRelay]:
    """One instance for the module; it leaves no process behind."""
    require("postfix as root", postfix_available())
    with PostfixRelay(free_port(), users={"app": "s3cret"}) as relay:
        yield relay
        assert relay.processes()
    assert not relay.processes()


def submission(relay: PostfixRelay) -> aiosmtplib.SMTP:
    """A client that trusts the relay."""
    context = ssl.create_default_context(cadata=relay.ca_pem)
    return aiosmtplib.SMTP(hostname=relay.host, port=relay.port, timeout=10, start_tls=True, tls_context=context)


async def submit(relay: PostfixRelay) -> None:
    """Log in and submit the message."""
    async with submission(relay) as smtp:
        await smtp.login("app", "s3cret")
        await smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)


async def test_postfix_forwards_to_a_scripted_relay(postfix: PostfixRelay) -> None:
    """Submitted over TLS with a login, relayed onwards, content and envelope intact."""
    async with ScriptedRelay(port=postfix.sink_port) as sink:
        await submit(postfix)
        (caught,) = await sink.wait_messages(1)
        assert (caught.mail_from, caught.rcpt_tos) == ("a@example.com", ("b@example.com",))
        assert caught.message_id == "<1@example.com>"
        assert caught.data.endswith(b"\r\n\r\n.dot\r\n")
        assert sink.violations == []


async def test_postfix_forwards_to_its_own_sink(postfix: PostfixRelay) -> None:
    """The sink counts, and keeps what it was sent."""
    require("smtp-sink", smtp_sink_available())
    async with SmtpSink(dump=True, port=postfix.sink_port) as sink:
        await submit(postfix)
        await sink.wait_messages(1)
        (message,) = sink.messages()
        assert b"X-Rcpt-Args: <b@example.com>" in message
        assert b"Subject: hi\n" in message


async def test_postfix_tries_again_later(postfix: PostfixRelay) -> None:
    """A temporary refusal by the next hop stays inside Postfix: it comes back with the same message."""
    async with ScriptedRelay(port=postfix.sink_port) as sink:
        rule = sink.on("rcpt", Reply("450 4.2.0 later"), once=True)
        await submit(postfix)
        (caught,) = await sink.wait_messages(1)
        assert (rule.hits, caught.message_id) == (1, "<1@example.com>")


async def test_postfix_refuses_a_wrong_password(postfix: PostfixRelay) -> None:
    """The real thing says 535 5.7.8."""
    async with submission(postfix) as smtp:
        with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
            await smtp.login("app", "wrong")
        assert (refused.value.code, refused.value.message[:5]) == (535, "5.7.8")


async def test_postfix_insists_on_tls_and_login(postfix: PostfixRelay) -> None:
    """In clear it is 530, without a login the recipient is refused."""
    async with aiosmtplib.SMTP(hostname=postfix.host, port=postfix.port, start_tls=False) as smtp:
        assert (await smtp.execute_command(b"MAIL", b"FROM:<a@example.com>")).code == 530
    async with submission(postfix) as smtp:
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
            await smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)


async def test_the_sink_alone_with_options() -> None:
    """Options reach smtp-sink: here every RCPT is refused."""
    require("smtp-sink", smtp_sink_available())
    async with SmtpSink("-r", "rcpt") as sink, aiosmtplib.SMTP(hostname=sink.host, port=sink.port) as smtp:
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
            await smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
        assert sink.count == 0


class _Ear(asyncio.Protocol):
    """Keeps what it heard, also when a reset follows; says the next line after each complete reply."""

    LINES = (b"EHLO me", b"MAIL FROM:<a@b.c>", b"RCPT TO:<d@e.f>", b"DATA", b"x\r\n.", b"QUIT")

    def __init__(self) -> None:
        self._heard, self._lines = b"", iter(self.LINES)
        self.dialogue: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        last = self._heard.split(b"\r\n")[-2:]
        if last[-1] == b"" and last[0][3:4] == b" ":
            for line in islice(self._lines, 1):
                self._transport.write(line + b"\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.dialogue.set_result(self._heard + (b"<RST>" if isinstance(exc, ConnectionResetError) else b""))


async def _dialogue(port: int) -> bytes:
    """One whole session in clear, returning every byte that came back."""
    _, ear = await asyncio.get_running_loop().create_connection(_Ear, "127.0.0.1", port)
    async with asyncio.timeout(5):
        return await ear.dialogue


def _without_queue_id(heard: bytes) -> bytes:
    return re.sub(rb"queued as [0-9A-F]+", lambda found: b"queued as".ljust(len(found[0]), b"."), heard)


async def test_the_proxy_counts_and_passes() -> None:
    """Uncut, both ends see the whole dialogue, and its length is known."""
    async with ScriptedRelay() as relay, CuttingProxy(relay.host, relay.port) as proxy:
        heard = await _dialogue(proxy.port)
        await proxy.wait(lambda: proxy.passages[-1].closed)
        assert len(relay.messages) == 1
        assert proxy.passages[-1].to_client == len(heard)
        assert not proxy.passages[-1].cut


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_the_proxy_cuts_what_the_client_hears(how: How) -> None:
    """At every byte: exactly the prefix arrives, then the end as asked."""
    async with ScriptedRelay() as relay, CuttingProxy(relay.host, relay.port) as proxy:
        whole = await _dialogue(proxy.port)
        for after in range(len(whole)):
            proxy.cut("to_client", after, how)
            heard = _without_queue_id(await _dialogue(proxy.port))
            assert heard == _without_queue_id(whole[:after]) + (b"<RST>" if how == "rst" else b"")


async def test_the_proxy_cuts_what_the_server_hears() -> None:
    """Only after the last byte of the terminator is the message accepted."""
    async with ScriptedRelay() as relay, CuttingProxy(relay.host, relay.port) as proxy:
        await _dialogue(proxy.port)
        terminated = proxy.passages[-1].to_server - len(b"QUIT\r\n")
        for after, accepted in ((terminated - 1, 1), (terminated, 2)):
            proxy.cut("to_server", after, "fin", times=1)
            await _dialogue(proxy.port)
            await relay.wait(lambda: relay.sessions[-1].closed)
            assert len(relay.messages) == accepted
        await _dialogue(proxy.port)
        assert len(relay.messages) == 3


async def test_the_proxy_stalls_until_dropped() -> None:
    """Nothing moves after the cut, and nothing closes either."""
    async with ScriptedRelay() as relay, CuttingProxy(relay.host, relay.port) as proxy:
        proxy.cut("to_client", 5, "stall")
        dialogue = asyncio.create_task(_dialogue(proxy.port))
        await proxy.wait(lambda: proxy.passages and proxy.passages[-1].cut)
        assert not dialogue.done()
        assert not relay.sessions[-1].closed
        await proxy.drop()
        assert (await dialogue)[:5] == b"220 r"


def test_a_free_port_is_free() -> None:
    """It can be listened on."""
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_what_is_missing_is_a_visible_skip_or_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """GATEWAY_TEST_REQUIRE=all turns the skip into a failure."""
    monkeypatch.delenv("GATEWAY_TEST_REQUIRE", raising=False)
    require("nothing", present=True)
    with pytest.raises(pytest.skip.Exception, match="needs a unicorn"):
        require("a unicorn", present=False)
    monkeypatch.setenv("GATEWAY_TEST_REQUIRE", "all")
    with pytest.raises(pytest.fail.Exception, match="needs a unicorn"):
        require("a unicorn", present=False)
