"""Secrets: what one costs that is in the cache, a thousand that are wanted at once, and a store that hangs.

Run as `python -m tests.bench.secrets cached|stampede`, which prints figures as JSON, or as `… hang`: a Vault that
answers no read, which prints its address, and a line as soon as six reads hang.
"""

import asyncio
import http.client
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import uvloop

from gateway.credentials.cache import Line
from gateway.credentials.connections import Connection, Connections, made
from gateway.credentials.credentials import Credentials
from gateway.credentials.provider import CredentialError, Fetched, Provider
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal
from gateway.credentials.secret import Secret
from gateway.settings import VaultConnection
from tests.bench.process import PATIENCE, Child, module
from tests.bench.systems import PATH, Gateway, Route
from tests.peers.vault_server import FakeVault, Issued

HUNG = 6
PROFILES = 1_000
TOKEN = "bench-token"
LAPS = 20
USES = 5_000
SETTINGS = {
    "kind": "vault", "url": "https://vault.example", "allow": {"acme": ["smtp/acme"]},
    "auth": {"method": "token", "token": {"env": "TOKEN"}},
}  # fmt: skip
REFERENCE = Credential(source="vault", connection="corp", key="smtp/acme/relay", username_property="username")


class _Source:
    async def fetch(self, _key: str, _version: str | None) -> Fetched:
        return Fetched({"password": Secret("x"), "username": Secret("app")}, "1")

    async def close(self) -> None:
        """Nothing is held."""


class _Counted:
    """A provider whose fetches are counted, and how many there were at once."""

    def __init__(self, inner: Provider) -> None:
        self._inner = inner
        self.calls = self.at_once = self.most_at_once = 0

    async def fetch(self, key: str, version: str | None) -> Fetched:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return await self._inner.fetch(key, version)
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        await self._inner.close()


def _credentials(connections: Connections) -> Credentials:
    return Credentials(Seal([bytes(32)]), lambda _tenant, _name: None, connections=connections)


async def cached() -> dict[str, float]:
    """Microseconds a use, the median of some laps: leave asked for, user name and password picked."""
    settings = VaultConnection.model_validate(SETTINGS)
    connection = Connection("corp", settings, lambda _settings: _Source(), Line(time.monotonic))
    credentials = _credentials(Connections({"corp": connection}))
    laps = []
    for _ in range(LAPS):
        began = time.perf_counter()
        for _ in range(USES):
            await credentials.find("acme", "relay.example", (), REFERENCE)
        laps.append((time.perf_counter() - began) * 1e6 / USES)
    return {"us": median(laps)}


async def stampede() -> dict[str, float]:
    """A thousand profiles, each with a secret of its own in one Vault, all at once: seconds, and what Vault saw of it.

    Whoever is told that it takes too long asks again, as mail that waits does.
    """
    async with FakeVault() as vault:
        vault.tokens[TOKEN] = Issued(renewable=False)
        keys = [f"smtp/acme/{number}" for number in range(PROFILES)]
        for key in keys:
            await vault.put(key, {"password": key})
        settings = VaultConnection.model_validate({**SETTINGS, "url": vault.url})
        connections = made({"corp": settings}, {"TOKEN": TOKEN}, time.monotonic)
        connection = connections.by_name["corp"]
        counted = _Counted(connection.provider)
        credentials = _credentials(
            Connections({"corp": Connection("corp", settings, lambda _: counted, connection.line)})
        )

        async def fetched(key: str) -> None:
            wanted = Credential(source="vault", connection="corp", key=key)
            while True:
                try:
                    await credentials.find("acme", "relay.example", (), wanted)
                except CredentialError:
                    await asyncio.sleep(0.1)
                else:
                    return

        began = time.monotonic()
        await asyncio.gather(*map(fetched, keys))
        seconds = time.monotonic() - began
        reads = sum(one.path.startswith("/v1/secret/data/") for one in vault.asked)
        await connections.close()
    return {"seconds": seconds, "calls": counted.calls, "reads": reads, "at_once": counted.most_at_once}


async def hang() -> None:
    """Be a Vault that answers no read."""
    async with FakeVault() as vault:
        vault.tokens[TOKEN] = Issued(renewable=False)
        vault.gate.clear()
        print(vault.url, flush=True)
        await vault.wait_until_asked(HUNG)
        print("hung", flush=True)
        await asyncio.Event().wait()


class HangingVault(Child):
    """Such a Vault, in a process of its own."""

    def __init__(self, home: Path) -> None:
        super().__init__(module("tests.bench.secrets", "hang"), home / "vault.log")

    def lines(self, count: int) -> Sequence[str]:
        """What it printed, as soon as it is so much."""
        deadline = time.monotonic() + PATIENCE
        while len(lines := self.output.read_text().splitlines()) < count:
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"the Vault does not get so far: {self.tail()}")
            time.sleep(0.01)
        return lines


class VaultGateway(Gateway):
    """Our daemon with six profiles more, whose passwords are in a Vault."""

    def __init__(self, home: Path, route: Route, vault_url: str) -> None:
        super().__init__(home, route)
        self._settings = home / "gateway.toml"
        (home / "token").write_text(TOKEN)
        told = self._settings.read_text().replace("[egress]", '[egress]\nplaintext_auth = ["127.0.0.1"]')
        self._settings.write_text(
            f"""{told}
[connections.corp]
kind = "vault"
url = "{vault_url}"
auth = {{method = "token", token = {{file = "{home / "token"}"}}}}
allow = {{acme = ["smtp/acme"]}}
"""
        )
        profiles = (
            f"""
[[profiles]]
tenant = "acme"
name = "vault{number}"
host = "127.0.0.1"
port = {route.relay_port}
security = "none"
from = {{address = "noreply@example.test"}}
auth = {{username = "app-{number}", credential = {{source = "vault", connection = "corp", key = "smtp/acme/{number}"}}}}
"""
            for number in range(HUNG)
        )
        tenants = home / "tenants.toml"
        tenants.write_text(tenants.read_text() + "".join(profiles))

    def want_all(self) -> None:
        """Post a notification to each of these profiles."""
        headers = {**self.load(1, 1).headers, "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        for number in range(HUNG):
            body = {"to": ["ann@example.test"], "subject": "x", "text": "x", "profile": f"vault{number}"}
            connection.request("POST", PATH, json.dumps(body), headers)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status != 202:
                raise RuntimeError(f"refused: {told!r}")

    def in_flight(self) -> int:
        """How many fetches of secrets are under way, as the daemon's own metric tells."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        told = connection.getresponse().read().decode()
        wanted = 'notification_gateway_secret_fetches_in_flight{connection="corp"} '
        return sum(int(float(line.removeprefix(wanted))) for line in told.splitlines() if line.startswith(wanted))

    @property
    def metrics_port(self) -> int:
        """Where the metrics are."""
        _, _, told = self._settings.read_text().partition("[metrics]")
        return int(told.partition(":")[2].partition('"')[0])


def main() -> None:
    """Do what the command line says."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        match sys.argv[1:]:
            case ["cached"]:
                print(json.dumps(runner.run(cached())))
            case ["stampede"]:
                print(json.dumps(runner.run(stampede())))
            case ["hang"]:
                runner.run(hang())
            case _:
                raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
