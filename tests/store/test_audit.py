"""The audit log's chain by itself: whatever is done to a row of it shows."""

import hashlib
import random

import pytest

from gateway.store.audit import GENESIS, broken, digest, following
from gateway.store.rows import AuditRow, Happening
from tests.store.building import NOW, happening

LENGTH = 8


def chain(length: int = LENGTH, tenant: str = "acme") -> list[AuditRow]:
    """Make a whole chain."""
    rows: list[AuditRow] = []
    for number in range(length):
        rows.append(following(rows[-1] if rows else None, happening(tenant, object=f"o{number}"), NOW + number))
    return rows


def test_digest_is_what_the_manual_says() -> None:
    """Anybody can check a row by hand."""
    row = AuditRow("acme", 1, 5, "key:ä", "acme", "x.y", "", "{}", b"")
    written = bytes(32) + b"4:acme,1:1,1:5,6:key:\xc3\xa4,4:acme,3:x.y,0:,2:{},"
    assert digest(GENESIS, row) == hashlib.sha256(written).digest()


def test_rows_follow_one_another() -> None:
    """Numbers count from 1, and what happened is told as it was."""
    first, second = chain(2)
    assert first[:-1] == ("acme", 1, NOW, "key:abc", "acme", "profile.update", "o0", '{"host":["a","b"]}')
    assert (second.number, second.at, second.hash) == (2, NOW + 1, digest(first.hash, second))


def test_whole_chains_are_whole() -> None:
    """Nothing, one row and many rows are fine, from the start and from anywhere on."""
    rows = chain()
    assert [broken(rows[:length]) for length in range(LENGTH + 1)] == [None] * (LENGTH + 1)
    assert [broken(rows[of.number :], of) for of in rows] == [None] * LENGTH


@pytest.mark.parametrize("field", AuditRow._fields)
@pytest.mark.parametrize("number", range(1, LENGTH + 1))
def test_changed_field_is_found(field: str, number: int) -> None:
    """Whichever field of whichever row is changed, the row is named."""
    rows = chain()
    old = getattr(rows[number - 1], field)
    new = bytes(32) if isinstance(old, bytes) else old + (1 if isinstance(old, int) else " ")
    rows[number - 1] = rows[number - 1]._replace(**{field: new})
    assert broken(rows) == number


@pytest.mark.parametrize("number", range(1, LENGTH + 1))
def test_changed_row_with_a_fitting_hash_is_found(number: int) -> None:
    """A row that was written anew breaks the chain behind it; only the last row has none behind it."""
    rows = chain()
    previous = rows[number - 2].hash if number > 1 else GENESIS
    forged = rows[number - 1]._replace(actor="key:other")
    rows[number - 1] = forged._replace(hash=digest(previous, forged))
    assert broken(rows) == (number + 1 if number < LENGTH else None)


@pytest.mark.parametrize("number", range(1, LENGTH))
def test_missing_row_is_found(number: int) -> None:
    """A row that is not there is named, also when those behind it were numbered anew."""
    rows = [row for row in chain() if row.number != number]
    renumbered = [row._replace(number=place) for place, row in enumerate(rows, 1)]
    assert (broken(rows), broken(renumbered)) == (number, number)


def test_any_other_order_is_found() -> None:
    """Rows in another order break the chain where the first of them is out of place."""
    rows = chain()
    shuffled = random.Random(1)
    for _ in range(200):
        order = shuffled.sample(rows, LENGTH)
        moved = next(
            (place for place, (one, other) in enumerate(zip(order, rows, strict=True), 1) if one != other), None
        )
        assert broken(order) == moved


def test_row_of_another_chain_is_found() -> None:
    """A repeated row, a row below the first and another tenant's row of the same number do not fit."""
    rows, others = chain(), chain(tenant="other")
    assert broken([*rows[:2], rows[1], *rows[2:]]) == 3
    assert broken([rows[0]._replace(number=0), *rows]) == 1
    assert broken([*rows[:2], others[2], *rows[3:]]) == 3


def test_text_does_not_move_between_fields() -> None:
    """Rows whose fields put together read the same have different hashes."""
    texts = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("a,1:b", "c"), ("a", "1:b,c")]
    rows = [following(None, Happening("acme", *pair, "x", "y", "{}"), NOW) for pair in texts]
    assert len({row.hash for row in rows}) == len(texts)


def test_text_that_no_file_keeps_is_refused() -> None:
    """Half a surrogate pair has no UTF-8, and so no hash."""
    with pytest.raises(UnicodeEncodeError):
        following(None, happening(object="\udcff"), NOW)
