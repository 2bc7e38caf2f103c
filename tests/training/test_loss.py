"""The loss on denoisers whose error is known, and stills taken out of clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax.diffusion import edm
from posetraj_jax.models.denoiser import Denoiser
from posetraj_jax.models.networks import ModelOptions, Parameters, build_networks
from posetraj_jax.structs import Conditioning
from posetraj_jax.training import loss
from posetraj_jax.training.loss import NoisedClips
from tests.training.conftest import FRAMES, make_batch

SIGMA = jnp.array([0.5, 2.0])
CLIPS, LENGTH = 2, 5


def clips() -> NoisedClips:
    """Two clips of five frames; maps and cameras tell which frame of which clip they belong to."""
    latents, noise = jax.random.normal(jax.random.key(0), (2, CLIPS, LENGTH, 4, 4, 4))
    number = jnp.arange(CLIPS * LENGTH, dtype=jnp.float32).reshape(CLIPS, LENGTH)
    cond = Conditioning(
        image_embed=jnp.arange(CLIPS * 3.0).reshape(CLIPS, 3),
        image_latents=jnp.arange(CLIPS * 64.0).reshape(CLIPS, 4, 4, 4),
        maps_pixels=jnp.broadcast_to(number[..., None, None, None], (CLIPS, LENGTH, 32, 32, 3)),
        time_ids=jnp.arange(CLIPS * 3.0).reshape(CLIPS, 3),
        camera_rt=jnp.broadcast_to(number[..., None], (CLIPS, LENGTH, 12)),
    )
    order = jnp.array([[3, 0, 1, 2, 4], [1, 4, 0, 2, 3]])
    return NoisedClips(latents, noise, SIGMA, cond, order)


def losses_of(denoised):
    """Of a denoiser that gives this answer whatever it is asked."""

    class Answering(Denoiser):
        def control(self, *_):
            return None

        def denoise(self, *_):
            return denoised

    networks = build_networks(ModelOptions("micro", (1,) * 4))
    nothing = Parameters({}, {}, {}, {})
    return loss.clip_losses(nothing, clips(), Answering(*networks.denoiser))


def test_the_truth_has_no_loss():
    np.testing.assert_array_equal(losses_of(clips().latents), [0.0, 0.0])


def test_loss_is_the_mean_square_of_the_v_target():
    wide = edm.expand(SIGMA, 5)
    target = (clips().noise - wide * clips().latents) / jnp.sqrt(1 + wide**2)
    expected = jnp.mean(target**2, axis=(1, 2, 3, 4))
    silent = losses_of(clips().noisy / (1 + wide**2))
    np.testing.assert_allclose(silent, expected, rtol=1e-5)
    np.testing.assert_allclose(loss.zero_losses(clips()), expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_stills_are_the_chosen_frames_with_their_own_map_and_camera(count):
    given, stills = clips(), loss.stills_of(clips(), count)
    assert stills.latents.shape == (CLIPS * count, 1, 4, 4, 4)
    for clip in range(CLIPS):
        for place in range(count):
            frame, row = int(given.frame_order[clip, place]), clip * count + place
            for name in ("latents", "noise"):
                wanted = getattr(given, name)[clip, frame]
                np.testing.assert_array_equal(getattr(stills, name)[row, 0], wanted)
            assert float(stills.cond.maps_pixels[row].min()) == clip * LENGTH + frame
            assert float(stills.cond.camera_rt[row].max()) == clip * LENGTH + frame
            assert float(stills.sigma[row]) == float(SIGMA[clip])
            for name in ("image_embed", "image_latents", "time_ids"):
                wanted = getattr(given.cond, name)[clip]
                np.testing.assert_array_equal(getattr(stills.cond, name)[row], wanted)


def test_noise_belongs_to_the_clip_and_not_to_its_place():
    keys = jax.random.split(jax.random.key(3), 3)
    all_three = loss.draw_clip_noise(keys, make_batch(3), 4)
    last = loss.draw_clip_noise(keys[2:], make_batch(1), 4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b), all_three, last)
    assert all_three.diffusion.shape == (3, FRAMES, 8, 8, 4)
    for kind in (all_three.posterior, all_three.diffusion):
        assert float(jnp.abs(kind[0] - kind[1]).mean()) > 0.5
    assert float(jnp.abs(all_three.posterior - all_three.diffusion).mean()) > 0.5
    assert float(jnp.abs(all_three.dropout[:, 0] - all_three.dropout[:, 1]).min()) > 1e-3


def test_every_frame_becomes_a_still_equally_often():
    keys = jax.random.split(jax.random.key(4), 4000)
    batch = make_batch(1)._replace(maps_uint8=jnp.zeros((1, LENGTH, 8, 8, 3), jnp.uint8))
    order = np.asarray(loss.draw_clip_noise(keys, batch, 1).frame_order)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(LENGTH), (4000, 1)))
    for place in range(LENGTH):
        counts = np.bincount(order[:, place], minlength=LENGTH)
        assert np.abs(counts / 4000 - 1 / LENGTH).max() < 0.03
