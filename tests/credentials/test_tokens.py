"""Access tokens: each grant against its real client and a token endpoint that checks what it is shown."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import azure.identity.aio  # noqa: F401 - what a first import takes is nobody's waiting
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.credentials import cache as caching
from gateway.credentials.cache import Cache
from gateway.credentials.provider import CredentialError, Deadlines, Kind, Why
from gateway.credentials.secret import Secret
from gateway.credentials.tokens import Grant, Tokens
from gateway.settings import OAuthProvider
from tests.credentials.contract import BODY_CANARY, RETRY_AFTER, How
from tests.peers.oauth_server import (
    ACCOUNT,
    CLIENT,
    CLIENT_SECRET,
    DIRECTORY,
    KEY_ID,
    MACHINE_HEADER,
    MAILBOX,
    REFRESH_TOKEN,
    OAuthServer,
)

SHORT = Deadlines(connect=20.0, total=1.0, login=3600.0)  # for an answer
LONG = Deadlines(connect=20.0, total=20.0, login=20.0)  # where nobody is to be given up: the machine may be busy
LIFETIME = 3600

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
OPEN = serialization.NoEncryption()

RELAY = "smtp.office365.com"
MICROSOFT = Grant("microsoft365", "client_secret", DIRECTORY, CLIENT)
MACHINE = Grant("microsoft365", "managed_identity", client_id=CLIENT)
GOOGLE = Grant("google", "service_account", mailbox=MAILBOX)
OTHER = Grant("other", "client_secret", client_id=CLIENT)
REFRESH = Grant("other", "refresh_token", client_id=CLIENT)
WAYS = [MICROSOFT, MACHINE, GOOGLE, OTHER]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.provider}-{way.type}")


class Keys(NamedTuple):
    """A key that Google knows as the account's, and a certificate that Microsoft knows as the application's."""

    account: rsa.RSAPrivateKey
    certificate: bytes
    certificate_key: bytes


@dataclass
class World:
    """The token endpoints, the clock of the cache, and what a tenant has to show for each way."""

    server: OAuthServer
    keys: Keys
    make: Callable[..., Tokens]
    now: float = 1000.0
    fetches: list[tuple[str, str]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def secret(self, way: Grant) -> Secret | None:
        match way.provider, way.type:
            case _, "managed_identity":
                return None
            case "google", "service_account":
                return Secret(json.dumps(self.key_file()))
            case _, "refresh_token":
                return Secret(REFRESH_TOKEN)
            case _, "certificate":
                return Secret((self.keys.certificate_key + self.keys.certificate).decode())
            case _:
                return Secret(CLIENT_SECRET)

    def key_file(self, **changed: object) -> dict[str, object]:
        file: dict[str, object] = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": KEY_ID,
            "private_key": self.keys.account.private_bytes(PEM, PKCS8, OPEN).decode(),
            "client_email": ACCOUNT,
            "token_uri": "https://tokens.attacker.example/token",
        }
        return file | changed

    async def find(self, tokens: Tokens, way: Grant = MICROSOFT, owner: str = "acme", why: Why = Why.USE) -> str:
        return (await tokens.find(owner, RELAY, way, self.secret(way), why=why)).reveal()


@pytest.fixture(scope="module")
def keys() -> Keys:
    account = rsa.generate_private_key(65537, 2048)
    issued = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("app.test", key_type=trustme.KeyType.RSA)
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    return Keys(account, issued.cert_chain_pems[0].bytes(), key.private_bytes(PEM, PKCS8, OPEN))


@pytest.fixture
async def world(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(caching, "PATIENCE", 60.0)  # the machine may be busy
    made: list[Tokens] = []

    def make(deadlines: Deadlines = LONG, *, trusted: str | None = None, **changed: Any) -> Tokens:
        bundle = tmp_path / f"ca-{len(made)}.pem"
        bundle.write_text(trusted or server.tls.ca_pem)
        common = {"ca_certificates": bundle, "allow": ["acme"]}
        written = {
            "microsoft365": common | {"authority": server.url},
            "google": common | {"token_url": f"{server.url}/google/token"},
            "other": common | {"token_url": f"{server.url}/other/token", "scope": "smtp"},
        }
        providers = {
            name: OAuthProvider.model_validate(table | changed.get(name, {})) for name, table in written.items()
        }
        cache = Cache(world.clock, dice=lambda: 0.5)
        cache.on_fetch = lambda source, result, *_: world.fetches.append((source, result))
        made.append(Tokens(providers, cache, world.clock, deadlines))
        return made[-1]

    async with OAuthServer() as server:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.machine_url)
        server.certificate = x509.load_pem_x509_certificate(keys.certificate)
        server.account_key = keys.account.public_key()
        world = World(server, keys, make)
        yield world
        for tokens in made:
            await tokens.close()


@pytest.fixture
def tokens(world: World) -> Tokens:
    return world.make()


async def refused(
    world: World, tokens: Tokens, way: Grant = MICROSOFT, secret: Secret | None = None, owner: str = "acme"
) -> CredentialError:
    """Ask for what cannot be had; behind the error is nothing, and nothing of a server's words or a secret is in it."""
    shown = secret or world.secret(way)
    with pytest.raises(CredentialError) as caught:
        await tokens.find(owner, RELAY, way, shown)
    error = caught.value
    told = "".join(traceback.format_exception(error)) + repr(error.__dict__)
    assert (error.__cause__, error.__context__, BODY_CANARY in told) == (None, None, False)
    assert shown is None or shown.reveal() not in told
    return error


# Each way.


@every_way
async def test_a_token(world: World, tokens: Tokens, way: Grant) -> None:
    """What the endpoint issued, to whom could prove who it is."""
    assert (await world.find(tokens, way)).startswith("token.")


async def test_microsoft_client_secret(world: World, tokens: Tokens) -> None:
    """The directory is in the path, the scope is Exchange Online's."""
    await world.find(tokens)
    (asked,) = world.server.asked
    assert asked.path == f"/{DIRECTORY}/oauth2/v2.0/token"
    assert asked.sent["scope"] == "https://outlook.office365.com/.default"


async def test_microsoft_certificate(world: World, tokens: Tokens) -> None:
    """The assertion is signed with the key of the certificate that is registered, for this directory."""
    await world.find(tokens, MICROSOFT._replace(type="certificate"))
    (asked,) = world.server.asked
    assert (asked.claims["sub"], asked.claims["aud"]) == (CLIENT, f"{world.server.url}/{DIRECTORY}/oauth2/v2.0/token")


async def test_microsoft_in_another_cloud(world: World) -> None:
    """Its scope is the operator's to say."""
    await world.find(world.make(microsoft365={"scope": "https://outlook.office365.us/.default"}))
    assert world.server.asked[0].sent["scope"] == "https://outlook.office365.us/.default"


async def test_a_machine_s_identity(world: World, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is asked of the machine's own endpoint, though a workload identity's variables are set."""
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"):
        monkeypatch.setenv(name, "of-somebody-else")
    await world.find(tokens, MACHINE)
    (asked,) = world.server.asked
    assert (asked.sent["resource"], asked.sent["client_id"]) == ("https://outlook.office365.com", CLIENT)


async def test_a_machine_s_only_identity(world: World, tokens: Tokens) -> None:
    """Needs no client_id."""
    await world.find(tokens, MACHINE._replace(client_id=None))
    assert "client_id" not in world.server.asked[0].sent


async def test_an_app_service_s_identity(world: World, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its platform says where, and when the token ends rather than how long it lasts."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{world.server.machine_url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", MACHINE_HEADER)
    assert (await world.find(tokens, MACHINE)).startswith("token.")


async def test_a_machine_without_that_identity(world: World, tokens: Tokens) -> None:
    """Is denied."""
    assert (await refused(world, tokens, MACHINE._replace(client_id="unknown"))).kind is Kind.DENIED


async def test_a_platform_that_refuses_its_header(
    world: World, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is a denial as well."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{world.server.machine_url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "another")
    assert (await refused(world, tokens, MACHINE)).kind is Kind.DENIED


async def test_google_service_account(world: World, tokens: Tokens) -> None:
    """It acts for the mailbox, and what the file says of addresses is not believed."""
    await world.find(tokens, GOOGLE)
    (asked,) = world.server.asked
    assert (asked.claims["sub"], asked.claims["iss"], asked.claims["aud"]) == (
        MAILBOX,
        ACCOUNT,
        f"{world.server.url}/google/token",
    )
    head = asked.sent["assertion"].partition(".")[0]
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["kid"] == KEY_ID


@pytest.mark.parametrize("public", [True, False])
async def test_google_refresh_token(world: World, tokens: Tokens, public: bool) -> None:
    """As plain text, or with the client's secret besides; the scope is what was granted."""
    world.server.public = public
    text = REFRESH_TOKEN if public else json.dumps({"refresh_token": REFRESH_TOKEN, "client_secret": CLIENT_SECRET})
    await tokens.find("acme", RELAY, Grant("google", "refresh_token", client_id=CLIENT), Secret(text))
    assert "scope" not in world.server.asked[0].sent


@pytest.mark.parametrize("how", ["client_secret_basic", "client_secret_post"])
async def test_client_authentication(world: World, how: str) -> None:
    """In a header or in the form, as the operator says, whatever letters the secret has."""
    await world.find(world.make(other={"client_authentication": how}), OTHER)
    (asked,) = world.server.asked
    assert ("Authorization" in asked.headers, "client_secret" in asked.sent) == (
        how == "client_secret_basic",
        how == "client_secret_post",
    )
    assert (asked.sent["grant_type"], asked.sent["scope"]) == ("client_credentials", "smtp")


# Refresh tokens that change.


async def test_a_rotated_refresh_token_is_used_next(world: World, tokens: Tokens) -> None:
    """The one before was taken back."""
    world.server.rotates = True
    for _ in range(3):
        await world.find(tokens, REFRESH, why=Why.PERSON)
    used = [asked.sent["refresh_token"] for asked in world.server.asked]
    assert (used[0], len(set(used))) == (REFRESH_TOKEN, 3)


async def test_a_rotated_refresh_token_is_lost_with_the_process(world: World, tokens: Tokens) -> None:
    """After a restart the profile's own is refused, where it was taken back: somebody has to sign in anew."""
    world.server.rotates = True
    await world.find(tokens, REFRESH)
    error = await refused(world, world.make(), REFRESH)
    assert (error.kind, "sign in anew" in error.detail) == (Kind.DENIED, True)


async def test_a_refused_rotated_token_is_forgotten(world: World, tokens: Tokens) -> None:
    """The next attempt is made with the profile's own."""
    world.server.rotates = True
    await world.find(tokens, REFRESH)
    world.server.refresh_token = REFRESH_TOKEN
    world.now += LIFETIME
    assert (await refused(world, tokens, REFRESH)).kind is Kind.DENIED
    assert await world.find(tokens, REFRESH, why=Why.PERSON)


async def test_mailboxes_share_a_refresh_token(world: World, tokens: Tokens) -> None:
    """And what became of it: asked for at once, it is used once."""
    world.server.rotates = True
    ways = [REFRESH._replace(mailbox=f"{name}@example.test") for name in "abc"]
    assert len(set(await asyncio.gather(*(world.find(tokens, way) for way in ways)))) == 1


# Who may.


@pytest.mark.parametrize(
    ("owner", "way"),
    [
        ("evil", MACHINE),
        ("evil", OTHER),
        ("evil", REFRESH),
        ("acme", Grant("unknown", "client_secret", client_id=CLIENT)),
        ("system", Grant("unknown", "client_secret", client_id=CLIENT)),
    ],
)
async def test_not_lent(world: World, tokens: Tokens, owner: str, way: Grant) -> None:
    """Refused before anything happens, also while others use it."""
    await world.find(tokens, MACHINE)
    await world.find(tokens, OTHER)
    before = len(world.server.asked)
    assert (await refused(world, tokens, way, owner=owner)).kind is Kind.POLICY
    assert len(world.server.asked) == before


@pytest.mark.parametrize(("owner", "allow"), [("system", []), ("anybody", ["*"])])
@pytest.mark.parametrize("way", [MACHINE, OTHER])
async def test_lent(world: World, owner: str, allow: list[str], way: Grant) -> None:
    """To the system always, and to all if the operator says so."""
    tokens = world.make(microsoft365={"allow": allow}, other={"allow": allow})
    assert await world.find(tokens, way, owner)


@pytest.mark.parametrize("way", [MICROSOFT, GOOGLE])
async def test_known_to_all(world: World, tokens: Tokens, way: Grant) -> None:
    """Who has a secret of its own needs nobody's leave."""
    assert await world.find(tokens, way, "anybody")


async def test_known_without_a_table(world: World) -> None:
    """Microsoft and Google are there without settings; what is wrong is found before anybody is asked."""
    tokens = Tokens({}, Cache(world.clock), world.clock)
    assert (await refused(world, tokens, GOOGLE._replace(mailbox=None))).kind is Kind.MALFORMED
    assert (await refused(world, tokens, MICROSOFT._replace(directory="common"))).kind is Kind.MALFORMED


# What a tenant says.


@pytest.mark.parametrize(
    "directory",
    [
        "common", "organizations", "adfs", "a/b.test", "..", "../x.test", "a.test/..", "a.test?b", "a.test#b", "a..test",
        "a.test.", "-a.test", "a.test\r\nX: y", "ä.test", f"{DIRECTORY}/x", f"{DIRECTORY}\n", "a" * 64 + ".test", "%2e.test",
    ],
)  # fmt: skip
async def test_a_directory_that_is_none(world: World, tokens: Tokens, directory: str) -> None:
    """Never becomes a part of an address."""
    error = await refused(world, tokens, MICROSOFT._replace(directory=directory))
    assert (error.kind, "oauth.directory" in error.detail, world.server.asked) == (Kind.MALFORMED, True, [])


async def test_a_directory_by_its_domain(world: World, tokens: Tokens) -> None:
    """Is asked for as it is written."""
    await refused(world, tokens, MICROSOFT._replace(directory="contoso.onmicrosoft.example"))
    assert world.server.asked[0].path == "/contoso.onmicrosoft.example/oauth2/v2.0/token"


@pytest.mark.parametrize(
    "way",
    [
        MICROSOFT._replace(directory=None),
        MICROSOFT._replace(client_id=None),
        MICROSOFT._replace(type="service_account"),
        MICROSOFT._replace(type="refresh_token"),
        GOOGLE._replace(mailbox=None),
        GOOGLE._replace(type="certificate"),
        OTHER._replace(client_id=None),
        OTHER._replace(type="managed_identity"),
    ],
)
async def test_what_does_not_fit(world: World, tokens: Tokens, way: Grant) -> None:
    """A grant that the provider does not have, or without what it needs, reaches nobody."""
    assert (await refused(world, tokens, way, Secret("any"))).kind is Kind.MALFORMED
    assert world.server.asked == []


@pytest.mark.parametrize("way", [MICROSOFT, MICROSOFT._replace(type="certificate"), GOOGLE, OTHER, REFRESH])
async def test_without_a_credential(world: World, tokens: Tokens, way: Grant) -> None:
    """The profile is told that one is missing."""
    with pytest.raises(CredentialError) as caught:
        await tokens.find("acme", RELAY, way, None)
    assert (caught.value.kind, world.server.asked) == (Kind.NOT_FOUND, [])


def stretched(pem: bytes) -> bytes:
    """Give the same key in as many characters as a key has that takes seconds to check."""
    return pem.replace(b"KEY-----\n", b"KEY-----\n" + b"\n" * 4000, 1)


def unlike_a_certificate(keys: Keys) -> dict[str, str]:
    """Secrets that are no certificate with its RSA key."""
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, OPEN)
    key = serialization.load_pem_private_key(keys.certificate_key, None)
    locked = key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"of-the-key"))
    huge = stretched(keys.certificate_key)
    return {
        "text": "not a certificate",
        "no certificate": keys.certificate_key.decode(),
        "no key": keys.certificate.decode(),
        "of a curve": (curve + keys.certificate).decode(),
        "locked": (locked + keys.certificate).decode(),
        "huge": (huge + keys.certificate).decode(),
    }


@pytest.mark.parametrize("what", ["text", "no certificate", "no key", "of a curve", "locked", "huge"])
async def test_a_certificate_that_is_none(world: World, tokens: Tokens, keys: Keys, what: str) -> None:
    """Nobody is asked, and nothing of it is told."""
    secret = Secret(unlike_a_certificate(keys)[what])
    error = await refused(world, tokens, MICROSOFT._replace(type="certificate"), secret)
    assert (error.kind, world.server.asked) == (Kind.MALFORMED, [])


async def test_an_rsa_key_of_4096_bits(world: World, tokens: Tokens) -> None:
    """Is not too large."""
    key = rsa.generate_private_key(65537, 4096)
    world.server.account_key = key.public_key()
    file = world.key_file(private_key=key.private_bytes(PEM, PKCS8, OPEN).decode())
    assert await tokens.find("acme", RELAY, GOOGLE, Secret(json.dumps(file)))


async def test_an_empty_client_secret(world: World, tokens: Tokens) -> None:
    """Nobody is asked."""
    with pytest.raises(CredentialError) as caught:
        await tokens.find("acme", RELAY, MICROSOFT, Secret(""))
    assert (caught.value.kind, world.server.asked) == (Kind.MALFORMED, [])


@pytest.mark.parametrize(
    "changed",
    [
        {"private_key": None},
        {"private_key": "text"},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"},
        {"private_key": ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, OPEN).decode()},
        {"client_email": 7},
    ],
)
async def test_a_key_file_that_is_none(world: World, tokens: Tokens, changed: dict[str, object]) -> None:
    """Nobody is asked, and nothing of it is told."""
    error = await refused(world, tokens, GOOGLE, Secret(json.dumps(world.key_file(**changed))))
    assert (error.kind, world.server.asked) == (Kind.MALFORMED, [])


async def test_an_account_s_key_that_is_huge(world: World, tokens: Tokens) -> None:
    """Is not even looked at."""
    key = stretched(world.keys.account.private_bytes(PEM, PKCS8, OPEN)).decode()
    error = await refused(world, tokens, GOOGLE, Secret(json.dumps(world.key_file(private_key=key))))
    assert (error.kind, world.server.asked) == (Kind.MALFORMED, [])


@pytest.mark.parametrize(
    "text", ["{refresh_token", '{"refresh_token": 7}', '{"client_secret": "a"}', '{"refresh_token": "\\ud800"}']
)
async def test_a_refresh_token_s_object_that_is_none(world: World, tokens: Tokens, text: str) -> None:
    """Nobody is asked, and nothing of it is told."""
    error = await refused(world, tokens, REFRESH, Secret(text))
    assert (error.kind, world.server.asked) == (Kind.MALFORMED, [])


# What is kept.


@every_way
async def test_a_token_is_kept(world: World, tokens: Tokens, way: Grant) -> None:
    """Many who want it at once share one request, and those who come later its token."""
    world.server.gate.clear()
    waiting = [asyncio.ensure_future(world.find(tokens, way)) for _ in range(10)]
    while not world.server.asked:
        await asyncio.sleep(0)
    world.server.gate.set()
    found = {*await asyncio.gather(*waiting), await world.find(tokens, way)}
    assert (len(found), len(world.server.asked)) == (1, 1)


async def test_whom_a_token_is_for(world: World, tokens: Tokens) -> None:
    """It is shared by those alone who show the same secret for the same account."""
    token = await world.find(tokens, GOOGLE)
    assert await world.find(tokens, GOOGLE, "another-tenant") == token
    for way, secret in (
        (GOOGLE._replace(mailbox="other@example.test"), world.secret(GOOGLE)),
        (GOOGLE, Secret("{}")),
        (GOOGLE._replace(client_id="another"), Secret("{}")),
    ):
        await refused(world, tokens, way, secret)


async def test_a_microsoft_token_is_for_all_mailboxes(world: World, tokens: Tokens) -> None:
    """It is the application's; another secret, directory or client is another's."""
    for name in ("a", "b"):
        await world.find(tokens, MICROSOFT._replace(mailbox=f"{name}@example.test"))
    assert len(world.server.asked) == 1
    await refused(world, tokens, MICROSOFT, Secret("guessed"))
    await refused(world, tokens, MICROSOFT._replace(directory="another.test"))
    await refused(world, tokens, MICROSOFT._replace(client_id="another"))
    assert len(world.server.asked) == 4


async def test_a_machine_s_token_is_kept_by_tenant(world: World) -> None:
    """What one provokes at the machine's endpoint is not another's."""
    tokens = world.make(microsoft365={"allow": ["*"]})
    any_secret = Secret("of no use")
    found = {
        await tokens.find(owner, RELAY, MACHINE, secret) for owner in ("acme", "beta") for secret in (None, any_secret)
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("grant", "hosts", "relay", "goes"),
    [
        (MACHINE, [], RELAY, True),
        (MACHINE, [], "smtp.attacker.example", False),
        (MACHINE, [], "office365.com.attacker.example", False),
        (MACHINE, ["smtp.corp.example"], "smtp.corp.example", True),
        (MACHINE, ["smtp.corp.example"], RELAY, False),
        (MICROSOFT, [], "smtp.corp.example", True),
        (MICROSOFT, [RELAY], "smtp.corp.example", False),
    ],
)
async def test_to_which_relays_a_token_goes(
    world: World, grant: Grant, hosts: list[str], relay: str, goes: bool
) -> None:
    """Those in `hosts`; the machine's own identity is for Microsoft's, or a tenant could have it sent to itself."""
    tokens = world.make(microsoft365={"allow": ["*"], "hosts": hosts})
    if goes:
        assert await tokens.find("acme", relay, grant, world.secret(grant))
        return
    with pytest.raises(CredentialError) as refusal:
        await tokens.find("acme", relay, grant, world.secret(grant))
    assert refusal.value.kind is Kind.POLICY


@every_way
async def test_refreshed_in_time(world: World, tokens: Tokens, way: Grant) -> None:
    """After two thirds of its life nobody gets the old one, if another can be had."""
    first = await world.find(tokens, way)
    world.now += LIFETIME * 2 / 3
    assert await world.find(tokens, way) != first


@every_way
async def test_served_while_it_lives(world: World, tokens: Tokens, way: Grant) -> None:
    """The endpoint is away: the token goes on being used, until its end and no longer."""
    first = await world.find(tokens, way)
    world.server.how = How.BROKEN
    world.now += LIFETIME - 10
    assert await world.find(tokens, way) == first
    world.now += 10
    assert (await refused(world, tokens, way)).kind is Kind.UNREACHABLE


async def test_served_while_it_lives_though_denied(world: World, tokens: Tokens) -> None:
    """A relay decides about a token that was issued, nobody else; after its end the reason is told."""
    first = await world.find(tokens)
    world.server.error = {"error_codes": [7000222]}
    world.now += LIFETIME - 10
    assert await world.find(tokens) == first
    world.now += 10
    assert (await refused(world, tokens)).kind is Kind.DENIED


@every_way
async def test_a_refused_token_is_replaced(world: World, tokens: Tokens, way: Grant) -> None:
    """By a new one from the endpoint, not by what a client library remembers; every half a minute at most."""
    first = await world.find(tokens, way)
    second = await world.find(tokens, way, why=Why.REFUSED)
    assert await world.find(tokens, way, why=Why.REFUSED) == second != first
    world.now += 30
    assert await world.find(tokens, way, why=Why.REFUSED) not in {first, second}
    assert len(world.server.asked) == 3


@every_way
async def test_a_person_gets_a_new_one(world: World, tokens: Tokens, way: Grant) -> None:
    """Each time."""
    assert len({await world.find(tokens, way, why=Why.PERSON) for _ in range(3)}) == 3


# Trouble.


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (How.DENY, Kind.DENIED),
        (How.THROTTLE, Kind.THROTTLED),
        (How.BROKEN, Kind.UNREACHABLE),
        (How.DRIP, Kind.UNREACHABLE),
        (How.HTML, Kind.MALFORMED),
        (How.REDIRECT, Kind.MALFORMED),
        (How.OVERSIZE, Kind.MALFORMED),
    ],
)
@every_way
async def test_misbehaviour(world: World, way: Grant, how: How, kind: Kind) -> None:
    """Each has its kind, costs one request, and nobody follows a redirect; a pause that is asked for is told."""
    world.server.how = how
    error = await refused(world, world.make(SHORT if how is How.DRIP else LONG), way)
    assert (error.kind, error.retry_after) == (kind, RETRY_AFTER if how is How.THROTTLE else None)
    assert "slow" not in error.detail  # the cache's word, had nobody else given up
    assert (len(world.server.asked), world.server.elsewhere) == (1, 0)


@pytest.mark.parametrize("way", [MICROSOFT, MACHINE])
async def test_a_sign_in_has_its_own_time(world: World, way: Grant) -> None:
    """Microsoft's client is given up though there were an hour for each answer."""
    world.server.how = How.DRIP
    error = await refused(world, world.make(Deadlines(connect=20.0, total=3600.0, login=1.0)), way)
    assert (error.kind, "slow" in error.detail) == (Kind.UNREACHABLE, False)


@pytest.mark.parametrize(("way", "asked"), [(MICROSOFT, 1), (MACHINE, 2), (GOOGLE, 1), (OTHER, 1)])
async def test_who_hangs_up(world: World, tokens: Tokens, way: Grant, asked: int) -> None:
    """Is as good as away; only aiohttp asks once more, and only by GET, whom a kept connection may have failed."""
    world.server.hang_up = True
    assert (await refused(world, tokens, way)).kind is Kind.UNREACHABLE
    assert len(world.server.asked) == asked


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"access_token": None}, "no token"),
        ({"access_token": 7}, "no token"),
        ({"access_token": ""}, "no token"),
        ({"access_token": "a\r\nRSET"}, "other characters"),
        ({"access_token": "a\x01auth=Bearer b"}, "other characters"),
        ({"access_token": "tokén"}, "other characters"),
        ({"access_token": "a\n"}, "other characters"),
        ({"token_type": None}, "Bearer"),
        ({"token_type": "mac"}, "Bearer"),
        ({"expires_in": None, "expires_on": None}, "how long"),
        ({"expires_in": "soon", "expires_on": None}, "how long"),
        ({"expires_in": True, "expires_on": None}, "how long"),
        ({"expires_in": [3600], "expires_on": None}, "how long"),
        ({"expires_in": 1e300, "expires_on": None}, "how long"),
        ({"expires_in": float("nan"), "expires_on": None}, "how long"),
        ({"expires_in": 0}, "expired"),
        ({"expires_in": -1}, "expired"),
    ],
)
@every_way
async def test_a_token_that_is_none(
    world: World, tokens: Tokens, way: Grant, answer: dict[str, object], told: str
) -> None:
    """Whatever would not stand in a SASL exchange, or has no end, is not handed on."""
    world.server.answer = answer
    error = await refused(world, tokens, way)
    assert (error.kind, told in error.detail) == (Kind.MALFORMED, True)


@pytest.mark.parametrize("way", [MICROSOFT, GOOGLE, OTHER])
async def test_an_end_by_the_clock(world: World, tokens: Tokens, way: Grant) -> None:
    """Is what a machine's endpoint may tell, and nobody else."""
    world.server.answer = {"expires_in": None, "expires_on": "9999999999"}
    assert (await refused(world, tokens, way)).kind is Kind.MALFORMED


@pytest.mark.parametrize("kind", ["bearer", "BEARER"])
@every_way
async def test_the_type_in_other_letters(world: World, tokens: Tokens, way: Grant, kind: str) -> None:
    """Is the same type (RFC 6749 §5.1)."""
    world.server.answer = {"token_type": kind}
    assert await world.find(tokens, way)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (7000215, "secret is wrong"),
        (7000222, "has expired"),
        (700016, "no application"),
        (90002, "does not exist"),
        (900023, "neither an id nor a domain"),
        (700027, "certificate is not registered"),
        (65001, "consented"),
        (50034, "no such account"),
        (53003, "Conditional Access"),
        (123456, "documentation"),
    ],
)
@pytest.mark.parametrize("spelled", ["number", "text"])
async def test_microsoft_s_codes(world: World, tokens: Tokens, code: int, told: str, spelled: str) -> None:
    """Each is told with what a person can do about it; one that we do not know is told as it is."""
    named = {"error_codes": [code]} if spelled == "number" else {"error_description": f"AADSTS{code}: {BODY_CANARY}"}
    world.server.error = {"error": "invalid_client", **named}
    error = await refused(world, tokens)
    assert (error.kind, told in error.detail, f"AADSTS{code}" in error.detail) == (Kind.DENIED, True, True)


@pytest.mark.parametrize(
    "error",
    [
        {},
        {"error": BODY_CANARY},
        {"error": {"code": BODY_CANARY}},
        {"error_codes": [BODY_CANARY, True, 10**30, -1, None], "error_description": f"AADSTS1{BODY_CANARY}: a"},
        {"error_codes": BODY_CANARY, "error_description": [BODY_CANARY]},
    ],
)
@every_way
async def test_an_error_in_other_words(world: World, tokens: Tokens, way: Grant, error: dict[str, object]) -> None:
    """Is a denial, and no word of it is told."""
    world.server.error = error
    assert (await refused(world, tokens, way)).kind is Kind.DENIED


@pytest.mark.parametrize(
    ("code", "told"),
    [("unauthorized_client", "domain-wide delegation"), ("invalid_grant", "mailbox"), ("access_denied", "policy")],
)
async def test_google_s_codes(world: World, tokens: Tokens, code: str, told: str) -> None:
    """Each is told with what a person can do about it."""
    world.server.error = {"error": code}
    error = await refused(world, tokens, GOOGLE)
    assert (error.kind, told in error.detail, f"({code})" in error.detail) == (Kind.DENIED, True, True)


@pytest.mark.parametrize(("way", "told"), [(OTHER, "client"), (REFRESH, "sign in anew")])
async def test_wrong_secrets(world: World, tokens: Tokens, way: Grant, told: str) -> None:
    """Of a client, and of a refresh token."""
    error = await refused(world, tokens, way, Secret("a wrong one"))
    assert (error.kind, told in error.detail) == (Kind.DENIED, True)


async def test_a_wrong_service_account_s_key(world: World, tokens: Tokens) -> None:
    """Google does not take its signature."""
    other = rsa.generate_private_key(65537, 2048).private_bytes(PEM, PKCS8, OPEN).decode()
    error = await refused(world, tokens, GOOGLE, Secret(json.dumps(world.key_file(private_key=other))))
    assert error.kind is Kind.DENIED


async def test_a_certificate_that_is_not_registered(world: World, tokens: Tokens) -> None:
    """Is told as such."""
    world.server.certificate = None
    error = await refused(world, tokens, MICROSOFT._replace(type="certificate"))
    assert "not registered" in error.detail


@pytest.mark.parametrize("way", [MICROSOFT, GOOGLE, OTHER])
async def test_another_authority_is_not_trusted(world: World, way: Grant) -> None:
    """The endpoint is as good as away, and nothing was sent."""
    error = await refused(world, world.make(trusted=trustme.CA().cert_pem.bytes().decode()), way)
    assert (error.kind, "certificate" in error.detail, world.server.asked) == (Kind.UNREACHABLE, True, [])


@pytest.mark.parametrize("way", [MICROSOFT, GOOGLE, OTHER])
async def test_a_bundle_without_certificates(world: World, tmp_path: Path, way: Grant) -> None:
    """It was one when the settings were read; owners of profiles are told so, and not which file it is."""
    tokens = world.make()
    (tmp_path / "ca-0.pem").write_text("nothing")
    assert (await refused(world, tokens, way)).detail == "a certificate file of the token endpoint cannot be read"


@every_way
async def test_no_proxy_of_the_environment(
    world: World, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, way: Grant
) -> None:
    """Tokens do not go through whatever a variable names."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert await world.find(tokens, way)


@every_way
async def test_nothing_is_logged(world: World, tokens: Tokens, way: Grant, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a secret nor a token nor a server's words, even where the libraries log all they do."""
    first = await world.find(tokens, way)
    for name in ("", "azure", "azure.identity", "msal", "aiohttp"):
        caplog.set_level(logging.DEBUG, name)
    seen = [first, await world.find(tokens, way, why=Why.PERSON)]
    world.server.error = {"error": "invalid_client"}
    world.now += LIFETIME
    await refused(world, tokens, way)
    logged = caplog.text + "".join(repr(record.__dict__) for record in caplog.records)
    secret = world.secret(way)
    assert [text for text in (*seen, BODY_CANARY, *([secret.reveal()] if secret else ())) if text in logged] == []


# Lines.


CERTIFICATE = MICROSOFT._replace(type="certificate")


@pytest.mark.parametrize(
    ("owner", "way", "asked"),
    [
        ("acme", CERTIFICATE, 3),
        ("beta", CERTIFICATE, 4),
        ("acme", CERTIFICATE._replace(directory="another.test"), 4),
        ("acme", GOOGLE, 4),
    ],
)
async def test_an_endpoint_that_is_away_is_left_alone(
    world: World, tokens: Tokens, owner: str, way: Grant, asked: int
) -> None:
    """After three attempts the tenant does not ask for a moment; others do, and it does elsewhere."""
    world.server.how = How.BROKEN
    for _ in range(3):
        await refused(world, tokens)
    assert (await refused(world, tokens, way, owner=owner)).kind is Kind.UNREACHABLE
    assert len(world.server.asked) == asked


async def test_a_pause_is_kept(world: World, tokens: Tokens) -> None:
    """As long as the endpoint asked for."""
    world.server.how = How.THROTTLE
    await refused(world, tokens)
    world.server.how = None
    assert (await refused(world, tokens)).kind is Kind.THROTTLED
    world.now += RETRY_AFTER
    assert await world.find(tokens)


async def test_lines_are_named_by_provider(world: World, tokens: Tokens) -> None:
    """What is counted does not grow with what tenants name."""
    await world.find(tokens)
    await refused(world, tokens, MICROSOFT._replace(directory="another.test"))
    assert world.fetches == [("microsoft365", "ok"), ("microsoft365", "denied")]


async def test_closed(world: World, tokens: Tokens) -> None:
    """Nothing goes out any more; twice is as good as once."""
    await world.find(tokens, GOOGLE)
    await tokens.close()
    await tokens.close()
    for way in (MICROSOFT, OTHER):
        assert (await refused(world, tokens, way)).kind is Kind.UNREACHABLE
    assert len(world.server.asked) == 1
