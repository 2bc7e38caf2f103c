"""How long a child process lives: no longer than what started it. Standard library only."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Has the system kill this process when the one that started it dies, however it dies.

    Linux only; elsewhere a child notices at its next word to or from its parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
