"""Debian's Alertmanager, with the configuration that comes with the project, before the real daemon."""

from __future__ import annotations

import email
import email.policy
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.peers.alertmanager import AMTOOL, Alertmanager, alertmanager_available
from tests.peers.fetched import environment
from tests.peers.losing_proxy import LosingProxy
from tests.peers.requirements import require
from tests.process.cluster import until
from tests.process.daemon import ROOT, plain
from tests.process.engines import own_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import EmailMessage

    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_server import Caught, ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]

TO_PASTE = ROOT / "config/receivers/alertmanager.yml"
LABELS = {"alertname": "HighErrorRate", "service": "api", "severity": "page"}
ANNOTATIONS = {"summary": "Many requests fail.", "runbook_url": "https://runbooks.example.test/?a=1&b=2"}


@pytest.fixture(autouse=True)
def _alertmanager() -> None:
    require("alertmanager (tests/peers/fetch.sh)", alertmanager_available())


def before(daemon: Daemon) -> Alertmanager:
    """Put an Alertmanager before the daemon, by the configuration that people paste."""
    return Alertmanager(TO_PASTE.read_text().replace("http://127.0.0.1:8025", daemon.url), daemon.key)


def read(caught: Caught) -> EmailMessage:
    return email.message_from_bytes(caught.data, policy=email.policy.default)


def subjects(relay: ScriptedRelay) -> list[str]:
    return [read(caught)["Subject"] for caught in relay.messages]


FIRED, OVER = "[FIRING:1] HighErrorRate (api)", "[RESOLVED] HighErrorRate (api)"


def test_amtool_finds_the_configuration_right() -> None:
    """What people paste passes `amtool check-config` as it is."""
    done = subprocess.run(
        [AMTOOL, "check-config", TO_PASTE], env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 receivers" in done.stdout


async def test_an_alert_is_a_mail_and_its_end_another(install: Install, relay: ScriptedRelay) -> None:
    """The alert comes with its words and its severity, to whom the URL names; its end comes as no more than a note."""
    daemon = await install(plain(relay.port)).start()
    with before(daemon) as alertmanager:
        await alertmanager.fire(LABELS, ANNOTATIONS)
        await until(lambda: alertmanager.successes, 30)
        await alertmanager.resolve(LABELS, ANNOTATIONS)
        await relay.wait_messages(2, timeout=30)
    _, listed = await daemon.ask("GET", "/v1/notifications?tenant=acme")
    fired = read(relay.messages[0])
    text, html = (fired.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]

    assert subjects(relay) == [FIRED, OVER]
    assert list(relay.messages[0].rcpt_tos) == ["ops@example.test"]
    assert "summary: Many requests fail." in text
    assert "service=api" in text
    assert '<a href="https:&#x2f;&#x2f;runbooks.example.test&#x2f;?a=1&amp;b=2">Runbook</a>' in html
    assert [item["severity"] for item in listed["items"]] == ["info", "critical"]
    assert {item["category"] for item in listed["items"]} == {"alerts.alertmanager"}


async def test_an_answer_that_gets_lost_makes_no_second_mail(install: Install, relay: ScriptedRelay) -> None:
    """The daemon dies between its commit and its answer: Alertmanager posts again, and there is one mail."""
    daemon = await install(plain(relay.port)).start(environ={"GATEWAY_FAILPOINT": "accept.after_commit:1"})
    with before(daemon) as alertmanager:
        await alertmanager.fire(LABELS, ANNOTATIONS)
        await daemon.wait()
        await daemon.start()
        await until(lambda: alertmanager.successes, 30)
        # It tells of the end only of what it knows to be told.
        await alertmanager.resolve(LABELS, ANNOTATIONS)
        await relay.wait(lambda: OVER in subjects(relay), timeout=60)
        failures = await alertmanager.failures()
    _, listed = await daemon.ask("GET", "/v1/notifications?tenant=acme")

    assert failures >= 1
    assert subjects(relay) == [FIRED, OVER]
    assert len(listed["items"]) == 2


async def test_503_is_tried_again_until_there_is_one_mail(
    install: Install, relay: ScriptedRelay, newest: Postgresql
) -> None:
    """While the database is away the daemon answers 503; when it is back the alert comes, once."""
    async with own_schema(newest) as url, LosingProxy(url) as proxy:
        daemon = await install(plain(relay.port), store=proxy.url).start()
        with before(daemon) as alertmanager:
            await proxy.leave()
            await alertmanager.fire(LABELS, ANNOTATIONS)
            await until(alertmanager.failures, 30)
            await proxy.come()
            await until(lambda: alertmanager.successes, 30)
            await alertmanager.resolve(LABELS, ANNOTATIONS)
            await relay.wait(lambda: OVER in subjects(relay), timeout=60)
            said = alertmanager.log()
        await daemon.stop()

    assert "status code 503" in said
    assert subjects(relay) == [FIRED, OVER]
