"""The pipeline itself; the only module that imports Apache Beam."""

import json
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_prep.fanout.hand import Hand, HandOptions, StoppedError
from data_prep.fanout.task import FAILED, Task, appearing


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
    workers: int,
    options: Sequence[str],
) -> None:
    """Does tasks: in `workers` threads of this process, or as Beam's `options` say."""
    here = {
        "runner": "DirectRunner",
        "direct_num_workers": workers,
        "direct_running_mode": "multi_threading" if workers > 1 else "in_memory",
    }
    chosen = PipelineOptions(flags=list(options), **({} if options else here))
    with beam.Pipeline(options=chosen) as pipeline:
        waiting = pipeline | "tasks" >> beam.Create(list(tasks), reshuffle=True)
        # Without it, a runner may fuse the list with the work and do all of it in one place.
        spread = waiting | "spread" >> beam.Reshuffle()
        _ = spread | "do" >> beam.ParDo(DoTask(str(parts.absolute()), hand))
