"""The daemon under its unit's system call filter, address families and write-xor-execute, wherever the tests run."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.peers.requirements import require
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.process.daemon import ROOT, Daemon, mail, plain
from tests.systemd import sandbox

UNIT: Final = "notification-gateway.service"
PR_GET_MDWE: Final = 66
SANDBOX: Final = (sys.executable, str(Path(__file__).with_name("sandbox.py")), UNIT)
WITNESS: Final = """\
import atexit, pathlib, sys
atexit.register(lambda: pathlib.Path({told!r}).write_text(type(sys.modules.get("uvloop")).__name__))
"""
NO_UVLOOP: Final = "sys.modules['uvloop'] = None\n"


def confined(code: str) -> str:
    """Run a little Python in the sandbox; what it printed."""
    done = subprocess.run([*SANDBOX, sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def seccomp() -> None:
    """What the launcher needs."""
    try:
        ctypes.CDLL(sandbox.LIBRARY)
        found = shutil.which("systemd-analyze")
    except OSError:
        found = None
    require("libseccomp.so.2 and systemd-analyze", found)


def mdwe() -> bool:
    """Has the kernel the switch (Linux 6.3)?"""
    return ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0


def refusal(code: str) -> str:
    """Do something in the sandbox; the number of the error."""
    return confined(f"try:\n    exec({code!r})\nexcept OSError as error:\n    print(error.errno)")


def test_the_filter_refuses() -> None:
    """What needs privileges, what no service does, what is about resources: EPERM, which root does not get elsewhere."""
    traced = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nif c.ptrace(0, 0, 0, 0): raise OSError(ctypes.get_errno(), '')"
    for code in ("import os; os.chown('/tmp', 0, 0)", traced, "import os; os.setpriority(0, 0, 0)"):
        assert refusal(code) == str(errno.EPERM)


def test_other_families_are_not_supported() -> None:
    """Netlink and packets are not for the daemon; TCP and Unix sockets are."""
    assert refusal("import socket\nsocket.socket()\nsocket.socket(socket.AF_UNIX)") == ""
    for family in ("AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
        assert refusal(f"import socket\nsocket.socket(socket.{family})") == str(errno.EAFNOSUPPORT)


def test_memory_is_writable_or_executable() -> None:
    """Never both: what was written cannot be made to run."""
    require("a kernel with PR_SET_MDWE", mdwe())
    code = "import mmap\nmmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    assert refusal(code) == str(errno.EACCES)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_daemon_works_in_it(tmp_path: Path, loop: str) -> None:
    """It starts, takes a notification, relays it over TLS with a password, is administered, and ends in order."""
    if loop == "uvloop":
        require("uvloop", importlib.util.find_spec("uvloop"))
    witness = WITNESS.format(told=str(tmp_path / "loop"))
    (tmp_path / "sitecustomize.py").write_text(witness + ("" if loop == "uvloop" else NO_UVLOOP))
    tls = issue_tls()
    async with ScriptedRelay(users={"app": "s3cret"}, require_auth=True, tls=tls.context) as relay:
        daemon = Daemon(
            tmp_path / "gateway",
            plain(relay.port, "localhost").replace('"none"', '"starttls"')
            + f"\ntls = {{ca_certificates = {json.dumps(tls.ca_pem)}}}"
            + '\nauth = {username = "app", credential = {source = "plaintext", value = "s3cret"}}',
        )
        await daemon.start(wrapper=SANDBOX, environ={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
        try:
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
            async with daemon.client() as client:
                _, told, _ = await client.post(mail())
                await client.until(told["id"], "relayed")
            listed = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "-c", str(daemon.folder / "gateway.toml"), "tenants", "list",
                stdout=subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
            tenants = (await listed.communicate())[0].decode()
        finally:
            code = await daemon.stop()

    assert "Seccomp:\t2" in status
    assert (tmp_path / "loop").read_text() == ("module" if loop == "uvloop" else "NoneType")
    assert "acme" in tenants
    assert code == 0
    assert "Traceback" not in daemon.log
