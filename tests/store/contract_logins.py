"""What every engine behind `Store` must do: counting logins that relays refuse."""

import asyncio
from itertools import count

import pytest

from gateway.store.protocol import Store
from gateway.store.rows import Ending, Permission, SignIn
from tests.store.building import HOUR, NOW, Reopen

GIVEN, LATER, REFUSED = Permission
ACME = SignIn("relay.example", "app", "acme")
ZOO = ACME._replace(tenant="zoo")
LATE = NOW + HOUR
_tickets = count(1)


async def ask(
    store: Store, who: SignIn = ACME, ticket: int | None = None, *, now: int = NOW, most: int | None = 3
) -> Permission:
    """Ask whether a login may be tried, to be counted for an hour."""
    ticket = next(_tickets) if ticket is None else ticket
    return await store.try_login(who, ticket, now, forget_at=now + HOUR, most=most)


async def refuse(store: Store, who: SignIn = ACME, *, times: int = 3) -> None:
    """Let a relay refuse logins that nobody had counted before."""
    for _ in range(times):
        await store.end_login(who, next(_tickets), Ending.REFUSED, forget_at=LATE)


class LoginContract:
    """Logins are counted before they are tried, for each account, whoever asks."""

    async def test_only_so_many_may_try_at_once(self, store: Store) -> None:
        """Of many that ask at the same time as many get leave as may be refused, and the others wait for answers."""
        answers = await asyncio.gather(*(ask(store) for _ in range(10)))
        assert sorted(answers, key=list(Permission).index) == [GIVEN] * 3 + [LATER] * 7

    async def test_what_was_refused_stands(self, store: Store) -> None:
        """Once the answers are there, and are no, nobody waits any more."""
        for ticket in (-1, -2, -3):
            assert await ask(store, ticket=ticket) is GIVEN
            await store.end_login(ACME, ticket, Ending.REFUSED, forget_at=LATE)
        assert await ask(store) is REFUSED

    async def test_refusals_and_those_who_try_add_up(self, store: Store) -> None:
        """With two refused one more may try, and the next waits for what that one is told."""
        await refuse(store, times=2)
        assert [await ask(store), await ask(store)] == [GIVEN, LATER]

    @pytest.mark.parametrize("ending", [Ending.ACCEPTED, Ending.UNTRIED])
    async def test_what_did_no_harm_is_taken_back(self, store: Store, ending: Ending) -> None:
        """A login that was accepted, or of which the relay said nothing, leaves room for the next."""
        for ticket in range(-9, 0):
            assert await ask(store, ticket=ticket) is GIVEN
            await store.end_login(ACME, ticket, ending, forget_at=LATE)
        assert await ask(store, ZOO) is GIVEN

    async def test_other_accounts_are_others(self, store: Store) -> None:
        """Another user there, and the same user elsewhere, have a count of their own."""
        await refuse(store)
        assert await ask(store, ACME._replace(user_hash="else")) is GIVEN
        assert await ask(store, ACME._replace(host="other.example")) is GIVEN

    async def test_the_account_counts_whoever_tries(self, store: Store) -> None:
        """Refusals of several tenants add up."""
        await refuse(store, times=2)
        await refuse(store, ZOO, times=1)
        assert await ask(store, ACME._replace(tenant="new")) is REFUSED

    async def test_who_has_signed_in_counts_alone(self, store: Store, reopen: Reopen) -> None:
        """Others' refusals keep nobody out who has signed in there before, in an earlier life too; its own do."""
        await store.end_login(ACME, next(_tickets), Ending.ACCEPTED, forget_at=LATE)
        await refuse(store, ZOO, times=5)
        async with reopen() as later:
            assert [await ask(later), await ask(later, ZOO)] == [GIVEN, REFUSED]
            await refuse(later, times=2)
            assert await ask(later) is LATER

    async def test_refusals_are_forgotten_in_time(self, store: Store) -> None:
        """Until then they count, and at that time no more."""
        await refuse(store)
        assert [await ask(store, now=LATE - 1), await ask(store, now=LATE)] == [REFUSED, GIVEN]

    async def test_an_answer_counts_from_when_it_came(self, store: Store) -> None:
        """However long the relay took to say no."""
        for ticket in (-1, -2, -3):
            await ask(store, ticket=ticket)
            await store.end_login(ACME, ticket, Ending.REFUSED, forget_at=LATE + 5)
        assert [await ask(store, now=LATE + 4), await ask(store, now=LATE + 5)] == [REFUSED, GIVEN]

    async def test_one_ticket_counts_once(self, store: Store) -> None:
        """Whoever did not hear the answer asks again, and has the same leave."""
        assert [await ask(store, ticket=ticket) for ticket in (-1, -1, -2, -3, -1)] == [GIVEN] * 5
        assert await ask(store) is LATER

    async def test_without_a_limit_it_is_only_counted(self, store: Store) -> None:
        """What a person allows is tried whatever there is, and counts like any other."""
        await refuse(store)
        assert await ask(store, ticket=-1, most=None) is GIVEN
        assert await ask(store) is REFUSED
        assert [await ask(store, most=4), await ask(store, most=5)] == [LATER, GIVEN]

    async def test_the_count_outlives_the_daemon(self, store: Store, reopen: Reopen) -> None:
        """Refusals stand after a restart; and what was tried then gets no answer any more, so nobody waits for it."""
        await refuse(store, times=1)
        assert [await ask(store), await ask(store)] == [GIVEN, GIVEN]
        async with reopen() as later:
            assert await ask(later) is REFUSED

    async def test_old_refusals_are_pruned(self, store: Store) -> None:
        """Those whose time is over are gone, also for a clock that is set back; the others stay."""
        await refuse(store)
        await refuse(store, ACME._replace(host="other.example"))
        await store.end_login(ZOO, next(_tickets), Ending.REFUSED, forget_at=LATE + 1)
        assert await store.prune(LATE, NOW, 10) == 0
        assert [await ask(store), await ask(store), await ask(store)] == [GIVEN, GIVEN, LATER]

    async def test_a_forgotten_tenant_has_signed_in_nowhere(self, store: Store) -> None:
        """What it got wrong still counts: the relay has not forgotten."""
        for who in (ACME, ZOO):
            await store.end_login(who, next(_tickets), Ending.ACCEPTED, forget_at=LATE)
        await refuse(store, times=1)
        await refuse(store, ACME._replace(tenant="new"), times=2)
        await store.forget("acme", 10)
        assert [await ask(store), await ask(store, ZOO)] == [REFUSED, GIVEN]
