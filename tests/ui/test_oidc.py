"""Sign-in through an OpenID provider: the whole way, and everything that a provider or somebody between may do wrong."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
import pytest
import pytest_asyncio

from gateway.http.admission import Buckets
from gateway.settings import Oidc
from gateway.ui.oidc import id_token
from gateway.ui.oidc.provider import KEYS_SECONDS, METADATA_SECONDS, PAUSE_SECONDS, OidcError, Provider, Reason
from tests.credentials.primes import agreed_on
from tests.peers.openid_provider import CLIENT, CLIENT_SECRET, GROUP, SUBJECT, Key, OpenIdProvider
from tests.peers.postfix import free_port
from tests.ui import gateway as gateways
from tests.ui.browser import Kind
from tests.ui.test_sessions import Clock
from tests.ui.wire import COOKIE, on_the_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.hands import Opens
    from tests.ui.wire import Answered, Wire

FLOW = f"{COOKIE}-oidc"
HOSTILE = '<img src=x onerror=alert(1)>\u202e\x00"'


@pytest_asyncio.fixture(loop_scope="session")
async def provider() -> AsyncIterator[OpenIdProvider]:
    """A provider that behaves."""
    async with OpenIdProvider() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(tmp_path: Path, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway that signs its operators in there."""
    port = free_port()
    settings = gateways.SETTINGS.replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{port}"')
    monkeypatch.setattr(gateways, "SETTINGS", settings)
    (tmp_path / "oidc").write_text(CLIENT_SECRET + "\n")
    extra = f"""\
[ui]
public_url = "http://127.0.0.1:{port}"
[ui.oidc]
issuer = "{provider.issuer}"
client_id = "{CLIENT}"
client_secret_file = "oidc"
admin_group = "{GROUP}"
"""
    async with gateways.running(tmp_path, extra) as running:
        yield running


async def away(wire: Wire, path: str = "/ui/sign-in/oidc") -> Answered:
    """Go to the provider, which sends one back; nothing of that is asked yet."""
    begun = await wire.ask(path)
    assert begun.status == 303, begun.text
    return await wire.ask(begun.location, headers={"Cookie": ""})


async def sign_in(wire: Wire, path: str = "/ui/sign-in/oidc") -> Answered:
    """Go the whole way."""
    back = await away(wire, path)
    assert back.status == 303, back.text
    return await wire.ask(back.location, headers={"Sec-Fetch-Site": "cross-site"})


async def refused(gateway: Gateway, status: int, sentence: str, case: object = "") -> None:
    """Go the whole way, and be told in a sentence that it did not work; nobody is signed in."""
    gateway_provider(gateway).tries = Buckets()
    async with on_the_wire(gateway) as wire:
        answered = await sign_in(wire)
        assert (answered.status, sentence in answered.text) == (status, True), (case, answered.text)
        assert (COOKIE in wire.cookies, FLOW in wire.cookies) == (False, False)
        assert not await wire.is_in()


async def test_the_whole_way(gateway: Gateway, provider: OpenIdProvider) -> None:
    """A member of the group is an administrator of `system`, and lands where they wanted to go."""
    async with on_the_wire(gateway) as wire:
        begun = await wire.ask("/ui/sign-in/oidc?next=%2Fui%2Ftenants%2Facme%2Fsettings")
        [cookie] = begun.cookies
        assert cookie.startswith(f"{FLOW}=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax; Max-Age=600")
        assert provider.sent == []
        answered = await wire.ask((await wire.ask(begun.location, headers={"Cookie": ""})).location)
        assert answered.status == 200
        assert 'content="0; url=&#x2f;ui&#x2f;tenants&#x2f;acme&#x2f;settings"' in answered.text
        session, forgotten = answered.cookies
        assert session == f"{COOKIE}={wire.cookies[COOKIE]}; Path=/; HttpOnly; SameSite=Strict"
        assert forgotten == f"{FLOW}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        page = await wire.ask("/ui/tenants/acme/settings")
        assert "Signed in as <strong>ann</strong>" in page.text
    [sent] = provider.sent
    assert sent["scope"] == "openid profile email"
    assert sent["redirect_uri"] == f"{gateway.url}/ui/sign-in/oidc/callback"
    rows = await gateway.running.store.audit("system", before=None, limit=1)
    assert [(row.actor, row.action, row.changes) for row in rows] == [
        (f"oidc:ann ({SUBJECT})", "session.begin", '[{"field":"how","after":"oidc"}]')
    ]


async def test_nothing_of_the_way_can_be_guessed_or_read(gateway: Gateway, provider: OpenIdProvider) -> None:
    """State, nonce and challenge are new each time, and the cookie says nothing of them."""
    async with on_the_wire(gateway) as wire:
        await away(wire)
        first = wire.cookies[FLOW]
        await away(wire)
    one, two = provider.sent
    for name in ("state", "nonce", "code_challenge"):
        assert len(one[name]) == 43
        assert one[name] != two[name]
        assert one[name] not in first


async def test_the_secret_may_travel_in_the_form(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Where the provider takes it so only."""
    provider.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        assert await wire.is_in()


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "EdDSA"])
async def test_algorithms(gateway: Gateway, provider: OpenIdProvider, algorithm: str) -> None:
    """Each that is taken, with a key of its kind."""
    provider.key = Key("two", algorithm)
    provider.keys = [provider.key]
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        assert await wire.is_in()


async def test_a_group_that_is_one_text(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Some providers tell one group so."""
    provider.claims["groups"] = GROUP
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        assert await wire.is_in()


async def test_who_is_not_in_the_group(gateway: Gateway, provider: OpenIdProvider) -> None:
    """They are told so, and how they get in; nobody is signed in."""
    for groups in ([], ["everybody"], None, "mail", {GROUP: True}, [[GROUP]], 7, True):
        provider.claims |= {"groups": groups, "preferred_username": HOSTILE}
        await refused(gateway, 403, "Your account has no right here", groups)
    async with on_the_wire(gateway) as wire:
        text = (await sign_in(wire)).text
    assert f"<code>{GROUP}</code>" in text
    assert f'href="{provider.issuer}/bye"'.replace("/", "&#x2f;") in text
    assert "<img src=x" not in text
    assert "\u202e" not in text


async def test_what_somebody_is_called(gateway: Gateway, provider: OpenIdProvider) -> None:
    """By the first claim that says something, cleaned and cut."""
    told: list[tuple[dict[str, Any], str]] = [
        ({"preferred_username": None, "email": "ann@example.test"}, "ann@example.test"),
        ({"preferred_username": "  ", "name": "Ann\tB.\n"}, "Ann B."),
        ({"preferred_username": 7}, SUBJECT),
        ({"preferred_username": "x" * 1_000}, "x" * 100),
    ]
    async with on_the_wire(gateway) as wire:
        for claims, name in told:
            provider.claims = claims
            await sign_in(wire)
            assert f"Signed in as <strong>{name}</strong>" in (await wire.ask("/ui/tenants")).text


# What the browser brings back.


async def test_an_answer_works_once(gateway: Gateway) -> None:
    """Played again it signs nobody in, in this browser and in any other; also with the cookie of then."""
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as thief:
        back = await away(wire)
        kept = wire.cookies[FLOW]
        assert (await thief.ask(back.location)).status == 400
        assert (await wire.ask(back.location)).status == 200
        assert (await wire.ask(back.location)).status == 400
        thief.cookies[FLOW] = kept
        assert (await thief.ask(back.location)).status == 403
        assert not await thief.is_in()


async def test_the_answer_to_another_sign_in(gateway: Gateway) -> None:
    """Nobody is signed in as somebody else by a link that brings their answer."""
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as thief:
        theirs = await away(thief)
        await away(wire)
        answered = await wire.ask(theirs.location)
        assert (answered.status, "was not begun in this browser" in answered.text) == (400, True)
        assert not await wire.is_in()


async def test_a_sign_in_that_took_too_long(gateway: Gateway) -> None:
    """Ten minutes are enough."""
    clock = Clock(gateway)
    async with on_the_wire(gateway) as wire:
        back = await away(wire)
        clock.move(600_000)
        assert (await wire.ask(back.location)).status == 400


async def test_a_cookie_that_was_made_up(gateway: Gateway) -> None:
    """It opens nothing."""
    async with on_the_wire(gateway) as wire:
        back = await away(wire)
        good = wire.cookies[FLOW]
        for cookie in ("", "x", "%00", "c874303b%3AAAAA", "x" * 7_000, good[:-8], good.replace("A", "B")):
            wire.cookies[FLOW] = cookie
            assert (await wire.ask(back.location)).status == 400


async def test_answers_that_sign_nobody_in(gateway: Gateway, provider: OpenIdProvider) -> None:
    """One sentence each; nothing that the provider wrote is shown."""
    told: list[tuple[dict[str, Any], int, str]] = [
        ({"state": "x"}, 400, "was not begun"),
        ({"state": None}, 400, "was not begun"),
        ({"iss": "https://evil.test"}, 403, "cannot be trusted"),
        ({"iss": None}, 403, "cannot be trusted"),
        ({"code": None}, 503, "does not answer as it should"),
        ({"code": "x" * 5_000}, 503, "does not answer as it should"),
        ({"code": "unknown"}, 403, "did not sign you in"),
        ({"code": None, "error": "access_denied", "error_description": HOSTILE}, 403, "did not sign you in"),
        ({"code": None, "error": HOSTILE}, 403, "did not sign you in"),
    ]
    for back, status, sentence in told:
        provider.back = back
        await refused(gateway, status, sentence, back)


async def test_what_went_wrong_is_in_the_log(
    gateway: Gateway, provider: OpenIdProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an error's name if it is one, and without the provider's other words, codes and tokens."""
    provider.back = {"code": None, "error": "access_denied", "error_description": "hunter2"}
    await refused(gateway, 403, "did not sign you in")
    provider.back = {"error": "hunter2 <b>"}
    await refused(gateway, 403, "did not sign you in")
    said = capsys.readouterr().out
    assert said.count("sign_in_failed") == 2
    assert "(access_denied)" in said
    assert "hunter2" not in said
    assert provider.sent[0]["state"] not in said


# The id token.

NOW = int(time.time())


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.test"},
    {"iss": None},
    {"aud": "another"},
    {"aud": ["another"]},
    {"aud": None},
    {"aud": [CLIENT, "another"]},
    {"aud": [CLIENT, "another"], "azp": "another"},
    {"azp": "another"},
    {"exp": NOW - 3_600},
    {"exp": None},
    {"exp": "soon"},
    {"exp": True},
    {"iat": NOW + 3_600},
    {"iat": None},
    {"nbf": NOW + 3_600},
    {"nonce": "another"},
    {"nonce": None},
    {"nonce": ["x"]},
    {"sub": None},
    {"sub": ""},
    {"sub": "x" * 256},
    {"sub": "ann\n"},
    {"sub": 7},
]


async def test_claims_that_are_wrong(gateway: Gateway, provider: OpenIdProvider) -> None:
    """A token of somebody else, for somebody else, of another time or another sign-in."""
    for claims in WRONG_CLAIMS:
        provider.claims = claims
        await refused(gateway, 403, "cannot be trusted", claims)


async def test_several_audiences(gateway: Gateway, provider: OpenIdProvider) -> None:
    """They need to say that it was issued to us."""
    provider.claims |= {"aud": [CLIENT, "another"], "azp": CLIENT}
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        assert await wire.is_in()


async def test_a_signature_of_another_key(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Also if it calls itself the provider's."""
    provider.key = Key("one")
    await refused(gateway, 403, "cannot be trusted")


async def test_a_token_without_a_signature(gateway: Gateway, provider: OpenIdProvider) -> None:
    """`none` is no algorithm."""
    provider.key.sign = lambda claims, **_: jwt.encode(claims, "", "none")  # type: ignore[method-assign]
    await refused(gateway, 403, "cannot be trusted")


async def test_a_signature_with_what_is_no_key(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Neither the client's secret nor the public key, which anybody has, signs anything."""
    for text in (CLIENT_SECRET, str(provider.key.jwk["x"])):
        provider.key.sign = lambda claims, text=text, **_: jwt.encode(  # type: ignore[method-assign,misc]
            claims, text.ljust(32), "HS256", headers={"kid": "one"}
        )
        await refused(gateway, 403, "cannot be trusted")


async def test_what_is_no_token(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Whatever stands in its place."""
    for told in ("", "a.b", "a.b.c", "x" * 70_000, "e30.e30.", 7, None, {"a": 1}):
        provider.token["id_token"] = told
        text = isinstance(told, str)
        await refused(gateway, 403 if text else 503, "cannot be trusted" if text else "does not answer", told)


@pytest.mark.parametrize(
    ("told", "keys", "found"),
    [
        (("ES256", "a"), [("EC", "a", {})], 0),
        (("ES256", "a"), [("EC", "b", {})], None),
        (("ES256", "a"), [("RSA", "a", {}), ("EC", "a", {})], 1),
        (("ES256", "a"), [("EC", "a", {"use": "enc"})], None),
        (("ES256", "a"), [("EC", "a", {"alg": "ES384"})], None),
        (("ES256", "a"), [("EC", "a", {"crv": "P-384"})], None),
        (("RS256", "a"), [("RSA", "a", {"alg": "PS256"})], None),
        (("RS256", "a"), [("RSA", "a", {"n": "x" * 2_000})], None),
        (("ES256", None), [("EC", "a", {})], 0),
        (("ES256", None), [("EC", "a", {}), ("EC", "b", {})], None),
        (("ES256", None), [("EC", "a", {}), ("RSA", "b", {})], 0),
    ],
)
def test_the_key_of_a_token(told: tuple[str, str | None], keys: list[Any], found: int | None) -> None:
    """Of its kind, for signatures, of its name; one that names none needs to be in no doubt."""
    given = [{"kty": kind, "kid": kid, "crv": "P-256", **more} for kind, kid, more in keys]
    chosen = id_token.key_for(id_token.Head(*told), given)
    assert chosen is (None if found is None else given[found])


def test_a_weak_key() -> None:
    """What can be factored signs nothing."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from jwt.algorithms import RSAAlgorithm

    private = rsa.generate_private_key(65537, 1024)
    claims = {"iss": "i", "sub": "s", "aud": "c", "iat": NOW, "exp": NOW + 300, "nonce": "n"}
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = jwt.encode(claims, private, "RS256")
    key = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    key.pop("key_ops")
    with pytest.raises(OidcError, match="too weak"):
        id_token.claims(token, id_token.Head("RS256", None), key, issuer="i", client_id="c", nonce="n")


# The provider.


async def test_keys_that_change(gateway: Gateway, provider: OpenIdProvider) -> None:
    """A token by a key that is new has the keys fetched anew, and one by a key that is none once a minute at most."""
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        assert provider.asked["keys"] == 1
        source = gateway_provider(gateway)
        source.now = lambda: time.monotonic() + KEYS_SECONDS
        provider.key = Key("two")
        provider.keys = [provider.key]
        await sign_in(wire)
        assert (await wire.is_in(), provider.asked["keys"]) == (True, 2)
        provider.key = Key("three")
        for _ in range(3):
            assert (await sign_in(wire)).status == 403
        assert provider.asked["keys"] == 2


async def test_a_key_that_is_another_under_its_old_name(gateway: Gateway, provider: OpenIdProvider) -> None:
    """A signature that is wrong has the keys fetched anew for the next token, a minute after the last time."""
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        gateway_provider(gateway).now = lambda: time.monotonic() + KEYS_SECONDS
        provider.key = Key(provider.key.kid)
        provider.keys = [provider.key]
        assert (await sign_in(wire)).status == 403
        assert ((await sign_in(wire)).status, provider.asked["keys"]) == (200, 2)


async def test_a_key_that_was_withdrawn(gateway: Gateway, provider: OpenIdProvider) -> None:
    """After an hour it signs nobody in any more."""
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        provider.keys = [Key("two")]
        gateway_provider(gateway).now = lambda: time.monotonic() + METADATA_SECONDS
        assert (await sign_in(wire)).status == 403


def gateway_provider(gateway: Gateway) -> Provider:
    """Find the provider as the gateway has it."""
    found = gateway.running.http._dispatcher._pages._provider  # type: ignore[union-attr]
    assert isinstance(found, Provider)
    return found


def forget(gateway: Gateway) -> None:
    """Let it know nothing of its provider, as after a start."""
    found = gateway_provider(gateway)
    found._metadata, found._keys_at, found._failure, found.tries = None, None, None, Buckets()


async def test_what_it_publishes_is_kept_for_an_hour(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Then it is asked again."""
    ahead = 0.0
    gateway_provider(gateway).now = lambda: time.monotonic() + ahead
    async with on_the_wire(gateway) as wire:
        for ahead in (0.0, METADATA_SECONDS / 2):  # noqa: B007 - the clock reads it
            await away(wire)
            assert provider.asked["configuration"] == 1
        ahead = METADATA_SECONDS + 1
        await away(wire)
        assert provider.asked["configuration"] == 2


LIES: list[dict[str, Any]] = [
    {"issuer": "https://evil.test"},
    {"issuer": None},
    {"issuer": 7},
    {"authorization_endpoint": None},
    {"authorization_endpoint": "http://evil.test/authorize"},
    {"authorization_endpoint": "javascript:alert(1)"},
    {"authorization_endpoint": "https://ann:pw@127.0.0.1/"},
    {"authorization_endpoint": "https://evil.test/\r\nSet-Cookie: a=b"},
    {"token_endpoint": "http://10.0.0.1/token"},
    {"token_endpoint": "file:///etc/passwd"},
    {"jwks_uri": "//evil.test"},
    {"jwks_uri": "http://["},
    {"end_session_endpoint": "javascript:alert(1)"},
    {"said": "x" * (1 << 20)},  # true, but too much of it
]


async def test_a_configuration_that_lies(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Nobody is sent anywhere, and no secret goes there."""
    async with on_the_wire(gateway) as wire:
        for metadata in LIES:
            forget(gateway)
            provider.metadata = metadata
            answered = await wire.ask("/ui/sign-in/oidc?next=%2Fui%2Ftenants")
            assert (answered.status, answered.location) == (503, ""), metadata
            assert "does not answer as it should" in answered.text
            assert 'value="&#x2f;ui&#x2f;tenants"' in answered.text


async def test_a_provider_that_failed_is_left_alone_for_a_while(gateway: Gateway, provider: OpenIdProvider) -> None:
    """However many ask; then it is asked again."""
    provider.metadata["issuer"] = "https://evil.test"
    async with on_the_wire(gateway) as wire:
        for _ in range(3):
            assert (await wire.ask("/ui/sign-in/oidc")).status == 503
        assert provider.asked["configuration"] == 1
        provider.metadata.clear()
        gateway_provider(gateway).now = lambda: time.monotonic() + PAUSE_SECONDS
        assert (await wire.ask("/ui/sign-in/oidc")).status == 303


async def test_a_configuration_that_is_none(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Empty, of another form, or without end."""
    async with on_the_wire(gateway) as wire:
        for junk in (b"", b"[]", b"no JSON", b"[" * 100_000, b" " * (1 << 20) + b"{}"):
            forget(gateway)
            provider.junk = junk
            assert (await wire.ask("/ui/sign-in/oidc")).status == 503


async def test_a_token_endpoint_that_refuses(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Whatever else it says; no redirect is followed."""
    for status in (302, 400, 401, 500):
        provider.status = status
        await refused(gateway, 403, "did not sign you in", status)


async def test_a_provider_that_is_away(gateway: Gateway, provider: OpenIdProvider) -> None:
    """The key's form is there all the same."""
    for runner in provider._runners:
        await runner.cleanup()
    async with on_the_wire(gateway) as wire:
        answered = await wire.ask("/ui/sign-in/oidc")
        assert (answered.status, "cannot be reached" in answered.text) == (503, True)
        await wire.sign_in(gateway.keys["acme"])


async def test_a_provider_that_is_silent(
    gateway: Gateway, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for."""
    monkeypatch.setattr("gateway.ui.oidc.provider.SECONDS", 0.2)
    provider.gate.clear()
    async with on_the_wire(gateway) as wire:
        assert (await wire.ask("/ui/sign-in/oidc")).status == 503


async def test_a_secret_that_is_not_there(gateway: Gateway, tmp_path: Path) -> None:
    """It is read when it is needed, so that it can be mended while the daemon runs."""
    file = tmp_path / "oidc"
    text = file.read_text()
    file.unlink()
    await refused(gateway, 503, "not set up completely")
    file.write_text("wrong")
    await refused(gateway, 403, "did not sign you in")
    file.write_text(text)
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        assert await wire.is_in()


async def test_nobody_keeps_the_provider_busy_through_us(gateway: Gateway) -> None:
    """Twenty tries in a row are enough."""
    async with on_the_wire(gateway) as wire:
        statuses = [(await wire.ask("/ui/sign-in/oidc")).status for _ in range(25)]
        assert statuses[:20] == [303] * 20
        assert statuses[-1] == 429


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls(tmp_path: Path, *, trusted: bool) -> None:
    """A provider that speaks TLS is known by the operator's authorities, and by no others."""
    async with OpenIdProvider(tls=True) as provider:
        authority = tmp_path / "ca.pem"
        (tmp_path / "oidc").write_text(CLIENT_SECRET)
        authority.write_text(provider.tls.ca_pem)
        settings = Oidc(
            issuer=provider.issuer, client_id=CLIENT, client_secret_file=tmp_path / "oidc", admin_group=GROUP,
            ca_certificates=authority if trusted else None,
        )  # fmt: skip
        if trusted:
            assert (await Provider(settings).metadata()).issuer == provider.issuer
        else:
            with pytest.raises(OidcError) as told:
                await Provider(settings).metadata()
            assert (told.value.reason, told.value.detail) == (Reason.UNREACHABLE, "TLS with the provider failed")


async def test_a_provider_does_not_choose_the_prime(tmp_path: Path) -> None:
    """With DHE it would say how long each handshake holds the loop, so there is no TLS with who has nothing else."""

    async def call(url: str, authorities: Path) -> None:
        settings = Oidc(
            issuer=url, client_id=CLIENT, client_secret_file=tmp_path / "oidc", admin_group=GROUP,
            ca_certificates=authorities,
        )  # fmt: skip
        with suppress(OidcError):
            await Provider(settings).metadata()

    modern, ancient = await agreed_on(call, tmp_path)
    assert (modern[0].partition("-")[0], ancient) == ("ECDHE", [])


async def test_many_at_once_ask_once(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Whoever comes while it is asked waits for that."""
    async with on_the_wire(gateway) as wire:
        answers = await asyncio.gather(*(wire.ask("/ui/sign-in/oidc") for _ in range(10)))
        assert {answered.status for answered in answers} == {303}
        assert provider.asked["configuration"] == 1


async def test_without_a_provider(tmp_path: Path) -> None:
    """Where the settings name none there is no such way in."""
    async with gateways.running(tmp_path) as gateway, on_the_wire(gateway) as wire:
        assert "organisation" not in (await wire.ask("/ui/sign-in")).text
        for path in ("/ui/sign-in/oidc", "/ui/sign-in/oidc/callback?code=a&state=b"):
            assert (await wire.ask(path)).status == 404


async def test_signing_out(gateway: Gateway, provider: OpenIdProvider) -> None:
    """Our session ends; that the organisation's does not is told, with the way to end it."""
    async with on_the_wire(gateway) as wire:
        await sign_in(wire)
        kept = wire.cookies[COOKIE]
        out = await wire.post("/ui/sign-out")
        assert out.status == 200
        assert f'href="{provider.issuer}/bye"'.replace("/", "&#x2f;") in out.text
        wire.cookies[COOKIE] = kept
        assert not await wire.is_in()


async def test_in_a_browser(provider: OpenIdProvider, browser: Browser, at: Opens) -> None:
    """From a page that one may not see to the provider and back to that page, and out again."""
    browser.allow(provider.issuer)
    hand = await at("/ui/tenants/acme/settings", "")
    page = hand.seen.page
    await hand.seen.axe()
    await hand.press("Sign in with your organisation", "Only administrators of a tenant above")
    assert (urlsplit(page.url).path, urlsplit(page.url).query) == ("/ui/tenants/acme/settings", "")
    [cookie] = await page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (COOKIE, True, "Strict")
    await hand.press("Signed in as ann", "and what is below it")
    await hand.press("Sign out", "You are signed out")
    await hand.seen.axe()
    assert await page.context.cookies() == []


async def test_without_a_right_in_a_browser(gateway: Gateway, provider: OpenIdProvider, browser: Browser) -> None:
    """On a phone, in the dark."""
    provider.claims["groups"] = ["everybody"]
    browser.allow(provider.issuer)
    browser.expect(Kind.CONSOLE, "403")
    seen = await browser.open(f"{gateway.url}/ui/sign-in", width=390, scheme="dark")
    await seen.page.get_by_role("link", name="Sign in with your organisation").click()
    await seen.page.get_by_role("heading", name="Your account has no right here").wait_for()
    await seen.axe()
    await seen.no_sideways_scroll()
