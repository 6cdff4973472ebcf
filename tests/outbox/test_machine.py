"""Random lives of an outbox on its store: what was promised holds after every step, whatever the steps are.

Steps are those of callers, workers, relays, people, clocks and power cuts; `world.World` carries them out and checks.
`GATEWAY_PROOF=1` runs twenty times as many lives, each time others. On PostgreSQL a life takes longer, so there are fewer.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.message.notification import OnAmbiguous, Priority
from gateway.outbox.outbox import Submission
from gateway.smtp.outcome import Phase, RecipientOutcome, Refused, Rejected
from gateway.smtp.reply import Reply
from gateway.store.rows import Flow
from tests.outbox.building import (
    CUT,
    DAY,
    HOUR,
    LATER,
    MINUTE,
    NO,
    OK,
    SECOND,
    SIGN_IN_FIRST,
    SILENCE,
    notification,
    submission,
)
from tests.outbox.grounds import File, Ground, Schema
from tests.outbox.world import FLOWS, TAKEN_IN_SILENCE, World
from tests.peers.postgresql import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.postgresql import Servers

PROOF = bool(os.environ.get("GATEWAY_PROOF"))
LIVES = {"sqlite": 120, "postgresql": 15}
STEPS = 50

GREYLISTED = Refused(Phase.RECIPIENT, Reply(450, "4.7.1", "greylisted"))
TOO_MANY = Refused(Phase.RECIPIENT, Reply(452, "4.5.3", "too many recipients"))
TOO_LARGE = Rejected(Reply(552, "5.3.4", "too large"))
ANSWERS = (OK, OK, LATER, NO, CUT, SILENCE, TAKEN_IN_SILENCE, GREYLISTED, TOO_MANY, TOO_LARGE)

posts = st.fixed_dictionaries(
    {
        "flow": st.sampled_from(FLOWS),
        "recipients": st.integers(1, 3),
        "on_ambiguous": st.sampled_from(OnAmbiguous),
        "ttl": st.sampled_from([MINUTE, HOUR, DAY]),
        "delay": st.sampled_from([0, 0, 0, HOUR]),
        "priority": st.sampled_from(Priority),
        "simulated": st.sampled_from([False, False, False, True]),
        "key": st.sampled_from([None, None, "k1", "k2"]),
        "body": st.sampled_from("ab"),
    }
)
outcomes = st.one_of(
    st.sampled_from(ANSWERS).map(lambda answer: [answer] * 3),
    st.lists(st.sampled_from(ANSWERS), min_size=3, max_size=3),
)
picks = st.integers(0, 1_000)


class OutboxMachine(RuleBasedStateMachine):
    """The steps."""

    def __init__(self, ground: Callable[[], Ground]) -> None:
        """Live on an empty ground."""
        super().__init__()
        self.ground = ground

    @initialize()
    def begin(self) -> None:
        """Start the first daemon."""
        self.world = World(self.ground())

    def teardown(self) -> None:
        """End the last one."""
        if hasattr(self, "world"):
            self.world.close()

    def _submission(self, post: dict[str, object]) -> Submission:
        flow, recipients, delay, key, body = (post[name] for name in ("flow", "recipients", "delay", "key", "body"))
        assert isinstance(flow, Flow)
        assert isinstance(recipients, int)
        assert isinstance(delay, int)
        now = self.world.clock()
        rest = {name: post[name] for name in ("on_ambiguous", "ttl", "priority", "simulated")}
        made = notification(
            *(f"r{number}@x.test" for number in range(recipients)),
            accepted_at=now,
            send_at=now + delay if delay else None,
            tenant=flow.tenant,
            profile=flow.profile or None,
            **rest,  # type: ignore[arg-type]
        )
        return submission(made, key if isinstance(key, str) else None, str(body))

    def _pick(self, pick: int) -> str:
        return list(self.world.posted)[pick % len(self.world.posted)]

    # Callers.

    @rule(post=posts)
    def post(self, post: dict[str, object]) -> None:
        """Post one notification, perhaps under a key that was used already."""
        self.world.run(self.world.accept([self._submission(post)]))

    @rule(batch=st.lists(posts, max_size=6))
    def post_batch(self, batch: list[dict[str, object]]) -> None:
        """Post several in one commit."""
        self.world.run(self.world.accept([self._submission(post) for post in batch]))

    # Workers and relays.

    @rule(flow=st.sampled_from(FLOWS), limit=st.integers(1, 5))
    def claim(self, flow: Flow, limit: int) -> None:
        """Take mail of a flow."""
        self.world.run(self.world.claim(flow, limit))

    @precondition(lambda self: self.world.wake)
    @rule(limit=st.integers(1, 5))
    def claim_what_is_due_next(self, limit: int) -> None:
        """Wait for the earliest announced mail, and take it."""
        flow, due_at = min(self.world.wake.items(), key=lambda item: item[1])
        self.world.clock.now = max(self.world.clock.now, due_at)
        self.world.run(self.world.claim(flow, limit))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks, limit=st.integers(1, 3), answers=outcomes)
    def deliver(self, pick: int, limit: int, answers: list[RecipientOutcome]) -> None:
        """Send one, and settle what the relay says."""
        delivery = self.world.hands.pop(pick % len(self.world.hands))
        self.world.run(self.world.deliver(delivery, limit, answers))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks, limit=st.integers(1, 3))
    def send(self, pick: int, limit: int) -> None:
        """Send one; its answer comes later, with the next thing that is done with it."""
        self.world.run(self.world.send(self.world.hands[pick % len(self.world.hands)], limit))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks)
    def meet_a_mute_relay(self, pick: int) -> None:
        """Send one as long as it may be sent to a relay that never answers."""
        delivery = self.world.hands[pick % len(self.world.hands)]
        for _ in range(4):
            self.world.hands.remove(delivery)
            self.world.run(self.world.deliver(delivery, 3, [SILENCE] * 3))
            self.world.clock.now += 10 * MINUTE
            self.world.run(self.world.claim(delivery.row.flow, 5))
            again = [one for one in self.world.hands if one.row.id == delivery.row.id]
            if not again:
                break
            delivery = again[-1]

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks)
    def be_told_to_sign_in(self, pick: int) -> None:
        """Meet a relay that refuses the profile, not the message."""
        delivery = self.world.hands.pop(pick % len(self.world.hands))
        self.world.run(self.world.deliver(delivery, 3, [SIGN_IN_FIRST] * 3))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        """Give one back."""
        self.world.run(self.world.give_back(self.world.hands.pop(pick % len(self.world.hands))))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks)
    def hold(self, pick: int) -> None:
        """Find that the sender is not allowed."""
        delivery = self.world.hands.pop(pick % len(self.world.hands))
        self.world.run(self.world.hold(delivery, self.world.clock() + MINUTE))

    @precondition(lambda self: self.world.ghosts)
    @rule(pick=picks)
    def come_too_late(self, pick: int) -> None:
        """Settle what a dead daemon had claimed."""
        ghosts = self.world.ghosts
        claimed_anew = {delivery.row.id for delivery in self.world.hands}
        ghosts.sort(key=lambda ghost: ghost.row.id not in claimed_anew)
        self.world.run(self.world.too_late(ghosts.pop(pick % len(ghosts) // 2)))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks, swept=st.booleans(), renewed=st.booleans(), again=st.booleans())
    def be_slower_than_the_lease(self, pick: int, *, swept: bool, renewed: bool, again: bool) -> None:
        """Come with one after the time of its lease, and perhaps find it claimed anew."""
        late = self.world.hands[pick % len(self.world.hands)]
        self.world.clock.now += 2 * MINUTE
        if swept:
            self.world.run(self.world.sweep())
        if renewed:
            self.world.run(self.world.renew())
        if again:
            self.world.run(self.world.claim(late.row.flow, 5))
        self.world.hands.remove(late)
        self.world.run(self.world.deliver(late, 3, [OK] * 3))

    # Power cuts.

    @rule()
    def crash(self) -> None:
        """Die between two steps."""
        self.world.run(self.world.crash())

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks)
    def crash_in_the_window(self, pick: int) -> None:
        """Die after the relay took the mail and before the result was committed."""
        self.world.run(self.world.send(self.world.hands[pick % len(self.world.hands)], 3))
        self.world.run(self.world.crash())

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks, then=st.sampled_from(["retry", "expire"]))
    def crash_after_a_cancellation(self, pick: int, then: str) -> None:
        """Die with cancelled mail in hand, which somebody retries, or which nobody claims before its time is over."""
        cancelled = self.world.hands[pick % len(self.world.hands)].row.id
        self.world.run(self.world.cancel(cancelled))
        self.world.run(self.world.crash())
        if then == "retry":
            self.world.run(self.world.retry(cancelled))
        else:
            self.world.clock.now += DAY
            self.world.run(self.world.sweep())

    # Time and upkeep.

    @rule(step=st.sampled_from([SECOND, 30 * SECOND, MINUTE, 10 * MINUTE, HOUR]))
    def wait(self, step: int) -> None:
        """Let time pass."""
        self.world.clock.now += step

    @precondition(lambda self: len(self.world.posted) > 9)
    @rule(step=st.sampled_from([DAY, 8 * DAY]))
    def wait_long(self, step: int) -> None:
        """Let most of what is there come to its end, or be forgotten."""
        self.world.clock.now += step
        self.world.run(self.world.sweep())

    @rule()
    def renew(self) -> None:
        """Prolong the leases."""
        self.world.run(self.world.renew())

    @rule()
    def sweep(self) -> None:
        """Look after what nobody holds."""
        self.world.run(self.world.sweep())

    # People.

    @precondition(lambda self: self.world.posted)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        """Cancel one."""
        self.world.run(self.world.cancel(self._pick(pick)))

    @precondition(lambda self: self.world.hands)
    @rule(pick=picks)
    def cancel_in_hand(self, pick: int) -> None:
        """Cancel one that is being sent."""
        self.world.run(self.world.cancel(self.world.hands[pick % len(self.world.hands)].row.id))

    @precondition(lambda self: self.world.posted)
    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        """Retry one."""
        self.world.run(self.world.retry(self._pick(pick)))

    @invariant()
    def holds(self) -> None:
        """Everything that must be true is true."""
        self.world.run(self.world.check())


def live(engine: str, ground: Callable[[], Ground]) -> None:
    """Run as many lives as there are on an engine."""
    run_state_machine_as_test(
        partial(OutboxMachine, ground),
        settings=settings(
            max_examples=LIVES[engine] * (20 if PROOF else 1),
            stateful_step_count=STEPS,
            derandomize=not PROOF,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_lives_on_sqlite() -> None:
    """What was promised holds after every step on SQLite."""
    memory = Path("/dev/shm")  # a power cut is a copy of the files, so they need not survive a real one
    with TemporaryDirectory(prefix="outbox-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        lives = count()
        live("sqlite", lambda: File(Path(folder) / f"{next(lives)}.db"))


def test_random_lives_on_postgresql(postgresql_servers: Servers) -> None:
    """What was promised holds after every step on PostgreSQL; of its versions the newest has to do."""
    server = postgresql_servers[VERSIONS[-1]]
    schema = Schema(server.url, asyncio.run(server.make_schema()))

    async def open_once() -> None:
        async with schema.store():
            pass

    def emptied() -> Schema:
        asyncio.run(schema.empty())
        return schema

    asyncio.run(open_once())
    try:
        live("postgresql", emptied)
    finally:
        asyncio.run(server.execute(f"DROP SCHEMA {schema.name} CASCADE"))
