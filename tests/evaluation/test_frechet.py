"""The Fréchet distance against closed forms, and that a stream is as good as a set in memory."""

import tracemalloc

import numpy as np
import pytest
from scipy import linalg

from posetraj_jax.evaluation.frechet import Moments, distance_of_clips, frechet_distance

D = 12


def rotation(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def exactly(mean, covariance, count, rng):
    """Features that have just these moments."""
    d = len(mean)
    white = rng.normal(size=(count, d))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def spd(rng, d=D):
    spread = rng.uniform(0.1, 3.0, d)
    turned = rotation(rng, d)
    return (turned * spread) @ turned.T


@pytest.mark.parametrize("seed", range(5))
def test_known_gaussians_have_the_closed_form(seed):
    """General covariances; the root of their product by scipy."""
    rng = np.random.default_rng(seed)
    means, covariances = rng.normal(size=(2, D)), [spd(rng) for _ in range(2)]
    a, b = (Moments.of(exactly(*each, 50, rng)) for each in zip(means, covariances, strict=True))
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_covariances_with_the_same_axes_have_a_form_without_roots_of_matrices():
    rng = np.random.default_rng(0)
    turned, wide, narrow = rotation(rng, D), rng.uniform(1, 2, D), rng.uniform(0.1, 1, D)
    a, b = (
        Moments.of(exactly(np.zeros(D), (turned * spread) @ turned.T, 40, rng))
        for spread in (wide, narrow)
    )
    expected = np.square(np.sqrt(wide) - np.sqrt(narrow)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [2, 5, 400])
def test_a_shifted_set_is_as_far_as_it_was_shifted(count):
    """With fewer rows than features too, where covariances are singular."""
    features = np.random.default_rng(0).normal(size=(count, 100))
    a, b = Moments.of(features), Moments.of(features + 0.3)
    assert frechet_distance(a, b) == pytest.approx(100 * 0.3**2, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9 * count)


def test_few_rows_have_the_distance_of_their_own_subspaces():
    """Three rows each in 200 features: the trace by singular values of the rows themselves."""
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(2, 3, 200))
    centred = sets - sets.mean(1, keepdims=True)
    shared = np.linalg.svd(centred[0] @ centred[1].T / 2, compute_uv=False).sum()
    expected = np.square(sets[0].mean(0) - sets[1].mean(0)).sum()
    expected += np.square(centred).sum() / 2 - 2 * shared
    assert frechet_distance(*map(Moments.of, sets)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_a_stream_has_the_moments_of_the_whole(pieces):
    """Also far from zero, where sums of squares would lose all digits."""
    features = 1e6 + np.random.default_rng(0).normal(size=(3000, D))
    whole = Moments.of(features)
    streamed = Moments.over(np.array_split(features, pieces))
    assert streamed.count == 3000
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(streamed.covariance, np.cov(features, rowvar=False), atol=1e-7)


def test_repeated_entries_are_as_if_they_were_there_so_often():
    features = np.random.default_rng(0).normal(size=(5, 3, D))
    times = np.array([2, 0, 1, 1, 700])
    repeated = Moments.repeated(features, times)
    wanted = Moments.of(np.repeat(features, times, axis=0).reshape(-1, D))
    assert repeated.count == wanted.count == 3 * times.sum()
    np.testing.assert_allclose(repeated.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(repeated.squares, wanted.squares, rtol=1e-9, atol=1e-9)


def test_memory_does_not_grow_with_the_number_of_clips():
    """1 000 clips of 14 frames, 64 features each."""

    def peak(clips):
        rng = np.random.default_rng(0)
        tracemalloc.start()
        Moments.over(rng.normal(size=(14, 64)) for _ in range(clips))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(1000) < 1.2 * peak(10)


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.full((2, 3), np.nan), [[np.inf, 0.0]]])
def test_features_that_are_no_numbers_are_refused(features):
    with pytest.raises(ValueError, match="finite numbers"):
        Moments.of(np.asarray(features))


def test_no_pieces_are_refused():
    with pytest.raises(ValueError, match="one row or more"):
        Moments.over([])


def test_features_of_other_networks_are_refused():
    a, b = Moments.of(np.eye(3)), Moments.of(np.eye(4))
    with pytest.raises(ValueError, match="of 3 and of 4 numbers"):
        frechet_distance(a, b)


def test_a_distance_of_clips_says_how_sure_it_is_and_of_how_much(tmp_path):
    """The same numbers from arrays in memory and in files."""
    rng = np.random.default_rng(0)
    true, made = rng.normal(size=(2, 200, 3, 4)).astype(np.float32)
    made += 0.5
    found = distance_of_clips(true, made, resamples=40)
    assert found.value == pytest.approx(
        frechet_distance(Moments.of(true.reshape(-1, 4)), Moments.of(made.reshape(-1, 4)))
    )
    assert found.low < found.value < found.high
    assert found.low < 4 * 0.5**2 < found.high
    assert (found.clips, found.rows) == (200, 600)
    for name, array in (("true", true), ("made", made)):
        np.save(tmp_path / f"{name}.npy", array)
    files = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("true", "made"))
    assert distance_of_clips(*files, resamples=40) == found


def test_without_resamples_there_is_no_interval():
    found = distance_of_clips(np.ones((3, 1, 2)), np.zeros((3, 1, 2)), resamples=0)
    assert found.value == pytest.approx(2.0)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("shape", [(2, 1, 2), (3, 2, 2), (3, 1, 3)])
def test_other_clips_than_the_true_ones_are_refused(shape):
    with pytest.raises(ValueError, match="true clips"):
        distance_of_clips(np.zeros((3, 1, 2)), np.zeros(shape), resamples=0)


def test_one_clip_that_is_no_number_is_refused():
    made = np.zeros((3, 1, 2))
    made[1, 0, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        distance_of_clips(np.zeros((3, 1, 2)), made, resamples=0)
