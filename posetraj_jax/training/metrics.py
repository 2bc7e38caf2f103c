"""Where numbers and pictures of a run go: metrics.jsonl, TensorBoard, loss.png. No TensorFlow."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clu.metrics
import jax
import matplotlib
import numpy as np
from jaxtyping import UInt8

from posetraj_jax import hosts
from posetraj_jax.errors import UserError

JSONL = "metrics.jsonl"


class RunningMean:
    """Means of the step's scalars since the last reading, without waiting for the device."""

    def __init__(self):
        self._collection = None
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._total, self._watched = None, []

    def add(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds the scalars of optimizer step `step`, still on the device."""
        if self._collection is None:
            averages = {name: clu.metrics.Average.from_output(name) for name in scalars}
            self._collection = clu.metrics.Collection.create(**averages)
        single = self._collection.single_from_model_output(**scalars)
        self._total = single if self._total is None else self._total.merge(single)
        self._watched.append((step, scalars["loss"], scalars["grad_norm"]))

    def check_finite(self) -> None:
        """Waits for the steps so far; raises UserError naming the first that is not finite.

        The gradient counts too: a finite loss with a NaN gradient has spoilt the parameters.
        """
        for step, loss, grad_norm in jax.device_get(self._watched):
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                raise UserError(
                    f"training is not finite at step {step}",
                    expected="a finite loss and a finite gradient",
                    got=f"loss {loss}, gradient norm {grad_norm}",
                    fix="lower optim.lr, raise optim.warmup_steps, or set optim.clip_norm; "
                    "the last checkpoint was written before this step",
                )

    @property
    def count(self) -> int:
        """How many steps have been added since the last reset."""
        return len(self._watched)

    def compute(self) -> dict[str, float]:
        """The means on the host, named train/…"""
        self.check_finite()
        return {f"train/{name}": float(value) for name, value in self._total.compute().items()}


class MetricWriter:
    """Appends one JSON object per written step to metrics.jsonl, and mirrors it to TensorBoard.

    In process 0; the others' write nothing.
    """

    def __init__(self, workdir: Path, first_step: int, *, tensorboard: bool):
        self._file = self._board = None
        if not hosts.is_writer():
            return
        path = workdir / JSONL
        _forget_after(path, first_step)
        self._file = path.open("a")
        if tensorboard:
            # Imported late: tensorboardX loads torch wherever that is installed.
            from tensorboardX import SummaryWriter

            folder = str(workdir / "tensorboard")
            self._board = SummaryWriter(folder, purge_step=first_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Writes one line; `step` counts finished optimizer steps. None, not known, is null."""
        if self._file:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
        if self._board:
            for name, value in scalars.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, image_uint8: UInt8[np.ndarray, "h w 3"]) -> None:
        """Shows a picture in TensorBoard."""
        if self._board:
            self._board.add_image(name, image_uint8, step, dataformats="HWC")

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut off by a kill is ignored."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def plot_loss(workdir: Path) -> Path:
    """Draws loss.png from metrics.jsonl: training and evaluation loss, and the zero baseline."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_jsonl(workdir / JSONL)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    styles = {
        "train/loss": ("training", "C0-", 0.5),
        "eval/loss": ("evaluation", "C1o-", 1.0),
        "eval/loss_zero": ("evaluation of predicting zero", "k--", 0.6),
    }
    for name, (label, style, alpha) in styles.items():
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, alpha=alpha, markersize=4)
    axes.set(xlabel="optimizer step", ylabel="loss", title=workdir.name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = workdir / "loss.png"
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _forget_after(path: Path, step: int) -> None:
    """Drops the lines that a run resumed at `step` will write again; all if it starts anew."""
    if not path.exists():
        return
    kept = [row for row in read_jsonl(path) if 0 < step >= row["step"]]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
    partial.rename(path)
