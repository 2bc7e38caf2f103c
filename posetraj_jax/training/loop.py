"""The training loop: steps, logs, evaluations, samples and checkpoints, and nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tqdm import tqdm

from posetraj_jax import hosts
from posetraj_jax.structs import Batch
from posetraj_jax.training.clock import Clock
from posetraj_jax.training.metrics import MetricWriter, RunningMean
from posetraj_jax.training.state import Metrics, TrainState
from posetraj_jax.training.stop_notice import notices


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
    sample: Callable[[TrainState, int, Callable[[str], bool]], object]
    """Gets a function that shows progress and says whether to go on."""
    save: Callable[[TrainState], None]


def train(
    state: TrainState,
    batches: Iterator[Batch],
    clock: Clock,
    schedule: Schedule,
    actions: Actions,
    writer: MetricWriter,
) -> tuple[TrainState, int | None]:
    """Trains until the last step, or until SIGTERM or SIGINT; saves in both cases.

    Returns:
      The state, and the signal that ended the run early, if one did; both as in all processes.

    Raises:
      UserError: a non-finite loss, a bad record, or a full disk; the last checkpoint is whole.
    """
    step = first = int(state.step)
    means, actions = RunningMean(), _timed(actions, clock)
    take = clock.waiting_for_data()(lambda: next(batches))
    with notices() as stop, _progress_bar(step, schedule.steps) as bar:

        def write(evaluating: bool) -> None:
            row = {**means.compute(), **clock.row()}
            bar.set_description(f"loss {row['train/loss']:.4f}")
            if row["clips_per_second"]:
                bar.set_postfix_str(f"{row['clips_per_second']:.2f} clips/s")
            row |= actions.evaluate(state) if evaluating else {}
            with clock.away("log"):
                writer.write_scalars(step, row)
            means.reset()

        def go_on(text: str) -> bool:
            bar.set_description(text)
            return not stop.is_due()

        if step == 0:
            bar.set_description("evaluating step 0")
            writer.write_scalars(0, actions.evaluate(state))
        if step >= schedule.steps:  # a run that was killed after its last checkpoint
            actions.sample(state, step, go_on)
        bar.set_description("compiling" if step < schedule.steps else "done")
        while step < schedule.steps and not stop.is_due():
            state, scalars = actions.step(state, take())
            step += 1
            means.add(step, scalars)
            clock.add(scalars)
            bar.update()
            if schedule.due("log", step) or schedule.due("evaluate", step):
                write(schedule.due("evaluate", step))
            if schedule.due("save", step):
                means.check_finite()
                actions.save(state)
            if schedule.due("sample", step) and not stop.is_due():
                actions.sample(state, step, go_on)
        if stop.is_due() and step > first:  # not in the loop: a signal may come at any time
            if means.count:
                write(evaluating=False)
            actions.save(state)
    return state, stop.signal


def _timed(actions: Actions, clock: Clock) -> Actions:
    """The same, counted as something else than training."""
    return replace(
        actions,
        evaluate=clock.away("evaluate")(actions.evaluate),
        sample=clock.away("sample")(actions.sample),
        save=clock.away("checkpoint")(actions.save),
    )


def _progress_bar(step: int, steps: int) -> tqdm:
    silent = not hosts.is_writer()
    return tqdm(initial=step, total=steps, unit="step", dynamic_ncols=True, disable=silent)
