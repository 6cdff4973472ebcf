"""What the operator's files take away when the daemon starts, and what they may not."""

from __future__ import annotations

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


async def test_a_tenant_whose_mail_waits_cannot_be_left_out(tmp_path: Path) -> None:
    """The daemon does not start, as it would not reload; put back, the tenant has its mail, and may end that."""
    one = Daemon(tmp_path, plain(1), more_tenants=SHOP)
    tenants = tmp_path / "tenants.toml"
    whole = tenants.read_text()
    await one.start()
    key = (tmp_path / "shop.key").read_text().strip()
    _, posted = await one.ask("POST", "/v1/notifications", mail("payroll"), key)
    await one.stop()

    tenants.write_text(whole.replace(SHOP, ""))
    with pytest.raises(DaemonDiedError) as died:
        await one.start()
    told = died.value.args
    tenants.write_text(whole)
    await one.start()
    status, found = await one.ask("GET", f"/v1/notifications/{posted['id']}?include=content", None, key)
    await one.ask("POST", f"/v1/notifications/{posted['id']}/cancel", None, key)
    await one.stop()
    tenants.write_text(whole.replace(SHOP, ""))
    await one.start()
    gone, _ = await one.ask("GET", "/v1/tenants/shop")
    await one.stop()

    assert (told[0], "tenant shop" in told[1], "tenant_in_use" in told[1]) == (78, True, True)
    assert (status, found["content"]["subject"], gone) == (200, "payroll", 404)


async def test_a_name_that_comes_back_has_none_of_the_mail_it_had(tmp_path: Path) -> None:
    """Whoever was given a tenant's name anew by the files finds nothing of the one before, finished mail included."""
    one = Daemon(tmp_path, plain(1), more_tenants=SHOP)
    tenants = tmp_path / "tenants.toml"
    whole = tenants.read_text()
    await one.start()
    key = (tmp_path / "shop.key").read_text().strip()
    _, posted = await one.ask("POST", "/v1/notifications", mail("payroll"), key)
    await one.ask("POST", f"/v1/notifications/{posted['id']}/cancel", None, key)
    await one.stop()

    listed = []
    for text in (whole, whole.replace(SHOP, ""), whole):
        tenants.write_text(text)
        await one.start()
        listed.append(len((await one.ask("GET", "/v1/notifications?limit=5"))[1]["items"]))
        await one.stop()
    assert listed == [1, 0, 0]
