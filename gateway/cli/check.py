"""`check`: everything that can be wrong with settings and provisioning files, told at once."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from gateway.app import opener, policy, postgresql_server
from gateway.credentials.credentials import Credentials
from gateway.credentials.sealed import Seal
from gateway.credentials.tokens import Tokens
from gateway.directory import rules
from gateway.directory.directory import sealed
from gateway.directory.entries import entry, snapshot_of
from gateway.directory.provision import read_files
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import PROVISION
from gateway.lifecycle import EXIT_CONFIG, EXIT_FAILED, EXIT_OK
from gateway.relay.guard import Guard
from gateway.relay.sign_in import SignIns
from gateway.settings import Fault, PostgresqlUrl, Settings, SettingsError, counted, load
from gateway.smtp import hints
from gateway.smtp.outcome import Fault as SessionFault
from gateway.store.protocol import StoreError
from gateway.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from gateway.store.postgresql.server import Server


async def check(config: Path | None, *, probe: bool, as_json: bool) -> int:
    """Validate; exit code 0, 78 for faulty files, 1 for a relay that cannot be used."""
    try:
        settings = load(config, os.environ)
        server = postgresql_server(settings, os.environ) if isinstance(settings.store.url, PostgresqlUrl) else None
        profiles = _provisioned(settings)
    except SettingsError as error:
        _tell(error.faults, as_json=as_json)
        return EXIT_CONFIG
    if probe:
        answers = [server is None or await _database_answers(server), await _probe(settings, profiles)]
        if not all(answers):
            return EXIT_FAILED
    _tell((), as_json=as_json)
    return EXIT_OK


def _tell(faults: tuple[Fault, ...], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"faults": [asdict(fault) for fault in faults]}))
        return
    for fault in faults:
        click.echo(str(fault), err=True)
    click.echo(counted(faults) if faults else "settings are good", err=bool(faults))


def _provisioned(settings: Settings) -> list[Profile]:
    declaration = read_files(settings.provision.files)
    snapshot = snapshot_of(0, [entry(item, PROVISION) for item in declaration.items])
    found = [
        *rules.faults(snapshot, declaration.items, (), policy(settings, os.environ)),
        *declaration.keys_of_nobody(snapshot.tenants),
    ]
    if found:
        raise SettingsError(tuple(declaration.fault(fault) for fault in found))
    return list(snapshot.profiles.values())


async def _database_answers(server: "Server") -> bool:
    """Connect, and look whether the server is one that keeps what it commits; nothing is written."""
    try:
        await server.open()
    except StoreError as error:
        click.echo(f"[store] url: {error}", err=True)
        return False
    click.echo(f"the database answers: PostgreSQL {server.version}")
    await server.close()
    return True


async def _probe(settings: Settings, profiles: list[Profile]) -> bool:
    """Fetch every secret and sign in at every relay, without sending anything; tell what does not work, and why."""
    lent, seal = policy(settings, os.environ), Seal([os.urandom(32)])  # for what the files themselves say
    credentials = Credentials(seal, lambda _tenant, _name: None, lent.local, lent.connections)
    tokens = Tokens(settings.oauth, credentials.cache, time.monotonic)
    try:
        with TemporaryDirectory() as folder:
            async with SqliteStore(Path(folder) / "logins.db") as store:  # the daemon's own is not ours to open
                sign_ins = SignIns(credentials, tokens, opener(settings), Guard(store), settings.connectors)
                told = [await _probed(sign_ins, sealed(profile, seal)) for profile in profiles]
    finally:
        await tokens.close()
        await lent.connections.close()
    return all(told)


async def _probed(sign_ins: SignIns, profile: Profile) -> bool:
    name = f"{profile.tenant}/{profile.name}"
    if any(credential.source == "stored" for _, credential in profile.credentials()):
        click.echo(f"{name}: its secret is in the daemon's store: see `test`")
        return True
    relays = await sign_ins.relays(profile)
    opened = relays if isinstance(relays, SessionFault) else await sign_ins.open(profile, relays)
    if isinstance(opened, SessionFault):
        advice = hints.of_fault(opened, None if isinstance(relays, SessionFault) else relays[0], profile.preset)
        click.echo(f"{name}: {opened.phase}: {advice.detail} ({advice.code})\n  {advice.hint}", err=True)
        return False
    await opened.engine.quit()
    click.echo(f"{name}: the relay answers")
    return True
