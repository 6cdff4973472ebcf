"""What browsers keep: complete, unchanged, and named by what it holds."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from gateway.ui.assets import asset, static

if TYPE_CHECKING:
    from tests.ui.gateway import Gateway

FOLDER = files("gateway.ui") / "static"


def test_what_is_not_ours_is_as_it_was_published() -> None:
    """Each vendored file has the hash that the table beside it names."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (FOLDER / "VENDORED.md").read_text(), re.MULTILINE)
    assert rows
    for name, sha256 in rows:
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == sha256, name


def test_the_style_takes_its_colours_from_one_place() -> None:
    """No part but the ground names a colour, so that light and dark are chosen once."""
    for part in sorted((FOLDER / "style").iterdir(), key=lambda part: part.name)[1:]:
        named = re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl)a?\((?!0 0 0)", part.read_text())
        assert not named, part.name


def test_packed_is_the_same() -> None:
    """A browser that takes gzip gets the same octets."""
    for name in ("style.css", "htmx.min.js", "icon.svg"):
        plain, packed = static(asset(name), packed=False), static(asset(name), packed=True)
        assert plain is not None
        assert packed is not None
        assert gzip.decompress(packed.body) == plain.body


async def test_they_are_kept_for_good(gateway: Gateway) -> None:
    """Whoever is not signed in gets them too; an old name is not there any more."""
    from tests.ui.visitor import visiting

    async with visiting(gateway) as visitor:
        kept = await visitor.get(asset("style.css"))
        assert (kept.status, kept.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        assert kept.headers["Content-Type"] == "text/css; charset=utf-8"
        assert (await visitor.get("/ui/static/style.0000000000000000.css")).status == 404
        assert (await visitor.get("/ui/static/../templates/frame.html")).status == 404
        assert (await visitor.get("/ui/static/VENDORED.md")).status == 404
