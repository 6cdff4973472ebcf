"""Fields of a profile that say what a relay is handed: the envelope, header fields, text, and signature."""

from __future__ import annotations

import base64
import email
import email.policy
from typing import TYPE_CHECKING, Any, NamedTuple

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from dkim.util import parse_tag_value

from gateway.message.address import Mailbox
from tests.peers.smtp_server import Features, ScriptedRelay
from tests.relay.test_sending import Told
from tests.relay.world import profile, reaches, sealed, world

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import EmailMessage
    from pathlib import Path

HTML = "<html><body><p>hello</p></body></html>"
REPORTING = Features(dsn=True)


class Handed(NamedTuple):
    """What one profile handed to the relay: the commands of its session, and the message."""

    commands: list[str]
    mail_from: str
    data: bytes
    message: EmailMessage

    def part(self, subtype: str) -> str:
        """The text, or the HTML."""
        body = self.message.get_body((subtype,))
        assert body is not None
        text: str = body.get_content()
        return text


async def handed(
    folder: Path, *profiles: Mapping[str, Any], features: Features = REPORTING, **posted: Any
) -> list[Handed]:
    """Send the same notification by a profile of acme's with the first of these fields, of zoo's with the second."""
    tenants = ("acme", "zoo")[: len(profiles)]
    async with ScriptedRelay(features=features) as relay:
        stored = [profile(relay.port, tenant, **fields) for tenant, fields in zip(tenants, profiles, strict=True)]
        async with world(folder, *stored) as at:
            for count, tenant in enumerate(tenants, 1):
                await at.post(tenant, **posted)
                await relay.wait_messages(count)
    assert relay.violations == []
    return [
        Handed(
            relay.sessions[one.session_index].commands,
            one.mail_from,
            one.data,
            email.message_from_bytes(one.data, policy=email.policy.default),
        )
        for one in relay.messages
    ]


# Addresses.


@reaches("from")
async def test_from(tmp_path: Path) -> None:
    """MAIL FROM has the address, the header's From the name besides; another profile's have its own."""
    shop, desk = await handed(
        tmp_path, {"from": {"name": "Shop", "address": "shop@acme.example"}}, {"from": "desk@acme.example"}
    )

    assert [shop.mail_from, desk.mail_from] == ["shop@acme.example", "desk@acme.example"]
    assert [shop.message["From"], desk.message["From"]] == ["Shop <shop@acme.example>", "desk@acme.example"]


@reaches("force_sender")
async def test_force_sender(tmp_path: Path) -> None:
    """What was accepted From another address leaves From the profile's, in MAIL and header, if that is forced."""
    allowed = {"allowed_senders": ["boss@acme.example"]}
    forced, free = await handed(
        tmp_path, {**allowed, "force_sender": True}, allowed, sender=Mailbox("boss@acme.example")
    )

    assert [forced.mail_from, free.mail_from] == ["noreply@acme.example", "boss@acme.example"]
    assert [forced.message["From"], free.message["From"]] == ["noreply@acme.example", "boss@acme.example"]


@reaches("reply_to")
async def test_reply_to(tmp_path: Path) -> None:
    """The header's Reply-To has all of them, with their names; without any the field is not there."""
    desks = ["desk@acme.example", {"name": "Night", "address": "night@acme.example"}]
    said, unsaid = await handed(tmp_path, {"reply_to": desks}, {})

    assert said.message["Reply-To"] == "desk@acme.example, Night <night@acme.example>"
    assert unsaid.message["Reply-To"] is None


@reaches("return_path")
async def test_return_path(tmp_path: Path) -> None:
    """MAIL FROM has it, where reports come back to, and the header's From is none the wiser."""
    said, unsaid = await handed(tmp_path, {"return_path": "bounces@acme.example"}, {})

    assert [said.mail_from, unsaid.mail_from] == ["bounces@acme.example", "noreply@zoo.example"]
    assert said.message["From"] == "noreply@acme.example"


@reaches("request_read_receipt")
async def test_request_read_receipt(tmp_path: Path) -> None:
    """The header asks for a receipt by Disposition-Notification-To (RFC 8098 §2.1), only if the profile does."""
    asked, unasked = await handed(tmp_path, {"request_read_receipt": True}, {})

    assert asked.message["Disposition-Notification-To"] == "noreply@acme.example"
    assert unasked.message["Disposition-Notification-To"] is None


@reaches("read_receipt_to")
async def test_read_receipt_to(tmp_path: Path) -> None:
    """The header's Disposition-Notification-To has this address instead of the sender's."""
    asking = {"request_read_receipt": True}
    said, unsaid = await handed(tmp_path, {**asking, "read_receipt_to": "seen@acme.example"}, asking)

    assert said.message["Disposition-Notification-To"] == "seen@acme.example"
    assert unsaid.message["Disposition-Notification-To"] == "noreply@zoo.example"


# Text.


@reaches("footnote.text")
async def test_footnote_text(tmp_path: Path) -> None:
    """The text ends in it, behind a signature's dashes; the HTML is as it was."""
    said, unsaid = await handed(tmp_path, {"footnote": {"text": "Acme Ltd"}}, {}, content={"html": HTML})

    assert said.part("plain").splitlines() == ["text", "", "-- ", "Acme Ltd"]
    assert unsaid.part("plain").splitlines() == ["text"]
    assert "Acme" not in said.part("html")


@reaches("footnote.html")
async def test_footnote_html(tmp_path: Path) -> None:
    """The HTML body ends in it; the text is as it was."""
    said, unsaid = await handed(tmp_path, {"footnote": {"html": "<p>Acme Ltd</p>"}}, {}, content={"html": HTML})

    assert "<p>hello</p><p>Acme Ltd</p></body>" in said.part("html")
    assert "<p>hello</p></body>" in unsaid.part("html")
    assert "Acme" not in said.part("plain")


@reaches("footnote.enabled")
async def test_footnote_enabled(tmp_path: Path) -> None:
    """A footnote that is switched off is in neither part."""
    footnote = {"text": "Acme Ltd", "html": "<p>Acme Ltd</p>"}
    on, off = await handed(
        tmp_path, {"footnote": footnote}, {"footnote": {**footnote, "enabled": False}}, content={"html": HTML}
    )

    assert ["Acme" in on.part(subtype) for subtype in ("plain", "html")] == [True, True]
    assert b"Acme" not in off.data


# How much.


@reaches("limits.recipients")
async def test_limits_recipients(tmp_path: Path) -> None:
    """Five recipients are three transactions of two RCPT at most, or one where five may be."""
    to = [f"{name}@example.test" for name in "abcde"]
    async with ScriptedRelay() as relay:
        few = profile(relay.port, limits={"recipients": 2, "connections": 1})
        async with world(tmp_path, few, profile(relay.port, "zoo")) as at:
            await at.post("acme", *to)
            await relay.wait_messages(3)
            await at.post("zoo", *to)
            *parts, whole = await relay.wait_messages(4)

    assert [part.rcpt_tos for part in parts] == [tuple(to[:2]), tuple(to[2:4]), tuple(to[4:])]
    assert whole.rcpt_tos == tuple(to)


@reaches("limits.bytes")
async def test_limits_bytes(tmp_path: Path) -> None:
    """Of a message that is too large for its profile not even MAIL is said; a shorter one leaves."""
    long = {"text": "long\n" * 1000}
    async with ScriptedRelay() as relay:
        small = profile(relay.port, limits={"bytes": 2048})
        async with world(tmp_path, small, profile(relay.port, "zoo")) as at:
            told = Told(at.outbox)
            await at.post("acme", content=long)
            await told.wait("failed")
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo", content=long)
            short, whole = await relay.wait_messages(2)
    said = [line for session in relay.sessions for line in session.commands if line.startswith("MAIL")]

    assert (len(said), len(short.data) <= 2048 < len(whole.data)) == (2, True)
    assert [short.mail_from, whole.mail_from] == ["noreply@acme.example", "noreply@zoo.example"]


# Delivery reports.


@reaches("dsn.notify")
@pytest.mark.parametrize(
    ("notify", "parameter"), [(["failure", "delay"], " NOTIFY=FAILURE,DELAY"), (["never"], " NOTIFY=NEVER"), ([], "")]
)
async def test_dsn_notify(tmp_path: Path, notify: list[str], parameter: str) -> None:
    """RCPT has NOTIFY with what is asked for (RFC 3461 §4.1), and nothing where nothing is."""
    said, unsaid = await handed(tmp_path, {"dsn": {"notify": notify}}, {})

    assert said.commands[2] == f"RCPT TO:<ann@example.test>{parameter}"
    assert unsaid.commands[2] == "RCPT TO:<ann@example.test>"


@reaches("dsn.return")
@pytest.mark.parametrize(("returned", "parameter"), [("headers", "HDRS"), ("full", "FULL")])
async def test_dsn_return(tmp_path: Path, returned: str, parameter: str) -> None:
    """MAIL has RET (RFC 3461 §4.3), and nothing of it where nothing is asked for."""
    said, unsaid = await handed(tmp_path, {"dsn": {"return": returned}}, {})

    assert f" RET={parameter} ENVID=" in said.commands[1]
    assert "RET=" not in unsaid.commands[1]


@reaches("dsn.notify", "dsn.return")
async def test_dsn_where_it_is_not_offered(tmp_path: Path) -> None:
    """A relay that does not know of delivery reports is asked for none: MAIL and RCPT are bare."""
    [said] = await handed(tmp_path, {"dsn": {"notify": ["failure"], "return": "full"}}, features=Features(size=None))

    assert said.commands[1:3] == ["MAIL FROM:<noreply@acme.example>", "RCPT TO:<ann@example.test>"]


# Signatures.


@pytest.fixture(scope="module")
def keys() -> list[rsa.RSAPrivateKey]:
    """Two keys for the module."""
    return [rsa.generate_private_key(65537, 2048) for _ in range(2)]


def pem(key: rsa.RSAPrivateKey) -> str:
    """What its owner keeps."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def record(key: rsa.RSAPrivateKey) -> bytes:
    """What its owner publishes (RFC 6376 §3.6.1)."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def signing(key: rsa.RSAPrivateKey, tenant: str = "acme", **more: str) -> dict[str, Any]:
    """The fields of a tenant's profile that signs with this key."""
    kept = sealed(pem(key), "dkim.key", tenant)
    return {"dkim": {"domain": "acme.example", "selector": "one", "key": kept, **more}}


def holds(one: Handed, name: str, key: rsa.RSAPrivateKey) -> bool:
    """Does the signature hold for a verifier who finds this key under this name, and nothing elsewhere?"""
    published = {f"{name}.".encode(): record(key)}
    return bool(dkim.verify(one.data, dnsfunc=lambda asked, timeout: published.get(asked)))


def tag(one: Handed, name: bytes) -> bytes | None:
    """A tag of the signature; None if there is no signature."""
    value = one.message["DKIM-Signature"]
    found: bytes | None = None if value is None else parse_tag_value(value.encode())[name]
    return found


@reaches("dkim.domain")
async def test_dkim_domain(tmp_path: Path, keys: list[rsa.RSAPrivateKey]) -> None:
    """The header has DKIM-Signature with d= the domain, which holds for its published key alone; else none."""
    first, _ = keys
    whole, mail = await handed(tmp_path, signing(first), signing(first, "zoo", domain="mail.acme.example"))
    [unsigned] = await handed(tmp_path / "unsigned", {})

    assert [tag(one, b"d") for one in (whole, mail, unsigned)] == [b"acme.example", b"mail.acme.example", None]
    assert [holds(one, "one._domainkey.acme.example", first) for one in (whole, mail)] == [True, False]
    assert holds(mail, "one._domainkey.mail.acme.example", first)


@reaches("dkim.selector")
async def test_dkim_selector(tmp_path: Path, keys: list[rsa.RSAPrivateKey]) -> None:
    """DKIM-Signature has s= the selector, and holds for the key that is published there alone."""
    first, _ = keys
    one, two = await handed(tmp_path, signing(first), signing(first, "zoo", selector="two"))

    assert [tag(each, b"s") for each in (one, two)] == [b"one", b"two"]
    assert [holds(each, "two._domainkey.acme.example", first) for each in (one, two)] == [False, True]


@reaches("dkim.key")
async def test_dkim_key(tmp_path: Path, keys: list[rsa.RSAPrivateKey]) -> None:
    """Each profile's DKIM-Signature holds for the public half of its own key, and not for the other's."""
    first, second = keys
    one, two = await handed(tmp_path, signing(first), signing(second, "zoo"))
    name = "one._domainkey.acme.example"

    assert [holds(one, name, key) for key in keys] == [True, False]
    assert [holds(two, name, key) for key in keys] == [False, True]
