"""A secret that the operator lends no more, on a real daemon: its mail waits, and the audit log says so once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.process.daemon import mail, plain
from tests.process.engines import on_both_engines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]

LENT = '[local_secrets]\nenv = ["SMTP_*"]\nallow = {acme = ["SMTP_ACME"]}\n'
ENVIRON = {"SMTP_ACME": "canary-4e1"}
PROFILE = {
    "name": "late", "host": "127.0.0.1", "port": 2525, "security": "none", "from": "a@acme.example",
    "auth": {"username": "app", "credential": {"source": "env", "key": "SMTP_ACME"}},
}  # fmt: skip


@on_both_engines
async def test_mail_that_waits_for_a_denied_secret_is_one_row(install: Install) -> None:
    """However many notifications want it, and however often somebody asks why."""
    daemon = install(plain(2526), more_settings=LENT)
    await daemon.start(environ=ENVIRON)
    made, _ = await daemon.ask("POST", "/v1/tenants/acme/profiles", PROFILE)
    await daemon.stop()
    settings = daemon.folder / "gateway.toml"
    settings.write_text(settings.read_text().replace(LENT, ""))
    await daemon.start(environ=ENVIRON)
    async with daemon.client() as client, asyncio.timeout(30):
        for number in range(20):
            status, _, _ = await client.post({**mail(str(number)), "profile": "late"})
            assert status == 202
        while "secret_denied" not in daemon.log:
            await asyncio.sleep(0.05)
    for _ in range(3):
        _, told = await daemon.ask("POST", "/v1/tenants/acme/profiles/late/credential/refresh")
        assert told["error"]["kind"] == "policy"
    _, audit = await daemon.ask("GET", "/v1/tenants/system/audit")

    assert made == 201
    assert [(row["actor"], row["object"]) for row in audit["items"] if row["action"] == "secret.deny"] == [
        ("gateway", "acme/late")
    ]
