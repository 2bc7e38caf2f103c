"""Videos of the narrowest networks: batches, devices, seeds, and stopping."""

import numpy as np
import pytest

from posetraj_jax.data.camera_file import ROTATION, TRANSLATION
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings, StoppedError, generate, generate_many, read_request
from posetraj_jax.sampling.generate import program_of, sampling_options
from tests.sampling.models import micro_model

SMALL = {"height": 64, "width": 64, "num_frames": 3, "num_inference_steps": 2}
TRACKS = [[10.0, 10.0], [50.0, 40.0]]
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def make(**changes):
    tracks = changes.pop("tracks", TRACKS)
    return generate(PICTURE, tracks, micro_model(), **(SMALL | changes)).frames_uint8


def test_one_call_makes_a_video_and_says_how():
    video = generate(PICTURE, TRACKS, micro_model(), **SMALL, seed=5)
    assert video.frames_uint8.shape == (3, 64, 64, 3)
    assert video.frames_uint8.std() > 1
    assert video.settings["seed"] == 5
    assert video.settings["weights"] == "tiny"
    np.testing.assert_array_equal(video.frames_uint8, make(seed=5))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"tracks": [[10.0, 10.0], [12.0, 60.0]]},
        {"controlnet_conditioning_scale": 0.0},
        {"max_guidance_scale": 9.0},
        {"max_guidance_scale": 1.0},
        {"fps": 30},
        {"motion_bucket_id": 1},
        {"noise_aug_strength": 0.5},
        {"num_inference_steps": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_the_video(change):
    assert not np.array_equal(make(), make(**change))


def test_numbers_do_not_compile_again():
    model = micro_model()
    first = Settings(**SMALL)
    program = program_of(model, sampling_options(model, first))
    make()
    compiled = program.step._cache_size(), program.begin._cache_size()
    for change in ({"max_guidance_scale": 2.5}, {"fps": 9}, {"noise_aug_strength": 0.1}):
        make(**change)
        options = sampling_options(model, Settings(**SMALL | change))
        assert program_of(model, options) is program
    assert (program.step._cache_size(), program.begin._cache_size()) == compiled


def test_a_video_is_the_same_in_any_batch_and_on_any_devices():
    settings = Settings(**SMALL)
    other = read_request(PICTURE[::-1].copy(), [[20.0, 20.0], [30.0, 50.0]], settings)
    requests = [read_request(PICTURE, TRACKS, settings), other, other]
    alone = [v.frames_uint8 for v in generate_many(requests, micro_model(1), settings)]
    spread = [v.frames_uint8 for v in generate_many(requests, micro_model(2), settings)]
    assert len(alone) == len(spread) == 3
    for one, two in zip(alone, spread, strict=True):
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1
    assert not np.array_equal(alone[1], alone[2]), "each has a seed of its own"
    np.testing.assert_array_equal(alone[0], make())


def test_after_the_last_seed_comes_the_first():
    settings = Settings(**SMALL, seed=2**32 - 1)
    requests = [read_request(PICTURE, TRACKS, settings)] * 2
    last, first = generate_many(requests, micro_model(), settings)
    assert (last.settings["seed"], first.settings["seed"]) == (2**32 - 1, 0)
    np.testing.assert_array_equal(first.frames_uint8, make())


def test_a_camera_is_not_ignored(tmp_path):
    fields = {ROTATION: np.stack([np.eye(3)] * 3), TRANSLATION: np.zeros((3, 3))}
    np.save(tmp_path / "camera.npy", fields, allow_pickle=True)
    with pytest.raises(UserError, match="The camera would be ignored"):
        generate(PICTURE, TRACKS, micro_model(), camera=tmp_path / "camera.npy", **SMALL)


def test_progress_is_told_and_may_stop():
    seen = []

    def progress(done, total):
        seen.append((done, total))
        return done < 2

    with pytest.raises(StoppedError):
        generate(PICTURE, TRACKS, micro_model(), progress=progress, **SMALL)
    assert seen == [(1, 2), (2, 2)]
    make()  # and it goes on
