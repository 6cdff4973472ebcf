"""`check`: everything that can be wrong with settings and provisioning files, told at once.

The database is the daemon's and is not opened. What files refer to and do not define themselves may be in there, so that
is a remark and no fault; what the database has besides, and would not go with the files, shows only at the daemon's start.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import click

from gateway.app import opener, policy, postgresql_server
from gateway.credentials import master_key
from gateway.credentials.credentials import Credentials
from gateway.credentials.local import ANYBODY
from gateway.credentials.provider import CredentialError
from gateway.credentials.sealed import Seal
from gateway.credentials.tokens import Tokens
from gateway.directory import rules
from gateway.directory.directory import sealed
from gateway.directory.entries import entry, snapshot_of
from gateway.directory.provision import key_file_faults, read_files
from gateway.directory.rules import RuleFault
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import PROVISION, Snapshot
from gateway.lifecycle import EXIT_CONFIG, EXIT_FAILED, EXIT_OK
from gateway.message.times import time_text
from gateway.observe.certificates import first_end
from gateway.relay.guard import Guard
from gateway.relay.sign_in import SignIns
from gateway.settings import (
    AzureKeyVaultConnection,
    Fault,
    PostgresqlUrl,
    SecretSource,
    Settings,
    SettingsError,
    counted,
    load,
    provision_files,
)
from gateway.settings.kinds import Section
from gateway.smtp import hints
from gateway.smtp.outcome import Fault as SessionFault
from gateway.store.protocol import StoreError
from gateway.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from gateway.store.postgresql.server import Server

REFERENCES: Final = {
    "unknown_tenant": "tenant",
    "unknown_parent": "parent",
    "not_owned": "profile",
    "not_a_child": "child",
    "unknown_profile": "failover",
}
"""What an object refers to, by the code of the rule that it must be there."""
MOST_OVERLAPS: Final = 20  # of a connection's prefixes
OWN_CERTIFICATES: Final = frozenset({"client_certificate", "certificate"})  # the keys of connections that name them
Lent = tuple[str, str]
"""A beginning of keys, and the tenant that it is lent to."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was tried, and what came of it; `ok` is None where that could not be judged."""

    name: str
    ok: bool | None
    detail: str
    code: str = ""
    hint: str = ""


@dataclass(slots=True)
class Report:
    """All that was found. `as_json`: one document on standard output, and what is for people on standard error."""

    as_json: bool
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Fault] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)

    def tried(self, probe: Probe) -> None:
        """Tell of a probe at once: the next one may take its time."""
        self.probes.append(probe)
        advice = f" ({probe.code})\n  {probe.hint}" if probe.code else ""
        click.echo(f"{probe.name}: {probe.detail}{advice}", err=self.as_json or probe.ok is False)

    def tell(self) -> int:
        """Tell the rest; the exit code."""
        failed = any(probe.ok is False for probe in self.probes)
        code = EXIT_CONFIG if self.faults else EXIT_FAILED if failed else EXIT_OK
        if self.as_json:
            found = asdict(self)
            del found["as_json"]
            click.echo(json.dumps(found))
            return code
        for fault in self.faults:
            click.echo(str(fault), err=True)
        for remark in self.remarks:
            click.echo(f"note: {remark}", err=True)
        if self.faults:
            click.echo(counted(self.faults), err=True)
        elif not failed:
            click.echo("settings are good")
        return code


async def check(config: Path | None, *, probe: bool, as_json: bool) -> int:
    """Validate; exit code 0, 78 for faulty files, 1 for a database or a relay that cannot be used."""
    report = Report(as_json)
    try:
        settings = load(config, os.environ)
    except SettingsError as error:
        report.faults += [*error.faults, *_of_files(config)]
        return report.tell()
    report.faults += _of_master_keys(settings)
    report.remarks += [*_of_azure_prefixes(settings), *_of_identities(settings), *_of_certificates(settings)]
    try:
        server = postgresql_server(settings, os.environ) if isinstance(settings.store.url, PostgresqlUrl) else None
        profiles = _provisioned(settings, report)
    except SettingsError as error:
        report.faults += error.faults
    else:
        if probe and not report.faults:
            if server is not None:
                report.tried(await _database(server))
            await _probe(settings, profiles, report)
    return report.tell()


def _of_files(config: Path | None) -> Sequence[Fault]:
    """What is wrong with the provisioning files by themselves: there are no settings by which to judge the rest."""
    try:
        read_files(provision_files(config, os.environ))
    except SettingsError as error:
        return error.faults
    return ()


def _of_master_keys(settings: Settings) -> list[Fault]:
    return [
        Fault("", "[master_key]", str(error), "give the key that sealed the database")
        for error in master_key.faults(settings.master_key.sources, os.environ)
    ]


def _of_identities(settings: Settings) -> Iterator[Fault]:
    """What the daemon shall sign in with at a secret store, and is not there yet."""
    remedy = "the daemon cannot sign in there until it does"
    for name, connection in settings.connections.items():
        for key, path in _named_files(connection):
            with suppress(OSError):  # this user may not look
                if not path.exists():
                    yield Fault("", f"[connections.{name}] {key}", f"names {path}, which does not exist", remedy)


def _named_files(section: Section) -> Iterator[tuple[str, Path]]:
    """Give each file that a section names, with its key."""
    for key, value in section:
        match value:
            case Path():
                yield key, value
            case SecretSource(file=Path() as file):
                yield key, file
            case Section():
                yield from ((f"{key}.{inner}", path) for inner, path in _named_files(value))


def _of_certificates(settings: Settings) -> Iterator[Fault]:
    """Certificates of the daemon's own that are over: whoever is shown them may hang up."""
    for place, path in _own_certificates(settings):
        with suppress(OSError):
            ends = first_end(path.read_bytes())
            if ends is not None and ends < time.time():
                day = time_text(round(ends * 1000))[:10]
                yield Fault("", place, f"names {path}, of which a certificate ended on {day}", "renew it")


def _own_certificates(settings: Settings) -> Iterator[tuple[str, Path]]:
    if settings.http.tls_certificate is not None:
        yield "[http] tls_certificate", settings.http.tls_certificate
    for name, connection in settings.connections.items():
        for key, path in _named_files(connection):
            if key.rpartition(".")[2] in OWN_CERTIFICATES:
                yield f"[connections.{name}] {key}", path


def _of_azure_prefixes(settings: Settings) -> Iterator[Fault]:
    """What tenants may have of another's in an Azure vault, where a prefix does not end with a segment."""
    remedy = "give each tenant a prefix that begins no other's, unless that is meant"
    for name, connection in settings.connections.items():
        if isinstance(connection, AzureKeyVaultConnection):
            for problem in _overlaps(connection.allow):
                yield Fault("", f"[connections.{name}] allow", problem, remedy)


def _overlaps(allow: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Tell of tenants who may have everything, and of prefixes that begin another tenant's."""
    lent = sorted({(one, tenant) for tenant, many in allow.items() if tenant != ANYBODY for one in many})
    if len({tenant for _, tenant in lent}) > 1:
        yield from (f'"" of {tenant} begins all that others have' for one, tenant in lent if not one)
    for (one, tenant), (longer, other) in islice(_begun(lent), MOST_OVERLAPS):
        yield f'"{one}" of {tenant} begins "{longer}" of {other}'


def _begun(lent: Iterable[Lent]) -> Iterator[tuple[Lent, Lent]]:
    """Of prefixes in their order, find each, "" apart, with every one of another tenant's that it begins."""
    above: list[Lent] = []
    for longer in lent:
        while above and not longer[0].startswith(above[-1][0]):
            above.pop()
        for one in above:
            if one[1] != longer[1]:
                yield one, longer
        if longer[0]:
            above.append(longer)


def _provisioned(settings: Settings, report: Report) -> list[Profile]:
    """Judge the files by themselves; the profiles that they define."""
    declaration = read_files(settings.provision.files)
    snapshot = snapshot_of(0, [entry(item, PROVISION) for item in declaration.items])
    found = [
        *rules.faults(snapshot, declaration.items, (), policy(settings, os.environ)),
        *declaration.keys_of_nobody(snapshot.tenants),
    ]
    report.faults += key_file_faults(declaration.keys, settings.paths.base)
    for broken in found:
        fault = declaration.fault(broken)
        if _is_elsewhere(broken, snapshot):
            what = REFERENCES[broken.code]
            problem = f"{broken.code}: the {what} is not in these files"
            report.remarks.append(
                Fault(fault.file, fault.key, problem, f"the daemon refuses it unless its database has that {what}")
            )
        else:
            report.faults.append(fault)
    return list(snapshot.profiles.values())


def _is_elsewhere(broken: RuleFault, snapshot: Snapshot) -> bool:
    """Is it only that something is missing, which the database may have?"""
    match broken.code:
        case "not_a_child":
            return broken.name.partition("/")[2] not in snapshot.tenants  # else the files say whose child it is
        case "unknown_profile":
            profile = snapshot.profiles[broken.tenant, broken.name]
            return profile.failover[int(broken.pointer.rpartition("/")[2])] != profile.name
        case code:
            return code in REFERENCES


async def _database(server: "Server") -> Probe:
    """Connect, and look whether the server is one that keeps what it commits; nothing is written."""
    try:
        await server.open()
    except StoreError as error:
        return Probe("[store] url", False, str(error))
    except CredentialError as error:
        detail = f"{error}; a systemd credential is there for the unit alone (see the README, Installing)"
        return Probe("[store] password", False, detail)
    answers = Probe("[store] url", True, f"the database answers: PostgreSQL {server.version}")
    await server.close()
    return answers


async def _probe(settings: Settings, profiles: list[Profile], report: Report) -> None:
    """Fetch every secret and sign in at every relay, without sending anything; tell what does not work, and why."""
    lent, seal = policy(settings, os.environ), Seal([os.urandom(32)])  # for what the files themselves say
    credentials = Credentials(seal, lambda _tenant, _name: None, lent.local, lent.connections)
    tokens = Tokens(settings.oauth, credentials.cache, time.monotonic)
    try:
        with TemporaryDirectory() as folder:
            async with SqliteStore(Path(folder) / "logins.db") as store:  # the daemon's own is not ours to open
                sign_ins = SignIns(credentials, tokens, opener(settings), Guard(store), settings.connectors)
                for profile in profiles:
                    report.tried(await _probed(sign_ins, sealed(profile, seal)))
    finally:
        await tokens.close()
        await lent.connections.close()


async def _probed(sign_ins: SignIns, profile: Profile) -> Probe:
    name = f"{profile.tenant}/{profile.name}"
    if any(credential.source == "stored" for _, credential in profile.credentials()):
        return Probe(name, None, "its secret is in the daemon's store: see `test`")
    relays = await sign_ins.relays(profile)
    opened = relays if isinstance(relays, SessionFault) else await sign_ins.open(profile, relays)
    if isinstance(opened, SessionFault):
        advice = hints.of_fault(opened, None if isinstance(relays, SessionFault) else relays[0], profile.preset)
        return Probe(name, False, f"{opened.phase}: {advice.detail}", advice.code, advice.hint)
    await opened.engine.quit()
    return Probe(name, True, "the relay answers")
