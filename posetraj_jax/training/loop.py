"""The training loop: steps, logs, evaluations, samples and checkpoints, and nothing else."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from posetraj_jax.structs import Batch
from posetraj_jax.training.metrics import MetricWriter, RunningMean
from posetraj_jax.training.state import Metrics, TrainState


@dataclass(frozen=True)
class Schedule:
    """How many steps there are and how often something else happens; 0 = only at the end."""

    steps: int
    log: int
    evaluate: int
    sample: int
    save: int

    def due(self, what: str, step: int) -> bool:
        """Whether `what` (a field's name) happens after `step` finished steps."""
        every = getattr(self, what)
        return step == self.steps or (every > 0 and step > 0 and step % every == 0)


@dataclass(frozen=True)
class Actions:
    """What the loop does, with everything else already bound."""

    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState], dict[str, float]]
    sample: Callable[[TrainState, int, Callable[[str], None]], None]
    save: Callable[[TrainState], None]


def train(
    state: TrainState,
    batches: Iterator[Batch],
    clips_per_step: int,
    schedule: Schedule,
    actions: Actions,
    writer: MetricWriter,
) -> tuple[TrainState, int | None]:
    """Trains until the last step, or until SIGTERM or SIGINT; saves in both cases.

    Returns:
      The state, and the signal that ended the run early, if one did.

    Raises:
      UserError: a non-finite loss, a bad record, or a full disk; the last checkpoint is whole.
    """
    step = int(state.step)
    means, clock = RunningMean(), time.monotonic()
    with _signals() as caught, _progress_bar(step, schedule.steps) as bar:
        if step == 0:
            bar.set_description("evaluating step 0")
            writer.write_scalars(0, actions.evaluate(state))
        bar.set_description("compiling" if step < schedule.steps else "done")
        while step < schedule.steps and not caught:
            state, scalars = actions.step(state, next(batches))
            step += 1
            means.add(step, scalars)
            bar.update()
            evaluating = schedule.due("evaluate", step)
            if schedule.due("log", step) or evaluating:
                row = means.compute()
                row["clips_per_second"] = clips_per_step * means.count / (time.monotonic() - clock)
                bar.set_description(f"loss {row['train/loss']:.4f}")
                bar.set_postfix_str(f"{row['clips_per_second']:.2f} clips/s")
                if evaluating:
                    row |= actions.evaluate(state)
                writer.write_scalars(step, row)
                means.reset()
                clock = time.monotonic()
            if schedule.due("save", step):
                means.check_finite()
                actions.save(state)
            if schedule.due("sample", step) and not caught:
                actions.sample(state, step, bar.set_description)
                clock = time.monotonic()
        if caught and step > 0:  # a signal may come at any time, so this cannot be in the loop
            means.check_finite()
            actions.save(state)
    return state, caught[0] if caught else None


def _progress_bar(step: int, steps: int) -> tqdm:
    return tqdm(initial=step, total=steps, unit="step", dynamic_ncols=True)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying; the loop looks at the list between steps."""
    caught: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.signal(kind, lambda number, _: caught.append(number)) for kind in kinds}
    try:
        yield caught
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
