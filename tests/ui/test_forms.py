"""Documents as forms and back, faults beside their fields, and values as people are told them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.problems import Code, Fault, Problem, refusal
from gateway.ui.forms import Field, Form, Kind, as_written, document, placed, read_form, values
from gateway.ui.words import age, day_and_time, mailbox, mark, size, words

FIELDS = (
    Field("/name"),
    Field("/limits/per_minute", Kind.NUMBER),
    Field("/enabled", Kind.SWITCH),
    Field("/allowed_senders", Kind.LINES),
    Field("/from", Kind.MAILBOX),
    Field("/to", Kind.MAILBOXES),
    Field("/auth/credential/value", Kind.SECRET),
)
DOCUMENT = {
    "name": "main",
    "limits": {"per_minute": 600},
    "enabled": True,
    "allowed_senders": ["*@a.example", "b@b.example"],
    "from": {"name": "Ann, of the desk", "address": "ann@a.example"},
    "to": ["bob@b.example", {"name": "Cy", "address": "cy@c.example"}],
}


def form_of(shown: dict[str, object]) -> Form:
    """What a browser sends of a form that shows this."""
    pairs = []
    for name, value in shown.items():
        pairs += (
            [(name, "off")] + ([(name, "on")] if value else []) if isinstance(value, bool) else [(name, str(value))]
        )
    return Form(pairs)


def test_a_document_comes_back_from_its_form_as_it_was() -> None:
    """Nothing is lost or added by opening a form and saving it."""
    assert document(FIELDS, form_of(values(FIELDS, DOCUMENT))) == DOCUMENT


def test_what_is_empty_is_left_out_so_that_defaults_stand() -> None:
    """An empty field says nothing; a switch says no."""
    assert document(FIELDS, form_of(values(FIELDS, {}))) == {"enabled": False}


def test_a_field_that_the_form_does_not_have_is_left_out() -> None:
    """A form that lacks a switch does not turn it off."""
    assert document(FIELDS, Form([("/name", "x")])) == {"name": "x"}


def test_a_number_that_is_none_goes_to_the_api_as_it_was_written() -> None:
    """The API says what is wrong with it."""
    assert document(FIELDS, Form([("/limits/per_minute", "many")])) == {"limits": {"per_minute": "many"}}


def test_a_secret_is_never_shown_again() -> None:
    """Neither what is stored nor what was just written comes back."""
    shown = values(FIELDS, {"auth": {"credential": {"value": "hunter2"}}})
    written = as_written(FIELDS, Form([("/auth/credential/value", "hunter2")]))
    assert "hunter2" not in str(shown) + str(written)


def test_a_secret_keeps_its_spaces() -> None:
    """A password may begin or end with one."""
    assert document(FIELDS, Form([("/auth/credential/value", " x ")])) == {"auth": {"credential": {"value": " x "}}}


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_any_form_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    """Whatever names and values there are, making a document of them raises nothing."""
    document(FIELDS, Form(pairs))


@pytest.mark.parametrize("body", [b"\xff=1", b"a=1&b", b"=".join([b"x"] * 3) + b"&y", b"&".join([b"a=1"] * 5001)])
def test_a_body_that_is_no_form_is_refused(body: bytes) -> None:
    """Broken text, names without values and thousands of fields are a bad request."""
    with pytest.raises(Problem) as raised:
        read_form(body)
    assert raised.value.code is Code.BAD_REQUEST


def test_faults_stand_beside_their_fields() -> None:
    """The fault of a member, of a part of it, and of a line of a list are told where one looks for them."""
    problem = refusal([
        Fault("/name", "required", "A name is required."),
        Fault("/allowed_senders/1", "bad_value", "This is no pattern."),
        Fault("/from/address", "bad_address", "This is no address."),
        Fault("/nowhere", "bad_value", "What is this?"),
    ])  # fmt: skip
    faults = placed(problem, [field.pointer for field in FIELDS])
    assert faults.beside == {
        "/name": ["A name is required."],
        "/allowed_senders": ["Line 2: This is no pattern."],
        "/from": ["This is no address."],
    }
    assert faults.rest == ["/nowhere: What is this?"]


def test_a_problem_without_faults_is_told_on_top() -> None:
    """A refusal of the whole is about no field."""
    assert placed(Problem(Code.DUPLICATE_PROFILE), ["/name"]).rest == [Code.DUPLICATE_PROFILE.title]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "–"), (0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_061, "1 d 1 h"), (-5, "0 s")],
)
def test_ages(seconds: float | None, told: str) -> None:
    """A duration is told in its two largest units."""
    assert age(seconds) == told


@pytest.mark.parametrize(
    ("octets", "told"), [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes(octets: int | None, told: str) -> None:
    """A size is told in its largest unit."""
    assert size(octets) == told


def test_states_have_words_and_marks() -> None:
    """A reason behind a colon is part of the words, and does not hide the state."""
    assert (mark("parked:auth_refused"), words("parked:auth_refused")) == ("bad", "parked: auth refused")
    assert (mark("relayed"), mark("nobody_knows")) == ("good", "quiet")


def test_times_and_addresses_are_told_as_people_write_them() -> None:
    """Times to the second, addresses with their names."""
    assert day_and_time("2030-01-31T12:00:00.123Z") == "2030-01-31 12:00:00"
    assert mailbox({"name": "Ann", "address": "ann@a.example"}) == "Ann <ann@a.example>"
