"""The seal: which of the master keys sealed a value, and what does not open."""

from __future__ import annotations

import base64

import pytest

from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret

OLD, NEW = b"o" * 32, b"n" * 32
PLACE = ("profile", "acme", "main", "auth.credential")


def test_the_first_key_seals_and_all_open() -> None:
    """A ring with a new first key opens what the old one sealed, and knows that it is not its own."""
    sealed = Seal([OLD]).close(Secret("x"), PLACE)
    ring = Seal([NEW, OLD])
    anew = ring.close(ring.open(sealed, PLACE), PLACE)

    assert (ring.is_current(sealed), ring.is_current(anew)) == (False, True)
    assert Seal([NEW]).open(anew, PLACE) == Secret("x")


@pytest.mark.parametrize("cut", [0, 1, 7, 11, 12, 27])
def test_what_was_cut_short_does_not_open(cut: int) -> None:
    """However little is left of it."""
    seal = Seal([NEW])
    key_id, _, encoded = seal.close(Secret("x"), PLACE).partition(":")
    short = base64.b64encode(base64.b64decode(encoded)[:cut]).decode()

    with pytest.raises(SealError):
        seal.open(f"{key_id}:{short}", PLACE)


@pytest.mark.parametrize("junk", ["", ":", "nonsense", "é:é"])
def test_what_was_never_sealed_does_not_open(junk: str) -> None:
    """Nor does what has our key's id and no Base64 behind it."""
    seal = Seal([NEW])
    key_id = seal.close(Secret("x"), PLACE).partition(":")[0]

    for text in (junk, f"{key_id}:{junk}"):
        with pytest.raises(SealError):
            seal.open(text, PLACE)


def test_every_flipped_bit_shows() -> None:
    """In the key's id, the nonce, the ciphertext and its tag."""
    seal = Seal([NEW, OLD])
    key_id, _, encoded = seal.close(Secret("x"), PLACE).partition(":")
    data = base64.b64decode(encoded)

    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            seal.open(f"{key_id}:{base64.b64encode(flipped).decode()}", PLACE)
    with pytest.raises(SealError):
        seal.open(f"{Seal([OLD]).close(Secret('x'), PLACE).partition(':')[0]}:{encoded}", PLACE)


@pytest.mark.parametrize("at", range(len(PLACE)))
def test_a_value_opens_only_in_its_place(at: int) -> None:
    """Another kind, tenant, object or field is another place."""
    seal = Seal([NEW])
    sealed = seal.close(Secret("x"), PLACE)
    elsewhere = (*PLACE[:at], "other", *PLACE[at + 1 :])

    with pytest.raises(SealError):
        seal.open(sealed, elsewhere)
