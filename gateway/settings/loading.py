"""Read the settings file and the environment into `Settings`, or tell everything that is wrong with them at once."""

import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from gateway.settings.document import Settings
from gateway.settings.environment import ORIGIN, overlay, variables
from gateway.settings.explaining import Location, explain, key_of
from gateway.settings.faults import Fault, SettingsError
from gateway.settings.kinds import BASE, expect_table

DEFAULT_FILE = Path("/etc/notification-gateway/gateway.toml")


def default_path(environ: Mapping[str, str]) -> Path:
    """Return where the settings file is when none is named: $NOTIFICATION_GATEWAY_CONFIG, else under /etc."""
    return Path(environ.get("NOTIFICATION_GATEWAY_CONFIG") or DEFAULT_FILE)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings of a file with the environment's laid over them; no file means the defaults.

    Relative paths start at the file's folder (the current directory without a file) or at `[paths] base`.
    Raises `SettingsError` with every fault of both.
    """
    file = "settings" if path is None else str(path)
    folder = Path.cwd() if path is None else path.absolute().parent
    written, faults = overlay({} if path is None else _read(path), environ)
    written, base = _based(written, folder)
    try:
        settings = Settings.model_validate(written, context={BASE: base})
    except ValidationError as error:
        names: dict[Location, str] = {(one.section, one.key): one.name for one in variables(environ)}
        for location, problem, remedy in explain(error):
            faults.append(Fault(*_origin(location, file, names), problem, remedy))
        # `from None`: pydantic's error holds the refused values, and a traceback would print them.
        raise SettingsError(tuple(dict.fromkeys(faults))) from None
    if faults:
        raise SettingsError(tuple(faults))
    return settings


def admin_socket(path: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where the daemon of a settings file is spoken to, also while other settings of it are faulty.

    Raises `SettingsError` if the file cannot be read, or does not say where.
    """
    try:
        return load(path, environ).admin.socket
    except SettingsError:
        with suppress(ValidationError):
            return _alone("admin", path, environ).admin.socket
        raise


def provision_files(path: Path | None, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the provisioning files that a settings file names, also while other settings of it are faulty.

    None of them if it cannot be read, or does not say well which they are.
    """
    with suppress(ValidationError, SettingsError):
        return _alone("provision", path, environ).provision.files
    return ()


def _alone(section: str, path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read one section, with the defaults of all others. Raises `SettingsError` or `ValidationError`."""
    told = overlay({} if path is None else _read(path), environ)[0]
    told = {name: told[name] for name in ("paths", section) if name in told}
    told, base = _based(told, Path.cwd() if path is None else path.absolute().parent)
    return Settings.model_validate(told, context={BASE: base})


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem, remedy = f"cannot be read ({error.strerror})", "correct its path or permissions, or name another file"
    except UnicodeDecodeError as error:
        problem, remedy = f"is not UTF-8 at byte {error.start}", "save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem, remedy = f"is not TOML: {error}", "correct that line"
    except (ValueError, RecursionError):  # of numbers and tables that nobody writes by hand
        problem, remedy = "is not TOML that can be read: a number is too long, or tables too deep", "correct it"
    raise SettingsError((Fault(str(path), "", problem, remedy),))


def _based(written: dict[str, object], folder: Path) -> tuple[dict[str, object], Path]:
    paths = expect_table(written.get("paths"))
    given = paths.get("base", ".")
    if not isinstance(given, str) or "\0" in given:
        return written, folder  # refused when the section is validated
    # Resolved once, here: ".." means what it meant when the file was read, wherever links point later.
    base = Path(os.path.realpath(folder / given))
    return {**written, "paths": {**paths, "base": str(base)}}, base


def _origin(location: Location, file: str, variables: Mapping[Location, str]) -> tuple[str, str]:
    if variable := variables.get(location[:2]):
        return ORIGIN, variable
    return file, key_of(location)
