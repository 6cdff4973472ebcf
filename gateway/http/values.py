"""The kinds of value that bodies and queries are made of: each with its one check and its JSON schema.

Addresses go through the one grammar of `gateway.message.address`. A refusal says what would be right and never
repeats what was given. Times are RFC 3339 outside and milliseconds since the epoch, UTC, inside.
"""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final, NoReturn

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from gateway.message.address import AddressError, Mailbox, TextError, check_text, parse_address

MAX_NAME: Final = 200  # characters of a display name
MAX_SUBJECT: Final = 998  # characters; RFC 5322 §2.1.1 has as many in a line
MAX_HEADER_VALUE: Final = 2048
MAX_WORD: Final = 900  # octets that a structured header cannot fold, so that its line stays below 998

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CUSTOM_HEADER: Final = re.compile(r"[Xx]-[A-Za-z0-9-]{1,60}")
STRUCTURED_HEADERS: Final = frozenset({"list-unsubscribe", "list-unsubscribe-post", "references", "in-reply-to"})
_CHECKSUM: Final = 4  # octets of a cursor that tell a whole one from a damaged one


def refuse(kind: str, detail: str) -> NoReturn:
    """Refuse a value with a code of our own."""
    # The sentence is a parameter, because a template would take its braces for one.
    raise PydanticCustomError(kind, "{detail}", {"detail": detail})


def _mailbox(value: object) -> Mailbox:
    if isinstance(value, str):
        return Mailbox(_address(value))
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("address"), str)
        or not value.keys() <= {"name", "address"}
    ):
        refuse("bad_address", 'An address is "ann@example.test" or {"name": "Ann", "address": "ann@example.test"}.')
    name = value.get("name", "")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        refuse("bad_address", f"A display name is a text of at most {MAX_NAME} characters.")
    return Mailbox(_address(value["address"]), _line(name))


def _address(text: str) -> str:
    try:
        return parse_address(text)
    except AddressError as error:
        refuse("bad_address", error.detail)


def _line(text: str) -> str:
    try:
        check_text(text)
    except TextError as error:
        refuse("control_character", error.detail)
    return text


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        refuse("bad_base64", "The content is a text in Base64.")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError):
        refuse("bad_base64", "The content is not canonical Base64 (RFC 4648 §4, padded, without line breaks).")


def parse_time(value: object) -> int:
    """Read an RFC 3339 time with its offset as milliseconds since the epoch."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            at = datetime.fromisoformat(value.upper())
            return round(at.timestamp() * 1000)
        except (ValueError, OverflowError):
            pass
    refuse("bad_time", "A time is written as in RFC 3339, with its offset: 2030-01-31T12:00:00Z.")


def show_time(at: int | None) -> str | None:
    """Write milliseconds since the epoch as an RFC 3339 time in UTC."""
    return None if at is None else time_text(at)


def time_text(at: int) -> str:
    """Write milliseconds since the epoch as an RFC 3339 time in UTC."""
    seconds, milliseconds = divmod(at, 1000)
    return f"{_second_text(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=256)  # acceptances share their second with many others, and so do the ends of their lives
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def _header_name(name: str) -> str:
    if name.lower() not in STRUCTURED_HEADERS and not _CUSTOM_HEADER.fullmatch(name):
        refuse(
            "bad_header", "Only X-*, List-Unsubscribe, List-Unsubscribe-Post, References and In-Reply-To may be set."
        )
    return name


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        refuse("bad_cidr", "A network is written as CIDR without host bits: 192.0.2.0/24.")


def write_cursor(last_id: str) -> str:
    """Make the opaque text that continues a list after the notification with this id."""
    raw = bytes.fromhex(last_id)
    return base64.urlsafe_b64encode(raw + _checksum(raw)).decode().rstrip("=")


def read_cursor(value: object) -> str:
    """Find the id that a cursor continues after."""
    if isinstance(value, str) and len(value) <= 64:
        try:
            raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        body = raw[:-_CHECKSUM]
        if body and raw[-_CHECKSUM:] == _checksum(body):
            return body.hex()
    refuse("bad_cursor", "The cursor is not one that a list has answered.")


def _checksum(raw: bytes) -> bytes:
    return hashlib.sha256(b"cursor" + raw).digest()[:_CHECKSUM]


def mailbox_document(mailbox: Mailbox) -> str | dict[str, str]:
    """Write an address as callers do: bare, or with its name."""
    return {"name": mailbox.name, "address": mailbox.address} if mailbox.name else mailbox.address


ADDRESS_SCHEMA: Final[JsonDict] = {
    "title": "Address",
    "examples": ["ann@example.test", {"name": "Ann", "address": "ann@example.test"}],
    "oneOf": [
        {"type": "string", "maxLength": 254},
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": MAX_NAME},
                "address": {"type": "string", "maxLength": 254},
            },
            "required": ["address"],
            "additionalProperties": False,
        },
    ],
}
TIME_SCHEMA: Final[JsonDict] = {"type": "string", "format": "date-time", "examples": ["2030-01-31T12:00:00Z"]}

Address = Annotated[Mailbox, PlainValidator(_mailbox), WithJsonSchema(ADDRESS_SCHEMA)]
Addresses = Annotated[tuple[Address, ...], Field(max_length=100)]
TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Category = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", max_length=100)]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SUBJECT), AfterValidator(_line)]
Line = Annotated[str, StringConstraints(max_length=MAX_NAME), AfterValidator(_line)]
Filename = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_line)]
MediaType = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}$", max_length=255)
]
ContentId = Annotated[str, StringConstraints(pattern=r"^<?[!-;=?-~]{1,200}>?$", max_length=202)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, StringConstraints(max_length=MAX_HEADER_VALUE), AfterValidator(_line)]
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,255}$")]
Base64 = Annotated[
    bytes, PlainValidator(_base64), WithJsonSchema({"type": "string", "contentEncoding": "base64", "title": "Content"})
]
Time = Annotated[int, PlainValidator(parse_time), WithJsonSchema(TIME_SCHEMA)]
ShownAddress = Annotated[
    Mailbox,
    PlainSerializer(mailbox_document),
    WithJsonSchema(ADDRESS_SCHEMA),
]
ShownTime = Annotated[int, PlainSerializer(show_time), WithJsonSchema(TIME_SCHEMA)]
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["192.0.2.0/24"]}),
]
Cursor = Annotated[str, PlainValidator(read_cursor), WithJsonSchema({"type": "string", "maxLength": 64})]
