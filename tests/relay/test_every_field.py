"""No field of a profile without a test that sees on the wire what it says: the tests of `test_field_*` are counted."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from gateway.credentials.reference import Credential
from gateway.directory.shapes import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator


def leaves(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The fields of a document, by their names in it; a credential is one, whatever it refers to."""
    for name, field in model.model_fields.items():
        path = above + (field.alias or name)
        inner = [one for one in models(field.annotation) if one is not Credential]
        for one in inner:
            yield from leaves(one, f"{path}.")
        if not inner:
            yield path


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The shapes that a field's type is made of, however deep in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from models(one)


def proofs() -> dict[str, tuple[str, ...]]:
    """Each test that is collected, with the fields that it says it sees."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("test_field_*.py")):
        module = import_module(f"{__package__}.{file.stem}")
        tests = {name: value for name, value in vars(module).items() if name.startswith("test_")}
        found.update({f"{file.stem}.{name}": getattr(test, "fields", ()) for name, test in tests.items()})
    return found


def test_every_field_of_a_profile_is_seen_on_the_wire() -> None:
    """Each leaf of the model has a test, by its name in a document, and each name is one of the model's."""
    assert {field for fields in proofs().values() for field in fields} == set(leaves(Profile))


def test_every_test_of_a_field_says_which() -> None:
    """One among them that names none would not be missed here."""
    assert [test for test, fields in proofs().items() if not fields] == []


def test_the_leaves_of_a_model() -> None:
    """Nested shapes are walked through, by alias, optional ones too; a credential is a leaf."""
    found = set(leaves(Profile))

    assert {"from", "tls.client_certificate", "auth.oauth.grant", "dsn.return", "dkim.key", "tenant"} <= found
    assert not {"sender", "tls", "auth.oauth", "dsn.returned", "dkim.key.source"} & found
