"""How values are told to people: times, ages, counts, sizes, and the words and marks for each state."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.message.times import time_text

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
NONE: Final = "\N{EN DASH}"
_SIZES: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))

MARKS: Final[Mapping[str, str]] = {
    # good: nobody has to do anything
    "relayed": "good", "active": "good", "ok": "good", "used": "good", "live": "good",
    # going: something is being done, or will be
    "queued": "going", "scheduled": "going", "sending": "going", "deferred": "wait", "unused": "quiet",
    # wait: nothing goes on until somebody acts, or time passes
    "held": "wait", "paused": "wait", "open": "wait", "uncertain": "wait", "partially_relayed": "wait", "stale": "wait",
    # bad: it did not work
    "failed": "bad", "expired": "bad", "parked": "bad", "missing": "bad",
    # quiet: neither good nor bad
    "cancelled": "quiet", "disabled": "quiet", "test": "quiet", "unknown": "quiet",
}  # fmt: skip
"""How each state looks: `good`, `going`, `wait`, `bad` or `quiet`; a state that is not here is told as it is."""


def mark(state: str) -> str:
    """Name the look of a state; what is parked is so for a reason, which stands behind a colon."""
    return MARKS.get(state.partition(":")[0], "bad" if ":" in state else "quiet")


def words(state: str) -> str:
    """Tell a state or a code as words."""
    return state.replace("_", " ").replace(":", ": ")


def age(seconds: float | None) -> str:
    """Tell a duration in its two largest units."""
    if seconds is None:
        return NONE
    rest = max(0, int(seconds))
    parts = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def size(octets: int | None) -> str:
    """Tell a size."""
    if octets is None:
        return NONE
    for unit, octets_of_it in _SIZES:
        if octets >= octets_of_it:
            return f"{octets / octets_of_it:.1f} {unit}"
    return f"{octets} B"


def day_and_time(text: str | None) -> str:
    """Tell an RFC 3339 time to the second, as people read it; it stays UTC."""
    return NONE if text is None else f"{text[:10]} {text[11:19]}"


def mailbox(given: str | Mapping[str, str]) -> str:
    """Write an address as a person would, with its name if it has one."""
    if isinstance(given, str):
        return given
    return f"{given['name']} <{given['address']}>" if given.get("name") else given["address"]


def moment(at: int) -> str:
    """Tell milliseconds since the epoch to the second."""
    return day_and_time(time_text(at))


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "mark": mark,
    "words": words,
    "age": age,
    "size": size,
    "time": day_and_time,
    "mailbox": mailbox,
    "moment": moment,
}
