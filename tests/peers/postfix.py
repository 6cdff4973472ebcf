"""A private Postfix and its sinks: the relay of the real world, without touching the one of this machine.

`PostfixRelay` is a complete instance in a directory of its own: a submission service on free loopback ports that
insists on TLS and AUTH (Cyrus SASL over an own sasldb, or a Dovecot's) and forwards everything to a sink. `SmtpSink` is
Postfix's own test server. Both start and end only processes of their own.

Needs root, since Postfix changes users: `require("postfix as root", postfix_available())`.

    async with SmtpSink(dump=True) as sink:
        with PostfixRelay(sink.port, users={"app": "s3cret"}) as relay:
            ...                                   # submit to relay.host, relay.port, trusting relay.ca_pem
            await sink.wait_messages(1)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from itertools import starmap
from pathlib import Path
from typing import Self

from tests.peers.smtp_server import issue_tls

_HOST = "127.0.0.1"
_REALM = "relay.test"
_START_SECONDS = 20.0
_PATIENCE = 0.02
_DICE = random.SystemRandom()  # the usual dice are seeded by some tests, and fall alike in all workers then
_COUNTER = re.compile(rb"mesg=(\d+)")
_TOOLS = ("postfix", "saslpasswd2")
_DAEMONS = Path("/usr/lib/postfix/sbin")


def free_port(*avoid: int) -> int:
    """A loopback port that was free a moment ago, and none of these.

    It lies below those that the kernel gives to whoever connects somewhere: one of these would soon be somebody's.
    """
    while True:
        port = _DICE.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            if port not in avoid:
                return port


def smtp_sink_available() -> bool:
    """Whether `SmtpSink` can run here."""
    return _find("smtp-sink") is not None


def postfix_available() -> bool:
    """Whether `PostfixRelay` can run here."""
    return os.geteuid() == 0 and all(map(_find, _TOOLS)) and (_DAEMONS / "master").exists()


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _tool(name: str) -> str:
    path = _find(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


class SmtpSink:
    """`smtp-sink` on a free port; with `dump` it keeps the messages, not only their number.

    `options` are more of its own: `-e` no ESMTP, `-r data` or `-B "550 no" -f rcpt` refusals, `-w 2` slow.
    """

    def __init__(self, *options: str, dump: bool = False, port: int = 0) -> None:
        self.host, self.port = _HOST, port or free_port()
        self.count = 0
        self._options, self._dump = options, dump
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="smtp-sink-")
        command = [_tool("smtp-sink"), "-c", *self._options]
        if self._dump:
            command += ["-d", f"{self._directory.name}/%Y%m%d%H%M%S."]
        if os.geteuid() == 0:
            shutil.chown(self._directory.name, "nobody")
            command += ["-u", "nobody"]
        self._process = await asyncio.create_subprocess_exec(
            *command, f"{self.host}:{self.port}", "1000", stdout=asyncio.subprocess.PIPE
        )
        self._reading = asyncio.create_task(self._read_counters(self._process))
        try:
            await self._listening(self._process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
        if self._directory is not None:
            self._directory.cleanup()

    async def wait_messages(self, count: int, timeout: float = 20.0) -> None:
        """Wait until the sink has taken at least `count` messages."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self.count >= count)
        except TimeoutError:
            raise TimeoutError(f"{self.count} of {count} messages within {timeout} s") from None

    def messages(self) -> list[bytes]:
        """The messages so far, in the order of their arrival, LF lines, headed by the sink's own X- fields."""
        if self._directory is None or not self._dump:
            raise RuntimeError("the sink was not told to dump")
        files = sorted(Path(self._directory.name).iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes() for file in files]

    async def _read_counters(self, process: asyncio.subprocess.Process) -> None:
        """`-c` prints `sess=1 quit=1 mesg=1` and a bare CR after every message."""
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.read(65536):
            *counters, rest = (rest + chunk).split(b"\r")
            found = _COUNTER.search(counters[-1]) if counters else None
            if found:
                async with self._changed:
                    self.count = int(found[1])
                    self._changed.notify_all()

    async def _listening(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(_START_SECONDS):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection(self.host, self.port)
                except ConnectionRefusedError:
                    await asyncio.sleep(_PATIENCE)  # it says nothing when it is ready
                else:
                    writer.transport.abort()
                    return
        raise RuntimeError(f"smtp-sink ended with {process.returncode}")


class PostfixRelay:
    """A Postfix of one's own: `with PostfixRelay(sink_port) as relay`, STARTTLS on `port`, implicit TLS on `tls_port`.

    `users` are the SASL accounts, unless `sasl_socket` is that of a Dovecot with accounts of its own; `settings` are
    added to its main.cf and win. `services` are further STARTTLS services, each with settings of its own; `ports` tells
    where they are. Starting and stopping block for about a second each, so tests share one instance per module, with a
    sink on a port that is known beforehand (`ScriptedRelay(port=…)`, `SmtpSink(port=…)`).
    """

    def __init__(
        self,
        sink_port: int,
        *,
        users: Mapping[str, str] = {"app": "s3cret"},
        settings: Mapping[str, str] | None = None,
        services: Mapping[str, Mapping[str, str]] | None = None,
        sasl_socket: Path | None = None,
    ) -> None:
        self.host, self.port, self.sink_port = _HOST, free_port(sink_port), sink_port
        self.tls_port = free_port(sink_port, self.port)
        self.ports: dict[str, int] = {}
        for name in services or {}:
            self.ports[name] = free_port(sink_port, self.port, self.tls_port, *self.ports.values())
        self.users = dict(users)
        self.ca_pem = ""
        self._settings = dict(settings or {})
        self._services = dict(services or {})
        self._sasl_socket = sasl_socket
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._home = Path()

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="postfix-", ignore_cleanup_errors=True)
        self._home = Path(self._directory.name)
        self._home.chmod(0o755)  # the daemons run as user postfix
        try:
            self._configure()
            self._postfix("start")
            self._wait_for_banner()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._directory is not None
        if self.processes():
            self._postfix("stop", check=False)
        self._kill_survivors()
        self._directory.cleanup()

    def log(self) -> str:
        """What Postfix logged so far."""
        file = self._home / "log" / "postfix.log"
        return file.read_text(errors="replace") if file.exists() else ""

    # Configuration.

    def _configure(self) -> None:
        for name in ("etc", "etc/sasl", "queue", "data", "log"):
            (self._home / name).mkdir(mode=0o755)
        shutil.chown(self._home / "data", "postfix")
        self._write_certificate()
        self._write_accounts()
        settings = self._main_settings() | self._sasl_settings() | self._settings
        main = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self._home / "etc" / "main.cf").write_text(main)
        services = [
            (self.port, {}),
            (self.tls_port, {"smtpd_tls_wrappermode": "yes"}),
            *((self.ports[name], own) for name, own in self._services.items()),
        ]
        (self._home / "etc" / "master.cf").write_text("".join(starmap(self._service, services)) + _MASTER)

    def _service(self, port: int, settings: Mapping[str, str]) -> str:
        own = "".join(f"\n  -o {{ {name} = {value} }}" for name, value in settings.items())
        return f"{self.host}:{port}  inet  n  -  n  -  -  smtpd{own}\n"

    def _write_certificate(self) -> None:
        issued = issue_tls("localhost", self.host)
        self.ca_pem = issued.ca_pem
        key = self._home / "etc" / "key.pem"
        key.touch(mode=0o600)
        key.write_text(issued.key_pem)
        (self._home / "etc" / "chain.pem").write_text(issued.chain_pem)

    def _write_accounts(self) -> None:
        database = self._home / "etc" / "sasl" / "sasldb2"
        (self._home / "etc" / "sasl" / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {database}\nmech_list: PLAIN LOGIN\n"
        )
        for username, password in self.users.items():
            command = [_tool("saslpasswd2"), "-c", "-p", "-f", str(database), "-u", _REALM, username]
            subprocess.run(command, input=password.encode(), check=True, timeout=_START_SECONDS)
        if database.exists():
            shutil.chown(database, "root", "postfix")
            database.chmod(0o640)

    def _main_settings(self) -> dict[str, str]:
        home = self._home
        return {
            "compatibility_level": "3.6",
            "queue_directory": f"{home}/queue",
            "data_directory": f"{home}/data",
            "command_directory": "/usr/sbin",
            "daemon_directory": str(_DAEMONS),
            "maillog_file": f"{home}/log/postfix.log",
            "maillog_file_prefixes": f"{home}/log",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": _REALM,
            "mydestination": "",
            "alias_maps": "",
            "local_recipient_maps": "",
            "inet_interfaces": self.host,
            "inet_protocols": "ipv4",
            "mynetworks": "",
            "disable_dns_lookups": "yes",
            "smtp_host_lookup": "native",
            "relayhost": f"[{_HOST}]:{self.sink_port}",
            "smtp_tls_security_level": "none",
            "smtpd_tls_security_level": "encrypt",
            "smtpd_tls_auth_only": "yes",
            "smtpd_tls_cert_file": f"{home}/etc/chain.pem",
            "smtpd_tls_key_file": f"{home}/etc/key.pem",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_security_options": "noanonymous",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_error_sleep_time": "0",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_peername_lookup": "no",
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "4s",
            "queue_run_delay": "2s",
        }

    def _sasl_settings(self) -> dict[str, str]:
        if self._sasl_socket is not None:
            return {"smtpd_sasl_type": "dovecot", "smtpd_sasl_path": str(self._sasl_socket)}
        return {
            "smtpd_sasl_type": "cyrus",
            "smtpd_sasl_path": "smtpd",
            "smtpd_sasl_local_domain": _REALM,
            "cyrus_sasl_config_path": f"{self._home}/etc/sasl",  # where Debian's looks anyway
        }

    # Processes.

    def _postfix(self, command: str, *, check: bool = True) -> None:
        done = subprocess.run(
            [_tool("postfix"), "-c", str(self._home / "etc"), command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_START_SECONDS,
            check=False, text=True,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"postfix {command} ended with {done.returncode}:\n{done.stdout}{self.log()}")

    def _wait_for_banner(self) -> None:
        """`postfix start` returns when the master listens, so the first connection succeeds."""
        with socket.create_connection((self.host, self.port), timeout=_START_SECONDS) as client:
            banner = client.recv(1024)
        if not banner.startswith(b"220 "):
            raise RuntimeError(f"postfix greeted with {banner!r}:\n{self.log()}")

    def processes(self) -> list[int]:
        """The living processes of this instance: their environment names our configuration."""
        mark = f"MAIL_CONFIG={self._home}/etc".encode()
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark in _environment(entry)]

    def _kill_survivors(self) -> None:
        """End what a clean stop left behind."""
        deadline = time.monotonic() + _START_SECONDS
        while (survivors := self.processes()) and time.monotonic() < deadline:
            for pid in survivors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_PATIENCE)


def _environment(process: Path) -> list[bytes]:
    """A process's environment; that of a zombie, or of one that is gone, is empty."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


_MASTER = """\
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
proxymap  unix  -  -  n  -     -  proxymap
proxywrite unix -  -  n  -     1  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
local     unix  -  n  n  -     -  local
virtual   unix  -  n  n  -     -  virtual
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
postlog   unix-dgram n - n  -     1  postlogd
"""
