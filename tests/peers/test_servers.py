"""The private Exim, OpenSMTPD and Dovecot do what they promise, as the standard library's clients see it."""

from __future__ import annotations

import base64
import os
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.dovecot import DovecotAuth, DovecotImap, dovecot_available
from tests.peers.exim import EximRelay, exim_available
from tests.peers.fetched import Daemon, peers
from tests.peers.opensmtpd import OpenSmtpdRelay, opensmtpd_available
from tests.peers.postfix import PostfixRelay, free_port, postfix_available
from tests.peers.requirements import require

MESSAGE = b"Message-ID: <1@example.com>\r\nSubject: hi\r\n\r\n.dot\r\n"


@pytest.fixture(scope="module", params=["exim", "opensmtpd"])
def relay(request: pytest.FixtureRequest) -> Iterator[EximRelay | OpenSmtpdRelay]:
    """Each of them, once; it leaves no process behind."""
    if request.param == "exim":
        require("exim (tests/peers/fetch.sh)", exim_available())
    else:
        require("opensmtpd (tests/peers/fetch.sh) as root", opensmtpd_available())
    with (EximRelay if request.param == "exim" else OpenSmtpdRelay)(free_port(), size_limit=50_000) as running:
        yield running
        assert running.processes()
    assert not running.processes()


def client(relay: EximRelay | OpenSmtpdRelay | PostfixRelay, port: int | None = None) -> smtplib.SMTP:
    """Open a session under TLS, not signed in."""
    context = ssl.create_default_context(cadata=relay.ca_pem)
    if port == relay.tls_port:
        session: smtplib.SMTP = smtplib.SMTP_SSL(relay.host, port, timeout=10, context=context)
    else:
        session = smtplib.SMTP(relay.host, port or relay.port, timeout=10)
        session.starttls(context=context)
    session.ehlo("client.example.test")
    return session


def test_both_ways_in(relay: EximRelay | OpenSmtpdRelay) -> None:
    """STARTTLS and implicit TLS both let the account in, and a message."""
    for port in (relay.port, relay.tls_port):
        with client(relay, port) as session:
            session.login("app", "s3cret")
            assert session.sendmail("a@example.com", ["b@example.com", relay.refused], MESSAGE).keys() == {
                relay.refused
            }


def test_nothing_in_clear_and_nobody_else(relay: EximRelay | OpenSmtpdRelay) -> None:
    """No AUTH before TLS, 535 to a wrong password, and no recipient without signing in."""
    with smtplib.SMTP(relay.host, relay.port, timeout=10) as session:
        session.ehlo("client.example.test")
        assert session.has_extn("starttls")
        assert not session.has_extn("auth")
    with client(relay) as session:
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            session.login("app", "wrong")
        session.mail("a@example.com")
        assert session.rcpt("b@example.com")[0] in (503, 550)


def test_what_they_offer(relay: EximRelay | OpenSmtpdRelay) -> None:
    """The differences that the interoperability tests live on."""
    with client(relay) as session:
        assert session.esmtp_features["size"] == "50000"
        extensions = {"pipelining", "chunking", "smtputf8"} & session.esmtp_features.keys()
        assert len(extensions) == (3 if isinstance(relay, EximRelay) else 0)
    if isinstance(relay, EximRelay):
        with client(relay, relay.lock_step_port) as session:
            assert not session.has_extn("pipelining")


def test_postfix_asks_dovecot() -> None:
    """Passwords and tokens are Dovecot's to judge; a service has settings of its own."""
    require("postfix as root", postfix_available())
    require("dovecot (tests/peers/fetch.sh)", dovecot_available())
    lock_step = {"lock_step": {"smtpd_discard_ehlo_keywords": "pipelining"}}
    with (
        DovecotAuth({"app": "an0ther"}) as auth,
        PostfixRelay(free_port(), sasl_socket=auth.socket, services=lock_step) as relay,
    ):
        for port, pipelining in ((relay.port, True), (relay.tls_port, True), (relay.ports["lock_step"], False)):
            with client(relay, port) as session:
                assert session.has_extn("pipelining") is pipelining
                session.login("app", "an0ther")
        with client(relay) as session:
            assert session.docmd("AUTH XOAUTH2", bearer(auth.token("app", seconds=-1)))[0] == 334
            assert session.docmd("")[0] == 535
            assert session.docmd("AUTH XOAUTH2", bearer(auth.token("app")))[0] == 235


def bearer(token: str) -> str:
    """Say a token as XOAUTH2 does."""
    return base64.b64encode(f"user=app\x01auth=Bearer {token}\x01\x01".encode()).decode()


def test_dovecot_takes_messages_apart() -> None:
    """IMAP tells the structure of what lies in the Maildir."""
    require("dovecot (tests/peers/fetch.sh)", dovecot_available())
    with DovecotImap([MESSAGE, MESSAGE]) as imap:
        assert imap.select() == ("OK", [b"2"])
        status, [structure] = imap.fetch("1", "(BODYSTRUCTURE)")
        assert status == "OK"
        assert b'"text" "plain"' in structure


def test_a_daemon_that_does_not_start_says_why() -> None:
    """What it said last is in the error, and its directory is gone."""

    class Broken(Daemon):
        def prepare(self) -> list[str | Path]:
            return ["sh", "-c", "echo no such setting >&2; exit 3"]

    broken = Broken(free_port())
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3.*no such setting"), broken:
        pass
    assert not broken.home.exists()


def test_where_the_programs_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GATEWAY_TEST_PEERS says so; what is not there is not available."""
    monkeypatch.setenv("GATEWAY_TEST_PEERS", os.fspath(tmp_path))
    assert peers() == tmp_path
    assert not exim_available()
    assert not dovecot_available()
