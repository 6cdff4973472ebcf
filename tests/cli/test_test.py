"""`test` at the command line: a real daemon, a scripted relay, and what a person or a script gets to see."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers.smtp_server import Hold, Reply, ScriptedRelay, Silence
from tests.process.daemon import ROOT, Daemon, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PHASES = ["secret", "resolve", "connect", "greeting", "auth", "sender", "recipient", "content"]
TO = ("--to", "ann@example.test")


@dataclass
class Ended:
    """A command that is over."""

    code: int
    out: str
    err: str

    @property
    def phases(self) -> list[list[str]]:
        """Each phase that was shown, and how it went."""
        return [line.split()[:2] for line in self.out.splitlines() if line.split()[0] in PHASES]


@dataclass
class Desk:
    """A relay, and a daemon whose `acme/main` sends through it."""

    relay: ScriptedRelay
    daemon: Daemon

    async def start(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        """Start a command."""
        config = str(self.daemon.folder / "gateway.toml")
        given = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **options}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "-c", config, *words, cwd=ROOT, **given
        )

    async def run(self, *words: str) -> Ended:
        """Run a command to its end."""
        process = await self.start(*words)
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with ScriptedRelay() as relay:
        daemon = await Daemon(tmp_path / "gateway", plain(relay.port)).start()
        yield Desk(relay, daemon)
        await daemon.kill()


@pytest.mark.parametrize(
    "words", [("main", "--tenant", "acme"), ("acme", "main"), ("acme", "main", "--tenant", "acme")]
)
async def test_green(desk: Desk, words: tuple[str, ...]) -> None:
    """A line a phase, without colours in a pipe; exit code 0, and the message is there."""
    ended = await desk.run("test", *words, *TO, "--subject", "Is it on?", "--message", "Hello")

    assert (ended.code, ended.err) == (0, "")
    assert ended.phases == [[phase, "ok"] for phase in PHASES]
    assert "\x1b" not in ended.out
    assert ended.out.splitlines()[-1] == "main works: the relay took the message"
    [mail] = desk.relay.messages
    assert (mail.rcpt_tos, b"Subject: Is it on?" in mail.data) == (("ann@example.test",), True)


async def test_each_phase_is_shown_as_it_happens(desk: Desk) -> None:
    """While the relay thinks about the recipient, the sender is on the screen."""
    go_on = asyncio.Event()
    desk.relay.on("rcpt", Hold(go_on))
    process = await desk.start("test", "acme", "main", *TO)
    assert process.stdout is not None
    while not (line := await process.stdout.readline()).startswith(b"auth"):
        assert line
    go_on.set()
    rest, _ = await process.communicate()
    assert [line.split()[0] for line in rest.decode().splitlines()][:3] == ["sender", "recipient", "content"]


async def test_red(desk: Desk) -> None:
    """Exit code 1; why, by words and code, and what to do are on standard error."""
    desk.relay.on("rcpt", Reply("450 4.7.1 Greylisted"))
    ended = await desk.run("test", "acme", "main", *TO)

    assert ended.code == 1
    assert ended.phases[-1] == ["recipient", "FAILED"]
    why, hint = ended.err.splitlines()
    assert why.startswith("recipient: The relay said: 450 4.7.1 Greylisted")
    assert why.endswith("(greylisted)")
    assert "five minutes" in hint


@pytest.mark.parametrize("green", [True, False])
async def test_json_is_the_apis_answer(desk: Desk, green: bool) -> None:
    """Alone on standard output; the exit code is the same."""
    if not green:
        desk.relay.on("mail", Reply("550 5.7.60 send as denied"))
    ended = await desk.run("test", "acme", "main", *TO, "--json")
    told = json.loads(ended.out)

    assert (ended.code, ended.err) == (0 if green else 1, "")
    assert told.keys() == {"ok", "phases", "error"}
    assert told["ok"] is green
    assert green or told["error"]["code"] == "send_as_denied"


@pytest.mark.parametrize("name", ["profile.toml", "profile.json"])
async def test_a_profile_in_a_file_is_not_saved(desk: Desk, tmp_path: Path, name: str) -> None:
    """It is tested as it stands there; its name may be given instead, or be left out."""
    fields = {"host": "127.0.0.1", "port": desk.relay.port, "security": "none", "from": "new@zoo.example"}
    assert (await desk.run("tenants", "set", "zoo")).code == 0
    for words, named in (((), {"name": "new"}), (("other",), {}), ((), {})):
        whole = {**fields, **named}
        lines = "\n".join(f"{field} = {json.dumps(value)}" for field, value in whole.items())
        (tmp_path / name).write_text(json.dumps(whole) if name.endswith("json") else lines)
        ended = await desk.run("test", *words, "--tenant", "zoo", *TO, "--file", str(tmp_path / name))
        assert (ended.code, ended.out.splitlines()[-1].split(" works")[0]) == (0, words[0] if words else "the profile")
    shown = await desk.run("profiles", "list", "--tenant", "zoo")

    assert [one.mail_from for one in desk.relay.messages] == ["new@zoo.example"] * 3
    assert shown.out == ""


async def test_faults_of_a_file(desk: Desk, tmp_path: Path) -> None:
    """All of them, each by its pointer; exit code 1. A file that is none is wrong usage."""
    (tmp_path / "profile.toml").write_text('name = "a b"\nhost = "relay.example"\n')
    faulty = await desk.run("test", "acme", *TO, "--file", str(tmp_path / "profile.toml"))
    missing = await desk.run("test", "acme", *TO, "--file", str(tmp_path / "nowhere.toml"))

    assert (faulty.code, missing.code) == (1, 2)
    assert "/profile/name" in faulty.err
    assert "/profile/from" in faulty.err


async def test_an_inherited_profile(desk: Desk) -> None:
    """Only whether each phase passed, and the error's code."""
    desk.relay.on("final", Reply("554 5.7.1 secret words"))
    for words in (("tenants", "set", "emea", "--parent", "acme"), ("push", "--tenant", "acme", "--child", "emea", "--profile", "main")):  # fmt: skip
        assert (await desk.run(*words)).code == 0
    ended = await desk.run("test", "emea", "main", *TO)

    assert ended.code == 1
    assert ended.out.splitlines()[-1].split() == ["content", "FAILED"]
    assert ended.err == "policy\n"


async def test_what_the_daemon_refuses(desk: Desk) -> None:
    """Its problem on standard error, exit code 1."""
    missing = await desk.run("test", "acme", "nobody", *TO)
    faulty = await desk.run("test", "acme", "main", "--to", "nobody")

    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("not_found")
    assert (faulty.code, "/to" in faulty.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("main", *TO), "its tenant is not named"),
        (("--tenant", "acme", *TO), "no profile is named"),
        (TO, "neither profile nor tenant is named"),
        (("acme", "main", "--tenant", "zoo", *TO), "two tenants are named, acme and zoo"),
        (("a", "b", "c", *TO), "too many names"),
        (("acme", "main"), "Missing option '--to'"),
    ],
)
async def test_wrong_usage(desk: Desk, words: tuple[str, ...], told: str) -> None:
    """Exit code 2 and what is wrong, and nobody is asked."""
    ended = await desk.run("test", *words)
    assert (ended.code, ended.out, desk.relay.sessions) == (2, "", [])
    assert told in ended.err


async def test_a_terminal_gets_colours(desk: Desk) -> None:
    """Green and red are seen there."""
    desk.relay.on("rcpt", Reply("550 5.1.1 no"))
    ours, theirs = os.openpty()
    try:
        process = await desk.start("test", "acme", "main", *TO, stdout=theirs, stderr=theirs)
        await process.wait()
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[32mok" in shown
    assert "\x1b[31mFAILED" in shown
    assert process.returncode == 1


@pytest.mark.parametrize("gone", [True, False], ids=["a pipe that nobody reads", "a full disk"])
async def test_an_output_that_takes_nothing_is_no_daemon_that_is_away(desk: Desk, gone: bool) -> None:
    """Whoever does not want to read more is told no more; of another error the system's words."""
    if gone:
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    process = await desk.start("test", "acme", "main", *TO, stdout=output)
    os.close(output)
    _, err = await process.communicate()

    assert process.returncode
    assert b"no daemon answers" not in err
    assert (b"No space left on device" in err) is not gone


async def test_a_daemon_that_dies_meanwhile(desk: Desk) -> None:
    """The command says so, and fails."""
    desk.relay.on("mail", Silence())
    process = await desk.start("test", "acme", "main", *TO)
    await desk.relay.wait(lambda: desk.relay.sessions and "MAIL" in desk.relay.sessions[0].verbs)
    await desk.daemon.kill()
    _, err = await process.communicate()
    assert (process.returncode, b"no daemon answers" in err) == (1, True)
