"""Declarative files: TOML tables become directory objects, all faults told together."""

import json
import os
import tomllib
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from gateway.directory.entries import Item, place
from gateway.directory.keys import KeyText, new_key, parse_key
from gateway.directory.presets import filled
from gateway.directory.rules import RuleFault
from gateway.directory.shapes import DeclaredKey, Key, Link, Preferences, Profile, Shape, Template, Tenant
from gateway.settings import Fault, SettingsError

TABLES: Final[dict[str, type[Shape]]] = {
    "tenants": Tenant,
    "profiles": Profile,
    "links": Link,
    "preferences": Preferences,
    "templates": Template,
    "keys": DeclaredKey,
}


@dataclass(slots=True)
class Declaration:
    """What the files ask for, and where each object stands in them, for faults that show later."""

    items: list[Item] = field(default_factory=list)
    keys: list[DeclaredKey] = field(default_factory=list)
    origins: dict[tuple[str, str, str], tuple[str, str]] = field(default_factory=dict)

    def keys_of_nobody(self, tenants: Container[str]) -> list[RuleFault]:
        """Keys that are asked for a tenant that does not exist."""
        return [
            RuleFault("key", "", os.path.normpath(key.file), "unknown_tenant", "the tenant does not exist")
            for key in self.keys
            if key.tenant not in tenants
        ]

    def fault(self, fault: RuleFault) -> Fault:
        """Say where in the files a relation does not hold."""
        file, key = self.origins.get((fault.kind, fault.tenant, fault.name), ("", ""))
        what = " ".join(filter(None, (fault.kind, fault.tenant, fault.name)))
        return Fault(file or "[provision]", key or what, f"{fault.code}: {fault.detail}", f"change {what}")


def read_files(files: Sequence[Path]) -> Declaration:
    """Read declarative files; SettingsError with every fault in any of them."""
    declaration = Declaration()
    faults: list[Fault] = []
    for path in files:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            faults.append(Fault(str(path), "", f"cannot be read: {error.strerror}", "name an existing, readable file"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            faults.append(Fault(str(path), "", f"is not TOML: {error}", "correct the syntax"))
        except (ValueError, RecursionError):  # of numbers and tables that nobody writes by hand
            faults.append(Fault(str(path), "", "is not TOML: a number is too long, or tables too deep", "correct it"))
        else:
            faults += _read_tables(path, tables, declaration)
    if faults:
        raise SettingsError(tuple(faults))
    return declaration


def _read_tables(path: Path, tables: dict[str, object], declaration: Declaration) -> list[Fault]:
    faults: list[Fault] = []
    for name, rows in tables.items():
        shape = TABLES.get(name)
        if shape is None:
            faults.append(Fault(str(path), f"[[{name}]]", "is no table of these files", f"use {', '.join(TABLES)}"))
        elif not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            faults.append(Fault(str(path), f"[[{name}]]", "is not an array of tables", f"write [[{name}]]"))
        else:
            for index, row in enumerate(rows):
                faults += _read_row(path, f"[[{name}]][{index}]", shape, row, declaration)
    return faults


def _read_row(path: Path, key: str, shape: type[Shape], row: dict[str, Any], declaration: Declaration) -> list[Fault]:
    try:
        item = shape.model_validate_json(
            json.dumps(filled(row) if shape is Profile else row, default=_time), strict=True
        )
    except ValidationError as error:
        return [
            Fault(
                str(path),
                f"{key}{''.join(f'.{part}' for part in fault['loc'])}",
                _plain(fault["msg"]),
                "see the profile's and tenant's fields in the README",
            )
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    if isinstance(item, DeclaredKey):
        where = ("key", "", os.path.normpath(item.file))  # one file is one key
    elif isinstance(item, Tenant | Profile | Link | Preferences | Template):
        where = place(item)
    else:
        raise TypeError(shape)
    if where in declaration.origins:
        return [Fault(str(path), key, "is defined twice", f"keep one; the other is {declaration.origins[where][1]}")]
    if isinstance(item, DeclaredKey):
        declaration.keys.append(item)
    else:
        declaration.items.append(item)
    declaration.origins[where] = (str(path), key)
    return []


def _time(value: object) -> object:
    """TOML has times; the only ones here end keys, and are kept as milliseconds."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return round(value.timestamp() * 1000)
    return str(value)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").lower()


def key_file_faults(keys: Sequence[DeclaredKey], base: Path) -> list[Fault]:
    """Tell what is wrong with the key files that are there, as far as this user may look; none is made."""
    faults: list[Fault] = []
    for declared in keys:
        path = base / declared.file
        try:
            if path.exists():
                _read_key(path)
        except PermissionError:
            continue
        except (OSError, ValueError) as error:
            faults.append(_of_key_file(declared, path, error))
    return faults


def settle_keys(keys: Sequence[DeclaredKey], base: Path, now: int) -> list[Key]:
    """Read or make the key files; SettingsError if one is readable by others or holds no key."""
    made: list[Key] = []
    faults: list[Fault] = []
    for declared in keys:
        path = base / declared.file
        try:
            text = _read_key(path) if path.exists() else _make_key(path)
        except (OSError, ValueError) as error:
            faults.append(_of_key_file(declared, path, error))
            continue
        made.append(
            Key(
                tenant=declared.tenant,
                id=text.id,
                name=declared.name,
                scopes=declared.scopes,
                sha256_hex=text.sha256.hex(),
                created_at=now,
                expires_at=declared.expires_at,
                cidrs=declared.cidrs,
                mode=declared.mode,
                file=str(path),
            )
        )
    if faults:
        raise SettingsError(tuple(faults))
    return made


def _of_key_file(declared: DeclaredKey, path: Path, error: OSError | ValueError) -> Fault:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Fault(str(path), f"[[keys]] {declared.name}", str(reason), "remove the file to have a new one")


def _read_key(path: Path) -> KeyText:
    with path.open(encoding="ascii", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ValueError("is readable by others; its mode must be 0600")
        text = parse_key(file.read().strip())
    if text is None:
        raise ValueError("holds no well-formed key")
    return text


def _make_key(path: Path) -> KeyText:
    text = new_key()
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text.text() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return text
