"""Says what a chain of stages did: `python -m posetraj_jax.stages RUN …` (`make stages` ends so).

One row per run: where it started from, and the evaluation loss before its first step and after its
last one. Each stage is evaluated on clips of its own kind, so losses compare within a row only.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from posetraj_jax import errors, runs
from posetraj_jax.errors import UserError
from posetraj_jax.training.metrics import JSONL, read_jsonl

HEADER = ("stage", "run", "initialised from", "steps", "before", "after", "change")


class Row(NamedTuple):
    """One run, in the order of `HEADER`; losses are those of evaluation."""

    stage: int
    run: str
    origin: str
    steps: int
    before: float
    after: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        change = f"{self.after / self.before - 1:+.1%}"
        losses = f"{self.before:.4f}", f"{self.after:.4f}"
        return (str(self.stage), self.run, self.origin, str(self.steps), *losses, change)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, prints the table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m posetraj_jax.stages", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    print(table([read_row(run) for run in options.runs]))
    return 0


def read_row(run: Path) -> Row:
    """What a run recorded.

    Raises:
      UserError: it has no checkpoint, or no evaluation at step 0 and at its last step.
    """
    trained = runs.find(run)
    losses = {
        row["step"]: row["eval/loss"] for row in read_jsonl(run / JSONL) if "eval/loss" in row
    }
    if not {0, trained.step} <= losses.keys():
        raise UserError(
            f"the run {run} cannot be put into a table",
            expected=f"{JSONL} with evaluations at step 0 and step {trained.step}",
            got=f"evaluations at steps {', '.join(map(str, sorted(losses))) or '(none)'}",
            fix="run its command again until it ends",
        )
    origin = trained.record["init_from"] or "the UNet"
    losses = losses[0], losses[trained.step]
    return Row(trained.record["stage"], run.name, Path(origin).name, trained.step, *losses)


def table(rows: Sequence[Row]) -> str:
    """The rows below the header, columns aligned."""
    cells = [HEADER, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


if __name__ == "__main__":
    errors.run(main)
