"""`webhooks`: from the first to the last of one, as somebody at the command line sees it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Shell
from tests.peers.webhook_endpoint import WebhookEndpoint
from tests.process.daemon import Daemon, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ACME = ("--tenant", "acme")
EVENT = ("--event", "notification.failed")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A command line, and a daemon whose webhooks may come to this machine."""
    daemon = Daemon(tmp_path_factory.mktemp("gateway"), plain(2525), webhooks='["127.0.0.1/32"]')
    with asyncio.Runner() as runner:
        runner.run(daemon.start())
        yield Shell(daemon)
        runner.run(daemon.kill())


def test_a_webhook_is_made_changed_and_deleted(shell: Shell) -> None:
    """What was made is shown once; a secret comes from a file or from standard input."""
    made = shell.good("webhooks", "set", *ACME, "--endpoint", "http://127.0.0.1:9/a?t=1", *EVENT)
    [listed] = shell.told("webhooks", "list", *ACME)["items"]
    changed = shell.good("webhooks", "set", listed["id"], *ACME, "--secret-file", "-", "--disabled", text=f"{SECRET}\n")
    line = shell.good("webhooks", "list", *ACME)
    shown = shell.good("webhooks", "show", listed["id"], *ACME)
    shell.good("webhooks", "rm", listed["id"], *ACME)

    assert made.startswith(f"webhook {listed['id']} is made; its secret: whsec_")
    assert changed == f"webhook {listed['id']} is set\n"
    assert line == f"{listed['id']} disabled (by a person) http://127.0.0.1:9/a?t=1: notification.failed\n"
    assert SECRET not in changed + line + shown
    assert shell.told("webhooks", "list", *ACME)["items"] == []


def test_an_event_that_there_is_not_is_the_one_fault(shell: Shell) -> None:
    """It is named with those that there are: exit code 2, and nothing is made."""
    result = shell.run("webhooks", "set", *ACME, "--endpoint", "https://hooks.example/", "--event", "nosuch")

    assert result.exit_code == 2
    assert result.stderr.count("nosuch") == 1
    assert "'notification.failed', 'notification.expired'" in result.stderr
    assert shell.told("webhooks", "list", *ACME)["items"] == []


def test_a_brought_secret_is_not_shown(shell: Shell) -> None:
    """Nor asked for on the command line."""
    made = shell.good(
        "webhooks", "set", *ACME, "--endpoint", "http://127.0.0.1:9/", *EVENT, "--secret-file", "-", text=SECRET
    )
    assert "secret" not in made


def test_a_test_tells_how_it_went(shell: Shell) -> None:
    """In words, as the API's answer, and by the exit code."""

    async def ask() -> None:
        async with WebhookEndpoint() as endpoint:
            made = json.loads(
                await asyncio.to_thread(
                    shell.good, "webhooks", "set", *ACME, "--endpoint", endpoint.url, *EVENT, "--secret-file", "-",
                    "--json", text=SECRET,
                )
            )  # fmt: skip
            good = await asyncio.to_thread(shell.good, "webhooks", "test", made["id"], *ACME)
            [told] = endpoint.requests
            assert told.verify(SECRET)["type"] == "webhook.test"
            assert good.startswith("the endpoint took it (status 200), ")
        bad = await asyncio.to_thread(shell.run, "webhooks", "test", made["id"], *ACME)
        assert (bad.exit_code, bad.stderr.partition(",")[0]) == (1, "unreachable")

    asyncio.run(ask())
