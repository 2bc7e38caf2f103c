"""Kernels that devices share: gathered where they are used, and nothing of that is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.nn.shared_kernels import recomputing, use_whole
from tests.meshes import mesh_of

SIZE = 64


@pytest.fixture(scope="module")
def mesh():
    return mesh_of(1, 4, 1, devices=jax.devices()[:4])


@pytest.fixture(scope="module")
def arrays(mesh):
    """Two float32 kernels in parts, and tokens."""
    draw = np.random.default_rng(0).standard_normal
    kernels = [draw((SIZE, SIZE), np.float32) for _ in range(2)]
    parts = jax.NamedSharding(mesh, sharding.parameter_spec("kernel", (SIZE, SIZE), mesh))
    tokens = jax.device_put(draw((8, SIZE), np.float32), sharding.replicated(mesh))
    return jax.device_put(kernels, parts), tokens


def both(kernels, x):
    first, second = kernels
    return x @ first, jnp.sin(x @ second)


def whole(dtype):
    return lambda kernels, x: use_whole(both, kernels, dtype, x)


@pytest.mark.parametrize("used", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_values_and_gradients_are_those_of_plain_kernels(mesh, arrays, used):
    """Also where one of several results has no gradient at all."""

    def loss(function, kernels, x):
        return sum(
            factor * jnp.sum(made**2)
            for factor, made in zip(used, function(kernels, x), strict=True)
            if factor
        )

    gradients = jax.value_and_grad(lambda *args: loss(whole(jnp.float32), *args), (0, 1))
    got = sharding.jit(gradients, mesh)(*arrays)
    plain = jax.jit(jax.value_and_grad(lambda *args: loss(both, *args), (0, 1)))(*arrays)
    for mine, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-4)


def kept(mesh, arrays, wrap):
    """Types of all that the backward pass is left with, of a kernel's size."""
    found = []

    def run(kernels, x):
        _, back = jax.vjp(wrap(whole(jnp.bfloat16)), kernels, x.astype(jnp.bfloat16))
        found.extend(leaf.dtype for leaf in jax.tree.leaves(back) if leaf.shape == (SIZE, SIZE))
        return x

    sharding.jit(run, mesh).trace(*arrays)
    return found


def test_the_parts_are_kept_and_not_what_was_gathered(mesh, arrays):
    assert set(kept(mesh, arrays, lambda function: function)) == {jnp.dtype(jnp.float32)}


def test_what_runs_again_gathers_again(mesh, arrays):
    def wrap(function):
        def run(*args):
            with recomputing():
                return function(*args)

        return jax.checkpoint(run)

    assert set(kept(mesh, arrays, wrap)) == {jnp.dtype(jnp.float32)}


def test_devices_exchange_the_narrow_type(mesh, arrays):
    """One kernel is gathered, as the gradient of a product needs no product; both gradients go
    straight to the parts."""

    def loss(kernels, x):
        return sum(jnp.sum(made.astype(jnp.float32)) for made in whole(jnp.bfloat16)(kernels, x))

    text = sharding.jit(jax.grad(loss), mesh).lower(*arrays).as_text()
    constraints = [line for line in text.splitlines() if "sharding_constraint" in line]
    assert all(line.endswith(f"tensor<{SIZE}x{SIZE}xbf16>") for line in constraints)
    of_gradients = [line for line in constraints if '"fsdp"' in line]
    assert (len(constraints) - len(of_gradients), len(of_gradients)) == (1, 2)
