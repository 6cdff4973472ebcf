"""The kinds of value that keys hold, and `Section`, the frozen table that all of them are keys of.

Paths are resolved while they are validated: the loader passes the folder where relative paths start as the
validation context `{BASE: folder}`; without it they start at the current directory. Lists become tuples and tables
read-only mappings, so that loaded settings can be shared between tasks without a copy.
"""

import ipaddress
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.settings.faults import REFUSAL, kind_of, refusal, refuse
from gateway.settings.values import (
    HIGHEST_PORT,
    LISTEN_FORMS,
    EgressRule,
    ListenAddress,
    Network,
    SqliteUrl,
    StoreUrl,
    TcpAddress,
    UnixAddress,
    parse_host,
    parse_listen,
    parse_local_tcp,
    parse_network,
    parse_remote_tcp,
    parse_rule,
    parse_store,
    text,
)

BASE = "base"
"""The key of the validation context that holds the folder where relative paths start."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CREDENTIAL = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.@-]{1,255}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

T = TypeVar("T")
K = TypeVar("K")

Contradictions = Iterable[tuple[tuple[str, ...], PydanticCustomError]]
"""(path of the key, refusal) for every key that does not go with others."""


class Section(BaseModel):
    """A table of the settings file; it tells contradictions between its keys together with their own faults."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, hide_input_in_errors=True
    )

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Yield a refusal for every key that does not go with others; `keys` is as written, not yet validated."""
        del keys
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _tell_all_at_once(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # An "after" validator would stay silent for as long as any key of the table has a fault of its own.
        found = []
        if isinstance(data, Mapping):
            found = [InitErrorDetails(type=error, loc=key, input=None) for key, error in cls.contradictions(data)]
        try:
            section = handler(data)
        except ValidationError as error:
            found = [*_details(error), *found]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True)
        return section


def _details(error: ValidationError) -> list[InitErrorDetails]:
    return [
        InitErrorDetails(
            type=refusal(**line["ctx"]) if line["type"] == REFUSAL else line["type"],
            loc=line["loc"],
            input=line["input"],
            ctx=line.get("ctx", {}),
        )
        for line in error.errors(include_url=False)
    ]


def _from_base(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get(BASE) or Path.cwd()
    return base / path


def _path(value: object, info: ValidationInfo) -> Path:
    return _from_base(value if isinstance(value, Path) else Path(text(value)), info)


def _existing_file(path: Path) -> Path:
    if not stat.S_ISREG(_mode(path)):
        refuse("names something that is not a file", "name a file")
    if not os.access(path, os.R_OK):
        refuse("names a file that this user may not read", "give the daemon's user read access to it")
    return path


def _existing_folder(path: Path) -> Path:
    if not stat.S_ISDIR(_mode(path)):
        refuse("names something that is not a folder", "name a folder")
    return path


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        refuse(f"names a file or folder that cannot be used ({error.strerror})", "create it, or correct the path")


def _not_empty(items: tuple[T, ...]) -> tuple[T, ...]:
    if not items:
        refuse("is empty", "give at least one item")
    return items


def _listen(value: object, info: ValidationInfo) -> ListenAddress:
    address = parse_listen(value)
    return UnixAddress(_from_base(address.path, info)) if isinstance(address, UnixAddress) else address


def _store(value: object, info: ValidationInfo) -> StoreUrl:
    url = parse_store(value)
    return SqliteUrl(_from_base(url.path, info)) if isinstance(url, SqliteUrl) else url


def _name(value: object) -> str:
    if not _NAME.fullmatch(text(value)):
        remedy = "use lower-case letters, digits and hyphens (63 at most), beginning with a letter or digit"
        refuse("is not a well-formed name", remedy)
    return str(value)


def _tenant_or_any(value: object) -> str:
    return "*" if value == "*" else _name(value)


def _credential_name(value: object) -> str:
    if not _CREDENTIAL.fullmatch(text(value)):
        refuse("is not the name of a systemd credential", "name a file in $CREDENTIALS_DIRECTORY, without a path")
    return str(value)


def _variable(value: object) -> str:
    if not _VARIABLE.fullmatch(text(value)):
        refuse("is not the name of an environment variable", "use letters, digits and underscores")
    return str(value)


def _variable_pattern(value: object) -> str:
    # A bare "*" would hand the daemon's whole environment, its own keys included, to tenants.
    if not _VARIABLE.fullmatch(text(value).removesuffix("*")):
        remedy = 'write a name such as "SMTP_RELAY_A", or a beginning such as "SMTP_*"'
        refuse("is not a pattern for names of environment variables", remedy)
    return str(value)


def _web_url(value: object) -> str:
    written = text(value)
    try:
        parts = urlsplit(written)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("https", "http") or any(character.isspace() for character in written):
        refuse("is not a web address", 'write "https://host" or "https://host:port/path"')
    if "@" in parts.netloc or "?" in written or "#" in written:
        refuse("holds a login, a query or a fragment", 'write only "https://host:port/path"')
    return written.rstrip("/")


def _secret_url(value: object) -> str:
    written = _web_url(value)
    if written.startswith("http://") and not _is_loopback(urlsplit(written).hostname or ""):
        refuse("would carry secrets without TLS", "use https (http is accepted for this machine only)")
    return written


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _as_list(value: object) -> object:
    if not isinstance(value, str | list | tuple):
        refuse(f"must be an address or a list of them, but is {kind_of(value)}", LISTEN_FORMS)
    return [value] if isinstance(value, str) else value


# One text where a list may stand: this is also what lets the environment, which has no lists, set such a key.
ONE_OR_MANY = BeforeValidator(_as_list)

# TOML has lists, not tuples: the conversion is wanted, whereas the items stay strict.
Many = Annotated[tuple[T, ...], Field(strict=False)]
AtLeastOne = AfterValidator(_not_empty)
Table = Annotated[Mapping[K, T], AfterValidator(MappingProxyType)]

Text = Annotated[str, PlainValidator(text)]
Port = Annotated[int, Field(ge=1, le=HIGHEST_PORT)]
Name = Annotated[str, PlainValidator(_name)]
TenantOrAny = Annotated[str, PlainValidator(_tenant_or_any)]
CredentialName = Annotated[str, PlainValidator(_credential_name)]
Variable = Annotated[str, PlainValidator(_variable)]
VariablePattern = Annotated[str, PlainValidator(_variable_pattern)]
Host = Annotated[str, PlainValidator(parse_host)]
WebUrl = Annotated[str, PlainValidator(_web_url)]
SecretUrl = Annotated[str, PlainValidator(_secret_url)]
AnyPath = Annotated[Path, PlainValidator(_path)]
ExistingFile = Annotated[AnyPath, AfterValidator(_existing_file)]
ExistingFolder = Annotated[AnyPath, AfterValidator(_existing_folder)]
Listen = Annotated[ListenAddress, PlainValidator(_listen)]
Listens = Annotated[tuple[Listen, ...], Field(strict=False), ONE_OR_MANY]
LocalTcp = Annotated[TcpAddress, PlainValidator(parse_local_tcp)]
RemoteTcp = Annotated[TcpAddress, PlainValidator(parse_remote_tcp)]
Rule = Annotated[EgressRule, PlainValidator(parse_rule)]
Cidr = Annotated[Network, PlainValidator(parse_network)]
StoreLocation = Annotated[StoreUrl, PlainValidator(_store)]


class SecretSource(Section):
    """Where one of the daemon's own secrets lies: exactly one of a file, a systemd credential, a variable.

    `credential` is a name within $CREDENTIALS_DIRECTORY. The source is read when it is needed, so it need not be
    there when the settings are loaded.
    """

    file: AnyPath | None = None
    credential: CredentialName | None = None
    env: Variable | None = None

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse a source that is none, or several."""
        given = [key for key in cls.model_fields if keys.get(key) is not None]
        if len(given) != 1:
            problem = f"gives {' and '.join(given)}" if given else "gives no source"
            yield ("file",), refusal(problem, "give exactly one of file, credential and env")


def both_or_neither(keys: Mapping[str, object], first: str, second: str) -> Contradictions:
    """Yield a refusal under the key that is missing when only one of two keys is given."""
    given, missing = (first, second) if keys.get(first) is not None else (second, first)
    if keys.get(given) is None or keys.get(missing) is not None:
        return
    yield (missing,), refusal(f"is missing, while {given} is given", f"give {missing} too, or neither")


def expect_table(value: object) -> Mapping[str, object]:
    """Return a table as written, an empty one for anything else (whose kind is refused where it is validated)."""
    return value if isinstance(value, Mapping) else {}


def kinds_in(annotation: object) -> Iterator[object]:
    """Yield every type that an annotation is made of, `tuple[int, ...] | None` being a union, a tuple and more."""
    yield get_origin(annotation) or annotation
    for inner in get_args(annotation):
        yield from kinds_in(inner)


def sections_in(annotation: object) -> Iterator[type[Section]]:
    """Yield the sections that an annotation is made of."""
    for kind in kinds_in(annotation):
        if isinstance(kind, type) and issubclass(kind, Section):
            yield kind
