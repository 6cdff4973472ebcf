"""The folder in which the tests of settings write their files."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder whose real path is known, as temporary folders may lie behind a link."""
    return tmp_path.resolve()
