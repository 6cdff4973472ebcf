"""What `make run` adds: a first notification through the daemon itself, its journey, the way in, and a `curl`."""

import asyncio
import json
from typing import Any

import aiohttp
import click

from gateway.app import Running
from gateway.settings import Demo

PATIENCE = 100  # looks, a tenth of a second apart
_background: set["asyncio.Task[None]"] = set()


def demonstrate(running: Running) -> None:
    """Start the demonstration, if the settings ask for one."""
    if running.settings.demo is not None:
        task = asyncio.get_running_loop().create_task(_demonstrate(running, running.settings.demo))
        _background.add(task)
        task.add_done_callback(_background.discard)


async def _demonstrate(running: Running, demo: Demo) -> None:
    base = f"http://127.0.0.1:{running.http.port}"
    key = demo.key_file.read_text().strip()
    body = {
        "to": [demo.to],
        "subject": "The gateway works",
        "text": "This is the first notification. It was accepted, stored, relayed and caught.",
        "category": "demo.first",
    }
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        async with session.post(f"{base}/v1/notifications", json=body) as response:
            accepted = await response.json()
        if response.status != 202:
            click.echo(f"the first notification was refused: {accepted.get('code')}", err=True)
            return
        click.echo(f"accepted  {accepted['id']}")
        told = await _journey(session, base + accepted["href"])
    _tell(running, told)
    click.echo(f"\nthe pages:        {await _sign_in_link(running)}  (signs in once, within five minutes)")
    click.echo(f"the API:          {base}/docs\nan API key:       {key}\n\nthe next one:\n")
    example = json.dumps({"to": [demo.to], "subject": "Hello", "text": "Sent with curl."})
    click.echo(
        f"  curl -i {base}/v1/notifications \\\n    -H 'Authorization: Bearer {key}' \\\n"
        f"    -H 'Content-Type: application/json' \\\n    -d '{example}'\n"
    )


async def _journey(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for _ in range(PATIENCE):
        async with session.get(url) as response:
            told = await response.json()
        if told["status"] not in ("queued", "sending"):
            break
        await asyncio.sleep(0.1)
    return told


def _tell(running: Running, told: dict[str, Any]) -> None:
    for recipient in told["recipients"]:
        reply = recipient.get("reply") or {}
        words = " ".join(str(reply[name]) for name in ("code", "enhanced", "text") if reply.get(name))
        click.echo(f"{told['status']:9} to {recipient['address']}: {words}")
    if running.catcher is not None:
        for mail in running.catcher.messages()[:1]:
            click.echo(f"caught    message {mail.number} from {mail.sender}, {len(mail.data)} octets")


async def _sign_in_link(running: Running) -> str:
    socket = aiohttp.UnixConnector(str(running.settings.admin.socket))
    async with (
        aiohttp.ClientSession(connector=socket) as session,
        session.post("http://daemon/v1/sign-in-links") as response,
    ):
        link: str = (await response.json())["url"]
        return link
