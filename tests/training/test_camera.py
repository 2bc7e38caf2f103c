"""The camera's way through the whole denoiser: no way at the start, and one after training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from posetraj_jax.structs import CAMERA_NUMBERS
from posetraj_jax.training.loss import losses_and_gradient
from posetraj_jax.training.optimizer import make_optimizer
from tests.parity import relative_error
from tests.training.conftest import OPTIM, OPTIONS, narrow


def test_the_output_is_deaf_to_cameras_until_it_is_trained():
    """Every leaf but the camera's columns redrawn: the output is exactly that without a camera."""
    networks, params, frozen, clips = narrow()
    complete = partial(frozen.with_part, "controlnet")
    params = with_deaf_camera(params)

    @jax.jit
    def denoised(params, camera_rt):
        cond = clips.cond._replace(camera_rt=camera_rt)
        return networks.denoiser(complete(params), clips.noisy, clips.sigma, cond)

    cameras = clips.cond.camera_rt
    silent = denoised(params, jnp.zeros_like(cameras))
    assert float(jnp.abs(silent).max()) > 0
    for camera_rt in (cameras, 1e4 * cameras, None):
        np.testing.assert_array_equal(denoised(params, camera_rt), silent)

    optimizer = make_optimizer(OPTIM)

    @jax.jit
    def train(params, state):
        _, grads = losses_and_gradient(params, complete, clips, networks=networks, spa=OPTIONS.spa)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(2):
        params, state = train(params, state)
    heard, silent = (denoised(params, each) for each in (cameras, jnp.zeros_like(cameras)))
    assert relative_error(heard, silent) > 1e-4


def with_deaf_camera(params):
    """The camera's columns of the projection as they start by default: zero."""
    branch = params["controlnet_cond_embedding"]
    kernel = branch["cc_projection"]["kernel"].copy()
    kernel[-CAMERA_NUMBERS:] = 0.0
    projection = branch["cc_projection"] | {"kernel": kernel}
    return params | {"controlnet_cond_embedding": branch | {"cc_projection": projection}}
