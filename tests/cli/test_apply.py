"""`apply`: files become the directory, in one transaction, and faults are told where they stand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Shell

    Write = Callable[[str, str], str]

PROFILE = """\
[[profiles]]
tenant = "{tenant}"
name = "main"
host = "127.0.0.1"
port = {port}
security = "none"
from = "noreply@zoo.example.test"
"""
CHILD = '[[tenants]]\nid = "{tenant}-emea"\nparent = "{tenant}"\n'
LINK = '[[links]]\ntenant = "{tenant}"\nprofile = "main"\nchild = "{tenant}-emea"\nis_default = true\n'
WHOLE = PROFILE + CHILD + LINK


def test_a_dry_run_shows_and_changes_nothing(shell: Shell, tenant: str, write: Write) -> None:
    """One line an object, and how many; then the profile is still not there."""
    said = shell.good("apply", write("a.toml", WHOLE.format(tenant=tenant, port=2525)), "--dry-run")

    assert sorted(said.splitlines()) == sorted(
        [
            f"+ profile {tenant}/main",
            f"+ tenant {tenant}-emea",
            f"+ link {tenant}/main/{tenant}-emea",
            "3 changes would be made",
        ]
    )
    assert said.splitlines()[-1] == "3 changes would be made"
    assert shell.run("profiles", "show", "main", "--tenant", tenant).exit_code == 1


def test_the_same_files_again_change_nothing(shell: Shell, tenant: str, write: Write) -> None:
    """Several files are read as one; applied twice, the second finds nothing to do."""
    files = [
        write("link.toml", LINK.format(tenant=tenant)),
        write("rest.toml", (PROFILE + CHILD).format(tenant=tenant, port=2525)),
    ]

    assert shell.good("apply", *files).endswith("3 changes\n")
    assert shell.good("apply", *files) == "nothing to change\n"
    assert shell.good("resolve", f"{tenant}-emea").startswith(f"profile main of {tenant} ")


def test_a_change_is_told_with_its_fields(shell: Shell, tenant: str, write: Write) -> None:
    """With the values before and after where those may be told."""
    shell.good("apply", write("a.toml", PROFILE.format(tenant=tenant, port=2525)))
    changed = PROFILE.format(tenant=tenant, port=2526) + 'to = ["a@zoo.example.test"]\n'

    assert shell.good("apply", write("a.toml", changed)) == f"~ profile {tenant}/main: port 2525 → 2526, to\n1 change\n"


def test_pruning_deletes_what_the_set_made_before(shell: Shell, tenant: str, write: Write) -> None:
    """Only of its own set, and not what was made otherwise."""
    shell.good("templates", "set", "own", "--tenant", tenant, "--subject", "x", "--text-file", write("x", "x"))
    shell.good("apply", "--set", tenant, write("a.toml", WHOLE.format(tenant=tenant, port=2525)))
    rest = write("a.toml", PROFILE.format(tenant=tenant, port=2525))
    said = shell.good("apply", "--set", tenant, "--prune", rest)

    assert sorted(said.splitlines()) == sorted(
        [f"- link {tenant}/main/{tenant}-emea", f"- tenant {tenant}-emea", "2 changes"]
    )
    assert shell.good("templates", "list", "--tenant", tenant) == "own: x\n"


def test_a_fault_is_told_where_it_stands_in_the_files(shell: Shell, tenant: str, write: Write) -> None:
    """With the file, its own count of the table's rows, the field and the object's name; nothing is changed."""
    good = write("good.toml", PROFILE.format(tenant=tenant, port=2525) + 'allowed_senders = ["a@b.test"]\n')
    bad = write("bad.toml", PROFILE.format(tenant=tenant, port=99999).replace("main", "second") + 'to = ["a@b", "x"]\n')
    result = shell.run("apply", good, bad)

    assert result.exit_code == 1
    assert f"{bad}: [[profiles]][0].port ({tenant}/second): " in result.stderr
    assert f"{bad}: [[profiles]][0].to[1] ({tenant}/second): " in result.stderr
    assert good not in result.stderr
    assert shell.good("profiles", "list", "--tenant", tenant) == ""


def test_a_table_that_apply_does_not_take_is_told_with_its_file(shell: Shell, write: Write) -> None:
    """Keys are not made by files here; the fault names the file and the table."""
    file = write("keys.toml", '[[keys]]\ntenant = "acme"\nname = "x"\nexpires_at = 2030-01-01T00:00:00Z\n')
    result = shell.run("apply", file)

    assert result.exit_code == 1
    assert f"{file}: [[keys]]: " in result.stderr


def test_faulty_files_are_all_named_before_anything_is_asked(shell: Shell, write: Write) -> None:
    """What is no TOML, what is no array of tables and what is not there: one line each, exit 2."""
    files = [write("a.toml", "port = = 1"), write("b.toml", "[tenants]\nid = 1\n"), "/nowhere/c.toml"]
    result = shell.run("apply", *files)

    assert result.exit_code == 2
    assert f"{files[0]}: is not TOML: " in result.stderr
    assert "at line 1" in result.stderr
    assert f"{files[1]}: [tenants] is not an array of tables; write [[tenants]]" in result.stderr
    assert f"{files[2]}: cannot be read: No such file" in result.stderr


def test_json_is_the_answer_and_nothing_else(shell: Shell, tenant: str, write: Write) -> None:
    """The diff as the API gives it."""
    said = shell.good("apply", "--json", "--dry-run", write("a.toml", PROFILE.format(tenant=tenant, port=2525)))
    told = json.loads(said)

    assert told["dry_run"] is True
    assert [(change["action"], change["kind"], change["name"]) for change in told["changes"]] == [
        ("create", "profile", "main")
    ]
