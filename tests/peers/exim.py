"""A private Exim: the submission service of a great part of the world's mail servers, CHUNKING included.

`EximRelay` offers PLAIN, LOGIN, CRAM-MD5 and NTLM (version 1) over TLS only, and EXTERNAL to whoever shows a certificate of its own
authority; it announces SIZE, PIPELINING, CHUNKING and SMTPUTF8, and forwards everything to a sink. It runs as any user:
libnss_wrapper gives it the account that it was compiled for.

    with EximRelay(free_port()) as relay:
        async with ScriptedRelay(port=relay.sink_port) as sink:
            ...                                   # submit to relay.port or relay.tls_port, trusting relay.ca_pem
            await sink.wait_messages(1)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trustme

from tests.peers.fetched import HOST, Daemon, environment, fetched, free_ports, is_fetched, ordinary
from tests.peers.smtp_server import issue_tls

_EXIM = "/usr/sbin/exim4"


def exim_available() -> bool:
    """Whether `EximRelay` can run here."""
    return is_fetched(_EXIM) and _wrapper() is not None


def _wrapper() -> Path | None:
    return next(iter(fetched("/usr/lib").glob("*/libnss_wrapper.so")), None)


class EximRelay(Daemon):
    """An Exim of one's own: STARTTLS on `port`, and on `lock_step_port` without PIPELINING; implicit TLS on `tls_port`.

    It takes no more than `size_limit` octets, and nothing for the recipient `refused`. Users are looked up in a file:
    no colons or spaces in their names.
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
        self.port, self.tls_port, self.lock_step_port = free_ports(3, sink_port)
        self.ca_pem = ""
        self._clients = trustme.CA()
        super().__init__(self.port, self.tls_port, self.lock_step_port)

    def client_pem(self, address: str) -> str:
        """Issue a client certificate for this account, followed by its key."""
        issued = self._clients.issue_cert(address)
        return issued.private_key_and_cert_chain_pem.bytes().decode()

    def variables(self) -> dict[str, str]:
        """Say who Debian-exim is: whoever runs this."""
        return environment() | {
            "LD_PRELOAD": str(_wrapper()),
            "NSS_WRAPPER_PASSWD": f"{self.home}/passwd",
            "NSS_WRAPPER_GROUP": f"{self.home}/group",
        }

    def prepare(self) -> list[str | Path]:
        """Write configuration, accounts and certificate."""
        issued = issue_tls("localhost", self.host)
        self.ca_pem = issued.ca_pem
        account = ordinary()
        for name, text in {
            "chain.pem": issued.chain_pem,
            "key.pem": issued.key_pem,
            "clients.pem": self._clients.cert_pem.bytes().decode(),
            "users": "".join(f"{name}: {password}\n" for name, password in self.users.items()),
            "passwd": f"Debian-exim:x:{account.pw_uid}:{account.pw_gid}::/nonexistent:/bin/false\nroot:x:0:0::/:/bin/sh\n",
            "group": f"Debian-exim:x:{account.pw_gid}:\nroot:x:0:\n",
            "exim.conf": self._configuration(),
        }.items():
            (self.home / name).write_text(text)
        (self.home / "key.pem").chmod(0o600)
        return [fetched(_EXIM), "-C", self.home / "exim.conf", "-bdf", "-oP", self.home / "exim.pid"]

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            program=fetched(_EXIM), home=self.home, host=HOST, port=self.port, tls_port=self.tls_port,
            lock_step_port=self.lock_step_port, sink_port=self.sink_port, size_limit=self.size_limit,
            refused=self.refused,
        )  # fmt: skip


_CONFIGURATION = """\
exim_path = {program}
keep_environment = LD_LIBRARY_PATH : LD_PRELOAD : NSS_WRAPPER_PASSWD : NSS_WRAPPER_GROUP
spool_directory = {home}/spool
log_file_path = {home}/%s.log
pid_file_path = {home}/exim.pid
primary_hostname = relay.test
local_interfaces = <; {host}.{port} ; {host}.{tls_port} ; {host}.{lock_step_port}
tls_on_connect_ports = {tls_port}
tls_advertise_hosts = *
tls_certificate = {home}/chain.pem
tls_privatekey = {home}/key.pem
tls_try_verify_hosts = *
tls_verify_certificates = {home}/clients.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
pipelining_advertise_hosts = ${{if eq{{$received_port}}{{{lock_step_port}}}{{}}{{*}}}}
chunking_advertise_hosts = *
smtputf8_advertise_hosts = *
message_size_limit = {size_limit}
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
host_lookup =
rfc1413_query_timeout = 0s
deliver_drop_privilege = true
never_users =
acl_smtp_rcpt = recipient
acl_smtp_data = accept

begin acl
recipient:
  deny recipients = {refused}
  accept authenticated = *
  deny message = sign in first

begin routers
sink:
  driver = manualroute
  transport = sink
  route_list = * {host}::{sink_port}
  self = send

begin transports
sink:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking =

begin retry
* * F,1h,2s

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if eq{{$auth3}}{{${{lookup{{$auth2}}lsearch{{{home}/users}}{{$value}}fail}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if eq{{$auth2}}{{${{lookup{{$auth1}}lsearch{{{home}/users}}{{$value}}fail}}}}}}
  server_set_id = $auth1
cram_md5:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{lookup{{$auth1}}lsearch{{{home}/users}}{{$value}}fail}}
  server_set_id = $auth1
ntlm:
  driver = spa
  public_name = NTLM
  server_password = ${{lookup{{$auth1}}lsearch{{{home}/users}}{{$value}}fail}}
  server_set_id = $auth1
external:
  driver = external
  public_name = EXTERNAL
  server_advertise_condition = $tls_in_certificate_verified
  server_param2 = ${{certextract {{subj_altname,mail,>:}}{{$tls_in_peercert}}}}
  server_condition = ${{if forany{{$auth2}}{{eq{{$item}}{{$auth1}}}}}}
  server_set_id = $auth1
"""
