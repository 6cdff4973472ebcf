"""The sample tenants that come with the project do what their comments say."""

from __future__ import annotations

from pathlib import Path

from gateway.app import policy
from gateway.credentials.sealed import Seal
from gateway.directory.directory import Directory
from gateway.directory.rules import Policy
from gateway.message.notification import Severity
from gateway.message.template import render
from gateway.settings import load
from gateway.store.sqlite import SqliteStore

CONFIG = Path(__file__).parents[2] / "config"


async def test_the_sample_tenants(tmp_path: Path) -> None:
    """A parent, two children, a pushed default, copies by severity, and a template that can be filled."""
    allowed: Policy = policy(load(CONFIG / "gateway.toml", {}), {})
    async with SqliteStore(tmp_path / "gateway.db") as store:
        directory = Directory(store, allowed, Seal([bytes(32)]))
        await directory.load()
        await directory.provision([CONFIG / "tenants.toml"], tmp_path)
        snapshot = directory.snapshot
    alerts = snapshot.profiles["acme", "alerts"]
    emea = snapshot.resolve("acme-emea", None, "disk", Severity.WARNING)
    calm = snapshot.resolve("acme-emea", None, "disk", Severity.INFO)
    template = snapshot.templates["acme", "welcome"]
    filled = render(template.subject, template.text, template.html, {"name": "Ann", "teams": ["ops"]})

    assert (emea.profile, emea.via, emea.cc) == (alerts, "default", ("desk@emea.acme.example.test",))
    assert calm.cc == ()
    assert snapshot.route("acme-apac", None).profile is None
    assert snapshot.route("acme-apac", "alerts").profile is alerts
    assert filled.subject == "Welcome, Ann"
    assert {key.tenant for key in snapshot.keys.values()} == {"acme", "system"}
