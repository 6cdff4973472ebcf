"""The kinds of value that bodies and queries are made of: each with its one check and its JSON schema.

Addresses go through the one grammar of `gateway.message.address`. A refusal says what would be right and never
repeats what was given. Times are RFC 3339 outside and milliseconds since the epoch, UTC, inside.
"""

import base64
import binascii
import hashlib
import re
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema
from pydantic.config import JsonDict

from gateway.directory.kinds import ADDRESS_SCHEMA, Line, ObjectName, TenantId, line, mailbox, mailbox_document, refuse
from gateway.message.address import Mailbox
from gateway.message.times import time_text

MAX_CURSOR: Final = 256
MAX_SUBJECT: Final = 998  # characters; RFC 5322 §2.1.1 has as many in a line
MAX_HEADER_VALUE: Final = 2048
EARLIEST: Final = -62_135_596_800_000  # ms; the years 1 to 9999 in UTC, beyond which no time can be written …
LATEST: Final = 253_402_300_799_999  # … though one with an offset can be read
MAX_WORD: Final = 900  # octets that a structured header cannot fold, so that its line stays below 998

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CUSTOM_HEADER: Final = re.compile(r"[Xx]-[A-Za-z0-9-]{1,60}")
STRUCTURED_HEADERS: Final = frozenset({"list-unsubscribe", "list-unsubscribe-post", "references", "in-reply-to"})
_CHECKSUM: Final = 4  # octets of a cursor that tell a whole one from a damaged one

__all__ = ["ADDRESS_SCHEMA", "Line", "ObjectName", "TenantId", "mailbox_document"]


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise refuse("bad_base64", "The content is a text in Base64.")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError):
        raise refuse(
            "bad_base64", "The content is not canonical Base64 (RFC 4648 §4, padded, without line breaks)."
        ) from None


def parse_time(value: object) -> int:
    """Read an RFC 3339 time with its offset as milliseconds since the epoch."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            at = round(datetime.fromisoformat(value.upper()).timestamp() * 1000)
        except (ValueError, OverflowError):
            at = LATEST + 1
        if EARLIEST <= at <= LATEST:
            return at
    raise refuse("bad_time", "A time is written as in RFC 3339, with its offset: 2030-01-31T12:00:00Z.")


def show_time(at: int | None) -> str | None:
    """Write milliseconds since the epoch as an RFC 3339 time in UTC."""
    return None if at is None else time_text(at)


def _header_name(name: str) -> str:
    if name.lower() not in STRUCTURED_HEADERS and not _CUSTOM_HEADER.fullmatch(name):
        raise refuse(
            "bad_header", "Only X-*, List-Unsubscribe, List-Unsubscribe-Post, References and In-Reply-To may be set."
        )
    return name


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise refuse("bad_cidr", "A network is written as CIDR without host bits: 192.0.2.0/24.") from None


def write_cursor(last: bytes) -> str:
    """Make the opaque text that continues a list after the item of this name."""
    return base64.urlsafe_b64encode(last + _checksum(last)).decode().rstrip("=")


def read_cursor(value: object) -> bytes:
    """Find the name that a cursor continues after."""
    if isinstance(value, str) and len(value) <= MAX_CURSOR:
        try:
            raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        body = raw[:-_CHECKSUM]
        if body and raw[-_CHECKSUM:] == _checksum(body):
            return body
    raise refuse("bad_cursor", "The cursor is not one that a list has answered.")


def _checksum(raw: bytes) -> bytes:
    return hashlib.sha256(b"cursor" + raw).digest()[:_CHECKSUM]


TIME_SCHEMA: Final[JsonDict] = {"type": "string", "format": "date-time", "examples": ["2030-01-31T12:00:00Z"]}

Address = Annotated[Mailbox, PlainValidator(mailbox), WithJsonSchema(ADDRESS_SCHEMA)]
Addresses = Annotated[tuple[Address, ...], Field(max_length=100)]
BareAddresses = Annotated[
    tuple[Annotated[Mailbox, PlainValidator(mailbox), WithJsonSchema({"type": "string", "maxLength": 254})], ...],
    Field(max_length=100),
]
Category = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", max_length=100)]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SUBJECT), AfterValidator(line)]
Filename = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(line)]
MediaType = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}$", max_length=255)
]
ContentId = Annotated[str, StringConstraints(pattern=r"^<?[!-;=?-~]{1,200}>?$", max_length=202)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, StringConstraints(max_length=MAX_HEADER_VALUE), AfterValidator(line)]
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
Cursor = Annotated[bytes, PlainValidator(read_cursor), WithJsonSchema({"type": "string", "maxLength": MAX_CURSOR})]
