"""CyberArk's Central Credential Provider: the contract, its codes, its keys, its certificates."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.credentials.connections import made
from gateway.credentials.credentials import Credentials
from gateway.credentials.provider import CredentialError, Deadlines, Fetched, Kind, Why
from gateway.credentials.providers.cyberark import CyberArkProvider, parse_key
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal
from gateway.settings import CyberArkConnection
from tests.credentials.contract import BODY_CANARY, CANARY, KEY, How, ProviderContract, refused, values
from tests.peers.cyberark_server import CyberArkServer
from tests.peers.smtp_script import issue_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SHORT = Deadlines(connect=1.0, total=1.0, login=1.0)
ACCOUNT = "Safe=SMTP;Object=relay-a"


def provider_for(server: CyberArkServer, **settings: object) -> CyberArkProvider:
    connection = {"kind": "cyberark", "url": server.url, "app_id": "gateway", **settings}
    return CyberArkProvider(CyberArkConnection.model_validate(connection), {}, SHORT)


@pytest.fixture
async def fake() -> AsyncIterator[CyberArkServer]:
    async with CyberArkServer() as server:
        yield server


@pytest.fixture
async def cyberark(fake: CyberArkServer) -> AsyncIterator[CyberArkProvider]:
    provider = provider_for(fake)
    yield provider
    await provider.close()


@dataclass
class ByObject:
    """Takes the contract's keys, which are paths, for names of objects."""

    inner: CyberArkProvider

    async def fetch(self, key: str, version: str | None) -> Fetched:
        return await self.inner.fetch(f"Safe=SMTP;Object={key}", version)

    async def close(self) -> None:
        await self.inner.close()


class TestContract(ProviderContract):
    """What every provider does."""

    @pytest.fixture
    def provider(self, cyberark: CyberArkProvider) -> ByObject:
        return ByObject(cyberark)

    async def test_a_token_that_expired_is_renewed(self, fake: CyberArkServer, provider: ByObject) -> None:  # type: ignore[override]
        """CyberArk knows the application by its name and certificate: there is no token, so nothing expires."""
        await fake.put(KEY, {self.field: CANARY})
        fake.misbehave(How.EXPIRE)
        assert values(await provider.fetch(KEY, None))[self.field] == CANARY


# What is asked.


async def test_the_request(fake: CyberArkServer) -> None:
    """The application, the criteria under CyberArk's names, and a deadline that ends before ours."""
    await fake.put("relay a/1", {"password": CANARY, "UserName": "gw"})
    provider = provider_for(fake, reason="mail & more")
    await provider.fetch("safe=SMTP;Folder=Root\\Mail;OBJECT=relay a/1;username=gw", None)
    await provider.close()
    assert fake.requests[0].raw_path == (
        "/AIMWebService/api/Accounts?AppID=gateway&ConnectionTimeout=1&FailRequestOnPasswordChange=false"
        "&Reason=mail%20_%20more&Safe=SMTP&Folder=Root%5CMail&Object=relay%20a%2F1&UserName=gw"
    )


async def test_another_name_of_the_web_service(fake: CyberArkServer) -> None:
    """It is asked for where the operator says."""
    provider = provider_for(fake, application="Mail Service")
    await refused(provider, ACCOUNT)
    await provider.close()
    assert fake.requests[0].raw_path.startswith("/Mail%20Service/api/Accounts?")


@pytest.mark.parametrize(
    "key",
    [
        "",
        KEY,
        "Object",
        "Object=",
        "Safe=SMTP;",
        ";Object=a",
        "Safe=SMTP; Object=a",
        "Safe=A;safe=B;Object=a",
        "Query=Safe=SMTP",
        "QueryFormat=Regexp;Object=a",
        "Address=10.0.0.1",
        "AppID=other;Object=a",
        "Object=a+b",
        "Object=a&Safe=B",
        "Object=a%20b",
        "Object=a\r\nb",
        "Object=a\0b",
    ],
)
async def test_odd_keys(fake: CyberArkServer, cyberark: CyberArkProvider, key: str) -> None:
    """Are refused before anything is asked."""
    assert ((await refused(cyberark, key)).kind, fake.requests) == (Kind.MALFORMED, [])


async def test_a_version(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """CyberArk's web service has none; the reference is refused, not served with some other version."""
    with pytest.raises(CredentialError) as caught:
        await cyberark.fetch(ACCOUNT, "1")
    assert (caught.value.kind, fake.requests) == (Kind.MALFORMED, [])


def test_a_value_with_an_equals_sign() -> None:
    """Only the first one of a part separates."""
    assert parse_key("Object=a=b") == {"Object": "a=b"}


# What is answered.


async def test_its_bookkeeping_is_no_rotation(fake: CyberArkServer) -> None:
    """It tells when it verified the password last: the field that is used is the same, and so no rotation is told."""
    settings = {"kind": "cyberark", "url": fake.url, "app_id": "gateway", "allow": {"acme": ["Safe=SMTP"]}}
    connections = made({"ccp": CyberArkConnection.model_validate(settings)}, {}, time.monotonic)
    credentials = Credentials(Seal([bytes(32)]), lambda _tenant, _name: None, connections=connections)
    wanted = Credential(source="cyberark", connection="ccp", key=ACCOUNT, property="SmtpKey")
    told: list[str] = []
    credentials.cache.on_changed = told.append
    await fake.put("relay-a", {"password": CANARY, "SmtpKey": "one"})
    changed = []
    for said in ({}, {"LastSuccessVerification": "1"}, {"LastSuccessVerification": "2", "SmtpKey": "two"}):
        fake.saying = {**said}
        found = await credentials.find("acme", "relay.example", (), wanted, why=Why.PERSON)
        changed.append((found.secret.reveal(), None if found.previous is None else found.previous.secret.reveal()))
    await connections.close()

    assert (changed, told) == ([("one", None), ("one", None), ("two", "one")], ["ccp"])


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "APPAP004E", Kind.NOT_FOUND),
        (404, "APPAP249E", Kind.NOT_FOUND),
        (403, "APPAP306E", Kind.DENIED),
        (403, "APPAP008E", Kind.DENIED),
        (500, "APPAP282E", Kind.ROTATING),
        (500, "APPAP286E", Kind.ROTATING),
        (400, "APPAP007E", Kind.UNREACHABLE),
        (400, "APPBC007E", Kind.UNREACHABLE),
        (400, "APPAP292E", Kind.UNREACHABLE),
        (400, "APPAP227E", Kind.MALFORMED),
        (400, "APPAP005E", Kind.MALFORMED),
        (400, "AIMWS031E", Kind.MALFORMED),
        (400, "CASVL010E", Kind.MALFORMED),
        (200, "appap004e", Kind.NOT_FOUND),
        (400, "APPAP999E", Kind.MALFORMED),
        (401, "APPAP999E", Kind.DENIED),
        (403, "APPAP999E", Kind.DENIED),
        (404, "APPAP999E", Kind.NOT_FOUND),
        (500, "APPAP999E", Kind.UNREACHABLE),
        (200, "APPAP999E", Kind.MALFORMED),
    ],
)
async def test_codes(fake: CyberArkServer, cyberark: CyberArkProvider, status: int, code: str, kind: Kind) -> None:
    """The code decides; where it is unknown, the status does. Nothing of the message is told."""
    fake.failing = status, code
    error = await refused(cyberark, ACCOUNT)
    assert (error.kind, BODY_CANARY in error.detail, error.__context__) == (kind, False, None)


async def test_the_user_name_comes_along(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """In the same answer, with all other properties that are text."""
    await fake.put("relay-a", {"password": CANARY, "UserName": "gw-1", "Address": "smtp.example.test"})
    fake.saying = {"CPMDisabled": None, "Port": 25}
    got = values(await cyberark.fetch(ACCOUNT, None))
    assert (got["password"], got["Content"], got["UserName"]) == (CANARY, CANARY, "gw-1")
    assert (got["Address"], "CPMDisabled" in got, "Port" in got) == ("smtp.example.test", False, False)


async def test_another_spelling_of_the_user_name(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """Some versions write Username."""
    await fake.put("relay-a", {"password": CANARY, "Username": "gw-1"})
    assert values(await cyberark.fetch(ACCOUNT, None))["UserName"] == "gw-1"


async def test_a_property_named_password(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """The password is what CyberArk calls Content, whatever else is there."""
    await fake.put("relay-a", {"password": CANARY})
    fake.saying = {"password": "a file category"}
    assert values(await cyberark.fetch(ACCOUNT, None))["password"] == CANARY


async def test_dual_accounts(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """Another user name is another version, even with the same password."""
    await fake.put("relay-a", {"password": CANARY, "UserName": "gw-1"})
    one, again = [(await cyberark.fetch(ACCOUNT, None)).version for _ in range(2)]
    await fake.put("relay-a", {"password": CANARY, "UserName": "gw-2"})
    assert one == again != (await cyberark.fetch(ACCOUNT, None)).version


@pytest.mark.parametrize("told", [True, "true", "True"])
async def test_a_password_change_in_process(fake: CyberArkServer, cyberark: CyberArkProvider, told: object) -> None:
    """Nobody knows whether it is the old one or the new, so it is neither: ask again soon."""
    await fake.put("relay-a", {"password": CANARY})
    fake.saying = {"PasswordChangeInProcess": told}
    assert (await refused(cyberark, ACCOUNT)).kind is Kind.ROTATING


@pytest.mark.parametrize("told", [False, "false", "False", "", None])
async def test_no_password_change(fake: CyberArkServer, cyberark: CyberArkProvider, told: object) -> None:
    """Whatever way CyberArk says no."""
    await fake.put("relay-a", {"password": CANARY})
    fake.saying = {"PasswordChangeInProcess": told}
    assert values(await cyberark.fetch(ACCOUNT, None))["password"] == CANARY


@pytest.mark.parametrize("content", [None, "", 7, ["x"], "\ud800"])
async def test_no_password(fake: CyberArkServer, cyberark: CyberArkProvider, content: object) -> None:
    """An answer without one, or with one that no relay could be shown, is malformed."""
    await fake.put("relay-a", {"password": CANARY})
    fake.saying = {"Content": content}
    assert (await refused(cyberark, ACCOUNT)).kind is Kind.MALFORMED


async def test_more_than_one_account(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """Which one is meant, nobody can say."""
    await fake.put("relay-a", {"password": CANARY})
    await fake.put("relay-b", {"password": CANARY})
    assert (await refused(cyberark, "Safe=SMTP")).kind is Kind.MALFORMED


async def test_nobody_listens(fake: CyberArkServer, cyberark: CyberArkProvider) -> None:
    """Unreachable, with nothing of the client library behind it."""
    await fake.__aexit__()
    error = await refused(cyberark, ACCOUNT)
    assert (error.kind, error.__cause__, error.__context__) == (Kind.UNREACHABLE, None, None)


async def test_a_closed_provider(cyberark: CyberArkProvider) -> None:
    """Still says so in its own words."""
    await cyberark.close()
    assert (await refused(cyberark, ACCOUNT)).kind is Kind.UNREACHABLE


async def test_proxies_of_the_environment(
    fake: CyberArkServer, cyberark: CyberArkProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are not asked for secrets."""
    await fake.put("relay-a", {"password": CANARY})
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert values(await cyberark.fetch(ACCOUNT, None))["password"] == CANARY


# Certificates.


@dataclass
class Pki:
    """An authority, its file, and a certificate of ours with its key."""

    authority: trustme.CA
    folder: Path

    def __post_init__(self) -> None:
        self.authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        self.issue()

    def issue(self) -> None:
        ours = self.authority.issue_cert("gateway.example.test")
        ours.cert_chain_pems[0].write_to_path(str(self.folder / "us.pem"))
        ours.private_key_pem.write_to_path(str(self.folder / "us.key"))

    def context(self, wanted: ssl.VerifyMode) -> ssl.SSLContext:
        context = issue_tls(authority=self.authority).context
        self.authority.configure_trust(context)
        context.verify_mode = wanted
        return context

    @property
    def ours(self) -> dict[str, object]:
        return {
            "ca_certificates": self.folder / "ca.pem",
            "client_certificate": self.folder / "us.pem",
            "client_key": self.folder / "us.key",
        }

    @property
    def trust_only(self) -> dict[str, object]:
        return {"ca_certificates": self.folder / "ca.pem"}


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(trustme.CA(), tmp_path)


async def outcome(server: CyberArkServer, settings: dict[str, object]) -> Kind | str:
    """The password, or why there is none."""
    provider = provider_for(server, **settings)
    try:
        return values(await provider.fetch(ACCOUNT, None))["password"]
    except CredentialError as error:
        return error.kind
    finally:
        await provider.close()


async def test_our_certificate_is_shown(pki: Pki) -> None:
    """To a server that asks for one."""
    async with CyberArkServer(pki.context(ssl.CERT_REQUIRED), certificate=True) as server:
        await server.put("relay-a", {"password": CANARY})
        assert await outcome(server, pki.ours) == CANARY


async def test_no_certificate_where_the_web_server_wants_one(pki: Pki) -> None:
    """IIS answers 403 with a page: denied."""
    async with CyberArkServer(pki.context(ssl.CERT_OPTIONAL), certificate=True) as server:
        assert await outcome(server, pki.trust_only) is Kind.DENIED


async def test_no_certificate_where_tls_wants_one(pki: Pki) -> None:
    """There is no connection: unreachable."""
    async with CyberArkServer(pki.context(ssl.CERT_REQUIRED)) as server:
        assert await outcome(server, pki.trust_only) is Kind.UNREACHABLE


async def test_a_server_that_nobody_vouches_for(pki: Pki) -> None:
    """Is asked nothing."""
    async with CyberArkServer(issue_tls().context) as server:
        assert (await outcome(server, pki.trust_only), server.requests) == (Kind.UNREACHABLE, [])


async def test_a_renewed_certificate(pki: Pki) -> None:
    """Is the one that is shown from then on, without a restart."""
    async with CyberArkServer(pki.context(ssl.CERT_REQUIRED)) as server:
        await server.put("relay-a", {"password": CANARY})
        provider = provider_for(server, **pki.ours)
        await provider.fetch(ACCOUNT, None)
        pki.issue()
        await provider.fetch(ACCOUNT, None)
        await provider.close()
    first, second = server.certificates
    assert None not in (first, second)
    assert first != second


async def test_a_certificate_that_is_gone(pki: Pki) -> None:
    """Ends no other way than a server that cannot be reached, but says what is wrong."""
    async with CyberArkServer(pki.context(ssl.CERT_OPTIONAL)) as server:
        provider = provider_for(server, **pki.ours)
        (pki.folder / "us.key").unlink()
        error = await refused(provider, ACCOUNT)
        assert (error.kind, "certificate file" in error.detail) == (Kind.UNREACHABLE, True)
        await provider.close()


async def test_a_key_that_gets_a_passphrase(pki: Pki) -> None:
    """Nobody is asked for it at the terminal."""
    from cryptography.hazmat.primitives import serialization

    async with CyberArkServer(pki.context(ssl.CERT_OPTIONAL)) as server:
        provider = provider_for(server, **pki.ours)
        path = pki.folder / "us.key"
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"s3cret")))
        assert (await refused(provider, ACCOUNT)).kind is Kind.UNREACHABLE
        await provider.close()
