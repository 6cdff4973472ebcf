"""What a person is told when a relay cannot be used: the cause, and what to do about it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.credentials.secret import Secret
from gateway.smtp.hints import Look, of_fault, of_outcome
from gateway.smtp.outcome import Fault, Phase, Refused, Rejected, Relayed, Trouble, Unknown, Untaken
from gateway.smtp.reply import Reply, reply
from gateway.smtp.sasl import Login, Method
from gateway.smtp.session import Relay, Security
from tests.peers import smtp_server as peer
from tests.peers.smtp_server import ScriptedRelay
from tests.smtp.talking import fault, relay_at


def token(**claims: object) -> Secret:
    """An access token as Entra makes them; nobody here looks at its signature."""
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, claims)]
    return Secret(".".join(base64.urlsafe_b64encode(part).decode() for part in parts) + ".c2ln")


SENDS = token(roles=["SMTP.SendAsApp"])
REFUSED = Fault(Phase.AUTH, Trouble.AUTH_FAILED, "sign-in refused: 535 5.7.3", Reply(535, "5.7.3", ""))
FORBIDDEN = Fault(Phase.AUTH, Trouble.AUTH_DISABLED, "switched off: 535 5.7.139", Reply(535, "5.7.139", ""))


def microsoft(secret: Secret) -> Relay:
    """Microsoft's relay, signed in at by a token."""
    login = Login(Method.XOAUTH2, "alerts@contoso.example", secret, bearer=True)
    return Relay("smtp.office365.com", 587, Security.STARTTLS, login=login)


@pytest.mark.parametrize(
    ("met", "secret", "told"),
    [
        (REFUSED, token(roles=["Mail.Read"]), "has no permission SMTP.SendAsApp"),
        (REFUSED, SENDS, "the object id of the ENTERPRISE application"),
        (REFUSED, SENDS, "Add-MailboxPermission"),
        (FORBIDDEN, SENDS, "Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false"),
        (REFUSED, Secret("opaque"), "New-ServicePrincipal"),
    ],
)
def test_the_four_usual_mistakes_with_microsoft(met: Fault, secret: Secret, told: str) -> None:
    """The permission that is missing is seen in the token, SMTP AUTH that is off in the code; the others are left."""
    assert told in of_fault(met, microsoft(secret)).hint


@pytest.mark.parametrize(
    ("host", "preset", "told"),
    [
        ("smtp.office365.com", "generic", "switching passwords off"),
        ("relay.corp.example", "microsoft365", "switching passwords off"),
        ("smtp.gmail.com", "generic", "app password"),
        ("email-smtp.eu-west-1.amazonaws.com", "generic", "IAM user"),
        ("smtp.sendgrid.net", "generic", "the word apikey"),
        ("smtp.eu.mailgun.org", "generic", "postmaster@"),
        ("smtp.postmarkapp.com", "generic", "API token"),
        ("smtp-relay.brevo.com", "generic", "SMTP key"),
        ("notgmail.com", "generic", "user name and password"),
    ],
)
def test_what_to_check_after_a_refused_password(host: str, preset: str, told: str) -> None:
    """By the relay's name or the profile's preset: each service has its own idea of a password."""
    login = Login(Method.AUTO, "app", Secret("x"))
    assert told in of_fault(REFUSED, Relay(host, 587, Security.STARTTLS, login=login), preset).hint


@pytest.mark.parametrize(
    ("said", "trouble", "told"),
    [
        ("550 5.7.30 Basic authentication is not supported", Trouble.AUTH_DISABLED, "wants OAuth"),
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant",
            Trouble.AUTH_DISABLED, "SMTP AUTH is switched off",
        ),
        ("535 5.7.139 Authentication unsuccessful, basic authentication is disabled", Trouble.AUTH_DISABLED, "a password"),
        ("535 5.7.139 Authentication unsuccessful, the user credentials were incorrect", Trouble.AUTH_FAILED, "a rule"),
        ("535 5.7.3 Authentication unsuccessful", Trouble.AUTH_FAILED, "password or token"),
        ("432 4.3.2 Concurrent connections limit exceeded", Trouble.CROWDED, "too many connections"),
        ("432 4.7.12 A password transition is needed", Trouble.AUTH_TRANSITION, "sign-in refused"),
    ],
)  # fmt: skip
async def test_microsofts_refusals_have_words_of_their_own(said: str, trouble: Trouble, told: str) -> None:
    """Ours, with the relay's codes and without its text, which may repeat what it was told."""
    async with ScriptedRelay({"auth": peer.Reply(said)}, users={"app": "x"}) as relay:
        met = await fault(relay_at(relay.port, password="s3cret"))

    assert met.trouble is trouble
    assert told in met.detail
    assert "uthentication unsuccessful" not in met.detail


@pytest.mark.parametrize(
    ("met", "told"),
    [
        (Fault(Phase.AUTH, Trouble.TLS_REQUIRED, "no password goes there"), "[egress] plaintext_auth"),
        (Fault(Phase.AUTH, Trouble.TLS_REQUIRED, "538 no", Reply(538, "5.7.11", "")), "The relay wants TLS"),
    ],
)
def test_who_wants_tls_before_a_password(met: Fault, told: str) -> None:
    """The operator, who may let it go in clear, or the relay."""
    assert told in of_fault(met, relay_at(25, password="s3cret")).hint


def certificate(*names: str, begins: int = -1, ends: int = 1, issuer: str = "Corp CA") -> bytes:
    """A certificate for these names, from some days ago to some days ahead."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
    )
    return made.sign(key, SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("detail", "shown", "told"),
    [
        ("Hostname mismatch, certificate is not valid for 'h'", certificate("mail.example.test", "b.test"), "mail.example.test, b.test"),
        ("unable to get local issuer certificate", certificate("h", issuer="Corp\x1b[31m CA"), "signed by Corp [31m CA"),
        ("certificate has expired", certificate("h", begins=-9, ends=-2), "this machine's clock says"),
        ("certificate is not yet valid", certificate("h", begins=2, ends=9), "Set the clock"),
        ("certificate has expired", b"not to be read", "signed by somebody"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_certificate(detail: str, shown: bytes, told: str) -> None:
    """Told from the certificate itself: whom it is for, who signed it, and the clock where it counts."""
    met = Fault(Phase.TLS, Trouble.TLS_UNVERIFIED, f"certificate not accepted: {detail}")
    relay = Relay("h", 587, Security.STARTTLS)
    assert told in of_fault(met, relay, look=Look(Security.STARTTLS, certificate=shown)).hint


@pytest.mark.parametrize(
    ("security", "port", "look", "told"),
    [
        (Security.STARTTLS, 2525, Look(Security.IMPLICIT_TLS), "choose security implicit_tls"),
        (Security.IMPLICIT_TLS, 2525, Look(Security.NONE, starttls=True), "choose security starttls"),
        (Security.IMPLICIT_TLS, 2525, Look(Security.NONE), "does not offer STARTTLS"),
        (Security.STARTTLS, 465, None, "Port 465 usually expects security implicit_tls"),
        (Security.IMPLICIT_TLS, 587, None, "Port 587 usually expects security starttls"),
        (Security.STARTTLS, 587, None, "firewall"),
    ],
)
def test_the_wrong_port_for_the_security(security: Security, port: int, look: Look | None, told: str) -> None:
    """Seen by a second look, else guessed from the port's number."""
    met = Fault(Phase.GREETING, Trouble.UNREACHABLE, "the relay did not answer in time")
    assert told in of_fault(met, Relay("h", port, security), look=look).hint


def test_every_trouble_has_something_to_do_about_it() -> None:
    """With and without a relay to speak of."""
    for trouble in Trouble:
        for relay in (None, Relay("h", 587, Security.STARTTLS)):
            told = of_fault(Fault(Phase.AUTH, trouble, "some detail"), relay)
            assert (told.code, told.detail) == (trouble, "Some detail.")
            assert told.hint.endswith(".")


@pytest.mark.parametrize(
    ("phase", "code", "text", "label"),
    [
        (Phase.SENDER, 530, "5.7.0 Authentication required", "auth_required"),
        (Phase.SENDER, 550, "5.7.60 SMTP; Client does not have permissions to send as this sender", "send_as_denied"),
        (Phase.CONTENT, 554, "5.2.252 SendAsDenied; a not allowed to send as b", "send_as_denied"),
        (Phase.SENDER, 550, "5.7.30 Basic authentication is not supported", "basic_auth_disabled"),
        (Phase.RECIPIENT, 451, "4.7.1 Greylisted, try again later", "greylisted"),
        (Phase.RECIPIENT, 554, "5.7.1 <a@b.test>: Relay access denied", "relay_denied"),
        (Phase.RECIPIENT, 550, "5.1.1 no such user", "no_such_mailbox"),
        (Phase.RECIPIENT, 552, "5.2.2 mailbox full", "mailbox_full"),
        (Phase.CONTENT, 552, "5.3.4 message too big", "too_large"),
        (Phase.CONTENT, 550, "5.7.26 unauthenticated, DMARC", "policy"),
        (Phase.SENDER, 553, "5.1.8 bad sender", "sender_rejected"),
        (Phase.RECIPIENT, 452, "4.3.1 out of disk", "deferred"),
        (Phase.CONTENT, 571, "no", "content_rejected"),
    ],
)
def test_what_a_relay_says_to_a_message(phase: Phase, code: int, text: str, label: str) -> None:
    """A stable code and the relay's own words, cleaned."""
    advice = of_outcome(Refused(phase, reply(code, text)))
    assert advice is not None
    assert (advice.code, str(code) in advice.detail) == (label, True)
    assert advice.hint.endswith(".")


def test_what_is_no_answer_of_the_relay() -> None:
    """We ourselves, a cut conversation, and no answer to the dot; what went well needs no word."""
    codes = [
        None if (advice := of_outcome(outcome)) is None else advice.code
        for outcome in (
            Rejected(Reply(552, "5.3.4", "message exceeds the relay's size limit")), Untaken("connection lost"),
            Unknown("timed out"), Relayed(Reply(250, None, "ok")),
        )
    ]  # fmt: skip
    assert codes == ["not_sendable", "cut_short", "no_answer", None]
