"""What every provider must do, whatever it speaks: run against a fake on the real wire format, with the real client.

A provider's test module subclasses `ProviderContract` and gives it two fixtures: `fake`, a server that holds secrets
and can be told to misbehave, and `provider`, connected to it with short deadlines (a second in all).
"""

from __future__ import annotations

import sys
import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import pytest

from gateway.credentials.provider import LONGEST_PAUSE, CredentialError, Fetched, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.credentials.provider import Provider

KEY = "smtp/relay-a"
CANARY = "canary-5e1f-pa55"
BODY_CANARY = "canary-in-a-body"
RETRY_AFTER = 7.0


class How(StrEnum):
    """Ways in which a server may misbehave from now on; every body that is no answer holds `BODY_CANARY`."""

    DENY = "deny"  # 403 for the secret, whatever token is shown
    THROTTLE = "throttle"  # 429 with Retry-After: 7
    BROKEN = "broken"  # 503, or what the product says when it is sealed
    DRIP = "drip"  # an octet now and then, and no end
    HTML = "html"  # 200 with a page, as a proxy in between would answer
    REDIRECT = "redirect"  # to another host, which records what it is shown
    OVERSIZE = "oversize"  # 200 with more than any secret has
    EXPIRE = "expire"  # every token issued so far is refused; the next sign-in works


class Fake(Protocol):
    """A server that a test drives."""

    elsewhere: int  # requests that reached the host of the redirect

    async def put(self, key: str, fields: Mapping[str, str]) -> None:
        """Keep a secret, or its next version."""

    async def delete(self, key: str) -> None:
        """Delete a secret."""

    def misbehave(self, how: How | None) -> None:
        """Do so from now on; None: behave."""


async def refused(provider: Provider, key: str = KEY) -> CredentialError:
    """Fetch what cannot be had."""
    with pytest.raises(CredentialError) as caught:
        await provider.fetch(key, None)
    return caught.value


def values(fetched: Fetched) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in fetched.fields.items()}


class ProviderContract:
    """One attempt, one classification."""

    field = "password"  # the field that the source keeps a plain secret under

    async def test_a_secret_is_found(self, fake: Fake, provider: Provider) -> None:
        """Its value, under the field's name, with a version."""
        await fake.put(KEY, {self.field: CANARY})
        fetched = await provider.fetch(KEY, None)
        assert values(fetched)[self.field] == CANARY
        assert isinstance(fetched.version, str)

    async def test_a_changed_value_is_another_version(self, fake: Fake, provider: Provider) -> None:
        """The next fetch brings the next value."""
        await fake.put(KEY, {self.field: "one"})
        before = await provider.fetch(KEY, None)
        await fake.put(KEY, {self.field: "two"})
        after = await provider.fetch(KEY, None)
        assert (values(before)[self.field], values(after)[self.field]) == ("one", "two")

    async def test_a_missing_secret(self, provider: Provider) -> None:
        """Not found is not denied."""
        assert (await refused(provider)).kind is Kind.NOT_FOUND

    async def test_a_deleted_secret(self, fake: Fake, provider: Provider) -> None:
        """What was there is not found any more."""
        await fake.put(KEY, {self.field: CANARY})
        await provider.fetch(KEY, None)
        await fake.delete(KEY)
        assert (await refused(provider)).kind is Kind.NOT_FOUND

    @pytest.mark.parametrize(
        ("how", "kinds"),
        [
            (How.DENY, {Kind.DENIED}),
            (How.THROTTLE, {Kind.THROTTLED}),
            (How.BROKEN, {Kind.UNREACHABLE}),
            (How.DRIP, {Kind.UNREACHABLE}),
            (How.HTML, {Kind.MALFORMED}),
            (How.REDIRECT, {Kind.MALFORMED, Kind.UNREACHABLE}),
            (How.OVERSIZE, {Kind.MALFORMED}),
        ],
    )
    async def test_misbehaviour(self, fake: Fake, provider: Provider, how: How, kinds: set[Kind]) -> None:
        """Each has its kind; nothing that the server said, and no secret, is in the error or behind it."""
        await fake.put(KEY, {self.field: CANARY})
        await provider.fetch(KEY, None)
        fake.misbehave(how)
        error = await refused(provider)
        told = "".join(traceback.format_exception(error)) + repr(error.__dict__)
        assert error.kind in kinds
        assert (CANARY in told, BODY_CANARY in told) == (False, False)
        assert (error.__cause__, error.__context__ is None or error.__suppress_context__) == (None, True)

    async def test_a_redirect_is_not_followed(self, fake: Fake, provider: Provider) -> None:
        """Who answers with another host is shown nothing of ours there."""
        await fake.put(KEY, {self.field: CANARY})
        fake.misbehave(How.REDIRECT)
        await refused(provider)
        assert fake.elsewhere == 0

    async def test_a_pause_that_is_asked_for_is_told(self, fake: Fake, provider: Provider) -> None:
        """Retry-After comes along."""
        await fake.put(KEY, {self.field: CANARY})
        fake.misbehave(How.THROTTLE)
        assert (await refused(provider)).retry_after == RETRY_AFTER

    async def test_a_pause_is_no_longer_than_an_hour(
        self, fake: Fake, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long a server asks for: its connection would be closed until a restart."""
        for module in {sys.modules[one.__module__] for one in type(fake).__mro__}:
            if hasattr(module, "RETRY_AFTER"):
                monkeypatch.setattr(module, "RETRY_AFTER", 999_999.0)
        await fake.put(KEY, {self.field: CANARY})
        fake.misbehave(How.THROTTLE)
        assert (await refused(provider)).retry_after == LONGEST_PAUSE

    async def test_a_token_that_expired_is_renewed(self, fake: Fake, provider: Provider) -> None:
        """Once, without anybody noticing; the secret is fetched all the same."""
        await fake.put(KEY, {self.field: CANARY})
        await provider.fetch(KEY, None)
        fake.misbehave(How.EXPIRE)
        assert values(await provider.fetch(KEY, None))[self.field] == CANARY

    async def test_it_works_again_after_trouble(self, fake: Fake, provider: Provider) -> None:
        """Whatever happened before."""
        await fake.put(KEY, {self.field: CANARY})
        for how in (How.BROKEN, How.DRIP, How.HTML, How.DENY):
            fake.misbehave(how)
            await refused(provider)
        fake.misbehave(None)
        assert values(await provider.fetch(KEY, None))[self.field] == CANARY
