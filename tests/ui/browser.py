"""A browser that looks at pages as people do, and tells on every one that misbehaves.

Debian's Chromium (its headless shell, which needs half the CPU of the whole browser), driven by Playwright: started once
for all tests of a process. Each `open` is another person: a window of a width, light or dark, with cookies of its own.
Whatever a page does that it should not is a `Finding`: it writes errors or warnings to the console, throws, breaks its
Content-Security-Policy, fails to load something, or asks another host than those that were opened. At its end `watched`
fails for findings that nobody expected, and for expected ones that did not come. Nothing leaves the machine: no name but
loopback's resolves.

Nothing switches the policy off: what `evaluate` runs comes over the debugger, to which no policy applies.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import Error, async_playwright

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext, CDPSession, ConsoleMessage, Page, Request, WebError

CHROMIUM = Path("/usr/bin/chromium-headless-shell")
PHONE = 390
DESK = 1280
HEIGHT = 800
PATIENCE = 10.0  # seconds for what a page should do at once
TABS = 200
RULES = ("wcag2a", "wcag2aa", "wcag21aa", "best-practice")
GRAVE = ("serious", "critical")

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip
_VIOLATION = "content-security-policy:"
_GIVEN_UP = "net::ERR_ABORTED"  # the page went elsewhere, or a link was a download

# In every document before its first line: the console is what is still heard of a page that was left.
_WATCH = f"""document.addEventListener("securitypolicyviolation", event => console.error(
  "{_VIOLATION}", event.effectiveDirective, "forbids", event.blockedURI, event.sourceFile, event.lineNumber));"""

# Two turns of the event loop: whatever the page had to say is said. Without scripts there is none to turn.
_SETTLE = "() => new Promise(done => setTimeout(() => setTimeout(done)))"
_SETTLE_WITHOUT_SCRIPTS = "1"

_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5).slice(0, 5).map(one => one.cloneNode().outerHTML)"""

# What shows that something has focus: on itself, around it, beside it, or on its label.
_LOOKS = """const looks = one => [one, one.parentElement, one.nextElementSibling, ...(one.labels ?? [])].filter(Boolean)
  .map(shown => {
    const style = getComputedStyle(shown);
    const clear = /^(transparent|rgba\\(.*, 0\\))$/.test(style.outlineColor);
    const outline = style.outlineStyle === "none" || parseFloat(style.outlineWidth) === 0 || clear
      ? "none" : `${style.outlineStyle} ${style.outlineWidth} ${style.outlineColor}`;
    return [outline, style.boxShadow, style.borderColor, style.borderWidth, style.borderStyle, style.backgroundColor,
      style.textDecorationLine].join("|");
  }).join("\\n");"""
_UNFOCUSED = f"""() => {{
  {_LOOKS}
  const now = [...document.querySelectorAll("body *")].filter(one => !one.contains(document.activeElement));
  return new Map(now.map(one => [one, looks(one)]));
}}"""
_SHOWS_FOCUS = f"""async before => {{
  {_LOOKS}
  const focused = document.activeElement;
  if (!before.has(focused)) return true;  // it came later
  for (const end = performance.now() + 500; performance.now() < end; await new Promise(requestAnimationFrame))
    if (looks(focused) !== before.get(focused)) return true;
  return false;
}}"""


class Kind(StrEnum):
    """What pages can do wrong while somebody uses them."""

    CONSOLE = "console"
    THROWN = "thrown"
    POLICY = "policy"
    FAILED = "failed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a page did."""

    kind: Kind
    text: str
    page: str

    def __str__(self) -> str:
        """Say what it is, and where."""
        return f"{self.kind}: {self.text} (on {self.page})"


@dataclass(frozen=True, slots=True)
class _Expected:
    kind: Kind
    pattern: re.Pattern[str]

    def covers(self, finding: Finding) -> bool:
        return finding.kind is self.kind and self.pattern.search(finding.text) is not None


def browser_available() -> bool:
    """Whether there is a Chromium."""
    return CHROMIUM.exists()


def axe_available() -> bool:
    """Whether there is an axe-core."""
    return find_spec("axe_playwright_python") is not None


@cache
def _axe() -> str:
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


@asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """Run Chromium for as long as the block lasts; it takes a second to come up."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield running
        finally:
            await running.close()


@asynccontextmanager
async def watched(running: Chromium) -> AsyncIterator[Browser]:
    """Give a browser without history; fail when the block ends well and its pages did what they should not."""
    browser = Browser(running)
    try:
        yield browser
        await browser.verify()
    finally:
        await browser.close()


class Browser:
    """Opens pages, and remembers what they did wrong."""

    def __init__(self, running: Chromium) -> None:
        """Use a Chromium that runs."""
        self.findings: list[Finding] = []
        self._running = running
        self._hosts: set[str] = set()
        self._expected: list[_Expected] = []
        self._contexts: dict[BrowserContext, str] = {}  # … and what makes its pages settle

    async def open(
        self, url: str, *, width: int = DESK, scheme: Literal["light", "dark"] = "light", scripts: bool = True
    ) -> Seen:
        """Open a page in a window of its own, `width` CSS pixels wide; axe-core needs one that runs scripts."""
        self.allow(url)
        context = await self._running.new_context(
            viewport={"width": width, "height": HEIGHT},
            color_scheme=scheme,
            reduced_motion="reduce",
            java_script_enabled=scripts,
        )
        self._contexts[context] = _SETTLE if scripts else _SETTLE_WITHOUT_SCRIPTS
        context.set_default_timeout(PATIENCE * 1000)
        await context.add_init_script(_WATCH)
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("request", self._on_request)
        context.on("requestfailed", self._on_failed)
        seen = Seen(await context.new_page(), url)
        await seen.goto(url)
        return seen

    def allow(self, url: str) -> None:
        """Let pages ask this host too."""
        self._hosts.add(urlsplit(url).netloc)

    def expect(self, kind: Kind, pattern: str) -> None:
        """Say what the pages will do, once or more often, before they do: a finding whose text the pattern is in."""
        self._expected.append(_Expected(kind, re.compile(pattern)))

    async def verify(self) -> None:
        """Fail if anything happened that nobody expects, or did not happen though it was expected."""
        await self.settle()
        expected = [finding for finding in self.findings for one in self._expected if one.covers(finding)]
        unexpected = [finding for finding in self.findings if finding not in expected]
        missing = [one for one in self._expected if not any(map(one.covers, self.findings))]
        said = [*map(str, unexpected), *(f"expected and missing: {one.kind}: {one.pattern.pattern}" for one in missing)]
        assert not said, "\n".join(["what the pages did", *said])

    async def settle(self) -> None:
        """Wait until the open pages have said what they have to say."""
        for page, settled in [(page, how) for context, how in self._contexts.items() for page in context.pages]:
            try:
                await _ask(page, settled)
            except Error:  # on its way elsewhere, where it will say it
                await page.wait_for_load_state()

    async def close(self) -> None:
        """Close all windows."""
        for context in self._contexts:
            await context.close()

    def _found(self, kind: Kind, text: str, page: str) -> None:
        self.findings.append(Finding(kind, text, page))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning", "assert"}:
            policy = message.text.startswith(_VIOLATION) or "Content Security Policy" in message.text
            where = message.page.url if message.page else message.location["url"]
            self._found(Kind.POLICY if policy else Kind.CONSOLE, f"{message.text} {message.location['url']}", where)

    def _on_error(self, error: WebError) -> None:
        self._found(Kind.THROWN, str(error.error), error.page.url if error.page else "")

    def _on_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in {"data", "blob", "about"} and url.netloc not in self._hosts:
            self._found(Kind.FOREIGN, f"{request.method} {request.url}", _page_of(request))

    def _on_failed(self, request: Request) -> None:
        if request.failure != _GIVEN_UP:
            self._found(Kind.FAILED, f"{request.failure} {request.method} {request.url}", _page_of(request))


async def _ask(page: Page, script: str, given: object = None) -> Any:
    """Evaluate a script over the debugger, for which Playwright would wait for ever."""
    async with asyncio.timeout(PATIENCE):
        return await page.evaluate(script, given)


def _page_of(request: Request) -> str:
    try:
        return request.frame.url
    except Error:  # a page's first request has no frame yet
        return "a new page"


class Seen:
    """A page that somebody looks at; what they do there is done with `page`, Playwright's own."""

    def __init__(self, page: Page, url: str) -> None:
        """Nothing is loaded yet; `url` is where relative addresses start."""
        self.page = page
        self._base = url
        self._debugger: CDPSession | None = None

    async def goto(self, url: str) -> None:
        """Load another page, by its address or its path."""
        base = urlsplit(self._base)
        await self.page.goto(f"{base.scheme}://{base.netloc}{url}" if url.startswith("/") else url)

    async def text(self) -> str:
        """What the page says to those who see it."""
        return await self.page.locator("body").inner_text()

    async def axe(self) -> None:
        """Fail if something on the page shuts people out, by axe-core's judgement: serious or critical.

        What is in frames was written by others.
        """
        await _ask(self.page, _axe())
        asked = {
            "runOnly": {"type": "tag", "values": RULES},
            "resultTypes": ["violations"],
            "preload": False,
            "iframes": False,
        }
        found = await _ask(self.page, "asked => axe.run(document, asked)", asked)
        said = [line for rule in found["violations"] if rule["impact"] in GRAVE for line in _faults(rule)]
        assert not said, "\n".join([f"axe-core on {self.page.url}", *said])

    async def no_sideways_scroll(self) -> None:
        """Fail if the page is wider than its window."""
        wide, width = await _ask(self.page, "[document.scrollingElement.scrollWidth, innerWidth]")
        assert wide <= width, f"{self.page.url} is {wide} wide in {width}: {await _ask(self.page, _WIDE)}"

    async def tab_to(self, name: str) -> None:
        """Press Tab until what has this accessible name has focus; all on the way have to show that they have it."""
        unfocused = await self.page.evaluate_handle(_UNFOCUSED)
        passed = []
        for _ in range(TABS):
            await self.page.keyboard.press("Tab")
            if await _ask(self.page, "document.activeElement === document.body"):
                continue  # around the corner
            passed.append(await self._focused())
            shows = await _ask(self.page, _SHOWS_FOCUS, unfocused)
            assert shows, f"nothing shows that {passed[-1]!r} has focus, on {self.page.url}"
            if passed[-1] == name:
                return
        raise AssertionError(f"{TABS} times Tab, and never at {name!r}, only {[*dict.fromkeys(passed)]}")

    async def arrow_to(self, name: str) -> None:
        """Press the arrow up until what has this accessible name has focus, among those that are one stop of Tab."""
        passed = [await self._focused()]
        while passed[-1] != name:
            assert passed.count(passed[-1]) == 1, f"never at {name!r}, only {passed}"
            await self.page.keyboard.press("ArrowUp")
            passed.append(await self._focused())

    async def _focused(self) -> str:
        """The name by which assistive technology knows what has focus."""
        if self._debugger is None:
            self._debugger = await self.page.context.new_cdp_session(self.page)
        focused = await self._debugger.send("Runtime.evaluate", {"expression": "document.activeElement"})
        asked = {"objectId": focused["result"]["objectId"], "fetchRelatives": False}
        tree = await self._debugger.send("Accessibility.getPartialAXTree", asked)
        return str(tree["nodes"][0].get("name", {}).get("value", ""))


def _faults(rule: Any) -> list[str]:
    """One line for each element: what it breaks, which it is, how to mend it."""
    return [
        f"{rule['impact']} {rule['id']}: {node['html']} at {node['target']}: {' '.join(node['failureSummary'].split())}"
        for node in rule["nodes"]
    ]
