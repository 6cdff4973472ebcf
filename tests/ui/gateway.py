"""The whole daemon in this process, as its users see it, with a small world and somewhere for its mail to go.

    system ─── acme ─┬─ acme-emea
                     └─ acme-apac

`system/main` is the default of all who have none, `acme/alerts` is lent to acme-emea; both send to the mail catcher.
Each of system, acme and acme-emea has a key with scope admin.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.app import Running, daemon
from gateway.settings import load
from tests import in_process
from tests.peers.postfix import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

ADMINISTRATORS = ("system", "acme", "acme-emea")

SETTINGS = (
    in_process.SETTINGS
    + """
[metrics]
listen = []
[relay]
ehlo_name = "gateway.example.test"
drain_seconds = 5
[egress]
ports = [{catcher}]
allow = ["127.0.0.0/8"]
[mail_catcher]
listen = "127.0.0.1:{catcher}"
[provision]
files = ["tenants.toml"]
"""
)

TENANTS = """\
[[tenants]]
id = "acme"
name = "Acme"
[[tenants]]
id = "acme-emea"
name = "Acme EMEA"
parent = "acme"
[[tenants]]
id = "acme-apac"
name = "Acme APAC"
parent = "acme"
[[profiles]]
tenant = "system"
name = "main"
is_default = true
host = "127.0.0.1"
port = {catcher}
security = "none"
from = {{address = "noreply@example.test", name = "Example"}}
[[profiles]]
tenant = "acme"
name = "alerts"
host = "127.0.0.1"
port = {catcher}
security = "none"
from = {{address = "alerts@acme.example.test", name = "Acme alerts"}}
[[links]]
tenant = "acme"
profile = "alerts"
child = "acme-emea"
is_default = true
"""

KEY = """\
[[keys]]
tenant = "{tenant}"
name = "admin"
scopes = ["admin"]
file = "{tenant}.key"
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A daemon that is up; `keys` are an administrator's of each tenant, by the tenant's id."""

    url: str
    keys: Mapping[str, str]
    running: Running


@asynccontextmanager
async def running(folder: Path, extra: str = "") -> AsyncIterator[Gateway]:
    """Run a daemon whose files are in this empty folder; `extra` is appended to its settings."""
    catcher = free_port()
    keys = "".join(KEY.format(tenant=tenant) for tenant in ADMINISTRATORS)
    (folder / "tenants.toml").write_text(TENANTS.format(catcher=catcher) + keys)
    settings = folder / "gateway.toml"
    settings.write_text(SETTINGS.format(catcher=catcher) + extra)
    async with daemon(load(settings, {}), {}) as up:
        texts = {tenant: (folder / f"{tenant}.key").read_text().strip() for tenant in ADMINISTRATORS}
        yield Gateway(f"http://127.0.0.1:{up.http.port}", texts, up)
