"""Runs a program under the sandbox of a unit, without systemd and without root: `sandbox.py UNIT PROGRAM …`.

Of the unit are taken the system calls (by libseccomp, refused with the unit's error), the address families, and
MemoryDenyWriteExecute (by the kernel's own switch, where it has one). No-new-privileges comes with them. Whatever has no
place in a process alone (users, mounts, /proc) is tried on a whole machine: test_machine.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.systemd.units import FOLDER, section, system_calls

ALLOW: Final = 0x7FFF0000
EQUAL: Final = 4  # enum scmp_compare
AT_LEAST: Final = 5
FAMILIES: Final = 64  # more than there are
PR_SET_MDWE: Final = 65
PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
LIBRARY: Final = "libseccomp.so.2"


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def main(unit: str, *command: str) -> None:
    """Shut the door, and become the program."""
    settings = section((FOLDER / unit).read_text(), "Service")
    seccomp = _library()
    allowed = system_calls([value for key, value in settings if key == "SystemCallFilter"])
    families = [value for key, value in settings if key == "RestrictAddressFamilies"][-1].split()
    error = getattr(errno, dict(settings)["SystemCallErrorNumber"])
    if dict(settings)["MemoryDenyWriteExecute"] == "yes":
        ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
    _limit_families(seccomp, {getattr(socket, family) for family in families})
    _limit_calls(seccomp, allowed, error)
    os.execvp(command[0], command)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison),
    ]  # fmt: skip
    return library


def _refuse(number: int) -> int:
    return 0x00050000 | number  # SCMP_ACT_ERRNO


def _limit_calls(seccomp: ctypes.CDLL, allowed: set[str], error: int) -> None:
    """Refuse every call that is not named; names of other architectures are passed over."""
    rules = seccomp.seccomp_init(_refuse(error))
    for name in sorted(allowed):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            _done(seccomp.seccomp_rule_add_array(rules, ALLOW, number, 0, None))
    _done(seccomp.seccomp_load(rules))


def _limit_families(seccomp: ctypes.CDLL, allowed: set[int]) -> None:
    """Refuse sockets of other families, as systemd does: the family is not supported."""
    rules = seccomp.seccomp_init(ALLOW)
    call = seccomp.seccomp_syscall_resolve_name(b"socket")
    comparisons = [_Comparison(0, EQUAL, family, 0) for family in range(FAMILIES) if family not in allowed]
    for comparison in (*comparisons, _Comparison(0, AT_LEAST, FAMILIES, 0)):
        _done(seccomp.seccomp_rule_add_array(rules, _refuse(errno.EAFNOSUPPORT), call, 1, ctypes.byref(comparison)))
    _done(seccomp.seccomp_load(rules))


def _done(result: int) -> None:
    if result != 0:
        raise OSError(-result, os.strerror(-result))


if __name__ == "__main__":
    main(*sys.argv[1:])
