"""Assertions in the contract suites explain themselves like those in test files."""

import pytest

pytest.register_assert_rewrite(
    "tests.store.contract",
    "tests.store.contract_audit",
    "tests.store.contract_events",
    "tests.store.contract_logins",
    "tests.store.contract_reading",
    "tests.store.contract_sessions",
)
