"""Training an adapter: the gradients of whole kernels, projected; and only what should, moves."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import pretrained, tree
from posetraj_jax.models import adapter
from posetraj_jax.training import initial
from posetraj_jax.training.loss import losses_and_gradient
from posetraj_jax.training.optimizer import make_optimizer
from posetraj_jax.training.state import lay_out
from posetraj_jax.training.step import train_step
from tests.meshes import one_device
from tests.parity import draw
from tests.training.conftest import INITIAL, OPTIONS, make_batch, narrow, redrawn

RANK = 3
WITH_ADAPTER = dataclasses.replace(INITIAL, rank=RANK)


@pytest.fixture(scope="module")
def gradients():
    """(losses, gradient) of an adapter, those of the merged ControlNet, and the adapter itself."""
    made = narrow()
    own, base = adapter.split(made.params)
    shapes = tree.flatten(adapter.abstract_factors(base, RANK))
    factors = {path: 0.2 * draw(i, *leaf.shape) for i, (path, leaf) in enumerate(shapes.items())}
    params = tree.merged(own, tree.unflatten(factors))
    whole = made.params | {}
    like = jax.tree.map(jnp.asarray, whole)
    merged = adapter.merged(*(jax.tree.map(jnp.asarray, part) for part in (base, params)), like)

    def of(params, frozen):
        @jax.jit
        def compute(params):
            return losses_and_gradient(
                params,
                lambda params: frozen.with_part("controlnet", params),
                made.clips,
                networks=made.networks,
                spa=OPTIONS.spa,
            )

        with jax.default_matmul_precision("highest"):
            return compute(params)

    frozen = made.frozen
    return of(params, frozen._replace(controlnet=base)), of(merged, frozen), params


def test_losses_are_those_of_the_merged_controlnet(gradients):
    (losses, _), (expected, _), _ = gradients
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)


def test_gradients_are_those_of_full_training_projected_on_the_factors(gradients):
    (_, got), (_, whole), params = gradients
    got, whole, params = map(tree.flatten, (got, whole, params))
    assert got.keys() == params.keys()
    projected = 0
    for path, gradient in got.items():
        stem, _, name = path.rpartition(".")
        if name in ("down", "up"):
            of_kernel = whole[f"{stem}.kernel"]
            rows = np.reshape(of_kernel, (-1, of_kernel.shape[-1]))
            down, up = params[f"{stem}.down"], params[f"{stem}.up"]
            expected = rows @ up.T if name == "down" else np.reshape(down, (-1, RANK)).T @ rows
            expected, projected = np.reshape(expected, gradient.shape), projected + 1
        else:
            expected = whole[path]
        largest = np.abs(expected).max()
        assert largest > 0, path
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * largest, rtol=0, err_msg=path)
    assert projected > 60


def begun(networks, mesh, optim=OPTIONS.optim):
    """The state of a fresh adapter run, what is frozen beside it, and the optimizer."""
    frozen = pretrained.frozen_parameters(networks, mesh, "", jax.random.key(0))
    base = initial.abstract_base(networks, mesh, WITH_ADAPTER, jnp.float32, "sharded")
    params, base = initial.initial_params(
        networks, frozen, None, mesh, jax.random.key(1), WITH_ADAPTER, base
    )
    optimizer = make_optimizer(optim)
    begin, shapes = lay_out(
        initial.abstract_params(networks, WITH_ADAPTER), optimizer, mesh, averages=True
    )
    state = begin(params)
    assert not tree.differences(shapes.params, state.params)
    frozen = initial.without_trained(frozen, base, WITH_ADAPTER)
    return state, frozen, optimizer


def test_an_adapter_starts_as_the_controlnet_it_adapts(networks):
    state, frozen, _ = begun(networks, one_device())
    whole, _ = initial.initial_params(
        networks, frozen, None, one_device(), jax.random.key(1), INITIAL, {}
    )
    target = jax.tree.map(lambda leaf: leaf, whole)
    merged = adapter.merged(frozen.controlnet, state.params, target)
    jax.tree.map(np.testing.assert_array_equal, merged, whole)


def test_a_step_changes_the_adapter_and_nothing_else(networks):
    state, frozen, optimizer = begun(networks, one_device())
    state = state._replace(params=redrawn(state.params))
    before = jax.tree.map(np.array, frozen)
    step = partial(train_step, networks=networks, optimizer=optimizer, options=OPTIONS)
    after, metrics = jax.jit(step)(state, frozen, make_batch(1), jax.random.key(7))
    assert np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before, frozen)
    trained = tree.flatten(after.params)
    same = [
        path
        for path, old in tree.flatten(state.params).items()
        if np.array_equal(old, trained[path])
    ]
    assert not same, f"not trained: {same}"
    names = {path.rpartition(".")[2] for path in trained if not adapter.is_own(path)}
    assert names == {"down", "up"}
