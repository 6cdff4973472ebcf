"""What the operator allows profiles to name: connectors and OAuth providers, tenant by tenant."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.directory.rules import Policy, profile_faults
from gateway.directory.shapes import Profile
from gateway.smtp.egress import EgressPolicy

POLICY = Policy(
    EgressPolicy((587,)),
    connectors={"dmz": ("acme",), "any": ("*",)},
    oauth={"mine": ("acme",), "microsoft365": ("acme",)},
)


def codes(tenant: str, **fields: Any) -> set[str]:
    document = {"tenant": tenant, "name": "p", "host": "h.example", "from": "a@b.example", **fields}
    return {fault.code for fault in profile_faults(Profile.model_validate(document), POLICY)}


@pytest.mark.parametrize(
    ("tenant", "connector", "allowed"),
    [
        ("acme", "dmz", True),
        ("zoo", "dmz", False),
        ("zoo", "any", True),
        ("acme", "none", False),
        ("system", "dmz", True),
    ],
)
def test_connectors(tenant: str, connector: str, *, allowed: bool) -> None:
    """Named by those to whom the operator lends them; egress is then the connector's affair."""
    found = codes(tenant, connector=connector, host="10.0.0.9", port=25)
    assert ("unknown_connector" not in found) is allowed
    assert "egress_refused" not in found


@pytest.mark.parametrize(
    ("tenant", "provider", "grant", "code"),
    [
        ("acme", "mine", "client_secret", None),
        ("zoo", "mine", "client_secret", "unknown_provider"),
        ("zoo", "microsoft365", "client_secret", None),
        ("zoo", "microsoft365", "managed_identity", "not_allowed"),
        ("acme", "microsoft365", "managed_identity", None),
        ("acme", "google", "managed_identity", "bad_value"),
        ("acme", "mine", "service_account", "bad_value"),
    ],
)
def test_oauth(tenant: str, provider: str, grant: str, code: str | None) -> None:
    """Known providers for all, the operator's own and the machine's identity for those that were named."""
    oauth = {
        "provider": provider,
        "grant": grant,
        "directory": "acme.example",
        "client_id": "c",
        "mailbox": "a@b.example",
    }
    found = codes(tenant, auth={"method": "xoauth2", "oauth": oauth, "credential": {"source": "stored", "key": "k"}})
    assert found == (set() if code is None else {code})
