"""The guard of accounts against being locked, at a relay that counts, and what waits for a secret that changes."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.directory.shapes import Tenant
from gateway.outbox.states import State
from gateway.outbox.verdict import SLOW_PROBES, Park, Rest, consequence
from gateway.relay import guard
from gateway.relay.guard import MOST_REFUSALS, OTHERS_FIRST, TOO_OFTEN, UNCOUNTABLE, Guard
from gateway.smtp.dial import Dialer
from gateway.smtp.outcome import Fault, Trouble
from gateway.smtp.sasl import Login, Method
from gateway.smtp.session import Opener, Relay, Security
from gateway.smtp.transaction import Engine
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.sqlite import SqliteStore
from tests.peers.postgresql import VERSIONS, of_our_own
from tests.peers.smtp_server import Close, Hold, Reply, ScriptedRelay, issue_tls
from tests.relay.world import EGRESS, IN_CLEAR, SEAL, password, profile, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.store.protocol import Store
    from tests.peers.postgresql import Postgresql, Servers

    Daemons = Callable[[int], AbstractAsyncContextManager[list[Store]]]

PLACE = ("acme", "main")
STORED = {"source": "stored", "key": "later"}


def refused(relay: ScriptedRelay) -> list[str]:
    """The passwords that the relay did not take."""
    return [login.password for session in relay.sessions for login in session.logins if not login.accepted]


async def test_profiles_that_share_an_account_wait_for_each_other(tmp_path: Path) -> None:
    """Eight tenants sign in as one user with a wrong password, all at once: three wrong logins, and no more."""
    tenants = [f"tenant-{number}" for number in range(8)]
    async with ScriptedRelay(users={"app": "right"}) as relay:
        profiles = [profile(relay.port, one, auth=password(SEAL, one, "main", f"wrong of {one}")) for one in tenants]
        async with world(tmp_path, *(Tenant(id=one) for one in tenants), *profiles) as at:
            mails = [await at.post(one) for one in tenants]
            for one in tenants:
                await at.until((one, "main"), "parked:auth_failed")
            states = {(one.state, one.attempts) for mail in mails for one in await at.recipients(mail)}

    assert len(refused(relay)) <= MOST_REFUSALS
    assert states == {(State.QUEUED, 0)}


async def test_an_account_is_tried_by_one_after_the_other(tmp_path: Path) -> None:
    """While a relay thinks about one login the owner's second profile with the same user does not even connect."""
    answer = asyncio.Event()
    auths = {name: password(SEAL, "acme", name, "right") for name in ("main", "second", "other")}
    auths["other"]["username"] = "else"
    async with ScriptedRelay(users={"app": "right", "else": "right"}) as relay:
        relay.on("auth", Hold(answer), match="app", once=True)
        profiles = [
            profile(relay.port, name=name, is_default=name == "main", **{"from": f"{name}@acme.example"}, auth=auth)
            for name, auth in auths.items()
        ]
        async with world(tmp_path, *profiles) as here:
            await here.post("acme")
            await relay.wait(lambda: any("AUTH" in session.verbs for session in relay.sessions))
            await here.post("acme", profile="second")
            await here.post("acme", profile="other")
            [first] = list(await relay.wait_messages(1))
            sessions = len(relay.sessions)
            answer.set()
            await relay.wait_messages(3)

    assert (first.mail_from, sessions) == ("other@acme.example", 2)


async def test_nobody_waits_for_what_others_have_at_an_account(tmp_path: Path) -> None:
    """Somebody's relay, at another port, keeps the owner's profile waiting, and nobody else's with the same user."""
    async with ScriptedRelay(users={"app": "right"}) as relay, ScriptedRelay() as slow:
        slow.on("connect", Hold(asyncio.Event()))
        ours, theirs = (
            profile(one.port, tenant, auth=password(SEAL, tenant, "main", "right"))
            for one, tenant in ((relay, "acme"), (slow, "zoo"))
        )
        async with world(tmp_path, ours, theirs) as here:
            await here.post("zoo")
            await slow.wait(lambda: slow.sessions)
            await here.post("acme")
            await relay.wait_messages(1)
            slow.cut()


async def test_of_two_refused_passwords_neither_is_tried_again(tmp_path: Path) -> None:
    """Rotated from one wrong value to another: whatever changes in the directory, both are known to be refused."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "relay-a").write_text("first\n")
    lent = {"username": "app", "credential": {"source": "file", "key": "relay-a"}}
    async with ScriptedRelay(users={"app": "first", "else": "right"}) as relay:
        ours = profile(relay.port, auth=lent, limits={"messages_per_connection": 1})
        other = {**password(SEAL, "zoo", "main", "right"), "username": "else"}
        async with world(tmp_path, ours, profile(relay.port, "zoo", auth=other), secrets=secrets) as at:
            await at.post("acme")
            await relay.wait_messages(1)
            relay.users = {"app": "third", "else": "right"}
            (secrets / "relay-a").write_text("second\n")
            await at.post("acme")
            await at.until(PLACE, "parked:auth_failed")
            for number in range(2, 5):
                await at.put(Tenant(id=f"new-{number}"))
                await at.post("zoo")
                await relay.wait_messages(number)
            stood = at.dispatcher.states()[PLACE]
            (secrets / "relay-a").write_text("third\n")
            await at.dispatcher.resume(PLACE)
            await relay.wait_messages(5)

    assert stood == "parked:auth_failed"
    assert sorted(refused(relay)) == ["first", "second"]


def signing_key() -> str:
    """A key that DKIM can sign with."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("slot", ["dkim.key", "tls.client_certificate"])
async def test_a_profile_without_a_login_goes_on_once_its_secret_is_there(tmp_path: Path, slot: str) -> None:
    """Parked for want of a DKIM key or a client certificate, though nobody signs in: it leaves by itself."""
    authority = trustme.CA()
    tls = issue_tls(authority=authority)
    authority.configure_trust(tls.context)
    tls.context.verify_mode = ssl.CERT_OPTIONAL
    trusted = {"ca_certificates": tls.ca_pem}
    more: dict[str, Any]
    if slot == "dkim.key":
        value = signing_key()
        more = {"tls": trusted, "dkim": {"domain": "acme.example", "selector": "s", "key": STORED}}
    else:
        value = authority.issue_cert(common_name="acme").private_key_and_cert_chain_pem.bytes().decode()
        more = {"tls": {**trusted, "client_certificate": STORED}}
    async with (
        ScriptedRelay(tls=tls.context, implicit_tls=True) as relay,
        world(tmp_path, profile(relay.port, security="implicit_tls", **more)) as at,
    ):
        mail = await at.post("acme")
        await at.until(PLACE, "parked:secret_missing")
        states = {(one.state, one.attempts) for one in await at.recipients(mail)}
        before = len(relay.sessions)
        await at.directory.put_secret(OPERATOR, "acme", "later", Secret(value))
        [caught] = await relay.wait_messages(1)

    assert (states, before) == ({(State.QUEUED, 0)}, 0)
    assert caught.data.startswith(b"DKIM-Signature:") is (slot == "dkim.key")
    assert [shaken.client for shaken in relay.handshakes] == [None if slot == "dkim.key" else "acme"]


# The count, over several daemons and lives.


OPENER = Opener(Dialer(EGRESS), "gateway.example.test", plaintext_auth=IN_CLEAR)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def engine(request: pytest.FixtureRequest, postgresql_servers: Servers) -> Postgresql | None:
    """Give the server that several daemons share; None: they are in one process, on SQLite."""
    return None if request.param == "SQLite" else postgresql_servers[VERSIONS[-1]]


@pytest.fixture
async def daemons(engine: Postgresql | None, tmp_path: Path) -> AsyncIterator[Daemons]:
    """Open what so many daemons keep the count in, the same each time."""
    if engine is None:
        yield lambda number: _on_sqlite(tmp_path, number)
        return
    schema = await engine.make_schema()
    yield lambda number: _on_postgresql(engine, schema, number)
    await engine.execute(f"DROP SCHEMA {schema} CASCADE")


@asynccontextmanager
async def _on_sqlite(folder: Path, number: int) -> AsyncIterator[list[Store]]:
    async with SqliteStore(folder / "gateway.db") as store:
        yield [store] * number


@asynccontextmanager
async def _on_postgresql(server: Postgresql, schema: str, number: int) -> AsyncIterator[list[Store]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(PostgresqlStore(Server(server.url, schema=schema))) for _ in range(number)
        ]


def at(relay: ScriptedRelay, value: str = "wrong", *, port: int | None = None) -> Relay:
    """Sign in as the user `app` with this password."""
    login = Login(Method.AUTO, "app", Secret(value))
    return Relay("127.0.0.1", relay.port if port is None else port, Security.NONE, login=login)


async def try_at(guarded: Guard, relay: Relay, owner: str = "acme") -> Fault | None:
    """Open a session and leave; the fault, if there is none."""
    opened = await guarded.open(owner, relay, OPENER)
    if isinstance(opened, Engine):
        await opened.quit()
        return None
    return opened


def troubles(faults: list[Fault | None]) -> list[str]:
    """Tell faults in a word, those of the guard apart from the relay's."""
    words = {None: "accepted", TOO_OFTEN: "too often", OTHERS_FIRST: "others first", UNCOUNTABLE: "uncountable"}
    return [words.get(fault) or str(fault and fault.trouble) for fault in faults]


async def test_daemons_share_the_tries(daemons: Daemons) -> None:
    """Two daemons in turn have three tries together, whoever owns the profile."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as stores:
        first, second = map(Guard, stores)
        faults = [await try_at(one, at(relay), owner) for owner in ("acme", "zoo") for one in (first, second)]

    assert troubles(faults) == ["auth_failed"] * 3 + ["too often"]
    assert len(refused(relay)) == 3


async def test_daemons_at_the_same_instant(daemons: Daemons) -> None:
    """However many try at once the relay sees three, and the others wait until it has said no to those."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as stores:
        guards = [Guard(store) for store in stores for _ in range(5)]
        faults = await asyncio.gather(*(try_at(one, at(relay)) for one in guards))

    assert sorted(troubles(faults)) == ["auth_failed"] * 3 + ["too often"] * 7
    assert len(refused(relay)) == 3


async def test_right_logins_at_the_same_instant(daemons: Daemons) -> None:
    """Though not all may try at once nobody is sent away who has the right password: two were refused already."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as stores:
        guards = [Guard(store) for store in stores for _ in range(2)]
        before = [await try_at(guards[0], at(relay)) for _ in range(2)]
        owners = [f"tenant-{number}" for number in range(len(guards))]
        faults = await asyncio.gather(
            *(try_at(one, at(relay, "right"), owner) for one, owner in zip(guards, owners, strict=True))
        )

    assert troubles([*before, *faults]) == ["auth_failed"] * 2 + ["accepted"] * 4


async def test_who_waits_too_long_comes_back(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a relay answers nobody the fourth is not tried, which blames no password; it is once one was accepted."""
    monkeypatch.setattr(guard, "ASKS", 2)
    answer = asyncio.Event()
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as stores:
        relay.on("auth", Hold(answer))
        guards = [Guard(store) for store in stores for _ in range(2)]
        three = [asyncio.ensure_future(try_at(one, at(relay, "right"))) for one in guards[:3]]
        await relay.wait(lambda: sum("AUTH" in session.verbs for session in relay.sessions) == 3)
        fourth = [await try_at(guards[3], at(relay, "right"))]
        answer.set()
        faults = [*fourth, *await asyncio.gather(*three), await try_at(guards[3], at(relay, "right"))]

    assert troubles(faults) == ["others first"] + ["accepted"] * 4


async def test_the_count_survives_restarts(daemons: Daemons) -> None:
    """A daemon that is started again and again has no more tries than one that runs."""
    faults = []
    async with ScriptedRelay(users={"app": "right"}) as relay:
        for _ in range(5):
            async with daemons(1) as [store]:
                faults.append(await try_at(Guard(store), at(relay)))

    assert troubles(faults) == ["auth_failed"] * 3 + ["too often"] * 2
    assert len(refused(relay)) == 3


@pytest.mark.parametrize("crashes", [True, False], ids=["crashes", "stops"])
async def test_who_never_heard_the_answer_stays_counted(daemons: Daemons, *, crashes: bool) -> None:
    """A daemon that ends between the login and its answer does not know what the relay made of it."""
    async with ScriptedRelay(users={"app": "right"}) as relay:
        relay.on("auth", Hold(asyncio.Event()))
        for number in range(1, 4):
            async with daemons(1) as [store]:
                trying = asyncio.ensure_future(try_at(Guard(store), at(relay)))
                await relay.wait(lambda number=number: sum("AUTH" in one.verbs for one in relay.sessions) == number)
                if not crashes:
                    trying.cancel()
                    await asyncio.wait([trying])
            trying.cancel()  # which it can tell no store any more
            await asyncio.wait([trying])
        async with daemons(1) as [store]:
            faults = [await try_at(Guard(store), at(relay))]

    assert troubles(faults) == ["too often"]


async def test_who_never_heard_its_leave_is_counted_once(daemons: Daemons) -> None:
    """A lane that is taken away again and again while it asks uses up one try at most, and its next one is under it."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(1) as [store]:
        guarded = Guard(store)
        for _ in range(4):
            asking = asyncio.ensure_future(try_at(guarded, at(relay)))
            await asyncio.sleep(0)  # it has asked
            asking.cancel()
            await asyncio.wait([asking])
        faults = [await try_at(guarded, at(relay)) for _ in range(4)]

    assert troubles(faults) == ["auth_failed"] * 3 + ["too often"]


async def test_who_never_came_to_sign_in_is_not_counted(daemons: Daemons) -> None:
    """Relays that are away, or hang up before, have not seen the login."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(1) as [store]:
        relay.on("ehlo", Close(), nth=range(1, 5))
        faults = [await try_at(Guard(store), at(relay, port=1)) for _ in range(4)]
        faults += [await try_at(Guard(store), at(relay)) for _ in range(4)]
        faults += [await try_at(Guard(store), at(relay))]

    assert troubles(faults) == [*["unreachable"] * 8, "auth_failed"]


async def test_who_stops_before_signing_in_is_not_counted(daemons: Daemons) -> None:
    """A daemon that is stopped while the relay keeps it waiting for EHLO's answer has shown it no login."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(1) as [store]:
        relay.on("ehlo", Hold(asyncio.Event()), nth=range(1, 5))
        for number in range(1, 5):
            trying = asyncio.ensure_future(try_at(Guard(store), at(relay)))
            await relay.wait(lambda number=number: sum("EHLO" in one.verbs for one in relay.sessions) == number)
            trying.cancel()
            await asyncio.wait([trying])
        faults = [await try_at(Guard(store), at(relay))]

    assert troubles(faults) == ["auth_failed"]


@pytest.mark.parametrize("answer", [Close(), Reply("454 4.7.0 later"), Reply("504 5.5.4 what?")])
async def test_a_dubious_answer_counts(daemons: Daemons, answer: Close | Reply) -> None:
    """A relay that hangs up, puts off or understands nothing may mean no; of a login that it took before it does not."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(1) as [store]:
        proven = Guard(store)
        await try_at(proven, at(relay, "right"), "old")
        relay.on("auth", answer)
        faults = [await try_at(Guard(store), at(relay)) for _ in range(4)]
        faults += [await try_at(proven, at(relay, "right"), "old") for _ in range(4)]

    told = troubles(faults)
    assert set(told[:3] + told[4:]) <= {"auth_dropped", "auth_deferred", "auth_config"}
    assert told[3] == "too often"


async def test_what_was_accepted_is_taken_back(daemons: Daemons) -> None:
    """Right logins of any number of lives leave all three tries for wrong ones."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(1) as [store]:
        faults = [await try_at(Guard(store), at(relay, "right"), owner) for owner in "abcde"]
        faults += [await try_at(Guard(store), at(relay)) for _ in range(4)]

    assert troubles(faults) == ["accepted"] * 5 + ["auth_failed"] * 3 + ["too often"]


async def test_a_person_allows_one_more(daemons: Daemons) -> None:
    """One over both daemons, whichever is told; if the relay is away it is not used up."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as stores:
        first, second = map(Guard, stores)
        faults = [await try_at(first, at(relay)) for _ in range(3)]
        second.forgive("acme", "127.0.0.1", "app")
        faults += [await try_at(second, at(relay, port=1)), await try_at(first, at(relay))]
        faults += [await try_at(second, at(relay)), await try_at(second, at(relay)), await try_at(first, at(relay))]

    assert troubles(faults[3:]) == [troubles(faults[3:4])[0], "too often", "auth_failed", "too often", "too often"]
    assert len(refused(relay)) == 4


async def test_others_refusals_keep_nobody_out_who_signed_in(daemons: Daemons) -> None:
    """Nor after a restart: what they get wrong at the same account is theirs. Its own wrong logins count."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as [one, other]:
        faults = [await try_at(Guard(one), at(relay, "right"))]
        faults += [await try_at(Guard(other), at(relay), "zoo") for _ in range(4)]
        faults += [await try_at(Guard(other), at(relay, "right")), await try_at(Guard(other), at(relay), "new")]
        faults += [await try_at(Guard(one), at(relay)) for _ in range(4)]

    assert troubles(faults[:5]) == ["accepted", *["auth_failed"] * 3, "too often"]
    assert troubles(faults[5:7]) == ["accepted", "too often"]
    assert troubles(faults[7:]) == [*["auth_failed"] * 3, "too often"]


async def test_a_proven_login_that_is_refused_is_proven_no_more(daemons: Daemons) -> None:
    """It is tried without a question, its refusal counts, and from then on it asks like any other."""
    async with ScriptedRelay(users={"app": "right"}) as relay, daemons(2) as stores:
        guards = [Guard(store) for store in stores]
        faults = [await try_at(one, at(relay, "right")) for one in guards]
        relay.users["app"] = "changed"
        faults += [await try_at(one, at(relay, "right")) for _ in range(3) for one in guards]

    assert troubles(faults) == ["accepted"] * 2 + ["auth_failed"] * 3 + ["too often"] * 3
    assert len(refused(relay)) == 3


def test_what_is_held_back_comes_back_soon() -> None:
    """In a few seconds, each time, while a refused password is looked at again after a quarter of an hour at the soonest."""
    assert [consequence(one) for one in (UNCOUNTABLE, OTHERS_FIRST)] == [Rest((5.0,), "auth_held_back")] * 2
    assert consequence(TOO_OFTEN) == Park("auth_failed", SLOW_PROBES)


async def test_without_its_store_nothing_is_tried_but_what_is_proven() -> None:
    """A login that cannot be counted waits for the server, and blames nobody; what was asked meanwhile counts once."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(of_our_own("18"))
        await server.wait()
        relay = await stack.enter_async_context(ScriptedRelay(users={"app": "right"}))
        store = await stack.enter_async_context(PostgresqlStore(Server(server.url)))
        proven, guarded = Guard(store), Guard(store)
        faults = [await try_at(proven, at(relay, "right"))]
        server.kill()
        faults += [await try_at(guarded, at(relay)) for _ in range(4)]
        faults += [await try_at(proven, at(relay, "right"))]
        tried = len(refused(relay))
        server.start()
        await server.wait()
        faults += [await try_at(guarded, at(relay)) for _ in range(4)]

    assert troubles(faults) == ["accepted", *["uncountable"] * 4, "accepted", *["auth_failed"] * 3, "too often"]
    assert (tried, faults[1] and faults[1].trouble) == (0, Trouble.AUTH_HELD_BACK)


async def test_a_lane_comes_back_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is away a lane that has to sign in stands; then its mail leaves by itself, and nobody is blamed."""
    monkeypatch.setattr("gateway.outbox.verdict.A_MOMENT", (0.1,))
    async with AsyncExitStack() as stack:
        server = stack.enter_context(of_our_own("18"))
        await server.wait()
        relay = await stack.enter_async_context(ScriptedRelay(users={"app": "right"}))
        ours = profile(relay.port, auth=password(SEAL, "acme", "main", "right"))
        store = PostgresqlStore(Server(server.url))
        here = await stack.enter_async_context(world(tmp_path, ours, kept_in=store))
        async with here.sign_ins.guard.turn("acme", at(relay)):  # the lane has claimed its mail, and waits for us
            mail = await here.post("acme")
            async with asyncio.timeout(10):
                while not here.outbox.in_hand:
                    await asyncio.sleep(0.01)
            server.kill()
        await here.until(PLACE, "parked:auth_held_back")
        logins = [login for session in relay.sessions for login in session.logins]
        server.start()
        await server.wait()
        await relay.wait_messages(1)
        await here.carried()
        states = {(one.state, one.attempts) for one in await here.recipients(mail)}

    assert (logins, states) == ([], {(State.RELAYED, 1)})
