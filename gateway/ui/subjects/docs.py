"""The page about the API, made from the document that `/openapi.json` answers, for everybody.

It knows nobody and keeps nothing: requests that are tried on it go from the browser to the API, with a key that the page
forgets when it is left. The document never changes while the daemon runs, so the page is made once.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from gateway.http.call import Answer
from gateway.http.openapi import document
from gateway.http.routing import Route
from gateway.ui.rendering import html, rendered
from gateway.ui.schemas import Member, Schemas, Value

PATH: Final = "/docs"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, and where it stands: `path`, `query` or `header`."""

    place: str
    member: Member


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent, and an example of it as JSON."""

    value: Value
    example: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What may be answered; a refusal's lines each tell a code."""

    status: str
    lines: tuple[str, ...]
    headers: Mapping[str, str]
    media_types: tuple[str, ...]
    value: Value | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    told: str
    open: bool
    parameters: tuple[Parameter, ...]
    body: Body | None
    replies: tuple[Reply, ...]
    refusals: tuple[Reply, ...]
    media_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """An object that is answered, by its name."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Group:
    """Operations on one subject."""

    name: str
    told: str
    operations: tuple[Operation, ...]


def docs(routes: tuple[Route, ...], *, packed: bool) -> Answer:
    """Show the page about these routes; making it takes some tenths of a second, once."""
    return _made(routes)[packed]


@lru_cache(maxsize=4)
def _made(routes: tuple[Route, ...]) -> tuple[Answer, Answer]:
    described = json.loads(document(routes))
    problem = Schemas({}).read(described["components"]["schemas"]["Problem"])
    answered = Schemas(described["components"]["schemas"], by_name=True)
    groups = tuple(_groups(described, answered))
    shapes = [Shape(name, value) for name, value in answered.met()]
    page = rendered(
        "docs/page.html", info=described["info"], groups=groups, problem=problem, shapes=sorted(shapes, key=_by_name)
    )
    return html(page), html(page, packed=True)


def _by_name(shape: Shape) -> str:
    return shape.name


def _groups(described: Json, answered: Schemas) -> Iterator[Group]:
    schemas = Schemas(described["components"]["schemas"])
    operations = [
        (one["tags"][0], _operation(path, method, one, schemas, answered))
        for path, methods in described["paths"].items()
        for method, one in methods.items()
    ]
    for tag in described["tags"]:
        yield Group(tag["name"], tag["description"], tuple(made for name, made in operations if name == tag["name"]))


def _operation(path: str, method: str, described: Json, schemas: Schemas, answered: Schemas) -> Operation:
    replies = tuple(_reply(status, one, answered) for status, one in described["responses"].items())
    good = tuple(reply for reply in replies if reply.status.startswith("2"))
    return Operation(
        id=described["operationId"],
        method=method.upper(),
        path=path,
        summary=described["summary"],
        told=described.get("description", ""),
        open=not described["security"],
        parameters=tuple(_parameter(one, schemas) for one in described["parameters"]),
        body=_body(described, schemas),
        replies=good,
        refusals=tuple(reply for reply in replies if reply not in good),
        media_types=tuple(dict.fromkeys(kind for reply in good for kind in reply.media_types)),
    )


def _parameter(described: Json, schemas: Schemas) -> Parameter:
    told = described.get("description", "")
    member = schemas.member(described["name"], described["schema"], required=described["required"], told=told)
    return Parameter(described["in"], member)


def _body(described: Json, schemas: Schemas) -> Body | None:
    if "requestBody" not in described:
        return None
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    return Body(schemas.read(schema), json.dumps(schemas.example(schema), indent=2, ensure_ascii=False))


def _reply(status: str, described: Json, answered: Schemas) -> Reply:
    content = described.get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return Reply(
        status,
        tuple(described["description"].split("\n")),
        {name: header["description"] for name, header in described.get("headers", {}).items()},
        tuple(content),
        None if schema is None else answered.read(schema),
    )
