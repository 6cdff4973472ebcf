"""The audit log's chain: what makes a row that was changed, moved or taken out show.

A tenant's rows are numbered 1, 2, … and each carries the SHA-256 of

    the hash of the row before (32 zero bytes before the first), then, in the order of `AuditRow`,
    each other field as `length:text,`: its UTF-8 text, numbers in decimal, after its length in bytes

so that nobody changes one row without writing all the later ones anew. A chain cannot tell that its newest rows were
cut off, nor that all of it was written anew: for that, keep the newest row's number and hash elsewhere.

Pure: the rows are read and written by the store.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final

from gateway.store.rows import AuditRow, Happening

GENESIS: Final = bytes(32)
PAGE: Final = 256  # rows that are checked at once: other readers get their turn in between
BEFORE_ALL: Final = -1 << 63  # a row that somebody smuggled in below number 1 is looked at, too
AFTER_ALL: Final = (1 << 63) - 1


def digest(previous: bytes, row: AuditRow) -> bytes:
    """Hash a row, its own `hash` aside, on top of the previous row's: 32 bytes.

    UnicodeEncodeError if a text holds half a surrogate pair, which no file could keep either.
    """
    hashed = sha256(previous)
    for field in row[:-1]:
        text = str(field).encode()
        hashed.update(b"%d:%b," % (len(text), text))
    return hashed.digest()


def following(last: AuditRow | None, happened: Happening, at: int) -> AuditRow:
    """Make the row that comes after the tenant's last one (None: there is none); `at` is in milliseconds."""
    number, previous = (last.number, last.hash) if last else (0, GENESIS)
    row = AuditRow._make((happened.tenant, number + 1, at, *happened[1:], b""))
    return row._replace(hash=digest(previous, row))


def broken(rows: Iterable[AuditRow], last: AuditRow | None = None) -> int | None:
    """Find the first number at which one tenant's chain has no row or a wrong hash; None if it is whole.

    `rows` are in the order of their numbers and go on after `last` (None: from the beginning).
    """
    number, previous = (last.number, last.hash) if last else (0, GENESIS)
    for row in rows:
        number += 1
        if row.number != number or row.hash != digest(previous, row):
            return number
        previous = row.hash
    return None


async def fault(page: Callable[[int], Awaitable[Sequence[AuditRow]]]) -> int | None:
    """Check one tenant's whole chain, page by page; answers as `broken` does.

    `page` reads the rows that come after a number, in the order of their numbers, `PAGE` at most; none: no more come.
    """
    last: AuditRow | None = None
    while rows := await page(last.number if last else BEFORE_ALL):
        if (number := broken(rows, last)) is not None:
            return number
        last = rows[-1]
    return None
