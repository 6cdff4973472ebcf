"""A private OpenSMTPD: a relay without PIPELINING, CHUNKING or SMTPUTF8, and strict about what it is told.

`OpenSmtpdRelay` offers PLAIN and LOGIN over TLS only and forwards everything to a sink. Its paths and users are compiled
in, so it lives in a root directory of its own, with its libraries; both ask for root. It is a newer one than Debian 12's,
whose TLS does not work with OpenSSL 3 (OpenSMTPD/OpenSMTPD#1171).

    with OpenSmtpdRelay(free_port()) as relay:
        ...                                       # submit to relay.port or relay.tls_port, trusting relay.ca_pem
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.peers.fetched import HOST, START_SECONDS, Daemon, copy_into, fetched, free_ports, is_fetched
from tests.peers.smtp_server import issue_tls

_TREE = "/opensmtpd"
_SMTPD, _ENCRYPT = "/usr/sbin/smtpd", "/usr/libexec/opensmtpd/encrypt"
_NEEDED = re.compile(r"^\s*(\S+) => (/\S+)", re.MULTILINE)


def opensmtpd_available() -> bool:
    """Whether `OpenSmtpdRelay` can run here."""
    return os.geteuid() == 0 and is_fetched(_TREE + _SMTPD) and _loader() is not None


def _loader() -> Path | None:
    """The dynamic loader that belongs to its libraries."""
    return next(iter(sorted(fetched(_TREE).glob("usr/lib*/ld-linux*"))), None)


class OpenSmtpdRelay(Daemon):
    """An OpenSMTPD of one's own: STARTTLS on `port`, implicit TLS on `tls_port`.

    It takes no more than `size_limit` octets, and nothing for the recipient `refused`.
    """

    def __init__(
        self,
        sink_port: int,
        *,
        users: Mapping[str, str] = {"app": "s3cret"},
        size_limit: int = 1_000_000,
        refused: str = "refused@example.test",
    ) -> None:
        self.sink_port, self.users, self.size_limit, self.refused = sink_port, dict(users), size_limit, refused
        self.port, self.tls_port = free_ports(2, sink_port)
        self.ca_pem = ""
        super().__init__(self.port, self.tls_port)

    def account(self) -> pwd.struct_passwd:
        """Be root: it changes to users of its own."""
        return pwd.getpwuid(0)

    def prepare(self) -> list[str | Path]:
        """Furnish a root directory."""
        root = self.home / "root"
        self._install(root)
        self._make_places(root)
        issued = issue_tls("localhost", self.host)
        self.ca_pem = issued.ca_pem
        for name, text in {
            "passwd": _PASSWD,
            "group": _GROUP,
            "mailname": "relay.test\n",
            "chain.pem": issued.chain_pem,
            "key.pem": issued.key_pem,
            "ssl/certs/ca-certificates.crt": issued.ca_pem,
            "users": "".join(f"{name} {self._encrypt(password)}\n" for name, password in self.users.items()),
            "smtpd.conf": _CONFIGURATION.format(
                host=HOST, port=self.port, tls_port=self.tls_port, sink_port=self.sink_port,
                size_limit=self.size_limit, refused=self.refused,
            ),
        }.items():  # fmt: skip
            (root / "etc" / name).write_text(text)
        (root / "etc/key.pem").chmod(0o600)
        return ["chroot", root, _SMTPD, "-d", "-f", "/etc/smtpd.conf"]

    def _install(self, root: Path) -> None:
        loader = _loader()
        assert loader is not None
        copy_into(root, fetched(_TREE + _SMTPD), _SMTPD)
        copy_into(root, loader, f"/{loader.parent.name}/{loader.name}")
        for name, path in _NEEDED.findall(self._run_inside("--list", fetched(_TREE + _SMTPD))):
            if Path(name).name != loader.name:
                copy_into(root, Path(path), f"/usr/lib/{name}")
        if not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")

    def _make_places(self, root: Path) -> None:
        for path in ("etc/ssl/certs", "var/lib/opensmtpd/empty", "var/run", "dev", "tmp"):
            (root / path).mkdir(mode=0o755, parents=True)
        (root / "var/spool/smtpd").mkdir(mode=0o711, parents=True)
        (root / "tmp").chmod(0o1777)
        os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (root / "dev/null").chmod(0o666)

    def _encrypt(self, password: str) -> str:
        """Give the password as crypt(3) does."""
        return self._run_inside(fetched(_TREE + _ENCRYPT), password).strip()

    @staticmethod
    def _run_inside(*command: str | Path) -> str:
        """Run one of its programs, or have the loader explain one, with its own libraries."""
        loader = _loader()
        assert loader is not None
        libraries = ":".join(str(path) for path in fetched(_TREE).glob("usr/lib/*-linux-gnu*"))
        done = subprocess.run(
            [loader, "--library-path", libraries, *command],
            check=True, timeout=START_SECONDS, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return done.stdout


_PASSWD = """\
root:x:0:0::/:/bin/false
opensmtpd:x:990:990::/var/lib/opensmtpd/empty:/bin/false
opensmtpq:x:991:991::/var/lib/opensmtpd/empty:/bin/false
"""

_GROUP = """\
root:x:0:
opensmtpd:x:990:
opensmtpq:x:991:
"""

_CONFIGURATION = """\
pki listener cert "/etc/chain.pem"
pki listener key "/etc/key.pem"
table users file:/etc/users
smtp max-message-size {size_limit}
listen on {host} port {port} tls-require pki listener hostname relay.test auth <users>
listen on {host} port {tls_port} smtps pki listener hostname relay.test auth <users>
action "sink" relay host smtp://{host}:{sink_port} helo relay.test
match auth from any for rcpt-to "{refused}" reject
match auth from any for any action "sink"
"""
