"""Settings files written for one test: a text in, settings or faults out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.settings import Fault, Settings, SettingsError, load


def written(folder: Path, text: str) -> Path:
    """Write a settings file and return its path."""
    path = folder / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    """Load settings from a text, with variables named without their common prefix."""
    return load(written(folder, text), {f"NOTIFICATION_GATEWAY_{name}": value for name, value in environ.items()})


def faults(folder: Path, text: str, **environ: str) -> tuple[Fault, ...]:
    """Load settings that cannot be used and return what is wrong with them."""
    with pytest.raises(SettingsError) as refused:
        loaded(folder, text, **environ)
    return refused.value.faults


def fixed_keys() -> Iterator[tuple[str, str]]:
    """Yield the section and the name of every key that can have a default."""
    for section, field in Settings.model_fields.items():
        if field.is_required() and field.annotation is not None:
            yield from ((section, key) for key in field.annotation.model_fields)
