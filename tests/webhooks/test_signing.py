"""Signatures are those of Standard Webhooks, by its own published example and by its reference implementation."""

from __future__ import annotations

import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.credentials.secret import Secret
from gateway.directory.kinds import signing_key
from gateway.webhooks.signing import headers, signature
from tests.webhooks.world import OTHER_SECRET, SECRET

ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'


def test_the_published_example() -> None:
    """The secret, id, time and body that all its libraries are tested with."""
    assert signature(Secret(SECRET), ID, 1614265330, BODY) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
def test_either_of_two_secrets_verifies(secret: str) -> None:
    """While one takes the place of the other, whoever knows but one of them still believes what is told."""
    signed = headers([Secret(OTHER_SECRET), Secret(SECRET)], ID, int(time.time()), BODY)
    assert Webhook(secret).verify(BODY.decode(), signed) == {"test": 2432232314}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY.decode() + " ", signed)


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "A" * 28, "whsec_" + "A" * 88, "whsec_*" * 9],
)
def test_what_is_no_secret(secret: str) -> None:
    """Another beginning, too short, too long, or no Base64."""
    with pytest.raises(ValueError):
        signing_key(secret)
