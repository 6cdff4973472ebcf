"""A credential is a reference: where a password comes from, resolved when it is needed."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Source = Literal["plaintext", "stored", "vault", "azure_key_vault", "cyberark", "conjur", "file", "env"]


class Credential(BaseModel):
    """Where a password comes from.

    A plaintext one comes in as `value` and is kept as `sealed`; exactly one of the two is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    value: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(None, repr=False)
    sealed: str | None = Field(None, repr=False)
    connection: str | None = None
    key: str | None = None
    property: str | None = None
    username_property: str | None = None
    version: str | int | None = None
    entry: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source == "plaintext":
            if (self.value is None) == (self.sealed is None):
                raise ValueError("a plaintext credential has a value")
        elif self.value is not None or self.sealed is not None:
            raise ValueError("only a plaintext credential has a value")
        elif self.key is None and self.entry is None:
            raise ValueError("a key is required")
        return self
