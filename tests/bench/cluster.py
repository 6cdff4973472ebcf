"""Several daemons on one PostgreSQL, which is on the same disk and the same cores as they are.

Each tenant has a profile of its own, so that there are lanes to divide; its caller posts to one of the daemons, which
need not be the one that has the lane.
"""

import re
import shutil
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.bench.loadgen import Load
from tests.bench.process import Generator, Sink, Watch
from tests.bench.systems import Gateway, Route
from tests.peers.postgresql import VERSIONS, Postgresql

CALLERS = 6
STATEMENTS = re.compile(r"^notification_gateway_store_statements_total (\S+)$", re.MULTILINE)

TENANT = """\
[[tenants]]
id = "t{number}"
[[profiles]]
tenant = "t{number}"
name = "main"
is_default = true
host = "127.0.0.1"
port = {relay_port}
security = "none"
from = {{address = "noreply@example.test", name = "Example"}}
limits = {{connections = {connections}, messages_per_connection = 1000}}
[[keys]]
tenant = "t{number}"
name = "bench"
scopes = ["send", "read"]
file = "t{number}.key"
"""


class Tenants(Route):
    """The relay, as several tenants reach it."""

    def tenants(self) -> str:
        """The provisioning file."""
        connections = max(1, self.connections // CALLERS)
        return "".join(
            TENANT.format(number=number, relay_port=self.relay_port, connections=connections)
            for number in range(CALLERS)
        )


class Cluster:
    """So many daemons and their database, from nothing."""

    def __init__(self, home: Path, daemons: int, relay_port: int) -> None:
        self._home, self._stack = home, ExitStack()
        self._database = Postgresql(VERSIONS[-1], home / "postgresql")
        self._daemons = daemons
        self._relay_port = relay_port
        self.gateways: list[Gateway] = []

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._database.start()
            undo.callback(self._database.stop)
            for number in range(self._daemons):
                self.gateways.append(undo.enter_context(self._gateway(number)))
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _gateway(self, number: int) -> Gateway:
        home = self._home / f"daemon-{number}"
        home.mkdir()
        if number:
            first = self._home / "daemon-0"
            for file in (first / "master.key", *first.glob("t*.key")):
                shutil.copy(file, home)
        return Gateway(home, Tenants(self._relay_port, 12), store=self._database.url)

    def loads(self, messages: int, connections: int) -> list[Load]:
        """One caller a tenant, each at the next daemon."""
        loads = []
        for number in range(CALLERS):
            gateway = self.gateways[number % self._daemons]
            key = (self._home / "daemon-0" / f"t{number}.key").read_text().strip()
            loads.append(gateway.load(messages // CALLERS, max(1, connections // CALLERS), key=key))
        return loads

    def watch(self) -> Watch:
        """Watch the daemons and the server's processes."""
        assert self._database.process is not None
        postmaster = self._database.process.pid

        def pids() -> list[int]:
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
            return [*(gateway.pid for gateway in self.gateways), postmaster, *map(int, children)]

        return Watch(pids)

    def statements(self) -> float:
        """How many statements the daemons have sent."""
        told = 0.0
        for gateway in self.gateways:
            with urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/metrics") as answer:
                found = STATEMENTS.search(answer.read().decode())
            told += float(found[1]) if found else 0.0
        return told


def drive(home: Path, cluster: Cluster, loads: list[Load], sink: Sink, seconds: float) -> dict[str, float]:
    """Send the loads at once, and wait until the last message has arrived."""
    messages = sum(load.requests for load in loads)
    watch, before = cluster.watch(), cluster.statements()
    with ExitStack() as stack:
        generators = [stack.enter_context(Generator(home, load)) for load in loads]

        def look() -> None:
            watch.look()
            for generator in generators:
                generator.check()

        arrived = sink.wait(seconds, look)
        used = watch.used(messages)
        answers = [generator.answers() for generator in generators]
    statements = (cluster.statements() - before) / messages
    began = min(one.began for one in answers)
    return {
        "e2e": messages / (arrived - began),
        "accept": messages / (max(one.ended for one in answers) - began),
        "p50": max(one.p50 for one in answers),
        "p99": max(one.p99 for one in answers),
        "statements": statements,
        **used,
    }
