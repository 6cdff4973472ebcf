"""Fields of a profile that say where its sessions go, by which way, how protected, and how many there are."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.directory.shapes import Tenant
from gateway.settings import Connector
from tests.peers.scripted_proxy import ScriptedProxy
from tests.peers.smtp_server import Features, Hold, IssuedTls, ScriptedRelay, issue_tls
from tests.relay.world import World, profile, reaches, sealed, world

if TYPE_CHECKING:
    from pathlib import Path

USERS = {"app": "s3cret"}
SECURITIES = pytest.mark.parametrize("security", ["starttls", "implicit_tls"])


@pytest.fixture(scope="module")
def tls() -> IssuedTls:
    """One certificate for the module."""
    return issue_tls()


def secured(tls: IssuedTls, security: str = "implicit_tls", context: ssl.SSLContext | None = None) -> ScriptedRelay:
    """A relay that lets USERS in, over this kind of TLS."""
    return ScriptedRelay(tls=context or tls.context, implicit_tls=security == "implicit_tls", users=USERS)


def in_tls(relay: ScriptedRelay, session: int) -> list[str]:
    """What was said in a session once TLS stood, without EHLO."""
    said = relay.sessions[session]
    return [] if said.encrypted_from is None else [verb for verb in said.verbs[said.encrypted_from :] if verb != "EHLO"]


async def queued(at: World, tenant: str, count: int) -> None:
    """Let so many notifications of a tenant become due at once."""
    await at.put(Tenant(id=tenant, enabled=False))
    for _ in range(count):
        await at.post(tenant)
    await at.put(Tenant(id=tenant))


# Where to.


@reaches("host")
async def test_host(tmp_path: Path) -> None:
    """At the same port of two addresses, the connection comes to the one that the profile names."""
    async with ScriptedRelay() as one, ScriptedRelay(host="127.0.0.2", port=one.port) as two:
        there = profile(one.port, "zoo", host="127.0.0.2")
        async with world(tmp_path, profile(one.port, host="127.0.0.1"), there) as at:
            await at.post("acme")
            await at.post("zoo")
            [first], [second] = await one.wait_messages(1), await two.wait_messages(1)

    assert [first.mail_from, second.mail_from] == ["noreply@acme.example", "noreply@zoo.example"]


@reaches("host")
async def test_host_as_a_name(tmp_path: Path, tls: IssuedTls) -> None:
    """The ClientHello asks for the name of the profile (RFC 6066 §3), and for none if that is an address."""
    asked: list[str | None] = []
    context = issue_tls().context  # its own, for it is listened to
    context.sni_callback = lambda _tls, name, _context: asked.append(name)
    async with secured(tls, context=context) as relay:
        more = {"security": "implicit_tls", "tls": {"verify": False}}
        named = profile(relay.port, "zoo", host="localhost", **more)
        async with world(tmp_path, profile(relay.port, **more), named) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo")
            await relay.wait_messages(2)

    assert asked == [None, "localhost"]


@reaches("port")
async def test_port(tmp_path: Path) -> None:
    """Of two relays at one address the connection comes to the one at the profile's port."""
    async with (
        ScriptedRelay() as one,
        ScriptedRelay() as two,
        world(tmp_path, profile(one.port), profile(two.port, "zoo")) as at,
    ):
        await at.post("acme")
        await at.post("zoo")
        [first], [second] = await one.wait_messages(1), await two.wait_messages(1)

    assert [first.mail_from, second.mail_from] == ["noreply@acme.example", "noreply@zoo.example"]


@reaches("tenant")
async def test_tenant(tmp_path: Path) -> None:
    """Whose profile it is decides whose mail comes to its relay, though both have the same name."""
    async with (
        ScriptedRelay() as one,
        ScriptedRelay() as two,
        world(tmp_path, profile(one.port, "acme"), profile(two.port, "zoo")) as at,
    ):
        for tenant in ("acme", "zoo", "zoo"):
            await at.post(tenant, f"{tenant}@example.test")
        acme, zoo = await one.wait_messages(1), await two.wait_messages(2)

    assert Counter(caught.rcpt_tos for caught in acme) == {("acme@example.test",): 1}
    assert Counter(caught.rcpt_tos for caught in zoo) == {("zoo@example.test",): 2}


@reaches("connector")
@pytest.mark.parametrize("kind", ["socks5", "http_connect"])
async def test_connector(tmp_path: Path, kind: str) -> None:
    """The operator's proxy is asked for the relay, with the user and password of its own; without it nobody is."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind, login=("gw", "pr0xy:pw")) as proxy:
        table = {
            "kind": kind, "address": f"127.0.0.1:{proxy.port}", "allow": ["acme"], "username": "gw",
            "credential": {"source": "plaintext", "value": "pr0xy:pw"},
        }  # fmt: skip
        connectors = {"dmz": Connector.model_validate(table)}
        through, direct = profile(relay.port, connector="dmz"), profile(relay.port, "zoo")
        async with world(tmp_path, through, direct, connectors=connectors) as at:
            await at.post("zoo")
            await relay.wait_messages(1)
            before = list(proxy.asked)
            await at.post("acme")
            await relay.wait_messages(2)

    assert (before, proxy.asked) == ([], [f"127.0.0.1:{relay.port}"])


@reaches("connector")
async def test_connector_that_is_not_lent(tmp_path: Path) -> None:
    """Of a tenant whom the operator does not let through, neither proxy nor relay hears anything."""
    async with ScriptedRelay() as relay, ScriptedProxy("http_connect") as proxy:
        table = {"kind": "http_connect", "address": f"127.0.0.1:{proxy.port}", "allow": ["zoo"]}
        connectors = {"dmz": Connector.model_validate(table)}
        ours, theirs = (profile(relay.port, tenant, connector="dmz") for tenant in ("acme", "zoo"))
        async with world(tmp_path, ours, theirs, connectors=connectors) as at:
            await at.post("acme")
            await at.until(("acme", "main"), "parked:egress_refused")
            before = list(proxy.asked)
            await at.post("zoo")
            await relay.wait_messages(1)

    assert (before, len(proxy.asked), len(relay.sessions)) == ([], 1, 1)


@reaches("failover")
async def test_failover(tmp_path: Path) -> None:
    """Behind a port where nobody listens, mail comes to the relay of the other profile; without the list it waits."""
    async with ScriptedRelay() as gone:
        nobody = gone.port
    async with ScriptedRelay() as relay:
        lists = {"acme": ["backup"], "zoo": []}
        mains = [profile(nobody, tenant, failover=names) for tenant, names in lists.items()]
        backups = [profile(relay.port, tenant, "backup", is_default=False) for tenant in lists]
        async with world(tmp_path, *mains, *backups) as at:
            await at.post("zoo")
            await at.until(("zoo", "main"), "open")
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo", profile="backup")
            caught = await relay.wait_messages(2)

    assert [one.mail_from for one in caught] == ["noreply@acme.example", "noreply@zoo.example"]


# How protected.


@reaches("security")
async def test_security_none(tmp_path: Path, tls: IssuedTls) -> None:
    """The whole session is in clear, though STARTTLS is offered."""
    async with secured(tls, "starttls") as relay, world(tmp_path, profile(relay.port, security="none")) as at:
        await at.post("acme")
        await relay.wait_messages(1)

    assert relay.sessions[0].verbs[:2] == ["EHLO", "MAIL"]
    assert relay.handshakes == []


@reaches("security")
async def test_security_starttls(tmp_path: Path, tls: IssuedTls) -> None:
    """In clear there is EHLO and STARTTLS and nothing else; where it is not offered, nothing but EHLO."""
    trusted = {"tls": {"ca_certificates": tls.ca_pem}, "security": "starttls"}
    async with (
        secured(tls, "starttls") as relay,
        ScriptedRelay() as bare,
        world(tmp_path, profile(relay.port, **trusted), profile(bare.port, "zoo", **trusted)) as at,
    ):
        await at.post("acme")
        await relay.wait_messages(1)
        await at.post("zoo")
        await bare.wait(lambda: bare.sessions and bare.sessions[0].closed)

    assert relay.sessions[0].in_clear == ["EHLO gateway.example.test", "STARTTLS"]
    assert in_tls(relay, 0)[0] == "MAIL"
    assert bare.sessions[0].verbs in (["EHLO"], ["EHLO", "QUIT"])


@reaches("security")
async def test_security_implicit_tls(tmp_path: Path, tls: IssuedTls) -> None:
    """The first octets are TLS's: nothing at all is in clear."""
    trusted = {"tls": {"ca_certificates": tls.ca_pem}, "security": "implicit_tls"}
    async with secured(tls) as relay, world(tmp_path, profile(relay.port, **trusted)) as at:
        await at.post("acme")
        await relay.wait_messages(1)

    assert (relay.sessions[0].in_clear, in_tls(relay, 0)[0]) == ([], "MAIL")


@reaches("tls.verify")
@SECURITIES
async def test_tls_verify(tmp_path: Path, security: str, tls: IssuedTls) -> None:
    """With a certificate that nobody vouches for the handshake is broken off, and no AUTH is seen; else there is."""
    unchecked = {"verify": False, "allow_auth_unverified": True}
    async with secured(tls, security) as relay:
        checking = profile(relay.port, security=security, auth=password_of("acme"))
        taking = profile(relay.port, "zoo", security=security, tls=unchecked, auth=password_of("zoo"))
        async with world(tmp_path, checking, taking) as at:
            await at.post("acme")
            await relay.wait(lambda: relay.sessions and relay.sessions[0].closed)
            await at.post("zoo")
            await relay.wait_messages(1)
    refused, taken = relay.sessions

    assert (refused.tls, refused.logins, in_tls(relay, 0)) == (False, [], [])
    assert refused.tls_error is not None
    assert (taken.tls, [login.accepted for login in taken.logins], in_tls(relay, 1)[0]) == (True, [True], "AUTH")


@reaches("tls.allow_auth_unverified")
@SECURITIES
async def test_tls_allow_auth_unverified(tmp_path: Path, security: str, tls: IssuedTls) -> None:
    """Over TLS that is not verified no AUTH is seen, and no mail either, unless the profile allows even that."""
    policies = {"acme": {"verify": False}, "zoo": {"verify": False, "allow_auth_unverified": True}}
    async with secured(tls, security) as relay:
        profiles = [
            profile(relay.port, tenant, security=security, tls=policy, auth=password_of(tenant))
            for tenant, policy in policies.items()
        ]
        async with world(tmp_path, *profiles) as at:
            await at.post("acme")
            await relay.wait(lambda: relay.sessions and relay.sessions[0].closed)
            await at.post("zoo")
            await relay.wait_messages(1)
    kept, shown = relay.sessions

    assert (kept.tls, kept.logins, {"AUTH", "MAIL"} & set(kept.verbs)) == (True, [], set())
    assert [(login.username, login.password) for login in shown.logins] == [("app", "s3cret")]


@reaches("tls.ca_certificates")
@SECURITIES
async def test_tls_ca_certificates(tmp_path: Path, security: str, tls: IssuedTls) -> None:
    """The handshake succeeds at a relay whose authority they are, and is broken off with another authority's."""
    async with secured(tls, security) as relay:
        authorities = {"acme": issue_tls().ca_pem, "zoo": tls.ca_pem}
        profiles = [
            profile(relay.port, tenant, security=security, tls={"ca_certificates": pem})
            for tenant, pem in authorities.items()
        ]
        async with world(tmp_path, *profiles) as at:
            await at.post("acme")
            await relay.wait(lambda: relay.sessions and relay.sessions[0].closed)
            await at.post("zoo")
            [caught] = await relay.wait_messages(1)

    assert [session.tls for session in relay.sessions] == [False, True]
    assert (caught.mail_from, caught.tls) == ("noreply@zoo.example", True)


@reaches("tls.min_version")
@SECURITIES
async def test_tls_min_version(tmp_path: Path, security: str) -> None:
    """A relay that knows no more than TLS 1.2 gets it from one profile, and from one that wants 1.3 no handshake."""
    old = issue_tls()
    old.context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with secured(old, security) as relay:
        wanted = {"acme": "1.2", "zoo": "1.3"}
        profiles = [
            profile(relay.port, tenant, security=security, tls={"ca_certificates": old.ca_pem, "min_version": version})
            for tenant, version in wanted.items()
        ]
        async with world(tmp_path, *profiles) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo")
            await relay.wait(lambda: len(relay.sessions) > 1 and relay.sessions[1].closed)

    assert [(shaken.session_index, shaken.version) for shaken in relay.handshakes] == [(0, "TLSv1.2")]
    assert (in_tls(relay, 1), relay.sessions[1].tls_error is not None) == ([], True)
    assert [caught.mail_from for caught in relay.messages] == ["noreply@acme.example"]


@reaches("tls.client_certificate")
@SECURITIES
async def test_tls_client_certificate(tmp_path: Path, security: str) -> None:
    """A relay that asks for one is shown the certificate of the profile, or none."""
    authority = trustme.CA()
    asking = issue_tls(authority=authority)
    authority.configure_trust(asking.context)
    asking.context.verify_mode = ssl.CERT_OPTIONAL
    shown = authority.issue_cert(common_name="acme at the relay").private_key_and_cert_chain_pem.bytes().decode()
    async with secured(asking, security) as relay:
        trusting = {"ca_certificates": asking.ca_pem}
        showing = {**trusting, "client_certificate": sealed(shown, "tls.client_certificate")}
        profiles = [
            profile(relay.port, security=security, tls=showing),
            profile(relay.port, "zoo", security=security, tls=trusting),
        ]
        async with world(tmp_path, *profiles) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo")
            await relay.wait_messages(2)

    assert [shaken.client for shaken in relay.handshakes] == ["acme at the relay", None]


def password_of(tenant: str) -> dict[str, object]:
    """The `auth` of a tenant's profile that signs in as one of USERS."""
    return {"username": "app", "credential": sealed("s3cret", tenant=tenant)}


# How many.


@reaches("limits.connections")
async def test_limits_connections(tmp_path: Path) -> None:
    """While no message gets its final reply, as many sessions are open as the profile says, and then none is added."""
    go = asyncio.Event()
    async with ScriptedRelay(features=Features(pipelining=False)) as relay:
        holding = relay.on("final", Hold(go))
        allowed = {"acme": 2, "zoo": 3}
        profiles = [
            profile(relay.port, tenant, limits={"connections": connections}) for tenant, connections in allowed.items()
        ]
        async with world(tmp_path, *profiles) as at:
            for tenant in allowed:
                await queued(at, tenant, 6)
            await relay.wait(lambda: holding.hits == 5)
            go.set()
            caught = await relay.wait_messages(12)
    used = {(one.mail_from, one.session_index) for one in caught}

    assert Counter(sender for sender, _ in used) == {"noreply@acme.example": 2, "noreply@zoo.example": 3}


@reaches("limits.messages_per_connection")
async def test_limits_messages_per_connection(tmp_path: Path) -> None:
    """Five messages come in sessions of two, two and one, each ended by QUIT; or in one, where a hundred may."""
    async with ScriptedRelay() as relay:
        few = profile(relay.port, limits={"connections": 1, "messages_per_connection": 2})
        many = profile(relay.port, "zoo", limits={"connections": 1})
        async with world(tmp_path, few, many) as at:
            await queued(at, "acme", 5)
            await relay.wait_messages(5)
            await queued(at, "zoo", 5)
            caught = await relay.wait_messages(10)
            await relay.wait(lambda: all("QUIT" in relay.sessions[index].verbs for index in (0, 1)))

    assert list(Counter(one.session_index for one in caught[:5]).values()) == [2, 2, 1]
    assert list(Counter(one.session_index for one in caught[5:]).values()) == [5]


@reaches("limits.per_minute")
async def test_limits_per_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six a minute one comes at once, the next not before the clock is ten seconds on; without it all come."""
    async with ScriptedRelay() as relay:
        slow = profile(relay.port, limits={"per_minute": 6})
        async with world(tmp_path, slow, profile(relay.port, "zoo")) as at:
            for _ in range(3):
                await at.post("acme")
            await relay.wait_messages(1)
            for _ in range(3):
                await at.post("zoo")
            before = [caught.mail_from for caught in await relay.wait_messages(4)]
            loop = asyncio.get_running_loop()
            clock = loop.time
            monkeypatch.setattr(loop, "time", lambda: clock() + 10.0)
            last = (await relay.wait_messages(5))[4].mail_from
            monkeypatch.undo()

    assert Counter(before) == {"noreply@acme.example": 1, "noreply@zoo.example": 3}
    assert last == "noreply@acme.example"
