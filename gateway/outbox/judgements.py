"""What judgements make of a row: its stage, a change, its history; and judgements that need no relay.

Knows no clock and no store.
"""

from collections.abc import Sequence
from dataclasses import replace

from gateway.message.notification import compact
from gateway.outbox.states import Recipient, State, encode, status_of
from gateway.outbox.verdict import Judgement
from gateway.store.rows import Change, Stage, StoredRow


def stage_of(recipients: Sequence[Recipient], due_at: int) -> tuple[Stage, int]:
    """Derive the row's stage and when it is due from its recipients."""
    times = [recipient.next_attempt_at or 0 for recipient in recipients if recipient.due]
    if times:
        return Stage.READY, min(times)
    resting = any(not recipient.final for recipient in recipients)
    return (Stage.RESTING if resting else Stage.FINAL), due_at


def change_of(
    row: StoredRow,
    recipients: Sequence[Recipient],
    now: int,
    judgements: list[tuple[int, Judgement]],
    *,
    cancelled: bool = False,
) -> Change:
    """Make the change that writes recipients as they were judged; one in hand keeps its stage."""
    stage, due_at = (row.stage, row.due_at) if row.stage is Stage.LEASED else stage_of(recipients, row.due_at)
    return Change(
        before=row,
        stage=stage,
        status=status_of(recipients, sending=False, scheduled=False, held=False),
        due_at=due_at,
        expires_at=row.expires_at,
        finished_at=now if stage is Stage.FINAL else None,
        recipients=encode(recipients),
        events=history(now, recipients, judgements),
        cancelled=cancelled,
    )


def _ended(recipients: Sequence[Recipient], state: State) -> list[tuple[int, Judgement]]:
    return [
        (index, Judgement(replace(recipient, state=state, next_attempt_at=None), state.value, ""))
        for index, recipient in enumerate(recipients)
        if not recipient.final
    ]


def expired(recipients: Sequence[Recipient]) -> list[tuple[int, Judgement]]:
    """End what was to be attempted; a copy whose fate is unknown stays so, for it may have arrived."""
    return [
        (index, Judgement(replace(recipient, next_attempt_at=None), "", ""))
        if recipient.state is State.UNCERTAIN
        else (index, Judgement(replace(recipient, state=State.EXPIRED, next_attempt_at=None), "expired", ""))
        for index, recipient in enumerate(recipients)
        if recipient.due
    ]


def cancelled(recipients: list[Recipient]) -> list[tuple[int, Judgement]]:
    """End what is not final, in the list as well."""
    judgements = _ended(recipients, State.CANCELLED)
    for index, judgement in judgements:
        recipients[index] = judgement.recipient
    return judgements


def due_now(recipient: Recipient, now: int) -> Judgement:
    """Begin anew with a recipient."""
    again = replace(recipient, state=State.QUEUED, next_attempt_at=now, unanswered=0, cuts=0)
    return Judgement(again, "retried", "")


def named(judgement: Judgement, by: str) -> Judgement:
    """Note with a reply whose profile it came through."""
    recipient = judgement.recipient
    if recipient.reply is None or recipient.by == by:
        return judgement
    return replace(judgement, recipient=replace(recipient, by=by))


def history(
    now: int,
    recipients: Sequence[Recipient],
    judgements: list[tuple[int, Judgement]],
    by: str = "",
    claimed_at: int = 0,
) -> str:
    """Write the lines of history, one event with one detail for all the recipients it concerns.

    What came of an attempt begins with when it was claimed for that, if there was one.
    """
    told: dict[tuple[str, str], list[str]] = {}
    for index, judgement in judgements:
        if judgement.event:
            told.setdefault((judgement.event, judgement.detail), []).append(recipients[index].address)
    alone = len(recipients) == 1
    carrier = (by,) if by else ()
    began = f'[{claimed_at},"claimed",""]\n' if claimed_at and told else ""
    return began + "".join(
        compact([now, event, detail if alone else f"{', '.join(who)}: {detail}".removesuffix(": "), *carrier]) + "\n"
        for (event, detail), who in told.items()
    )
