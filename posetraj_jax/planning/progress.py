"""Says what a long command is doing: a line per phase, alive on a terminal."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FRAMES = "|/-\\"
INTERVAL = 0.5
"""Seconds between two pictures of the spinner."""


class Progress:
    """Phases with their seconds, told on stderr."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a block; on a terminal a spinner with the elapsed time, else plain lines."""
        begun, done = time.monotonic(), threading.Event()
        alive = sys.stderr.isatty()
        shown = threading.Thread(target=_spin, args=(name, begun, done), daemon=True)
        if alive:
            shown.start()
        else:
            print(f"{name} …", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            done.set()
            if alive:
                shown.join()
            took = time.monotonic() - begun
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            print(f"{chr(13) if alive else ''}{name}: {took:.1f} s", file=sys.stderr, flush=True)


def _spin(name: str, begun: float, done: threading.Event) -> None:
    for frame in itertools.cycle(FRAMES):
        elapsed = time.monotonic() - begun
        print(f"\r{frame} {name} {elapsed:.0f} s", end="", file=sys.stderr, flush=True)
        if done.wait(INTERVAL):
            return
