"""What one writes first: an HTTP handler that sends the mail before it answers. No queue, no retry, nothing kept.

Run as `python -m tests.bench.naive PORT RELAY_PORT`.
"""

import sys
from email.message import EmailMessage
from email.policy import SMTP

import aiosmtplib
import uvloop
from aiohttp import web


def handler(relay_port: int) -> web.Application:
    """An application that relays every notification to a port of this machine."""

    async def accept(request: web.Request) -> web.Response:
        asked = await request.json()
        message = EmailMessage(policy=SMTP)
        message["From"] = "noreply@example.test"
        message["To"] = ", ".join(asked["to"])
        message["Subject"] = asked["subject"]
        message.set_content(asked["text"])
        await aiosmtplib.send(message, hostname="127.0.0.1", port=relay_port, start_tls=False)
        return web.json_response({"status": "relayed"}, status=202)

    application = web.Application()
    application.router.add_post("/v1/notifications", accept)
    return application


def main() -> None:
    """Serve until killed."""
    port, relay_port = map(int, sys.argv[1:])
    web.run_app(
        handler(relay_port), host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop()
    )


if __name__ == "__main__":
    main()
