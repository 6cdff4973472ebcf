"""What browsers keep: the style, the scripts, the icon. Each is named with a hash of what it holds.

A name with a hash never means anything else, so browsers keep it for good; a daemon of another version names others.
The style is one answer, put together from the files of `static/style` in the order of their names.
"""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Final, NamedTuple

from gateway.http.call import Answer

PREFIX: Final = "/ui/static/"
TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
STYLE: Final = "style.css"

_FOLDER: Final = files("gateway.ui") / "static"


class _File(NamedTuple):
    body: bytes
    packed: bytes
    headers: Mapping[str, str]


def _contents() -> Iterator[tuple[str, bytes]]:
    parts = sorted((part for part in (_FOLDER / "style").iterdir() if part.name.endswith(".css")), key=lambda p: p.name)
    yield STYLE, b"\n".join(part.read_bytes() for part in parts)
    for part in _FOLDER.iterdir():
        if part.is_file() and part.name.rpartition(".")[2] in TYPES:
            yield part.name, part.read_bytes()


def _collected() -> tuple[dict[str, str], dict[str, _File]]:
    paths, found = {}, {}
    for name, body in _contents():
        stem, _, kind = name.rpartition(".")
        path = f"{PREFIX}{stem}.{hashlib.sha256(body).hexdigest()[:16]}.{kind}"
        headers = {
            "Content-Type": TYPES[kind],
            "Cache-Control": "public, max-age=31536000, immutable",
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        paths[name] = path
        found[path] = _File(body, gzip.compress(body, mtime=0), headers)
    return paths, found


_PATHS, _FILES = _collected()


def asset(name: str) -> str:
    """Name a file as pages refer to it. KeyError if there is none."""
    return _PATHS[name]


def static(path: str, *, packed: bool) -> Answer | None:
    """Answer a file by its path; None if there is none."""
    found = _FILES.get(path)
    if found is None:
        return None
    if packed:
        return Answer(200, found.packed, {**found.headers, "Content-Encoding": "gzip"})
    return Answer(200, found.body, found.headers)
