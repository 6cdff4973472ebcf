"""Certificates and keys in PEM: judged when the settings are loaded, and not when the first client comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.settings.writing import faults, loaded

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings import Fault

HTTP: Final = '[http]\ntls_certificate = "own.pem"\ntls_key = "own.key"\n'
VAULT: Final = """
[connections.corp]
kind = "vault"
url = "https://vault.example.test"
auth = {method = "cert", client_certificate = "own.pem", client_key = "own.key"}
"""
CYBERARK: Final = """
[connections.corp]
kind = "cyberark"
url = "https://ccp.example.test"
app_id = "gateway"
client_certificate = "own.pem"
client_key = "own.key"
"""
CONJUR: Final = """
[connections.corp]
kind = "conjur"
url = "https://conjur.example.test"
account = "main"
ca_certificates = "own.pem"
auth = {method = "api_key", login = "host/gateway", api_key = {env = "KEY"}}
"""
OIDC: Final = """
[ui]
public_url = "https://notify.example.test"
[ui.oidc]
issuer = "https://login.example.test"
client_id = "gateway"
client_secret_file = "secret"
admin_group = "mail"
ca_certificates = "own.pem"
"""
ANOTHER: Final = "names a key that does not belong to tls_certificate"
ENCRYPTED: Final = "names a key that is encrypted"
UNREADABLE: Final = "names a file in which the key of tls_certificate cannot be read"


def issue(folder: Path, **more: object) -> trustme.LeafCert:
    """Write a certificate and its key."""
    issued = trustme.CA().issue_cert("127.0.0.1", **more)  # type: ignore[arg-type]
    issued.cert_chain_pems[0].write_to_path(folder / "own.pem")
    issued.private_key_pem.write_to_path(folder / "own.key")
    return issued


def encrypted(pem: bytes, form: PrivateFormat) -> bytes:
    """Give a key only to who knows the passphrase."""
    return load_pem_private_key(pem, None).private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"canary"))


def told(found: tuple[Fault, ...]) -> list[tuple[str, str]]:
    """Where the faults are, and what they say."""
    assert all(fault.remedy for fault in found)
    return [(fault.key, fault.problem) for fault in found]


@pytest.mark.parametrize("text", [HTTP, VAULT, CYBERARK])
@pytest.mark.parametrize("key_type", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
def test_a_pair(folder: Path, text: str, key_type: trustme.KeyType) -> None:
    """A certificate and the key that it was made for are taken."""
    issue(folder, key_type=key_type)
    loaded(folder, text)


def test_a_pair_in_one_file(folder: Path) -> None:
    """Both keys may name the file that holds both."""
    issue(folder).private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    loaded(folder, HTTP.replace("own.key", "own.pem"))


def test_a_certificate_that_is_over(folder: Path) -> None:
    """It is the clients' to refuse; a daemon that does not start would help nobody."""
    issue(folder, not_after=datetime.now(UTC) - timedelta(days=1))
    loaded(folder, HTTP)


@pytest.mark.parametrize("key_type", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
def test_the_key_of_another_certificate(folder: Path, key_type: trustme.KeyType) -> None:
    """Is refused, be it of the same kind or of another."""
    issue(folder)
    other = trustme.CA().issue_cert("127.0.0.1", key_type=key_type)
    other.private_key_pem.write_to_path(folder / "own.key")
    assert told(faults(folder, HTTP)) == [("[http] tls_key", ANOTHER)]


@pytest.mark.parametrize(
    ("text", "key"), [(VAULT, "[connections.corp] auth.client_key"), (CYBERARK, "[connections.corp] client_key")]
)
def test_the_key_of_another_certificate_at_a_connection(folder: Path, text: str, key: str) -> None:
    """Is refused where the daemon would show the pair to a secret store."""
    issue(folder)
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(folder / "own.key")
    assert told(faults(folder, text)) == [(key, ANOTHER.replace("tls_certificate", "client_certificate"))]


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key(folder: Path, form: PrivateFormat) -> None:
    """Is refused, and nobody is asked for its passphrase."""
    issued = issue(folder)
    (folder / "own.key").write_bytes(encrypted(issued.private_key_pem.bytes(), form))
    assert told(faults(folder, HTTP)) == [("[http] tls_key", ENCRYPTED)]


@pytest.mark.parametrize(
    "octets", [b"", b"\x30\x82", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key(folder: Path, octets: bytes) -> None:
    """Is refused: an empty file, one that is not PEM, PEM of nothing."""
    issue(folder)
    (folder / "own.key").write_bytes(octets)
    assert told(faults(folder, HTTP)) == [("[http] tls_key", UNREADABLE)]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (HTTP, "[http] tls_certificate"),
        (VAULT, "[connections.corp] auth.client_certificate"),
        (CYBERARK, "[connections.corp] client_certificate"),
        (CONJUR, "[connections.corp] ca_certificates"),
        (OIDC, "[ui] oidc.ca_certificates"),
    ],
)
def test_what_is_no_certificate(folder: Path, text: str, key: str) -> None:
    """Is told once, for the certificate, though the key does not go with it either."""
    issue(folder).private_key_pem.write_to_path(folder / "own.pem")
    assert told(faults(folder, text)) == [(key, "names a file in which no certificate can be read")]


def test_faults_beside(folder: Path) -> None:
    """A pair is judged although another key of its table has a fault of its own."""
    issue(folder)
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(folder / "own.key")
    found = faults(folder, f"{HTTP}listne = 1\nmax_body_bytes = 1\n")
    assert {fault.key for fault in found} == {"[http] tls_key", "[http] listne", "[http] max_body_bytes"}


def test_a_pair_from_the_environment(folder: Path) -> None:
    """What is wrong with it is told under the variable's name."""
    issue(folder)
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(folder / "own.key")
    found = faults(folder, HTTP, HTTP__TLS_KEY=str(folder / "own.key"))
    assert told(found) == [("NOTIFICATION_GATEWAY_HTTP__TLS_KEY", ANOTHER)]
