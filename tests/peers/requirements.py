"""What a test needs from its machine: missing means a visible skip, or a failure where nothing may be missing."""

from __future__ import annotations

import os

import pytest


def require(what: str, present: object) -> None:
    """Skip the test unless `present`; with GATEWAY_TEST_REQUIRE=all in the environment, fail it instead."""
    if present:
        return
    if os.environ.get("GATEWAY_TEST_REQUIRE") == "all":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")
