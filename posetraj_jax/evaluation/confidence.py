"""How sure a number is: confidence intervals by drawing the clips again, with replacement."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

LEVEL = 0.95


def interval(
    statistic: Callable[[Int[np.ndarray, "n"]], float], n: int, *, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic of n clips.

    Args:
        statistic: of a set in which clip i is `times[i]` times; n in all.
        resamples: how many sets are drawn.

    Returns:
        Between which values 95 of 100 sets lie; those that are not numbers are left out, and where
        none is left, neither bound is a number.

    Source: Efron's percentile bootstrap. Clips are drawn as a whole: their frames are not
        independent of each other. A Fréchet distance is biased upwards, and more so of a set that
        was drawn, which has fewer different clips: there the interval lies above the figure.
    """
    rng = np.random.default_rng(seed)
    drawn = (rng.multinomial(n, np.full(n, 1 / n)) for _ in range(resamples))
    values = np.array([statistic(times) for times in drawn], np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
