"""Tenants, profiles, copies, templates and the audit from a shell."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from gateway.cli.profiles import FIELDS as PROFILE_FIELDS
from gateway.cli.tenants import FIELDS as TENANT_FIELDS
from gateway.directory.shapes import ProfileFields, Tenant
from tests.manual.test_readme import SECTIONS, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Shell

    Write = Callable[[str, str], str]

PASSWORD = "canary-7f3a-whistles"
RELAY = ("--host", "127.0.0.1", "--port", "2525", "--security", "none")
SENDER = ("--from", "noreply@zoo.example.test", "--from-name", "Zoo")


def _profile(shell: Shell, tenant: str, name: str = "main", *more: str) -> str:
    return shell.good("profiles", "set", name, "--tenant", tenant, *RELAY, *SENDER, *more)


# Tenants.


def test_a_tenant_is_made_changed_and_deleted(shell: Shell, tenant: str) -> None:
    """`set` makes a tenant, changes only what it is told the next time, and `rm` deletes it."""
    shell.good("tenants", "set", tenant, "--per-minute", "60", "--no-own-profiles")
    told = shell.told("tenants", "show", tenant)
    shell.good("tenants", "rm", tenant)

    assert (told["name"], told["parent"], told["own_profiles"]) == ("Zoo", "system", False)
    assert told["limits"] == {"per_minute": 60, "queued": None}
    assert shell.run("tenants", "show", tenant).exit_code == 1


def test_a_limit_of_nothing_is_no_limit(shell: Shell, tenant: str) -> None:
    """0 takes a limit away."""
    shell.good("tenants", "set", tenant, "--per-minute", "60", "--queued", "10")
    shell.good("tenants", "set", tenant, "--per-minute", "0")

    assert shell.told("tenants", "show", tenant)["limits"] == {"per_minute": None, "queued": 10}


def test_the_list_has_one_line_for_each_tenant(shell: Shell, tenant: str) -> None:
    """With its parent and its name."""
    shell.good("tenants", "set", f"{tenant}-emea", "--parent", tenant, "--disabled")
    lines = shell.good("tenants", "list", "--limit", "200").splitlines()

    assert f"{tenant} (below system) Zoo" in lines
    assert f"{tenant}-emea (below {tenant}) disabled" in lines


def test_tenants_are_found_by_what_is_above_or_a_word(shell: Shell, tenant: str) -> None:
    """One branch, or those that a word is found in."""
    shell.good("tenants", "set", f"{tenant}-emea", "--parent", tenant)

    assert shell.good("tenants", "list", "--parent", tenant) == f"{tenant}-emea (below {tenant})\n"
    assert shell.good("tenants", "list", "--search", f"{tenant}-e") == f"{tenant}-emea (below {tenant})\n"


def test_a_list_is_read_on_from_its_cursor(shell: Shell, tenant: str) -> None:
    """What is left is told on standard error, with the option that shows it."""
    first = shell.run("tenants", "list", "--limit", "1")
    rest = shell.good("tenants", "list", *first.stderr.removeprefix("more: ").split())

    assert first.stdout == "acme (below system)\n"
    assert tenant in rest
    assert "acme" not in rest.split()


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_never_means_another_resource(shell: Shell, tenant: str, name: str) -> None:
    """A name that would shorten the path is refused before anything is asked."""
    result = shell.run("profiles", "rm", name, "--tenant", tenant)

    assert result.exit_code == 2
    assert "no name" in result.stderr


def test_every_fault_is_told_and_exits_with_1(shell: Shell, tenant: str) -> None:
    """A profile with three wrong fields is refused once, with a line for each."""
    result = shell.run(
        "profiles", "set", "main", "--tenant", tenant, "--host", "not a host", "--port", "0", "--from", "nobody"
    )

    assert result.exit_code == 1
    assert result.stdout == ""
    assert {line.strip().split(":")[0] for line in result.stderr.splitlines()[1:]} == {"/host", "/port", "/from"}


def test_json_is_the_answer_and_nothing_else(shell: Shell, tenant: str) -> None:
    """Standard output is one JSON document, of a refusal too."""
    shown = shell.run("tenants", "show", tenant, "--json")
    refused = shell.run("tenants", "show", "nobody", "--json")

    assert shown.stdout.count("\n") == 1
    assert json.loads(shown.stdout)["id"] == tenant
    assert (refused.exit_code, json.loads(refused.stdout)["code"], refused.stderr) == (1, "not_found", "")


# Profiles.


def test_a_password_comes_from_a_file(shell: Shell, tenant: str, write: Write) -> None:
    """It is kept without the file's last newline, and shown by nothing."""
    file = write("password", PASSWORD + "\n")
    _profile(shell, tenant, "main", "--username", "zoo", "--password-file", file)
    shown = shell.good("profiles", "show", "main", "--tenant", tenant)

    assert "auth.credential.set: true" in shown.splitlines()
    assert PASSWORD not in shown
    # The same password, given by a file without a newline, is no change.
    document = {**shell.told("profiles", "show", "main", "--tenant", tenant), "tenant": tenant}
    for member in ("inherited", "provisioned", "paused", "warnings"):
        del document[member]
    document["auth"]["credential"] = {"source": "plaintext", "value": PASSWORD}
    table = write("same.json", json.dumps({"profiles": [document]}))
    assert shell.good("apply", table) == "nothing to change\n"


RELAYS = ("--host", "relay.example", "--username", "zoo")
DROPPED = (
    "warning: /auth/credential: its password was dropped, since it would go elsewhere now: give it again with"
    " --password-file\n"
)


@pytest.mark.parametrize(
    "change",
    [
        ("--username", "ape"),
        ("--host", "other.example"),
        ("--port", "465", "--security", "implicit_tls"),
        ("--auth-method", "plain"),
    ],
)
def test_a_password_that_is_dropped_is_told(shell: Shell, tenant: str, change: tuple[str, ...]) -> None:
    """Whoever changes where it goes is warned on standard error, with --json too, until it is given again."""
    main = ("profiles", "set", "main", "--tenant", tenant)
    given = shell.run(*main, *SENDER, *RELAYS, "--password-file", "-", text=PASSWORD)
    changed = shell.run(*main, *change, "--json")
    again = shell.run(*main, "--password-file", "-", text=PASSWORD)

    assert (given.exit_code, given.stderr) == (0, "")
    assert (changed.exit_code, changed.stderr) == (0, DROPPED)
    assert json.loads(changed.stdout)["auth"]["credential"] == {"source": "plaintext", "set": False}
    assert (again.exit_code, again.stderr) == (0, "")


def test_a_reference_that_is_dropped_is_told(shell: Shell, tenant: str, write: Write) -> None:
    """Whose key does not hold `secrets` sets none, and is told so."""
    key = write("key", shell.good("keys", "create", "--tenant", tenant, "--scope", "profiles").strip())
    file = write("page.json", json.dumps({"auth": {"credential": {"source": "stored", "key": "relay-a"}}}))
    over = ("--key-file", key, "--url", shell.daemon.url)
    result = shell.run("profiles", "set", "page", "--tenant", tenant, *SENDER, *RELAYS, "--file", file, *over)

    assert result.exit_code == 0, result.output
    assert "/auth/credential: its reference was dropped: give it again with --file" in result.stderr


def test_a_password_is_replaced(shell: Shell, tenant: str) -> None:
    """A second password takes the place of the first, here from standard input."""
    shell.good("profiles", "set", "main", "--tenant", tenant, *RELAY, *SENDER, "--username", "zoo",
               "--password-file", "-", text="first\n")  # fmt: skip
    shell.good("profiles", "set", "main", "--tenant", tenant, "--password-file", "-", text="second\n")

    assert shell.told("profiles", "show", "main", "--tenant", tenant)["auth"]["credential"]["set"] is True
    assert shell.good("audit", "list", "--tenant", tenant, "--limit", "1").strip().endswith("main: auth.credential")


def test_options_win_over_the_file(shell: Shell, tenant: str, write: Write) -> None:
    """The file has the API's fields; what an option says replaces them."""
    file = write(
        "main.toml",
        'host = "127.0.0.1"\nport = 2525\nsecurity = "none"\nfrom = "noreply@zoo.example.test"\nto = ["a@zoo.example.test"]\n',
    )
    shell.good("profiles", "set", "main", "--tenant", tenant, "--file", file, "--port", "2526", "--from-name", "Zoo")
    told = shell.told("profiles", "show", "main", "--tenant", tenant)

    assert (told["port"], told["to"]) == (2526, ["a@zoo.example.test"])
    assert told["from"] == {"name": "Zoo", "address": "noreply@zoo.example.test"}


def test_a_profile_is_changed_in_what_is_told(shell: Shell, tenant: str) -> None:
    """A second `set` leaves everything else, and an empty value takes a field away."""
    _profile(shell, tenant, "main", "--reply-to", "a@zoo.example.test", "--reply-to", "b@zoo.example.test",
             "--footnote-text", "Bye", "--return-path", "bounce@zoo.example.test")  # fmt: skip
    shell.good("profiles", "set", "main", "--tenant", tenant, "--reply-to", "", "--return-path", "", "--default")
    told = shell.told("profiles", "show", "main", "--tenant", tenant)

    assert (told["is_default"], told["reply_to"], told["footnote"]["text"]) == (True, [], "Bye")
    assert "return_path" not in told


def test_a_sender_gets_a_name_alone(shell: Shell, tenant: str) -> None:
    """A name for an address that stood bare leaves the address."""
    shell.good("profiles", "set", "main", "--tenant", tenant, *RELAY, "--from", "noreply@zoo.example.test")
    shell.good("profiles", "set", "main", "--tenant", tenant, "--from-name", "Zoo")

    told = shell.told("profiles", "show", "main", "--tenant", tenant)
    assert told["from"] == {"name": "Zoo", "address": "noreply@zoo.example.test"}


def test_what_is_allowed_and_unwise_is_warned_of(shell: Shell, tenant: str) -> None:
    """The profile is made; the warning is on standard error."""
    result = shell.run("profiles", "set", "main", "--tenant", tenant, "--host", "relay.example.test", *SENDER,
                       "--no-verify")  # fmt: skip

    assert (result.exit_code, result.stdout) == (0, f"profile {tenant}/main is set\n")
    assert "warning: /tls/verify" in result.stderr


def test_a_profile_is_paused_and_goes_on(shell: Shell, tenant: str) -> None:
    """The list marks it while it is."""
    _profile(shell, tenant)
    shell.good("profiles", "pause", "main", "--tenant", tenant)
    paused = shell.good("profiles", "list", "--tenant", tenant)
    shell.good("profiles", "resume", "main", "--tenant", tenant)

    assert paused == "main 127.0.0.1:2525 none paused\n"
    assert shell.good("profiles", "list", "--tenant", tenant) == "main 127.0.0.1:2525 none\n"


def test_everything_is_paused_and_goes_on(shell: Shell) -> None:
    """What is so now is said, and not what is no longer."""
    assert shell.good("queue", "pause").startswith("all sending is paused since ")
    assert shell.good("queue", "resume") == "sending goes on\n"


def test_presets_are_listed(shell: Shell) -> None:
    """Each with its relay."""
    assert "gmail smtp.gmail.com:587 starttls" in shell.good("profiles", "presets").splitlines()


def test_a_pushed_default_is_what_the_child_sends_with(shell: Shell, tenant: str) -> None:
    """After `push` the child's resolution names the parent's profile, with the child's own copies."""
    child = f"{tenant}-emea"
    _profile(shell, tenant)
    shell.good("tenants", "set", child, "--parent", tenant)
    said = shell.good("push", "--tenant", tenant, "--child", child, "--profile", "main", "--default", "main")
    shell.good("preferences", "set", "--tenant", child, "--cc", "ops@zoo.example.test", "--rule", "category=*,cc")
    resolved = shell.good("resolve", child)

    assert said == f"{child} inherits main as its default\n"
    assert shell.good("profiles", "list", "--tenant", child) == "main inherited default\n"
    assert resolved.startswith(f"profile main of {tenant} ")
    assert "cc ops@zoo.example.test; bcc -" in resolved


# Preferences.


def test_preferences_are_shown_as_they_are_written(shell: Shell, tenant: str) -> None:
    """A rule is shown in the words that `--rule` takes."""
    rule = "category=security.*,min_severity=warning,cc,bcc"
    words = ("--cc", "a@zoo.example.test", "--bcc", "b@zoo.example.test", "--rule", rule)
    shell.good("preferences", "set", "--tenant", tenant, *words)

    assert shell.good("preferences", "show", "--tenant", tenant).splitlines() == [
        "cc: a@zoo.example.test",
        "bcc: b@zoo.example.test",
        f"rule: {rule}",
    ]


def test_preferences_that_are_not_told_are_empty(shell: Shell, tenant: str, write: Write) -> None:
    """`set` replaces everything; a file says the same as options."""
    file = write("copies.json", '{"bcc": ["b@zoo.example.test"], "rules": [{"bcc": true}]}')
    shell.good("preferences", "set", "--tenant", tenant, "--cc", "a@zoo.example.test")
    shell.good("preferences", "set", "--tenant", tenant, "--file", file)
    told = shell.told("preferences", "show", "--tenant", tenant)

    assert (told["cc"], told["bcc"]) == ([], ["b@zoo.example.test"])
    assert [rule["bcc"] for rule in told["rules"]] == [True]


# Templates.


def test_a_template_is_made_filled_and_deleted(shell: Shell, tenant: str, write: Write) -> None:
    """Its texts come from files, its data from the command line or a file."""
    text, data = write("text", "Dear {{ name }}"), write("data.toml", 'name = "Bob"\n')
    shell.good("templates", "set", "hi", "--tenant", tenant, "--subject", "Hello {{ name }}", "--text-file", text)
    on_line = shell.good("templates", "render", "hi", "--tenant", tenant, "--data", '{"name": "Ann"}')
    from_file = shell.good("templates", "render", "hi", "--tenant", tenant, "--data-file", data)
    listed = shell.good("templates", "list", "--tenant", tenant)
    shell.good("templates", "rm", "hi", "--tenant", tenant)

    assert on_line == "subject: Hello Ann\ntext: Dear Ann\n"
    assert from_file == "subject: Hello Bob\ntext: Dear Bob\n"
    assert listed == "hi: Hello {{ name }}\n"
    assert shell.good("templates", "list", "--tenant", tenant) == ""


def test_data_that_is_no_json_is_wrong_usage(shell: Shell, tenant: str) -> None:
    """Nothing is asked; exit 2."""
    result = shell.run("templates", "render", "hi", "--tenant", tenant, "--data", "{")

    assert result.exit_code == 2
    assert "--data is not JSON" in result.stderr


# The audit.


def test_the_audit_tells_what_was_done_and_is_whole(shell: Shell, tenant: str) -> None:
    """Newest first, with the values that are told; `verify` counts the rows."""
    _profile(shell, tenant)
    shell.good("profiles", "set", "main", "--tenant", tenant, "--port", "2526")
    newest, first, *_ = shell.good("audit", "list", "--tenant", tenant).splitlines()

    assert newest.endswith("socket profile.update main: port 2525 → 2526")
    assert " profile.create main: " in first
    assert shell.good("audit", "verify", "--tenant", tenant).startswith("whole, ")


def test_an_audit_that_was_written_over_exits_with_1(shell: Shell, tenant: str) -> None:
    """The first row that does not follow is named; as JSON the answer is the same, and so is the exit code."""
    with contextlib.closing(sqlite3.connect(shell.daemon.folder / "gateway.db")) as db, db:
        (trigger,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'audit_no_update'").fetchone()
        db.execute("DROP TRIGGER audit_no_update")
        db.execute("UPDATE audit SET actor = 'nobody' WHERE tenant = ? AND number = 1", (tenant,))
        db.execute(trigger)
    result, as_json = (shell.run("audit", "verify", "--tenant", tenant, *more) for more in ((), ("--json",)))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "row 1 does not follow from the one before\n"
    assert (as_json.exit_code, json.loads(as_json.stdout)["ok"], as_json.stderr) == (1, False, "")


def test_a_part_of_the_audit_ends_where_the_next_begins(shell: Shell, tenant: str) -> None:
    """The cursor of one part gives the rows below it."""
    shell.good("tenants", "set", tenant, "--name", "Other")
    first = shell.run("audit", "list", "--tenant", tenant, "--limit", "1")
    rest = shell.good("audit", "list", "--tenant", tenant, *first.stderr.removeprefix("more: ").split())

    assert [line.split()[0] for line in (first.stdout + rest).splitlines()] == ["2", "1"]


# Elsewhere.


def test_a_daemon_elsewhere_is_asked_with_a_key(shell: Shell) -> None:
    """`--url` and a key file reach what the key reaches."""
    key = str(shell.daemon.folder / "app.key")

    assert shell.good("tenants", "list", "--url", shell.daemon.url, "--key-file", key) == "acme (below -)\n"


def test_a_secret_from_a_file(shell: Shell, tenant: str, write: Write) -> None:
    """Kept, listed with who uses it, checked; its value is never shown; used, it is not deleted."""
    kept = shell.good("secrets", "set", "relay-a", "--tenant", tenant, "--value-file", write("pw", PASSWORD + "\n"))
    profile = {
        "name": "main", "host": "smtp.example.test", "from": "a@b.example",
        "auth": {"username": "u", "credential": {"source": "stored", "key": "relay-a"}},
    }  # fmt: skip
    shell.good("profiles", "set", "main", "--tenant", tenant, "--file", write("main.json", json.dumps(profile)))
    listed = shell.good("secrets", "list", "--tenant", tenant)
    checked = shell.good("secrets", "check", "main", "--tenant", tenant)
    refused = shell.run("secrets", "rm", "relay-a", "--tenant", tenant)

    assert (kept.strip(), listed.strip()) == ("relay-a is kept as version 1", "relay-a version 1: main")
    assert (checked.strip(), refused.exit_code) == ("stored, version 1", 1)
    assert PASSWORD not in kept + listed + checked + shell.good("secrets", "show", "relay-a", "--tenant", tenant)


def test_a_secret_that_is_missing(shell: Shell, tenant: str, write: Write) -> None:
    """The check says so, and exits with 1."""
    profile = {
        "host": "smtp.example.test", "from": "a@b.example",
        "auth": {"username": "u", "credential": {"source": "stored", "key": "nothing"}},
    }  # fmt: skip
    shell.good("profiles", "set", "main", "--tenant", tenant, "--file", write("main.json", json.dumps(profile)))
    checked = shell.run("secrets", "check", "main", "--tenant", tenant)

    assert checked.exit_code == 1
    assert "stored: not_found" in checked.output


# The settings pages that this replaces: each of their forms from a shell, and read back.

PAGES: dict[str, tuple[list[str], dict[str, object]]] = {
    "organisation and system level, pushed down": (
        ["--host", "smtp.example.test", "--port", "465", "--security", "implicit_tls", "--username", "app",
         "--from", "ops@example.test", "--to", "noc@example.test", "--default"],
        {"host": "smtp.example.test", "port": 465, "security": "implicit_tls", "from": "ops@example.test",
         "to": ["noc@example.test"], "is_default": True},
    ),
    "host and organisation level, domain sign-in": (
        ["--host", "exchange.example.test", "--port", "587", "--auth-method", "ntlm", "--domain", "CORP",
         "--username", "robot", "--from", "robot@example.test", "--from-name", "Robot", "--enabled"],
        {"host": "exchange.example.test", "from": {"name": "Robot", "address": "robot@example.test"}, "enabled": True},
    ),
    "host and organisation level, anonymous": (
        ["--host", "relay.example.test", "--security", "none", "--port", "25", "--from", "robot@example.test",
         "--auth-method", "none"],
        {"port": 25, "security": "none", "from": "robot@example.test"},
    ),
    "identity, receipts, footnote": (
        ["--host", "pam.example.test", "--username", "app", "--from", "pam@example.test", "--from-name", "Vault",
         "--force-sender", "--reply-to", "desk@example.test", "--return-path", "bounces@example.test",
         "--read-receipt-to", "read@example.test", "--request-read-receipt", "--footnote-text", "Confidential",
         "--footnote-html", "<i>Confidential</i>", "--allowed-sender", "*@example.test"],
        {"force_sender": True, "reply_to": ["desk@example.test"], "return_path": "bounces@example.test",
         "read_receipt_to": "read@example.test", "request_read_receipt": True,
         "footnote": {"enabled": True, "text": "Confidential", "html": "<i>Confidential</i>"},
         "allowed_senders": ["*@example.test"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "shown"), PAGES.values(), ids=PAGES.keys())
def test_a_settings_page_from_a_shell(
    shell: Shell, tenant: str, write: Write, options: list[str], shown: dict[str, object]
) -> None:
    """Every field of the page is set by an option and read back as it was set."""
    password = ["--password-file", write("pw", PASSWORD)] if "--username" in options else []
    shell.good("profiles", "set", "page", "--tenant", tenant, *options, *password)
    told = shell.told("profiles", "show", "page", "--tenant", tenant)

    assert {name: told[name] for name in shown} == shown
    for option, place in (("--auth-method", "method"), ("--domain", "domain"), ("--username", "username")):
        if option in options:
            assert told["auth"][place] == options[options.index(option) + 1]
    assert told["auth"].get("credential") == ({"source": "plaintext", "set": True} if password else None)


def test_a_page_with_a_vault_and_copies_from_a_shell(shell: Shell, tenant: str, write: Write) -> None:
    """The credential by reference, and who gets copies of what."""
    shell.good("secrets", "set", "relay-a", "--tenant", tenant, "--value-file", write("pw", PASSWORD))
    reference = {"auth": {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}}
    page = write("page.json", json.dumps(reference))
    shell.good("profiles", "set", "page", "--tenant", tenant, *RELAY[:2], *SENDER, "--file", page)
    shell.good(
        "preferences", "set", "--tenant", tenant, "--cc", "ops@example.test", "--bcc", "audit@example.test",
        "--rule", "category=security.*,min_severity=error,cc,bcc",
    )  # fmt: skip
    told = shell.told("profiles", "show", "page", "--tenant", tenant)
    copies = shell.told("preferences", "show", "--tenant", tenant)

    assert told["auth"] == {"method": "auto", **reference["auth"]}
    assert copies == {
        "cc": ["ops@example.test"], "bcc": ["audit@example.test"],
        "rules": [{"category": "security.*", "min_severity": "error", "cc": True, "bcc": True}],
    }  # fmt: skip


def test_the_fields_are_in_the_manual() -> None:
    """Where `check` sends people for them: all of a tenant and of a profile, and by which option each is set."""
    told = set(words(SECTIONS["Fields of tenants and profiles"]))
    fields = {info.alias or name for shape in (Tenant, ProfileFields) for name, info in shape.model_fields.items()}
    options = [field.option.split("/") for field in (*PROFILE_FIELDS, *TENANT_FIELDS)]

    assert not fields - told
    assert not [option for option in options if told.isdisjoint(option) and f"{option[0]} none" not in told]
