"""TLS with secret stores and token endpoints."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from gateway.credentials.oauth.endpoint import Endpoint
from gateway.credentials.provider import CredentialError, Deadlines
from gateway.credentials.providers.azure_key_vault import AzureKeyVaultProvider
from gateway.credentials.providers.rest import Certificates, Rest
from gateway.settings import AzureKeyVaultConnection
from tests.credentials.primes import agreed_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LONG: Final = Deadlines(connect=20.0, total=20.0, login=20.0)


async def by_rest(url: str, authorities: Path) -> None:
    """As CyberArk and Conjur are asked."""
    rest = Rest(url, LONG.connect, Certificates(authorities))
    with suppress(CredentialError):
        await rest.ask("GET", "/", within=LONG.total)
    await rest.close()


async def by_endpoint(url: str, authorities: Path) -> None:
    """As tokens are fetched."""
    endpoint = Endpoint(authorities, LONG)
    with suppress(CredentialError):
        await endpoint.post(url, {}, {})
    await endpoint.close()


async def by_azure(url: str, authorities: Path) -> None:
    """As Azure's vault is asked, by Microsoft's client."""
    written = {"kind": "azure_key_vault", "url": url, "ca_certificates": authorities}
    settings = AzureKeyVaultConnection.model_validate({**written, "auth": {"method": "managed_identity"}})
    provider = AzureKeyVaultProvider(settings, {}, LONG)
    with suppress(CredentialError):
        await provider.fetch("a", None)
    await provider.close()


@pytest.mark.parametrize("call", [by_rest, by_endpoint, by_azure])
async def test_a_server_does_not_choose_the_prime(call: Callable[[str, Path], Awaitable[None]], tmp_path: Path) -> None:
    """With DHE it would say how long each handshake holds the loop, so there is no TLS with who has nothing else."""
    modern, ancient = await agreed_on(call, tmp_path)
    assert (modern[0].partition("-")[0], ancient) == ("ECDHE", [])
