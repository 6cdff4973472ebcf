"""The guard of accounts against being locked, at a relay that counts, and what waits for a secret that changes."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.directory.shapes import Tenant
from gateway.outbox.states import State
from gateway.relay.sign_in import MOST_REFUSALS
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.relay.world import SEAL, password, profile, world

if TYPE_CHECKING:
    from pathlib import Path

PLACE = ("acme", "main")
STORED = {"source": "stored", "key": "later"}


def refused(relay: ScriptedRelay) -> list[str]:
    """The passwords that the relay did not take."""
    return [login.password for session in relay.sessions for login in session.logins if not login.accepted]


async def test_profiles_that_share_an_account_wait_for_each_other(tmp_path: Path) -> None:
    """Eight tenants sign in as one user with a wrong password, all at once: three wrong logins, and no more."""
    tenants = [f"tenant-{number}" for number in range(8)]
    async with ScriptedRelay(users={"app": "right"}) as relay:
        profiles = [profile(relay.port, one, auth=password(SEAL, one, "main", f"wrong of {one}")) for one in tenants]
        async with world(tmp_path, *(Tenant(id=one) for one in tenants), *profiles) as at:
            mails = [await at.post(one) for one in tenants]
            for one in tenants:
                await at.until((one, "main"), "parked:auth_failed")
            states = {(one.state, one.attempts) for mail in mails for one in await at.recipients(mail)}

    assert len(refused(relay)) <= MOST_REFUSALS
    assert states == {(State.QUEUED, 0)}


async def test_of_two_refused_passwords_neither_is_tried_again(tmp_path: Path) -> None:
    """Rotated from one wrong value to another: whatever changes in the directory, both are known to be refused."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "relay-a").write_text("first\n")
    lent = {"username": "app", "credential": {"source": "file", "key": "relay-a"}}
    async with ScriptedRelay(users={"app": "first", "else": "right"}) as relay:
        ours = profile(relay.port, auth=lent, limits={"messages_per_connection": 1})
        other = {**password(SEAL, "zoo", "main", "right"), "username": "else"}
        async with world(tmp_path, ours, profile(relay.port, "zoo", auth=other), secrets=secrets) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            relay.users = {"app": "third", "else": "right"}
            (secrets / "relay-a").write_text("second\n")
            await at.post("acme")
            await at.until(PLACE, "parked:auth_failed")
            for number in range(2, 5):
                await at.put(Tenant(id=f"new-{number}"))
                await at.post("zoo")
                await relay.wait_messages(number)
            stood = at.dispatcher.states()[PLACE]
            (secrets / "relay-a").write_text("third\n")
            at.dispatcher.resume(PLACE)
            await relay.wait_messages(5)

    assert stood == "parked:auth_failed"
    assert sorted(refused(relay)) == ["first", "second"]


def signing_key() -> str:
    """A key that DKIM can sign with."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("slot", ["dkim.key", "tls.client_certificate"])
async def test_a_profile_without_a_login_goes_on_once_its_secret_is_there(tmp_path: Path, slot: str) -> None:
    """Parked for want of a DKIM key or a client certificate, though nobody signs in: it leaves by itself."""
    authority = trustme.CA()
    tls = issue_tls(authority=authority)
    authority.configure_trust(tls.context)
    tls.context.verify_mode = ssl.CERT_OPTIONAL
    trusted = {"ca_certificates": tls.ca_pem}
    more: dict[str, Any]
    if slot == "dkim.key":
        value = signing_key()
        more = {"tls": trusted, "dkim": {"domain": "acme.example", "selector": "s", "key": STORED}}
    else:
        value = authority.issue_cert(common_name="acme").private_key_and_cert_chain_pem.bytes().decode()
        more = {"tls": {**trusted, "client_certificate": STORED}}
    async with (
        ScriptedRelay(tls=tls.context, implicit_tls=True) as relay,
        world(tmp_path, profile(relay.port, security="implicit_tls", **more)) as at,
    ):
        mail = await at.post("acme")
        await at.until(PLACE, "parked:secret_missing")
        states = {(one.state, one.attempts) for one in await at.recipients(mail)}
        before = len(relay.sessions)
        await at.directory.put_secret(OPERATOR, "acme", "later", Secret(value))
        [caught] = await relay.wait_messages(1)

    assert (states, before) == ({(State.QUEUED, 0)}, 0)
    assert caught.data.startswith(b"DKIM-Signature:") is (slot == "dkim.key")
    assert [shaken.client for shaken in relay.handshakes] == [None if slot == "dkim.key" else "acme"]
