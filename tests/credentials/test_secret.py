"""A secret shows itself nowhere, and only those reveal it who hand it over."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gateway
from gateway.credentials.secret import MASK, Secret

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY = "canary-4f1d"
REVEALING = {
    "app.py",  # to the database's driver
    "credentials/oauth",  # to an endpoint of tokens
    "credentials/providers",  # to a secret store, as the daemon's own sign-in
    "credentials/sealed.py",  # to be sealed
    "credentials/secret.py",  # to the log, which looks for them in what it writes
    "relay/sign_in.py",  # user names that came with a password
    "ui/oidc",  # to the OpenID provider, as the daemon's own sign-in; what we sealed into a cookie ourselves
    "smtp",  # to a relay or a proxy, and to sign
    "webhooks/signing.py",  # to sign
}


@pytest.mark.parametrize("shown", [str, repr, "{}".format, "{:>20}".format, "{!r}".format, lambda s: f"{s}", ascii])
def test_it_is_not_shown(shown: Callable[[object], str]) -> None:
    """Whatever way it is made a text."""
    assert CANARY not in shown(Secret(CANARY))
    assert CANARY not in repr({"password": [Secret(CANARY)]})


@pytest.mark.parametrize("taken", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps])
def test_it_is_not_taken_along(taken: Callable[[object], object]) -> None:
    """Neither copied nor serialised."""
    with pytest.raises(TypeError):
        taken(Secret(CANARY))


def test_it_is_compared_to_secrets_alone() -> None:
    """A text never equals it; two of the same value do, and a table finds them."""
    assert Secret(CANARY) == Secret(CANARY)
    assert Secret(CANARY) != Secret("other")
    assert Secret(CANARY) != CANARY
    assert {Secret(CANARY): 1}[Secret(CANARY)] == 1
    assert (MASK, Secret(CANARY).reveal()) == (str(Secret(CANARY)), CANARY)


def test_only_those_reveal_it_who_hand_it_over() -> None:
    """Every call of `reveal` stands in a file that has to; a new place is thought about here first."""
    root = Path(gateway.__file__).parent
    calls = re.compile(r"\.reveal\(\)")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if calls.search(path.read_text("utf-8"))}
    strangers = {file for file in found if not any(file == one or file.startswith(f"{one}/") for one in REVEALING)}
    idle = {one for one in REVEALING if not any(file == one or file.startswith(f"{one}/") for file in found)}

    assert (strangers, idle) == (set(), set())
