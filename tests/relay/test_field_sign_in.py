"""Fields of a profile that say as whom its sessions sign in, and how: what is seen of AUTH, and at token endpoints."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import azure.identity.aio  # noqa: F401 - what a first import takes is nobody's waiting
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.credentials import cache as caching
from gateway.settings import OAuthProvider
from tests.peers.oauth_server import (
    ACCOUNT,
    CLIENT,
    CLIENT_SECRET,
    DIRECTORY,
    KEY_ID,
    MAILBOX,
    REFRESH_TOKEN,
    OAuthServer,
)
from tests.peers.sasl_server import SaslServer
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.relay.world import World, profile, reaches, sealed, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

USERS = {"app": "s3cret", "desk": "pa55", "CORP\\app": "s3cret"}
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "NTLM", "XOAUTH2", "OAUTHBEARER", "EXTERNAL")
TOKENS = ("ya29.first-_~+/==", "ya29.second-_~+/==")
PROOFS = {"client_secret", "client_assertion", "assertion", "refresh_token", "resource"}


def signing_in(tenant: str = "acme", username: str = "app", secret: str = "s3cret", **more: Any) -> dict[str, Any]:
    """The `auth` of a tenant's profile."""
    return {"username": username, "credential": sealed(secret, tenant=tenant), **more}


async def taken(relay: SaslServer) -> None:
    """Wait until the relay has taken a message."""
    async with asyncio.timeout(20):
        await relay.messages.get()


def asked_for(relay: SaslServer) -> list[str]:
    """The mechanisms that were begun, in their order."""
    return [line.split(" ")[1] for line in relay.lines if line.startswith("AUTH ")]


# With a password.


@reaches("auth.method")
@pytest.mark.parametrize(
    ("method", "mechanism"),
    [
        ("plain", "PLAIN"),
        ("login", "LOGIN"),
        ("cram-md5", "CRAM-MD5"),
        ("scram-sha-256", "SCRAM-SHA-256"),
        ("ntlm", "NTLM"),
        ("auto", "SCRAM-SHA-256"),
        ("none", None),
    ],
)
async def test_auth_method(tmp_path: Path, method: str, mechanism: str | None) -> None:
    """Of all the mechanisms on offer AUTH names the profile's, which lets it in; with `none` there is no AUTH."""
    more = {"domain": "CORP"} if method == "ntlm" else {}
    async with (
        SaslServer(*MECHANISMS, users=USERS, domain="CORP") as relay,
        world(tmp_path, profile(relay.port, auth=signing_in(method=method, **more))) as at,
    ):
        await at.post("acme")
        await taken(relay)

    assert asked_for(relay) == ([] if mechanism is None else [mechanism])
    assert len(relay.accepted) == len(asked_for(relay))


@reaches("auth.username")
async def test_auth_username(tmp_path: Path) -> None:
    """AUTH carries the user name of the profile, which is who the relay lets in."""
    async with ScriptedRelay(users={"app": "s3cret", "desk": "s3cret"}, require_auth=True) as relay:
        app, desk = (
            profile(relay.port, tenant, auth=signing_in(tenant, username))
            for tenant, username in (("acme", "app"), ("zoo", "desk"))
        )
        async with world(tmp_path, app, desk) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo")
            caught = await relay.wait_messages(2)

    assert [one.username for one in caught] == ["app", "desk"]


@reaches("auth.domain")
@pytest.mark.parametrize("method", ["plain", "login"])
async def test_auth_domain(tmp_path: Path, method: str) -> None:
    """Before the user name AUTH carries the domain and a backslash, and without one the bare name."""
    async with ScriptedRelay(users=USERS, require_auth=True) as relay:
        there = profile(relay.port, auth=signing_in(method=method, domain="CORP"))
        bare = profile(relay.port, "zoo", auth=signing_in("zoo", method=method))
        async with world(tmp_path, there, bare) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo")
            caught = await relay.wait_messages(2)

    assert [one.username for one in caught] == ["CORP\\app", "app"]


@reaches("auth.domain")
async def test_auth_domain_of_ntlm(tmp_path: Path) -> None:
    """NTLM's messages carry it: the acceptor lets in the account of that domain, and of another one not."""
    async with SaslServer("NTLM", users=USERS, domain="CORP") as relay:
        there = profile(relay.port, auth=signing_in(domain="CORP"))
        elsewhere = profile(relay.port, "zoo", auth=signing_in("zoo", domain="OTHER"))
        async with world(tmp_path, there, elsewhere) as at:
            await at.post("zoo")
            await at.until(("zoo", "main"), "parked:auth_failed")
            before = list(relay.accepted)
            await at.post("acme")
            await taken(relay)

    assert (before, relay.accepted) == ([], ["CORP\\app"])


@reaches("auth.credential")
async def test_auth_credential(tmp_path: Path) -> None:
    """AUTH carries the password of the profile's credential, decoded: each profile its own, and none without one."""
    async with ScriptedRelay(users=USERS) as relay:
        app, desk = (
            profile(relay.port, auth=signing_in()),
            profile(relay.port, "zoo", auth=signing_in("zoo", "desk", "pa55")),
        )
        async with world(tmp_path, app, desk, profile(relay.port, name="bare", is_default=False)) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            await at.post("zoo")
            await relay.wait_messages(2)
            await at.post("acme", profile="bare")
            await relay.wait_messages(3)
    shown = [[(login.username, login.password) for login in session.logins] for session in relay.sessions]

    assert shown == [[("app", "s3cret")], [("desk", "pa55")], []]


# With a token.


class Keys(NamedTuple):
    """A key that Google knows as the account's, and a certificate that Microsoft knows as the application's."""

    account: rsa.RSAPrivateKey
    certificate: x509.Certificate
    certificate_pem: str

    def file(self) -> str:
        """Google's key file."""
        key = _written(self.account)
        return json.dumps(
            {"type": "service_account", "private_key_id": KEY_ID, "private_key": key, "client_email": ACCOUNT}
        )


def _written(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture(scope="module")
def keys() -> Keys:
    """Made once for the module."""
    issued = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("app.test", key_type=trustme.KeyType.RSA)
    chain = issued.cert_chain_pems[0].bytes()
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    account = rsa.generate_private_key(65537, 2048)
    return Keys(account, x509.load_pem_x509_certificate(chain), _written(key) + chain.decode())


class Tokened(NamedTuple):
    """Two operators' token endpoints, each with a token of its own, a relay that takes both, and who sends there."""

    first: OAuthServer
    second: OAuthServer
    relay: SaslServer
    at: World

    def asked(self) -> list[dict[str, str]]:
        """What the first endpoint was sent."""
        return [asked.sent for asked in self.first.asked]

    def bearers(self) -> list[tuple[str, str]]:
        """Who came with which token, by what XOAUTH2 carried."""
        said = [one.decode().rstrip("\x01").split("\x01") for one in self.relay.said if one]
        return [(user.removeprefix("user="), token.removeprefix("auth=Bearer ")) for user, token in said]

    async def send(self, tenant: str) -> None:
        """Send a notification, which the relay takes."""
        await self.at.post(tenant)
        await taken(self.relay)


Make = Callable[..., Awaitable[Tokened]]


@pytest.fixture
async def tokened(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Make it for acme and zoo, each with a profile that signs in so."""
    monkeypatch.setattr(caching, "PATIENCE", 60.0)  # the machine may be busy
    async with AsyncExitStack() as stack:

        async def make(acme: Mapping[str, Any], zoo: Mapping[str, Any] | None = None) -> Tokened:
            first, second = [await stack.enter_async_context(OAuthServer()) for _ in range(2)]
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", first.machine_url)
            first.certificate, first.account_key = keys.certificate, keys.account.public_key()
            first.answer, second.answer = {"access_token": TOKENS[0]}, {"access_token": TOKENS[1]}
            relay = await stack.enter_async_context(SaslServer("XOAUTH2", tokens=frozenset(TOKENS)))
            auths = {"acme": acme} if zoo is None else {"acme": acme, "zoo": zoo}
            profiles = [profile(relay.port, tenant, auth=auth) for tenant, auth in auths.items()]
            at = await stack.enter_async_context(world(tmp_path, *profiles, oauth=_providers(tmp_path, first, second)))
            return Tokened(first, second, relay, at)

        yield make


def _providers(folder: Path, first: OAuthServer, second: OAuthServer) -> dict[str, OAuthProvider]:
    """The operator's table: the providers that are known, and others, at these endpoints."""
    (folder / "first.pem").write_text(first.tls.ca_pem)
    (folder / "second.pem").write_text(second.tls.ca_pem)
    at_first = {"ca_certificates": folder / "first.pem", "allow": ["*"]}
    other = {"client_authentication": "client_secret_post", "allow": ["*"]}
    tables = {
        "microsoft365": {**at_first, "authority": first.url, "hosts": ["127.0.0.1"]},
        "google": {**at_first, "token_url": f"{first.url}/google/token"},
        "first": {**at_first, **other, "token_url": f"{first.url}/other/token"},
        "second": {**other, "ca_certificates": folder / "second.pem", "token_url": f"{second.url}/other/token"},
    }
    return {name: OAuthProvider.model_validate(table) for name, table in tables.items()}


def bearing(tenant: str = "acme", secret: str | None = CLIENT_SECRET, **oauth: str) -> dict[str, Any]:
    """The `auth` of a tenant's profile that signs in with a token."""
    usual = {"provider": "first", "grant": "client_secret", "client_id": CLIENT, "mailbox": MAILBOX}
    credential = {} if secret is None else {"credential": sealed(secret, tenant=tenant)}
    return {"oauth": {**usual, **oauth}, **credential}


@reaches("auth.method")
@pytest.mark.parametrize(("method", "mechanism"), [("xoauth2", "XOAUTH2"), ("oauthbearer", "OAUTHBEARER")])
async def test_auth_method_with_a_token(tmp_path: Path, method: str, mechanism: str) -> None:
    """Of all the mechanisms on offer AUTH names the profile's, and the token lets the mailbox in."""
    async with OAuthServer() as server, SaslServer(*MECHANISMS, tokens=frozenset(TOKENS)) as relay:
        server.answer = {"access_token": TOKENS[0]}
        ours = profile(relay.port, auth={**bearing(), "method": method})
        async with world(tmp_path, ours, oauth=_providers(tmp_path, server, server)) as at:
            await at.post("acme")
            await taken(relay)

    assert (asked_for(relay), relay.accepted) == ([mechanism], [MAILBOX])


@reaches("auth.oauth.provider")
async def test_auth_oauth_provider(tokened: Make) -> None:
    """Each profile's AUTH carries the token that its own provider issued; the other's was not asked for it."""
    made = await tokened(bearing(), bearing("zoo", provider="second"))
    await made.send("acme")
    before = len(made.second.asked)
    await made.send("zoo")

    assert (before, len(made.first.asked), len(made.second.asked)) == (0, 1, 1)
    assert [token for _, token in made.bearers()] == list(TOKENS)


@reaches("auth.oauth.grant")
@pytest.mark.parametrize(
    ("way", "proof"),
    [
        ({"grant": "client_secret"}, "client_secret"),
        ({"grant": "refresh_token"}, "refresh_token"),
        ({"grant": "client_secret", "provider": "microsoft365", "directory": DIRECTORY}, "client_secret"),
        ({"grant": "certificate", "provider": "microsoft365", "directory": DIRECTORY}, "client_assertion"),
        ({"grant": "managed_identity", "provider": "microsoft365"}, "resource"),
        ({"grant": "service_account", "provider": "google"}, "assertion"),
    ],
    ids=lambda one: f"{one.get('provider', 'other')}-{one['grant']}" if isinstance(one, dict) else None,
)
async def test_auth_oauth_grant(tokened: Make, keys: Keys, way: dict[str, str], proof: str) -> None:
    """The endpoint is shown what the grant wants and no other proof, and AUTH carries the token that it gave."""
    secrets = {
        "client_secret": CLIENT_SECRET, "refresh_token": REFRESH_TOKEN, "certificate": keys.certificate_pem,
        "service_account": keys.file(),
    }  # fmt: skip
    made = await tokened(bearing(secret=secrets.get(way["grant"]), **way))
    await made.send("acme")
    [sent] = made.asked()

    assert PROOFS & set(sent) == {proof}
    assert made.bearers() == [(MAILBOX, TOKENS[0])]


@reaches("auth.oauth.directory")
async def test_auth_oauth_directory(tokened: Make) -> None:
    """The path at Microsoft's has it; where the application is unknown there is no token, and no AUTH is seen."""
    way = {"provider": "microsoft365", "directory": DIRECTORY}
    made = await tokened(bearing(**way), bearing("zoo", **{**way, "directory": "zoo.example"}))
    await made.at.post("zoo")
    await made.at.until(("zoo", "main"), "parked:secret_denied")
    before = list(made.relay.lines)
    await made.send("acme")

    assert [asked.path.split("/")[1] for asked in made.first.asked] == ["zoo.example", DIRECTORY]
    assert (before, made.bearers()) == ([], [(MAILBOX, TOKENS[0])])


@reaches("auth.oauth.client_id")
async def test_auth_oauth_client_id(tokened: Make) -> None:
    """The endpoint is asked as this client; one that it does not know gets no token, and no AUTH is seen."""
    made = await tokened(bearing(), bearing("zoo", client_id="somebody"))
    await made.at.post("zoo")
    await made.at.until(("zoo", "main"), "parked:secret_denied")
    before = list(made.relay.lines)
    await made.send("acme")

    assert [sent["client_id"] for sent in made.asked()] == ["somebody", CLIENT]
    assert (before, made.bearers()) == ([], [(MAILBOX, TOKENS[0])])


@reaches("auth.oauth.mailbox")
async def test_auth_oauth_mailbox(tokened: Make) -> None:
    """AUTH carries the mailbox as its user, and without one the profile's user name."""
    without = bearing("zoo")
    del without["oauth"]["mailbox"]
    made = await tokened(bearing(mailbox="desk@acme.example"), {**without, "username": "app@zoo.example"})
    await made.send("acme")
    await made.send("zoo")

    assert [user for user, _ in made.bearers()] == ["desk@acme.example", "app@zoo.example"]


@reaches("auth.oauth.mailbox")
async def test_auth_oauth_mailbox_of_google(tokened: Make, keys: Keys) -> None:
    """The assertion is for the mailbox: Google gives a token for one that the account may act for, and no other."""
    way = {"provider": "google", "grant": "service_account"}
    made = await tokened(
        bearing(secret=keys.file(), **way), bearing("zoo", secret=keys.file(), **way, mailbox="boss@zoo.example")
    )
    await made.at.post("zoo")
    await made.at.until(("zoo", "main"), "parked:secret_denied")
    before = list(made.relay.lines)
    await made.send("acme")

    assert [asked.claims["sub"] for asked in made.first.asked] == ["boss@zoo.example", MAILBOX]
    assert (before, made.bearers()) == ([], [(MAILBOX, TOKENS[0])])


# With a certificate.


@reaches("auth.method", "auth.username")
@pytest.mark.parametrize(("username", "accepted"), [(None, "app"), ("desk", "desk")])
async def test_auth_method_external(tmp_path: Path, username: str | None, accepted: str) -> None:
    """AUTH names EXTERNAL: the relay takes the name of the certificate, or the user name that it is asked to act as."""
    authority = trustme.CA()
    tls = issue_tls(authority=authority)
    authority.configure_trust(tls.context)
    tls.context.verify_mode = ssl.CERT_OPTIONAL
    shown = authority.issue_cert(common_name="app").private_key_and_cert_chain_pem.bytes().decode()
    showing = {"ca_certificates": tls.ca_pem, "client_certificate": sealed(shown, "tls.client_certificate")}
    async with SaslServer(*MECHANISMS, tls=tls.context) as relay:
        auth = {"method": "external", "username": username}
        async with world(tmp_path, profile(relay.port, security="implicit_tls", tls=showing, auth=auth)) as at:
            await at.post("acme")
            await taken(relay)

    assert (asked_for(relay), relay.accepted) == (["EXTERNAL"], [accepted])
