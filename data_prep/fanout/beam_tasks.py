"""The pipeline itself; the only module that imports Apache Beam."""

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from data_prep.fanout.hand import Hand, HandOptions, StoppedError
from data_prep.fanout.task import FAILED, Task, appearing
from posetraj_jax.errors import UserError

HERE = "DirectRunner"


class DoTask(beam.DoFn):
    """Does a task in a worker process; failures become a file, so that others go on."""

    def __init__(self, parts: str, options: HandOptions):
        self._parts, self._options = Path(parts), options
        self._hand: Hand | None = None

    def setup(self) -> None:
        """Called once for every thread or process of the runner."""
        self._hand = Hand(self._options)

    def teardown(self) -> None:
        """Ends the worker process."""
        if self._hand is not None:
            self._hand.close()

    def process(self, element: Task):
        """Yields the key of the task, unless the program is being ended."""
        try:
            outcome = self._hand.do(element, self._parts)
        except StoppedError:
            return
        except OSError as error:  # no process can be started: no other task will find one
            Hand.stop_all(reason=str(error))
            return
        if outcome.failed:
            folder = element.folder(self._parts)
            folder.mkdir(parents=True, exist_ok=True)
            with appearing(folder / FAILED) as partial:
                partial.write_text(json.dumps(outcome.failed))
        yield element.key


def run(
    tasks: Sequence[Task],
    parts: Path,
    hand: HandOptions,
    workers: int | None,
    flags: Sequence[str],
) -> None:
    """Does tasks: in `workers` threads of this process, or as Beam's own options say.

    Raises:
        UserError: options that Beam does not know, or a runner that cannot be used.
    """
    options = options_of(workers, flags)
    try:
        pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:
        raise _unusable(flags, str(error)) from error
    waiting = pipeline | "tasks" >> beam.Create(list(tasks), reshuffle=True)
    # Without it, a runner may fuse the list with the work and do all of it in one place.
    spread = waiting | "spread" >> beam.Reshuffle()
    _ = spread | "do" >> beam.ParDo(DoTask(str(parts.absolute()), hand))
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        if is_local(flags):
            raise
        raise _unusable(flags, f"{type(error).__name__}: {error}".splitlines()[0]) from error


def options_of(workers: int | None, flags: Sequence[str]) -> PipelineOptions:
    """The options of the pipeline; those of the direct runner follow from `workers`.

    Raises:
        UserError: flags that Beam does not know, bad values of others, or workers of this machine
            for another runner.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = PipelineOptions(flags=list(flags))
            known, every = _names(given, unknown=False), _names(given, unknown=True)
    except SystemExit as error:  # as its parser ends
        raise _unusable(flags, said.getvalue().strip().rpartition("error: ")[2]) from error
    if unknown := sorted(every - known):
        raise _unusable(flags, f"unknown: {', '.join(f'--{name}' for name in unknown)}")
    if not is_local(flags):
        if workers is not None:
            raise _unusable(flags, f"--workers, which is for {HERE}, with another runner")
        return given
    count = workers or os.cpu_count() or 1
    here = {
        "runner": HERE,
        "direct_num_workers": count,
        "direct_running_mode": "multi_threading" if count > 1 else "in_memory",
    }
    if given.view_as(DirectOptions).direct_num_workers < 0:
        raise _unusable(flags, "--direct_num_workers is below 0")
    named = _named(flags)
    return PipelineOptions(flags=list(flags), **{k: v for k, v in here.items() if k not in named})


def is_local(flags: Sequence[str]) -> bool:
    """Whether the tasks are done in threads or processes of this machine."""
    return _named(flags).get("runner", HERE) == HERE


def _named(flags: Sequence[str]) -> dict[str, str]:
    pairs = (flag.removeprefix("--").partition("=") for flag in flags)
    return {name: value for name, _, value in pairs}


def _names(options: PipelineOptions, *, unknown: bool) -> set[str]:
    return set(options.get_all_options(retain_unknown_options=unknown))


def _unusable(flags: Sequence[str], got: str) -> UserError:
    return UserError(
        f"Apache Beam cannot do the work with {' '.join(flags)}",
        expected="standard options of Beam's runners, and a runner that is there",
        got=got,
        fix="mend what stands after the lone '--'; what is finished is kept",
    )
