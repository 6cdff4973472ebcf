"""The OpenAPI 3.1 document, written from the route table and its models.

Owns nothing that the routes do not say: parameters come from the path and the query model, bodies and answers from
their models, problems from the catalogue. The document is made once and kept, because the table never changes.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway import __version__
from gateway.http.body import kinds_of
from gateway.http.meanings import meaning
from gateway.http.routing import Route
from gateway.http.stream import MEDIA_TYPE as EVENTS
from gateway.problems import MEDIA_TYPE, Code

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]

REF: Final = "#/components/schemas/{model}"
REFERRED: Final = re.compile(r'"#/components/schemas/([^"]+)"')
PLACEHOLDER: Final = re.compile(r"(\w+/\{(\w+)\})")
PLACES: Final = {
    "tenants/{tenant}": "The tenant's id.",
    "profiles/{name}": "The profile's name.",
    "templates/{name}": "The template's name.",
    "secrets/{name}": "The secret's name.",
    "notifications/{id}": "The notification's id.",
    "webhooks/{id}": "The webhook's id.",
    "keys/{id}": "The key's id: what stands in it between `ngw_` and the next `_`.",
    "catcher/{number}": "The caught message's number.",
}
"""What the names in braces of a path stand for."""
METHODS_WITH_KEY: Final = (Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.INTERNAL)
BODY_PROBLEMS: Final = (
    Code.UNSUPPORTED_MEDIA_TYPE, Code.PAYLOAD_TOO_LARGE, Code.BAD_JSON, Code.REQUEST_TIMEOUT, Code.INVALID,
)  # fmt: skip
PROBLEM_SCHEMA: Final[Json] = {
    "title": "Problem",
    "description": "Why the request was refused (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(code.code for code in Code)},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) to what is wrong."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


@lru_cache(maxsize=4)
def document(routes: tuple[Route, ...]) -> bytes:
    """Write the document of these routes as JSON."""
    return json.dumps(specification(routes), separators=(",", ":")).encode()


def specification(routes: Iterable[Route]) -> Json:
    """Make the document of these routes."""
    table = tuple(routes)
    references, schemas = _schemas(table)
    paths: dict[str, Json] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Notification gateway",
            "version": __version__,
            "description": "Accepts notifications by HTTP, keeps them safe, and sends them by SMTP.",
        },
        "tags": [
            {"name": subject.name, "description": subject.summary}
            for subject in dict.fromkeys(route.subject for route in table)
        ],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": PROBLEM_SCHEMA},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key: ngw_<key id>_<secret>."}
            },
        },
    }


References = Mapping[Any, Json]  # by (model, mode); pydantic has a private name for the kind of model


def _schemas(routes: tuple[Route, ...]) -> tuple[References, Json]:
    wanted: dict[tuple[type[BaseModel], Mode], None] = {}
    for route in routes:
        if route.body is not None:
            wanted[route.body, "validation"] = None
        if route.answer is not None:
            wanted[route.answer, "serialization"] = None
    references, definitions = models_json_schema(list(wanted), ref_template=REF)
    schemas = definitions.get("$defs", {})
    for name in _held(schemas, [references[route.body, "validation"] for route in routes if route.body is not None]):
        _explain(name, schemas[name].get("properties", {}))
    return references, schemas


def _held(schemas: Json, given: Iterable[Json]) -> set[str]:
    """Name the schemas that bodies are made of."""
    found: set[str] = set()
    ahead = set(REFERRED.findall(json.dumps(list(given))))
    while ahead:
        found |= ahead
        ahead = set(REFERRED.findall(json.dumps([schemas[name] for name in ahead]))) - found
    return found


def _explain(model: str, members: Json) -> None:
    """Say what members are for, of which the model itself says nothing."""
    for name, schema in members.items():
        if "description" not in schema and (told := meaning(model, name)):
            schema["description"] = told


def _operation(route: Route, references: References) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [route.subject.name],
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {**_answers(route, references), **_problems(route)},
        "security": [] if route.public else [{"key": []}],
    }
    if route.description:
        operation["description"] = route.description
    if route.scopes:
        names = " or ".join(f"`{scope}`" for scope in sorted(route.scopes))
        operation["description"] = f"{route.description} Scope: {names}.".strip()
    if route.body is not None:
        schema = references[route.body, "validation"]
        content = {kind: {"schema": schema} for kind in kinds_of(route.method)}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "description": PLACES[place], "schema": {"type": "string"}}
        for place, name in PLACEHOLDER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[Json]:
    if route.query is None:
        return []
    # Inlined: a query has no object of its own that a reference could name.
    schema = route.query.model_json_schema(ref_template=REF)
    definitions: Json = schema.get("$defs", {})
    _explain(route.query.__name__, schema["properties"])
    return [
        {"name": name, "in": "query", "required": False, "schema": _inlined(_not_null(field), definitions)}
        | ({"description": field["description"]} if "description" in field else {})
        for name, field in schema["properties"].items()
    ]


def _not_null(field: Json) -> Json:
    """A parameter is absent rather than null."""
    choices = [choice for choice in field.get("anyOf", ()) if choice != {"type": "null"}]
    rest = {name: value for name, value in field.items() if name not in ("anyOf", "default", "title")}
    if len(choices) == 1:
        return {**choices[0], **rest}
    default = {} if field.get("default") is None else {"default": field["default"]}
    return {**({"anyOf": choices} if choices else {}), **rest, **default}


def _inlined(field: Json, definitions: Json) -> Json:
    if "$ref" not in field:
        return field
    definition: Json = definitions[field["$ref"].rpartition("/")[2]]
    return {**definition, **{name: value for name, value in field.items() if name != "$ref"}}


def _header_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.request_headers.items()
    ]


def _answers(route: Route, references: References) -> Json:
    answer = _answer(route, references)
    made = {"201": {**answer, "description": f"It is new. {answer['description']}"}} if route.makes else {}
    return {str(route.status): answer, **made}


def _answer(route: Route, references: References) -> Json:
    told = route.summary if route.answer is None else route.answer.__doc__ or route.summary
    answer: Json = {"description": told, "headers": _headers({**route.answer_headers, **REQUEST_ID})}
    if route.answer is not None:
        answer["content"] = {route.media_type: {"schema": references[route.answer, "serialization"]}}
    elif route.status != 204:
        kind = {"type": "object"} if route.media_type == "application/json" else {"type": "string"}
        answer["content"] = {route.media_type: {"schema": kind}}
    if route.events:
        answer["content"][EVENTS] = {"schema": {"type": "string"}}
    return answer


REQUEST_ID: Final = {"X-Request-Id": "The id under which the daemon's log tells of this request."}


def _headers(headers: Mapping[str, str]) -> Json:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}


def _problems(route: Route) -> Json:
    codes = [*route.problems, Code.INTERNAL]
    if not route.public:
        codes += [Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED]
    if "{" in route.path:
        codes.append(Code.NOT_FOUND)
    if route.body is not None:
        codes += BODY_PROBLEMS
    if not route.public:
        codes.append(Code.INVALID)
    if route.name == "readyz":
        return {**_by_status(codes), "503": _not_ready()}
    return _by_status(codes)


def _by_status(codes: Iterable[Code]) -> Json:
    sorted_codes = sorted(set(codes), key=lambda code: (code.status, code.code))
    answers: Json = {}
    for status in sorted({code.status for code in sorted_codes}):
        same = [code for code in sorted_codes if code.status == status]
        answers[str(status)] = {
            "description": "\n".join(f"`{code.code}`: {code.title}" for code in same),
            "headers": _headers(REQUEST_ID),
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}},
        }
    return answers


def _not_ready() -> Json:
    return {
        "description": "Not ready; the reasons say why.",
        "content": {"application/json": {"schema": {"$ref": REF.format(model="HealthView")}}},
    }
