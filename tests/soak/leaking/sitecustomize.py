"""Make a process leak, if it is the daemon and GATEWAY_SOAK_LEAK says how many MiB a second; and as many descriptors.

Python imports a module of this name at its start when its folder is on PYTHONPATH.
"""

import os
import sys
import threading
import time

LEAK = os.environ.get("GATEWAY_SOAK_LEAK")
HELD: list[object] = []


def leak(mebibytes: float) -> None:
    """Hold more and more, ten times a second, for ever."""
    for lap in range(1 << 40):
        HELD.append(os.urandom(int(mebibytes * (1 << 20) / 10)))
        if lap % 10 == 0:
            HELD.append(os.open(os.devnull, os.O_RDONLY))
        time.sleep(0.1)


if LEAK and "gateway" in sys.orig_argv:
    threading.Thread(target=leak, args=(float(LEAK),), daemon=True).start()
