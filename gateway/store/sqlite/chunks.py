"""Rows in chunks: many a statement, of few lengths."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

CHUNK: Final = 32  # rows a statement: enough to amortise it, few enough texts to keep prepared


def chunks(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    """Cut rows into chunks."""
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
