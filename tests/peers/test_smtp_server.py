"""The scripted relay behaves, and misbehaves, as told."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiosmtplib
import pytest

from tests.peers.smtp_server import (
    AcceptThen,
    Action,
    Close,
    Endless,
    Features,
    Hold,
    IssuedTls,
    Raw,
    Reply,
    Reset,
    Rule,
    ScriptedRelay,
    Silence,
    Split,
    Step,
    issue_tls,
)

MESSAGE = b"Message-ID: <1@example.com>\r\nSubject: hi\r\n\r\n.dots\r\n..\r\nend\r\n"
STUFFED = MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n"
ENVELOPE = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"


@pytest.fixture(scope="module")
def tls() -> IssuedTls:
    """One certificate for the module."""
    return issue_tls()


class Wire:
    """A client that writes bytes and reads lines: what a library would refuse to send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, data: bytes, replies: int = 1) -> list[bytes]:
        """Send `data`, read that many single-line replies."""
        self._writer.write(data)
        return [await self.line() for _ in range(replies)]

    async def hello(self) -> bytes:
        """Read the banner, say EHLO, return its whole reply."""
        await self.line()
        self._writer.write(b"EHLO client.example\r\n")
        lines = [await self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(await self.line())
        return b"".join(lines)

    async def line(self) -> bytes:
        """Read one line; empty at the end."""
        async with asyncio.timeout(5):
            return await self._reader.readline()

    async def segment(self) -> bytes:
        """Whatever came in at once."""
        async with asyncio.timeout(5):
            return await self._reader.read(65536)

    def write(self, data: bytes) -> None:
        """Send and read nothing."""
        self._writer.write(data)

    def close(self) -> None:
        """Leave without QUIT."""
        self._writer.transport.abort()


@asynccontextmanager
async def wire(relay: ScriptedRelay) -> AsyncIterator[Wire]:
    """Connect by hand."""
    client = Wire(*await asyncio.open_connection(relay.host, relay.port))
    try:
        yield client
    finally:
        client.close()


def client(relay: ScriptedRelay, tls: IssuedTls | None = None, *, implicit: bool = False) -> aiosmtplib.SMTP:
    """An aiosmtplib client, with STARTTLS or implicit TLS when `tls` says whom to trust."""
    context = ssl.create_default_context(cadata=tls.ca_pem) if tls else None
    return aiosmtplib.SMTP(
        hostname=relay.host, port=relay.port, timeout=5, use_tls=implicit,
        start_tls=bool(tls) and not implicit, tls_context=context,
    )  # fmt: skip


async def send(smtp: aiosmtplib.SMTP, *rcpt_tos: str) -> None:
    """Send the message in lock-step."""
    await smtp.sendmail("a@example.com", list(rcpt_tos) or ["b@example.com"], MESSAGE)


async def test_a_message_is_caught_as_it_was_meant_and_stands_in_the_ledger(tmp_path: Path) -> None:
    """Dots are unstuffed, recipients and parameters kept, the ledger is one JSON line."""
    async with ScriptedRelay(ledger_path=tmp_path / "ledger") as relay:
        async with client(relay) as smtp:
            await send(smtp, "b@example.com", "c@example.com")
        (caught,) = await relay.wait_messages(1)
        assert (caught.data, caught.message_id, caught.mail_from) == (MESSAGE, "<1@example.com>", "a@example.com")
        assert caught.rcpt_tos == ("b@example.com", "c@example.com")
        assert caught.mail_parameters == {"SIZE": str(len(MESSAGE))}
        entry = json.loads((tmp_path / "ledger").read_text())
        assert (entry["message_id"], entry["rcpt_tos"]) == ("<1@example.com>", ["b@example.com", "c@example.com"])
        assert relay.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
        assert relay.violations == []


@pytest.mark.parametrize("implicit", [False, True])
async def test_tls_and_login(tls: IssuedTls, implicit: bool) -> None:
    """STARTTLS and implicit TLS both end in an authenticated, encrypted session."""
    async with ScriptedRelay(
        tls=tls.context, implicit_tls=implicit, users={"app": "geheim"}, require_auth=True
    ) as relay:
        async with client(relay, tls, implicit=implicit) as smtp:
            await smtp.login("app", "geheim")
            await send(smtp)
        (caught,) = relay.messages
        assert (caught.tls, caught.username) == (True, "app")
        session = relay.sessions[0]
        assert session.verbs == ([] if implicit else ["EHLO", "STARTTLS"]) + [
            "EHLO",
            "AUTH",
            "MAIL",
            "RCPT",
            "DATA",
            "QUIT",
        ]
        assert session.in_clear == ([] if implicit else session.commands[:2])
        assert relay.violations == []


@pytest.mark.parametrize("mechanism", ["auth_plain", "auth_login"])
async def test_a_wrong_password_is_refused_and_remembered(mechanism: str) -> None:
    """535 5.7.8, and the attempt is there to look at."""
    async with ScriptedRelay(users={"app": "new"}) as relay, client(relay) as smtp:
        await smtp.ehlo()
        with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
            await getattr(smtp, mechanism)("app", "old")
        assert refused.value.code == 535
        (login,) = relay.sessions[0].logins
        assert (login.username, login.password, login.accepted, login.tls) == ("app", "old", False, False)


async def test_login_only_over_tls(tls: IssuedTls) -> None:
    """AUTH can be offered behind STARTTLS only; in clear it is refused and a violation."""
    features = Features(auth_in_clear=False)
    async with ScriptedRelay(features=features, tls=tls.context, users={"app": "x"}) as relay, wire(relay) as raw:
        assert b"AUTH" not in await raw.hello()
        assert await raw.say(b"AUTH PLAIN AGFwcAB4\r\n") == [b"538 5.7.11 Encryption required\r\n"]
        assert "AUTH where it was not offered" in relay.violations[0]


async def test_an_untrusted_certificate_ends_without_a_command(tls: IssuedTls) -> None:
    """A client that does not trust the relay says nothing more after STARTTLS."""
    async with ScriptedRelay(tls=tls.context) as relay:
        with pytest.raises(ssl.SSLCertVerificationError):
            await client(relay, issue_tls()).connect()
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.sessions[0].verbs == ["EHLO", "STARTTLS"]
        assert relay.sessions[0].tls_error
        assert relay.violations == []


async def test_rules_by_recipient_count_and_once() -> None:
    """A rule can name a recipient, an occurrence, a range of them within a transaction, or spend itself."""
    script = [
        Rule("rcpt", Reply("550 5.1.1 unknown"), match="<bad@example.com>"),
        Rule("rcpt", Reply("452 4.5.3 too many"), nth=range(3, 99), per="transaction"),
        Rule("rcpt", Reply("450 4.2.0 first"), once=True),
        Rule("rcpt", Reply("451 4.3.0 second"), once=True),
    ]
    async with ScriptedRelay(script) as relay, wire(relay) as raw:
        await raw.hello()
        rcpt = [b"RCPT TO:<%s@example.com>\r\n" % name for name in (b"bad", b"a", b"b", b"c")]
        replies = await raw.say(b"MAIL FROM:<>\r\n" + b"".join(rcpt), 5)
        assert [reply[:3] for reply in replies] == [b"250", b"550", b"450", b"452", b"452"]
        again = await raw.say(b"RSET\r\nMAIL FROM:<>\r\n" + rcpt[1] + rcpt[2] + b"QUIT\r\n", 5)
        assert [reply[:3] for reply in again] == [b"250", b"250", b"451", b"250", b"221"]
        assert [rule.hits for rule in relay.rules] == [1, 2, 1, 1]
        assert relay.violations == []


@pytest.mark.parametrize(
    ("step", "action", "heard"),
    [
        ("connect", Reply("421 4.3.2 busy", then=Close()), b"421 4.3.2 busy\r\n"),
        ("connect", Close(), b""),
        ("connect", Raw(b"22", then=Close()), b"22"),
        ("connect", Split.every(1, "220-a\n220 b"), b"220-a\r\n"),
    ],
)
async def test_banners(step: Step, action: Action, heard: bytes) -> None:
    """Everything can begin at the banner."""
    async with ScriptedRelay({step: action}) as relay, wire(relay) as raw:
        assert await raw.line() == heard


async def test_reset_reaches_the_client_as_such() -> None:
    """RST is not FIN."""
    async with ScriptedRelay({"mail": Reset()}) as relay, wire(relay) as raw:
        await raw.hello()
        with pytest.raises(ConnectionResetError):
            await raw.say(b"MAIL FROM:<>\r\n")


async def test_silence_and_hold() -> None:
    """A held reply comes when its event is set; silence lasts, and what came after it is kept."""
    event = asyncio.Event()
    async with ScriptedRelay() as relay, wire(relay) as raw:
        held = relay.on("mail", Hold(event))
        relay.on("rcpt", Silence())
        await raw.hello()
        raw.write(b"MAIL FROM:<>\r\nRCPT TO:<a@b.c>\r\nRSET\r\n")
        await relay.wait(lambda: held.hits == 1)
        assert relay.sessions[0].verbs == ["EHLO", "MAIL"]
        event.set()
        assert await raw.line() == b"250 2.1.0 Ok\r\n"
        raw.close()
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.sessions[0].leftover == b"RSET\r\n"


async def test_the_window_of_rfc_1047(tmp_path: Path) -> None:
    """The relay has the message, the client never learns it."""
    async with ScriptedRelay({"final": AcceptThen()}, ledger_path=tmp_path / "ledger") as relay, wire(relay) as raw:
        await raw.hello()
        await raw.say(ENVELOPE, 3)
        assert await raw.say(STUFFED) == [b""]
        assert len(relay.messages) == 1
        assert "<1@example.com>" in (tmp_path / "ledger").read_text()


async def test_the_ledger_is_written_before_the_reply(tmp_path: Path) -> None:
    """While the final 250 is held back, the oracle already knows."""
    event = asyncio.Event()
    script = {"final": AcceptThen(Hold(event, Reply("250 2.0.0 at last")))}
    async with ScriptedRelay(script, ledger_path=tmp_path / "ledger") as relay, wire(relay) as raw:
        await raw.hello()
        await raw.say(ENVELOPE, 3)
        raw.write(STUFFED)
        await relay.wait_messages(1)
        assert len((tmp_path / "ledger").read_text().splitlines()) == 1
        event.set()
        assert await raw.line() == b"250 2.0.0 at last\r\n"


@pytest.mark.parametrize("action", [Close(), Close(notify=False), Reset()])
async def test_tls_can_end_politely_or_not(tls: IssuedTls, action: Action) -> None:
    """With or without close_notify, or by RST: the client sees an end each time."""
    async with ScriptedRelay({"noop": action}, tls=tls.context) as relay, client(relay, tls) as smtp:
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await smtp.noop()
        assert relay.violations == []


async def test_a_mistake_in_a_script_is_not_silent() -> None:
    """A predicate that raises cuts the connection and says so."""
    async with ScriptedRelay() as relay, wire(relay) as raw:
        relay.on("mail", Close(), match=lambda line: bool(line.index("not there")))
        await raw.hello()
        assert await raw.say(b"MAIL FROM:<>\r\n") == [b""]
        assert "relay failed" in relay.violations[0]
    with pytest.raises(ValueError, match="no such step"):
        ScriptedRelay({"recipient": Close()})


@pytest.mark.parametrize("endless", [Endless(4), Endless.continuation(4)])
async def test_an_endless_reply_stops_when_the_client_leaves(endless: Endless) -> None:
    """The relay streams with back-pressure and counts."""
    async with ScriptedRelay({"ehlo": endless}) as relay, wire(relay) as raw:
        await raw.say(b"EHLO x\r\n")
        await raw.segment()
        raw.close()
        await relay.wait(lambda: relay.sessions[0].closed)
        assert 0 < relay.sessions[0].streamed <= 4 * 1024 * 1024


async def test_plaintext_injected_behind_starttls(tls: IssuedTls) -> None:
    """The injected bytes travel in the same segment as the 220, and the handshake still follows."""
    injected = b"250-relay.test\r\n250 AUTH PLAIN\r\n"
    async with ScriptedRelay({"starttls": Reply("220 2.0.0 go", extra=injected)}, tls=tls.context) as relay:
        async with wire(relay) as raw:
            await raw.hello()
            raw.write(b"STARTTLS\r\n")
            assert await raw.segment() == b"220 2.0.0 go\r\n" + injected
        async with client(relay, tls) as smtp:
            await smtp.ehlo()
            assert not smtp.supports_extension("auth")
        assert relay.sessions[1].tls


@pytest.mark.parametrize("action", [Close(), Reset(), Raw(b"not tls at all\r\n", then=Close())])
async def test_a_handshake_can_fail(tls: IssuedTls, action: Action) -> None:
    """The failure is the relay's, so it is no violation of the client's."""
    async with ScriptedRelay({"handshake": action}, tls=tls.context) as relay:
        with pytest.raises((aiosmtplib.SMTPException, OSError)):
            await client(relay, tls).connect()
        assert relay.violations == []


async def test_down_and_up_on_the_same_port() -> None:
    """Down means refused at once, with the open sessions cut."""
    async with ScriptedRelay() as relay, wire(relay) as raw:
        await raw.hello()
        await relay.reachable(False)
        assert await raw.line() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(relay.host, relay.port)
        await relay.reachable(True)
        async with wire(relay) as again:
            assert (await again.line()).startswith(b"220 ")


VIOLATIONS: Sequence[tuple[bytes, str]] = (
    (b"RCPT TO:<b@example.com>\r\n", "RCPT needs MAIL"),
    (b"DATA\r\n", "DATA needs RCPT"),
    (b"NOOP\r\nRSET\r\n", "ends its group"),
    (b"MAIL FROM: <a@example.com>\r\n", "malformed"),
    (b"MAIL FROM:<a@example.com> RET=HDRS\r\n", "not offered"),
    (b"MAIL FROM:<a@example.com>\n", "bare CR or LF"),
    (b"STARTTLS\r\n", "was not offered"),
    (b"WHAT\r\n", "unknown command"),
)


@pytest.mark.parametrize(("said", "violation"), VIOLATIONS)
async def test_violations_in_commands(said: bytes, violation: str) -> None:
    """A client that breaks the rules is answered and written down."""
    async with ScriptedRelay() as relay, wire(relay) as raw:
        await raw.hello()
        await raw.say(said)
        assert violation in relay.violations[0]


@pytest.mark.parametrize(
    ("body", "violation"),
    [
        (b"a\nb\r\n.\r\n", "bare CR or LF"),
        (b"x" * 999 + b"\r\n.\r\n", "over 1000 octets"),
        ("Grüße\r\n.\r\n".encode(), "8-bit"),
        (b".hidden\r\n.\r\n", "unstuffed dot"),
    ],
)
async def test_violations_in_data(body: bytes, violation: str) -> None:
    """The content is judged as strictly."""
    async with ScriptedRelay() as relay, wire(relay) as raw:
        await raw.hello()
        await raw.say(ENVELOPE, 3)
        await raw.say(body)
        assert [violation in found for found in relay.violations] == [True]


async def test_a_group_where_pipelining_was_not_offered() -> None:
    """Lock-step means one line at a time, also while a reply is due."""
    async with ScriptedRelay(features=Features(pipelining=False)) as relay, wire(relay) as raw:
        assert b"PIPELINING" not in await raw.hello()
        await raw.say(ENVELOPE, 3)
        assert len(relay.violations) == 2
        await raw.say(b"plain\r\n.\r\n")
        await raw.say(b"QUIT\r\n")
        assert len(relay.violations) == 2


async def test_a_command_in_clear_after_starttls(tls: IssuedTls) -> None:
    """After 220 only a handshake is due."""
    async with ScriptedRelay(tls=tls.context) as relay, wire(relay) as raw:
        await raw.hello()
        await raw.say(b"STARTTLS\r\n")
        raw.write(b"MAIL FROM:<a@example.com>\r\n")
        await relay.wait(lambda: relay.sessions[0].closed)
        assert "in clear" in relay.violations[0]
        assert relay.sessions[0].tls_error


async def test_several_thousand_messages_a_second() -> None:
    """The relay is not the bottleneck: measured with a client in the same thread, so by half too low."""
    async with ScriptedRelay() as relay, wire(relay) as raw:
        await raw.hello()
        begun = time.perf_counter()
        for _ in range(2000):
            await raw.say(ENVELOPE, 3)
            await raw.say(STUFFED)
        rate = 2000 / (time.perf_counter() - begun)
        assert len(relay.messages) == 2000
        assert rate > 500, f"{rate:.0f}/s"
