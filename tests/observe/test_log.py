"""What stands in the log, in which form, and that nothing which somebody gets into a line becomes one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gateway.observe import facts, foreign, log, metrics
from gateway.observe.lines import Journal
from gateway.smtp.outcome import Fault, Phase, Trouble
from tests.http.world import running
from tests.observe.written import FORMS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.observe.written import Written

PLACE = ("acme", "main")
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
HOSTILE = "one\n<0>forged event=started\r\x1b[31mred\x00\x85\u2028two\u202eowt\ufeff"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def fail(detail: str) -> None:
    """Write a line with a relay's words in it."""
    facts.session_failed(PLACE, Fault(Phase.GREETING, Trouble.GREETING_REFUSED, detail))


def test_json_is_an_object_a_line_in_a_stable_order(written: Written) -> None:
    """Time, level and event come first, then the fields as the fact names them."""
    log.configure("json", "info")
    facts.parked(PLACE, "auth_failed", "535 no")
    [line] = written.text().splitlines()
    told = json.loads(line)

    assert list(told) == ["timestamp", "level", "event", "owner", "profile", "reason", "detail"]
    assert (told["level"], told["event"], told["detail"]) == ("warning", "parked", "535 no")
    assert TIME.fullmatch(told["timestamp"])


def test_text_is_for_people(written: Written) -> None:
    """Time, level, event, then key=value; quoted where a space would hide the end."""
    log.configure("text", "info")
    facts.parked(PLACE, "auth_failed", "535 no")
    [line] = written.text().splitlines()

    assert TIME.match(line)
    assert line[24:] == ' warning parked owner=acme profile=main reason=auth_failed detail="535 no"'


@pytest.mark.parametrize(
    ("write", "priority"),
    [
        (lambda: facts.store_stuck(3), 3),
        (lambda: facts.parked(PLACE, "r", "d"), 4),
        (facts.stopped, 6),
        (lambda: facts.session_opened(PLACE, verified=True), 7),
    ],
)
def test_the_journal_is_told_priorities(write: object, priority: int, written: Written) -> None:
    """A line begins as sd-daemon(3) says, and has no time: the journal has its own."""
    log.configure("journal", "debug")
    write()  # type: ignore[operator]

    assert re.fullmatch(rf"<{priority}>[a-z_]+( [a-z_]+=\S+)*\n", written.text())


@pytest.mark.parametrize("form", FORMS)
def test_nobody_writes_a_line_of_his_own(form: str, written: Written) -> None:
    """Ends of lines, escape sequences and marks that turn the writing are shown, and do nothing."""
    log.configure(form, "info")
    fail(HOSTILE)
    text = written.text()

    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert not set(text[:-1]) & set("\x00\x1b\r\x85\u2028\u202e\ufeff")


def test_a_trace_in_text_is_set_in(written: Written) -> None:
    """An exception's lines stand below theirs, none at the margin, whatever the exception says."""
    log.configure("text", "info")
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        facts.request_failed("r1", error)
    first, *below = written.text().rstrip("\n").split("\n")

    assert "request_failed request_id=r1" in first
    assert below
    assert all(line.startswith("    ") for line in below)
    assert not any("\x1b" in line for line in below)


@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_cut(form: str, written: Written) -> None:
    """Two KiB of a value are enough."""
    log.configure(form, "info")
    fail("x" * 50_000)

    assert 2_048 <= written.text().count("x") <= 2_060


def test_of_a_long_trace_both_ends_stay(written: Written) -> None:
    """Where it began and what it was."""
    log.configure("json", "info")
    try:
        raise ValueError("y" * 30_000 + "the end")
    except ValueError as error:
        facts.request_failed("r1", error)
    [line] = written.lines()

    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("the end")
    assert len(line["exception"]) < 8_300


def test_a_trace_shows_no_variables(written: Written) -> None:
    """An exception is rendered without the values that its frames have."""
    log.configure("json", "info")
    hidden = "a local " + "value"
    try:
        assert hidden
        raise ValueError("no")
    except ValueError as error:
        facts.request_failed("r1", error)

    assert hidden not in written.text()


def test_the_level_may_change(written: Written) -> None:
    """What was left out is written once the log is set up anew, and the other way round."""
    log.configure("json", "error")
    facts.stopped()
    log.configure("json", "info")
    facts.stopped()
    log.configure("json", "warning")
    facts.stopped()

    assert written.events() == ["stopped"]


async def test_a_line_tells_the_request_that_is_answered(written: Written) -> None:
    """Also in what the request waits for; afterwards, and in what it only set going, no more."""
    log.configure("json", "info")
    go = asyncio.Event()

    async def lane() -> None:
        await go.wait()
        facts.failover_ended(PLACE)

    async def answer() -> asyncio.Task[None]:
        scope = log.Answering("r1")
        facts.secret_changed("corp")
        await asyncio.gather(asyncio.to_thread(facts.secret_stale, "corp", True))
        going = asyncio.create_task(lane())
        scope.over()
        facts.stopped()
        return going

    going = await asyncio.create_task(answer(), context=contextvars.Context())
    go.set()
    await going

    told = {line["event"]: line.get("request_id") for line in written.lines()}
    assert told == {"secret_changed": "r1", "secret_stale": "r1", "stopped": None, "failover_ended": None}


# The journal's own protocol.


def fields(datagram: bytes) -> dict[str, str]:
    """Read a datagram as systemd does: `NAME`, then eight octets of length and as many octets, for each field."""
    read: dict[str, str] = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        assert rest[8 + size : 9 + size] == b"\n"
        assert name.decode() not in read
        read[name.decode()] = rest[8 : 8 + size].decode()
        datagram = rest[9 + size :]
    return read


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Listen as the journal does, and let standard error be connected to it as far as the log can see."""
    monkeypatch.setattr(Journal, "connected", staticmethod(lambda: True))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "socket"))
    listener.settimeout(5)
    return listener


def test_the_journal_gets_fields(journal: socket.socket, tmp_path: Path, written: Written) -> None:
    """By names that can be asked for; nothing goes to standard error besides."""
    log.configure("journal", "info", journal=tmp_path / "socket")
    facts.outcome("failed", "0123", "acme", "acme/main", 0, (550, "5.1.1"), TRACE)

    assert fields(journal.recv(65_536)) == {
        "MESSAGE": "failed id=0123 tenant=acme owner=acme profile=main recipient=0 code=550 enhanced=5.1.1 "
        f"trace_id={'ab' * 16}",
        "PRIORITY": "6", "SYSLOG_IDENTIFIER": "notification-gateway", "EVENT": "failed", "NOTIFICATION_ID": "0123",
        "TENANT": "acme", "OWNER": "acme", "PROFILE": "main", "RECIPIENT": "0", "CODE": "550", "ENHANCED": "5.1.1",
        "TRACE_ID": "ab" * 16,
    }  # fmt: skip
    assert written.text() == ""


def test_nobody_gives_the_journal_a_field_of_his_own(journal: socket.socket, tmp_path: Path, written: Written) -> None:
    """A value with an end of line ends nothing."""
    log.configure("journal", "info", journal=tmp_path / "socket")
    fail("one\nPRIORITY=0\nTENANT=zoo")
    told = fields(journal.recv(65_536))

    assert told["PRIORITY"] == "4"
    assert "TENANT" not in told
    assert "\n" not in told["MESSAGE"]


def test_without_a_journal_there_are_lines(journal: socket.socket, tmp_path: Path, written: Written) -> None:
    """What the journal does not take, because it is gone or full, goes to standard error."""
    log.configure("journal", "info", journal=tmp_path / "nowhere")
    facts.stopped()
    gone = written.text()
    log.configure("journal", "info", journal=tmp_path / "socket")
    for _ in range(1_000):
        facts.stopped()
        if full := written.text():
            break

    assert (gone, full) == ("<6>stopped\n", "<6>stopped\n")


def test_a_full_journal_is_waited_for_once_a_second(
    journal: socket.socket, tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for every line: the loop stands still meanwhile."""
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log.configure("journal", "info", journal=tmp_path / "socket")
    while not written.text():
        facts.stopped()
    journal.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            journal.recv(65_536)
    facts.stopped()
    at_once = written.text()
    now += 1
    facts.stopped()

    assert (at_once, written.text()) == ("<6>stopped\n", "")
    assert fields(journal.recv(65_536))["EVENT"] == "stopped"


@pytest.mark.parametrize("same", [True, False])
def test_only_a_standard_error_that_is_the_journal_is(same: bool) -> None:
    """JOURNAL_STREAM is inherited by processes whose standard error is another (systemd.exec(5))."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(ours.fileno() if same else theirs.fileno())
        program = "from gateway.observe.lines import Journal; raise SystemExit(Journal.connected())"
        environ = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        done = subprocess.run([sys.executable, "-c", program], stderr=ours, env=environ, check=False)

    assert done.returncode == same


# What others say.


async def test_libraries_are_heard_from_warning_on(written: Written) -> None:
    """Their records are lines like others, with the logger's name and the exception."""
    log.configure("json", "debug")
    foreign.listen(asyncio.get_running_loop())
    foreign.listen(asyncio.get_running_loop())
    logger = logging.getLogger("aiohttp.server")
    logger.info("chatter")
    logger.warning("met %s", "you")
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("failed")
    told = written.lines()

    assert [(line["level"], line["event"], line["logger"], line["message"]) for line in told] == [
        ("warning", "library", "aiohttp.server", "met you"),
        ("error", "library", "aiohttp.server", "failed"),
    ]
    assert "ValueError: no" in told[1]["exception"]


def test_a_record_that_is_broken_is_told_as_it_is(written: Written) -> None:
    """A library's slip in formatting costs no line, and no more than that."""
    log.configure("json", "info")
    foreign.Handler().emit(logging.LogRecord("lib", logging.CRITICAL, "", 0, "%d", ("x",), None))
    [line] = written.lines()

    assert (line["level"], line["message"]) == ("error", "%d")


async def test_warnings_are_heard(written: Written) -> None:
    """Python's warnings come as records of `py.warnings`."""
    log.configure("json", "info")
    foreign.listen(asyncio.get_running_loop())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("do not", UserWarning, stacklevel=1)
    [line] = written.lines()

    assert (line["logger"], "UserWarning: do not" in line["message"]) == ("py.warnings", True)


async def test_nothing_goes_past_everybody(written: Written) -> None:
    """Errors of a task, of a thread, of an object that went, and the process' last are lines too."""
    log.configure("json", "info")
    foreign.listen(asyncio.get_running_loop())

    async def fail_alone() -> None:
        raise ValueError("task")

    def fail_apart() -> None:
        raise ValueError("thread")

    class Going:
        def __del__(self) -> None:
            raise ValueError("object")

    alone = asyncio.ensure_future(fail_alone())
    await asyncio.wait({alone})
    del alone
    Going()
    gc.collect()
    apart = threading.Thread(target=fail_apart, name="apart")
    apart.start()
    apart.join()
    sys.excepthook(ValueError, ValueError("process"), None)
    told = [(line["event"], line["where"], line["exception"].rsplit(" ", 1)[1]) for line in written.lines()]

    assert sorted(told) == [("uncaught", where, where.replace("loop", "task")) for where in ("loop", "object", "process", "thread")]  # fmt: skip


def test_a_field_that_says_nothing_is_left_out(written: Written) -> None:
    """Neither null nor an empty text: an endpoint that was not reached gave no status, an error need not have words."""
    log.configure("json", "info")
    facts.webhook_failed(("acme", "wh_1"), "hooks.example", "unreachable", None, first=True)
    facts.webhook_failed(("acme", "wh_1"), "hooks.example", "refused", 500, first=True)
    facts.uncaught("process", "", ValueError("no"))
    [away, refused, uncaught] = written.lines()

    assert (away.keys(), refused["status"]) == (refused.keys() - {"status"}, 500)
    assert uncaught.keys() == {"timestamp", "level", "event", "where", "exception"}


# Recipients who do not get their mail.


def outcome(event: str, by: str = "acme/main") -> None:
    facts.outcome(event, "0123", "acme", by, 0, None, None)


def test_operators_hear_of_failures_and_not_of_successes(written: Written) -> None:
    """Above `debug` only of recipients who do not get their mail, or of whom nobody knows."""
    log.configure("json", "info")
    for event in facts.OUTCOMES:
        outcome(event, by=f"acme/{event}")

    assert sorted(written.events()) == ["expired", "failed", "outcome_unknown", "uncertain"]


def test_a_profile_has_so_many_lines_a_minute(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten, each profile its own; when the minute is over what was left out is counted, and there are ten again."""
    log.configure("json", "info")
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(25):
        outcome("failed")
    outcome("failed", by="acme/other")
    first = written.lines()
    now += 61
    facts.tell_left_out()
    outcome("failed")
    later = written.lines()

    assert [line["profile"] for line in first] == ["main"] * 10 + ["other"]
    assert [(line["event"], line.get("of"), line.get("count")) for line in later] == [
        ("lines_left_out", "acme/main", 15),
        ("failed", None, None),
    ]


def test_at_debug_nothing_is_left_out(written: Written) -> None:
    """Who follows one mail wants all its lines."""
    log.configure("json", "debug")
    for _ in range(25):
        outcome("relayed")

    assert written.events() == ["relayed"] * 25


# Keys that are refused.


async def test_who_goes_on_guessing_fills_no_log(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong key is counted, ten have lines and later one in six seconds; none costs a look at all living secrets."""
    looks: list[str] = []
    counts: list[float] = []
    now = time.time() * 1_000

    def look() -> list[str]:
        looks.append("a look")
        return []

    log.configure("json", "info")
    log.live_secrets = look
    wrong = {"Authorization": "Bearer ngw_aaaaaaaa_" + "b" * 43}
    async with running(tmp_path, on_refused=facts.key_refused) as world:
        monkeypatch.setattr(world.outbox, "clock", lambda: int(now))
        for number in range(1, 26):
            now += 6_000 * (number == 20)
            client = {"X-Forwarded-For": f"2001:db8::{number}"}
            assert (await world.call("GET", "/v1/notifications", None, headers={**wrong, **client})).status == 401
            counts.append(metrics.REGISTRY.get_sample_value("notification_gateway_http_keys_refused_total") or 0.0)

    assert [line["client"] for line in written.lines()] == [f"2001:db8::{number}" for number in (*range(1, 11), 20)]
    assert counts[-1] - counts[0] == 24
    assert looks == []
