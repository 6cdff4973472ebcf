"""The daemon's own secrets: what it shows to a secret store to be let in. Read at each sign-in, so that they may change."""

from collections.abc import Mapping
from pathlib import Path

from gateway.credentials.provider import NoIdentity
from gateway.credentials.secret import Secret
from gateway.settings import SecretSource


def read_identity(source: SecretSource, environ: Mapping[str, str]) -> Secret:
    """Read a file, a systemd credential or a variable; one line break at its end is no part of it.

    Raises `NoIdentity`; its text names the place and nothing of what is there.
    """
    if source.env is not None:
        text = environ.get(source.env)
        if text is None:
            raise NoIdentity(f"the environment has no {source.env}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # octets that are not UTF-8
            raise NoIdentity(f"{source.env} is not UTF-8")
        return Secret(text)
    text = _read(source.file or _of_systemd(source, environ))
    return Secret(text.removesuffix("\n").removesuffix("\r"))


def _read(path: Path) -> str:
    """Read a file; no error of its reading, which might hold what was read, stays behind."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        trouble = "does not exist"
    except OSError as error:
        trouble = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        trouble = "is not UTF-8"
    raise NoIdentity(f"{path} {trouble}")


def _of_systemd(source: SecretSource, environ: Mapping[str, str]) -> Path:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None or source.credential is None:
        raise NoIdentity("there is no CREDENTIALS_DIRECTORY")
    return Path(folder) / source.credential
