"""The form of an SMTP profile: everything that one can say of it, and nothing that it keeps."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway.credentials.connections import Connections
from gateway.problems import Code, Fault, Problem
from gateway.store.protocol import StoreFull, StoreUnavailable
from gateway.ui.forms import LATER, NO_ROOM, Form
from gateway.ui.subjects.profile_fields import faults_beside
from tests.ui import gateway as gateways
from tests.ui.asking import asked, opened
from tests.ui.browser import Kind
from tests.ui.profiles import HOSTILE, JINJA, TABLE, made
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown

NEW = f"{TABLE}/new"
FORM = f"{TABLE}/main"
SETTINGS = """
[connectors.dmz]
kind = "socks5"
address = "127.0.0.1:1080"
allow = ["*"]
[connections.corp]
kind = "vault"
url = "https://127.0.0.1:1"
auth = {method = "token", token = {file = "master.key"}}
allow = {acme = [""]}
entries = {relay-a = {key = "smtp/relay-a", property = "password", tenants = ["acme"]}}
[connections.azure]
kind = "azure_key_vault"
url = "https://127.0.0.1:1"
auth = {method = "client_secret", tenant_id = "acme.example", client_id = "x", client_secret = {file = "master.key"}}
allow = {acme = [""]}
"""
PASSWORD = {"source": "plaintext", "value": "open sesame"}
SIGNED_IN: Any = {"security": "starttls", "auth": {"username": "app", "credential": PASSWORD}}
VAULT = {"source": "vault", "connection": "corp", "key": "smtp/a", "property": "password", "version": 3}
BY_VAULT: Any = {"security": "starttls", "auth": {"username": "app", "credential": VAULT}}
WHOLE: Any = {
    "enabled": False, "is_default": True, "preset": "mailgun", "port": 2525, "security": "starttls", "connector": "dmz",
    "tls": {"verify": False, "allow_auth_unverified": True, "min_version": "1.3",
            "client_certificate": {"source": "stored", "key": "cert"}},
    "auth": {"method": "xoauth2", "username": "app", "domain": "CORP", "credential": VAULT,
             "oauth": {"provider": "microsoft365", "directory": "acme.example", "client_id": "c", "grant": "client_secret",
                       "mailbox": "m@acme.example"}},
    "from": {"name": "Acme", "address": "noreply@acme.example"}, "force_sender": True,
    "allowed_senders": ["*@acme.example", "x@acme.example"], "reply_to": ["a@acme.example", {"name": "B", "address": "b@x.example"}],
    "return_path": "bounce@acme.example", "read_receipt_to": "read@acme.example", "request_read_receipt": True,
    "to": ["ops@acme.example"], "footnote": {"enabled": False, "text": "Sent by\n\nAcme", "html": "<p>Acme</p>"},
    "limits": {"connections": 2, "per_minute": 30, "messages_per_connection": 7, "recipients": 9, "bytes": 4096},
    "failover": ["alerts", "other"], "dsn": {"notify": ["failure", "delay"], "return": "headers"},
    "dkim": {"domain": "acme.example", "selector": "s1", "key": {"source": "stored", "key": "dkim"}},
}  # fmt: skip
"""Every field of a profile, each with a value that it does not have by itself."""


@pytest_asyncio.fixture(loop_scope="session")
async def lending(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Run a daemon whose operator lends connectors and secret connections."""
    async with gateways.running(tmp_path, SETTINGS) as running:
        yield running


async def shown(gateway: Gateway, name: str = "main") -> Any:
    """Read a profile of acme's."""
    return await asked(gateway, "GET", f"tenants/acme/profiles/{name}")


def faulty(page: Shown) -> set[str]:
    """The fields beside which a fault stands."""
    return set(re.findall('id="fault([^"]+)"', html.unescape(page.source)))


# Making one.


async def test_a_profile_is_made(gateway: Gateway) -> None:
    """Of the least that is needed; the rest is as the API has it."""
    async with visiting(gateway, "acme") as visitor:
        told = await visitor.send(await visitor.get(NEW), __name="main", __host="127.0.0.9", __security="none",
                                  __from="Acme <noreply@acme.example>")  # fmt: skip
        assert (told.path, "The profile main is there." in told.text) == (TABLE, True)
    profile = await shown(gateway)
    assert profile["from"] == {"name": "Acme", "address": "noreply@acme.example"}
    assert (profile["port"], profile["auth"], profile["limits"]["connections"]) == (25, {"method": "auto"}, 4)
    assert not {"footnote", "dsn", "dkim", "allowed_senders", "connector"} & profile.keys()


async def test_all_faults_stand_beside_their_fields(gateway: Gateway) -> None:
    """At once, in groups that are open, with what was written and without the password."""
    wrong = {"__name": "no name", "__host": "no host", "__port": "many", "__from": "nobody", "__reply_to": "a@b.example\nb",
             "__auth__credential__source": "plaintext", "__auth__credential__value": "open sesame",
             "__auth__credential__again": "open sesame", "__limits__connections": "0", "__dkim__domain": "acme.example",
             "__tls__ca_certificates": "none", "__footnote__text": "fine"}  # fmt: skip
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.send(await visitor.get(NEW), **wrong)
    assert page.status == 422
    assert faulty(page) == {
        "/name", "/host", "/port", "/from", "/reply_to", "/auth/username", "/tls/ca_certificates", "/dkim/selector",
        "/dkim/key/source", "/limits/connections",
    }  # fmt: skip
    assert "Line 2: " in page.text
    assert re.findall('id="([^"]+)" open', page.source) == ["footnote", "tls", "dkim", "limits"]
    assert page.form().fields["/port"] == "many"
    assert "open sesame" not in page.source
    assert "is not kept on this page: write it again" in page.text


async def test_rules_between_fields_stand_beside_one(gateway: Gateway) -> None:
    """A password without TLS, OAuth without a provider, a way to sign in without what it needs."""
    async with visiting(gateway, "acme") as visitor:
        usual = {"__name": "main", "__host": "127.0.0.9", "__from": "a@acme.example"}
        secret = {
            "__auth__credential__source": "plaintext",
            "__auth__credential__value": "x",
            "__auth__credential__again": "x",
        }
        plain = await visitor.send(await visitor.get(NEW), **usual, **secret, __auth__username="app", __security="none")
        token = await visitor.send(await visitor.get(NEW), **usual, __auth__method="xoauth2")
        empty = await visitor.send(await visitor.get(NEW), **usual, __auth__method="login")
        unnamed = await visitor.send(
            await visitor.get(NEW), **usual, __auth__username="a", __auth__credential__source="stored"
        )
        nothing = await visitor.send(
            await visitor.get(NEW), **usual, __auth__username="a", __auth__credential__source="plaintext"
        )
    assert faulty(plain) == {"/security"}
    assert faulty(token) == {"/auth/oauth/provider"}
    assert 'id="oauth" open' in token.source
    assert faulty(empty) == {"/auth/credential/source", "/auth/username"}
    assert faulty(unnamed) == {"/auth/credential/key"}
    assert faulty(nothing) == {"/auth/credential/value"}


async def test_a_taken_name_and_a_second_of_the_same_are_told(gateway: Gateway) -> None:
    """The one beside the name, the other on top, for it is about two fields."""
    await made(gateway)
    async with visiting(gateway, "acme") as visitor:
        taken = await visitor.send(await visitor.get(NEW), __name="main", __host="127.0.0.8", __security="none",
                                   __from="a@acme.example")  # fmt: skip
        same = await visitor.send(await visitor.get(NEW), __name="other", __host="127.0.0.9", __security="none",
                                  __from="a@acme.example")  # fmt: skip
    assert (taken.status, faulty(taken)) == (409, {"/name"})
    assert (same.status, "has the same host and username" in same.text) == (409, True)


async def test_a_service_fills_in_without_a_script(gateway: Gateway) -> None:
    """Its link gives the form with what is known of it."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"{NEW}?preset=gmail")
        given = page.form().fields
        assert (given["/preset"], given["/host"], given["/security"]) == ("gmail", "smtp.gmail.com", "starttls")
        assert (given["/port"], 'placeholder="587"' in page.source) == ("", True)  # by security, whichever it will be
        assert "?preset=gmail" in page.links
        await visitor.send(page, __name="main", __from="a@acme.example", __security="implicit_tls")
    profile = await shown(gateway)
    assert (profile["port"], profile["security"]) == (465, "implicit_tls")


async def test_a_profile_may_be_called_new(gateway: Gateway) -> None:
    """Its page stands beside the form for new ones."""
    await made(gateway, "new")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(TABLE)
        assert f"{TABLE}/new/edit" in page.links
        await visitor.send(await visitor.get(f"{TABLE}/new/edit"), __host="127.0.0.10")
    assert (await shown(gateway, "new"))["host"] == "127.0.0.10"


# Changing one.


async def test_a_change_is_saved(gateway: Gateway) -> None:
    """What was written stands, and what was emptied is gone."""
    await made(gateway, to=["a@b.example"], footnote={"text": "Acme"})
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(FORM)
        assert "/name" not in page.form().fields
        told = await visitor.send(
            page, __to="c@d.example\n", __footnote__text="", __failover="alerts", __dsn__notify="never"
        )
        assert "The profile main is saved." in told.text
    profile = await shown(gateway)
    assert (profile["to"], profile["failover"], profile["dsn"]) == (["c@d.example"], ["alerts"], {"notify": ["never"]})
    assert "footnote" not in profile


async def test_an_old_page_does_not_undo_what_happened_since(gateway: Gateway) -> None:
    """It is told, what was written stands, and saving it once more is meant."""
    await made(gateway)
    async with visiting(gateway, "acme") as visitor:
        old = await visitor.get(FORM)
        await visitor.send(await visitor.get(FORM), __return_path="first@acme.example")
        refused = await visitor.send(old, __return_path="second@acme.example")
        assert (refused.status, refused.form().fields["/return_path"]) == (412, "second@acme.example")
        assert "Somebody has changed the profile meanwhile." in refused.text
        assert (await shown(gateway))["return_path"] == "first@acme.example"
        await visitor.send(refused)
    assert (await shown(gateway))["return_path"] == "second@acme.example"


@pytest.mark.parametrize(("error", "told"), [(StoreFull, NO_ROOM), (StoreUnavailable, LATER)])
async def test_what_the_store_does_not_take_stands_in_the_form(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: type[StoreUnavailable], told: str
) -> None:
    """A full disk, or a database that is away, is told above it; sent again later it is saved."""

    async def refuse(*_: object) -> None:
        raise error

    await made(gateway)
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(FORM)
        with monkeypatch.context() as away:
            away.setattr(type(gateway.running.store), "change_directory", refuse)
            refused = await visitor.send(page, __return_path="bounce@acme.example")
        assert (refused.status, refused.form().fields["/return_path"]) == (503, "bounce@acme.example")
        assert told in refused.text
        await visitor.send(refused)
    assert (await shown(gateway))["return_path"] == "bounce@acme.example"


async def test_what_the_operators_files_say_is_only_shown(gateway: Gateway) -> None:
    """With a sentence why."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"{TABLE}/alerts")
        assert "stands in the operator's files and is changed there" in page.text
        assert "Save" not in page.text
        assert page.source.count("<fieldset") - page.source.count("disabled>") == 2  # those within another


# Passwords and references.


async def test_a_password_is_kept_and_never_shown(gateway: Gateway) -> None:
    """Left empty it stays; the page says that there is one."""
    await made(gateway, **SIGNED_IN)
    before = gateway.running.directory.snapshot.profiles["acme", "main"].auth.credential
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(FORM)
        assert "A password is set; leave empty to keep it." in page.text
        assert "open sesame" not in page.source
        await visitor.send(page, __return_path="b@acme.example")
    after = gateway.running.directory.snapshot.profiles["acme", "main"]
    assert (after.return_path, after.auth.credential) == ("b@acme.example", before)


async def test_a_password_is_changed(gateway: Gateway) -> None:
    """When it is written twice alike, spaces and all; otherwise the second says so and nothing is saved."""
    await made(gateway, **SIGNED_IN)
    before = gateway.running.directory.snapshot.profiles["acme", "main"].auth.credential
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(FORM)
        refused = await visitor.send(page, __auth__credential__value=" new ", __auth__credential__again="new")
        assert (refused.status, faulty(refused)) == (422, {"/auth/credential/again"})
        assert gateway.running.directory.snapshot.profiles["acme", "main"].auth.credential == before
        await visitor.send(page, __auth__credential__value=" new ", __auth__credential__again=" new ")
    profile = gateway.running.directory.snapshot.profiles["acme", "main"]
    assert profile.auth.credential not in (None, before)


async def test_a_password_that_would_go_elsewhere_is_taken_away(gateway: Gateway) -> None:
    """The notice says so, and the form asks for it again."""
    await made(gateway, **SIGNED_IN)
    async with visiting(gateway, "acme") as visitor:
        told = await visitor.send(await visitor.get(FORM), __host="127.0.0.10")
        assert (told.path, "was taken away, because where it goes has changed" in told.text) == (FORM, True)
        assert (await shown(gateway))["auth"]["credential"] == {"source": "plaintext", "set": False}
        assert "The password was taken away with a change of where it goes: give it again." in told.text
        again = await visitor.send(
            await visitor.get(FORM), __auth__credential__value="x", __auth__credential__again="x"
        )
        assert "The profile main is saved." in again.text
    assert (await shown(gateway))["auth"]["credential"] == {"source": "plaintext", "set": True}


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("stored", {"key": "relay-a"}),
        (
            "vault",
            {"connection": "corp", "key": "smtp/a", "property": "password", "username_property": "user", "version": 3},
        ),
        ("vault", {"connection": "corp", "entry": "relay-a"}),
        ("azure_key_vault", {"connection": "azure", "key": "smtp-a", "version": "0123"}),
    ],
)
async def test_a_reference_is_what_was_chosen(lending: Gateway, source: str, given: dict[str, Any]) -> None:
    """With the parts that its source has, and none of what was written for another."""
    left = {"__auth__credential__value": "left", "__auth__credential__again": "left", "__auth__username": "app"}
    left["__auth__credential__connection"] = "corp"
    chosen = {f"__auth__credential__{name}": str(value) for name, value in given.items()}
    async with visiting(lending, "acme") as visitor:
        told = await visitor.send(await visitor.get(NEW), __name="main", __host="127.0.0.9", __from="a@acme.example",
                                  __auth__credential__source=source, **{**left, **chosen})  # fmt: skip
        assert told.path == TABLE, told.text
        assert (await shown(lending))["auth"]["credential"] == {"source": source, **given}
        told = await visitor.send(await visitor.get(FORM), __return_path="b@acme.example")
        assert "The profile main is saved." in told.text
    assert (await shown(lending))["auth"]["credential"] == {"source": source, **given}


async def test_a_key_is_a_text_of_lines(lending: Gateway) -> None:
    """A signing key, a client certificate and OAuth's key go in as they are, and are kept."""
    pem = "-----BEGIN KEY-----\nAA==\n-----END KEY-----\n"
    async with visiting(lending, "acme") as visitor:
        told = await visitor.send(
            await visitor.get(NEW), __name="main", __host="127.0.0.9", __from="a@acme.example", __dkim__domain="acme.example",
            __dkim__selector="s1", __dkim__key__source="plaintext", __dkim__key__value=pem,
            __tls__client_certificate__source="plaintext", __tls__client_certificate__value=pem,
            __auth__method="xoauth2", __auth__oauth__provider="microsoft365", __auth__oauth__grant="certificate",
            __auth__oauth__directory="acme.example", __auth__oauth__client_id="c", __auth__oauth__mailbox="m@acme.example",
            __auth__credential__source="plaintext", __auth__credential__text=pem,
        )  # fmt: skip
        assert told.path == TABLE, told.text
        told = await visitor.send(await visitor.get(FORM), __return_path="b@acme.example")
        assert "The profile main is saved." in told.text
    profile = await shown(lending)
    parts = [profile["auth"]["credential"], profile["tls"]["client_certificate"], profile["dkim"]["key"]]
    assert parts == [{"source": "plaintext", "set": True}] * 3


async def test_who_may_not_handle_secrets_keeps_the_reference(lending: Gateway) -> None:
    """They read what it is, and have no field for another; what they send all the same changes nothing of it."""
    await asked(lending, "PUT", "tenants/acme/secrets/private", {"value": "x"})
    await made(lending, **BY_VAULT)
    async with visiting(lending, "acme") as visitor:
        await become(visitor, "acme", "read", "profiles")
        page = await visitor.get(FORM)
        assert "It comes from vault: corp, smtp/a, password, 3 ." in page.text
        assert "takes the scope secrets" in page.text
        assert "/auth/credential/key" not in page.form().fields
        assert "private" not in page.source
        assert not [form for form in page.forms if form.action.endswith("/check")]
        await visitor.send(page, __return_path="b@acme.example", __auth__credential__key="smtp/other")
        profile = await shown(lending)
        assert (profile["return_path"], profile["auth"]["credential"]) == ("b@acme.example", VAULT)
        moved = await visitor.send(await visitor.get(FORM), __port="10")
        assert "only who may handle secrets gives it again" in moved.text
        assert (await visitor.post(f"{FORM}/check")).status == 403
    assert (await shown(lending))["auth"]["credential"] == {**VAULT, "set": False}
    async with visiting(lending, "acme") as visitor:
        assert "give it again" in (await visitor.get(FORM)).text
        told = await visitor.send(await visitor.get(FORM), __auth__credential__give="on")
        assert "The profile main is saved." in told.text
    assert (await shown(lending))["auth"]["credential"] == VAULT


async def led_elsewhere(gateway: Gateway, credential: dict[str, Any]) -> None:
    """Make a profile with a reference, and have somebody who may not handle secrets lead it to another host."""
    await made(gateway, security="starttls", auth={"username": "app", "credential": credential})
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme", "read", "profiles")
        await visitor.send(await visitor.get(FORM), __host="127.0.0.66")


@pytest.mark.parametrize(
    "credential",
    [
        VAULT,
        {"source": "vault", "connection": "corp", "entry": "relay-a"},
        {"source": "stored", "key": " relay\n-a\0 "},
    ],
    ids=["key", "entry", "letters that a browser drops"],
)
async def test_no_save_gives_a_reference_to_somebody_elses_host(lending: Gateway, credential: dict[str, Any]) -> None:
    """It was taken away: who may handle secrets gives it again by a box that names the host, or by changing it."""
    await led_elsewhere(lending, credential)
    async with visiting(lending, "acme") as visitor:
        page = await visitor.get(FORM)
        assert "Give it again, to 127.0.0.66" in page.text
        key = credential.get("key", "").replace("\n", "").replace("\0", "\ufffd")
        as_shown = {"__auth__credential__key": key}
        told = await visitor.send(page, __footnote__text="Acme", **as_shown)
        assert "is still to be given again" in told.text
        profile = await shown(lending)
        assert (profile["footnote"]["text"], profile["auth"]["credential"]) == ("Acme", {**credential, "set": False})
        refused = await visitor.send(await visitor.get(FORM), __auth__credential__give="on", __from="nobody")
        assert (refused.status, refused.form().fields["/auth/credential/give"]) == (422, "on")
        await visitor.send(refused, __from="a@acme.example", **as_shown)
    given = (await shown(lending))["auth"]["credential"]
    assert (given["source"], "set" in given) == (credential["source"], False)


async def test_a_changed_reference_is_given(lending: Gateway) -> None:
    """Who writes another one means it, and need not say so twice."""
    await led_elsewhere(lending, VAULT)
    async with visiting(lending, "acme") as visitor:
        await visitor.send(await visitor.get(FORM), __auth__credential__key="smtp/b")
        assert (await shown(lending))["auth"]["credential"] == {**VAULT, "key": "smtp/b"}


async def test_no_test_gives_a_reference_to_somebody_elses_host(lending: Gateway) -> None:
    """As it stands in the form it has none, and the test says so; with the box it is fetched."""
    await asked(lending, "PUT", "tenants/acme/secrets/relay-a", {"value": "open sesame"})
    await led_elsewhere(lending, {"source": "stored", "key": "relay-a"})
    trial = f"{TABLE}/test?name=main"
    async with visiting(lending, "acme") as visitor:
        fields = {**(await visitor.get(FORM)).form().fields, "test/to": "ann@example.test"}
        kept = await visitor.post(trial, fields)
        given = await visitor.post(trial, {**fields, "/auth/credential/give": "on"})
    assert ["not given anew" in page.text for page in (kept, given)] == [True, False]
    assert (await shown(lending))["auth"]["credential"]["set"] is False


async def test_a_fault_of_what_is_not_shown_stands_beside_what_is(lending: Gateway) -> None:
    """Who has no fields for a reference is told at its source what is wrong with it, here that it is no longer lent."""
    await made(lending, **BY_VAULT)
    directory = lending.running.directory
    directory.policy = replace(directory.policy, connections=Connections())
    async with visiting(lending, "acme") as visitor:
        refused = await visitor.send(await visitor.get(FORM), __return_path="b@acme.example")
        assert (refused.status, faulty(refused)) == (422, {"/auth/credential/key"})
        await become(visitor, "acme", "read", "profiles")
        refused = await visitor.send(await visitor.get(FORM), __return_path="b@acme.example")
        assert (refused.status, faulty(refused)) == (422, {"/auth/credential/source"})


@pytest.mark.parametrize(
    ("slot", "source", "member", "place"),
    [
        ("/auth/credential", "vault", "username_property", "username_property"),
        ("/dkim/key", "vault", "username_property", "key"),  # a key has no user name, and its form no field for one
        ("/auth/credential", "stored", "connection", "key"),
        ("/auth/credential", "plaintext", "key", "value"),
        ("/auth/credential", "", "key", "source"),
    ],
)
def test_a_fault_stands_beside_a_field_that_the_source_has(slot: str, source: str, member: str, place: str) -> None:
    """What is wrong with another member stands at the field that is for all of it."""
    problem = Problem(Code.INVALID, errors=[Fault(f"{slot}/{member}", "conflict", "No.")])
    found = faults_beside(problem, Form([(f"{slot}/source", source)]), handles_secrets=True)
    assert (found.beside, found.rest) == ({f"{slot}/{place}": ["No."]}, [])


async def test_only_what_is_lent_is_offered(lending: Gateway) -> None:
    """A tenant sees no connection, entry or secret that is not for it."""
    await asked(lending, "PUT", "tenants/acme/secrets/private", {"value": "x"})
    async with visiting(lending, "acme") as visitor:
        source = (await visitor.get(NEW)).source
        assert all(one in source for one in ("corp", "azure", "relay-a", "private", "dmz"))
    async with visiting(lending, "acme-emea") as visitor:
        source = (await visitor.get("/ui/tenants/acme-emea/profiles/new")).source
        assert not [one for one in ("corp<", "azure<", "private") if one in source]


async def test_a_secret_is_asked_for(gateway: Gateway) -> None:
    """Missing first, with the error's kind; there once it is kept; in place for scripts, on a page of its own without."""
    await made(gateway, security="starttls", auth={"username": "a", "credential": {"source": "stored", "key": "later"}})
    async with visiting(gateway, "acme") as visitor:
        missing = await visitor.post(f"{FORM}/check", {"step": "check"}, HX_Request="true")
        assert "not found: the tenant has no stored secret of this name" in missing.text
        assert "html" not in missing.elements
        await asked(gateway, "PUT", "tenants/acme/secrets/later", {"value": "open sesame"})
        page = await visitor.post(f"{FORM}/check", {"step": "refresh"})
        assert "It was fetched anew; the profile goes on." in page.text
        assert "auth.credential from stored State ok Version 1" in page.text
        assert FORM in page.links
        assert "open sesame" not in page.source


async def test_a_profile_without_secrets_needs_none(gateway: Gateway) -> None:
    """Asking for them says so."""
    await made(gateway)
    async with visiting(gateway, "acme") as visitor:
        assert "needs no password and no key" in (await visitor.post(f"{FORM}/check")).text


async def test_texts_are_text(gateway: Gateway) -> None:
    """Markup in any field is shown as it was written, saved and refused."""
    texts = {"__auth__username": HOSTILE, "__auth__domain": JINJA, "__footnote__text": HOSTILE, "__footnote__html": HOSTILE,
             "__from": f"{HOSTILE.replace('>', '')} <a@acme.example>", "__auth__credential__source": "stored",
             "__auth__credential__key": HOSTILE}  # fmt: skip
    refused = {"__host": HOSTILE, "__port": HOSTILE, "__reply_to": HOSTILE, "__dkim__selector": HOSTILE, "__name": HOSTILE,
               "__connector": HOSTILE, "__tls__ca_certificates": "</textarea><script>alert(1)</script>"}  # fmt: skip
    async with visiting(gateway, "acme") as visitor:
        scripts = (await visitor.get(NEW)).elements.count("script")
        page = await visitor.send(await visitor.get(NEW), **texts, **refused)
        assert page.status == 422
        assert page.shows_as_text(HOSTILE)
        assert page.shows_as_text("</textarea><script>")
        assert page.elements.count("script") == scripts
        told = await visitor.send(await visitor.get(NEW), **texts, __name="main", __host="127.0.0.9")
        assert told.path == TABLE, told.text
        saved = await visitor.get(FORM)
        assert saved.elements.count("script") == scripts
        assert saved.form().fields["/auth/domain"] == JINJA
        assert saved.form().fields["/footnote/html"] == HOSTILE
        checked = await visitor.post(f"{FORM}/check")
        assert checked.elements.count("script") == 2


# In a browser.


async def test_the_box_that_gives_a_reference_again_names_the_host(lending: Gateway, browser: Browser) -> None:
    """As it is written at the moment; beside another source, which is given anyway, there is none."""
    await led_elsewhere(lending, VAULT)
    seen = await opened(lending, browser, FORM)
    box = seen.page.get_by_label("Give it again, to 127.0.0.66", exact=True)
    assert (await box.is_visible(), await box.is_checked()) == (True, False)
    await seen.axe()
    await seen.no_sideways_scroll()
    await seen.page.fill("[id='/host']", "127.0.0.9")
    box = seen.page.get_by_label("Give it again, to 127.0.0.9", exact=True)
    assert await box.is_visible()
    await seen.page.select_option("[id='/auth/credential/source']", "stored")
    assert not await box.is_visible()


async def test_opening_and_saving_changes_nothing(lending: Gateway, browser: Browser) -> None:
    """Of a profile that uses every field, all of them stay as they were."""
    await made(lending, "other", host="127.0.0.8")
    before = await made(lending, **WHOLE)
    assert WHOLE.keys() - {"name", "host"} == {name for name in WHOLE if before[name] == WHOLE[name]}
    seen = await opened(lending, browser, FORM)
    await seen.page.click("button:text-is('Save')")
    await seen.page.get_by_text("The profile main is saved.").wait_for()
    assert await shown(lending) == before


async def test_a_profile_is_made_on_a_phone(lending: Gateway, browser: Browser) -> None:
    """The service fills in, the port follows the security, the source shows its fields; a fault stays visible."""
    seen = await opened(lending, browser, NEW, width=390, scheme="dark")
    page = seen.page
    await page.select_option("[id='/preset']", "gmail")
    assert await page.input_value("[id='/host']") == "smtp.gmail.com"
    assert await page.input_value("[id='/port']") == "587"
    await page.select_option("[id='/security']", "implicit_tls")
    port = page.locator("[id='/port']")
    assert (await port.input_value(), await port.get_attribute("placeholder")) == ("", "465")
    await page.fill("[id='/port']", "2465")
    await page.select_option("[id='/security']", "starttls")
    assert await port.input_value() == "2465"

    source, auth = page.locator("[id='/auth/credential/source']"), page.locator("#auth")
    password, key = auth.get_by_label("Password", exact=True), auth.get_by_label("Key", exact=True)
    assert not await password.is_visible()
    await source.select_option("plaintext")
    assert (await password.is_visible(), await key.is_visible()) == (True, False)
    await source.select_option("vault")
    assert (await password.is_visible(), await key.is_visible()) == (False, True)
    offered = await auth.get_by_label("Secret connection").locator("option").all_inner_texts()
    assert offered == ["", "corp"]
    await seen.no_sideways_scroll()
    await seen.axe()

    await source.select_option("plaintext")
    await password.fill("open sesame")
    await auth.get_by_label("Password again").fill("open sesame")
    await page.fill("[id='/auth/username']", "app")
    await page.fill("[id='/name']", "main")
    await page.fill("[id='/from']", "nobody")
    await page.fill("[id='/host']", "127.0.0.9")
    browser.expect(Kind.CONSOLE, "422")
    await page.get_by_role("button", name="Make the profile").press("Enter")
    await page.locator("[id='fault/from']").wait_for()
    await seen.no_sideways_scroll()
    await seen.axe()
    await page.fill("[id='/from']", "a@acme.example")
    await password.fill("open sesame")
    await auth.get_by_label("Password again").fill("open sesame")
    await page.get_by_role("button", name="Make the profile").press("Enter")
    await page.get_by_text("The profile main is there.").wait_for()
    assert (await shown(lending))["auth"]["credential"] == {"source": "plaintext", "set": True}


async def test_what_was_typed_outlives_the_profile(gateway: Gateway, browser: Browser) -> None:
    """Somebody deleted it meanwhile: the page says so above the form, in which all of it stands still."""
    browser.expect(Kind.CONSOLE, "404")
    await made(gateway)
    seen = await opened(gateway, browser, FORM)
    await seen.page.fill("[id='/return_path']", "typed@acme.example")
    await asked(gateway, "DELETE", "tenants/acme/profiles/main")
    await seen.page.click("button:text-is('Save')")
    await seen.page.get_by_text("What this page is about is not there any more.").wait_for()
    assert await seen.page.input_value("[id='/return_path']") == "typed@acme.example"
    assert await seen.page.locator("[aria-disabled]").count() == 0
    await seen.no_sideways_scroll()
    await seen.axe()


async def test_a_form_waits_for_a_gateway_that_is_away(
    gateway: Gateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as it was typed, and is saved when somebody presses again."""

    async def refuse(*_: object) -> None:
        raise StoreUnavailable

    browser.expect(Kind.CONSOLE, "503")
    await made(gateway)
    seen = await opened(gateway, browser, FORM)
    await seen.page.fill("[id='/return_path']", "typed@acme.example")
    with monkeypatch.context() as away:
        away.setattr(type(gateway.running.store), "session", refuse)
        await seen.page.click("button:text-is('Save')")
        await seen.page.get_by_text("The gateway does not answer at the moment.").wait_for()
    await seen.page.click("button:text-is('Save')")
    await seen.page.get_by_text("The profile main is saved.").wait_for()
    assert (await shown(gateway))["return_path"] == "typed@acme.example"


async def test_a_secret_is_asked_for_in_place(lending: Gateway, browser: Browser) -> None:
    """The answer stands beside the button; what was typed meanwhile stays, and all groups are open to everybody."""
    await made(lending, "other", host="127.0.0.8")
    await made(lending, **WHOLE)
    seen = await opened(lending, browser, FORM, width=1280)
    await seen.page.fill("[id='/return_path']", "typed@acme.example")
    await seen.page.get_by_role("button", name="Check").click()
    await seen.page.get_by_text("It cannot be had.").wait_for()
    assert await seen.page.input_value("[id='/return_path']") == "typed@acme.example"
    assert await seen.page.locator("details[open]").count() == 5
    await seen.no_sideways_scroll()
    await seen.axe()


async def test_without_scripts_the_source_still_picks_its_fields(gateway: Gateway, browser: Browser) -> None:
    """The style does it; and a key file is asked for in place of a password where OAuth wants one."""
    seen = await opened(gateway, browser, NEW, scripts=False)
    page, auth = seen.page, seen.page.locator("#auth")
    await page.select_option("[id='/auth/credential/source']", "plaintext")
    assert await auth.get_by_label("Password", exact=True).is_visible()
    assert not await auth.get_by_label("Key file").is_visible()
    await page.get_by_text("OAuth", exact=True).click()
    await page.select_option("[id='/auth/oauth/grant']", "certificate")
    assert await auth.get_by_label("Key file").is_visible()
    assert not await auth.get_by_label("Password", exact=True).is_visible()
    await page.get_by_role("link", name="Gmail").click()
    assert await page.input_value("[id='/host']") == "smtp.gmail.com"


async def test_a_form_of_thousands_of_choices_makes_no_large_page(gateway: Gateway) -> None:
    """What is written again beside a fault is bounded: the page would grow with the square of it."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.post(
            "/ui/tenants/acme/profiles/new", [("/failover", f"p{number}") for number in range(4000)]
        )
        assert page.status == 422
        assert len(page.source) < 200_000


async def test_a_list_of_a_million_lines_is_refused_as_over_http(gateway: Gateway) -> None:
    """The pages have the API's bound on values."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.post("/ui/tenants/acme/profiles/new", {"/allowed_senders": "a\n" * 255_000})
        assert page.status == 413


async def test_a_version_of_thousands_of_digits_is_a_fault(gateway: Gateway) -> None:
    """It is told beside the field like any other."""
    slot = "/auth/credential"
    written = {f"{slot}/source": "vault", f"{slot}/key": "a", f"{slot}/connection": "b", f"{slot}/version": "9" * 5000}
    async with visiting(gateway, "acme") as visitor:
        assert (await visitor.post("/ui/tenants/acme/profiles/new", written)).status == 422
