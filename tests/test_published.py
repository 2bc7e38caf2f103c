"""The published files against diffusers and transformers, which they were written for."""

import inspect
import json

import jax
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from transformers import CLIPImageProcessor

from posetraj_jax import published
from posetraj_jax.diffusion import sampler
from posetraj_jax.diffusion.noise import karras_sigmas
from posetraj_jax.errors import UserError
from posetraj_jax.published import (
    PREPROCESSOR,
    PREPROCESSOR_FIELDS,
    SCHEDULER,
    SCHEDULER_FIELDS,
    ImageStatistics,
    SigmaRange,
)
from tests.published import (
    OTHER_PREPROCESSOR,
    OTHER_SCHEDULER,
    SVD_PREPROCESSOR,
    SVD_SCHEDULER,
    write_published,
)

PICTURES = torch.tensor(np.random.default_rng(0).uniform(0, 1, (2, 3, 224, 224)), dtype=torch.float)
STEPS = (1, 2, 25, 30)


def schedule(fields: dict, steps: int) -> dict[str, np.ndarray]:
    """All that the stock pipeline takes from its scheduler besides the step itself."""
    scheduler = EulerDiscreteScheduler.from_config(fields)
    scheduler.set_timesteps(steps)
    names = ("sigmas", "timesteps", "init_noise_sigma")
    return {name: np.asarray(getattr(scheduler, name)) for name in names}


def seen_by_clip(fields: dict) -> np.ndarray:
    """What the stock pipeline gives its image encoder: its own call of the preprocessor."""
    switches = {"do_center_crop": False, "do_resize": False, "do_rescale": False}
    processor = CLIPImageProcessor.from_dict(dict(fields))
    made = processor(images=PICTURES, do_normalize=True, return_tensors="pt", **switches)
    return np.asarray(made.pixel_values)


def saved_today(tmp_path) -> tuple[dict, dict]:
    EulerDiscreteScheduler.from_config(SVD_SCHEDULER).save_config(tmp_path)
    CLIPImageProcessor().save_pretrained(tmp_path)
    names = ("scheduler_config.json", "preprocessor_config.json")
    scheduler, preprocessor = (json.loads((tmp_path / name).read_text()) for name in names)
    return scheduler, preprocessor


def test_the_published_files_are_implemented(tmp_path):
    assert not published.scheduler_problems(SVD_SCHEDULER)
    assert not published.preprocessor_problems(SVD_PREPROCESSOR)
    write_published(tmp_path)
    assert published.read_sigma_range(tmp_path) == SigmaRange() == SigmaRange(0.002, 700.0)
    assert published.read_image_statistics(tmp_path) == ImageStatistics()


def test_the_defaults_are_those_of_clip():
    processor = CLIPImageProcessor()
    assert tuple(processor.image_mean) == ImageStatistics().mean
    assert tuple(processor.image_std) == ImageStatistics().std


def test_what_todays_libraries_save_is_implemented(tmp_path):
    scheduler, preprocessor = saved_today(tmp_path)
    assert scheduler.keys() > SVD_SCHEDULER.keys()  # so defaults were added
    assert not published.scheduler_problems(scheduler)
    assert not published.preprocessor_problems(preprocessor)


def test_numbers_are_read_from_the_files(tmp_path):
    mean, std = [0.5, 0, 0.25], [1, 0.5, 0.25]
    write_published(
        tmp_path, {"sigma_min": 0.01, "sigma_max": 80}, {"image_mean": mean, "image_std": std}
    )
    assert published.read_sigma_range(tmp_path) == SigmaRange(0.01, 80.0)
    assert published.read_image_statistics(tmp_path) == ImageStatistics(
        (0.5, 0.0, 0.25), (1.0, 0.5, 0.25)
    )


@pytest.mark.parametrize("name", [*SCHEDULER_FIELDS.required, *SCHEDULER_FIELDS.optional])
def test_a_scheduler_that_works_otherwise_is_named(name):
    (problem,) = published.scheduler_problems(SVD_SCHEDULER | {name: OTHER_SCHEDULER[name]})
    assert problem.startswith(f"{name}: {OTHER_SCHEDULER[name]!r}, not ")


@pytest.mark.parametrize("name", PREPROCESSOR_FIELDS.optional)
def test_a_preprocessor_that_works_otherwise_is_named(name):
    fields = SVD_PREPROCESSOR | {name: OTHER_PREPROCESSOR[name]}
    (problem,) = published.preprocessor_problems(fields)
    assert problem.startswith(f"{name}: {OTHER_PREPROCESSOR[name]!r}, not ")


def test_a_truthy_number_is_not_true():
    """JSON's 1 equals True in Python, and 0 equals False."""
    fields = SVD_SCHEDULER | {"use_karras_sigmas": 1, "use_beta_sigmas": 0}
    assert published.scheduler_problems(fields) == [
        "use_karras_sigmas: 1, not True",
        "use_beta_sigmas: 0, not False",
    ]


@pytest.mark.parametrize("name", [*SCHEDULER_FIELDS.required, *SCHEDULER_FIELDS.optional])
def test_a_scheduler_field_may_be_absent_only_if_diffusers_default_is_implemented(name):
    fields = {key: value for key, value in SVD_SCHEDULER.items() if key != name}
    arguments = inspect.signature(EulerDiscreteScheduler.__init__).parameters
    default = arguments[name].default if name in arguments else None
    is_implemented = not published.scheduler_problems(fields | {name: default})
    expected = [] if is_implemented else [f"{name}: missing"]
    assert published.scheduler_problems(fields) == expected


@pytest.mark.parametrize("name", PREPROCESSOR_FIELDS.required)
def test_statistics_are_not_guessed(name):
    fields = {key: value for key, value in SVD_PREPROCESSOR.items() if key != name}
    assert published.preprocessor_problems(fields) == [f"{name}: missing"]


def test_unknown_fields_are_named_and_notes_are_not():
    new = {"shift": 3.0, "use_flow_sigmas": False, "_note": 1}
    expected = ["shift: not known here", "use_flow_sigmas: not known here"]
    assert published.scheduler_problems(SVD_SCHEDULER | new) == expected
    assert published.preprocessor_problems(SVD_PREPROCESSOR | new) == expected


NOT_POSITIVE = [True, "700", [700.0], {}, None, 0, 0.0, -1.0, float("nan"), float("inf")]
NOT_POSITIVE += [1e-300, 1e300, 10**400]  # float32 cannot hold them, or their squares


@pytest.mark.parametrize("value", NOT_POSITIVE, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", ["sigma_min", "sigma_max"])
def test_a_noise_level_that_is_no_positive_number(name, value):
    (problem,) = published.scheduler_problems(SVD_SCHEDULER | {name: value})
    assert problem.startswith(f"{name}: ")
    assert problem.endswith(", not a positive number")
    assert len(problem) < 100


@pytest.mark.parametrize("low", [700.0, 701])
def test_noise_levels_in_the_wrong_order(low):
    assert published.scheduler_problems(SVD_SCHEDULER | {"sigma_min": low}) == [
        f"sigma_min: {low}, not below sigma_max = 700.0"
    ]


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
@pytest.mark.parametrize(
    "value",
    [0.5, "abc", None, {}, [], [0.5, 0.5], [0.5] * 4, [True] * 3, [0.5, 0.5, "0.5"], [[0.5]] * 3]
    + [[0.5, 0.5, wrong] for wrong in (None, float("nan"), float("-inf"), 1e300, 10**400)],
    ids=lambda value: repr(value)[:30],
)
def test_statistics_that_are_not_three_numbers(name, value):
    (problem,) = published.preprocessor_problems(SVD_PREPROCESSOR | {name: value})
    assert problem.startswith(f"{name}: ")
    assert len(problem) < 200


def test_a_deviation_is_positive_and_a_mean_need_not_be():
    std, mean = {"image_std": [0.5, 0.5, 0]}, {"image_mean": [-0.5, 0, 0.5]}
    (problem,) = published.preprocessor_problems(SVD_PREPROCESSOR | std | mean)
    assert problem == "image_std: [0.5, 0.5, 0], not three positive numbers"


@pytest.mark.parametrize(
    ("read", "name"),
    [(published.read_sigma_range, SCHEDULER), (published.read_image_statistics, PREPROCESSOR)],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path, read, name):
    path = write_published(tmp_path) / name
    whole = path.read_text()
    for content in (whole[:-20], "[]", '{"shift": 1, "sigma_min": NaN, "image_std": [0, 0]}'):
        path.write_text(content)
        with pytest.raises(UserError) as caught:
            read(tmp_path, "mend it")
        assert str(path) in caught.value.what
        assert caught.value.fix == "mend it"
    assert "shift: not known here" in caught.value.got  # all problems at once
    assert ": missing" in caught.value.got
    assert ": nan, not a positive number" in caught.value.got or ": [0, 0]" in caught.value.got
    path.unlink()
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(path) in caught.value.what


@pytest.mark.parametrize("sigma_range", [(0.002, 700.0), (0.01, 80.0), (0.5, 1.0), (1e-3, 500.0)])
@pytest.mark.parametrize("steps", STEPS)
def test_our_grid_and_initial_noise_are_those_of_diffusers(sigma_range, steps):
    low, high = sigma_range
    fields = SVD_SCHEDULER | {"sigma_min": low, "sigma_max": high}
    assert not published.scheduler_problems(fields)
    theirs = schedule(fields, steps)
    np.testing.assert_allclose(karras_sigmas(steps, low, high), theirs["sigmas"], rtol=1e-6)
    noise = jax.random.normal(jax.random.key(0), (1, 1, 2, 2, 4))
    expected = noise * theirs["init_noise_sigma"]
    np.testing.assert_allclose(sampler.initial_latents(noise, high), expected, rtol=1e-6)
    np.testing.assert_allclose(np.log(theirs["sigmas"][:-1]) / 4, theirs["timesteps"], 1e-5, 1e-6)


@pytest.mark.parametrize("name", SCHEDULER_FIELDS.unused)
def test_unused_scheduler_fields_change_nothing_in_diffusers(name):
    fields = SVD_SCHEDULER | {name: OTHER_SCHEDULER[name]}
    assert fields != SVD_SCHEDULER
    assert not published.scheduler_problems(fields)
    for steps in STEPS:
        for ours, altered in zip(
            schedule(SVD_SCHEDULER, steps).values(), schedule(fields, steps).values(), strict=True
        ):
            np.testing.assert_array_equal(ours, altered)


@pytest.mark.parametrize("name", ["timestep_type", "timestep_spacing", "sigma_max", "sigma_min"])
def test_fields_that_are_checked_do_change_diffusers(name):
    """Were the comparison above blind, it would be blind here too."""
    other = {"sigma_max": 600.0, "sigma_min": 0.01}.get(name, OTHER_SCHEDULER[name])
    ours, altered = (schedule(SVD_SCHEDULER | change, 25) for change in ({}, {name: other}))
    assert any(not np.array_equal(ours[part], altered[part]) for part in ours)


@pytest.mark.parametrize("name", PREPROCESSOR_FIELDS.unused)
def test_unused_preprocessor_fields_change_nothing_in_transformers(name):
    fields = SVD_PREPROCESSOR | {name: OTHER_PREPROCESSOR[name]}
    assert fields != SVD_PREPROCESSOR
    assert not published.preprocessor_problems(fields)
    np.testing.assert_array_equal(seen_by_clip(SVD_PREPROCESSOR), seen_by_clip(fields))


@pytest.mark.parametrize("name", PREPROCESSOR_FIELDS.required)
def test_statistics_do_change_what_transformers_makes(name):
    altered = seen_by_clip(SVD_PREPROCESSOR | {name: OTHER_PREPROCESSOR[name]})
    assert np.abs(altered - seen_by_clip(SVD_PREPROCESSOR)).max() > 0.01
