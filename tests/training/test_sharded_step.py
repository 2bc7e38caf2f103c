"""The train step on meshes of eight devices: the same numbers as on one, whatever is split."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from posetraj_jax import sharding, tree
from posetraj_jax.models.networks import ModelOptions, build_networks
from posetraj_jax.training.loss import losses_and_gradient
from posetraj_jax.training.program import make_program
from tests.meshes import mesh_of, one_device
from tests.training.conftest import INITIAL, OPTIM, OPTIONS, make_batch, narrow, start

NETWORKS = build_networks(ModelOptions("micro", (1,) * 4))
KEY = jax.random.key(7)
STEPS = 3

MESHES = {
    # data, fsdp, context
    "8 x 1": (8, 1, 1),
    "2 x 4": (2, 4, 1),
    "1 x 8": (1, 8, 1),
    "2 x 2 x 2": (2, 2, 2),
    "1 x 4 x 2": (1, 4, 2),
}


class Trained(NamedTuple):
    """What some steps did; numpy."""

    losses: list[dict[str, float]]
    gradient: dict[str, np.ndarray]
    """Of the first step."""
    params: dict[str, np.ndarray]


def train(mesh, clips: int, frames: int, networks=NETWORKS) -> Trained:
    program = make_program(networks, mesh, INITIAL, OPTIONS)
    state, frozen, _ = start(networks, mesh)
    state = jax.tree.map(jnp.copy, state)  # the step donates it, and others use it too
    batch, key = make_batch(clips, frames=frames), jax.device_put(KEY, sharding.replicated(mesh))
    places = jax.tree.map(lambda leaf: leaf.sharding, program.state)
    losses, gradient = [], {}
    with jax.default_matmul_precision("highest"):
        for _ in range(STEPS):
            state, metrics = program.step(state, frozen, sharding.put_batch(batch, mesh), key)
            losses.append({name: float(value) for name, value in metrics.items()})
            # Else the next step is another program, which is compiled again.
            assert jax.tree.map(lambda leaf: leaf.sharding, state) == places
            if not gradient:  # Adam's first moment is a tenth of it
                moment = jax.device_get(optax.tree.get(state.opt_state, "mu"))
                gradient = {k: leaf / (1 - OPTIM.b1) for k, leaf in tree.flatten(moment).items()}
    return Trained(losses, gradient, tree.flatten(jax.device_get(state.params)))


@functools.cache
def on_one_device(clips: int, frames: int) -> Trained:
    return train(one_device(), clips, frames)


def require_same_losses(made: dict[str, float], expected: dict[str, float]) -> None:
    assert made == pytest.approx(expected, rel=1e-5)


def require_same_gradient(made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    largest = max(np.abs(leaf).max() for leaf in expected.values())
    assert largest > 0
    for path, leaf in expected.items():
        scale = max(np.abs(leaf).max(), 1e-2 * largest)
        assert np.abs(leaf - made[path]).max() <= 1e-4 * scale, path


def require_same(made: Trained, expected: Trained) -> None:
    for got, wanted in zip(made.losses, expected.losses, strict=True):
        require_same_losses(got, wanted)
    require_same_gradient(made.gradient, expected.gradient)
    for path, leaf in expected.params.items():  # Adam amplifies rounding
        assert np.abs(leaf - made.params[path]).max() <= OPTIM.lr, path


def test_one_level_split_over_four_devices_has_the_same_losses_and_gradient():
    """The quick form of what follows: clips, their rows, and parameters are split."""
    networks, params, frozen, clips = narrow()

    def run(params, frozen, clips):
        complete = functools.partial(frozen.with_part, "controlnet")
        return losses_and_gradient(params, complete, clips, networks=networks, spa=OPTIONS.spa)

    def on(mesh):
        parameters = (params, frozen)
        placed = jax.device_put(parameters, sharding.parameter_shardings(parameters, mesh))
        where = sharding.batch_sharding(mesh)
        losses, gradient = sharding.jit(run, mesh)(*placed, jax.device_put(clips, where))
        losses = {name: float(value) for name, value in losses.items()}
        return losses, tree.flatten(jax.device_get(gradient))

    with jax.default_matmul_precision("highest"):
        losses, gradient = on(mesh_of(1, 2, 2, jax.devices()[:4]))
        expected_losses, expected_gradient = on(one_device())
    require_same_losses(losses, expected_losses)
    require_same_gradient(gradient, expected_gradient)


@pytest.mark.full
@pytest.mark.parametrize("per_device", [1, 3])
@pytest.mark.parametrize("frames", [4, 3], ids=["by_frames", "by_rows"])
@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
def test_every_mesh_equals_one_device(shape, frames, per_device):
    """At one and three clips per device; three frames do not divide by two, so rows are split."""
    if shape[2] == 1 and frames == 3:
        pytest.skip("nothing is split within a clip, so the number of frames changes nothing")
    clips = per_device * shape[0] * shape[1]
    require_same(train(mesh_of(*shape), clips, frames), on_one_device(clips, frames))


@pytest.mark.full
@pytest.mark.parametrize("remat", ["none", "dots", "blocks"])
def test_what_is_recomputed_changes_nothing(remat):
    networks = build_networks(ModelOptions("micro", (1,) * 4, remat=(remat,)))
    require_same(train(mesh_of(2, 2, 2), 4, 4, networks), on_one_device(4, 4))
