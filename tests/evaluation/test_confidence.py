"""Intervals have the width that statistics says, and hold the truth as often as they claim."""

import numpy as np
import pytest

from posetraj_jax.evaluation.confidence import interval


def mean_of(values):
    return lambda times: float((values * times).sum() / times.sum())


def test_an_interval_of_a_mean_is_two_standard_errors_on_both_sides():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    low, high = interval(mean_of(values), 400, resamples=2000)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.03)


def test_it_holds_the_truth_about_19_times_of_20():
    held = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(0.0, 1.0, 60)
        low, high = interval(mean_of(values), 60, resamples=200, seed=seed)
        held += low <= 0 <= high
    assert 175 <= held <= 199


def test_the_same_seed_has_the_same_interval():
    values = np.arange(10.0)
    first, again = (interval(mean_of(values), 10, resamples=20, seed=3) for _ in range(2))
    assert first == again
    assert first != interval(mean_of(values), 10, resamples=20, seed=4)


def test_sets_without_a_value_are_left_out():
    def where_the_first_is(times):
        return 1.0 if times[0] else float("nan")

    assert interval(where_the_first_is, 4, resamples=50) == (1.0, 1.0)
    assert np.isnan(interval(lambda times: float("nan"), 4, resamples=5)).all()
