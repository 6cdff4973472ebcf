"""`check`: everything that can be wrong with settings and provisioning files, told at once."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from gateway.app import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, policy
from gateway.directory import rules
from gateway.directory.entries import entry, snapshot_of
from gateway.directory.provision import read_files
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import PROVISION
from gateway.settings import Fault, Settings, SettingsError, load
from gateway.smtp.dial import Dialer
from gateway.smtp.outcome import Fault as SessionFault
from gateway.smtp.session import Opener, Relay, Security, TlsPolicy


async def check(config: Path | None, *, probe: bool, as_json: bool) -> int:
    """Validate; exit code 0, 78 for faulty files, 1 for a relay that cannot be used."""
    try:
        settings = load(config, os.environ)
        profiles = _provisioned(settings)
    except SettingsError as error:
        _tell(error.faults, as_json=as_json)
        return EXIT_CONFIG
    if probe and not await _probe(settings, profiles):
        return EXIT_FAILED
    _tell((), as_json=as_json)
    return EXIT_OK


def _tell(faults: tuple[Fault, ...], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"faults": [asdict(fault) for fault in faults]}))
        return
    for fault in faults:
        click.echo(str(fault), err=True)
    click.echo(f"{len(faults)} faults" if faults else "settings are good", err=bool(faults))


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


async def _probe(settings: Settings, profiles: list[Profile]) -> bool:
    """Open every relay as far as TLS, without signing in; tell what does not work."""
    opener = Opener(Dialer(policy(settings, os.environ).egress), settings.relay.ehlo_name)
    good = True
    for profile in profiles:
        tls = TlsPolicy(profile.tls.verify, profile.tls.allow_auth_unverified, profile.tls.ca_certificates)
        opened = await opener.open(Relay(profile.host, profile.port, Security(profile.security), tls))
        if isinstance(opened, SessionFault):
            good = False
            click.echo(f"{profile.tenant}/{profile.name}: {opened.phase}: {opened.detail}", err=True)
        else:
            await opened.quit()
            click.echo(f"{profile.tenant}/{profile.name}: the relay answers")
    return good
