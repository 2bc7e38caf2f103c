"""Training from cached latents: what it computes from pixels, up to the cache's bfloat16."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep import encode_latents
from posetraj_jax import generation, pretrained, train
from posetraj_jax.data.pipeline import eval_examples, stack
from posetraj_jax.errors import UserError
from posetraj_jax.models.networks import Networks, Parameters, build_networks
from posetraj_jax.structs import Batch
from posetraj_jax.training import initial, options
from posetraj_jax.training.fixed_clips import write_comparison
from posetraj_jax.training.loss import NoisedClips, clip_losses, noise_clips
from posetraj_jax.training.options import TrainingOptions
from tests.encoded_clips import config, write_clips
from tests.meshes import one_device
from tests.training.conftest import redrawn

ROUNDING = 2.0**-8
"""What bfloat16 is off by at most, relative."""
KEYS = jax.random.split(jax.random.key(5), 2)
SIGMA = jnp.array([0.7, 3.0])


class Setup(NamedTuple):
    clips: Path
    latents: Path
    options: TrainingOptions
    networks: Networks
    parameters: Parameters


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> Setup:
    """Two clips of 5 and 4 frames, encoded; and the networks of a run on them."""
    folder = tmp_path_factory.mktemp("data")
    clips = write_clips(folder / "clips", (5, 4))
    encode_latents.run(config(clips), folder / "latents")
    o = options.from_config(config(clips, **{"data.latents": folder / "latents"}))
    networks, mesh = (
        build_networks(o.model),
        one_device(),
    )
    keys = pretrained.root_keys(0)
    frozen = pretrained.frozen_parameters(networks, mesh, "", keys.frozen)
    controlnet, _ = initial.initial_params(networks, frozen, None, mesh, keys.init, o.initial, {})
    parameters = frozen._replace(controlnet=redrawn(controlnet))
    return Setup(clips, folder / "latents", o, networks, parameters)


def batch_of(setup: Setup, cached: bool, **changes) -> Batch:
    fields = {} if cached else {"data.latents": ""}
    c = config(setup.clips, **{"data.latents": setup.latents, **fields, **changes})
    batch = stack(eval_examples(options.from_config(c).data, 2))
    assert (batch.encoded is None) == (not cached)
    return batch


@pytest.fixture(scope="module")
def noise(setup):
    """Batch, keys and parameters → clips as the loss sees them."""
    conditioning = setup.options.step.conditioning
    compiled = jax.jit(
        partial(noise_clips, networks=setup.networks, options=conditioning, drop=True)
    )
    return lambda batch, parameters=setup.parameters, keys=KEYS: compiled(
        parameters, batch, SIGMA, keys
    )


def worst(setup: Setup, cached: NoisedClips, exact: NoisedClips, batch: Batch) -> float:
    """The largest difference of latents and embeddings, in what rounding moments may do.

    With latents (mean + std noise) s and std = exp(logvar / 2), rounding moves the mean by up to
    2^-8 of it, and logvar by up to 2^-8 of it, so std by a factor of exp(2^-9 |logvar|).
    """
    scale = setup.networks.vae.config.scaling_factor
    mean, logvar = (np.asarray(moment, np.float32) for moment in batch.encoded[:2])
    random_part = np.abs(np.asarray(exact.latents) / scale - mean)
    allowed = scale * (
        ROUNDING * np.abs(mean) + random_part * np.expm1(0.5 * ROUNDING * np.abs(logvar))
    )
    # 1.1 and 1e-6: the rounded moments stand for the exact ones here, and sums have their order.
    latents = np.abs(cached.latents - exact.latents) / (1.1 * allowed + 1e-6)
    embeds = [np.asarray(clips.cond.image_embed) for clips in (cached, exact)]
    embed = np.abs(embeds[0] - embeds[1]) / (ROUNDING * np.abs(embeds[1]) + 1e-6)
    return float(max(latents.max(), embed.max()))


@pytest.mark.parametrize("draw_box", [True, False])
@pytest.mark.parametrize("condition_on_box", [True, False])
def test_the_same_clips_reach_the_loss(setup, noise, draw_box, condition_on_box):
    boxes = {"data.draw_box": draw_box, "data.condition_on_box": condition_on_box}
    batch = batch_of(setup, cached=True, **boxes)
    cached, exact = noise(batch), noise(batch_of(setup, cached=False, **boxes))
    assert worst(setup, cached, exact, batch) <= 1.0
    for name in ("image_latents", "maps_pixels", "time_ids"):  # made on the fly in both
        a, b = getattr(cached.cond, name), getattr(exact.cond, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name in ("noise", "sigma", "frame_order"):
        np.testing.assert_array_equal(getattr(cached, name), getattr(exact, name))


def test_anything_else_from_the_cache_would_be_far_off(setup, noise):
    """Another clip, frame or kind, or an embedding of another frame: what could be mixed up."""
    batch, exact = batch_of(setup, cached=True), noise(batch_of(setup, cached=False))
    right = batch.encoded
    clean = batch_of(setup, True, **{"data.draw_box": False, "data.condition_on_box": False})
    wrong = {
        "clip": right._replace(mean=right.mean[::-1], logvar=right.logvar[::-1]),
        "frame": right._replace(mean=right.mean[:, ::-1], logvar=right.logvar[:, ::-1]),
        "kind": right._replace(mean=clean.encoded.mean, logvar=clean.encoded.logvar),
        "moments": right._replace(mean=right.logvar, logvar=right.mean),
        "image": right._replace(image_embed=right.image_embed[::-1]),
        "image kind": right._replace(image_embed=clean.encoded.image_embed),
    }
    far = {
        name: worst(setup, noise(batch._replace(encoded=encoded)), exact, batch)
        for name, encoded in wrong.items()
    }
    assert min(far.values()) > 1000, far


def test_the_losses_are_the_same(setup, noise):
    """Rounding moves single latents by 0.4 %, and averages out over the 512 of a clip (2e-5 seen).

    Frames in another order change the loss by 0.4 % and 1 %.
    """
    losses = jax.jit(partial(clip_losses, denoiser=setup.networks.denoiser))
    batch = batch_of(setup, cached=True)
    exact = losses(setup.parameters, noise(batch_of(setup, cached=False)))
    np.testing.assert_allclose(losses(setup.parameters, noise(batch)), exact, rtol=1e-4)
    backwards = batch.encoded._replace(
        mean=batch.encoded.mean[:, ::-1], logvar=batch.encoded.logvar[:, ::-1]
    )
    wrong = losses(setup.parameters, noise(batch._replace(encoded=backwards)))
    assert float(jnp.abs(wrong / exact - 1).min()) > 2e-3


def test_the_posterior_is_sampled_anew_in_every_step(setup, noise):
    batch = batch_of(setup, cached=True)
    one, other = noise(batch), noise(batch, keys=KEYS[::-1])
    std = np.exp(0.5 * batch.encoded.logvar.astype(np.float32))
    scaled = (one.latents - other.latents) / setup.networks.vae.config.scaling_factor / std
    # The difference of two independent N(0, 1), from 1024 numbers.
    assert float(scaled.std()) == pytest.approx(2**0.5, rel=0.1)


def test_neither_training_nor_sampling_needs_the_image_encoder(setup, noise):
    data, dtype = setup.options.data, setup.options.model.dtype
    parameters = initial.without_cached(setup.parameters, data, dtype)
    assert parameters == setup.parameters._replace(image_encoder={})
    batch = batch_of(setup, cached=True)
    jax.tree.map(np.testing.assert_array_equal, noise(batch, parameters), noise(batch))
    sampling = setup.options.watch.sampling
    program = generation.make_program(setup.networks, sampling, one_device())
    drawn = program.draw(jax.random.split(jax.random.key(0), 2), batch)
    numbers = generation.scalars(sampling, batch.maps_uint8.shape[1])
    start = program.begin(parameters, batch, drawn, numbers)
    with_pixels = program.begin(setup.parameters, batch_of(setup, cached=False), drawn, numbers)
    for ours, expected in zip(*map(jax.tree.leaves, (start, with_pixels)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_without_latents_nothing_is_dropped(setup):
    data = options.from_config(config(setup.clips)).data
    assert initial.without_cached(setup.parameters, data, jnp.float32) is setup.parameters


def test_fixed_clips_are_shown_with_their_frames(setup, tmp_path):
    (example, _) = eval_examples(setup.options.data, 2)
    assert example.batch.frames_uint8 is None
    made = write_comparison(tmp_path, example, np.zeros_like(example.shown_uint8))
    target = made.sheet[: made.sheet.shape[0] // 2]
    assert target.any()
    assert made.gif.stat().st_size > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, "encoders: '[^']*', not '"),
        ({"data.resize": "bilinear"}, "resize: 'lanczos', not 'bilinear'"),
        ({"data.latents": "nowhere"}, "There are no latents in nowhere"),
    ],
)
def test_a_run_refuses_latents_of_others_before_it_writes_anything(
    setup, tmp_path, fields, message
):
    fields = {"data.latents": setup.latents, "batch_size": 8, **fields}
    with pytest.raises(UserError, match=message):
        train.run(config(setup.clips, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()
