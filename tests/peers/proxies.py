"""Proxies on loopback, as an operator has them on the way out: a SOCKS5 proxy (microsocks) and an HTTP one (Squid).

Both run as any user and let everything through to loopback, for everybody or for one account.

    with SocksProxy(("app", "s3cret")) as proxy: ...    # dial through proxy.host, proxy.port
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.peers.fetched import HOST, Daemon, fetched, is_fetched
from tests.peers.postfix import free_port

_MICROSOCKS = "/usr/bin/microsocks"
_SQUID = "/usr/sbin/squid"


def socks_available() -> bool:
    """Whether `SocksProxy` can run here."""
    return is_fetched(_MICROSOCKS)


def http_proxy_available() -> bool:
    """Whether `HttpProxy` can run here."""
    return is_fetched(_SQUID)


class SocksProxy(Daemon):
    """SOCKS5 (RFC 1928) on `port`, with user name and password (RFC 1929) if there is an `account`."""

    def __init__(self, account: tuple[str, str] | None = None) -> None:
        self.port, self.account_wanted = free_port(), account
        super().__init__(self.port)

    def prepare(self) -> list[str | Path]:
        """Say everything on the command line."""
        command: list[str | Path] = [fetched(_MICROSOCKS), "-i", HOST, "-p", str(self.port)]
        if self.account_wanted is not None:
            username, password = self.account_wanted
            command += ["-u", username, "-P", password]
        return command


class HttpProxy(Daemon):
    """CONNECT (RFC 9110 §9.3.6) on `port`, with Basic authentication if there is an `account`; nothing else."""

    def __init__(self, account: tuple[str, str] | None = None) -> None:
        self.port, self.account_wanted = free_port(), account
        super().__init__(self.port)

    def prepare(self) -> list[str | Path]:
        """Write the configuration and the account."""
        if self.account_wanted is not None:
            username, password = self.account_wanted
            (self.home / "users").write_text(f"{username}:{hashlib.md5(password.encode()).hexdigest()}\n")
        (self.home / "squid.conf").write_text(
            _CONFIGURATION.format(
                host=HOST, port=self.port, home=self.home, libexec=fetched("/usr/lib/squid"),
                share=fetched("/usr/share/squid"), known="known" if self.account_wanted else "all",
            )
        )  # fmt: skip
        return [fetched(_SQUID), "-N", "-f", self.home / "squid.conf"]


_CONFIGURATION = """\
http_port {host}:{port}
visible_hostname proxy.test
pid_filename {home}/squid.pid
access_log stdio:{home}/access.log
cache_log {home}/cache.log
cache_store_log none
coredump_dir {home}
cache deny all
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
mime_table {share}/mime.conf
icon_directory {share}/icons
error_directory {share}/errors/templates
unlinkd_program {libexec}/unlinkd
logfile_daemon {libexec}/log_file_daemon
auth_param basic program {libexec}/basic_ncsa_auth {home}/users
auth_param basic children 1 startup=0
acl known proxy_auth REQUIRED
acl loopback dst 127.0.0.0/8
acl tunnel method CONNECT
http_access allow tunnel loopback {known}
http_access deny all
"""
