"""Vault and OpenBao, through hvac: the contract, the sign-ins, the life of a token, and what hvac must be kept from."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import ssl
import sys
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from gateway.credentials.cache import Line
from gateway.credentials.connections import Connection, Connections, made
from gateway.credentials.credentials import Credentials
from gateway.credentials.login import LONGEST, Logins
from gateway.credentials.provider import CredentialError, Deadlines, Fetched, Kind, Why
from gateway.credentials.providers.vault import ANEW_EVERY, FORCED_EVERY, VaultProvider
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal
from gateway.settings import VaultConnection
from tests.credentials.contract import CANARY, KEY, How, ProviderContract, refused, values
from tests.peers.vault_server import FakeVault, Issued

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

DEADLINES = Deadlines(connect=0.5, total=1.0, login=1.0)
PATIENT = Deadlines(connect=5.0, total=60.0, login=60.0, leave=60.0)
ENVIRON = {"SECRET_ID": "s-1", "TOKEN": "hvs.static", "PASSWORD": "pw"}
APPROLE = {"method": "approle", "role_id": "r-1", "secret_id": {"env": "SECRET_ID"}}
LOGIN = "auth/approle/login"
RENEWAL = "auth/token/renew-self"
REVOCATION = "auth/token/revoke-self"
LOOK = "auth/token/lookup-self"
UNWRAPPING = "sys/wrapping/unwrap"
DATA = f"secret/data/{KEY}"


class Clock:
    """Stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def connected(
    vault: FakeVault,
    auth: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    deadlines: Deadlines = DEADLINES,
    clock: Callable[[], float] | None = None,
    logins: Logins | None = None,
    **more: Any,
) -> AsyncIterator[VaultProvider]:
    """A provider for that server; by AppRole, which the server admits, unless told otherwise."""
    if auth is None:
        vault.admit(LOGIN, {"role_id": "r-1", "secret_id": "s-1"})
    settings = VaultConnection.model_validate({"kind": "vault", "url": vault.url, "auth": auth or APPROLE, **more})
    provider = VaultProvider(
        settings, ENVIRON if environ is None else environ, deadlines, clock=clock or Clock(), logins=logins
    )
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
async def fake() -> AsyncIterator[FakeVault]:
    async with FakeVault() as vault:
        yield vault


def impatient() -> Logins:
    """Sign-ins between which much time goes by, so that there is no pause."""
    return Logins(itertools.count(0.0, 2 * LONGEST).__next__)


@pytest.fixture
async def provider(fake: FakeVault) -> AsyncIterator[VaultProvider]:
    async with connected(fake, logins=impatient()) as one:
        yield one


async def fetched(provider: VaultProvider, version: str | None = None) -> dict[str, str]:
    return values(await provider.fetch(KEY, version))


class TestVault(ProviderContract):
    """Version 2 of the engine, by AppRole."""


class TestVersionOne(ProviderContract):
    """Version 1 of the engine, at a mount of two segments."""

    @pytest.fixture
    async def fake(self) -> AsyncIterator[FakeVault]:
        async with FakeVault(mount="team/kv", versioned=False) as vault:
            yield vault

    @pytest.fixture
    async def provider(self, fake: FakeVault) -> AsyncIterator[VaultProvider]:
        async with connected(fake, mount="team/kv", kv_version=1, logins=impatient()) as one:
            yield one


# Sign-ins.


@pytest.mark.parametrize(
    ("auth", "path", "body"),
    [
        (APPROLE, LOGIN, {"role_id": "r-1", "secret_id": "s-1"}),
        ({**APPROLE, "mount": "team/roles"}, "auth/team/roles/login", {"role_id": "r-1", "secret_id": "s-1"}),
        (
            {"method": "userpass", "username": "a b/../c", "password": {"env": "PASSWORD"}},
            "auth/userpass/login/a%20b%2F..%2Fc",
            {"password": "pw"},
        ),
        (
            {"method": "ldap", "username": "EXAMPLE\\app", "password": {"env": "PASSWORD"}},
            "auth/ldap/login/EXAMPLE%5Capp",
            {"password": "pw"},
        ),
    ],
)
async def test_a_sign_in(fake: FakeVault, auth: Mapping[str, Any], path: str, body: Mapping[str, Any]) -> None:
    """Exactly this body at exactly this path, without a token; once for many fetches."""
    fake.admit(path, body)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, auth) as provider:
        assert await fetched(provider) == await fetched(provider) == {"password": CANARY}
    assert (fake.count(path), fake.asked[0].body, fake.asked[0].token) == (1, body, "")


@pytest.mark.parametrize("method", ["kubernetes", "jwt"])
async def test_a_sign_in_by_jwt(fake: FakeVault, tmp_path: Path, method: str) -> None:
    """The file is read anew at every sign-in, because it rotates."""
    file = tmp_path / "token"
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, {"method": method, "role": "gateway", "jwt_file": str(file)}) as provider:
        for jwt in ("a.b.c", "d.e.f"):
            file.write_text(f"{jwt}\n")
            fake.misbehave(How.EXPIRE)
            fake.admit(f"auth/{method}/login", {"role": "gateway", "jwt": jwt})
            assert await fetched(provider) == {"password": CANARY}


async def test_a_static_token(fake: FakeVault) -> None:
    """It is shown as it is, and asked how long it lives."""
    fake.tokens["hvs.static"] = Issued(life=300)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}) as provider:
        assert await fetched(provider) == {"password": CANARY}
    assert [(one.path, one.token) for one in fake.asked] == [
        (f"/v1/{LOOK}", "hvs.static"),
        (f"/v1/{DATA}", "hvs.static"),
    ]


@pytest.mark.parametrize("text", ["", "hvs.a\nhvs.b", "høvs"])
async def test_what_is_no_token_is_not_sent(fake: FakeVault, text: str) -> None:
    """An empty or broken token file is denied before any request."""
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}, environ={"TOKEN": text}) as provider:
        assert (await refused(provider)).kind is Kind.DENIED
    assert fake.asked == []


@pytest.mark.parametrize(
    ("source", "octets", "trouble"),
    [
        ({"env": "NONE"}, None, "the environment has no NONE"),
        ({"credential": "approle"}, None, "there is no CREDENTIALS_DIRECTORY"),
        ({"file": "/nowhere/secret_id"}, None, "/nowhere/secret_id does not exist"),
        ({"file": "{folder}"}, None, "{folder} cannot be read (Is a directory)"),
        ({"file": "{folder}/secret_id"}, b"\xff", "{folder}/secret_id is not UTF-8"),
    ],
)
async def test_an_identity_that_is_not_there(
    fake: FakeVault, tmp_path: Path, source: dict[str, str], octets: bytes | None, trouble: str
) -> None:
    """Denied without a request; operators are told its place, and owners of profiles are not."""
    if octets is not None:
        (tmp_path / "secret_id").write_bytes(octets)
    given = {key: value.format(folder=tmp_path) for key, value in source.items()}
    async with connected(fake, {**APPROLE, "secret_id": given}) as provider:
        error = await refused(provider)
    assert (error.kind, str(error), fake.asked) == (Kind.DENIED, trouble.format(folder=tmp_path), [])
    assert error.detail == "the daemon has nothing to sign in with at the secret's source"


async def test_an_identity_that_is_not_there_is_how_the_connection_is(fake: FakeVault, tmp_path: Path) -> None:
    """It is told apart from one that the store refuses, until a sign-in works."""
    file = tmp_path / "secret_id"
    await fake.put(KEY, {"password": CANARY})
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "s-1"})
    auth = {**APPROLE, "secret_id": {"file": str(file)}}
    settings = VaultConnection.model_validate(
        {"kind": "vault", "url": fake.url, "auth": auth, "allow": {"acme": ["smtp"]}}
    )
    connections = made({"corp": settings}, {}, Clock())
    credentials = Credentials(Seal([bytes(32)]), lambda _tenant, _name: None, connections=connections)
    reference, corp = Credential(source="vault", connection="corp", key=KEY), connections.by_name["corp"]
    with pytest.raises(CredentialError):
        await credentials.find("acme", "relay.example", (), reference)
    told = [corp.health()]
    file.write_text("s-1\n")
    await credentials.find("acme", "relay.example", (), reference, why=Why.PERSON)
    told.append(corp.health())
    await connections.close()

    assert told == ["login_no_identity", "ok"]


async def test_a_wrapped_secret_id_is_unwrapped_once(fake: FakeVault) -> None:
    """What came out of it serves later sign-ins too."""
    fake.wrapped["s-1"] = {"secret_id": "unwrapped", "secret_id_accessor": "a"}
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "unwrapped"})
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, {**APPROLE, "wrapped": True}) as provider:
        await fetched(provider)
        fake.misbehave(How.EXPIRE)
        await fetched(provider)
    assert (fake.count("sys/wrapping/unwrap"), fake.count(LOGIN)) == (1, 2)


async def test_a_wrapping_token_that_somebody_used(fake: FakeVault) -> None:
    """Denied; there is no sign-in without a secret id, and no second try."""
    clock = Clock()
    async with connected(fake, {**APPROLE, "wrapped": True}, clock=clock) as provider:
        for clock.now in (0.0, LONGEST):
            assert (await refused(provider)).kind is Kind.DENIED
    assert (fake.count(UNWRAPPING), fake.count(LOGIN)) == (1, 0)


@pytest.mark.parametrize("how", [How.DRIP, How.HTML])
async def test_an_unwrapping_whose_answer_was_lost(fake: FakeVault, how: How) -> None:
    """It may have happened, so it is not asked for again: the store would take the second for a thief's."""
    clock = Clock()
    fake.wrapped["s-1"] = {"secret_id": "unwrapped"}
    fake.misbehave(how)
    async with connected(fake, {**APPROLE, "wrapped": True}, clock=clock) as provider:
        await refused(provider)
        fake.misbehave(None)
        clock.now = LONGEST
        assert (await refused(provider)).kind is Kind.DENIED
    assert (fake.count(UNWRAPPING), fake.count(LOGIN)) == (1, 0)


@pytest.mark.parametrize("how", [How.BROKEN, How.THROTTLE, How.REDIRECT])
async def test_an_unwrapping_that_certainly_did_not_happen(fake: FakeVault, how: How) -> None:
    """A sealed server, or one that asks for a pause, has done nothing: it is asked again."""
    clock = Clock()
    fake.wrapped["s-1"] = {"secret_id": "unwrapped"}
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "unwrapped"})
    await fake.put(KEY, {"password": CANARY})
    fake.misbehave(how)
    async with connected(fake, {**APPROLE, "wrapped": True}, clock=clock) as provider:
        await refused(provider)
        fake.misbehave(None)
        clock.now = LONGEST
        assert await fetched(provider) == {"password": CANARY}


async def test_an_unwrapping_that_reached_nobody(fake: FakeVault) -> None:
    """The server was not there yet; when it is, it is asked."""
    clock, url = Clock(), fake.url
    fake.wrapped["s-1"] = {"secret_id": "unwrapped"}
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "unwrapped"})
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, {**APPROLE, "wrapped": True}, clock=clock, url="http://127.0.0.1:9") as provider:
        assert (await refused(provider)).kind is Kind.UNREACHABLE
        provider._server.settings = provider._server.settings.model_copy(update={"url": url})
        clock.now = LONGEST
        assert await fetched(provider) == {"password": CANARY}


async def test_another_wrapping_token_is_unwrapped(fake: FakeVault, tmp_path: Path) -> None:
    """The operator has given a new one in place of one that was of no more use."""
    clock, file = Clock(), tmp_path / "wrapped"
    file.write_text("s-0")
    fake.wrapped["s-1"] = {"secret_id": "unwrapped"}
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "unwrapped"})
    await fake.put(KEY, {"password": CANARY})
    auth = {**APPROLE, "secret_id": {"file": str(file)}, "wrapped": True}
    async with connected(fake, auth, clock=clock) as provider:
        await refused(provider)
        file.write_text("s-1")
        clock.now = LONGEST
        assert await fetched(provider) == {"password": CANARY}


@pytest.mark.parametrize("status", [400, 403, 500, 503, 429])
async def test_a_failed_sign_in_is_not_tried_at_every_fetch(fake: FakeVault, status: int) -> None:
    """Refused or not: there is a pause, which whoever asks meanwhile is told, and then another try."""
    clock = Clock()
    await fake.put(KEY, {"password": CANARY})
    fake.troubles[LOGIN] = status
    async with connected(fake, clock=clock) as provider:
        first = await refused(provider)
        again = await refused(provider)
        assert (again.kind, fake.count(LOGIN), again.retry_after) == (first.kind, 1, pytest.approx(30, abs=36))
        fake.troubles.clear()
        clock.now = LONGEST
        assert await fetched(provider) == {"password": CANARY}


async def test_a_persons_word_signs_in_at_once(fake: FakeVault) -> None:
    """Through the daemon's own connections: a refused identity was put right, and somebody says so."""
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "another"})
    await fake.put(KEY, {"password": CANARY})
    settings = VaultConnection.model_validate(
        {"kind": "vault", "url": fake.url, "auth": APPROLE, "allow": {"acme": ["smtp"]}}
    )
    connections = made({"corp": settings}, ENVIRON, Clock())
    credentials = Credentials(Seal([bytes(32)]), lambda _tenant, _name: None, connections=connections)
    reference = Credential(source="vault", connection="corp", key=KEY)
    with pytest.raises(CredentialError):
        await credentials.find("acme", "relay.example", (), reference)
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "s-1"})
    with pytest.raises(CredentialError):
        await credentials.find("acme", "relay.example", (), reference, why=Why.REFUSED)
    found = await credentials.find("acme", "relay.example", (), reference, why=Why.PERSON)
    await connections.close()

    assert (found.secret.reveal(), fake.count(LOGIN)) == (CANARY, 2)


@pytest.mark.parametrize(("status", "health"), [(403, "login_denied"), (503, "unreachable")])
async def test_a_sign_in_that_failed_is_how_the_connection_is(fake: FakeVault, status: int, health: str) -> None:
    """For as long as none works, though the store answers; one that was not reached is away."""
    clock = Clock()
    await fake.put(KEY, {"password": CANARY})
    fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "s-1"})
    fake.troubles[LOGIN] = status
    settings = VaultConnection.model_validate(
        {"kind": "vault", "url": fake.url, "auth": APPROLE, "allow": {"acme": ["smtp"]}}
    )
    connections = made({"corp": settings}, ENVIRON, clock)
    credentials = Credentials(Seal([bytes(32)]), lambda _tenant, _name: None, connections=connections)
    reference, corp = Credential(source="vault", connection="corp", key=KEY), connections.by_name["corp"]
    told = [corp.health()]
    with pytest.raises(CredentialError):
        await credentials.find("acme", "relay.example", (), reference)
    clock.now = LONGEST  # when it may be tried again, and was not
    told.append(corp.health())
    fake.troubles.clear()
    await credentials.find("acme", "relay.example", (), reference, why=Why.PERSON)
    told.append(corp.health())
    await connections.close()

    assert told == ["unused", health, "ok"]


async def test_those_who_fetch_together_sign_in_once(fake: FakeVault, provider: VaultProvider) -> None:
    """One sign-in, and after the token was withdrawn one more."""
    await fake.put(KEY, {"password": CANARY})
    await asyncio.gather(*(fetched(provider) for _ in range(8)))
    assert fake.count(LOGIN) == 1
    fake.misbehave(How.EXPIRE)
    await asyncio.gather(*(fetched(provider) for _ in range(8)))
    assert fake.count(LOGIN) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Kind.DENIED) for status in (400, 401, 403, 404)),
        *((status, Kind.UNREACHABLE) for status in (412, 473, 500, 503)),
        (405, Kind.MALFORMED),
        (429, Kind.THROTTLED),
    ],
)
async def test_what_the_status_of_a_sign_in_means(
    fake: FakeVault, provider: VaultProvider, status: int, kind: Kind
) -> None:
    """Its 400 is a wrong identity, and its 404 a wrong mount; the secret may well be there."""
    fake.troubles[LOGIN] = status
    assert (await refused(provider)).kind is kind


@pytest.mark.parametrize("prefix", ["a b", "a\nb", "ø"])
async def test_a_sign_in_that_brings_no_token(fake: FakeVault, provider: VaultProvider, prefix: str) -> None:
    """Malformed, and never sent back."""
    fake.prefix = prefix
    error = await refused(provider)
    assert (error.kind, error.detail, len(fake.asked)) == (Kind.MALFORMED, "the sign-in brought no token", 1)


# The life of a token.


async def test_a_token_is_renewed(fake: FakeVault) -> None:
    """By the first fetch after two thirds of its life, and then not before two thirds of the next."""
    clock = Clock()
    fake.issue = Issued(life=300)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        for clock.now, renewed in ((0.0, 0), (199.0, 0), (201.0, 1), (400.0, 1), (402.0, 2)):
            await fetched(provider)
            assert fake.count(RENEWAL) == renewed
    assert fake.count(LOGIN) == 1


@pytest.mark.parametrize(("renewable", "troubles"), [(False, {}), (True, {RENEWAL: 400}), (True, {RENEWAL: 403})])
async def test_a_token_that_cannot_be_renewed(fake: FakeVault, renewable: bool, troubles: dict[str, int]) -> None:
    """Another is signed in for, while the old one is good."""
    clock = Clock()
    fake.issue, fake.troubles = Issued(life=300, renewable=renewable), troubles
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        await fetched(provider)
        clock.now = 201.0
        await fetched(provider)
    assert (fake.count(LOGIN), fake.asked[-1].token) == (2, "hvs.2")


@pytest.mark.parametrize("status", [429, 503])
async def test_a_renewal_that_fails_for_now(fake: FakeVault, status: int) -> None:
    """The token serves on; there is no sign-in, and the next fetch tries again."""
    clock = Clock()
    fake.issue, fake.troubles = Issued(life=300), {RENEWAL: status}
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        for clock.now in (0.0, 201.0, 202.0):
            assert await fetched(provider) == {"password": CANARY}
    assert (fake.count(RENEWAL), fake.count(LOGIN)) == (2, 1)


async def test_a_renewal_that_grants_little_is_the_last(fake: FakeVault) -> None:
    """The token nears its last day; next time another is signed in for."""
    clock = Clock()
    fake.issue, fake.grant = Issued(life=300), 30
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        for clock.now in (0.0, 201.0, 222.0):
            await fetched(provider)
    assert (fake.count(RENEWAL), fake.count(LOGIN)) == (1, 2)


async def test_a_token_serves_on_while_no_other_is_had(fake: FakeVault) -> None:
    """A sign-in that is refused takes away nothing that still works."""
    clock = Clock()
    fake.issue = Issued(life=300, renewable=False)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        await fetched(provider)
        fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "another"})
        clock.now = 299.0
        assert await fetched(provider) == {"password": CANARY}
        clock.now = 300.0
        assert (await refused(provider)).kind is Kind.DENIED


async def test_a_refusal_causes_one_sign_in_a_minute(fake: FakeVault) -> None:
    """Where the token may be over, as it may not look at itself; if a new one is refused too, it is not that."""
    clock = Clock()
    fake.troubles[LOOK] = 403
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        await fetched(provider)
        fake.misbehave(How.DENY)
        for clock.now, signed_in in ((1.0, 2), (2.0, 2), (FORCED_EVERY, 2), (FORCED_EVERY + 1.0, 3)):
            assert (await refused(provider)).kind is Kind.DENIED
            assert fake.count(LOGIN) == signed_in


async def test_a_token_that_lives_is_replaced_once_an_hour(fake: FakeVault) -> None:
    """It may have old policies, but whoever may not have a secret must not have everybody signed in again and again."""
    clock, minute = Clock(), FORCED_EVERY
    fake.issue = Issued(life=0)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        await fetched(provider)
        fake.misbehave(How.DENY)
        for clock.now, signed_in in (
            (1.0, 1), (ANEW_EVERY - minute, 1), (ANEW_EVERY, 2), (ANEW_EVERY + minute, 2), (2 * ANEW_EVERY, 3),
        ):  # fmt: skip
            assert (await refused(provider)).kind is Kind.DENIED
            assert fake.count(LOGIN) == signed_in


async def test_a_token_that_lives_is_looked_at_once_a_minute(fake: FakeVault) -> None:
    """However often secrets are asked for that it may not read."""
    clock = Clock()
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        fake.misbehave(How.DENY)
        for clock.now, looks in ((0.0, 1), (1.0, 1), (FORCED_EVERY, 2)):
            await refused(provider)
            assert fake.count(LOOK) == looks


async def test_a_token_that_was_replaced_while_it_lived_is_revoked(fake: FakeVault) -> None:
    """Else they would pile up at the server; the new one is tried where the old one was refused."""
    clock = Clock()
    fake.issue = Issued(life=0)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        await fetched(provider)
        fake.misbehave(How.DENY)
        clock.now = ANEW_EVERY
        await refused(provider)
    shown = {path: [one.token for one in fake.asked if one.path == f"/v1/{path}"] for path in (DATA, REVOCATION)}
    assert shown == {DATA: ["hvs.1", "hvs.1", "hvs.2"], REVOCATION: ["hvs.1", "hvs.2"]}


async def test_a_token_that_lives_serves_on_where_no_other_is_had(fake: FakeVault) -> None:
    """A secret id may be good for one sign-in; nothing is wrong with the connection then, and others have their secrets."""
    clock = Clock()
    logins = Logins(clock)
    fake.issue = Issued(life=0)
    fake.troubles["secret/data/forbidden"] = 403
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock, logins=logins) as provider:
        await fetched(provider)
        fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "another"})
        clock.now = ANEW_EVERY
        assert (await refused(provider, "forbidden")).kind is Kind.DENIED
        assert await fetched(provider) == {"password": CANARY}
    assert (fake.count(LOGIN), logins.failure, fake.asked[-1].token) == (2, None, "hvs.1")


async def test_a_sign_in_that_failed_for_now_is_none(fake: FakeVault) -> None:
    """A withdrawn token is replaced as soon as the server signs in again, not a minute later."""
    clock = Clock()
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock) as provider:
        await fetched(provider)
        fake.misbehave(How.EXPIRE)
        fake.troubles[LOGIN] = 503
        assert (await refused(provider)).kind is Kind.UNREACHABLE
        fake.troubles.clear()
        clock.now = 2.0
        assert await fetched(provider) == {"password": CANARY}


async def test_how_long_the_token_lasts_is_known(fake: FakeVault) -> None:
    """From its sign-in on, and anew after its renewal."""
    clock = Clock()
    logins = Logins(clock)
    fake.issue, fake.grant = Issued(life=300), 200
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, clock=clock, logins=logins) as provider:
        left = []
        for clock.now in (0.0, 100.0, 201.0):
            await fetched(provider)
            left.append(logins.token_left())
    assert left == [300.0, 200.0, 200.0]


# The end.


async def test_our_token_is_revoked_at_the_end(fake: FakeVault) -> None:
    """Tokens that nobody needs any more would pile up at the server."""
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake) as provider:
        await fetched(provider)
    assert [(one.path, one.token) for one in fake.asked[2:]] == [(f"/v1/{REVOCATION}", "hvs.1")]


async def test_a_configured_token_is_not_revoked(fake: FakeVault) -> None:
    """It is the operator's, and the next start needs it."""
    fake.tokens["hvs.static"] = Issued()
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}) as provider:
        await fetched(provider)
    assert fake.count(REVOCATION) == 0


async def test_who_never_signed_in_takes_no_leave(fake: FakeVault) -> None:
    """There is nothing to give back."""
    async with connected(fake):
        pass
    assert fake.asked == []


async def test_a_server_that_hangs_does_not_hold_up_the_end(fake: FakeVault) -> None:
    """Revoking is given up in time; the thread that hangs holds up nothing."""
    await fake.put(KEY, {"password": CANARY})
    patient = replace(PATIENT, leave=0.2)
    async with asyncio.timeout(30), connected(fake, deadlines=patient) as provider:
        await fetched(provider)
        fake.misbehave(How.DRIP)
    assert fake.count(REVOCATION) == 1


async def test_nobody_signs_in_after_the_end(fake: FakeVault) -> None:
    """Nobody would revoke that token."""
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake) as provider:
        await provider.close()
        assert (await refused(provider)).kind is Kind.UNREACHABLE
    assert fake.asked == []


async def test_all_connections_take_leave_at_once() -> None:
    """Each may take its time, so they do not wait for one another."""
    leaving = asyncio.Barrier(3)

    class Slow:
        async def fetch(self, _key: str, _version: str | None) -> Fetched:
            return Fetched({}, "")

        async def close(self) -> None:
            await leaving.wait()

    settings = VaultConnection.model_validate({"kind": "vault", "url": "https://vault.example", "auth": APPROLE})
    three = {name: Connection(name, settings, lambda _: Slow(), Line(Clock())) for name in "abc"}
    for one in three.values():
        await one.provider.fetch("a", None)
    async with asyncio.timeout(30):
        await Connections(three).close()


async def test_a_static_token_that_may_not_look_at_itself(fake: FakeVault) -> None:
    """It may read secrets all the same."""
    fake.tokens["hvs.static"] = Issued()
    fake.troubles[LOOK] = 403
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}) as provider:
        assert await fetched(provider) == {"password": CANARY}


async def test_a_static_token_that_is_over_is_how_the_connection_is(fake: FakeVault) -> None:
    """What may not look at itself may be over, too: what it reads tells, and a path that is not its own tells nothing more."""
    await fake.put(KEY, {"password": CANARY})
    logins = Logins(Clock())
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}, logins=logins) as provider:
        assert (await refused(provider)).kind is Kind.DENIED
        told = [logins.failure]
        fake.tokens["hvs.static"] = Issued()
        fake.troubles[LOOK] = 403
        assert await fetched(provider) == {"password": CANARY}
        told.append(logins.failure)
        fake.troubles[DATA] = 403
        assert (await refused(provider)).kind is Kind.DENIED
        told.append(logins.failure)
    assert (told, logins.trouble()) == ([Kind.DENIED, None, None], None)


async def test_a_static_token_that_ends_is_how_the_connection_is(fake: FakeVault) -> None:
    """The server told of it before, and does so no longer."""
    await fake.put(KEY, {"password": CANARY})
    fake.tokens["hvs.static"] = Issued()
    logins = Logins(Clock())
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}, logins=logins) as provider:
        assert await fetched(provider) == {"password": CANARY}
        told = [logins.failure]
        fake.tokens.clear()
        for _ in range(2):  # the first finds that there is no other token
            assert (await refused(provider)).kind is Kind.DENIED
        told.append(logins.failure)
    assert told == [None, Kind.DENIED]


async def test_a_static_token_that_is_refused_is_not_shown_twice(fake: FakeVault) -> None:
    """Signing in brings the same one, so there is nothing to try."""
    async with connected(fake, {"method": "token", "token": {"env": "TOKEN"}}) as provider:
        assert (await refused(provider)).kind is Kind.DENIED
    assert fake.count(DATA) == 1


# Secrets.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Kind.DENIED) for status in (401, 403)),
        *((status, Kind.UNREACHABLE) for status in (412, 472, 473, 500, 501, 502, 503, 504)),
        *((status, Kind.MALFORMED) for status in (204, 400, 405, 418)),
        (404, Kind.NOT_FOUND),
        (429, Kind.THROTTLED),
    ],
)
async def test_what_a_status_means(fake: FakeVault, provider: VaultProvider, status: int, kind: Kind) -> None:
    """Of the answer for a secret."""
    fake.troubles[DATA] = status
    assert (await refused(provider)).kind is kind


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_refusal_by_somebody_else(fake: FakeVault, provider: VaultProvider, status: int) -> None:
    """A proxy in between knows nothing of secrets; that one is missing or denied is for Vault to say."""
    fake.troubles[DATA], fake.pages = status, True
    assert (await refused(provider)).kind is Kind.MALFORMED


async def test_a_version_is_pinned(fake: FakeVault, provider: VaultProvider) -> None:
    """It is asked for, and told; the latest is told too."""
    for text in ("one", "two"):
        await fake.put(KEY, {"password": text})
    found = [await provider.fetch(KEY, version) for version in ("1", None)]
    assert [(values(one)["password"], one.version) for one in found] == [("one", "1"), ("two", "2")]
    assert fake.asked[-2].path == f"/v1/{DATA}?version=1"


async def test_a_deleted_version(fake: FakeVault, provider: VaultProvider) -> None:
    """Not found, though its metadata are; the one before it is there."""
    await fake.put(KEY, {"password": "one"})
    await fake.put(KEY, {"password": "two"})
    await fake.delete(KEY)
    assert (await refused(provider)).kind is Kind.NOT_FOUND
    assert await fetched(provider, "1") == {"password": "one"}


@pytest.mark.parametrize("version", ["0", "-1", "latest", "1&version=2", "¹", ""])
async def test_what_is_no_version(fake: FakeVault, provider: VaultProvider, version: str) -> None:
    """Refused before any request; 0 would be the latest."""
    with pytest.raises(CredentialError) as caught:
        await provider.fetch(KEY, version)
    assert (caught.value.kind, fake.asked) == (Kind.MALFORMED, [])


async def test_version_one_of_the_engine() -> None:
    """It has no versions, and says when to look again."""
    async with FakeVault(versioned=False) as fake, connected(fake, kv_version=1) as provider:
        await fake.put(KEY, {"password": CANARY, "ttl": "90"})
        found = await provider.fetch(KEY, None)
        with pytest.raises(CredentialError) as caught:
            await provider.fetch(KEY, "1")
    assert (found.version, found.lasts, caught.value.kind) == ("", 90.0, Kind.MALFORMED)


async def test_fields_are_texts_and_numbers(fake: FakeVault, provider: VaultProvider) -> None:
    """As they were written; nothing else of a secret is a field."""
    await fake.put(KEY, {"user": "app", "port": 587, "pin": 1.50, "on": True, "no": None, "list": ["x"], "map": {}})
    assert await fetched(provider) == {"user": "app", "port": "587", "pin": "1.5"}


@pytest.mark.parametrize("fields", ["text", ["x"], 5])
async def test_an_answer_without_fields(fake: FakeVault, provider: VaultProvider, fields: Any) -> None:
    """Malformed."""
    fake.secrets[KEY] = [fields]
    assert (await refused(provider)).kind is Kind.MALFORMED


async def test_a_dynamic_secret_is_refused(fake: FakeVault, provider: VaultProvider) -> None:
    """Each read would make another account."""
    fake.lease_id = "database/creds/app/1"
    await fake.put(KEY, {"password": CANARY})
    assert (await refused(provider)).kind is Kind.MALFORMED


async def test_namespaces() -> None:
    """The sign-in's and the secret's may differ; both are sent."""
    async with FakeVault(namespace="team/mail") as fake:
        await fake.put(KEY, {"password": CANARY})
        fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "s-1"})
        async with connected(fake, {**APPROLE, "namespace": "team"}, namespace="team/mail") as provider:
            await fetched(provider)
    assert [one.namespace for one in fake.asked] == ["team", "team/mail", "team"]


async def test_the_namespace_is_the_sign_ins_too(fake: FakeVault) -> None:
    """Unless it says otherwise."""
    fake.namespace = "team"
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, namespace="team") as provider:
        await fetched(provider)
    assert [one.namespace for one in fake.asked] == ["team"] * 3


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../../auth/token/lookup-self"),
        *("a%2e%2e", "a%2Fb", "a?version=1", "a#b", "a\\b", "a\nb", "a\0b", "ä", "a;b", "a+b", "*"),
    ],
)
async def test_an_odd_key(fake: FakeVault, provider: VaultProvider, key: str) -> None:
    """Refused before any request: clients resolve dots, and they lead out of the mount."""
    with pytest.raises(CredentialError) as caught:
        await provider.fetch(key, None)
    assert (caught.value.kind, fake.asked) == (Kind.MALFORMED, [])


async def test_a_key_of_all_letters(fake: FakeVault, provider: VaultProvider) -> None:
    """What is allowed arrives as it was written."""
    key = "Team A/relay_1@example.com/..a-b.c"
    await fake.put(key, {"password": CANARY})
    assert values(await provider.fetch(key, None)) == {"password": CANARY}


# What hvac, requests and urllib3 must be kept from.


async def test_the_environment_is_none_of_its_business(
    fake: FakeVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither tokens nor addresses, proxies or passwords are taken from variables or the home directory."""
    (tmp_path / ".vault-token").write_text("hvs.from-the-home-directory")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    dead = "http://127.0.0.1:9"
    for name in ("VAULT_ADDR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, dead)
    for name in ("VAULT_CACERT", "VAULT_CAPATH", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"):
        monkeypatch.setattr(f"hvac.v1.{name}", "/nowhere")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_TOKEN", "hvs.from-the-environment")
    monkeypatch.setenv("VAULT_NAMESPACE", "from-the-environment")
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake) as provider:
        assert await fetched(provider) == {"password": CANARY}
    assert [(one.token, one.namespace, one.headers.get("Authorization")) for one in fake.asked] == [
        ("", "", None),
        ("hvs.1", "", None),
        ("hvs.1", "", None),
    ]


async def test_cookies_are_not_kept(fake: FakeVault, provider: VaultProvider) -> None:
    """A balancer may set them; they would be another identity."""
    await fake.put(KEY, {"password": CANARY})
    await fetched(provider)
    await fetched(provider)
    assert {one.headers.get("Cookie") for one in fake.asked} == {None}


def reachable(error: BaseException) -> set[type[BaseException]]:
    """All exceptions that hang behind this one."""
    found: set[type[BaseException]] = set()
    for behind in (error.__cause__, error.__context__):
        if behind is not None:
            found |= {type(behind)} | reachable(behind)
    return found


@pytest.mark.parametrize("how", [How.DENY, How.BROKEN, How.HTML, How.OVERSIZE, How.DRIP])
async def test_nothing_hangs_behind_an_error(fake: FakeVault, provider: VaultProvider, how: How) -> None:
    """No exception, and in no frame a text with the token or the answer."""
    await fake.put(KEY, {"password": CANARY})
    await fetched(provider)
    fake.misbehave(how)
    error = await refused(provider)
    frames, step = [], error.__traceback__
    while step is not None:
        frames.append(repr(step.tb_frame.f_locals) if "gateway" in step.tb_frame.f_code.co_filename else "")
        step = step.tb_next
    assert (reachable(error), "hvs." in "".join(frames), CANARY in "".join(frames)) == (set(), False, False)


async def test_an_error_holds_no_answer(fake: FakeVault, provider: VaultProvider) -> None:
    """What the server said, and its connection, are let go of at once, not when memory is swept."""
    await fake.put(KEY, {"password": CANARY})
    await fetched(provider)
    gc.collect()
    gc.disable()
    try:
        for how in (How.DENY, How.BROKEN, How.HTML, How.OVERSIZE):
            fake.misbehave(how)
            await refused(provider)
        assert [one for one in gc.get_objects() if type(one).__name__ == "HTTPResponse"] == []
    finally:
        gc.enable()


async def test_a_server_that_is_not_there(fake: FakeVault) -> None:
    """Unreachable."""
    fake.url = "http://127.0.0.1:9"
    async with connected(fake) as provider:
        assert (await refused(provider)).kind is Kind.UNREACHABLE


async def test_after_trouble_connections_are_new(fake: FakeVault, provider: VaultProvider) -> None:
    """Idle ones may have died with it, unnoticed."""
    await fake.put(KEY, {"password": CANARY})
    await fetched(provider)
    fake.gate.clear()
    three = [asyncio.ensure_future(fetched(provider)) for _ in range(3)]
    await fake.wait_until_asked(3)
    fake.gate.set()
    await asyncio.gather(*three)
    fake.misbehave(How.BROKEN)
    await refused(provider)
    fake.misbehave(None)
    fake.gate.clear()
    two = [asyncio.ensure_future(fetched(provider)) for _ in range(2)]
    await fake.wait_until_asked(2)
    fake.gate.set()
    await asyncio.gather(*two)
    assert {one.port for one in fake.asked[-2:]}.isdisjoint(one.port for one in fake.asked[:-2])


async def test_a_call_that_drips_is_ended(fake: FakeVault, provider: VaultProvider) -> None:
    """Its thread hangs up; it does not read on for nobody."""
    await fake.put(KEY, {"password": CANARY})
    await fetched(provider)
    fake.misbehave(How.DRIP)
    await refused(provider)
    await fake.hung_up.wait()


async def test_an_answer_that_never_begins(fake: FakeVault) -> None:
    """A header without an end outlasts the timeouts of sockets, and not the deadline."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with connected(fake) as provider:
        assert (await refused(provider)).kind is Kind.UNREACHABLE
    server.close()
    for writer in writers:
        writer.close()


async def test_hung_calls_hold_up_nobody(fake: FakeVault) -> None:
    """With six of them under way another provider fetches, and so does this one, and the loop has its own threads."""
    await fake.put(KEY, {"password": CANARY})
    async with FakeVault() as other, connected(fake, deadlines=PATIENT) as hung, connected(other) as free:
        await other.put(KEY, {"password": "other"})
        fake.gate.clear()
        six = [asyncio.ensure_future(fetched(hung)) for _ in range(6)]
        await fake.wait_until_asked(6)
        assert await fetched(free) == {"password": "other"}
        assert await asyncio.get_running_loop().run_in_executor(None, lambda: 1) == 1
        seventh = asyncio.ensure_future(fetched(hung))
        await fake.wait_until_asked(7)
        fake.gate.set()
        assert await asyncio.gather(*six, seventh) == [{"password": CANARY}] * 7


async def test_calls_that_hang_are_bounded(fake: FakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread each, but not for ever more of them; when they ended there is room again."""
    monkeypatch.setattr("gateway.credentials.providers.vault.MOST_THREADS", 2)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, deadlines=PATIENT) as provider:
        fake.gate.clear()
        two = [asyncio.ensure_future(fetched(provider)) for _ in range(2)]
        await fake.wait_until_asked(2)
        assert (await refused(provider)).kind is Kind.UNREACHABLE
        fake.gate.set()
        await asyncio.gather(*two)
        assert await fetched(provider) == {"password": CANARY}


async def test_a_call_whose_failure_cannot_be_told_ends(fake: FakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are no descriptors to import the library's errors with: it fails at once, and leaves its place."""
    monkeypatch.setattr("gateway.credentials.providers.vault.MOST_THREADS", 1)
    await fake.put(KEY, {"password": CANARY})
    async with connected(fake, deadlines=PATIENT, logins=impatient()) as provider:
        await fetched(provider)
        fake.misbehave(How.HTML)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "requests.exceptions", None)
            async with asyncio.timeout(5):
                failures = {(await refused(provider)).detail for _ in range(2)}
        fake.misbehave(None)
        assert await fetched(provider) == {"password": CANARY}

    assert failures == {"the machine has no means left to ask the server"}


# TLS.


@dataclass(frozen=True, slots=True)
class Papers:
    """A server's TLS, and PEM files for its clients."""

    issuer: trustme.CA
    server: ssl.SSLContext
    authority: str
    certificate: str
    key: str

    def renew(self) -> None:
        """Another certificate, in the same files."""
        client = self.issuer.issue_cert("gateway@example.com")
        client.cert_chain_pems[0].write_to_path(self.certificate)
        client.private_key_pem.write_to_path(self.key)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(server)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    files = [tmp_path / name for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(files[0])
    papers = Papers(authority, server, *map(str, files))
    papers.renew()
    return papers


async def test_the_authority_of_the_connection_is_trusted(papers: Papers) -> None:
    """And no certificate is shown where none is wanted."""
    async with FakeVault(tls=papers.server) as fake, connected(fake, ca_certificates=papers.authority) as provider:
        await fake.put(KEY, {"password": CANARY})
        assert await fetched(provider) == {"password": CANARY}
    assert {bool(one.certificate) for one in fake.asked} == {False}


@pytest.mark.parametrize("trust", ["the system's", "another"])
async def test_an_unknown_authority(papers: Papers, tmp_path: Path, trust: str) -> None:
    """Unreachable; nothing was sent."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    more = {"ca_certificates": str(tmp_path / "another.pem")} if trust == "another" else {}
    async with FakeVault(tls=papers.server) as fake, connected(fake, **more) as provider:
        error = await refused(provider)
    assert (error.kind, "TLS" in error.detail, fake.asked) == (Kind.UNREACHABLE, True, [])


async def test_an_authority_that_is_renewed(papers: Papers, tmp_path: Path) -> None:
    """Its file is read again after trouble."""
    file = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(file)
    clock = Clock()
    async with (
        FakeVault(tls=papers.server) as fake,
        connected(fake, clock=clock, ca_certificates=str(file)) as provider,
    ):
        await fake.put(KEY, {"password": CANARY})
        await refused(provider)
        clock.now = 2.0
        file.write_bytes((tmp_path / "authority.pem").read_bytes())
        assert await fetched(provider) == {"password": CANARY}


async def test_an_unwrapping_for_a_server_that_is_not_trusted(papers: Papers, tmp_path: Path) -> None:
    """Nothing was sent to it, so it is asked when it is trusted."""
    clock, file = Clock(), tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(file)
    auth = {**APPROLE, "wrapped": True}
    async with (
        FakeVault(tls=papers.server) as fake,
        connected(fake, auth, clock=clock, ca_certificates=str(file)) as provider,
    ):
        fake.wrapped["s-1"] = {"secret_id": "unwrapped"}
        fake.admit(LOGIN, {"role_id": "r-1", "secret_id": "unwrapped"})
        await fake.put(KEY, {"password": CANARY})
        await refused(provider)
        clock.now = LONGEST
        file.write_bytes((tmp_path / "authority.pem").read_bytes())
        assert await fetched(provider) == {"password": CANARY}


@pytest.mark.parametrize("role", ["gateway", None])
async def test_a_sign_in_by_certificate(papers: Papers, role: str | None) -> None:
    """It is shown at the sign-in, at every read and at the end: such tokens are bound to it."""
    auth = {"method": "cert", "client_certificate": papers.certificate, "client_key": papers.key, "name": role}
    async with FakeVault(tls=papers.server) as fake:
        fake.admit("auth/cert/login", {} if role is None else {"name": role})
        await fake.put(KEY, {"password": CANARY})
        async with connected(fake, auth, ca_certificates=papers.authority) as provider:
            assert await fetched(provider) == {"password": CANARY}
    assert [bool(one.certificate) for one in fake.asked] == [True, True, True]


async def test_a_certificate_that_is_renewed(papers: Papers) -> None:
    """The next sign-in shows the new one, though connections with the old one are open."""
    auth = {"method": "cert", "client_certificate": papers.certificate, "client_key": papers.key}
    async with FakeVault(tls=papers.server) as fake:
        fake.admit("auth/cert/login", {})
        await fake.put(KEY, {"password": CANARY})
        async with connected(fake, auth, ca_certificates=papers.authority) as provider:
            await fetched(provider)
            papers.renew()
            fake.misbehave(How.EXPIRE)
            await fetched(provider)
    shown = [one.certificate["serialNumber"] for one in fake.asked if one.certificate is not None]
    assert (len(set(shown[:4])), len(set(shown[4:])), shown[3] != shown[4]) == (1, 1, True)


# A real server.


@dataclass
class RealVault:
    """A development server, in an engine of our own there."""

    session: aiohttp.ClientSession
    url: str
    mount: str
    elsewhere: int = 0

    async def call(self, method: str, path: str, body: object = None) -> None:
        async with self.session.request(method, f"{self.url}/v1/{path}", json=body) as response:
            response.raise_for_status()

    async def put(self, key: str, fields: Mapping[str, str]) -> None:
        await self.call("POST", f"{self.mount}/data/{key}", {"data": dict(fields)})

    async def delete(self, key: str) -> None:
        await self.call("DELETE", f"{self.mount}/data/{key}")

    def misbehave(self, how: How | None) -> None:
        raise NotImplementedError


@pytest.mark.skipif(
    not {"TEST_VAULT_ADDR", "TEST_VAULT_TOKEN"} <= os.environ.keys(),
    reason="optional: TEST_VAULT_ADDR and TEST_VAULT_TOKEN name a development server of Vault or OpenBao",
)
@pytest.mark.parametrize("case", ["found", "changed", "missing", "deleted"])
async def test_a_real_server(case: str) -> None:
    """What the contract says of a server that behaves."""
    url, token = os.environ["TEST_VAULT_ADDR"].rstrip("/"), os.environ["TEST_VAULT_TOKEN"]
    auth = {"method": "token", "token": {"env": "TEST_VAULT_TOKEN"}}
    async with aiohttp.ClientSession(headers={"X-Vault-Token": token, "X-Vault-Request": "true"}) as session:
        real = RealVault(session, url, f"gateway-{uuid.uuid4()}")
        settings = {"kind": "vault", "url": url, "mount": real.mount, "auth": auth}
        provider = VaultProvider(VaultConnection.model_validate(settings), os.environ)
        await real.call("POST", f"sys/mounts/{real.mount}", {"type": "kv", "options": {"version": "2"}})
        contract = ProviderContract()
        try:
            match case:
                case "found":
                    await contract.test_a_secret_is_found(real, provider)
                case "changed":
                    await contract.test_a_changed_value_is_another_version(real, provider)
                case "missing":
                    await contract.test_a_missing_secret(provider)
                case _:
                    await contract.test_a_deleted_secret(real, provider)
        finally:
            await real.call("DELETE", f"sys/mounts/{real.mount}")
            await provider.close()
