"""The kinds of value that the directory's objects are made of, each with its one check.

A refusal says what would be right and never repeats what was given. Its kind is the code that callers are told.
"""

import base64
import binascii
import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import idna
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from gateway.message.address import AddressError, Mailbox, TextError, check_text, parse_address

MAX_NAME: Final = 200  # characters of a display name
RESERVED_NAMES: Final = frozenset({"test", "push"})
WEB_PORTS: Final = {"https": 443, "http": 80}
SIGNING_PREFIX: Final = "whsec_"
SIGNING_OCTETS: Final = (24, 64)  # the fewest and the most of a secret that signs

_WEB_URL: Final = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:\\\[\]]+)(?::([0-9]{1,5}))?"
    r"((?:/[a-z0-9._~!$&'()*+,;=:@/%-]*)?)((?:\?[a-z0-9._~!$&'()*+,;=:@/%?-]*)?)",
    re.IGNORECASE | re.ASCII,  # else a long s (U+017F) is an s
)


def refuse(kind: str, detail: str) -> PydanticCustomError:
    """Make the error that refuses a value with a code of our own."""
    # The sentence is a parameter, because a template would take its braces for one.
    return PydanticCustomError(kind, "{detail}", {"detail": detail})


def _host(text: str) -> str:
    """Accept a DNS name, kept as lower-case A-labels without the final dot, or a canonical IP literal."""
    try:
        literal = ip_address(text)
    except ValueError:
        pass
    else:
        if "%" in text:
            raise refuse("bad_host", "An address has no zone here.")
        return str(literal)
    name = text.removesuffix(".")
    try:
        name = name.lower() if name.isascii() else idna.encode(name).decode()
    except idna.IDNAError:
        raise refuse("bad_host", "This is no host name.") from None
    labels = name.split(".")
    bad = any(
        not 1 <= len(part) <= 63 or not part.replace("-", "a").isalnum() or "-" in (part[0], part[-1])
        for part in labels
    )
    if bad or len(name) > 253 or labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise refuse("bad_host", "A host is a DNS name, or an IP address in its usual form.")
    return name


def address(text: str) -> str:
    """Read an address by the one grammar; its canonical form."""
    try:
        return parse_address(text)
    except AddressError as error:
        raise refuse("bad_address", error.detail) from None


def line(text: str) -> str:
    """Accept text without control characters."""
    try:
        check_text(text)
    except TextError as error:
        raise refuse("control_character", error.detail) from None
    return text


def mailbox(value: object) -> Mailbox:
    """Accept `"ann@example.test"` and `{"name": "Ann", "address": "ann@example.test"}`."""
    if isinstance(value, Mailbox):
        return value
    if isinstance(value, str):
        return Mailbox(address(value))
    if not isinstance(value, dict) or not isinstance(value.get("address"), str):
        raise refuse(
            "bad_address", 'An address is "ann@example.test" or {"name": "Ann", "address": "ann@example.test"}.'
        )
    if not value.keys() <= {"address", "name"}:
        raise refuse("bad_address", "An address has no other fields than name and address.")
    name = value.get("name", "")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise refuse("bad_address", f"A display name is a text of at most {MAX_NAME} characters.")
    return Mailbox(address(value["address"]), line(name))


def _address_of(value: object) -> str:
    """Accept what `mailbox` does, and keep the address."""
    return mailbox(value).address


def mailbox_document(one: Mailbox) -> str | dict[str, str]:
    """Write an address as callers do: bare, or with its name."""
    return {"name": one.name, "address": one.address} if one.name else one.address


def _pattern(text: str) -> str:
    if text.startswith("*@"):
        address("x" + text[1:])
        return text.lower()
    return address(text)


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise refuse("bad_cidr", "A network is written as CIDR without host bits: 192.0.2.0/24.") from None


def _not_reserved(name: str) -> str:
    if name in RESERVED_NAMES:
        raise refuse("bad_value", "This name is taken by the API.")
    return name


class WebPlace(NamedTuple):
    """Whom a web address leads to: its scheme, its host as a name or an address without brackets, and its port."""

    scheme: str
    host: str
    port: int


def web_place(url: str) -> WebPlace:
    """Take apart a web address that was accepted."""
    parts = urlsplit(url)
    return WebPlace(parts.scheme, parts.hostname or "", parts.port or WEB_PORTS[parts.scheme])


def _web_url(text: str) -> str:
    """Accept a web address, kept with its host in the one form in which hosts are compared."""
    found = _WEB_URL.fullmatch(text)
    if found is None:
        raise refuse("bad_url", "A web address is https://host/path, without a login and without a fragment.")
    scheme, host, port, path, query = found.groups()
    name = _host(host.removeprefix("[").removesuffix("]"))
    if (":" in name) != host.startswith("["):
        raise refuse("bad_url", "In a web address an IPv6 address stands in brackets, and nothing else does.")
    if port is not None and not 1 <= int(port) <= 65535:
        raise refuse("bad_url", "A port is a number from 1 to 65535.")
    told = "" if port is None or int(port) == WEB_PORTS[scheme.lower()] else f":{int(port)}"
    return f"{scheme.lower()}://{f'[{name}]' if ':' in name else name}{told}{path or '/'}{query}"


def signing_key(secret: str) -> bytes:
    """Decode a secret that signs, as Standard Webhooks has it. ValueError if it is none."""
    if not secret.startswith(SIGNING_PREFIX):
        raise ValueError("it begins otherwise")
    key = base64.b64decode(secret.removeprefix(SIGNING_PREFIX), validate=True)
    if not SIGNING_OCTETS[0] <= len(key) <= SIGNING_OCTETS[1]:
        raise ValueError("it is too short, or too long")
    return key


def _signing_secret(text: str) -> str:
    try:
        signing_key(text)
    except (ValueError, binascii.Error):
        raise refuse("bad_base64", "A signing secret is whsec_ and 24 to 64 octets in Base64.") from None
    return text


def _each_once(events: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(events)) < len(events):
        raise refuse("repeated", "Each event is named once.")
    return events


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

TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
ProfileName = Annotated[ObjectName, AfterValidator(_not_reserved)]
Host = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_host)]
MailboxField = Annotated[
    Mailbox, BeforeValidator(mailbox), PlainSerializer(mailbox_document), WithJsonSchema(ADDRESS_SCHEMA)
]
Mailboxes = Annotated[tuple[MailboxField, ...], Field(max_length=100)]
AddressOfMailbox = Annotated[str, BeforeValidator(_address_of), WithJsonSchema(ADDRESS_SCHEMA)]
BareAddress = Annotated[str, StringConstraints(max_length=254), AfterValidator(address)]
SenderPattern = Annotated[str, StringConstraints(max_length=255), AfterValidator(_pattern)]
Line = Annotated[str, StringConstraints(max_length=MAX_NAME), AfterValidator(line)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(line)]
CategoryPattern = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$", max_length=100)]
NetworkText = Annotated[str, AfterValidator(_network)]
Scope = Literal["send", "read", "profiles", "secrets", "admin"]
WebUrl = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2_000),
    AfterValidator(_web_url),
    WithJsonSchema({"type": "string", "format": "uri", "maxLength": 2_000, "examples": ["https://example.test/hook"]}),
]
SigningSecret = Annotated[
    str,
    StringConstraints(max_length=100),
    AfterValidator(_signing_secret),
    WithJsonSchema({"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$", "maxLength": 100}),
]
EventType = Literal[
    "notification.relayed", "notification.failed", "notification.expired", "profile.parked", "profile.unparked"
]
EventTypes = Annotated[tuple[EventType, ...], Field(min_length=1, max_length=5), AfterValidator(_each_once)]
DisabledReason = Literal["gone", "failing", "overflow"]
