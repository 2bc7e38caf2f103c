"""The Fréchet distance between two sets of features, exact and in constant memory.

FID and FVD are this distance, of pictures and of clips: that of the normal distributions which have
the sets' means and covariances.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from posetraj_jax.evaluation.confidence import interval

ROWS = 1024
"""Features that are summed at a time; more would only take memory."""


class Moments(NamedTuple):
    """Count, mean and centred squares of features, in float64; sets are put together with +."""

    count: int
    mean: Float[np.ndarray, "d"]
    squares: Float[np.ndarray, "d d"]
    """Σ (x - mean)(x - mean)ᵀ."""

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "Moments":
        """Those of a set that is in memory.

        Raises:
            ValueError: There is none, or one is not finite.
        """
        x = np.asarray(features, np.float64)
        if not len(x) or not np.isfinite(x).all():
            raise ValueError("features are finite numbers, one row or more")
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def over(cls, chunks: Iterable[Float[np.ndarray, "_ d"]]) -> "Moments":
        """Those of a set that comes in pieces; raises as `of`, or if no piece comes."""
        total = None
        for chunk in chunks:
            for start in range(0, len(chunk), ROWS):
                part = cls.of(chunk[start : start + ROWS])
                total = part if total is None else total + part
        if total is None:
            raise ValueError("features are finite numbers, one row or more")
        return total

    @classmethod
    def repeated(
        cls, features: Float[np.ndarray, "n k d"], times: Int[np.ndarray, "n"]
    ) -> "Moments":
        """Those of a set in which entry i of `features`, k rows, is `times[i]` times."""
        chosen = np.repeat(np.arange(len(times)), times)
        at_once = max(1, ROWS // features.shape[1])
        pieces = range(0, len(chosen), at_once)
        d = features.shape[-1]
        return cls.over(features[chosen[at : at + at_once]].reshape(-1, d) for at in pieces)

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        mean = self.mean + step * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased one; zero for a single row."""
        return self.squares / max(self.count - 1, 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½), never below zero.

    The last trace is the sum of the singular values of Laᵀ Lb, where Σ = L Lᵀ: with fewer clips
    than features covariances are singular, and a root of their product would often be complex.

    Source: Heusel et al. 2017, eq. 6. Differs from pytorch-fid, which adds 1e-6 to singular
    covariances' diagonals and drops imaginary parts.

    Raises:
        ValueError: Features of different sizes.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and of {b.mean.size} numbers")
    shared = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared.sum()
    return max(float(np.square(a.mean - b.mean).sum() + spread), 0.0)


class Distance(NamedTuple):
    """A Fréchet distance, how sure it is, and of how much."""

    value: float
    low: float
    high: float
    """Between these lie the distances of 95 of 100 sets of clips drawn from these clips."""
    clips: int
    rows: int
    """Features of each set: clips, or all their frames."""


def distance_of_clips(
    true: Float[np.ndarray, "n k d"],
    made: Float[np.ndarray, "n2 k2 d2"],
    *,
    resamples: int,
    seed: int = 0,
) -> Distance:
    """The distance between true and generated clips, clip i of both for the same thing.

    A drawn set has the same clips on both sides. The arrays may lie in files (`np.memmap`): they
    are read in pieces.

    Args:
        resamples: sets drawn for the interval; with 0 there is none.

    Raises:
        ValueError: Features that are not finite; or not of the same shape.
    """

    def between(times: Int[np.ndarray, "n"]) -> float:
        return frechet_distance(Moments.repeated(true, times), Moments.repeated(made, times))

    if true.shape != made.shape:
        raise ValueError(f"features of true clips {true.shape}, of generated ones {made.shape}")
    n, k, _ = true.shape
    value = between(np.ones(n, int))
    low, high = interval(between, n, resamples=resamples, seed=seed)
    return Distance(value, low, high, n, n * k)


def _factor(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """L with L Lᵀ = Σ, one column for each direction in which there is any spread."""
    spread, directions = np.linalg.eigh(covariance)
    least = max(spread[-1], 0.0) * len(spread) * np.finfo(np.float64).eps
    kept = spread > least
    return directions[:, kept] * np.sqrt(spread[kept])
