"""A trace of some steps for XProf or Perfetto, asked for by `--profile_steps=FIRST:LAST`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from posetraj_jax.errors import UserError

FLAG = "--profile_steps"
FOLDER = "profile"
"""In the workdir."""


class Steps(NamedTuple):
    """Optimizer steps, both included; the first of a run is 1."""

    first: int
    last: int


def parse(text: str) -> Steps:
    """Reads `FIRST:LAST`; raises UserError for any other form."""
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", text, re.ASCII)
    if not match:
        raise UserError(
            f"{FLAG}={text} cannot be read",
            expected="the first and the last optimizer step of the trace",
            got=text,
            fix=f"write it as {FLAG}=10:13",
        )
    return Steps(int(match[1]), int(match[2]))


def check(steps: Steps | None, done: int, end: int) -> None:
    """Refuses steps that a run from step `done` to step `end` does not do; raises UserError."""
    if steps and not done < steps.first <= steps.last <= end:
        does = f"this run does steps {done + 1} to {end}" if done < end else "this run has ended"
        raise UserError(
            f"{FLAG}={steps.first}:{steps.last} cannot be traced",
            expected=f"rising numbers of steps to come: {does}",
            got=f"{steps.first} to {steps.last}",
            fix=f"give other steps, or raise --config.steps above {end}",
        )


class ProfiledStep:
    """A step of which some calls are traced into a folder. Use it in `with`."""

    def __init__(self, step: Callable[..., Any], done: int, steps: Steps | None, workdir: Path):
        """Traces nothing yet.

        Args:
          step: its first argument is the state.
          done: steps that were done before the first call.
          steps: which to trace; None: none.
          workdir: gets a folder `FOLDER` when the first trace is written.
        """
        self._step, self._number, self._steps = step, done, steps
        self._folder = workdir / FOLDER
        self._is_tracing = False

    def __enter__(self) -> "ProfiledStep":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()  # a run may end in the midst

    def __call__(self, *arguments: Any) -> Any:
        """The step's results; waits for the device only where a trace begins or ends."""
        self._number += 1
        if self._steps is None:
            return self._step(*arguments)
        if self._number == self._steps.first:
            jax.block_until_ready(arguments)  # no step before is part of the trace
            jax.profiler.start_trace(self._folder)
            self._is_tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=self._number):
            results = self._step(*arguments)
        if self._number == self._steps.last:
            jax.block_until_ready(results)
            self._stop()
        return results

    def _stop(self) -> None:
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
