"""What the operator's files take away when the daemon starts, and what they may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.process.daemon import Daemon, DaemonDiedError, mail, plain

if TYPE_CHECKING:
    from pathlib import Path

SHOP = """\
[[tenants]]
id = "shop"
[[profiles]]
tenant = "shop"
name = "main"
is_default = true
host = "127.0.0.1"
port = 1
security = "none"
from = "noreply@shop.example.test"
[[keys]]
tenant = "shop"
name = "app"
scopes = ["admin"]
file = "shop.key"
"""


@dataclass
class Shop:
    """A daemon whose files have a shop, the shop's key, and a mail of its that waits."""

    daemon: Daemon
    key: str
    mail: str

    async def restart(self, *, without: bool) -> None:
        """Start the daemon anew, with the shop in its files or without it."""
        await self.daemon.stop()
        files = self.daemon.folder / "tenants.toml"
        rest = files.read_text().replace(SHOP, "")
        files.write_text(rest if without else rest + SHOP)
        await self.daemon.start()


async def opened(folder: Path) -> Shop:
    """Start a daemon with a shop, and post the shop's mail."""
    daemon = await Daemon(folder, plain(1), more_tenants=SHOP).start()
    key = (folder / "shop.key").read_text().strip()
    _, posted = await daemon.ask("POST", "/v1/notifications", mail("payroll"), key)
    return Shop(daemon, key, f"/v1/notifications/{posted['id']}")


async def test_a_tenant_whose_mail_waits_cannot_be_left_out(tmp_path: Path) -> None:
    """The daemon does not start, as it would not reload; put back, the tenant has its mail, and may end that."""
    shop = await opened(tmp_path)
    with pytest.raises(DaemonDiedError) as died:
        await shop.restart(without=True)
    await shop.restart(without=False)
    status, found = await shop.daemon.ask("GET", f"{shop.mail}?include=content", None, shop.key)
    await shop.daemon.ask("POST", f"{shop.mail}/cancel", None, shop.key)
    await shop.restart(without=True)
    gone, _ = await shop.daemon.ask("GET", "/v1/tenants/shop")
    await shop.daemon.stop()

    code, said = died.value.args
    assert (code, "tenant shop" in said, "tenant_in_use" in said) == (78, True, True)
    assert (status, found["content"]["subject"], gone) == (200, "payroll", 404)


async def test_a_name_that_comes_back_has_none_of_the_mail_it_had(tmp_path: Path) -> None:
    """Whoever was given a tenant's name anew by the files finds nothing of the one before, finished mail included."""
    shop = await opened(tmp_path)
    await shop.daemon.ask("POST", f"{shop.mail}/cancel", None, shop.key)
    listed = []
    for without in (False, True, False):
        await shop.restart(without=without)
        listed.append(len((await shop.daemon.ask("GET", "/v1/notifications?limit=5"))[1]["items"]))
    await shop.daemon.stop()
    assert listed == [1, 0, 0]
