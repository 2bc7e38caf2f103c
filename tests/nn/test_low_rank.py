"""Low-rank factors beside kernels: the same as the merged kernel, in values and in gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from posetraj_jax import sharding, tree
from posetraj_jax.nn import low_rank
from posetraj_jax.nn.build import build
from posetraj_jax.nn.low_rank import Adapted
from tests.meshes import mesh_of
from tests.parity import draw, redrawn

RANK = 3


class EveryLayer(nnx.Module):
    """Linear layers and convolutions, used in every way that a ControlNet uses its own."""

    def __init__(self, d, make):
        self.linear = make.linear(d, d)
        self.gated = make.linear(d, 2 * d)
        self.in_heads = make.linear(d, d)
        self.without_bias = make.linear(d, d, bias=False)
        self.spatial = make.conv(d, d)
        self.pointwise = make.conv(d, d, (1, 1))
        self.temporal = make.conv(d, d, (3, 1, 1))
        self.halving = make.conv(d, 2 * d, strides=2)

    def __call__(self, x):
        value, gate = self.gated.halves(self.linear(x))
        x = self.in_heads.heads(value * jax.nn.silu(gate), 2).reshape(x.shape)
        x = jax.nn.silu(self.pointwise(self.spatial(self.without_bias(x))))
        return self.halving(jax.nn.silu(self.temporal(x)))


NETWORK = build(EveryLayer, 8)
X = draw(1, 2, 3, 4, 6, 8)


def params_with_factors():
    flat = tree.flatten(redrawn(NETWORK, seed=2))
    for seed, path in enumerate([path for path in flat if path.endswith("kernel")], start=10):
        *outer, c_out = flat[path].shape
        stem = path.removesuffix("kernel")
        flat[stem + "down"] = 0.3 * draw(seed, *outer, RANK)
        flat[stem + "up"] = 0.3 * draw(seed + 100, RANK, c_out)
    return jax.tree.map(jnp.asarray, tree.unflatten(flat))


def merged(params):
    flat = tree.flatten(params)
    for path in [path for path in flat if path.endswith("kernel")]:
        stem = path.removesuffix("kernel")
        flat[path] = low_rank.merge(flat[path], flat.pop(stem + "down"), flat.pop(stem + "up"))
    return tree.unflatten(flat)


def value_and_gradient(params):
    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(NETWORK.apply(p, X)))))(params)


def test_layers_with_factors_are_those_with_the_merged_kernel():
    params = params_with_factors()
    with jax.default_matmul_precision("highest"):
        apart, whole = NETWORK.apply(params, X), NETWORK.apply(merged(params), X)
    np.testing.assert_allclose(apart, whole, atol=1e-5 * float(jnp.abs(whole).max()))
    plain = NETWORK.apply(redrawn(NETWORK, seed=2), X)
    assert float(jnp.abs(apart - plain).max()) > 0.1 * float(jnp.abs(plain).max())


def test_gradients_are_those_of_whole_kernels_projected_on_the_factors():
    params = params_with_factors()
    _, of_factors = value_and_gradient(params)
    _, of_kernels = value_and_gradient(merged(params))
    flat, whole, values = map(tree.flatten, (of_factors, of_kernels, params))
    compared = 0
    for path, gradient in whole.items():
        stem = path.removesuffix("kernel")
        if stem == path:
            continue
        rows = np.reshape(gradient, (-1, gradient.shape[-1]))
        down, up = values[stem + "down"], values[stem + "up"]
        expected = {
            "down": np.reshape(rows @ up.T, down.shape),
            "up": np.reshape(down, (-1, RANK)).T @ rows,
        }
        for name, projected in expected.items():
            close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(projected).max()}
            np.testing.assert_allclose(flat[stem + name], projected, **close, err_msg=stem + name)
            compared += 1
    assert compared == 16


def test_shared_factors_have_the_gradients_of_one_device():
    params, mesh = params_with_factors(), mesh_of(2, 4)
    _, expected = value_and_gradient(params)
    placed = jax.device_put(params, sharding.parameter_shardings(params, mesh))

    @functools.partial(sharding.jit, mesh=mesh)
    def gradient(params):
        with jax.default_matmul_precision("highest"):
            return jax.grad(lambda p: jnp.sum(jnp.sin(NETWORK.apply(p, X))))(params)

    got, expected = tree.flatten(gradient(placed)), tree.flatten(expected)
    for path, leaf in expected.items():
        atol = 1e-5 * float(jnp.abs(leaf).max())
        np.testing.assert_allclose(got[path], leaf, rtol=1e-4, atol=atol, err_msg=path)


def test_a_product_of_zero_changes_nothing():
    plain = redrawn(NETWORK, seed=2)
    flat = tree.flatten(params_with_factors())
    silent = {p: jnp.zeros_like(x) if p.endswith(".up") else x for p, x in flat.items()}
    np.testing.assert_array_equal(NETWORK.apply(tree.unflatten(silent), X), NETWORK.apply(plain, X))


def test_no_product_of_the_kernels_size_is_made():
    """Neither the sum W + A B nor a gradient of its size: else nothing would be saved."""
    big = build(lambda d, make: make.linear(d, d), 64)
    flat = {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
    factors = {"down": jnp.ones((64, RANK)), "up": jnp.ones((RANK, 64))}

    def loss(factors):
        return big.apply(flat | factors, jnp.ones((5, 64))).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(factors)
    made = [var.aval.shape for equation in jaxpr.eqns for var in equation.outvars]
    assert (5, 64) in made
    assert (64, 64) not in made


@pytest.mark.parametrize(
    ("down", "up"), [((4, 2), (3, 6)), ((5, 2), (2, 6)), ((4, 2), (2, 5)), ((3, 4, 2), (2, 6))]
)
def test_factors_of_another_shape_are_refused(down, up):
    with pytest.raises(ValueError, match="beside a kernel"):
        Adapted(jnp.ones((4, 6)), jnp.ones(down), jnp.ones(up))


def test_factors_without_a_kernel_are_no_parameters_of_the_network():
    flat = tree.flatten(params_with_factors())
    flat.pop("linear.down")
    with pytest.raises(ValueError, match=r"unexpected: linear\.up"):
        NETWORK.apply(tree.unflatten(flat), X)
