"""The installed units under a real systemd: what an operator does, and what systemd does by itself."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zipfile import ZipFile

import aiohttp
import pytest

from tests.peers.smtp_server import Hold
from tests.process.daemon import ROOT, mail, plain
from tests.process.engines import own_schema
from tests.systemd.machine import LOOK, SECONDS, SETTINGS, STATE, Machine, Unit

if TYPE_CHECKING:
    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_server import ScriptedRelay

SIGNED_IN: Final = '\nauth = {username = "app", credential = {source = "plaintext", value = "s3cret"}}'
STORED: Final = '\nauth = {username = "app", credential = {source = "stored", key = "relay"}}'
STUCK_LOOP: Final = """\
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
"""
DROP_INS: Final = ("ip-allow-list", "managed-identity", "memory", "debugging")


async def relayed(unit: Unit) -> None:
    """Post as the tenant; it arrives."""
    client = unit.client()
    async with client.session:
        status, told, _ = await client.post(mail())
        assert status == 202
        await client.until(told["id"], "relayed")


async def accepted(unit: Unit) -> str:
    """Post as the tenant; gives the notification's id."""
    client = unit.client()
    async with client.session:
        status, told, _ = await client.post(mail())
        assert status == 202
        return str(told["id"])


async def status_for(unit: Unit, key: str) -> int:
    """List the tenants with a key."""
    async with aiohttp.ClientSession(unit.url, headers={"Authorization": f"Bearer {key}"}) as session:
        return (await session.get("/v1/tenants")).status


async def test_start_returns_when_it_is_ready(unit: Unit, relay: ScriptedRelay) -> None:
    """`systemctl start` returns, and the very next request is answered; a mail goes the whole way."""
    unit.settings(plain(relay.port))
    await unit.start()
    assert await unit.ready()
    await relayed(unit)
    assert await unit.show("ActiveState", "StatusText", "NRestarts") == ["active", "ready", "0"]


async def test_it_runs_in_its_sandbox(unit: Unit, relay: ScriptedRelay) -> None:
    """As systemd set it up: another user, no capability, filtered system calls, files for itself alone."""
    unit.settings(plain(relay.port))
    await unit.start()
    status = unit.machine.path(f"/proc/{await unit.pid()}/status").read_text()
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    files = [path.stat().st_mode & 0o077 for path in unit.machine.path(STATE).glob("*")]

    assert int(told["Uid"].split()[0]) >= 61184  # a dynamic user's (systemd.exec(5))
    assert (told["CapBnd"], told["NoNewPrivs"], told["Seccomp"]) == ("0000000000000000", "1", "2")
    assert files
    assert set(files) == {0}


async def test_its_process_is_measured(unit: Unit, relay: ScriptedRelay) -> None:
    """Prometheus is told all six, though the sandbox shows nothing of /proc but processes."""
    unit.settings(plain(relay.port))
    await unit.start()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{unit.metrics}/metrics") as answer:
        told = [
            line.split()[0] for line in (await answer.text()).splitlines() if "_process_" in line and line[0] != "#"
        ]

    assert sorted(name.partition("_process_")[2] for name in told) == [
        "cpu_seconds_total", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds", "virtual_memory_bytes",
    ]  # fmt: skip


async def test_what_a_person_needs_is_installed(machine: Machine) -> None:
    """The manual, the examples and drop-ins, and what Prometheus, Grafana and senders take, as they lie here."""
    share = machine.path("/usr/local/share/notification-gateway")
    wanted = {Path(name): ROOT / name for name in ("README.md",)}
    wanted |= {path.relative_to(ROOT / "config"): path for path in (ROOT / "config").glob("*/*")}
    wanted |= {Path(path.name): path for path in (ROOT / "config").glob("*.toml") if path.name != "gateway.toml"}
    wanted |= {path.relative_to(ROOT / "systemd"): path for path in (ROOT / "systemd").glob("drop-ins/*")}

    assert {
        Path("prometheus/alerts.yml"),
        Path("grafana/dashboard.json"),
        Path("receivers/alertmanager.yml"),
    } <= wanted.keys()
    assert {path.relative_to(share): path.read_bytes() for path in share.rglob("*") if path.is_file()} == {
        name: path.read_bytes() for name, path in wanted.items()
    }


async def test_the_first_key_is_made_by_root(unit: Unit, relay: ScriptedRelay) -> None:
    """The command line finds the admin socket by the settings of the installation, and root is administrator there."""
    unit.settings(plain(relay.port))
    await unit.start()
    key = await unit.machine.run("notification-gateway", "keys", "create", "--tenant", "system", "--scope", "admin")
    assert await status_for(unit, key) == 200


async def test_others_are_not_let_in_at_the_socket(unit: Unit, relay: ScriptedRelay) -> None:
    """An ordinary user of the machine cannot reach it."""
    unit.settings(plain(relay.port))
    await unit.start()
    asked = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "notification-gateway", "doctor")
    assert "no daemon answers" in await unit.machine.run(*asked, check=False)


async def test_a_reload_puts_the_settings_into_force(unit: Unit, relay: ScriptedRelay) -> None:
    """The unit is active again by the daemon's own word once the settings are read; what they say holds."""
    unit.settings(plain(relay.port))
    await unit.start()
    tenants = unit.machine.path(f"{SETTINGS}/gateway-tenants.toml")
    tenants.write_text(tenants.read_text() + '[[tenants]]\nid = "north"\n')
    await unit.machine.run("systemctl", "reload", unit.name)
    await unit.until(lambda state: state == "active", "ActiveState")

    assert len(await unit.said("reloaded")) == 1
    assert "north" in await unit.machine.run("notification-gateway", "tenants", "list")


async def test_a_faulty_reload_changes_nothing(unit: Unit, relay: ScriptedRelay) -> None:
    """The unit stays active on what it had, and says what is wrong as an error in the journal."""
    unit.settings(plain(relay.port))
    await unit.start()
    before = await unit.pid()
    unit.write(f"{SETTINGS}/gateway.toml", "[http]\nlisten = 3\n")
    await unit.machine.run("systemctl", "reload", unit.name)
    [fault] = await unit.said("reload_failed")
    await relayed(unit)

    assert fault["PRIORITY"] == "3"
    assert "[http] listen" in fault["FAULTS"]
    assert await unit.show("ActiveState", "MainPID") == ["active", str(before)]


async def test_a_stuck_loop_is_killed_and_the_daemon_comes_back(unit: Unit, relay: ScriptedRelay) -> None:
    """Threads still run, but the loop does not: no ping, so systemd kills it and starts it anew; mail is not lost."""
    unit.settings(plain(relay.port))
    unit.write("/run/stuck/sitecustomize.py", STUCK_LOOP)
    await unit.drop_in("[Service]\nWatchdogSec=2\nEnvironment=PYTHONPATH=/run/stuck\n")
    await relay.reachable(False)
    await unit.start()
    waiting = await accepted(unit)
    await unit.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=USR1", unit.name)
    await unit.until(lambda restarts, state: restarts == "1" and state == "active", "NRestarts", "ActiveState")
    await relay.reachable(True)
    client = unit.client()
    async with client.session:
        await client.until(waiting, "relayed")

    assert "Watchdog timeout" in " ".join(str(entry["MESSAGE"]) for entry in await unit.journal())


async def test_a_healthy_daemon_outlives_its_watchdog(unit: Unit, relay: ScriptedRelay) -> None:
    """It pings in time: three times the watchdog's limit passes, and it was not started anew."""
    unit.settings(plain(relay.port))
    await unit.drop_in("[Service]\nWatchdogSec=1\n")
    await unit.start()
    first = int((await unit.show("WatchdogTimestampMonotonic"))[0])
    await unit.until(lambda at: int(at) > first + 3_000_000, "WatchdogTimestampMonotonic")
    assert await unit.show("NRestarts", "ActiveState") == ["0", "active"]


async def test_kill_9_loses_nothing(unit: Unit, relay: ScriptedRelay) -> None:
    """It is started anew by itself, and what it had accepted before is relayed."""
    unit.settings(plain(relay.port))
    await relay.reachable(False)
    await unit.start()
    waiting = [await accepted(unit) for _ in range(5)]
    await unit.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit.name)
    await unit.until(lambda restarts, state: restarts == "1" and state == "active", "NRestarts", "ActiveState")
    await relay.reachable(True)
    client = unit.client()
    async with client.session:
        for one in waiting:
            await client.until(one, "relayed")

    assert len(relay.messages) == len(waiting)


async def test_a_stop_waits_for_the_relays_last_word(unit: Unit, relay: ScriptedRelay) -> None:
    """A mail is on the wire: the stop waits for its final reply, beyond TimeoutStopSec since more was asked for."""
    unit.settings(plain(relay.port))
    await unit.drop_in("[Service]\nTimeoutStopSec=1\n")
    await unit.start()
    word = asyncio.Event()
    held = relay.on("final", Hold(word))
    await accepted(unit)
    await relay.wait(lambda: held.hits)
    stopping = asyncio.ensure_future(unit.stop())
    began = time.monotonic()
    await unit.until(lambda _: time.monotonic() > began + 3, "ActiveState")
    during = await unit.show("ActiveState", "StatusText")
    word.set()
    await stopping

    assert during == ["deactivating", "draining"]
    assert await unit.show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]
    assert len(relay.messages) == 1
    await unit.start()
    client = unit.client()
    async with client.session, client.session.get("/v1/notifications") as answer:
        assert [one["status"] for one in (await answer.json())["items"]] == ["relayed"]


async def test_faulty_settings_are_not_tried_again(unit: Unit) -> None:
    """Exit code 78: the unit has failed and stays so, and the journal has every fault."""
    unit.write(f"{SETTINGS}/gateway.toml", "[http]\nlisten = 3\n[relay]\nconnections = 0\n")
    await unit.machine.run("systemctl", "start", unit.name, check=False)
    told = await unit.show("ActiveState", "SubState", "ExecMainStatus", "NRestarts")
    said = " ".join(str(entry["MESSAGE"]) for entry in await unit.journal())

    assert told == ["failed", "failed", "78", "0"]
    assert "[http] listen" in said
    assert "[relay] connections" in said


async def test_the_master_key_is_the_credential(unit: Unit, relay: ScriptedRelay) -> None:
    """What is sealed opens after a restart, and does not with another key in its place; the key is not in the environment."""
    unit.settings(plain(relay.port) + STORED)
    relay.require_auth = True
    key = unit.machine.path(f"{SETTINGS}/master-key")
    right = key.read_text()
    await unit.start()
    unit.write("/run/password", "s3cret")
    await unit.machine.run(
        *["notification-gateway", "secrets", "set", "relay", "--tenant", "acme", "--value-file", "/run/password"]
    )
    environ = unit.machine.path(f"/proc/{await unit.pid()}/environ").read_bytes()
    await unit.machine.run("systemctl", "restart", unit.name)
    await relayed(unit)
    key.write_text(base64.b64encode(bytes(32)).decode())
    try:
        await unit.machine.run("systemctl", "restart", unit.name)
        waiting = await accepted(unit)
        [parked] = await unit.said("parked")
    finally:
        key.write_text(right)
    await unit.machine.run("systemctl", "restart", unit.name)
    client = unit.client()
    async with client.session:
        await client.until(waiting, "relayed")

    assert parked["REASON"].startswith("secret")
    assert right.strip().encode() not in environ
    assert b"CREDENTIALS_DIRECTORY=/run/credentials/notification-gateway.service" in environ


async def test_a_relays_password_comes_from_a_file(unit: Unit, relay: ScriptedRelay) -> None:
    """What the operator puts into /var/lib/notification-gateway/secrets and lends is used, and followed when it changes."""
    auth = '\nauth = {username = "app", credential = {source = "file", key = "relay"}}'
    unit.settings(plain(relay.port) + auth, **{"[provision]": 'allow = {acme = ["relay"]}\n\n[provision]'})
    relay.require_auth = True
    await unit.start()
    await unit.machine.run(
        "sh",
        "-c",
        f"mkdir {STATE}/secrets && chmod 755 {STATE}/secrets && umask 022 && echo s3cret >{STATE}/secrets/relay",
    )
    await relayed(unit)


async def test_the_journal_has_priorities_and_fields(unit: Unit, relay: ScriptedRelay) -> None:
    """Entries carry the unit, the program and a priority: what is told is 6, what should be looked at 4."""
    unit.settings(plain(relay.port))
    await unit.start()
    assert await status_for(unit, "ngw_nobody_knows") == 401
    [started] = await unit.said("started")
    [refused] = await unit.said("key_refused")

    assert (started["PRIORITY"], refused["PRIORITY"]) == ("6", "4")
    assert {started["_SYSTEMD_UNIT"], refused["_SYSTEMD_UNIT"]} == {"notification-gateway.service"}
    assert started["SYSLOG_IDENTIFIER"] == "notification-gateway"
    assert refused["CLIENT"] == "127.0.0.1"


async def test_nobody_is_refused_while_it_restarts(unit: Unit, relay: ScriptedRelay) -> None:
    """With the socket unit callers wait over restarts: no connection is refused, and the answers go on."""
    unit.settings(plain(relay.port), **{f'"127.0.0.1:{8025}"': '"systemd"'})
    drop_in = (ROOT / "systemd" / "drop-ins" / "socket-port.conf").read_text()
    await unit.drop_in(drop_in.replace("=443", f"=127.0.0.1:{unit.http}"), unit="notification-gateway.socket")
    await unit.machine.run("systemctl", "start", "notification-gateway.socket")
    answers: Counter[str] = Counter()
    over = asyncio.Event()

    async def call() -> None:
        while not over.is_set():
            try:
                async with aiohttp.ClientSession() as session, session.get(unit.url + "/readyz") as answer:
                    answers[str(answer.status)] += 1
            except aiohttp.ClientConnectorError:
                answers["refused"] += 1
            except aiohttp.ClientError as error:
                answers[type(error).__name__] += 1

    callers = [asyncio.ensure_future(call()) for _ in range(4)]
    await unit.until(lambda state: state == "active", "ActiveState")  # started by the first of them
    for _ in range(3):
        before = answers["200"]
        await unit.machine.run("systemctl", "restart", unit.name)
        async with asyncio.timeout(SECONDS):
            while answers["200"] < before + 20:
                await asyncio.sleep(LOOK)
    over.set()
    await asyncio.gather(*callers)

    print(f"\nover three restarts: {dict(answers)}")
    assert answers["refused"] == 0
    assert answers["200"] > 60


@pytest.mark.parametrize("name", DROP_INS)
async def test_it_starts_with_a_drop_in(unit: Unit, relay: ScriptedRelay, name: str) -> None:
    """A drop-in as it is shipped: the unit starts and relays."""
    unit.settings(plain(relay.port))
    await unit.drop_in((ROOT / "systemd" / "drop-ins" / f"{name}.conf").read_text(), name)
    await unit.start()
    await relayed(unit)


async def test_a_privileged_port_by_drop_in(unit: Unit, relay: ScriptedRelay) -> None:
    """The one capability is enough for a port below 1024."""
    unit.http = next(port for port in range(700, 1024) if _free(port))
    unit.settings(plain(relay.port))
    await unit.drop_in((ROOT / "systemd" / "drop-ins" / "privileged-port.conf").read_text())
    await unit.start()
    await relayed(unit)


async def test_from_a_dynamic_user_to_a_static_one_and_back(unit: Unit, relay: ScriptedRelay) -> None:
    """The directories are handed over, and the mail with them."""
    unit.settings(plain(relay.port) + SIGNED_IN)
    await unit.start()
    await relayed(unit)
    await unit.stop()
    await unit.machine.run("useradd", "--system", "--no-create-home", "notification-gateway")
    await unit.machine.run("rm", "-f", "/run/notification-gateway")
    try:
        await unit.drop_in((ROOT / "systemd" / "drop-ins" / "static-user.conf").read_text())
        await unit.start()
        await relayed(unit)
        owner = await unit.machine.run("stat", "--format=%U %F", STATE)
        await unit.stop()
    finally:
        await unit.machine.run("userdel", "notification-gateway")
    unit.machine.path("/run/systemd/system/notification-gateway.service.d/test.conf").unlink()
    await unit.machine.run("systemctl", "daemon-reload")
    await unit.start()
    await relayed(unit)

    assert owner == "notification-gateway directory"


async def test_the_master_key_may_be_encrypted(unit: Unit, relay: ScriptedRelay) -> None:
    """By the commands of the drop-in: what lies on the disk is of no use elsewhere, and the daemon gets the key."""
    unit.settings(plain(relay.port) + SIGNED_IN)
    relay.require_auth = True
    key = f"{SETTINGS}/master-key"
    await unit.machine.run("systemd-creds", "encrypt", "--name=master-key", key, f"{key}.cred")
    await unit.drop_in((ROOT / "systemd" / "drop-ins" / "credentials.conf").read_text())
    await unit.start()
    await relayed(unit)


async def test_two_daemons_on_one_postgresql(machine: Machine, relay: ScriptedRelay, newest: Postgresql) -> None:
    """Two instances of the template, each with its settings and socket: both take and relay, and each knows the other."""
    units = [Unit(machine, "notification-gateway@north"), Unit(machine, "notification-gateway@south")]
    units[0].write(f"{SETTINGS}/database-password", "not asked for")
    async with own_schema(newest) as url:
        for one in units:
            store = {f'sqlite:///{STATE}/gateway.db"': f'{url}"\npassword = {{credential = "database"}}'}
            sockets = {"/run/notification-gateway/": f"/run/notification-gateway-{one.instance}/"}
            one.settings(plain(relay.port), **store, **sockets)
        try:
            for one in units:
                await one.start()
            for one in units:
                await relayed(one)
            told = await machine.run("notification-gateway", "-c", f"{SETTINGS}/south.toml", "--", "doctor", "--json")
            users = {unit.machine.path(f"/proc/{await unit.pid()}").stat().st_uid for unit in units}
        finally:
            for one in units:
                await one.forget()

    assert len(json.loads(told)["daemons"]) == 2
    assert len(users) == 1


async def test_uninstalling_ends_instances(machine: Machine, relay: ScriptedRelay) -> None:
    """Those that run are stopped, and none that was enabled starts with the machine, whether or not it runs."""
    runs, waits = Unit(machine, "notification-gateway@north"), Unit(machine, "notification-gateway@south")
    runs.write(f"{SETTINGS}/database-password", "not asked for")
    runs.settings(plain(relay.port), **{"/run/notification-gateway/": "/run/notification-gateway-north/"})
    try:
        await machine.run("systemctl", "enable", "--now", runs.name)
        await machine.run("systemctl", "enable", waits.name)
        enabled = [await machine.run("systemctl", "is-enabled", one.name) for one in (runs, waits)]
        await machine.make("uninstall", prefix="/srv/nowhere")
        after = [await machine.run("systemctl", "is-enabled", one.name, check=False) for one in (runs, waits)]
        [state] = await runs.show("ActiveState")
    finally:
        await runs.forget()

    assert enabled == ["enabled", "enabled"]
    assert after == ["disabled", "disabled"]
    assert state == "inactive"


async def test_an_upgrade_and_the_way_back(unit: Unit, wheel: Path) -> None:
    """A venv for each wheel: the same again changes nothing, another becomes current, and a rollback brings the one before."""
    machine, prefix = unit.machine, "/srv/other"
    home = machine.path(f"{prefix}/lib/notification-gateway")
    later = wheel.parents[1] / "later" / wheel.name
    later.parent.mkdir()
    shutil.copy(wheel, later)
    with ZipFile(later, "a") as archive:
        archive.writestr("gateway/later.py", "")
    unit.write(f"{SETTINGS}/gateway.toml", "# mine\n")
    await machine.make("install", wheel, prefix)
    first = (home / "current").readlink()
    made = (home / first).stat().st_mtime_ns
    await machine.make("install", wheel, prefix)
    again = ((home / "current").readlink(), (home / first).stat().st_mtime_ns)
    await machine.make("install", later, prefix)
    upgraded = ((home / "current").readlink(), (home / "previous").readlink())
    await machine.make("rollback", prefix=prefix)
    back = ((home / "current").readlink(), (home / "previous").readlink())
    version = await machine.run(f"{prefix}/bin/notification-gateway", "--version")
    [command] = [
        line
        for line in machine.path(f"{prefix}/lib/systemd/system/notification-gateway.service").read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    await machine.make("uninstall", prefix=prefix)

    assert again == (first, made)
    assert upgraded[0] != first
    assert upgraded[1] == first
    assert back == (first, upgraded[0])
    assert "notification-gateway" in version
    assert command.startswith(f"ExecStart={prefix}/bin/notification-gateway ")
    assert next((path for path in machine.path(prefix).rglob("*") if not path.is_dir()), None) is None
    assert machine.path(f"{SETTINGS}/gateway.toml").read_text() == "# mine\n"
    assert machine.path(f"{SETTINGS}/master-key").exists()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
