"""What every engine behind `Store` must do with sessions of the pages: begun once, found by a hash, and ended for good."""

import asyncio
import hashlib

import pytest

from gateway.store.protocol import Store
from gateway.store.rows import SessionKind, SessionRow
from tests.store.building import HOUR, NOW, Reopen

SESSION, LINK = SessionKind
ANN, BEN = "key:k1", "oidc:ben"
LATE = NOW + 12 * HOUR


def token(name: str) -> bytes:
    """Make the hash of a token."""
    return hashlib.sha256(name.encode()).digest()


def session(
    name: str, *, kind: SessionKind = SESSION, who: str = ANN, used_at: int = NOW, ends_at: int = LATE
) -> SessionRow:
    """Make a sign-in with the token of this name."""
    return SessionRow(token(name), kind, who, "Ann Grün 🎉", NOW, used_at, ends_at)


async def begin(store: Store, *rows: SessionRow) -> None:
    """Begin sessions."""
    for row in rows:
        await store.begin_session(row)


async def left(store: Store, *names: str) -> list[str]:
    """Say which of these there still are."""
    return [name for name in names if await store.session(token(name)) is not None]


class SessionContract:
    """Who is signed in is known by the token's hash, until the session ends."""

    @pytest.mark.parametrize("kind", [SESSION, LINK])
    async def test_session_is_read_back_whole(self, store: Store, reopen: Reopen, kind: SessionKind) -> None:
        """All of it comes back, also after a restart and when it is over."""
        row = session("a", kind=kind, used_at=NOW + 1, ends_at=NOW + 2)
        await begin(store, row, session("b"))
        assert await store.session(row.token_sha256) == row
        async with reopen() as later:
            found = await later.session(row.token_sha256)
        assert (found, type(found and found.kind)) == (row, SessionKind)

    async def test_unknown_token_reads_as_nothing(self, store: Store) -> None:
        """There is no session of a token that none was begun with, and it is neither used nor ended."""
        await begin(store, session("a"))
        await store.use_session(token("b"), NOW)
        assert (await store.session(token("b")), await store.end_session(token("b"), SESSION)) == (None, None)

    async def test_session_is_begun_once(self, store: Store) -> None:
        """Whoever did not hear the answer asks again; nobody else's takes its place."""
        await begin(store, session("a"), session("a"), session("a", who=BEN))
        assert await store.session(token("a")) == session("a")

    async def test_use_never_moves_backward(self, store: Store) -> None:
        """The latest use stands, whichever is written last; other sessions are not used by it."""
        await begin(store, session("a"), session("b"))
        for at in (NOW + 5, NOW + 9, NOW + 7):
            await store.use_session(token("a"), at)
        assert await store.session(token("a")) == session("a", used_at=NOW + 9)
        assert await store.session(token("b")) == session("b")

    async def test_ended_session_is_given_back_and_gone(self, store: Store) -> None:
        """Whoever ends it learns what it was; the others stay."""
        await begin(store, session("a"), session("b"))
        await store.use_session(token("a"), NOW + 9)
        assert await store.end_session(token("a"), SESSION) == session("a", used_at=NOW + 9)
        assert await store.end_session(token("a"), SESSION) is None
        assert await left(store, "a", "b") == ["b"]

    async def test_link_is_had_once(self, store: Store) -> None:
        """Of many who ask at once one gets it."""
        link = session("a", kind=LINK)
        await begin(store, link)
        had = await asyncio.gather(*(store.end_session(link.token_sha256, LINK) for _ in range(10)))
        assert (had.count(link), had.count(None)) == (1, 9)

    async def test_link_is_no_session(self, store: Store) -> None:
        """What is asked for as the other kind stays where it is."""
        await begin(store, session("a"), session("b", kind=LINK))
        assert await store.end_session(token("a"), LINK) is None
        assert await store.end_session(token("b"), SESSION) is None
        assert await left(store, "a", "b") == ["a", "b"]

    async def test_all_of_a_person_end_together(self, store: Store) -> None:
        """Links too, and nobody else's."""
        await begin(store, session("a"), session("b", kind=LINK), session("c", who=BEN), session("d", who=f"{ANN}0"))
        assert await store.end_sessions(ANN) == 2
        assert await store.end_sessions(ANN) == 0
        assert await left(store, "a", "b", "c", "d") == ["c", "d"]

    async def test_what_is_over_is_pruned(self, store: Store) -> None:
        """Sessions and links whose end has come, however lately they were used."""
        await begin(
            store,
            session("a", used_at=NOW + 9, ends_at=NOW),
            session("b", kind=LINK, ends_at=NOW),
            session("c", ends_at=NOW + 1),
            session("d", kind=LINK, ends_at=NOW + 1),
        )
        assert await store.prune_sessions(NOW, 0, 10) == 2
        assert await left(store, "a", "b", "c", "d") == ["c", "d"]

    async def test_what_was_not_used_for_long_is_pruned(self, store: Store) -> None:
        """Sessions only: a link waits for its first use."""
        await begin(store, *(session(str(at), used_at=NOW + at) for at in range(3)), session("link", kind=LINK))
        assert await store.prune_sessions(NOW, NOW + 1, 10) == 1
        assert await left(store, "0", "1", "2", "link") == ["1", "2", "link"]

    async def test_pruning_deletes_so_many(self, store: Store) -> None:
        """Up to its limit, until there is no more."""
        await begin(store, *(session(str(number), ends_at=NOW) for number in range(5)), session("stays"))
        assert [await store.prune_sessions(NOW, 0, 2) for _ in range(4)] == [2, 2, 1, 0]
        assert await left(store, "stays") == ["stays"]
