"""A scriptable SMTP relay: well-behaved by default, hostile on cue, and an oracle of what it accepted.

Owns one listening socket on 127.0.0.1 and one `asyncio.Protocol` per connection; no threads, no sleeps. Nothing
scripted costs nothing: replies are written synchronously, one segment per pipelined group.

Promises: an accepted message is in the ledger file before the first byte of its final reply leaves; rules are tried
in the order they were given, and the first that fits wins; a reply has its normal effect exactly when its first
digit says so (3 for DATA, else 2), so `Reply("450 …")` to RCPT refuses that recipient and `Close()` changes nothing.

Violations of the protocol by the client are answered as a real relay would, and written down in `violations`.

    async with ScriptedRelay(users={"app": "s3cret"}) as relay:
        relay.on("rcpt", Reply("450 4.2.0 try later"), match="<bob@example.com>", once=True)
        ...
        await relay.wait_messages(1)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Self, assert_never, cast

from tests.peers.smtp_script import (
    AcceptThen,
    Action,
    Caught,
    Close,
    Endless,
    Features,
    Hold,
    IssuedTls,
    Later,
    Login,
    Raw,
    Reply,
    Reset,
    Rule,
    Scope,
    Session,
    Silence,
    Split,
    Step,
    issue_tls,
)

__all__ = [
    "AcceptThen",
    "Action",
    "Caught",
    "Close",
    "Endless",
    "Features",
    "Handshake",
    "Hold",
    "IssuedTls",
    "Later",
    "Login",
    "Raw",
    "Reply",
    "Reset",
    "Rule",
    "Scope",
    "ScriptedRelay",
    "Session",
    "Silence",
    "Split",
    "Step",
    "issue_tls",
]

_CHUNK = 64 * 1024
_EVERYTHING = Features()
_LONGEST_LINE = 998  # RFC 5321 §4.5.3.1.6: 1000 octets with the CRLF, the transparency dot not counted
_GROUPABLE = frozenset({"MAIL", "RCPT", "RSET"})  # RFC 2920 §3.1: every other command ends its group
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_PATH = r'<((?:"(?:[^"\\]|\\.)*"@)?[^<>]*)>((?: .*)?)$'
_MAIL = re.compile(r"(?i)MAIL FROM:" + _PATH)
_RCPT = re.compile(r"(?i)RCPT TO:" + _PATH)
_MESSAGE_ID = re.compile(rb"(?im)^message-id:\s*(<[^>\r\n]*>)")
_LONE_DOT = re.compile(rb"(?:\A|\r\n)\.(?!\.)")


class Handshake(NamedTuple):
    """What TLS was agreed on in a session, and whose certificate the client showed: its common name, None without."""

    session_index: int
    version: str | None
    client: str | None


class ScriptedRelay:
    """The relay: `async with ScriptedRelay(...) as relay`."""

    def __init__(
        self,
        script: Iterable[Rule] | Mapping[Step, Action] | Mapping[str, Action] = (),
        *,
        features: Features = _EVERYTHING,
        users: Mapping[str, str] | None = None,
        require_auth: bool = False,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        ledger_path: str | os.PathLike[str] | None = None,
        keep_data: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if implicit_tls and tls is None:
            raise ValueError("implicit TLS needs a context")
        self.host, self.port = host, port
        self.features, self.users, self.require_auth = features, users, require_auth
        self.tls, self.implicit_tls = tls, implicit_tls
        self.ledger_path, self.keep_data = ledger_path, keep_data
        self.sessions: list[Session] = []
        self.handshakes: list[Handshake] = []
        self.messages: list[Caught] = []
        self.violations: list[str] = []
        self.rules: list[Rule] = []
        self._rules: dict[Step, list[Rule]] = {}
        self._connections: set[_Connection] = set()
        self._waiters: list[tuple[Callable[[], object], asyncio.Future[None]]] = []
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._ledger: int | None = None
        self._add_script(script)

    def _add_script(self, script: Iterable[Rule] | Mapping[Step, Action] | Mapping[str, Action]) -> None:
        if isinstance(script, Mapping):
            script = [Rule(cast("Step", step), action) for step, action in script.items()]
        for rule in script:
            self._add(rule)

    async def __aenter__(self) -> Self:
        if self.ledger_path is not None:
            self._ledger = os.open(self.ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._ledger is not None:
            os.close(self._ledger)
            self._ledger = None

    # Being there, or not.

    async def start(self) -> None:
        """Listen; after `stop`, on the same port as before."""
        if self._server is not None:
            return
        listener, self._socket = self._socket or self._bind(), None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=1024)

    async def stop(self) -> None:
        """Refuse connections from now on and cut the open ones; the port stays reserved for `start`."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._socket = self._bind()
        self.cut()
        await self.wait(lambda: not self._connections)

    async def reachable(self, yes: bool) -> None:
        """Bring the relay up, or take it down."""
        await (self.start() if yes else self.stop())

    def cut(self) -> None:
        """Cut every open connection, keep listening."""
        for connection in tuple(self._connections):
            connection.cut()

    def _bind(self) -> socket.socket:
        """Hold the port: a socket that is bound but not listening refuses connections and keeps others away."""
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setblocking(False)
        holder.bind((self.host, self.port))
        self.port = holder.getsockname()[1]
        return holder

    # The script.

    def on(
        self,
        step: Step,
        action: Action,
        *,
        nth: int | range | None = None,
        match: str | Callable[[str], bool] | None = None,
        once: bool = False,
        per: Scope = "relay",
    ) -> Rule:
        """Add a rule behind the others; counting starts now. Its `hits` tell how often it was used."""
        return self._add(Rule(step, action, nth, match, once, per))

    def forget(self, *rules: Rule) -> None:
        """Take these rules away, or all when none is named."""
        self.rules = [rule for rule in self.rules if rules and rule not in rules]
        self._rules = {}
        for rule in self.rules:
            self._rules.setdefault(rule.step, []).append(rule)

    def _add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        self._rules.setdefault(rule.step, []).append(rule)
        return rule

    def scripted(self, step: Step) -> bool:
        """Whether any rule is for this step."""
        return step in self._rules

    def pick(self, step: Step, argument: str, session: int, transaction: int) -> Action | None:
        """The action for this occurrence; rules with an `nth` count it even when another one wins."""
        scopes: dict[Scope, tuple[int, ...]] = {
            "relay": (), "session": (session,), "transaction": (session, transaction)
        }  # fmt: skip
        chosen: Rule | None = None
        for rule in self._rules.get(step, ()):
            if chosen is not None and rule.nth is None:
                continue
            if rule.fits(argument, scopes[rule.per]) and chosen is None:
                chosen = rule
        if chosen is None:
            return None
        chosen.hits += 1
        self.changed()
        return chosen.action

    # Memory.

    async def wait(self, predicate: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait until `predicate` holds; it is asked again after everything that happens to the relay."""
        if predicate():
            return
        waiter = (predicate, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s; {self.summary()}") from None
        finally:
            self._waiters.remove(waiter)

    async def wait_messages(self, count: int, timeout: float = 10.0) -> list[Caught]:
        """Wait until at least `count` messages were accepted, and return all."""
        await self.wait(lambda: len(self.messages) >= count, timeout)
        return self.messages

    def summary(self) -> str:
        """What happened so far, in one line, for the message of a failed test."""
        last = self.sessions[-1].verbs[-8:] if self.sessions else []
        return (
            f"{len(self.messages)} messages, {len(self.sessions)} sessions, {len(self._connections)} open, "
            f"last commands {last}, violations {self.violations}"
        )

    def changed(self) -> None:
        """Wake those whose predicate holds now."""
        for predicate, future in self._waiters:
            if not future.done() and predicate():
                future.set_result(None)

    def record(self, caught: Caught) -> None:
        """Accept a message: first the ledger, then memory."""
        if self._ledger is not None:
            entry = {"message_id": caught.message_id, "rcpt_tos": caught.rcpt_tos, "at": caught.at}
            os.write(self._ledger, json.dumps(entry).encode() + b"\n")
        self.messages.append(caught)
        self.changed()

    def attach(self, connection: _Connection) -> Session:
        """Open the record of a new connection."""
        session = Session(len(self.sessions))
        self.sessions.append(session)
        self._connections.add(connection)
        return session

    def detach(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self.changed()


@dataclass(slots=True)
class _Envelope:
    """The transaction being built: what the client said, and what was accepted of it."""

    number: int
    mail_said: bool = False
    rcpt_said: bool = False
    mail_from: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    rcpt_tos: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Pending:
    """The answer that is due: the bytes without a script, and what follows if the answer is a yes."""

    default: bytes
    effect: Callable[[], None] | None = None
    yes: bytes = b"2"


class _Connection(asyncio.Protocol):
    """One client's connection: splits the stream, keeps the protocol's state, performs the script."""

    def __init__(self, relay: ScriptedRelay) -> None:
        self._relay = relay
        self._session: Session
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._scanned = 0
        self._out = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._next: Callable[[], None] | None = None
        self._challenged: Callable[[str], None] | None = None
        self._handshaking = False
        self._may_speak = False
        self._in_body = False
        self._helo: str | None = None
        self._extended = False
        self._envelope = _Envelope(1)

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._session = self._relay.attach(self)
        if self._relay.implicit_tls:
            self._prepare_tls()
        else:
            self._greet()
        self._flush()
        self._relay.changed()

    def data_received(self, data: bytes) -> None:
        if self._task is not None and not self._may_speak and not self._handshaking:
            self._violation("spoke before its turn", data)
        self._buffer += data
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        self._relay.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._session.closed:
            return
        if self._task is not None:
            self._task.cancel()
        self._session.closed = True
        self._session.leftover = bytes(self._buffer)
        self._session.error = repr(exc) if exc else None
        if self._handshaking:
            self._tls_failed(exc)
        self._writable.set()
        self._relay.detach(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def cut(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()

    # The stream.

    def _pump(self) -> None:
        """Handle what is complete in the buffer, until an answer has to wait."""
        while self._task is None and self._buffer and not self._transport.is_closing():
            if not (self._take_body() if self._in_body else self._take_line()):
                break
        self._flush()

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\n", self._scanned) + 1
        if not end:
            self._scanned = len(self._buffer)
            return False
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scanned = 0
        self._check_line(raw)
        self._line(raw.rstrip(b"\r\n").decode("utf-8", "surrogateescape"))
        return True

    def _take_body(self) -> bool:
        if self._buffer.startswith(b".\r\n"):
            data, end = b"", 3
        else:
            at = self._buffer.find(b"\r\n.\r\n", max(0, self._scanned - 4))
            if at < 0:
                self._scanned = len(self._buffer)
                return False
            data, end = bytes(self._buffer[: at + 2]), at + 5
        del self._buffer[:end]
        self._scanned = 0
        self._in_body = False
        self._may_speak = self._pipelining  # RFC 2920 §3.1: the content may begin a group
        if self._buffer and not self._may_speak:
            self._violation("input behind the message")
        self._body(data)
        return True

    def _flush(self) -> None:
        if self._out:
            self._transport.write(bytes(self._out))
            self._out.clear()

    # Answers.

    def _answer(self, step: Step, argument: str, pending: _Pending) -> None:
        """Give the due answer at once, or let the script give another."""
        if not self._relay.scripted(step):
            action = None
        else:
            action = self._relay.pick(step, argument, self._session.index, self._envelope.number)
        if action is not None:
            self._flush()
            self._spawn(self._perform(action, pending))
            return
        self._emit(pending.default, pending)
        self._follow_up()

    def _emit(self, payload: bytes, pending: _Pending) -> None:
        if pending.effect is not None and payload.startswith(pending.yes):
            pending.effect()
        self._out += payload
        self._may_speak = self._may_speak or payload.endswith(b"\n")

    def _follow_up(self) -> None:
        following, self._next = self._next, None
        if following is not None:
            self._flush()
            following()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
            self._task = None
            self._follow_up()
            self._pump()
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        self._relay.changed()

    def _failed(self, error: Exception) -> None:
        """Say that the relay or a test's script is wrong, so that it does not look like a relay gone quiet."""
        self._task = None
        self._violation(f"relay failed: {error!r}")
        self.cut()

    async def _perform(self, action: Action, pending: _Pending) -> None:
        """Do what the script says; only the first bytes said decide about the pending effect."""
        match action:
            case Reply(then=then) | Raw(then=then):
                self._emit(action.payload, pending)
                self._flush()
            case Split(chunks=chunks, then=then):
                await self._write_split(chunks, pending)
            case Hold(event=event, then=after):
                await event.wait()
                return await self._perform(after or Raw(pending.default), pending)
            case Later(turns=turns, then=after):
                for _ in range(turns):
                    await asyncio.sleep(0)
                return await self._perform(after or Raw(pending.default), pending)
            case AcceptThen(then=then):
                if pending.effect is not None:
                    pending.effect()
            case Endless():
                return await self._stream(action)
            case Close() | Reset() | Silence():
                return await self._fall_silent(action)
            case _:
                assert_never(action)
        if then is not None:
            await self._perform(then, _Pending(b""))
        return None

    async def _write_split(self, chunks: tuple[bytes, ...], pending: _Pending) -> None:
        for number, chunk in enumerate(chunks):
            if number:
                await asyncio.sleep(0)
            self._emit(chunk, _Pending(b"") if number else pending)
            self._flush()

    async def _stream(self, endless: Endless) -> None:
        chunk = endless.unit * (_CHUNK // len(endless.unit))
        while self._session.streamed < endless.mebibytes * 1024 * 1024:
            self._transport.write(chunk)
            self._session.streamed += len(chunk)
            await asyncio.sleep(0)
            await self._writable.wait()
        await self._fall_silent(Silence())

    async def _fall_silent(self, action: Close | Reset | Silence) -> None:
        """Say nothing more on this connection; the task ends with it."""
        match action:
            case Close(notify=True):
                self._transport.close()
            case Close():
                self._transport.abort()
            case Reset():
                linger = struct.pack("ii", 1, 0)
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._transport.abort()
            case Silence(reading=False):
                self._transport.pause_reading()
            case Silence():
                pass
            case _:
                assert_never(action)
        await asyncio.Event().wait()

    # TLS.

    def _prepare_tls(self) -> None:
        """Stop reading before the ClientHello comes, then shake hands, or do what the script says instead."""
        self._transport.pause_reading()
        self._buffer.clear()
        self._handshaking = True
        action = self._relay.pick("handshake", "", self._session.index, self._envelope.number)
        self._spawn(self._secure(action))

    async def _secure(self, action: Action | None) -> None:
        while isinstance(action, Hold):
            await action.event.wait()
            action = action.then
        if action is not None:
            self._transport.resume_reading()
            await self._perform(action, _Pending(b""))
            return
        assert self._relay.tls is not None
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, self, self._relay.tls, server_side=True)
        except OSError as error:
            self._next = partial(self.connection_lost, error)  # asyncio does not always report it to us
            return
        if transport is None:  # cut while shaking hands
            self._next = partial(self.connection_lost, None)
        else:
            self._secured(transport)

    def _secured(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._handshaking = False
        self._helo, self._extended = None, False
        self._new_envelope()
        self._session.tls = True
        self._relay.handshakes.append(_shaken(self._session, transport.get_extra_info("ssl_object")))
        self._session.encrypted_from = len(self._session.commands)
        if self._relay.implicit_tls:
            self._next = self._greet

    def _tls_failed(self, error: Exception | None) -> None:
        self._handshaking = False
        self._session.tls_error = repr(error)
        if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
            self._violation("spoke in clear where the handshake was due", error.reason.encode())

    # Commands.

    def _line(self, line: str) -> None:
        if self._challenged is not None:
            answer, self._challenged = self._challenged, None
            answer(line)
            return
        self._session.commands.append(line)
        verb = line.partition(" ")[0].upper()
        verb = "MAIL" if verb.startswith("MAIL") else verb
        handler = _COMMANDS.get(verb)
        if handler is None:
            self._violation("unknown command", line.encode("utf-8", "surrogateescape"))
            self._emit(self._say(502, "5.5.2", "Error: command not recognized"), _Pending(b""))
        else:
            handler(self, line)

    def _say(self, code: int, enhanced: str, text: str) -> bytes:
        if self._relay.features.enhanced_status_codes:
            return f"{code} {enhanced} {text}\r\n".encode()
        return f"{code} {text}\r\n".encode()

    def _out_of_turn(self, step: Step, line: str, why: str) -> None:
        """Refuse a command that a conforming client would not send now."""
        self._violation(f"{line.partition(' ')[0].upper()} {why}")
        self._answer(step, line, _Pending(self._say(503, "5.5.1", f"Error: {why}")))

    def _greet(self) -> None:
        self._answer("connect", "", _Pending(b"220 relay.test ESMTP ScriptedRelay\r\n"))

    def _ehlo(self, line: str) -> None:
        def effect() -> None:
            self._helo, self._extended = line.partition(" ")[2], True
            self._new_envelope()

        offers = ["relay.test", *self._offers()]
        text = "\n".join([*(f"250-{offer}" for offer in offers[:-1]), f"250 {offers[-1]}"])
        self._answer("ehlo", line, _Pending(Reply(text).payload, effect))

    def _offers(self) -> list[str]:
        offer, tls = self._relay.features, self._session.tls
        login = self._relay.users is not None and (offer.auth_over_tls if tls else offer.auth_in_clear)
        offers = {
            "PIPELINING": offer.pipelining,
            f"SIZE {offer.size}": offer.size is not None,
            "STARTTLS": self._relay.tls is not None and not tls,
            f"AUTH {' '.join(offer.auth)}": login and bool(offer.auth),
            "ENHANCEDSTATUSCODES": offer.enhanced_status_codes,
            "8BITMIME": offer.eight_bit_mime,
            "DSN": offer.dsn,
            "SMTPUTF8": offer.smtputf8,
        }
        return [keyword for keyword, offered in offers.items() if offered]

    def _hello(self, line: str) -> None:
        def effect() -> None:
            self._helo, self._extended = line.partition(" ")[2], False
            self._new_envelope()

        self._answer("helo", line, _Pending(b"250 relay.test\r\n", effect))

    def _starttls(self, line: str) -> None:
        if self._relay.tls is None or self._session.tls or not self._extended:
            self._out_of_turn("starttls", line, "was not offered")
            return

        def effect() -> None:
            self._next = self._prepare_tls

        self._answer("starttls", line, _Pending(self._say(220, "2.0.0", "Ready to start TLS"), effect))

    def _mail(self, line: str) -> None:
        if self._helo is None or self._envelope.mail_from is not None:
            self._out_of_turn("mail", line, "came before EHLO" if self._helo is None else "is nested")
            return
        self._envelope.mail_said = True
        parsed = _MAIL.match(line)
        if parsed is None:
            self._malformed("mail", line)
            return
        parameters = _parameters(parsed[2])

        def effect() -> None:
            self._envelope.mail_from, self._envelope.parameters = parsed[1], parameters

        self._answer("mail", line, _Pending(self._judge_mail(parsed[1], parameters), effect))

    def _judge_mail(self, sender: str, parameters: dict[str, str]) -> bytes:
        """The reply to a well-formed MAIL in its turn."""
        if self._relay.require_auth and self._session.username is None:
            return self._say(530, "5.7.0", "Authentication required")
        unknown = parameters.keys() - self._allowed_parameters()
        if unknown:
            self._violation(f"MAIL parameters that were not offered: {sorted(unknown)}")
            return self._say(555, "5.5.4", "Unsupported option")
        if not sender.isascii() and "SMTPUTF8" not in parameters:
            self._violation("non-ASCII sender without SMTPUTF8")
            return self._say(553, "5.6.7", "Must use SMTPUTF8 parameter")
        limit = self._relay.features.size
        if not parameters.get("SIZE", "0").isdecimal():
            self._violation("SIZE is not a number")
            return self._say(501, "5.5.4", "Syntax error")
        if limit is not None and int(parameters.get("SIZE", "0")) > limit:
            return self._say(552, "5.3.4", "Message size exceeds fixed limit")
        return self._say(250, "2.1.0", "Ok")

    def _allowed_parameters(self) -> set[str]:
        offer = self._relay.features
        allowed = {
            "SIZE": offer.size is not None,
            "BODY": offer.eight_bit_mime,
            "SMTPUTF8": offer.smtputf8,
            "RET": offer.dsn,
            "ENVID": offer.dsn,
            "AUTH": self._relay.users is not None,
        }
        return {name for name, offered in allowed.items() if offered and self._extended}

    def _rcpt(self, line: str) -> None:
        envelope = self._envelope
        if envelope.mail_from is None and not (envelope.mail_said and self._pipelining):
            self._out_of_turn("rcpt", line, "needs MAIL")
            return
        envelope.rcpt_said = True
        parsed = _RCPT.match(line)
        if parsed is None:
            self._malformed("rcpt", line)
            return
        if envelope.mail_from is None:
            self._answer("rcpt", line, _Pending(self._say(503, "5.5.1", "Error: need MAIL command")))
            return
        effect = lambda: envelope.rcpt_tos.append(parsed[1])  # noqa: E731
        self._answer("rcpt", line, _Pending(self._judge_rcpt(parsed[1], _parameters(parsed[2])), effect))

    def _judge_rcpt(self, address: str, parameters: dict[str, str]) -> bytes:
        """The reply to a well-formed RCPT in its turn."""
        unknown = parameters.keys() - ({"NOTIFY", "ORCPT"} if self._relay.features.dsn else set())
        if unknown:
            self._violation(f"RCPT parameters that were not offered: {sorted(unknown)}")
            return self._say(555, "5.5.4", "Unsupported option")
        if not address.isascii() and "SMTPUTF8" not in self._envelope.parameters:
            self._violation("non-ASCII recipient without SMTPUTF8")
            return self._say(553, "5.6.7", "Must use SMTPUTF8 parameter")
        return self._say(250, "2.1.5", "Ok")

    def _data(self, line: str) -> None:
        envelope = self._envelope
        if not envelope.rcpt_tos and not (envelope.rcpt_said and self._pipelining):
            self._out_of_turn("data", line, "needs RCPT")
            return
        if not envelope.rcpt_tos:
            self._answer("data", line, _Pending(self._say(554, "5.5.1", "Error: no valid recipients")))
            return

        def effect() -> None:
            self._in_body = True

        self._answer("data", line, _Pending(b"354 End data with <CR><LF>.<CR><LF>\r\n", effect, yes=b"3"))

    def _body(self, stuffed: bytes) -> None:
        """The terminator has come: judge the message."""
        envelope, self._envelope = self._envelope, _Envelope(self._envelope.number + 1)
        data = (b"\r\n" + stuffed).replace(b"\r\n.", b"\r\n")[2:]
        self._check_body(stuffed, data, envelope)
        limit = self._relay.features.size
        if limit is not None and len(data) > limit:
            verdict = self._say(552, "5.3.4", "Error: message too big")
        else:
            verdict = self._say(250, "2.0.0", f"Ok: queued as {self._session.index:06X}{envelope.number:06X}")
        seen = data.decode("latin-1") if self._relay.scripted("final") else ""
        self._answer("final", seen, _Pending(verdict, lambda: self._accept(envelope, data)))

    def _accept(self, envelope: _Envelope, data: bytes) -> None:
        head = data.find(b"\r\n\r\n")
        found = _MESSAGE_ID.search(data, 0, head + 2 if head >= 0 else len(data))
        caught = Caught(
            mail_from=envelope.mail_from or "",
            rcpt_tos=tuple(envelope.rcpt_tos),
            data=data if self._relay.keep_data else b"",
            message_id=found[1].decode("latin-1") if found else None,
            session_index=self._session.index,
            tls=self._session.tls,
            mail_parameters=envelope.parameters,
            username=self._session.username,
            at=time.time(),
        )
        self._relay.record(caught)

    def _rset(self, line: str) -> None:
        self._answer("rset", line, _Pending(self._say(250, "2.0.0", "Ok"), self._new_envelope))

    def _noop(self, line: str) -> None:
        self._answer("noop", line, _Pending(self._say(250, "2.0.0", "Ok")))

    def _quit(self, line: str) -> None:
        def effect() -> None:
            self._next = self._transport.close

        self._answer("quit", line, _Pending(self._say(221, "2.0.0", "Bye"), effect))

    def _new_envelope(self) -> None:
        self._envelope = _Envelope(self._envelope.number + 1)

    @property
    def _pipelining(self) -> bool:
        return self._extended and self._relay.features.pipelining

    # AUTH.

    def _auth(self, line: str) -> None:
        if self._helo is None or self._session.username is not None or self._envelope.mail_said:
            why = "came before EHLO" if self._helo is None else "came twice or within a transaction"
            self._out_of_turn("challenge", line, why)
            return
        _, mechanism, initial = (*line.split(" ", 2), "", "")[:3]
        mechanism, offer = mechanism.upper(), self._relay.features
        if mechanism not in offer.auth or self._relay.users is None:
            self._violation(f"AUTH {mechanism} was not offered")
            self._answer("challenge", line, _Pending(self._say(504, "5.5.4", "Unrecognized mechanism")))
        elif not (offer.auth_over_tls if self._session.tls else offer.auth_in_clear):
            self._violation("AUTH where it was not offered")
            self._answer("challenge", line, _Pending(self._say(538, "5.7.11", "Encryption required")))
        elif mechanism == "PLAIN":
            self._ask(line, "", initial, self._plain)
        else:
            self._ask(line, "Username:", initial, self._login_username)

    def _ask(self, line: str, question: str, given: str, then: Callable[[str], None]) -> None:
        """Get one base64 answer: the initial response, or by a challenge."""
        if given:
            then("" if given == "=" else given)
            return

        def effect() -> None:
            self._challenged = then

        challenge = b"334 " + base64.b64encode(question.encode()) + b"\r\n"
        self._answer("challenge", line, _Pending(challenge, effect, yes=b"3"))

    def _plain(self, response: str) -> None:
        parts = (_unbase64(response) or "").split("\0")
        if len(parts) == 3:
            self._login("PLAIN", parts[1], parts[2])
        else:
            self._bad_response()

    def _login_username(self, response: str) -> None:
        username = _unbase64(response)
        if username is None:
            self._bad_response()
        else:
            self._ask("AUTH LOGIN", "Password:", "", lambda answer: self._login_password(username, answer))

    def _login_password(self, username: str, response: str) -> None:
        password = _unbase64(response)
        if password is None:
            self._bad_response()
        else:
            self._login("LOGIN", username, password)

    def _login(self, mechanism: str, username: str, password: str) -> None:
        attempt = Login(mechanism, username, password, self._session.tls)
        self._session.logins.append(attempt)

        def effect() -> None:
            attempt.accepted = True
            self._session.username = username

        known = (self._relay.users or {}).get(username) == password
        yes = self._say(235, "2.7.0", "Authentication successful")
        no = self._say(535, "5.7.8", "Error: authentication failed")
        self._answer("auth", f"{mechanism} {username}", _Pending(yes if known else no, effect))

    def _bad_response(self) -> None:
        self._emit(self._say(501, "5.5.2", "Cannot decode response"), _Pending(b""))

    # Strictness.

    def _violation(self, what: str, where: bytes = b"") -> None:
        excerpt = f": {where[:60]!r}" if where else ""
        self._relay.violations.append(f"session {self._session.index}: {what}{excerpt}")

    def _malformed(self, step: Step, line: str) -> None:
        self._violation("malformed command", line.encode("utf-8", "surrogateescape"))
        self._answer(step, line, _Pending(self._say(501, "5.5.4", "Syntax error")))

    def _check_line(self, raw: bytes) -> None:
        """Judge a command line and whether anything may already stand behind it."""
        self._may_speak = self._pipelining and raw[:4].upper().decode("latin-1") in _GROUPABLE
        if self._buffer and not self._may_speak:
            self._violation("input behind a command that ends its group", raw)
        if not raw.endswith(b"\r\n") or b"\r" in raw[:-2]:
            self._violation("bare CR or LF in a command", raw)
        if b"\0" in raw:
            self._violation("NUL in a command", raw)
        if len(raw) > (12288 if self._challenged or raw[:4].upper() == b"AUTH" else 1024):
            self._violation("command line too long", raw)

    def _check_body(self, stuffed: bytes, data: bytes, envelope: _Envelope) -> None:
        pairs = data.count(b"\r\n")
        if data.count(b"\r") != pairs or data.count(b"\n") != pairs:
            self._violation("bare CR or LF in data")
        if len(data) > _LONGEST_LINE and max(map(len, data.split(b"\r\n"))) > _LONGEST_LINE:
            self._violation("line over 1000 octets in data")
        if not data.isascii() and "SMTPUTF8" not in envelope.parameters:
            self._violation("8-bit data")
        if b"\0" in data:
            self._violation("NUL in data")
        if _LONE_DOT.search(stuffed):
            self._violation("line with an unstuffed dot in data")
        if stuffed and not stuffed.endswith(b"\r\n"):
            self._violation("data does not end in CRLF")
        declared = envelope.parameters.get("SIZE", "")
        if declared.isdecimal() and len(data) > int(declared):
            self._violation(f"data of {len(data)} octets, declared SIZE={declared}")


def _shaken(session: Session, tls: ssl.SSLObject) -> Handshake:
    shown = tls.getpeercert() or {}
    names = dict(pair for part in shown.get("subject", ()) for pair in part)
    return Handshake(session.index, tls.version(), names.get("commonName"))


def _parameters(text: str) -> dict[str, str]:
    """` SIZE=12 SMTPUTF8` → {"SIZE": "12", "SMTPUTF8": ""}."""
    return {name.upper(): value for name, _, value in (word.partition("=") for word in text.split())}


def _unbase64(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


_COMMANDS: Mapping[str, Callable[[_Connection, str], None]] = {
    "EHLO": _Connection._ehlo,
    "HELO": _Connection._hello,
    "STARTTLS": _Connection._starttls,
    "AUTH": _Connection._auth,
    "MAIL": _Connection._mail,
    "RCPT": _Connection._rcpt,
    "DATA": _Connection._data,
    "RSET": _Connection._rset,
    "NOOP": _Connection._noop,
    "QUIT": _Connection._quit,
}
