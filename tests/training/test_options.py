"""What a run is told: the config's numbers, and those that were published with its weights."""

import pytest

from posetraj_jax import config_file
from posetraj_jax.errors import UserError
from posetraj_jax.published import PREPROCESSOR, SCHEDULER, ImageStatistics
from posetraj_jax.training import options
from posetraj_jax.training.options import TrainingOptions
from posetraj_jax.weights import HOW_TO_CONVERT
from tests.published import write_published


def options_with(weights, **fields) -> TrainingOptions:
    overrides = {"weights": str(weights), **fields}
    return options.from_config(config_file.load("stage1:tiny", overrides))


def image_statistics(o: TrainingOptions) -> list[ImageStatistics]:
    """Wherever a run makes its conditioning: training, evaluation, sampling."""
    uses = (o.step.conditioning, o.watch.conditioning, o.watch.sampling.conditioning)
    return [conditioning.image_statistics for conditioning in uses]


def test_sampling_takes_the_range_of_the_weights_scheduler(tmp_path):
    write_published(tmp_path, scheduler={"sigma_min": 0.004, "sigma_max": 500})
    o = options_with(tmp_path, **{"diffusion.sigma_max": "80", "diffusion.sigma_min": "0.01"})
    assert (o.watch.sampling.sigma_min, o.watch.sampling.sigma_max) == (0.004, 500.0)
    for density in (o.step.noise, o.watch.noise):
        assert (density.sigma_min, density.sigma_max) == (0.01, 80.0)


def test_conditioning_takes_the_statistics_of_the_weights_preprocessor(tmp_path):
    statistics = ImageStatistics(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    changed = {"image_mean": [0.5, 0.25, 0.0], "image_std": [0.5, 0.25, 1.0]}
    write_published(tmp_path, preprocessor=changed)
    assert image_statistics(options_with(tmp_path)) == [statistics] * 3


def test_random_networks_take_the_numbers_of_svd():
    o = options_with("", **{"diffusion.sigma_max": "80"})
    assert (o.watch.sampling.sigma_min, o.watch.sampling.sigma_max) == (0.002, 700.0)
    assert image_statistics(o) == [ImageStatistics()] * 3


@pytest.mark.parametrize("name", [SCHEDULER, PREPROCESSOR])
def test_weights_without_their_published_files_are_refused(tmp_path, name):
    (write_published(tmp_path) / name).unlink()
    with pytest.raises(UserError) as caught:
        options_with(tmp_path)
    assert str(tmp_path / name) in caught.value.what
    assert HOW_TO_CONVERT in caught.value.fix


def test_weights_of_another_sampler_are_refused(tmp_path):
    write_published(tmp_path, scheduler={"prediction_type": "epsilon"})
    with pytest.raises(UserError, match="prediction_type: 'epsilon', not 'v_prediction'"):
        options_with(tmp_path)
