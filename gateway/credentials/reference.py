"""A credential is a reference: where a password comes from, resolved when it is needed."""

from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

Source = Literal["plaintext", "stored", "vault", "azure_key_vault", "cyberark", "conjur", "file", "env"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _as_callers_see(schema: JsonDict) -> None:
    """What is kept is nobody's to write; whether something is kept is there to read."""
    fields = cast("JsonDict", schema["properties"])
    for kept in ("sealed", "dropped"):
        fields.pop(kept, None)
    fields["set"] = {"type": "boolean", "description": "Is there a value? Given back as it was read: it stays."}


class Credential(BaseModel):
    """Where a password comes from.

    A plaintext one comes in as `value` and is kept as `sealed`. With `entry` the operator says all but source and
    connection. `dropped`: there was one, and a change of where it would go has taken it away; it has to be given anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, json_schema_extra=_as_callers_see)

    source: Source
    value: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] | None = Field(None, repr=False)
    sealed: str | None = Field(None, repr=False)
    dropped: bool = False
    connection: Text | None = None
    key: Text | None = None
    property: Text | None = None
    username_property: Text | None = None
    version: str | int | None = None
    entry: Text | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dropped:
            return self
        if self.source == "plaintext":
            if (self.value is None) == (self.sealed is None):
                raise PydanticCustomError("required", "A plaintext credential has a value.")
            if not (self.connection is self.key is self.property is self.username_property is self.entry is None):
                raise PydanticCustomError("conflict", "A plaintext credential refers to nothing.")
        elif self.value is not None or self.sealed is not None:
            raise PydanticCustomError("conflict", "Only a plaintext credential has a value.")
        elif self.key is None and self.entry is None:
            raise PydanticCustomError("required", "A key is required.")
        return self

    def without_secret(self) -> "Credential":
        """The same reference, of which nothing can be fetched any more."""
        return self.model_copy(update={"value": None, "sealed": None, "dropped": True})
