"""Where the time of a run goes. The device is waited for one step late, so it always has work."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

Row = dict[str, float | None]
"""Figures by name; None: not known."""

AWAY = ("first_step", "evaluate", "sample", "checkpoint", "log")
"""What takes time besides training; the first step compiles."""


class Clock:
    """Divides the time since the last row: training, waiting for data meanwhile, and the rest."""

    def __init__(
        self, clips_per_step: int, figures: Callable[[float | None], Row] = lambda seconds: {}
    ):
        """Starts to count.

        Args:
          figures: what else a row tells, given the seconds of a step (None: not known).
        """
        self._clips_per_step, self._figures = clips_per_step, figures
        self._running: Any = None
        self._has_begun = False
        self._totals = dict.fromkeys(("training", "data", *AWAY), 0.0)
        self._steps_in_all = 0
        self._start_anew()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The time in here is part of the training, and shown."""
        began = time.monotonic()
        yield
        self._data += time.monotonic() - began

    @contextmanager
    def away(self, what: str) -> Iterator[None]:
        """The time in here is not training's, but of `what`, one of `AWAY`."""
        self._wait()  # the step that still runs is training
        began = time.monotonic()
        yield
        self._away[what] += time.monotonic() - began

    def add(self, scalars: Mapping[str, Any]) -> None:
        """Counts a step that has been started, and waits for the one before it.

        The first is waited for itself: all the time until then that was not spent elsewhere is put
        down to it.

        Args:
          scalars: results of the step, still on the device.
        """
        self._wait()
        self._running = scalars
        self._steps += 1
        if not self._has_begun:
            self._wait()
            self._away["first_step"] += self._training()
            self._steps, self._data, self._has_begun = 0, 0.0, True

    def row(self) -> Row:
        """The figures since the last row, after which counting starts anew.

        Returns:
          `time/step` and `time/data`: seconds of a step, and of waiting for its batch;
          `time/data_share`: of these in those. The others of `time/`: seconds in all. What needs a
          step is None where there was none but the first.
        """
        self._wait()
        training, steps = self._training(), self._steps
        seconds = training / steps if steps else None
        row: Row = {
            "clips_per_second": self._clips_per_step / seconds if steps else None,
            "time/step": seconds,
            "time/data": self._data / steps if steps else None,
            "time/data_share": self._data / training if steps else None,
        }
        row |= {f"time/{what}": spent for what, spent in self._away.items()}
        self._sum_up(training)
        return row | self._figures(seconds)

    def summary(self) -> str:
        """One line about all of the run; call it when nothing follows."""
        self._wait()
        self._sum_up(self._training() if self._steps else 0.0)
        spent = self._totals
        parts = ", ".join(f"{what.replace('_', ' ')} {spent[what]:.1f} s" for what in AWAY)
        return (
            f"{self._steps_in_all} steps in {spent['training']:.1f} s, of which "
            f"{spent['data']:.1f} s waiting for data; besides: {parts}"
        )

    def _training(self) -> float:
        return max(time.monotonic() - self._began - sum(self._away.values()), 1e-9)

    def _wait(self) -> None:
        jax.block_until_ready(self._running)
        self._running = None

    def _sum_up(self, training: float) -> None:
        for what, spent in {"training": training, "data": self._data, **self._away}.items():
            self._totals[what] += spent
        self._steps_in_all += self._steps
        self._start_anew()

    def _start_anew(self) -> None:
        self._steps, self._data, self._began = 0, 0.0, time.monotonic()
        self._away = dict.fromkeys(AWAY, 0.0)
