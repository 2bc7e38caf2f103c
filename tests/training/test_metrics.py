"""metrics.jsonl, its reading after a kill, and the stop at the first non-finite loss."""

import json

import jax.numpy as jnp
import pytest
from PIL import Image

from posetraj_jax.errors import UserError
from posetraj_jax.training import metrics


def scalars(loss):
    return {"loss": jnp.float32(loss), "loss_zero": jnp.float32(1.0), "grad_norm": jnp.float32(2.0)}


def test_means_over_the_steps_since_the_last_reset():
    means = metrics.RunningMean()
    for step, value in enumerate([1.0, 3.0], start=1):
        means.add(step, scalars(value))
    assert means.compute() == {"train/loss": 2.0, "train/loss_zero": 1.0, "train/grad_norm": 2.0}
    assert means.count == 2
    means.reset()
    means.add(3, scalars(7.0))
    assert means.compute()["train/loss"] == 7.0


def test_a_non_finite_loss_names_its_step():
    means = metrics.RunningMean()
    for step, value in enumerate([1.0, float("nan"), 2.0], start=41):
        means.add(step, scalars(value))
    with pytest.raises(UserError, match="not finite at step 42"):
        means.compute()


def test_a_non_finite_gradient_counts_even_if_the_loss_is_finite():
    means = metrics.RunningMean()
    means.add(7, {**scalars(1.0), "grad_norm": jnp.float32("inf")})
    with pytest.raises(UserError, match="not finite at step 7"):
        means.check_finite()


def test_lines_are_objects_in_order(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0, tensorboard=True)
    writer.write_scalars(0, {"eval/loss": 2.0})
    writer.write_scalars(10, {"train/loss": 1.5, "utilisation": None})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 0, "eval/loss": 2.0},
        {"step": 10, "train/loss": 1.5, "utilisation": None},
    ]
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert b"train/loss" in events.read_bytes()
    assert b"utilisation" not in events.read_bytes()


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n{"step": 15}\n{"step": 2')
    metrics.MetricWriter(tmp_path, 10, tensorboard=False).close()
    assert [row["step"] for row in metrics.read_jsonl(tmp_path / "metrics.jsonl")] == [5, 10]


def test_a_run_that_starts_anew_drops_every_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 3}\n')
    metrics.MetricWriter(tmp_path, 0, tensorboard=False).close()
    assert metrics.read_jsonl(tmp_path / "metrics.jsonl") == []


def test_loss_plot_is_a_picture(tmp_path):
    rows = [{"step": 0, "eval/loss": 2.0, "eval/loss_zero": 1.0}, {"step": 5, "train/loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Image.open(metrics.plot_loss(tmp_path)) as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
