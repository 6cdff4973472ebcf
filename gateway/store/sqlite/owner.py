"""Acts as the user whose a database is.

Whoever owns a directory can put a link in the place of any file in it, between any two steps of ours. So root does
nothing in a directory of somebody else's with rights of its own: wherever a link leads then, its owner could have written.
It keeps the right to go through directories, because systemd hides those of dynamic users from everybody but root.
"""

import ctypes
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

CAPABILITY_VERSION: Final = 0x20080522  # of what capget(2) and capset(2) are told
CAP_DAC_READ_SEARCH: Final = 2


@contextmanager
def acting_as_owner(database: Path) -> Iterator[None]:
    """Have root act as the database's owner for the time of the block; everybody else acts as themselves.

    The whole process does, with all its threads. OSError if it may not.
    """
    uid, gid = _owner(database)
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    own_groups, own_gid = os.getgroups(), os.getegid()
    try:
        os.setgroups(_groups(uid, gid))
        os.setegid(gid)
        os.seteuid(uid)
        _keep_going_through()
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_gid)
        os.setgroups(own_groups)


def _keep_going_through() -> None:
    """Take CAP_DAC_READ_SEARCH again, which went from what holds with root's id (capabilities(7)); as far as there is one."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of the lower 32 and of the others
    with suppress(AttributeError):  # not Linux
        libc = ctypes.CDLL(None)
        if libc.capget(header, sets) == 0:
            sets[0] |= sets[1] & (1 << CAP_DAC_READ_SEARCH)
            libc.capset(header, sets)


def _owner(database: Path) -> tuple[int, int]:
    """Tell whose it is or is to be: the directory's, or if that is root's, whose link leads there, or whose the file is."""
    folder = next(one for one in database.parents if one.exists())
    looked = [folder.stat(), folder.lstat(), *([database.lstat()] if os.path.lexists(database) else [])]
    found = next((one for one in looked if one.st_uid != 0), looked[0])
    return found.st_uid, found.st_gid


def _groups(uid: int, gid: int) -> list[int]:
    """List the groups that a user is in, who may have no name."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]
