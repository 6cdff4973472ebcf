"""The daemon's own secrets: what it shows to a secret store to be let in. Read at each sign-in, so that they may change."""

from collections.abc import Mapping
from pathlib import Path

from gateway.credentials.provider import CredentialError, Kind
from gateway.credentials.secret import Secret
from gateway.settings import SecretSource


def read_identity(source: SecretSource, environ: Mapping[str, str]) -> Secret:
    """Read a file, a systemd credential or a variable; one line break at its end is no part of it.

    Raises `CredentialError`; its detail names the place and nothing of what is there.
    """
    if source.env is not None:
        text = environ.get(source.env)
        if text is None:
            raise CredentialError(Kind.DENIED, f"the environment has no {source.env}")
        return Secret(text)
    path = source.file or _of_systemd(source, environ)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise CredentialError(Kind.DENIED, f"{path} cannot be read") from None
    return Secret(text.removesuffix("\n").removesuffix("\r"))


def _of_systemd(source: SecretSource, environ: Mapping[str, str]) -> Path:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None or source.credential is None:
        raise CredentialError(Kind.DENIED, "there is no CREDENTIALS_DIRECTORY")
    return Path(folder) / source.credential
