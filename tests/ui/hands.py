"""Two ways to use a page, each by itself: a person with a keyboard alone, and one with a mouse who types what they type.

Both know things by the names that assistive technology reads out, and see what came of what they did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from playwright.async_api import Locator

    from tests.ui.browser import Seen


class Hand(Protocol):
    """Somebody who uses a page."""

    seen: Seen

    async def press(self, name: str, then: str) -> None:
        """Press a button, follow a link, or open what is folded; wait until the page says something."""

    async def write(self, name: str, text: str) -> None:
        """Write into a field, in place of what stands there."""

    async def choose(self, name: str, option: str) -> None:
        """Choose one of a list."""

    async def tick(self, name: str) -> None:
        """Tick a box, or take its tick away."""

    async def pick(self, name: str, instead_of: str) -> None:
        """Of several of which one has to be chosen, choose another."""


class Opens(Protocol):
    """Opens a page as an administrator of a tenant, or as nobody yet."""

    async def __call__(self, path: str, tenant: str = "acme") -> Hand: ...


class Keyboard:
    """Goes by Tab, and sees at every step where the focus is."""

    def __init__(self, seen: Seen) -> None:
        """Use this page."""
        self.seen = seen
        self._keys = seen.page.keyboard

    async def press(self, name: str, then: str) -> None:
        """Press a button, follow a link, or open what is folded; wait until the page says something."""
        await self.seen.tab_to(name)
        await self._keys.press("Enter")
        await _says(self.seen, then)

    async def write(self, name: str, text: str) -> None:
        """Write into a field, in place of what stands there."""
        await self.seen.tab_to(name)
        await self._keys.press("Control+a")
        await self._keys.type(text)

    async def choose(self, name: str, option: str) -> None:
        """Choose one of a list by what it begins with."""
        await self.seen.tab_to(name)
        await self._keys.type(option)

    async def tick(self, name: str) -> None:
        """Tick a box, or take its tick away."""
        await self.seen.tab_to(name)
        await self._keys.press("Space")

    async def pick(self, name: str, instead_of: str) -> None:
        """Of several of which one has to be chosen, choose another: they are one stop of Tab, arrows go among them."""
        await self.seen.tab_to(instead_of)
        await self.seen.arrow_to(name)


class Mouse:
    """Clicks at what can be seen and nothing covers."""

    def __init__(self, seen: Seen) -> None:
        """Use this page."""
        self.seen = seen

    async def press(self, name: str, then: str) -> None:
        """Press a button, follow a link, or open what is folded; wait until the page says something."""
        page = self.seen.page
        by_role = page.get_by_role("button", name=name, exact=True).or_(page.get_by_role("link", name=name, exact=True))
        folded = page.locator("summary").and_(
            page.get_by_label(name, exact=True).or_(page.get_by_text(name, exact=True))
        )
        heading = page.locator("summary").filter(has=page.get_by_text(name, exact=True))
        await _first(by_role.or_(folded).or_(heading)).click()
        await _says(self.seen, then)

    async def write(self, name: str, text: str) -> None:
        """Write into a field, in place of what stands there."""
        await _first(self.seen.page.get_by_label(name, exact=True)).click()
        await self.seen.page.keyboard.press("Control+a")
        await self.seen.page.keyboard.type(text)

    async def choose(self, name: str, option: str) -> None:
        """Choose one of a list; the system draws it, and there is no system here whose list could be clicked at."""
        await _first(self.seen.page.get_by_label(name, exact=True)).select_option(label=option)

    async def tick(self, name: str) -> None:
        """Tick a box, or take its tick away."""
        await _first(self.seen.page.get_by_label(name, exact=True)).click()

    async def pick(self, name: str, instead_of: str) -> None:
        """Of several of which one has to be chosen, choose another."""
        assert await _first(self.seen.page.get_by_label(instead_of, exact=True)).is_checked()
        await self.tick(name)


def _first(found: Locator) -> Locator:
    """The first that can be seen."""
    return found.filter(visible=True).first


async def _says(seen: Seen, text: str) -> None:
    await _first(seen.page.get_by_text(text)).wait_for()
