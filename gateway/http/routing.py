"""From a method and a path to a route: literal paths by one look-up, the others segment by segment.

A `Router` finds in any table of methods and paths: the API's, and that of the pages. A `Route` is one line of the API: what dispatch needs to decide, and what the OpenAPI document says about it. Paths
are matched as they were sent, with percent-encoding undone per segment, so that an encoded slash never makes two.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel

from gateway.http.call import Answer, Call
from gateway.http.faults import Shape
from gateway.problems import Code

Handler = Callable[[Call], Awaitable[Answer]]
Locator = Callable[[Call], Awaitable[None]]

MAX_PATH: Final = 1024


class Subject(NamedTuple):
    """What some routes are about, as the API's description groups them."""

    name: str
    summary: str = ""


NO_SUBJECT: Final = Subject("")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One method of one path.

    `scopes`: any of them will do; empty means that nobody is asked who they are. `locate` finds the object of the
    path, or raises `not_found`, before scopes are looked at. A route with a `body` takes JSON, for PATCH also under the
    name of a merge patch, and nothing else.
    """

    method: str
    path: str
    name: str
    handler: Handler
    summary: str
    scopes: frozenset[str] = frozenset()
    locate: Locator | None = None
    query: type[Shape] | None = None
    body: type[BaseModel] | None = None
    status: int = 200
    makes: bool = False  # answers 201 instead if what the path names was not there
    answer: type[BaseModel] | None = None
    media_type: str = "application/json"
    events: bool = False  # answers server-sent events instead if they are asked for
    problems: tuple[Code, ...] = ()
    description: str = ""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    subject: Subject = NO_SUBJECT
    admitted: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Work out who gets in: `admin` holds every scope."""
        object.__setattr__(self, "admitted", self.scopes | {"admin"})

    @property
    def brings_mail(self) -> bool:
        """Is what it takes a notification, or makes one?"""
        return self.body is not None and "send" in self.scopes

    @property
    def public(self) -> bool:
        """Is it open to everybody?"""
        return not self.scopes


class Routed(Protocol):
    """One method of one path, of whatever table."""

    @property
    def method(self) -> str:
        """The method."""

    @property
    def path(self) -> str:
        """The path, with names in braces for segments that may be anything."""


R = TypeVar("R", bound=Routed)


@dataclass(slots=True)
class Resource(Generic[R]):
    """All methods of one path."""

    methods: dict[str, R] = field(default_factory=dict)

    def route(self, method: str) -> R | None:
        """Find the route of a method; HEAD is GET without its body."""
        return self.methods.get(method) or (self.methods.get("GET") if method == "HEAD" else None)

    @property
    def allow(self) -> str:
        """The methods, as the Allow header has them."""
        names = set(self.methods)
        if "GET" in names:
            names.add("HEAD")
        return ", ".join(sorted(names))


@dataclass(frozen=True, slots=True)
class _Pattern(Generic[R]):
    segments: tuple[str, ...]
    resource: Resource[R]

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        params: dict[str, str] = {}
        for pattern, segment in zip(self.segments, segments, strict=True):
            if pattern.startswith("{"):
                params[pattern[1:-1]] = unquote(segment) if "%" in segment else segment
            elif pattern != segment:
                return None
        return params


NO_PARAMS: Final[Mapping[str, str]] = {}


class Router(Generic[R]):
    """Finds routes in a table that never changes."""

    def __init__(self, routes: Iterable[R]) -> None:
        self.routes = tuple(routes)
        self._literal: dict[str, Resource[R]] = {}
        self._patterns: dict[int, list[_Pattern[R]]] = {}
        resources: dict[str, Resource[R]] = {}
        for route in self.routes:
            resources.setdefault(route.path, Resource()).methods[route.method] = route
        for path, resource in resources.items():
            if "{" not in path:
                self._literal[path] = resource
            else:
                segments = tuple(path.split("/"))
                self._patterns.setdefault(len(segments), []).append(_Pattern(segments, resource))

    def find(self, path: str) -> tuple[Resource[R], Mapping[str, str]] | None:
        """Find the resource of a raw path, and the values of its template's names."""
        resource = self._literal.get(path)
        if resource is not None:
            return resource, NO_PARAMS
        if len(path) > MAX_PATH:
            return None
        segments = tuple(path.split("/"))
        for pattern in self._patterns.get(len(segments), ()):
            params = pattern.match(segments)
            if params is not None:
                return pattern.resource, params
        return None
