"""What a secret costs that is in the cache: leave asked for, user name and password picked. Prints microseconds as JSON.

Run as `python -m tests.bench.secrets`.
"""

import asyncio
import json
import time
from statistics import median

import uvloop

from gateway.credentials.cache import Line
from gateway.credentials.connections import Connection, Connections
from gateway.credentials.credentials import Credentials
from gateway.credentials.provider import Fetched
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal
from gateway.credentials.secret import Secret
from gateway.settings import VaultConnection

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


async def measure() -> float:
    """Microseconds a use, the median of some laps."""
    settings = VaultConnection.model_validate(SETTINGS)
    connection = Connection("corp", settings, lambda _settings: _Source(), Line(time.monotonic))
    credentials = Credentials(
        Seal([bytes(32)]), lambda _tenant, _name: None, connections=Connections({"corp": connection})
    )
    laps = []
    for _ in range(LAPS):
        began = time.perf_counter()
        for _ in range(USES):
            await credentials.find("acme", "relay.example", (), REFERENCE)
        laps.append((time.perf_counter() - began) * 1e6 / USES)
    return median(laps)


def main() -> None:
    """Print the figure."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps({"us": runner.run(measure())}))


if __name__ == "__main__":
    main()
