"""Counted FLOPs against arithmetic by hand."""

import jax
import jax.numpy as jnp
import pytest

from posetraj_jax import flops

MATRIX = jnp.ones((4, 8))
WEIGHT = jnp.ones((8, 16))
PRODUCT = 2 * 4 * 8 * 16


def test_a_product_and_its_gradient():
    def loss(weight, x):
        return (x @ weight).sum()

    assert flops.count(loss, WEIGHT, MATRIX) == PRODUCT
    assert flops.count(jax.grad(loss), WEIGHT, MATRIX) == PRODUCT
    both = flops.count(jax.grad(lambda w, x: ((x @ w) ** 2).sum(), argnums=(0, 1)), WEIGHT, MATRIX)
    assert both == 3 * PRODUCT


def test_what_no_output_needs_is_free():
    def masked(weight, x):
        gradient = jax.grad(lambda w: ((x @ w) ** 2).sum())(weight)
        return jnp.zeros_like(gradient)

    assert flops.count(masked, WEIGHT, MATRIX) == 0


def test_batched_products_count_every_one():
    a, b = jnp.ones((3, 4, 8)), jnp.ones((3, 8, 5))
    assert flops.count(jnp.matmul, a, b) == 3 * 2 * 4 * 8 * 5


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_counts_its_padding(groups):
    x, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 4 // groups, 8))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert flops.count(convolve, x, kernel) == 2 * (3 * 3 * 8) * 3 * 3 * 4 // groups


def test_loops_count_their_length_and_branches_the_dearest():
    square = jnp.ones((8, 8))
    one = 2 * 8**3

    def scanned(x):
        return jax.lax.scan(lambda carry, _: (carry @ x, None), x, length=7)[0]

    def branching(x):
        return jax.lax.cond(x.sum() > 0, lambda: x @ x @ x, lambda: x)

    assert flops.count(scanned, square) == 7 * one
    assert flops.count(branching, square) == 2 * one
    assert flops.count(jax.jit(lambda x: jax.checkpoint(jnp.sin)(x @ x)), square) == one
    with pytest.raises(ValueError, match="while"):
        flops.count(lambda x: jax.lax.while_loop(lambda c: c.sum() > 0, lambda c: c @ x, x), square)


def test_shapes_are_enough():
    abstract = jax.ShapeDtypeStruct((10**4, 10**4), jnp.float32)
    assert flops.count(jnp.matmul, abstract, abstract) == 2 * 10**12


def test_what_is_compiled_with_options_of_its_own_is_counted_too():
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    options = {"xla_backend_optimization_level": "0"}
    compiled = jax.jit(lambda x, w: x @ w, compiler_options=options)
    assert flops.count(compiled, x, w=jax.ShapeDtypeStruct((8, 3), jnp.float32)) == 2 * 4 * 8 * 3
