"""How long a child process lives: no longer than what started it. Standard library only."""

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Has the system kill this process when the one that started it dies, however it dies.

    To be called first of all; stdin must come from the parent, as a pipe. Elsewhere than on Linux a
    child notices only at its next word to or from its parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that died before that kills nobody any more, but has left the pipe.
    poll = select.poll()
    poll.register(0, 0)
    if any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0)):
        os._exit(1)
