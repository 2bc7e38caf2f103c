"""Whether the other processes of a run are alive; says clearly which is not, and ends this one.

JAX alone would wait for a lost process for ever in a collective, or abort with the stack of its
runtime. Here every process writes a beat into JAX's key-value store, which process 0 holds, and
looks at the others'. A process that leaves says why, so that the others can repeat it.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax

from posetraj_jax.errors import EXIT_LOST_PROCESS, UserError

FOLDER = "posetraj_jax/peers"
"""Of the key-value store: beat/PROCESS → a number that rises, left/PROCESS → why, as JSON."""
BEAT_S = 1.0
LOST_S = 30.0
"""Silence after which a process counts as lost; JAX's own limit, 100 s, only comes after it."""
GRACE_S = 3.0
"""For this process to find the mistake that another one has found, and to say it itself."""
LINGER_S = 10.0
"""Process 0 stays so long for the others to read why it leaves: the store goes with it."""
AGAIN = "run the same command again on all hosts: it resumes from the newest checkpoint"


class Peers:
    """Watches the other processes from threads of its own, from `start` to `close`."""

    def __init__(self, client: Any, index: int, count: int):
        """Says and hears nothing yet.

        Args:
            client: JAX's DistributedRuntimeClient.
            index: this process.
            count: how many there are.
        """
        self._client, self._index, self._count = client, index, count
        now = time.monotonic()
        self._heard = {peer: (None, now) for peer in range(count) if peer != index}
        self._left: dict[int, dict[str, Any]] = {}
        self._code = 0
        self._ends = threading.Event()

    def start(self) -> None:
        """Begins to beat and to listen."""
        for work in (self._talk, self._judge):
            threading.Thread(target=work, daemon=True, name=f"peers{work.__name__}").start()

    def leave(self, code: int, why: str, lost: Sequence[int] = ()) -> None:
        """Tells the others that this process ends, and why; process 0 waits until they end too.

        Args:
            code: the exit code; 0 says that nothing is wrong.
            why: a line, or the whole message of an error.
            lost: the processes that are lost, if that is why.
        """
        if code:
            self._code = code
            self._ends.set()
        try:
            self._client.key_value_set(
                f"{FOLDER}/left/{self._index}",
                json.dumps({"code": code, "why": why, "lost": list(lost)}),
                allow_overwrite=True,
            )
        except jax.errors.JaxRuntimeError:  # process 0 is gone, and with it who would read this
            return
        deadline = time.monotonic() + LINGER_S
        while code and self._index == 0 and time.monotonic() < deadline and self._present():
            time.sleep(BEAT_S / 4)

    def close(self) -> None:
        """Stops watching."""
        self._ends.set()

    def wait_for_verdict(self) -> None:
        """Gives the watch time to find out whether a lost process is why something failed.

        If one is, this does not return.
        """
        time.sleep(LOST_S + 2 * GRACE_S)

    def explain_abort(self, address: str) -> UserError | None:
        """Why JAX's runtime aborts this process, if others are why.

        Args:
            address: of process 0, whose loss JAX itself notices at once.
        """
        if self._index and not _answers(address):
            return _lost([0], self._count)
        self.wait_for_verdict()  # collectives abort too, where they get what was not for them
        return None

    def _present(self) -> list[int]:
        """Who has not left and is not silent."""
        return [p for p in self._heard if p not in self._left and self._silence(p) < LOST_S]

    def _talk(self) -> None:
        beat = 0
        while self._code or not self._ends.is_set():  # who leaves for a reason waits for the others
            beat += 1
            try:
                self._client.key_value_set(
                    f"{FOLDER}/beat/{self._index}", str(beat), allow_overwrite=True
                )
                self._hear(dict(self._client.key_value_dir_get(FOLDER)))
            except jax.errors.JaxRuntimeError:
                pass  # silence is what `_judge` looks at
            time.sleep(BEAT_S)

    def _hear(self, entries: Mapping[str, str]) -> None:
        now = time.monotonic()
        for key, value in entries.items():
            kind, peer = key.rsplit("/", 2)[1:]
            if int(peer) == self._index:
                continue
            if kind == "left":
                # A new one each time: the other thread may be going through it.
                self._left = self._left | {int(peer): json.loads(value)}
            elif value != self._heard[int(peer)][0]:
                self._heard[int(peer)] = (value, now)

    def _judge(self) -> None:
        while not self._ends.wait(BEAT_S):
            failed = {peer: left for peer, left in self._left.items() if left["code"]}
            if failed and not self._ends.wait(GRACE_S):
                peer = min(failed)
                if lost := failed[peer]["lost"]:
                    self._stop_without(lost)
                self._stop(_other_failed(peer, failed[peer]["why"]), failed[peer]["code"])
            silent = [
                peer
                for peer in self._heard
                if peer not in self._left and self._silence(peer) > LOST_S
            ]
            if silent and not self._ends.is_set():
                # With process 0 goes all that is heard of the others.
                self._stop_without([0] if 0 in silent else silent)
        if self._code:
            time.sleep(LOST_S + LINGER_S)  # a thread that waits for others must not hold this up
            exit_now(self._code)

    def _silence(self, peer: int) -> float:
        """Seconds since something was heard of it."""
        return time.monotonic() - self._heard[peer][1]

    def _stop_without(self, lost: Sequence[int]) -> NoReturn:
        self._stop(_lost(lost, self._count), EXIT_LOST_PROCESS, lost)

    def _stop(self, error: UserError, code: int, lost: Sequence[int] = ()) -> NoReturn:
        """Ends the process from the watching thread: the main one may wait for ever."""
        _print(error)
        if 0 not in lost:
            self.leave(code, str(error), lost)
        exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Ends this process and those that read data for it, without waiting for any other."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def on_abort(explain: Callable[[], UserError | None]) -> None:
    """Says in four parts why JAX's runtime aborts the process, where `explain` knows.

    JAX aborts as soon as the connection to process 0 breaks, and where the processes do not find
    each other. Python's own signal handlers never run then, so this one is the C library's.
    """

    def aborted(_: int) -> None:
        error = explain()
        if error is None:
            _libc.signal(signal.SIGABRT, None)  # aborts as it would have
            return
        _print(error)
        exit_now(EXIT_LOST_PROCESS)

    handler = _HANDLER(aborted)
    _kept.append(handler)  # what C calls must stay alive
    _libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_kept: list[Any] = []
_libc = ctypes.CDLL(None)
_libc.signal.argtypes, _libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _print(error: UserError) -> None:
    print(f"\nerror: {error}", file=sys.stderr, flush=True)


def _lost(lost: Sequence[int], count: int) -> UserError:
    names = ("process " if len(lost) == 1 else "processes ") + ", ".join(map(str, lost))
    return UserError(
        f"{names} of this run cannot be reached any more",
        expected=f"{count} processes that answer until the run ends",
        got="killed, out of memory, or cut off: see its own output"
        if 0 in lost
        else f"no answer for {LOST_S:.0f} s: killed, out of memory, or cut off; see its own output",
        fix=AGAIN,
    )


def _other_failed(peer: int, why: str) -> UserError:
    indented = why.replace("\n", "\n    ")
    return UserError(
        f"process {peer} of this run has stopped, so this one stops too",
        expected="all processes to go on until the run ends",
        got=f"its message:\n    {indented}",
        fix=f"mend what process {peer} says; then {AGAIN}",
    )
