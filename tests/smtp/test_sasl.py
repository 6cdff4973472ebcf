"""Signing in by every mechanism, at acceptors that other people wrote, and at some that lie."""

from __future__ import annotations

import asyncio
import base64
import json

import aiosmtplib
import pytest
import trustme

from gateway.credentials.secret import Secret
from gateway.smtp import dkim, sasl
from gateway.smtp.outcome import Fault, Phase, Trouble
from gateway.smtp.sasl import Login, Method, choose, permissions
from gateway.smtp.session import Relay, Security
from gateway.smtp.tls import TlsPolicy
from gateway.smtp.transaction import Engine
from tests.peers.sasl_server import SaslServer
from tests.smtp.talking import opener
from tests.smtp.test_keys import key_of, written

USERS = {"app": "s3cret"}
MAIL = b"From: app@acme.example\r\n\r\nhello\r\n"
TOKEN = "ya29.token-_~+/=="


def login(method: Method, secret: str = "s3cret", **more: object) -> Login:
    """The account of these tests."""
    return Login(method, "app", Secret(secret), **more)  # type: ignore[arg-type]


async def sign_in(server: SaslServer, who: Login, **more: object) -> Fault | None:
    """Open a session and hang up; the fault, if it came to none."""
    security = Security.NONE if server.tls is None else Security.IMPLICIT_TLS
    opened = await opener().open(Relay(server.host, server.port, security, login=who, **more))  # type: ignore[arg-type]
    if isinstance(opened, Engine):
        opened.abort()
        return None
    return opened


PASSWORDS = [Method.PLAIN, Method.LOGIN, Method.CRAM_MD5, Method.SCRAM_SHA_256]


@pytest.mark.parametrize("method", PASSWORDS)
async def test_a_password_signs_in(method: Method) -> None:
    """Accepted by the acceptor's own engine."""
    async with SaslServer(method.upper(), users=USERS) as server:
        assert await sign_in(server, login(method)) is None
        assert server.accepted == ["app"]


@pytest.mark.parametrize("method", PASSWORDS)
async def test_a_wrong_password_is_refused_once(method: Method) -> None:
    """535 is `auth_failed`, and one opening costs one attempt."""
    async with SaslServer(method.upper(), users=USERS) as server:
        told = await sign_in(server, login(method, "wrong"))

        assert told is not None
        assert (told.phase, told.trouble) == (Phase.AUTH, Trouble.AUTH_FAILED)
        assert sum(line.startswith("AUTH") for line in server.lines) == 1


@pytest.mark.parametrize("method", [Method.CRAM_MD5, Method.SCRAM_SHA_256])
async def test_a_password_is_not_shown(method: Method) -> None:
    """Neither mechanism puts it on the wire, in any form."""
    async with SaslServer(method.upper(), users=USERS) as server:
        await sign_in(server, login(method))

        wire = b"\n".join([*server.said, *(line.encode() for line in server.lines)])
        assert b"s3cret" not in wire
        assert base64.b64encode(b"s3cret").rstrip(b"=") not in wire


async def test_names_and_passwords_of_all_scripts() -> None:
    """SCRAM prepares them (RFC 4013), and the commas and equal signs of names are escaped."""
    users = {"jörg=a,b": "pä ß €"}
    async with SaslServer("SCRAM-SHA-256", users=users) as server:
        assert await sign_in(server, Login(Method.SCRAM_SHA_256, "jörg=a,b", Secret("pä ß €"))) is None


async def test_a_relay_that_does_not_know_the_password_is_found_out() -> None:
    """SCRAM proves both sides: a relay that accepts anything, with a made-up proof, is not believed."""
    async with SaslServer("SCRAM-SHA-256", users=USERS, lies=True) as server:
        told = await sign_in(server, login(Method.SCRAM_SHA_256))

        assert told is not None
        assert (told.phase, told.trouble) == (Phase.AUTH, Trouble.AUTH_CONFIG)


async def test_a_relay_may_not_have_us_hash_for_minutes() -> None:
    """More iterations than anybody asks for end the exchange, before they are done."""
    async with SaslServer("SCRAM-SHA-256", users=USERS, iterations=1_000_001) as server:
        told = await sign_in(server, login(Method.SCRAM_SHA_256))

        assert told is not None
        assert "iterations" in told.detail
        assert server.lines[-1].startswith("AUTH")  # and then "*", which the dialogue took


class Slow:
    """A relay's side of SCRAM that has us hash for as long as we let it, and then refuses."""

    def __init__(self) -> None:
        self.asked, self.answered = asyncio.Event(), False

    async def execute_command(self, *args: bytes) -> aiosmtplib.SMTPResponse:
        """Answer a line."""
        if args[0] != b"AUTH":
            self.answered = True
            return aiosmtplib.SMTPResponse(535, "no")
        nonce = base64.b64decode(args[2]).decode().partition(",r=")[2]
        self.asked.set()
        challenge = f"r={nonce}x,s={base64.b64encode(bytes(16)).decode()},i={sasl.MOST_ITERATIONS}"
        return aiosmtplib.SMTPResponse(334, base64.b64encode(challenge.encode()).decode())


async def test_signing_does_not_wait_for_what_relays_have_us_hash() -> None:
    """Mail is signed at once while as many sign-ins as there are threads for them hash on."""
    key, relays = Secret(written(key_of("ed25519"))), [Slow() for _ in range(2)]
    await dkim.signed(MAIL, "acme.example", "s", key)  # what a first time takes is not waited for below
    hashing = [asyncio.ensure_future(sasl.sign_in(one, Method.SCRAM_SHA_256, login(Method.AUTO))) for one in relays]
    for one in relays:
        await one.asked.wait()
    for _ in range(5):
        await asyncio.sleep(0)  # by now they hash
    await dkim.signed(MAIL, "acme.example", "s", key)
    answered = [one.answered for one in relays]

    assert answered == [False, False]
    assert [answer.code for answer in await asyncio.gather(*hashing)] == [535, 535]


async def test_ntlm_signs_in_with_the_domain_of_the_profile() -> None:
    """At pyspnego's acceptor, as the account in the domain."""
    async with SaslServer("NTLM", users={"svc": "s3cret"}, domain="CORP") as server:
        assert await sign_in(server, Login(Method.NTLM, "svc", Secret("s3cret"), "CORP")) is None
        assert server.accepted == ["CORP\\svc"]


@pytest.mark.parametrize(("password", "domain"), [("wrong", "CORP"), ("s3cret", "OTHER")])
async def test_ntlm_is_refused(password: str, domain: str) -> None:
    """A wrong password, and the right one in another domain."""
    async with SaslServer("NTLM", users={"svc": "s3cret"}, domain="CORP") as server:
        told = await sign_in(server, Login(Method.NTLM, "svc", Secret(password), domain))

        assert told is not None
        assert told.trouble is Trouble.AUTH_FAILED


@pytest.mark.parametrize("method", [Method.XOAUTH2, Method.OAUTHBEARER])
async def test_a_token_signs_in(method: Method) -> None:
    """For the mailbox, whatever its name holds."""
    async with SaslServer(method.upper(), tokens=frozenset({TOKEN})) as server:
        who = Login(method, "a=b,c@example.test", Secret(TOKEN), bearer=True)
        assert await sign_in(server, who) is None
        assert server.accepted == ["a=b,c@example.test"]


@pytest.mark.parametrize("method", [Method.XOAUTH2, Method.OAUTHBEARER])
async def test_a_refused_token_is_told_after_a_challenge(method: Method) -> None:
    """The error is told in a challenge that wants an answer before the 535 comes."""
    async with SaslServer(method.upper(), tokens=frozenset({TOKEN})) as server:
        told = await sign_in(server, Login(method, "app", Secret("expired"), bearer=True))

        assert told is not None
        assert (told.trouble, told.reply is not None and told.reply.code) == (Trouble.AUTH_FAILED, 535)


async def test_a_certificate_signs_in() -> None:
    """EXTERNAL: the relay takes the name from the certificate that TLS showed it, which came from memory."""
    authority = trustme.CA()
    context, client = _tls(authority), authority.issue_cert(common_name="app", organization_name="x")
    async with SaslServer("EXTERNAL", tls=context) as server:
        policy = TlsPolicy(ca_certificates=_pem(authority), client_certificate=_bundle(client))
        assert await sign_in(server, Login(Method.EXTERNAL, "", None), tls=policy) is None
        assert server.accepted == ["app"]


async def test_a_certificate_that_cannot_be_read() -> None:
    """Nonsense instead of a certificate and its key is a fault of its own, before anything is dialled."""
    authority = trustme.CA()
    async with SaslServer("EXTERNAL", tls=_tls(authority)) as server:
        for nonsense in (Secret("nonsense"), Secret(_pem(authority))):
            policy = TlsPolicy(ca_certificates=_pem(authority), client_certificate=nonsense)
            told = await sign_in(server, Login(Method.EXTERNAL, "", None), tls=policy)
            assert told is not None
            assert told.trouble is Trouble.CERTIFICATE_UNREADABLE
        assert server.lines == []


# Which mechanism.


@pytest.mark.parametrize(
    ("offered", "protected", "chosen"),
    [
        (("LOGIN", "PLAIN", "SCRAM-SHA-256", "CRAM-MD5", "NTLM"), True, Method.PLAIN),
        (("NTLM", "CRAM-MD5", "LOGIN"), True, Method.LOGIN),
        (("LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-256"), False, Method.SCRAM_SHA_256),
        (("LOGIN", "CRAM-MD5"), False, Method.CRAM_MD5),
        (("LOGIN", "NTLM"), False, Method.LOGIN),
        (("NTLM", "GSSAPI"), True, Method.NTLM),
        (("XOAUTH2", "EXTERNAL"), True, None),
        ((), True, None),
    ],
)
def test_the_automatic_choice(offered: tuple[str, ...], protected: bool, chosen: Method | None) -> None:
    """What works with every store of passwords where nobody listens, else what shows none; NTLM as the last."""
    assert choose(login(Method.AUTO), offered, protected=protected) is chosen


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(("PLAIN", "OAUTHBEARER", "XOAUTH2"), Method.XOAUTH2), (("OAUTHBEARER",), Method.OAUTHBEARER), (("PLAIN",), None)],
)
def test_a_token_is_never_sent_as_a_password(offered: tuple[str, ...], chosen: Method | None) -> None:
    """With a token only those come into question that take one."""
    assert choose(login(Method.AUTO, bearer=True), offered, protected=True) is chosen


@pytest.mark.parametrize("method", [one for one in Method if one not in (Method.AUTO, Method.NONE)])
def test_a_mechanism_that_was_asked_for_has_no_substitute(method: Method) -> None:
    """Offered or nothing."""
    others = [one.upper() for one in Method if one is not method]
    assert choose(login(method), others, protected=True) is None
    assert choose(login(method), [method.upper()], protected=True) is method


@pytest.mark.parametrize(
    ("username", "account"),
    [("svc", "CORP\\svc"), ("svc@corp.example", "svc@corp.example"), ("OTHER\\svc", "OTHER\\svc")],
)
async def test_a_domain_goes_before_a_bare_name(username: str, account: str) -> None:
    """For PLAIN as for LOGIN; a name that has its domain keeps it."""
    for method in (Method.PLAIN, Method.LOGIN):
        async with SaslServer(method.upper(), users={account: "s3cret"}) as server:
            assert await sign_in(server, Login(method, username, Secret("s3cret"), "CORP")) is None
            assert server.accepted == [account]


async def test_what_has_no_place_in_plain_is_not_sent() -> None:
    """A NUL would end the user name early (RFC 4616 §2)."""
    for who in (Login(Method.PLAIN, "app\0x", Secret("s3cret")), Login(Method.PLAIN, "app", Secret("s3\0cret"))):
        async with SaslServer("PLAIN", users=USERS) as server:
            told = await sign_in(server, who)

            assert told is not None
            assert told.trouble is Trouble.AUTH_CONFIG
            assert not any(line.startswith("AUTH") for line in server.lines)


# Relays that go astray.


@pytest.mark.parametrize("method", [Method.PLAIN, Method.XOAUTH2, Method.CRAM_MD5, Method.SCRAM_SHA_256, Method.NTLM])
async def test_a_relay_that_asks_on_and_on(method: Method) -> None:
    """What is no answer to anything is not answered: the exchange is cancelled, and nobody hangs."""

    class Asking(SaslServer):
        async def _auth(self, _rest: str, reader: object, writer: object) -> None:
            while True:
                writer.write(b"334 ////\r\n")  # type: ignore[attr-defined]
                line = await reader.readline()  # type: ignore[attr-defined]
                self.lines.append(line.decode().strip())
                if line in (b"*\r\n", b""):
                    writer.write(b"501 5.7.0 cancelled\r\n")  # type: ignore[attr-defined]
                    return

    async with Asking(method.upper(), users=USERS) as server:
        told = await sign_in(server, login(method))

        assert told is not None
        assert (told.phase, told.trouble) == (Phase.AUTH, Trouble.AUTH_CONFIG)
        assert "*" in server.lines


def test_the_permissions_of_a_token() -> None:
    """Read from its claims; of what is no JWT nothing is known."""

    def token(claims: object) -> Secret:
        parts = ({"alg": "RS256", "typ": "JWT"}, claims)
        return Secret(
            ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts) + ".c2ln"
        )

    assert permissions(token({"roles": ["SMTP.SendAsApp"]})) == {"SMTP.SendAsApp"}
    assert permissions(token({"roles": []})) == frozenset()
    for unknown in (token({}), token([]), token({"roles": None}), Secret("opaque"), Secret("a.b.c")):
        assert permissions(unknown) is None


def _tls(authority: trustme.CA) -> object:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def _bundle(issued: trustme.LeafCert) -> Secret:
    return Secret(issued.private_key_and_cert_chain_pem.bytes().decode())
