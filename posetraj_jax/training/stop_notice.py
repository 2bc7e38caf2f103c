"""The wish that a run ends early: a signal to any of its processes, and all agree when."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


class StopNotice:
    """Asked between steps; says to all processes of a run at the same question that they stop."""

    def __init__(self):
        self.signal: int | None = None
        """What came, once `is_due` has said so; of several processes always SIGTERM."""
        self._caught: list[int] = []
        self._questions = 0

    def is_due(self) -> bool:
        """Whether to stop now; all processes must ask the same number of times.

        A single process stops at its signal. Of several, one that gets a notice tells the others in
        the background, and JAX chooses the first question that none of them has asked yet.
        """
        if self.signal is None and jax.process_count() > 1:
            self._questions += 1
            if multihost_utils.reached_preemption_sync_point(self._questions):
                self.signal = signal.SIGTERM
        elif self.signal is None and self._caught:
            self.signal = self._caught[0]
        return self.signal is not None


@contextmanager
def notices() -> Iterator[StopNotice]:
    """Collects SIGTERM and SIGINT instead of dying.

    The second signal finds the handlers of before, so an impatient Ctrl-C works at once. Of several
    processes JAX itself catches SIGTERM, and Ctrl-C is passed on as that.
    """
    notice, several = StopNotice(), jax.process_count() > 1
    kinds = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def catch(number: int, _: object) -> None:
        restore()
        if several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            notice._caught.append(number)

    before = {kind: signal.signal(kind, catch) for kind in kinds}
    try:
        yield notice
    finally:
        restore()
