"""A private Dovecot: its SASL for a Postfix, and its IMAP server for a Maildir; any user may run both.

`DovecotAuth` serves PLAIN, LOGIN, CRAM-MD5 and SCRAM-SHA-256, and XOAUTH2 and OAUTHBEARER for tokens that
`token` makes, on the socket that `PostfixRelay(sasl_socket=…)` asks:

    with DovecotAuth() as auth, PostfixRelay(free_port(), sasl_socket=auth.socket) as relay: ...

`DovecotImap` shows how a mail reader's server takes a message apart. It speaks IMAP4rev1 through a pipe, already signed
in, as the standard library's client can:

    with DovecotImap([message]) as imap:
        imap.select()
        imap.fetch("1", "(BODYSTRUCTURE)")
"""

from __future__ import annotations

import base64
import grp
import imaplib
import os
import shlex
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import jwt

from tests.peers.fetched import Daemon, environment, fetched, is_fetched, ordinary

_DOVECOT, _DOVECONF, _IMAP = "/usr/sbin/dovecot", "/usr/bin/doveconf", "/usr/lib/dovecot/imap"
_TOKEN_KEY = b"a key that only this test's tokens are signed with"


def dovecot_available() -> bool:
    """Whether `DovecotAuth` and `DovecotImap` can run here."""
    return is_fetched(_DOVECOT, _DOVECONF, _IMAP)


def _configured(service: str, configuration: Path, *command: str | Path) -> list[str | Path]:
    """Have the configuration read first, since a program would look for doveconf where it is not installed."""
    read = ["-f", f"service={service}", "-c", configuration, "-m", service]
    return [fetched(_DOVECONF), *read, "-e", *command]


class DovecotAuth(Daemon):
    """Dovecot's authentication on `socket`, for the accounts `users`."""

    def __init__(self, users: Mapping[str, str] = {"app": "s3cret"}) -> None:
        self.users = dict(users)
        super().__init__("run/smtp-auth")

    @property
    def socket(self) -> Path:
        """Where a server asks it."""
        return self.home / "run/smtp-auth"

    @staticmethod
    def token(username: str, seconds: int = 600) -> str:
        """Make an access token for this account, good for so long."""
        now = int(time.time())
        claims = {"sub": username, "iat": now, "exp": now + seconds, "aud": "smtp", "azp": "default"}
        return jwt.encode(claims, _TOKEN_KEY, "HS256", headers={"kid": "default"})

    def prepare(self) -> list[str | Path]:
        """Write configuration, accounts and the key of the tokens."""
        keys = self.home / "keys/default/HS256"
        for folder in (self.home / "run", keys):
            folder.mkdir(mode=0o755, parents=True)
        (keys / "default").write_bytes(base64.b64encode(_TOKEN_KEY))
        accounts = "".join(f"{name}:{{PLAIN}}{password}\n" for name, password in self.users.items())
        (self.home / "users").write_text(accounts)
        (self.home / "oauth2.conf").write_text(
            "introspection_mode = local\n"
            f"local_validation_key_dict = fs:posix:prefix={self.home}/keys/\n"
            "username_attribute = sub\nusername_format = %u\n"
        )
        account = ordinary()
        configuration = self.home / "dovecot.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                home=self.home, programs=fetched("/usr/lib/dovecot"), user=account.pw_name, group=grp.getgrgid(account.pw_gid).gr_name,
                libraries=environment()["LD_LIBRARY_PATH"],
            )
        )  # fmt: skip
        return _configured("master", configuration, fetched(_DOVECOT), "-F", "-c", configuration)


class DovecotImap(imaplib.IMAP4_stream):
    """Dovecot's IMAP server over a Maildir with these messages, and the client at once."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="peer-")
        home = Path(self._directory.name)
        self._deliver(home, messages)
        variables = environment() | {"USER": "app", "HOME": str(home)}
        account = ordinary()
        change = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        command = [
            "env", "-i", *(f"{name}={value}" for name, value in variables.items()),
            *(change if os.geteuid() == 0 else ()),
            *_configured("imap", home / "dovecot.conf", fetched(_IMAP)),
        ]  # fmt: skip
        super().__init__(shlex.join(map(str, command)))

    def __exit__(self, *args: object) -> None:
        try:
            super().__exit__(*args)  # type: ignore[arg-type]
        finally:
            self._directory.cleanup()

    @staticmethod
    def _deliver(home: Path, messages: Iterable[bytes]) -> None:
        for folder in ("cur", "new", "tmp"):
            (home / "maildir" / folder).mkdir(parents=True)
        for number, message in enumerate(messages, start=1):
            (home / "maildir/new" / f"{number:06}.test").write_bytes(message)
        (home / "dovecot.conf").write_text(
            f"base_dir = {home}/run\nlog_path = {home}/log\nssl = no\n"
            f"mail_plugin_dir = {fetched('/usr/lib/dovecot/modules')}\nmail_location = maildir:{home}/maildir\n"
        )
        if os.geteuid() == 0:
            for path in (home, *home.rglob("*")):
                os.chown(path, ordinary().pw_uid, ordinary().pw_gid)


_CONFIGURATION = """\
base_dir = {home}/run
state_dir = {home}/run
log_path = {home}/dovecot.log
libexec_dir = {programs}
login_plugin_dir = {programs}/modules/login
mail_plugin_dir = {programs}/modules
import_environment = LD_LIBRARY_PATH={libraries}
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
protocols =
ssl = no
auth_mechanisms = plain login cram-md5 scram-sha-256 xoauth2 oauthbearer
auth_failure_delay = 0 secs
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5 scram-sha-256
  args = {home}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {home}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={home}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
service auth {{
  unix_listener smtp-auth {{
    mode = 0666
  }}
}}
"""
