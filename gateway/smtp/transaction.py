"""The wire engine: mail transactions on a session that is already open and authenticated (RFC 5321 §3.3, RFC 2920).

Takes over an open transport with `set_protocol` and owns every byte from there. Where the relay offers PIPELINING,
MAIL, RCPT and DATA travel in one write, and the next message's envelope travels behind this message's final dot
(RFC 2920 §3.1 lets a command group begin with the end of a message); elsewhere each command waits for its reply.

Promises:
- An outcome per recipient, always; a relay's answer is never an exception.
- `Unknown` only if the final dot left and no reply to it came. `Untaken` means: certainly not accepted.
- After cancellation, a timeout, a lost link, an unsolicited or malformed reply, or any 421, the connection is dead:
  `usable` is False and the transport is aborted. A half-used session never meets another message.

Each phase has its own time-out (RFC 5321 §4.5.3.2); the final reply's is never shortened, because hanging up on a
relay that is still thinking is how duplicates are made.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.observe.failpoint import failpoint
from gateway.smtp.outcome import (
    Phase,
    RecipientOutcome,
    Refused,
    Rejected,
    Relayed,
    Transaction,
    Unknown,
    Untaken,
    Watch,
    unwatched,
)
from gateway.smtp.reply import Reply, ReplyError, ReplyParser

BLOCK: Final = 64 * 1024
LEASE_LOST: Final = "the lease was lost"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for each reply, and for each block of a body to leave (RFC 5321 §4.5.3.2)."""

    command: float = 60.0
    block: float = 180.0
    final: float = 600.0
    quit: float = 5.0

    def group(self, recipients: int) -> float:
        """Seconds that the answer to an envelope in one group may take: of a minute 5 s more a recipient, 300 s at most.

        A relay may work off all of it before it answers the first command (RFC 2920 §3.2).
        """
        return self.command * min(1 + recipients / 12, 5)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What EHLO offered, as far as a transaction cares."""

    pipelining: bool = False
    smtputf8: bool = False
    eightbitmime: bool = False
    dsn: bool = False
    starttls: bool = False  # still: of a session that is in TLS it is not offered again
    size: int | None = None  # octets; 0: offered without a limit; None: SIZE not offered (RFC 1870)


@dataclass(frozen=True, slots=True)
class Reports:
    """Which delivery reports are asked for, where the relay knows how (RFC 3461 §4).

    `returned` is FULL or HDRS, `notify` one of NEVER or some of SUCCESS, FAILURE and DELAY; `id` comes back in them.
    """

    returned: str | None = None
    id: str | None = None
    notify: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """One transaction to run: sender ("" is the null sender), recipients, and the message, not yet dot-stuffed.

    The message has CR and LF only as the pair that ends a line, as `message.compose` writes it: what else a relay
    takes for the end of a line, or of the message, is then not in it.
    """

    sender: str
    recipients: tuple[str, ...]
    message: bytes
    smtputf8: bool = False
    reports: Reports | None = None


class _Lost(Exception):
    """The connection is gone or must go, and why; `reply` is what the relay said last, if it said so itself.

    `astray`: commands and replies do not match, so that none of the transaction's replies can be relied on.
    """

    def __init__(self, reason: str, reply: Reply | None = None, *, astray: bool = False) -> None:
        super().__init__(reason)
        self.reply = reply
        self.astray = astray


def stuffed(message: bytes) -> bytes:
    """Double the dot that begins a line (RFC 5321 §4.5.2) and append the line that ends the data."""
    if b"\r\n." in message:
        message = message.replace(b"\r\n.", b"\r\n..")
    if message.startswith(b"."):
        message = b"." + message
    return message + (b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n")


def always() -> bool:
    """Hold no lease: the fence of callers that have none."""
    return True


def nothing() -> None:
    """Have no further message."""
    return


class Engine(asyncio.Protocol):
    """Transactions on one open session, one after the other."""

    def __init__(
        self,
        transport: asyncio.Transport,
        capabilities: Capabilities,
        timeouts: Timeouts | None = None,
        watch: Watch = unwatched,
    ) -> None:
        """Take the transport over from whoever opened the session; `watch` is told each phase that is passed."""
        self.capabilities = capabilities
        self.messages = 0
        self.certificate: bytes | None = None  # the relay's, DER; None without TLS
        self._watch = watch
        self._timeouts = timeouts or Timeouts()
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._opener = transport.get_protocol()
        self._parser = ReplyParser()
        self._replies: deque[Reply] = deque()
        self._expected = 0
        self._waiter: asyncio.Future[None] | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._paused = False
        self._lost: str | None = None
        self._retired = False
        self._dirty = False
        self._ahead: Envelope | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=1)  # drained means handed to the kernel: the fence stands before the dot
        if transport.is_closing():
            self._lose("connection closed")

    @property
    def usable(self) -> bool:
        """May another message be sent on this session?"""
        return self._lost is None and not self._retired

    @property
    def ahead(self) -> Envelope | None:
        """The envelope that already travelled behind the last message: it has to be the next."""
        return self._ahead

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Cut replies; one that nobody waits for breaks the session's bookkeeping and so the session."""
        if self._lost is not None:
            return
        try:
            for reply in self._parser.feed(data):
                if reply.code == 421:
                    self._retired = True
                if self._expected == 0:
                    self._lose(f"closed by the relay: {reply}" if reply.code == 421 else "unsolicited reply")
                    return
                self._expected -= 1
                self._replies.append(reply)
        except ReplyError as error:
            self._lose(str(error))
        if self._replies and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def eof_received(self) -> bool:
        """The relay says no more; so do we."""
        self._lose("connection lost")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, and the protocol that opened the session."""
        self._lose("connection lost" if exc is None else f"connection lost: {type(exc).__name__}")
        self._opener.connection_lost(exc)

    def pause_writing(self) -> None:
        """Stop feeding the transport."""
        self._paused = True

    def resume_writing(self) -> None:
        """Feed the transport again."""
        self._paused = False
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
            self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in (self._waiter, self._resumed):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def abort(self) -> None:
        """Drop the connection at once, without QUIT."""
        self._lose("aborted")

    # Waiting. One timer a session, re-armed only when it fires early: a deadline moves several times a message.

    def _arm(self, seconds: float, until: float = 0.0) -> None:
        self._deadline = max(self._loop.time() + seconds, until)
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        waiting = any(waiter is not None and not waiter.done() for waiter in (self._waiter, self._resumed))
        if not waiting:
            return
        if self._loop.time() >= self._deadline:
            self._lose("timed out")
        else:
            self._timer = self._loop.call_at(self._deadline, self._tick)

    async def _reply(self, seconds: float, until: float = 0.0) -> Reply:
        """Wait for a reply so long, and at least until then (on the loop's clock)."""
        while not self._replies:
            if self._lost is not None:
                raise _Lost(self._lost)
            self._waiter = self._loop.create_future()
            self._arm(seconds, until)
            await self._waiter
            self._waiter = None
        return self._replies.popleft()

    async def _drain(self) -> None:
        while self._paused and self._lost is None:
            self._resumed = self._loop.create_future()
            self._arm(self._timeouts.block)
            await self._resumed
            self._resumed = None
        if self._lost is not None:
            raise _Lost(self._lost)

    def _write(self, data: bytes, replies: int) -> None:
        if self._transport.is_closing():  # a write failed, and `connection_lost` is still to be called
            self._lose("connection lost")
        if self._lost is not None:
            raise _Lost(self._lost)
        self._expected += replies
        self._transport.write(data)

    # The transaction.

    async def transact(
        self,
        envelope: Envelope,
        *,
        fence: Callable[[], bool] = always,
        before_dot: Callable[[], Awaitable[bool]] | None = None,
        follow: Callable[[], Envelope | None] = nothing,
    ) -> Transaction:
        """Send one message.

        `fence` is asked before the first octet of the body, and again before the final dot of a long one: False
        hangs up. `before_dot` is awaited between body and final dot; nothing is pipelined behind such a message.
        `follow` gives the message to come, whose envelope then travels behind this body; it must be the next.
        """
        results: list[RecipientOutcome | None] = [None] * len(envelope.recipients)
        dotted = False

        def mark() -> None:
            nonlocal dotted
            dotted = True

        try:
            if (rejected := self._unfit(envelope)) is not None:
                return _all(envelope, rejected)
            if await self._open(envelope, results):
                failpoint("smtp.after_rcpt")
                if not fence():
                    raise _Lost(LEASE_LOST)
                final = await self._content(envelope, fence, before_dot, follow, mark)
                failpoint("smtp.reply_read")
                _apply(results, _final(final))
                if final.positive:
                    self._watch(Phase.CONTENT, final)
        except _Lost as error:
            self._lose(str(error))  # it may be we who hang up, in the midst of a transaction
            if error.astray:
                results = [None] * len(envelope.recipients)
            _apply(results, Unknown(str(error)) if dotted else Untaken(str(error), error.reply))
        except BaseException:
            self.abort()
            raise
        if self._retired:
            self._lose("closed by the relay")
        self.messages += 1
        return Transaction(tuple(outcome or Untaken("no reply") for outcome in results))

    def _unfit(self, envelope: Envelope) -> Rejected | None:
        """What this relay cannot take is not even begun (RFC 1870 §6.1, RFC 6531 §3.4)."""
        size = self.capabilities.size
        if self._ahead is envelope:
            return None
        if size and len(envelope.message) > size:
            return Rejected(Reply(552, "5.3.4", "message exceeds the relay's size limit"))
        if envelope.smtputf8 and not self.capabilities.smtputf8:
            return Rejected(Reply(553, "5.6.7", "the relay does not offer SMTPUTF8"))
        return None

    def _commands(self, envelope: Envelope) -> list[bytes]:
        mail = f"MAIL FROM:<{envelope.sender}>"
        if self.capabilities.size is not None:
            mail += f" SIZE={len(envelope.message)}"
        if envelope.smtputf8:
            mail += " BODY=8BITMIME SMTPUTF8" if self.capabilities.eightbitmime else " SMTPUTF8"
        notify = ""
        if envelope.reports is not None and self.capabilities.dsn:
            mail += _report(envelope.reports)
            notify = f" NOTIFY={','.join(envelope.reports.notify)}" if envelope.reports.notify else ""
        lines = [mail, *(f"RCPT TO:<{recipient}>{notify}" for recipient in envelope.recipients)]
        return [(line + "\r\n").encode() for line in lines]

    def _group(self, envelope: Envelope) -> tuple[bytes, int]:
        """The whole envelope as one group of commands, DATA last (RFC 2920 §3.1), and how many replies it brings.

        RSET goes before it when the previous transaction ended half-way.
        """
        commands = [*self._commands(envelope), b"DATA\r\n"]
        if self._dirty:
            commands.insert(0, b"RSET\r\n")
        return b"".join(commands), len(commands)

    async def _open(self, envelope: Envelope, results: list[RecipientOutcome | None]) -> bool:
        """Run MAIL, RCPT and DATA; True if the relay now waits for the body of at least one recipient."""
        if not self.capabilities.pipelining:
            return await self._open_lock_step(envelope, results)
        ahead, self._ahead = self._ahead, None
        if ahead is not envelope:
            if ahead is not None:
                raise _Lost("another envelope is open")
            self._write(*self._group(envelope))
        until = self._loop.time() + self._timeouts.group(len(results))
        if self._dirty:
            await self._rset_reply(until)
        self._note_sender(await self._answer(until), results)
        accepted = False
        for index in range(len(results)):
            accepted |= self._note_recipient(await self._answer(until), index, results)
        data = await self._answer(until)
        if data.code != 354:
            self._dirty = True
            return self._no_data(data, results)
        if None in results:
            return True
        if accepted:
            raise _Lost("DATA accepted for recipients that the relay has already given up")
        # RFC 2920 §3.1: the relay waits for a body that nobody gets, so it gets an empty one.
        self._write(b".\r\n", 1)
        await self._reply(self._timeouts.final)
        self._dirty = True
        return False

    async def _open_lock_step(self, envelope: Envelope, results: list[RecipientOutcome | None]) -> bool:
        if self._dirty:
            self._write(b"RSET\r\n", 1)
            await self._rset_reply()
        mail, *rcpts = self._commands(envelope)
        self._write(mail, 1)
        self._dirty = True
        self._note_sender(await self._answer(), results)
        for index, rcpt in enumerate(rcpts):
            if results[index] is None:
                self._write(rcpt, 1)
                self._note_recipient(await self._answer(), index, results)
        if None not in results:
            return False
        self._write(b"DATA\r\n", 1)
        data = await self._answer()
        if data.code != 354:
            return self._no_data(data, results)
        self._dirty = False
        return True

    async def _answer(self, until: float = 0.0) -> Reply:
        """Read the reply to a command; 421 ends the conversation wherever it comes (RFC 5321 §3.8)."""
        reply = await self._reply(self._timeouts.command, until)
        if reply.code == 421:
            raise _Lost(f"relay closes: {reply}", reply)
        return reply

    def _note_sender(self, reply: Reply, results: list[RecipientOutcome | None]) -> None:
        if reply.positive:
            self._watch(Phase.SENDER, reply)
        else:
            _apply(results, _refusal(Phase.SENDER, reply))

    def _note_recipient(self, reply: Reply, index: int, results: list[RecipientOutcome | None]) -> bool:
        """Note a refusal as soon as it is said, so that it stands whatever comes after it."""
        if reply.positive:
            self._watch(Phase.RECIPIENT, reply)
        elif results[index] is None:
            results[index] = _refusal(Phase.RECIPIENT, reply)
        return reply.positive

    async def _rset_reply(self, until: float = 0.0) -> None:
        reply = await self._answer(until)
        if not reply.positive:
            raise _Lost(f"RSET refused: {reply.code}", reply)
        self._dirty = False

    def _no_data(self, data: Reply, results: list[RecipientOutcome | None]) -> bool:
        """DATA brought no 354: a 4yz or 5yz is an answer, anything else a relay that we do not understand."""
        if data.code < 400:
            raise _Lost("DATA answered without 354", astray=True)
        _apply(results, Refused(Phase.CONTENT, data))
        return False

    async def _content(
        self,
        envelope: Envelope,
        fence: Callable[[], bool],
        before_dot: Callable[[], Awaitable[bool]] | None,
        follow: Callable[[], Envelope | None],
        mark: Callable[[], None],
    ) -> Reply:
        """Send the body, its final dot and perhaps the next envelope; answer the relay's word on it."""
        body = stuffed(envelope.message)
        if len(body) > BLOCK or before_dot is not None:
            await self._long_body(memoryview(body)[:-3])
            body = body[-3:]  # what has left takes no room for the ten minutes that an answer may take
            if before_dot is not None and not await before_dot():
                raise _Lost(LEASE_LOST)
            if not fence():
                raise _Lost(LEASE_LOST)
        failpoint("smtp.before_terminator")
        behind, replies = self._behind(before_dot, follow)
        self._write(body + behind, 1 + replies)
        if not self._transport.is_closing():  # otherwise this very write failed, and the dot is still with us
            mark()
        failpoint("smtp.after_terminator")
        return await self._reply(self._timeouts.final)

    async def _long_body(self, body: memoryview) -> None:
        for start in range(0, len(body), BLOCK):
            self._write(bytes(body[start : start + BLOCK]), 0)
            await self._drain()
        failpoint("smtp.body_written")

    def _behind(
        self, before_dot: Callable[[], Awaitable[bool]] | None, follow: Callable[[], Envelope | None]
    ) -> tuple[bytes, int]:
        if before_dot is not None or not self.capabilities.pipelining or self._retired:
            return b"", 0
        following = follow()
        if following is None or self._unfit(following) is not None:
            return b"", 0
        self._ahead = following
        return self._group(following)

    async def quit(self) -> None:
        """Take leave; whatever happens, the connection is closed afterwards."""
        if self.usable and self._ahead is None:
            try:
                self._write(b"QUIT\r\n", 1)
                await self._reply(self._timeouts.quit)
            except _Lost:
                pass
            finally:
                self.abort()
        self.abort()


def _report(reports: Reports) -> str:
    """The parameters of MAIL; the id in xtext (RFC 3461 §4)."""
    said = f" RET={reports.returned}" if reports.returned else ""
    if reports.id is not None:
        said += " ENVID=" + "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in reports.id)
    return said


def _refusal(phase: Phase, reply: Reply) -> RecipientOutcome:
    if reply.code < 400:
        return Untaken(f"unexpected reply: {reply}", reply)
    return Refused(phase, reply)


def _final(reply: Reply) -> RecipientOutcome:
    """Any 2yz takes responsibility, not only 250 (RFC 5321 §4.2.1)."""
    if reply.positive:
        return Relayed(reply)
    if reply.code < 400:
        return Unknown(f"unexpected reply: {reply}")
    return Refused(Phase.CONTENT, reply)


def _apply(results: list[RecipientOutcome | None], outcome: RecipientOutcome) -> None:
    for index, known in enumerate(results):
        if known is None:
            results[index] = outcome


def _all(envelope: Envelope, outcome: RecipientOutcome) -> Transaction:
    return Transaction(tuple(outcome for _ in envelope.recipients))
