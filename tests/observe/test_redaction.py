"""Secrets that got as far as the log get no farther, whoever brought them, and words that only sound like one stay."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest

from gateway.credentials.secret import Secret, living
from gateway.observe import facts, foreign, log
from gateway.observe.redaction import MASK, MOST_READ, harmless, redacted
from gateway.smtp.outcome import Fault, Phase, Trouble
from tests.observe.written import FORMS
from tests.peers.smtp_server import Close, Reply, ScriptedRelay
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.observe.written import Written

CANARY = "c4nary-Tr1ll"
PLACE = ("acme", "main")
PEM = f"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE{CANARY}\nAAAA\n-----END EC PRIVATE KEY-----"


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS_OF_SECRETS = {
    "our key": f"ngw_abcdefgh_{CANARY}0123456789",
    "bearer": f"Authorization: Bearer {CANARY}.x",
    "bearer alone": f"sent Bearer {CANARY} to it",
    "basic": f"Basic {coded('user:' + CANARY)}",
    "header": f"X-Vault-Token: {CANARY}",
    "webhook": f"whsec_{CANARY.replace('-', '+')}AAAA=",
    "vault": f"hvs.{CANARY}AAAA",
    "vault of old": f"s.{CANARY.replace('-', '')}0123456789",
    "json web token": f"eyJhbGciOiJI.{CANARY}.sig",
    "url": f"GET https://bob:{CANARY}@vault.example/v1",
    "url with a slash": f"postgresql://gateway:x/{CANARY}@db/gateway",
    "url with a user alone": f"https://{CANARY}@git.example/",
    "query": f"https://vault.example/?sig={CANARY}&x=1",
    "pem": f"cannot read {PEM} of it",
    "pem cut off": PEM[:-30],
    "pem on one line": PEM.replace("\n", "\\n"),
    "assignment": f"login failed (password={CANARY}, host=h)",
    "quoted assignment": f"client_secret = 'a {CANARY}'",
    "json": json.dumps({"error": "no", "client_secret": f'a" {CANARY}'}),
    "repr": repr({"refresh_token": CANARY}),
    "bytes": repr({"password": CANARY.encode()}),
    "prose": f"wrong password: {CANARY}",
    "auth plain": f"500 unknown: AUTH PLAIN {coded(chr(0) + 'app' + chr(0) + CANARY)}",
    "plain alone": f"you said {coded(chr(0) + 'app' + chr(0) + CANARY)}",
    "auth login": f"AUTH LOGIN {coded(CANARY)}",
    "xoauth2": f"334 {coded(f'user=a{chr(1)}auth=Bearer {CANARY}{chr(1)}{chr(1)}')}",
}
HARMLESS = (
    "535 5.7.139 Authentication unsuccessful, basic authentication is disabled",
    "503 AUTH LOGIN rejected, AUTH PLAIN is not offered here",
    "535 Basic Authentication is off, so is basic SMTP; AUTH PLAIN NotAllowed, AUTH LOGIN STARTTLS first",
    "the token of the store ends in 3 days; the secret is missing",
    "454 4.7.0 Temporary authentication failure: Bearer realm=relay",
    "550 5.1.1 <https://support.example/?p=NoSuchUser> try later",
    "[master_key] keys: needs a file; name one",
    "certificate verify failed: Hostname mismatch, certificate is not valid for 'relay.example'",
    "01a1ff30fa677e6b086cc9d7057b8592",
)


def clear(text: str) -> bool:
    """Does a text show the canary, plain, coded at any place, or percent-encoded?"""
    forms = {CANARY, CANARY.replace("-", ""), CANARY.replace("-", "+"), quote(CANARY, safe="")}
    forms |= {coded("x" * ahead + CANARY)[4:-4] for ahead in range(3)}
    return any(form in text for form in forms)


def fail(detail: str) -> None:
    """Write a line with a relay's words in it."""
    facts.session_failed(PLACE, Fault(Phase.GREETING, Trouble.GREETING_REFUSED, detail))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", FORMS_OF_SECRETS.values(), ids=FORMS_OF_SECRETS)
def test_what_looks_like_a_secret_is_taken_away(text: str, form: str, written: Written) -> None:
    """In whatever form the line is written."""
    log.configure(form, "info")
    assert clear(text)
    fail(text)
    told = written.text()

    assert MASK in told
    assert not clear(told)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_sounds_like_one_stays(text: str) -> None:
    """Operators need these words."""
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name", ["password", "client_secret", "Authorization", "api_key", "apiKey", "refresh_token", "credential", "tokens"]
)
def test_what_is_named_like_a_secret_is_taken_away(name: str) -> None:
    """Whatever it is, and however deep."""
    told = harmless({name: CANARY, "more": [{name: [CANARY]}], "kept": "x"}, tuple)

    assert told == {name: MASK, "more": [{name: MASK}], "kept": "x"}


@pytest.mark.parametrize("name", ["tokenizer", "passed", "keys", "secretary"])
def test_other_names_are_not(name: str) -> None:
    """A word that merely begins so."""
    assert harmless({name: "x"}, tuple) == {name: "x"}


# Live values.

VALUE = "zw0lf Bäume/\"'\\=+%"
WAYS = {
    "plain": VALUE,
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 of more": base64.b64encode(b"app:" + VALUE.encode()).decode(),
    "base64 behind letters": f"/x/{base64.urlsafe_b64encode(VALUE.encode()).decode().rstrip('=')}",
    "percent": quote(VALUE, safe=""),
    "plus": quote_plus(VALUE),
    "json": json.dumps(VALUE),
    "repr": repr(VALUE),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_live_value_is_found(way: str, written: Written) -> None:
    """As it stands, and as URLs, Base64, JSON and Python write it."""
    secret = Secret(VALUE)
    log.live_secrets = living
    log.configure("json", "info")
    fail(f"it said {way} to us")
    [line] = written.lines()
    del secret

    assert MASK in line["detail"]
    assert way.strip("'\"") not in line["detail"]
    assert line["detail"].endswith(" to us")


def test_no_secret_lives_longer_for_it() -> None:
    """A value that nobody has any more is not known here either; one of two that are equal still is."""
    gone, one, other = Secret("gone-for-good"), Secret("kept-by-one"), Secret("kept-by-one")
    before = set(living())
    del gone, other
    gc.collect()
    after = set(living())

    assert {"gone-for-good", "kept-by-one"} <= before
    assert ("gone-for-good" in after, one.reveal() in after) == (False, True)


def test_nobody_takes_our_words_out(written: Written) -> None:
    """A tenant whose password is a word of ours, or two letters long, leaves the line as it is."""
    secrets = [Secret(word) for word in ("acme", "session_failed", "is")]
    log.live_secrets = living
    log.configure("json", "info")
    fail("this is what it said")
    [line] = written.lines()
    del secrets

    assert (line["event"], line["owner"], line["detail"]) == ("session_failed", "acme", "this is what it said")


def test_the_longer_of_two_goes_whole() -> None:
    """A value that begins as another does leaves no rest."""
    assert redacted("said abcdef-ghi here", ["abcdef", "abcdef-ghi"]) == f"said {MASK} here"


def test_a_cut_shows_nothing_that_was_not_looked_at() -> None:
    """A secret across the end of what is shown, or of what is read, does not show its beginning."""
    for at in (2_048, MOST_READ // 2, MOST_READ):
        for before in range(len(CANARY)):
            text = "x " * ((at - before) // 2) + CANARY + " y" * MOST_READ
            shown = harmless({"detail": text, "exception": text}, lambda: [CANARY])
            assert CANARY[:6] not in f"{shown}"


def test_hostile_texts_cost_little() -> None:
    """A relay cannot keep the loop busy by what it says."""
    live = [f"secret-{number:05}" for number in range(1_000)]
    for text in ("://", "://a:", "password", '="\\', "AUTH PLAIN ", "-----BEGIN PRIVATE KEY-----", "%41", "'token':", "a-", "eyJ"):  # fmt: skip
        began = time.perf_counter()
        redacted(text * (MOST_READ // len(text)), live)
        assert time.perf_counter() - began < 1


# Where they come from.


@pytest.mark.parametrize("form", FORMS)
async def test_a_library_that_talks_is_not_repeated(form: str, written: Written) -> None:
    """Its records and their exceptions, errors of tasks, and requests that failed."""
    log.configure(form, "debug")
    foreign.listen(asyncio.get_running_loop())
    logging.getLogger("urllib3.connectionpool").warning("Retrying %s", f"https://app:{CANARY}@vault.example/v1/login")
    try:
        raise ValueError(f"bad form: password={CANARY}&user=app")
    except ValueError as error:
        logging.getLogger("aiohttp.client").exception("with %s", {"Authorization": f"Bearer {CANARY}"})
        facts.request_failed("r1", error)
        facts.uncaught("loop", f"token='{CANARY}'", error)
    told = written.text()

    assert told.count(MASK) >= 7
    assert not clear(told)


@pytest.mark.parametrize("form", FORMS)
async def test_a_relay_that_repeats_us_is_not(form: str, tmp_path: Path, written: Written) -> None:
    """It greets with what it heard in some other session, and the password lives in this process."""
    (tmp_path / "relay-a").write_text(CANARY)
    lent = {"username": "app", "credential": {"source": "file", "key": "relay-a"}}
    log.live_secrets = living
    log.configure(form, "debug")
    said = f"554 5.7.1 no more {coded(chr(0) + 'app' + chr(0) + CANARY)} and {CANARY}"
    async with ScriptedRelay(users={"app": CANARY}) as relay:
        relay.on("connect", Reply(said, then=Close()))
        async with world(tmp_path, profile(relay.port, auth=lent), secrets=tmp_path) as at:
            await at.post("acme")
            await at.until_it_stands(PLACE)
    told = written.text()

    assert f"no more {MASK} and {MASK}" in told
    assert not clear(told)
