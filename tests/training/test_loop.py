"""The loop with a toy step: what happens when, and what a signal or a NaN does."""

import functools
import itertools
import os
import signal

import jax.numpy as jnp
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.training import clock
from posetraj_jax.training.clock import Clock
from posetraj_jax.training.loop import Actions, Schedule, train
from posetraj_jax.training.metrics import MetricWriter, read_jsonl
from posetraj_jax.training.state import TrainState


def at_step(number):
    return TrainState(jnp.int32(number), params={}, opt_state=(), ema={})


class Toy:
    """Counts steps; `trouble` maps (what, step) to something that happens there."""

    def __init__(self, trouble=None, loss=lambda step: 1.0 / step):
        self.events, self.trouble, self.loss = [], trouble or {}, loss

    def happen(self, what, step):
        self.events.append((what, step))
        if (what, step) in self.trouble:
            self.trouble.pop((what, step))()

    def sample(self, step, progress):
        self.happen("sample", step)
        self.events.append(("goes on", progress("sampling")))

    def actions(self):
        def step(state, batch):
            number = int(state.step) + 1
            self.happen("step", number)
            loss = jnp.float32(self.loss(number))
            scalars = {"loss": loss, "loss_zero": loss, "grad_norm": loss}
            return at_step(number), scalars

        def evaluate(state):
            self.happen("evaluate", int(state.step))
            return {"eval/loss": 2.0}

        return Actions(
            step=step,
            evaluate=evaluate,
            sample=lambda state, step, progress: self.sample(step, progress),
            save=lambda state: self.happen("save", int(state.step)),
        )


def run(toy, tmp_path, start=0, **changes):
    every = {"steps": 6, "log": 2, "evaluate": 3, "sample": 4, "save": 5, **changes}
    writer = MetricWriter(tmp_path, start, tensorboard=False)
    state, stopped = train(
        at_step(start), itertools.repeat(None), Clock(1), Schedule(**every), toy.actions(), writer
    )
    writer.close()
    return int(state.step), stopped


def at(toy, what):
    return [step for name, step in toy.events if name == what]


def test_everything_happens_when_it_is_due_and_at_the_end(tmp_path):
    toy = Toy()
    assert run(toy, tmp_path) == (6, None)
    assert at(toy, "evaluate") == [0, 3, 6]
    assert at(toy, "sample") == [4, 6]
    assert at(toy, "save") == [5, 6]
    rows = {row["step"]: row for row in read_jsonl(tmp_path / "metrics.jsonl")}
    assert sorted(rows) == [0, 2, 3, 4, 6]
    assert rows[2]["train/loss"] == pytest.approx((1 + 1 / 2) / 2)
    assert rows[3]["train/loss"] == pytest.approx(1 / 3)
    assert rows[3]["eval/loss"] == 2.0
    assert "eval/loss" not in rows[4]


def test_rows_tell_what_took_the_time(tmp_path, monkeypatch):
    """On a clock that the test turns: each second is put down to what it went to, and once."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    slow = {("evaluate", 0): 1.0, ("step", 1): 2.0, ("step", 4): 4.0, ("evaluate", 3): 8.0}
    slow |= {("sample", 4): 16.0, ("save", 5): 32.0, ("step", 6): 64.0}
    toy = Toy({when: functools.partial(pass_time, seconds) for when, seconds in slow.items()})
    run(toy, tmp_path, log=1)
    rows = {row["step"]: row for row in read_jsonl(tmp_path / "metrics.jsonl")}
    told = {
        (name, step): value
        for step, row in rows.items()
        for name, value in row.items()
        if name.startswith("time/") and value and value > 1e-6
    }
    assert told == {
        ("time/evaluate", 1): 1.0,
        ("time/first_step", 1): pytest.approx(2.0),
        ("time/evaluate", 4): 8.0,
        ("time/step", 4): pytest.approx(4.0),
        ("time/sample", 5): 16.0,
        ("time/checkpoint", 6): 32.0,
        ("time/step", 6): pytest.approx(64.0),
    }
    assert rows[4]["clips_per_second"] == pytest.approx(1 / 4)
    assert rows[1]["clips_per_second"] is None


def test_zero_means_only_at_the_end(tmp_path):
    toy = Toy()
    run(toy, tmp_path, sample=0)
    assert at(toy, "sample") == [6]


def test_a_resumed_run_does_not_evaluate_where_it_starts(tmp_path):
    toy = Toy()
    run(toy, tmp_path, start=4)
    assert at(toy, "step") == [5, 6]
    assert at(toy, "evaluate") == [6]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", [("step", 2), ("sample", 4), ("evaluate", 3), ("save", 5)])
def test_a_signal_at_any_time_saves_the_last_step_and_stops(tmp_path, number, when):
    toy = Toy({when: lambda: os.kill(os.getpid(), number)})
    step, stopped = run(toy, tmp_path)
    assert stopped == number
    assert step == when[1]
    assert at(toy, "save")[-1] == step
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["step"] == step
    assert at(toy, "goes on") == ([False] if when[0] == "sample" else [True] * (step == 5))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_non_finite_loss_stops_before_anything_is_saved(tmp_path):
    toy = Toy(loss=lambda step: float("inf") if step == 5 else 1.0)
    with pytest.raises(UserError, match="not finite at step 5"):
        run(toy, tmp_path, log=6, save=1)
    assert at(toy, "save") == [1, 2, 3, 4]
