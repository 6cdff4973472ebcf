"""CyberArk Conjur: the contract, its three ways to sign in, its tokens, its variables."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gateway.credentials.login import LONGEST
from gateway.credentials.provider import CredentialError, Deadlines, Kind
from gateway.credentials.providers.conjur import FORCED_EVERY, TOKEN_LIFE, ConjurProvider
from gateway.settings import ConjurConnection
from tests.credentials.contract import BODY_CANARY, CANARY, KEY, How, ProviderContract, refused, values
from tests.peers.conjur_server import API_KEY, AZURE_TOKEN, JWT, ConjurServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

SHORT = Deadlines(connect=1.0, total=1.0, login=1.0)
FORM = "application/x-www-form-urlencoded"
BY_KEY = {"method": "api_key", "login": "host/gateway", "api_key": {"env": "CONJUR_KEY"}}


@dataclass
class Clock:
    """Stands until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def provider_for(server: ConjurServer, auth: Mapping[str, object], clock: Clock | None = None) -> ConjurProvider:
    connection = {"kind": "conjur", "url": server.url, "account": "main", "auth": auth}
    settings = ConjurConnection.model_validate(connection)
    return ConjurProvider(settings, {"CONJUR_KEY": API_KEY}, SHORT, clock=clock or Clock())


@pytest.fixture
async def fake() -> AsyncIterator[ConjurServer]:
    async with ConjurServer() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(fake: ConjurServer, clock: Clock) -> AsyncIterator[ConjurProvider]:
    provider = provider_for(fake, BY_KEY, clock)
    yield provider
    await provider.close()


class TestContract(ProviderContract):
    """What every provider does."""


# Signing in.


def shown(server: ConjurServer) -> tuple[str, str, bytes]:
    """What the first request was."""
    return server.requests[0].raw_path, server.requests[0].headers["Content-Type"], server.bodies[0]


async def fetched_as(server: ConjurServer, auth: Mapping[str, object]) -> str:
    """Fetch a secret with this identity."""
    await server.put(KEY, {"password": CANARY})
    provider = provider_for(server, auth)
    try:
        return values(await provider.fetch(KEY, None))["password"]
    finally:
        await provider.close()


async def test_an_api_key(fake: ConjurServer) -> None:
    """Is the body; the login is one segment of the path."""
    assert await fetched_as(fake, BY_KEY) == CANARY
    assert shown(fake) == ("/authn/main/host%2Fgateway/authenticate", "text/plain", API_KEY.encode())


@pytest.mark.parametrize("login", [None, "host/gateway"])
async def test_a_jwt(fake: ConjurServer, tmp_path: Path, login: str | None) -> None:
    """Is a form's field; the login is there only where the operator gives one."""
    (tmp_path / "jwt").write_text(f"{JWT}\n")
    auth = {"method": "jwt", "service_id": "k8s", "jwt_file": tmp_path / "jwt", "login": login}
    assert await fetched_as(fake, auth) == CANARY
    host = "" if login is None else "/host%2Fgateway"
    assert shown(fake) == (f"/authn-jwt/k8s/main{host}/authenticate", FORM, f"jwt={JWT}".encode())


async def test_a_jwt_is_read_anew(fake: ConjurServer, tmp_path: Path, clock: Clock) -> None:
    """It rotates."""
    path = tmp_path / "jwt"
    path.write_text("an old one")
    provider = provider_for(fake, {"method": "jwt", "service_id": "k8s", "jwt_file": path}, clock)
    assert (await refused(provider)).kind is Kind.DENIED
    path.write_text(JWT)
    clock.now += LONGEST
    await fake.put(KEY, {"password": CANARY})
    assert values(await provider.fetch(KEY, None))["password"] == CANARY
    await provider.close()


async def test_the_machine_s_azure_identity(fake: ConjurServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata service's token is shown as a JWT is."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.url)
    auth = {"method": "azure", "service_id": "prod", "login": "host/gateway", "client_id": "c-1"}
    assert await fetched_as(fake, auth) == CANARY
    assert fake.requests[0].query["client_id"] == "c-1"
    assert fake.requests[1].raw_path == "/authn-azure/prod/main/host%2Fgateway/authenticate"
    assert (fake.requests[1].headers["Content-Type"], fake.bodies[1]) == (FORM, f"jwt={AZURE_TOKEN}".encode())


async def test_no_azure_identity(fake: ConjurServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreachable, asked once, and nothing of Azure's answer is behind it."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.url)
    fake.at_sign_in = How.BROKEN
    provider = provider_for(fake, {"method": "azure", "service_id": "prod", "login": "host/gateway"})
    error = await refused(provider)
    await provider.close()
    assert (error.kind, error.__cause__, error.__context__) == (Kind.UNREACHABLE, None, None)
    assert len(fake.requests) == 1


async def test_an_identity_that_cannot_be_read(fake: ConjurServer, tmp_path: Path) -> None:
    """Is shown to nobody, and operators are told where it should be."""
    provider = provider_for(fake, {"method": "jwt", "service_id": "k8s", "jwt_file": tmp_path / "none"})
    error = await refused(provider)
    assert (error.kind, str(error), fake.requests) == (Kind.DENIED, f"{tmp_path}/none does not exist", [])


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (How.THROTTLE, Kind.THROTTLED),
        (How.BROKEN, Kind.UNREACHABLE),
        (How.DRIP, Kind.UNREACHABLE),
        (How.HTML, Kind.MALFORMED),
        (How.REDIRECT, Kind.MALFORMED),
        (How.OVERSIZE, Kind.MALFORMED),
    ],
)
async def test_trouble_at_the_sign_in(
    fake: ConjurServer, provider: ConjurProvider, clock: Clock, how: How, kind: Kind
) -> None:
    """Is told apart like any other, and after a pause a fetch signs in again."""
    await fake.put(KEY, {"password": CANARY})
    fake.at_sign_in = how
    error = await refused(provider)
    fake.at_sign_in = None
    clock.now += 10.0
    assert (error.kind, BODY_CANARY in error.detail, fake.elsewhere) == (kind, False, 0)
    assert values(await provider.fetch(KEY, None))["password"] == CANARY


# Tokens.


async def test_one_token_serves_all(fake: ConjurServer, provider: ConjurProvider) -> None:
    """Those who come together share one sign-in, and so do those who come later."""
    await fake.put(KEY, {"password": CANARY})
    await asyncio.gather(*(provider.fetch(KEY, None) for _ in range(5)))
    await provider.fetch(KEY, None)
    assert fake.sign_ins == 1


@pytest.mark.parametrize(("said", "life"), [(None, TOKEN_LIFE), (90, 90.0)])
async def test_a_token_is_replaced_ahead_of_time(
    fake: ConjurServer, provider: ConjurProvider, clock: Clock, said: int | None, life: float
) -> None:
    """After two thirds of its life: eight minutes, or what it says."""
    await fake.put(KEY, {"password": CANARY})
    fake.lifetime = said
    seen = []
    for moment in (0.0, life * 2 / 3 - 1, life * 2 / 3 + 1):
        clock.now = 1000.0 + moment
        await provider.fetch(KEY, None)
        seen.append(fake.sign_ins)
    assert seen == [1, 1, 2]


async def test_those_who_are_refused_together_sign_in_once(fake: ConjurServer, provider: ConjurProvider) -> None:
    """The first one renews the token for all."""
    await fake.put(KEY, {"password": CANARY})
    await provider.fetch(KEY, None)
    fake.misbehave(How.EXPIRE)
    await asyncio.gather(*(provider.fetch(KEY, None) for _ in range(5)))
    assert fake.sign_ins == 2


async def test_refused_tokens_are_not_renewed_for_ever(
    fake: ConjurServer, provider: ConjurProvider, clock: Clock
) -> None:
    """Once a minute; meanwhile it is denied without another sign-in."""
    await fake.put(KEY, {"password": CANARY})
    await provider.fetch(KEY, None)
    fake.misbehave(How.EXPIRE)
    await provider.fetch(KEY, None)
    fake.misbehave(How.EXPIRE)
    assert ((await refused(provider)).kind, fake.sign_ins) == (Kind.DENIED, 2)
    clock.now += FORCED_EVERY
    assert values(await provider.fetch(KEY, None))["password"] == CANARY


async def test_a_renewal_that_fails(fake: ConjurServer, provider: ConjurProvider, clock: Clock) -> None:
    """Conjur was away for a moment: nobody has to wait out the minute afterwards."""
    await fake.put(KEY, {"password": CANARY})
    await provider.fetch(KEY, None)
    fake.misbehave(How.EXPIRE)
    fake.at_sign_in = How.BROKEN
    assert (await refused(provider)).kind is Kind.UNREACHABLE
    fake.at_sign_in = None
    clock.now += 2.0
    assert values(await provider.fetch(KEY, None))["password"] == CANARY


async def test_a_token_serves_to_its_end_while_no_other_is_had(
    fake: ConjurServer, provider: ConjurProvider, clock: Clock
) -> None:
    """A sign-in that fails takes away nothing that still works."""
    await fake.put(KEY, {"password": CANARY})
    await provider.fetch(KEY, None)
    fake.at_sign_in = How.BROKEN
    clock.now += TOKEN_LIFE - 1
    assert values(await provider.fetch(KEY, None))["password"] == CANARY
    clock.now += 1
    assert (await refused(provider)).kind is Kind.UNREACHABLE


async def test_a_sign_in_that_failed_is_not_tried_at_every_fetch(
    fake: ConjurServer, provider: ConjurProvider, clock: Clock
) -> None:
    """There is a pause, which whoever asks meanwhile is told; it grows with the next failure."""
    await fake.put(KEY, {"password": CANARY})
    fake.at_sign_in = How.BROKEN
    asked = []
    for clock.now in (0.0, 0.8, 1.2, 2.9, 3.5):
        assert (await refused(provider)).kind is Kind.UNREACHABLE
        asked.append(len(fake.requests))
    assert asked == [1, 1, 2, 2, 3]


# Variables.


async def test_an_id_is_one_segment(fake: ConjurServer, provider: ConjurProvider) -> None:
    """Encoded as a whole, once."""
    key = "data/smtp/relay a@b+ü?#&"
    await fake.put(key, {"password": CANARY})
    assert values(await provider.fetch(key, None))["password"] == CANARY
    encoded = "data%2Fsmtp%2Frelay%20a%40b%2B%C3%BC%3F%23%26"
    assert fake.requests[1].raw_path == f"/secrets/main/variable/{encoded}"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../b",
        "a/../b",
        "a/./b",
        "a%2Fb",
        "a\\b",
        "a\nb",
        "a\0b",
        "a,b",
        "a/{}",
        "a/{b",
        "a/b}",
        "a{b,c}",
        "a/{b,c}/d",
        "a/{b,}",
        "a/{b,b}",
        "a/{b,..}",
        "a/{b,../c}",
        "a/{b,{c}}",
        "a,b/{c,d}",
    ],
)
async def test_odd_keys(fake: ConjurServer, provider: ConjurProvider, key: str) -> None:
    """Are refused before anything is asked."""
    assert ((await refused(provider, key)).kind, fake.requests) == (Kind.MALFORMED, [])


async def test_a_pinned_version(fake: ConjurServer, provider: ConjurProvider) -> None:
    """Is the one that comes."""
    for value in ("one", "two"):
        await fake.put(KEY, {"password": value})
    got = await provider.fetch(KEY, "1")
    assert (values(got)["password"], got.version) == ("one", "1")


@pytest.mark.parametrize(("key", "version"), [(KEY, "latest"), (KEY, "0"), (KEY, "1&x=2"), ("a/{b,c}", "1")])
async def test_odd_versions(fake: ConjurServer, provider: ConjurProvider, key: str, version: str) -> None:
    """Are refused before anything is asked; variables of a lot have no common version."""
    with pytest.raises(CredentialError) as caught:
        await provider.fetch(key, version)
    assert (caught.value.kind, fake.requests) == (Kind.MALFORMED, [])


async def test_an_object(fake: ConjurServer, provider: ConjurProvider) -> None:
    """Its members are fields; one named password is the password."""
    await fake.put(KEY, {"password": CANARY, "username": "gw"})
    assert values(await provider.fetch(KEY, None)) == {"password": CANARY, "username": "gw"}


async def test_an_object_without_a_password(fake: ConjurServer, provider: ConjurProvider) -> None:
    """Then the whole is the password."""
    fake.variables[KEY] = [b'{"user": "gw", "n": 1}']
    assert values(await provider.fetch(KEY, None)) == {"password": '{"user": "gw", "n": 1}', "user": "gw"}


async def test_several_come_in_one_answer(fake: ConjurServer, provider: ConjurProvider) -> None:
    """So that user name and password are of one moment."""
    fake.variables = {"smtp/a/pass": [CANARY.encode()], "smtp/a/user": ["gwü".encode()]}
    got = await provider.fetch("smtp/a/{pass,user}", None)
    assert values(got) == {"password": CANARY, "pass": CANARY, "user": "gwü"}
    assert [request.raw_path for request in fake.requests[1:]] == [
        "/secrets?variable_ids=main%3Avariable%3Asmtp%2Fa%2Fpass,main%3Avariable%3Asmtp%2Fa%2Fuser"
    ]


async def test_several_with_one_named_password(fake: ConjurServer, provider: ConjurProvider) -> None:
    """That one is it, wherever it stands."""
    fake.variables = {"a/username": [b"gw"], "a/password": [CANARY.encode()]}
    assert values(await provider.fetch("a/{username,password}", None)) == {"username": "gw", "password": CANARY}


@pytest.mark.parametrize(("forbidden", "kind"), [(False, Kind.NOT_FOUND), (True, Kind.DENIED)])
async def test_several_are_all_or_nothing(
    fake: ConjurServer, provider: ConjurProvider, forbidden: bool, kind: Kind
) -> None:
    """One that is missing or forbidden fails the lot."""
    fake.variables = {"a/password": [CANARY.encode()]}
    fake.forbidden = {"a/username"} if forbidden else set()
    assert (await refused(provider, "a/{password,username}")).kind is kind


async def test_several_with_a_page_for_an_answer(fake: ConjurServer, provider: ConjurProvider) -> None:
    """Is malformed."""
    fake.variables = {"a/password": [CANARY.encode()], "a/username": [b"gw"]}
    await provider.fetch("a/{password,username}", None)
    fake.misbehave(How.HTML)
    assert (await refused(provider, "a/{password,username}")).kind is Kind.MALFORMED


@pytest.mark.parametrize("key", ["a/b", "a/{b,c}"])
@pytest.mark.parametrize("value", [b"", b"\xff\xfe"])
async def test_a_value_that_is_no_text(fake: ConjurServer, provider: ConjurProvider, key: str, value: bytes) -> None:
    """No relay could be shown it."""
    fake.variables = {"a/b": [value], "a/c": [b"gw"]}
    error = await refused(provider, key)
    assert (error.kind, error.__context__) == (Kind.MALFORMED, None)


async def test_proxies_of_the_environment(
    fake: ConjurServer, provider: ConjurProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are not asked for secrets."""
    await fake.put(KEY, {"password": CANARY})
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert values(await provider.fetch(KEY, None))["password"] == CANARY
