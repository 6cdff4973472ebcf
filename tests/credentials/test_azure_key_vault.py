"""Azure Key Vault, through Microsoft's own client: the contract, and what is Azure's own.

A part runs against Lowkey Vault, another's double of the service, if LOWKEY_VAULT_JAR names its jar.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from azure.keyvault.secrets._shared import http_challenge_cache

from gateway.credentials.login import REFUSED, Logins
from gateway.credentials.provider import CredentialError, Deadlines, Fetched, Kind
from gateway.credentials.providers.azure_key_vault import AzureKeyVaultProvider
from gateway.settings.connections import AzureKeyVaultConnection
from tests.credentials.contract import (
    BODY_CANARY,
    CANARY,
    RETRY_AFTER,
    How,
    ProviderContract,
    refused,
    values,
)
from tests.peers.azure_server import CLIENT, CLIENT_SECRET, TENANT, AzureServer, Version, azure_name
from tests.peers.requirements import require

SHORT = Deadlines(connect=1.0, total=1.0, login=1.0)
LONG = Deadlines(connect=20.0, total=20.0, login=20.0)  # where nobody is to be given up: the machine may be busy
MACHINE = {"method": "managed_identity"}

Connect = Callable[..., "Spelled"]


class Spelled:
    """A provider that is asked for the contract's keys."""

    def __init__(self, inner: AzureKeyVaultProvider) -> None:
        self.inner = inner

    async def fetch(self, key: str, version: str | None) -> Fetched:
        return await self.inner.fetch(azure_name(key), version)

    async def close(self) -> None:
        await self.inner.close()


@pytest.fixture
async def fake() -> AsyncIterator[AzureServer]:
    http_challenge_cache.clear()
    async with AzureServer() as server:
        yield server


@pytest.fixture
async def connect(fake: AzureServer, tmp_path: Path) -> AsyncIterator[Connect]:
    """Make providers for the fake: `auth` and other settings as given."""
    made: list[Spelled] = []
    bundle = tmp_path / "ca.pem"
    bundle.write_text(fake.tls.ca_pem)

    def build(
        auth: dict[str, Any] | None = None,
        deadlines: Deadlines = LONG,
        logins: Logins | None = None,
        **settings: Any,
    ) -> Spelled:
        own = {"method": "client_secret", "client_secret": {"env": "APP_SECRET"}} if auth is None else auth
        if own["method"] != "managed_identity":
            own = {"tenant_id": TENANT, "client_id": CLIENT, "authority": fake.authority} | own
        written = {"kind": "azure_key_vault", "url": fake.url, "ca_certificates": bundle, "auth": own} | settings
        connection = AzureKeyVaultConnection.model_validate(written)
        environ = {"APP_SECRET": CLIENT_SECRET}
        made.append(Spelled(AzureKeyVaultProvider(connection, environ, deadlines, logins=logins)))
        return made[-1]

    yield build
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(connect: Connect) -> Spelled:
    return connect()


class TestContract(ProviderContract):
    """As everybody's."""

    @pytest.fixture
    def provider(self, connect: Connect) -> Spelled:
        return connect(deadlines=SHORT)


async def value(provider: Spelled, version: str | None = None) -> str:
    return values(await provider.fetch("a", version))["password"]


# Secrets.


class Expiring(AzureServer):
    """A vault whose secrets end on a certain day."""

    def _bundle(self, name: str, version: Version) -> dict[str, object]:
        bundle = super()._bundle(name, version)
        attributes = bundle["attributes"]
        assert isinstance(attributes, dict)
        attributes["exp"] = 1_800_000_000
        return bundle


async def test_the_day_on_which_a_secret_ends_is_told(tmp_path: Path) -> None:
    """And changes nothing: Azure hands it out before and after."""
    http_challenge_cache.clear()
    async with Expiring() as fake:
        fake.put_value("a", "one")
        (tmp_path / "ca.pem").write_text(fake.tls.ca_pem)
        own = {"method": "client_secret", "client_secret": {"env": "APP_SECRET"}, "authority": fake.authority}
        settings = {
            "kind": "azure_key_vault", "url": fake.url, "ca_certificates": tmp_path / "ca.pem",
            "auth": own | {"tenant_id": TENANT, "client_id": CLIENT},
        }  # fmt: skip
        connection = AzureKeyVaultConnection.model_validate(settings)
        provider = AzureKeyVaultProvider(connection, {"APP_SECRET": CLIENT_SECRET}, LONG)
        fetched = await provider.fetch("a", None)
        await provider.close()
    assert (values(fetched)["password"], fetched.expires_at) == ("one", 1_800_000_000.0)


async def test_a_secret_without_an_end(fake: AzureServer, provider: Spelled) -> None:
    """Is told as such."""
    fake.put_value("a", "one")
    assert (await provider.fetch("a", None)).expires_at is None


async def test_a_version_is_pinned(fake: AzureServer, provider: Spelled) -> None:
    """The old one is fetched as long as it is asked for, and its name comes along."""
    old = fake.put_value("a", "one")
    fake.put_value("a", "two")
    fetched = await provider.fetch("a", old.name)
    assert (values(fetched), fetched.version) == ({"password": "one"}, old.name)


async def test_a_version_that_is_not_there(fake: AzureServer, provider: Spelled) -> None:
    """Not found, though the secret is."""
    fake.put_value("a", "one")
    with pytest.raises(CredentialError) as caught:
        await provider.fetch("a", "0123456789abcdef")
    assert caught.value.kind is Kind.NOT_FOUND


async def test_a_disabled_secret(fake: AzureServer, provider: Spelled) -> None:
    """Is denied, as Azure says it."""
    fake.put_value("a", CANARY).enabled = False
    assert (await refused(provider, "a")).kind is Kind.DENIED


async def test_the_members_of_an_object_are_fields(fake: AzureServer, provider: Spelled) -> None:
    """Those that are strings; one called password is the password."""
    fake.put_value("a", json.dumps({"username": "u", "password": "p", "port": 25, "more": {"x": "y"}}))
    assert values(await provider.fetch("a", None)) == {"username": "u", "password": "p"}


@pytest.mark.parametrize("text", ['{"username": "u"}', "[1, 2]", "{not json", "17", "", "[" * 30_000])
async def test_a_value_is_the_password_whole(fake: AzureServer, provider: Spelled, text: str) -> None:
    """Whatever it looks like, unless it has a password of its own."""
    fake.put_value("a", text)
    assert await value(provider) == text


@pytest.mark.parametrize("odd", [None, '{"a": "\\ud800"}'])
async def test_a_value_that_is_no_text(fake: AzureServer, provider: Spelled, odd: object) -> None:
    """Is malformed."""
    fake.put_value("a", odd)
    assert (await refused(provider, "a")).kind is Kind.MALFORMED


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", "a?b", "a%2Fb", "ä", "a\n", "x" * 128])
async def test_a_name_that_azure_does_not_allow(fake: AzureServer, provider: Spelled, name: str) -> None:
    """Is malformed, and not asked for."""
    assert (await refused_of(provider, name)).kind is Kind.MALFORMED
    assert fake.requests == []


async def refused_of(provider: Spelled, name: str, version: str | None = None) -> CredentialError:
    with pytest.raises(CredentialError) as caught:
        await provider.inner.fetch(name, version)
    return caught.value


async def test_a_version_cannot_leave_the_path(fake: AzureServer, provider: Spelled) -> None:
    """It is validated as a name is."""
    assert (await refused_of(provider, "a", "../../keys/b")).kind is Kind.MALFORMED
    assert fake.requests == []


# What is asked for.


async def test_the_version_of_the_interface_is_the_operators(fake: AzureServer, connect: Connect) -> None:
    """Older stamps know only older ones."""
    fake.put_value("a", "one")
    await value(connect(api_version="7.6"))
    assert {request.query["api-version"] for request in fake.requests} == {"7.6"}


@pytest.mark.parametrize("how", [How.BROKEN, How.THROTTLE, How.DRIP])
async def test_the_sdk_does_not_retry_the_vault(fake: AzureServer, connect: Connect, how: How) -> None:
    """One request in trouble is one request."""
    provider = connect(deadlines=SHORT)
    fake.put_value("a", "one")
    await value(provider)
    before = len(fake.requests)
    fake.misbehave(how)
    await refused(provider, "a")
    assert len(fake.requests) == before + 1


@pytest.mark.parametrize("auth", [None, MACHINE])
@pytest.mark.parametrize("how", [How.BROKEN, How.THROTTLE])
async def test_the_sdk_does_not_retry_the_sign_in(
    fake: AzureServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, how: How, auth: dict[str, Any] | None
) -> None:
    """Neither that of an application nor that of a machine."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.machine_url)
    fake.sign_in_how = how
    await refused(connect(auth), "a")
    assert len(fake.sign_ins) == 1


async def test_the_sdk_does_not_ask_again_who_hung_up(fake: AzureServer, provider: Spelled) -> None:
    """Only aiohttp asks once more, whom a kept connection may have failed that was closed meanwhile."""
    fake.hang_up = True
    assert (await refused(provider, "a")).kind is Kind.UNREACHABLE
    assert len(fake.requests) == 2


@pytest.mark.parametrize(("auth", "asked"), [(None, 1), (MACHINE, 2)])
async def test_the_sdk_does_not_sign_in_again_who_hung_up(
    fake: AzureServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, auth: dict[str, Any] | None, asked: int
) -> None:
    """Nor signing in, of which a POST is not even asked again by aiohttp."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.machine_url)
    fake.hang_up_at_sign_in = True
    assert (await refused(connect(auth), "a")).kind is Kind.UNREACHABLE
    assert len(fake.sign_ins) == asked


@pytest.mark.timeout(60)
async def test_an_answer_has_less_time_than_a_sign_in(fake: AzureServer, connect: Connect) -> None:
    """A vault that drips is given up though there were an hour to sign in."""
    fake.misbehave(How.DRIP)
    hour = Deadlines(connect=20.0, total=1.0, login=3600.0)
    assert (await refused(connect(deadlines=hour), "a")).kind is Kind.UNREACHABLE


@pytest.mark.timeout(60)
async def test_a_sign_in_has_its_own_time(fake: AzureServer, connect: Connect) -> None:
    """It is given up though there were an hour for an answer."""
    fake.sign_in_how = How.DRIP
    hour = Deadlines(connect=20.0, total=3600.0, login=1.0)
    assert (await refused(connect(deadlines=hour), "a")).kind is Kind.UNREACHABLE


async def test_connections_are_kept(fake: AzureServer, provider: Spelled) -> None:
    """Ten fetches, one connection for all."""
    fake.put_value("a", "one")
    for _ in range(10):
        await value(provider)
    assert len({request.transport for request in fake.requests}) == 1


async def test_the_environment_is_not_asked(
    fake: AzureServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """Neither for a proxy, nor for an identity, nor for an authority."""
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://127.0.0.1:1")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_USERNAME", "AZURE_PASSWORD"):
        monkeypatch.setenv(name, "of-somebody-else")
    fake.put_value("a", "one")
    assert await value(connect()) == "one"
    assert (fake.sign_ins[0].path, fake.sign_ins[0].sent["client_secret"]) == (
        f"/{TENANT}/oauth2/v2.0/token",
        CLIENT_SECRET,
    )


# Trust.


async def test_another_authority_is_not_trusted(fake: AzureServer, connect: Connect, tmp_path: Path) -> None:
    """The vault is as good as away, and nothing was sent."""
    wrong = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(wrong)
    error = await refused(connect(ca_certificates=wrong), "a")
    assert (error.kind, "certificate" in error.detail, fake.requests) == (Kind.UNREACHABLE, True, [])


async def test_a_bundle_without_certificates(connect: Connect, tmp_path: Path) -> None:
    """It was one when the settings were read; owners of profiles are told so, and not which file it is."""
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    provider = connect(ca_certificates=bundle)
    bundle.write_text("nothing")
    error = await refused(provider, "a")
    assert (error.kind, error.detail) == (Kind.UNREACHABLE, "a certificate file of the connection cannot be read")


async def test_nobody_listens(connect: Connect, unused_tcp_port: int) -> None:
    """Unreachable."""
    assert (await refused(connect(url=f"https://127.0.0.1:{unused_tcp_port}"), "a")).kind is Kind.UNREACHABLE


async def test_a_challenge_for_another_resource_is_refused(fake: AzureServer, provider: Spelled) -> None:
    """A hostile vault gets no token of another one."""
    fake.resource = "https://vault.azure.net"
    assert (await refused(provider, "a")).kind is Kind.MALFORMED
    assert fake.sign_ins == []


async def test_a_double_may_name_another_resource(fake: AzureServer, connect: Connect) -> None:
    """If the operator says so."""
    fake.resource = "https://vault.azure.net"
    fake.put_value("a", "one")
    assert await value(connect(verify_challenge_resource=False)) == "one"
    assert fake.sign_ins[0].sent["scope"] == "https://vault.azure.net/.default"


async def test_a_challenge_of_another_tenant_is_refused(fake: AzureServer, provider: Spelled) -> None:
    """The identity is of one tenant, and is shown to no other."""
    fake.tenant = "99999999-0000-0000-0000-000000000000"
    assert (await refused(provider, "a")).kind is Kind.DENIED
    assert fake.sign_ins == []


# Signing in.


async def test_a_token_is_used_until_it_runs_out(fake: AzureServer, provider: Spelled) -> None:
    """Many fetches, one sign-in."""
    fake.put_value("a", "one")
    for _ in range(5):
        await value(provider)
    assert len(fake.sign_ins) == 1


async def test_a_token_that_runs_out_is_replaced_before(fake: AzureServer, provider: Spelled) -> None:
    """The vault sees none that is about to end."""
    fake.lifetime = 60
    fake.put_value("a", "one")
    await value(provider)
    fake.lifetime = 3599
    await value(provider)
    await value(provider)
    assert len(fake.sign_ins) == 2


async def test_a_token_that_is_refused_is_replaced_once(fake: AzureServer, provider: Spelled) -> None:
    """Then the identity is denied."""
    fake.put_value("a", "one")
    await value(provider)
    fake.refuse_all_tokens = True
    assert (await refused(provider, "a")).kind is Kind.DENIED
    assert len(fake.sign_ins) == 2


async def test_a_client_secret_that_rotated(fake: AzureServer, connect: Connect, tmp_path: Path) -> None:
    """Is read anew at the next sign-in."""
    kept = tmp_path / "secret"
    kept.write_text(CLIENT_SECRET + "\n")
    provider = connect({"method": "client_secret", "client_secret": {"file": kept}})
    fake.put_value("a", "one")
    await value(provider)
    fake.client_secret = "rotated"
    kept.write_text("rotated\n")
    fake.misbehave(How.EXPIRE)
    assert await value(provider) == "one"


async def test_a_wrong_client_secret(fake: AzureServer, provider: Spelled, caplog: pytest.LogCaptureFixture) -> None:
    """Is denied; what the sign-in service said about it is neither told nor logged."""
    fake.client_secret = "another"
    with caplog.at_level(logging.DEBUG):
        error = await refused(provider, "a")
    assert (error.kind, BODY_CANARY in error.detail, BODY_CANARY in caplog.text) == (Kind.DENIED, False, False)
    assert (error.__cause__, error.__context__) == (None, None)


async def test_a_failed_sign_in_is_not_tried_at_every_fetch(fake: AzureServer, connect: Connect) -> None:
    """There is a pause, in which the vault is told nothing; a person's word ends it."""
    logins = Logins(lambda: 0.0)
    provider = connect(logins=logins)
    fake.put_value("a", "one")
    fake.client_secret = "another"
    assert [(await refused(provider, "a")).kind for _ in range(3)] == [Kind.DENIED] * 3
    assert len(fake.sign_ins) == 1
    fake.client_secret = CLIENT_SECRET
    logins.forgive()
    assert await value(provider) == "one"


async def test_sign_ins_that_fail_together_are_one_failure(fake: AzureServer, connect: Connect) -> None:
    """The client lets as many as fetch sign in, each for a token that is about to run out; the pause is that of the first."""
    logins = Logins(lambda: 0.0, dice=lambda: 0.5)
    provider = connect(logins=logins)
    fake.lifetime = 60
    fake.put_value("a", "one")
    await value(provider)
    fake.client_secret = "another"
    failures = await asyncio.gather(*(refused(provider, "a") for _ in range(8)))
    pause = logins.trouble()

    assert ({one.kind for one in failures}, len(fake.sign_ins)) == ({Kind.DENIED}, 9)
    assert pause is not None
    assert pause.retry_after == REFUSED


async def test_how_long_the_token_lasts_is_known(fake: AzureServer, connect: Connect) -> None:
    """As the sign-in service tells."""
    logins = Logins(lambda: 0.0)
    fake.put_value("a", "one")
    await value(connect(logins=logins))
    assert logins.token_left() == pytest.approx(fake.lifetime, abs=60)


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (How.BROKEN, Kind.UNREACHABLE),
        (How.DRIP, Kind.UNREACHABLE),
        (How.THROTTLE, Kind.THROTTLED),
        (How.HTML, Kind.MALFORMED),
        (How.OVERSIZE, Kind.MALFORMED),
        (How.REDIRECT, Kind.MALFORMED),
        (How.DENY, Kind.DENIED),
    ],
)
@pytest.mark.parametrize("auth", [None, MACHINE])
async def test_trouble_at_the_sign_in(
    fake: AzureServer,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    how: How,
    kind: Kind,
    auth: dict[str, Any] | None,
) -> None:
    """Is told apart as the vault's is, and its pause is told."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.machine_url)
    fake.sign_in_how = how
    error = await refused(connect(auth, SHORT if how is How.DRIP else LONG), "a")
    assert (error.kind, error.retry_after) == (kind, RETRY_AFTER if kind is Kind.THROTTLED else None)
    assert (error.__cause__, error.__context__, BODY_CANARY in error.detail, fake.elsewhere) == (None, None, False, 0)


async def test_no_sign_in_service_listens(fake: AzureServer, connect: Connect, unused_tcp_port: int) -> None:
    """Unreachable, not denied."""
    auth = {"method": "client_secret", "client_secret": {"env": "APP_SECRET"}}
    provider = connect(auth | {"authority": f"https://127.0.0.1:{unused_tcp_port}"})
    assert (await refused(provider, "a")).kind is Kind.UNREACHABLE


async def test_a_machine_s_identity(fake: AzureServer, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is asked of the machine's own endpoint, though a workload identity's variables are set."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.machine_url)
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"):
        monkeypatch.setenv(name, "of-somebody-else")
    fake.put_value("a", "one")
    assert await value(connect(MACHINE | {"client_id": CLIENT})) == "one"
    assert fake.sign_ins[0].sent["client_id"] == CLIENT


async def test_a_machine_without_that_identity(
    fake: AzureServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is denied."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.machine_url)
    assert (await refused(connect(MACHINE | {"client_id": "unknown"}), "a")).kind is Kind.DENIED


async def test_no_machine_s_identity_at_all(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """Unreachable."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{unused_tcp_port}")
    assert (await refused(connect(MACHINE), "a")).kind is Kind.UNREACHABLE


async def test_a_workload_s_identity(fake: AzureServer, connect: Connect, tmp_path: Path) -> None:
    """Its federated token is read at each sign-in, because it rotates."""
    kept = tmp_path / "token"
    kept.write_text("first")
    provider = connect({"method": "workload_identity", "token_file": kept})
    fake.put_value("a", "one")
    await value(provider)
    kept.write_text("second")
    fake.misbehave(How.EXPIRE)
    await value(provider)
    assert [one.sent["client_assertion"] for one in fake.sign_ins] == ["first", "second"]


async def test_a_workload_without_its_token(connect: Connect, tmp_path: Path) -> None:
    """Is denied: the vault is there, the identity is not, and that is known for what it is."""
    logins = Logins(time.monotonic)
    provider = connect({"method": "workload_identity", "token_file": tmp_path / "none"}, logins=logins)
    assert (await refused(provider, "a")).kind is Kind.DENIED
    assert logins.failure == "no_identity"


@pytest.mark.parametrize("password", [None, "of-the-key"])
async def test_a_certificate(fake: AzureServer, connect: Connect, tmp_path: Path, password: str | None) -> None:
    """Signs the assertion with its key, which a password may protect."""
    kept, secret = certificate(tmp_path, password), tmp_path / "password"
    secret.write_text(password or "")
    auth = {"method": "certificate", "certificate": kept}
    provider = connect(auth if password is None else auth | {"password": {"file": secret}})
    fake.put_value("a", "one")
    assert await value(provider) == "one"
    head, claims, _ = fake.sign_ins[0].sent["client_assertion"].split(".")
    assert json.loads(base64.urlsafe_b64decode(head))["alg"] == "PS256"
    assert json.loads(base64.urlsafe_b64decode(claims))["iss"] == CLIENT


async def test_a_certificate_that_cannot_be_opened(fake: AzureServer, connect: Connect, tmp_path: Path) -> None:
    """Is denied, and nobody is asked."""
    provider = connect({"method": "certificate", "certificate": certificate(tmp_path, "of-the-key")})
    assert (await refused(provider, "a")).kind is Kind.DENIED
    assert fake.sign_ins == []


def certificate(folder: Path, password: str | None) -> Path:
    from cryptography.hazmat.primitives import serialization

    issued = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("app.test", key_type=trustme.KeyType.RSA)
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    sealing = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing)
    path = folder / "app.pem"
    path.write_bytes(pem + issued.cert_chain_pems[0].bytes())
    return path


async def test_a_closed_provider_opens_again(fake: AzureServer, provider: Spelled) -> None:
    """Closing lets go of connections, and of nothing else; twice is as good as once."""
    fake.put_value("a", "one")
    await value(provider)
    await provider.close()
    await provider.close()
    assert await value(provider) == "one"


# Lowkey Vault: another's reading of the same interface. It checks that there is a token, not which.


@pytest.fixture(scope="module")
def lowkey() -> Iterator[str]:
    """Run the jar; yield its vault's address."""
    jar = os.environ.get("LOWKEY_VAULT_JAR", "")
    if not jar:
        pytest.skip("LOWKEY_VAULT_JAR does not name Lowkey Vault's jar")
    require("Lowkey Vault's jar where LOWKEY_VAULT_JAR says", Path(jar).is_file())
    port, token_port = free_port(), free_port()
    command = ["java", "-jar", jar, f"--server.port={port}", f"--app.token.port={token_port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            assert running.stdout is not None
            assert any("Started" in line for line in running.stdout), "Lowkey Vault ended before it had started"
            yield f"https://127.0.0.1:{port}"
        finally:
            running.kill()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@pytest.fixture
async def lowkey_vault(
    lowkey: str, fake: AzureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Spelled]:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.machine_url)
    bundle = tmp_path / "lowkey.pem"
    bundle.write_text(ssl.get_server_certificate(("127.0.0.1", int(lowkey.rpartition(":")[2]))))
    written = {"kind": "azure_key_vault", "url": lowkey, "ca_certificates": bundle, "auth": MACHINE}
    connection = AzureKeyVaultConnection.model_validate(
        written | {"api_version": "7.6", "verify_challenge_resource": False}
    )
    provider = Spelled(AzureKeyVaultProvider(connection, {}, LONG))
    yield provider
    await provider.close()


async def lowkey_put(address: str, name: str, **bundle: object) -> str:
    """Set a secret by the plain interface; give its version."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer any"}) as session,
        session.put(f"{address}/secrets/{name}?api-version=7.6", json=bundle, ssl=False) as answer,
    ):
        answer.raise_for_status()
        return str((await answer.json())["id"]).rpartition("/")[2]


async def test_lowkey_versions(lowkey: str, lowkey_vault: Spelled) -> None:
    """The newest, and the one that is pinned."""
    old = await lowkey_put(lowkey, "versions", value="one")
    new = await lowkey_put(lowkey, "versions", value="two")
    newest, pinned = await lowkey_vault.fetch("versions", None), await lowkey_vault.fetch("versions", old)
    assert (values(newest)["password"], newest.version) == ("two", new)
    assert (values(pinned)["password"], pinned.version) == ("one", old)


async def test_lowkey_does_not_have_it(lowkey_vault: Spelled) -> None:
    """Not found."""
    assert (await refused(lowkey_vault, "nothing-of-this-name")).kind is Kind.NOT_FOUND


async def test_lowkey_expired(lowkey: str, lowkey_vault: Spelled) -> None:
    """A date that has passed changes nothing."""
    await lowkey_put(lowkey, "expired", value="one", attributes={"exp": 1_600_000_000, "enabled": True})
    assert values(await lowkey_vault.fetch("expired", None))["password"] == "one"
