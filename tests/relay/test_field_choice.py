"""Fields of a profile that act before there is a session: asked over HTTP of the daemon, and seen at its relays."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.app import Running, daemon
from gateway.directory.changes import OPERATOR
from gateway.directory.presets import PRESETS
from gateway.settings import load
from tests import in_process
from tests.peers.scripted_proxy import ScriptedProxy
from tests.peers.smtp_server import Features, Hold, ScriptedRelay, issue_tls
from tests.relay.world import reaches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SETTINGS = f"""{in_process.SETTINGS}
[metrics]
listen = []
[relay]
drain_seconds = 1
[egress]
allow = ["127.0.0.0/8"]
"""
BOSS = "boss@acme.example"


@dataclass
class Api:
    """A running daemon, to be asked as its operator."""

    running: Running
    session: aiohttp.ClientSession

    async def call(self, method: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Ask; the status and the answer."""
        async with self.session.request(method, path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def profile(self, name: str, relay: ScriptedRelay | None, tenant: str = "acme", **fields: Any) -> None:
        """Save a profile that sends From its name: in clear to a relay, or with None to where its other fields say."""
        where = {} if relay is None else {"host": relay.host, "port": relay.port, "security": "none"}
        whole = {"name": name, "from": f"{name}@{tenant}.example", **where, **fields}
        status, told = await self.call("POST", f"/v1/tenants/{tenant}/profiles", **whole)
        assert status == 201, told

    async def change(self, name: str, tenant: str = "acme", **fields: Any) -> None:
        """Change a profile."""
        status, told = await self.call("PATCH", f"/v1/tenants/{tenant}/profiles/{name}", **fields)
        assert status == 200, told

    async def post(self, tenant: str = "acme", **fields: Any) -> str | None:
        """Post a notification; None if it is accepted, else the code of the problem, or of its one fault."""
        whole = {"to": ["ann@example.test"], "subject": "hello", "text": "text", **fields}
        if "sender" in whole:
            whole["from"] = whole.pop("sender")
        status, told = await self.call("POST", "/v1/notifications", tenant=tenant, **whole)
        if status == 202:
            return None
        code: str = told["errors"][0]["code"] if told.get("errors") else told["code"]
        return code


@asynccontextmanager
async def gateway(folder: Path, more: str = "") -> AsyncIterator[Api]:
    """Run the daemon with tenants acme and zoo, and with these settings besides."""
    path = folder / "gateway.toml"
    path.write_text(SETTINGS + more)
    async with daemon(load(path, {}), {}) as running:
        _, key = await running.directory.create_key(OPERATOR, "system", "operator", ["admin"])
        url, headers = f"http://127.0.0.1:{running.http.port}", {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession(url, headers=headers) as session:
            api = Api(running, session)
            for tenant in ("acme", "zoo"):
                status, told = await api.call("POST", "/v1/tenants", id=tenant)
                assert status == 201, told
            yield api


def senders(relay: ScriptedRelay) -> list[str]:
    """From whom the relay took mail, in its order."""
    return [caught.mail_from for caught in relay.messages]


@reaches("name")
async def test_name(tmp_path: Path) -> None:
    """Mail for which a name is asked comes from the profile of that name, and for an unknown one from nobody."""
    async with ScriptedRelay() as one, ScriptedRelay(host="127.0.0.2") as two, gateway(tmp_path) as api:
        await api.profile("one", one, is_default=True)
        await api.profile("two", two)
        codes = [await api.post(profile=name) for name in ("two", "three", "one")]
        await one.wait_messages(1)
        await two.wait_messages(1)

    assert codes == [None, "no_profile", None]
    assert (senders(one), senders(two)) == (["one@acme.example"], ["two@acme.example"])


@reaches("is_default")
async def test_is_default(tmp_path: Path) -> None:
    """Mail that names no profile comes to the relay of the default one, and to the other's once that is it."""
    async with ScriptedRelay() as one, ScriptedRelay(host="127.0.0.2") as two, gateway(tmp_path) as api:
        await api.profile("one", one, is_default=True)
        await api.profile("two", two)
        await api.post()
        await one.wait_messages(1)
        await api.change("one", is_default=False)
        nobody = await api.post()
        await api.change("two", is_default=True)
        await api.post()
        await two.wait_messages(1)

    assert nobody == "no_profile"
    assert (senders(one), senders(two)) == (["one@acme.example"], ["two@acme.example"])


@reaches("enabled")
async def test_enabled(tmp_path: Path) -> None:
    """While the tenant's default is switched off mail comes to the relay of the one above it, and then to its own."""
    async with ScriptedRelay() as own, ScriptedRelay() as above, gateway(tmp_path) as api:
        await api.profile("shared", above, "system", is_default=True)
        await api.profile("own", own, is_default=True, enabled=False)
        refused = await api.post(profile="own")
        await api.post()
        await above.wait_messages(1)
        before = list(own.sessions)
        await api.change("own", enabled=True)
        await api.post()
        await own.wait_messages(1)

    assert (refused, before) == ("no_profile", [])
    assert (senders(own), senders(above)) == (["own@acme.example"], ["shared@system.example"])


@reaches("to")
async def test_to(tmp_path: Path) -> None:
    """Mail for nobody has the profile's recipients in RCPT and header; without any it is refused, and not sent."""
    desks = ["desk@acme.example", {"name": "Night", "address": "night@acme.example"}]
    async with ScriptedRelay() as relay, gateway(tmp_path) as api:
        await api.profile("main", relay, is_default=True, to=desks)
        await api.profile("main", relay, "zoo", is_default=True)
        codes = [await api.post("zoo", to=[]), await api.post("acme", to=[]), await api.post("acme")]
        nobody, named = sorted(await relay.wait_messages(2), key=lambda caught: len(caught.rcpt_tos), reverse=True)

    assert codes == ["no_recipient", None, None]
    assert nobody.rcpt_tos == ("desk@acme.example", "night@acme.example")
    assert b"\r\nTo: desk@acme.example, Night <night@acme.example>\r\n" in nobody.data
    assert named.rcpt_tos == ("ann@example.test",)


@reaches("allowed_senders")
@pytest.mark.parametrize("pattern", [BOSS, "*@acme.example"])
async def test_allowed_senders(tmp_path: Path, pattern: str) -> None:
    """Mail From an address that is allowed has it in MAIL; where it is not allowed it is refused, and not sent."""
    async with ScriptedRelay() as relay, gateway(tmp_path) as api:
        await api.profile("main", relay, is_default=True, allowed_senders=[pattern])
        await api.profile("main", relay, "zoo", is_default=True)
        codes = [await api.post(tenant, sender=BOSS) for tenant in ("zoo", "acme")]
        await relay.wait_messages(1)
        await api.post("zoo")
        await relay.wait_messages(2)

    assert codes == ["sender_not_allowed", None]
    assert senders(relay) == [BOSS, "main@zoo.example"]


@reaches("allowed_senders")
async def test_allowed_senders_of_waiting_mail(tmp_path: Path) -> None:
    """Leave that is taken back while mail waits counts: of that mail nothing is seen, of the profile's own all."""
    async with ScriptedRelay() as relay, gateway(tmp_path) as api:
        await api.profile("main", relay, is_default=True, allowed_senders=[BOSS])
        await api.call("POST", "/v1/tenants/acme/profiles/main/pause")
        accepted = [await api.post(sender=BOSS)]
        await api.change("main", allowed_senders=[])
        accepted += [await api.post()]
        await api.call("POST", "/v1/tenants/acme/profiles/main/resume")
        await relay.wait_messages(1)

    assert (accepted, senders(relay)) == ([None, None], ["main@acme.example"])


@reaches("force_sender")
async def test_force_sender(tmp_path: Path) -> None:
    """Mail From another address is refused by a profile that forces its own, and not sent; elsewhere MAIL has it."""
    async with ScriptedRelay() as relay, gateway(tmp_path) as api:
        await api.profile("main", relay, is_default=True, allowed_senders=[BOSS], force_sender=True)
        await api.profile("main", relay, "zoo", is_default=True, allowed_senders=[BOSS])
        codes = [await api.post(tenant, sender=BOSS) for tenant in ("acme", "zoo")]
        await relay.wait_messages(1)
        await api.post("acme")
        await relay.wait_messages(2)

    assert codes == ["sender_forced", None]
    assert senders(relay) == [BOSS, "main@acme.example"]


@reaches("preset")
async def test_preset_fills_where_to(tmp_path: Path) -> None:
    """A proxy is asked for host and port of each preset, and behind it TLS is begun, or not, as it says."""
    tls = issue_tls("nobody.test")
    names = [name for name in PRESETS if name != "generic"]
    async with ScriptedRelay(tls=tls.context) as relay, ScriptedProxy("http_connect", leads_to=relay.port) as proxy:
        way = (
            f'[connectors.way]\nkind = "http_connect"\naddress = "127.0.0.1:{proxy.port}"\nremote_dns = true\n'
            'allow = ["*"]\ntargets = ["0.0.0.0/0"]\n'
        )
        async with gateway(tmp_path, way) as api:
            for number, name in enumerate(names, 1):
                await api.profile(name, None, preset=name, connector="way")
                await api.post(profile=name)
                await relay.wait(lambda so_far=number: len(relay.sessions) == so_far and begun(relay))
    said = [session.verbs[1] for session in relay.sessions]

    assert proxy.asked == [f"{PRESETS[name]['host']}:{PRESETS[name]['port']}" for name in names]
    assert said == [{"starttls": "STARTTLS", "none": "MAIL"}[PRESETS[name]["security"]] for name in names]


def begun(relay: ScriptedRelay) -> bool:
    """Has the last session come beyond its greeting?"""
    return len(relay.sessions[-1].verbs) > 1


@reaches("preset")
async def test_preset_fills_limits(tmp_path: Path) -> None:
    """Eight sessions are open at once with what `postfix` adds, and four without it."""
    go = asyncio.Event()
    async with ScriptedRelay(features=Features(pipelining=False)) as relay, gateway(tmp_path) as api:
        holding = relay.on("final", Hold(go))
        await api.profile("main", relay, is_default=True, preset="postfix")
        await api.profile("main", relay, "zoo", is_default=True)
        for tenant in ("acme", "zoo"):
            await api.call("POST", f"/v1/tenants/{tenant}/profiles/main/pause")
            for _ in range(10):
                await api.post(tenant)
            await api.call("POST", f"/v1/tenants/{tenant}/profiles/main/resume")
        await relay.wait(lambda: holding.hits == 12)
        go.set()
        caught = await relay.wait_messages(20)
    used = {(one.mail_from, one.session_index) for one in caught}

    assert Counter(sender for sender, _ in used) == {"main@acme.example": 8, "main@zoo.example": 4}
