"""Real processes on this machine that train together over loopback, as hosts of a pod would."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import quick

ROOT = Path(__file__).parents[1]


class HostGroup:
    """The same Python command in several processes; leave the `with` block and none is left."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, count: int, devices: int, absent: int = 0
    ):
        """Starts them.

        Args:
            arguments: of `python`; {index} in one stands for the number of the process.
            folder: for their outputs.
            devices: fake CPU devices of each process.
            absent: processes that these are told of, and that are never started.
        """
        folder.mkdir(parents=True, exist_ok=True)
        flags = f"{quick.XLA_FLAGS} --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        self.errors = [folder / f"{index}.stderr" for index in range(count)]
        self.outputs = [folder / f"{index}.stdout" for index in range(count)]
        address = f"127.0.0.1:{free_port()}"
        together = [f"--coordinator_address={address}", f"--num_processes={count + absent}"]

        def own(index: int) -> list[str]:
            return [argument.replace("{index}", str(index)) for argument in arguments]

        self.processes = [
            subprocess.Popen(
                [sys.executable, *own(index), *together, f"--process_id={index}"],
                env=environment,
                cwd=ROOT,
                stdout=self.outputs[index].open("w"),
                stderr=self.errors[index].open("w"),
            )
            for index in range(count)
        ]

    def __enter__(self) -> "HostGroup":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_until(self, happened: Callable[[], bool], seconds: float = 400) -> None:
        """Waits for something that the processes do; fails if one of them ends before."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert all(process.poll() is None for process in self.processes), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def send(self, index: int, number: signal.Signals) -> None:
        """Sends a signal to one process."""
        self.processes[index].send_signal(number)

    def codes(self, seconds: float = 400) -> list[int]:
        """The exit codes of all; fails where one has not ended within so many seconds."""
        deadline = time.monotonic() + seconds
        return [p.wait(timeout=max(deadline - time.monotonic(), 0.1)) for p in self.processes]

    def said(self) -> str:
        """The ends of all stderrs, to read in a failed test."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in self.errors)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]
