"""What people do on the pages, whole: by keyboard alone and with a mouse, on a phone and at a desk.

Each step is over when the page says so, and the daemon's own state tells whether it is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest_asyncio

from tests.peers.smtp_script import issue_tls
from tests.peers.smtp_server import Reply, ScriptedRelay
from tests.peers.webhook_endpoint import WebhookEndpoint
from tests.process.cluster import until
from tests.ui.asking import asked
from tests.ui.gateway import running
from tests.ui.mails import LATE, post, status, until_status
from tests.ui.profiles import made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.ui.gateway import Gateway
    from tests.ui.hands import Hand, Opens


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Run a daemon whose webhooks may go to this machine."""
    async with running(tmp_path, '[egress.webhooks]\nallow = ["127.0.0.0/8"]\n') as up:
        yield up


async def profiles(gateway: Gateway, tenant: str = "acme") -> dict[str, Any]:
    """Read a tenant's profiles, by their names."""
    return {one["name"]: one for one in (await asked(gateway, "GET", f"tenants/{tenant}/profiles"))["items"]}


async def test_signing_in_and_out(gateway: Gateway, at: Opens) -> None:
    """With a key; out here, and out everywhere."""
    hand = await at("/ui/", "")
    for way_out in ("Sign out", "Sign out everywhere"):
        await hand.write("API key", gateway.keys["acme"])
        await hand.press("Sign in", "What needs a person")
        await hand.press("Signed in as admin", "and what is below it")
        await hand.press(way_out, "API key")


async def test_signing_in_by_a_link(gateway: Gateway, at: Opens) -> None:
    """Which the API gave."""
    link = (await asked(gateway, "POST", "sign-in-links", tenant="acme"))["url"]
    hand = await at(link[link.index("/ui/") :], "")
    await hand.press("Sign in", "What needs a person")


async def test_a_tenant(gateway: Gateway, at: Opens) -> None:
    """Made, found, changed, deleted."""
    hand = await at("/ui/tenants")
    await hand.press("New tenant", "It never changes")
    await hand.write("Id", "acme-labs")
    await hand.choose("Without a default profile of its own", "send nothing")
    await hand.tick("Those below may use its default profile")
    await hand.write("Notifications a minute", "60")
    await hand.press("Make the tenant", "The tenant acme-labs is there.")
    labs = await asked(gateway, "GET", "tenants/acme-labs")
    assert (labs["fallback"], labs["share_default"], labs["limits"]["per_minute"]) == ("none", False, 60)

    await hand.press("Tenants", "New tenant")
    await hand.write("Find a tenant", "labs")
    await hand.press("Find", "below acme")
    await hand.press("acme-labs", "Mail that names no profile")
    await hand.press("Settings", "Only administrators of a tenant above")
    await hand.write("Name", "Laboratory")
    await hand.press("Save", "The settings are saved.")
    assert (await asked(gateway, "GET", "tenants/acme-labs"))["name"] == "Laboratory"

    await hand.press("Delete …", "With it go, for good")
    await hand.press("Delete acme-labs", "The tenant acme-labs is deleted.")
    assert "acme-labs" not in gateway.running.directory.snapshot.tenants


async def test_a_profile_is_made(gateway: Gateway, at: Opens) -> None:
    """With a password; tested before it is saved, changed afterwards, and asked for its password."""
    tls = issue_tls()
    async with ScriptedRelay(users={"app": "open sesame"}, require_auth=True, tls=tls.context) as relay:
        hand = await at("/ui/tenants/acme/profiles")
        await hand.press("New profile", "Test it as it stands here")
        await hand.write("Name", "news")
        await hand.write("Host", "localhost")
        await hand.choose("Security", "STARTTLS, never without")
        await hand.write("Port", str(relay.port))
        await hand.write("User name", "app")
        await hand.choose("Password comes from", "written here, kept sealed")
        await hand.write("Password", "open sesame")
        await hand.write("Password again", "open sesame")
        await hand.write("From", "news@acme.example.test")
        await hand.press("TLS", "Relays that only know older ones are refused.")
        await hand.write("Authorities", tls.ca_pem)
        await hand.write("Send to", "ann@example.test")
        await hand.press("Test", "It answers for it from here on.")
        await hand.press("Make the profile", "The profile news is there.")
        await hand.press("news", "A password is set")
        await hand.press("Limits and failover", "More are sent in several transactions.")
        await hand.write("Connections", "2")
        await hand.press("Check", "It can be had.")
        await hand.press("Save", "The profile news is saved.")

        news = (await profiles(gateway))["news"]
        assert (news["limits"]["connections"], news["auth"]["username"]) == (2, "app")
        assert news["auth"]["credential"] == {"source": "plaintext", "set": True}
        assert [mail.rcpt_tos for mail in relay.messages] == [("ann@example.test",)]


async def test_a_profile_is_looked_after(gateway: Gateway, at: Opens) -> None:
    """Paused, made to go on, made the default, tested, deleted."""
    async with ScriptedRelay(host="127.0.0.2") as relay:
        await made(gateway, "news", host=relay.host, port=relay.port)
        hand = await at("/ui/tenants/acme/profiles")
        await hand.press("Pause news", "The profile news is paused")
        assert (await profiles(gateway))["news"]["paused"]
        await hand.press("Resume news", "The profile news goes on")
        await hand.press("Make news the default", "The profile news is the default now.")
        await hand.press("Test news", "The test takes the way of every mail")
        await hand.write("Send to", "ann@example.test")
        await hand.write("Message", "Is it on?")
        await hand.press("Send the test", "It answers for it from here on.")
        await hand.press("Back to the profile", "Test it as it stands here")
        news = (await profiles(gateway))["news"]
        assert (news["paused"], news["is_default"]) == (False, True)
        [mail] = relay.messages
        assert b"Is it on?" in mail.data
        await hand.press("Delete …", "It goes for good")
        await hand.press("Delete news", "The profile news is deleted.")
        assert "news" not in await profiles(gateway)


async def test_pushing(gateway: Gateway, at: Opens) -> None:
    """To a child, as its default, and back again."""
    await made(gateway, "news")
    hand = await at("/ui/tenants/acme/profiles")
    await hand.press("Push to children", "1. Which profiles")
    await hand.tick("news 127.0.0.9, from noreply@acme.example")
    await hand.pick("as their default for news", instead_of="No default Each child keeps the default that it has.")
    await hand.write("Find among the available", "apac")
    await hand.press("Add all", "1 added.")
    await hand.press("Push", "1 profile is pushed to 1 child.")
    assert (await profiles(gateway, "acme-apac"))["news"]["is_default"]
    await hand.press("Push more", "Who has what")
    await hand.press("Take back … news from acme-apac", "It is the default of acme-apac")
    await hand.press("Take it back", "news is taken back from acme-apac.")
    assert "news" not in await profiles(gateway, "acme-apac")


async def test_preferences(gateway: Gateway, at: Opens) -> None:
    """Who gets copies of what, and what that comes to."""
    hand = await at("/ui/tenants/acme/preferences")
    await hand.write("CC", "ops@x.example")
    await hand.write("Category", "security.*")
    await hand.choose("CC from", "error on")
    await hand.press("Save", "The preferences are saved.")
    saved = await asked(gateway, "GET", "tenants/acme/preferences")
    assert saved["cc"] == ["ops@x.example"]
    assert [(rule["category"], rule["min_severity"], rule["cc"]) for rule in saved["rules"]] == [
        ("security.*", "error", True)
    ]
    await hand.choose("Severity", "critical")
    await hand.press("Show", "Looked at")
    assert "CC\nnobody" in await hand.seen.text()


async def test_a_template(gateway: Gateway, at: Opens) -> None:
    """Made, tried with data, changed, deleted."""
    hand = await at("/ui/tenants/acme/templates")
    await hand.press("New template", "It never changes")
    await hand.write("Name", "hello")
    await hand.write("Subject", "Hello")
    await hand.write("Text", "Hello {{ name }}")
    await hand.press("Make the template", "The template hello is there.")
    await hand.write("Data", '{"name": "Ann"}')
    await hand.press("Preview", "Hello Ann")
    await hand.write("Subject", "Good morning")
    await hand.press("Save", "The template is saved.")
    assert (await asked(gateway, "GET", "tenants/acme/templates/hello"))["subject"] == "Good morning"
    await hand.press("Delete …", "Notifications that name it are refused")
    await hand.press("Delete hello", "The template hello is deleted.")
    assert (await asked(gateway, "GET", "tenants/acme/templates"))["items"] == []


async def test_a_secret(gateway: Gateway, at: Opens) -> None:
    """Kept, renewed with one of several lines, deleted."""
    hand = await at("/ui/tenants/acme/secrets")
    await hand.press("New secret", "It is sealed")
    await hand.write("Name", "relay")
    await hand.write("Secret", "open sesame")
    await hand.press("Keep the secret", "The secret relay is kept.")
    await hand.press("relay", "Profiles that use it take the new one")
    await hand.press("It has several lines", "Who stands behind you can read it.")
    await hand.write("Secret of several lines", "open\nsesame")
    await hand.press("Keep the new version", "Version 2 is kept.")
    assert (await asked(gateway, "GET", "tenants/acme/secrets/relay"))["version"] == 2
    await hand.press("Delete …", "All its versions go, for good.")
    await hand.press("Delete relay", "The secret relay is deleted.")
    assert (await asked(gateway, "GET", "tenants/acme/secrets"))["items"] == []


async def test_a_key(gateway: Gateway, at: Opens) -> None:
    """Made, copied, revoked."""
    hand = await at("/ui/tenants/acme/keys")
    await hand.seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await hand.press("New key", "The program that uses it")
    await hand.write("Name", "desk")
    await hand.tick("profiles")
    await hand.press("Make the key", "It will not be shown again")
    await hand.press("Copy", "It is copied.")
    copied = await hand.seen.page.evaluate("navigator.clipboard.readText()")
    [kept] = [one for one in (await asked(gateway, "GET", "tenants/acme/keys"))["items"] if one["name"] == "desk"]
    assert copied.startswith(f"ngw_{kept['id']}_")
    assert sorted(kept["scopes"]) == ["profiles", "read", "send"]
    await hand.press("To the keys", "Last used: since this daemon started")
    await hand.press("Revoke … desk", "Programs that use it stop at once")
    await hand.press("Revoke desk", "The key desk is revoked.")


async def test_a_webhook(gateway: Gateway, at: Opens) -> None:
    """Made, tried, changed, deleted."""
    async with WebhookEndpoint() as endpoint:
        hand = await at("/ui/tenants/acme/webhooks")
        await hand.press("New webhook", "What it is told")
        await hand.write("URL", endpoint.url)
        await hand.tick("notification.failed")
        await hand.press("Make the webhook", "Its secret will not be shown again.")
        await hand.press("To the webhooks", "New webhook")
        await hand.press("Send a test event", "It took the test event.")
        await hand.press(endpoint.url, "A disabled one is told nothing")
        await hand.tick("Enabled")
        await hand.press("Save", "The webhook is saved.")
        [hook] = (await asked(gateway, "GET", "tenants/acme/webhooks"))["items"]
        assert (hook["url"], hook["enabled"]) == (endpoint.url, False)
        await hand.press(endpoint.url, "A disabled one is told nothing")
        await hand.press("Delete …", "is told nothing any more")
        await hand.press("Delete it", "The webhook is deleted.")
    assert (await asked(gateway, "GET", "tenants/acme/webhooks"))["items"] == []


async def test_the_audit(at: Opens) -> None:
    """Read, and verified."""
    hand = await at("/ui/tenants/acme/profiles")
    await hand.press("Audit", "Who changed what, newest first.")
    await hand.press("Verify", "The log is whole")


async def test_notifications(gateway: Gateway, at: Opens) -> None:
    """Found by filters; what was put off is sent again, what has not begun is cancelled."""
    async with ScriptedRelay(host="127.0.0.2") as relay:
        relay.on("rcpt", Reply("451 4.3.0 come later"), once=True)
        await made(gateway, "news", host=relay.host, port=relay.port)
        late = await post(gateway, category="late", send_at=LATE)
        path = await post(gateway, category="first", profile="news")
        await until_status(gateway, path, "deferred")
        hand = await at("/ui/notifications")
        await hand.write("Category", "first")
        await hand.choose("Status", "deferred")
        await hand.press("Show", "Show all")
        await hand.press(await the_one(hand), "come later")
        await hand.press("Retry now", "It is final")
        assert await status(gateway, path) == "relayed"

        await hand.press("Notifications", "late")
        await hand.write("Category", "late")
        await hand.press("Show", "Show all")
        await hand.press(await the_one(hand), "Not before")
        await hand.press("Cancel …", "cannot be called back")
        await hand.press("Cancel the notification", "It is cancelled.")
        assert await status(gateway, late) == "cancelled"


async def the_one(hand: Hand) -> str:
    """By what name the one notification that is listed is opened."""
    return await hand.seen.page.locator("tbody a").inner_text()


async def test_caught_mail(gateway: Gateway, at: Opens) -> None:
    """Stopped coming, opened, looked at in each way."""
    assert gateway.running.catcher is not None
    await post(gateway, html="<p>Hello <b>Ann</b></p>")
    await until(gateway.running.catcher.messages, 10)
    hand = await at("/ui/", "system")
    await hand.press("Caught mail", "delivers none")
    await hand.tick("Pause")
    await hand.press("Hello", "Envelope from")
    await hand.press("Headers", "Message-ID")
    await hand.press("HTML", "Scripts, forms and links do nothing here")
    await hand.press("Raw", "The whole message, as plain text")


async def test_the_api_is_tried(gateway: Gateway, at: Opens) -> None:
    """Found, filled in, sent."""
    hand = await at("/docs", "")
    await hand.write("API key, to try things with", gateway.keys["acme"])
    await hand.write("Show only", "tenant.list")
    await hand.press("GET /v1/tenants List the tenants in reach", "Send")
    await hand.press("Send", "acme-emea")


async def test_sending_goes_on(gateway: Gateway, at: Opens) -> None:
    """All of it was paused, and the overview says so first."""
    await asked(gateway, "POST", "queue/pause")
    hand = await at("/ui/", "system")
    await hand.press("Resume sending", "Sending goes on.")
    assert (await asked(gateway, "GET", "queue"))["paused"] is None
