"""The kinds of value that the directory's objects are made of, each with its one check.

A refusal says what would be right and never repeats what was given. Its kind is the code that callers are told.
"""

from ipaddress import ip_address, ip_network
from typing import Annotated, Final, Literal

import idna
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from gateway.message.address import AddressError, Mailbox, TextError, check_text, parse_address

MAX_NAME: Final = 200  # characters of a display name
RESERVED_NAMES: Final = frozenset({"test", "push"})


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
BareAddress = Annotated[str, StringConstraints(max_length=254), AfterValidator(address)]
SenderPattern = Annotated[str, StringConstraints(max_length=255), AfterValidator(_pattern)]
Line = Annotated[str, StringConstraints(max_length=MAX_NAME), AfterValidator(line)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(line)]
CategoryPattern = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$", max_length=100)]
NetworkText = Annotated[str, AfterValidator(_network)]
Scope = Literal["send", "read", "profiles", "secrets", "admin"]
