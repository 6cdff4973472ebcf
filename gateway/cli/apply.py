"""`apply FILE...`: makes the directory what files say, in one transaction, and shows what changed.

    apply FILE... [--dry-run] [--set NAME [--prune]]

Files are TOML with the tables and fields of the API: `[[tenants]]`, `[[profiles]]`, `[[links]]`, `[[preferences]]`,
`[[templates]]`. Several are read as one. Applying the same files again changes nothing. `--set` names what the files
make; `--prune` deletes what the same set made before and its files no longer speak of.

A fault is told where it stands: `acme.toml: [[profiles]][0].port (acme/main)`, counted from 0 in its own file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Document, load
from gateway.cli.remote import path, remote

SIGNS: Final = {"create": "+", "update": "~", "delete": "-"}


@dataclass(slots=True)
class _Files:
    """The tables of all files together, and which row came from where."""

    tables: dict[str, list[Any]] = field(default_factory=dict)
    origins: dict[str, list[tuple[Path, int]]] = field(default_factory=dict)
    sources: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, file: Path) -> None:
        """Read one more file."""
        for table, rows in load(file).items():
            if not isinstance(rows, list):
                raise click.UsageError(f"{file}: [{table}] is not an array of tables; write [[{table}]]")
            self.sources.setdefault(table, []).append(file)
            self.tables.setdefault(table, []).extend(rows)
            self.origins.setdefault(table, []).extend((file, index) for index in range(len(rows)))

    def find(self, pointer: str) -> str:
        """Say where a person finds what a JSON pointer of the API points to."""
        _, *parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")]
        if not parts or parts[0] not in self.tables:
            return pointer
        table, *rest = parts
        if not rest:
            return f"{', '.join(map(str, self.sources[table]))}: [[{table}]]"
        number, *members = rest
        file, index = self.origins[table][int(number)]
        place = "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in members)
        named = _named(self.tables[table][int(number)])
        return f"{file}: [[{table}]][{index}]{place}{f' ({named})' if named else ''}"


def _named(row: Any) -> str:
    known = row if isinstance(row, dict) else {}
    return "/".join(str(known[name]) for name in ("id", "tenant", "name", "profile", "child") if name in known)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="only show what would change")
@click.option("--prune", is_flag=True, help="delete what the same set made before and is gone from its files")
@click.option("--set", "set_name", metavar="NAME", help="the name of this set of files, if there are several")
@remote
def apply(
    daemon: Daemon, /, files: tuple[Path, ...], as_json: bool, dry_run: bool, prune: bool, set_name: str | None
) -> None:
    """Make tenants, profiles, links, preferences and templates what files say."""
    read = _read(files)
    query = {"dry_run": str(dry_run).lower(), "prune": str(prune).lower()}
    named = {"set": set_name} if set_name is not None else {}
    answer = daemon.call("POST", path("apply"), read.tables, query={**query, **named})
    if not calls.settled(answer, as_json, read.find):
        _show(answer.body["changes"], dry_run=dry_run)


def _read(files: Sequence[Path]) -> _Files:
    """Read all files; what is wrong with any of them is told together."""
    read = _Files()
    faults: list[str] = []
    for file in files:
        try:
            read.add(file)
        except click.UsageError as error:
            faults.append(error.message)
    if faults:
        raise click.UsageError("\n".join(faults))
    return read


def _show(changes: Sequence[Document], *, dry_run: bool) -> None:
    for change in changes:
        click.echo(_line(change))
    would = " would be made" if dry_run else ""
    count = f"{len(changes)} change{'' if len(changes) == 1 else 's'}"
    click.echo(f"{count}{would}" if changes else "nothing to change")


def _line(change: Mapping[str, Any]) -> str:
    name = "/".join(filter(None, (change["tenant"], change["name"])))
    line = f"{SIGNS[change['action']]} {change['kind']} {name}"
    told = calls.differences(change.get("fields") or ()) if change["action"] == "update" else ""
    return f"{line}: {told}" if told else line
