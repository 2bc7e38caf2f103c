"""The gated product against its definition, in values, in gradients and in what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax.nn.feed_forward import geglu
from tests.parity import draw


def by_definition(value, gate):
    return value * jax.nn.gelu(gate, approximate=False)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gated_product_and_its_gradient_are_those_of_the_definition(dtype):
    value, gate, gradient = (jnp.asarray(draw(seed, 7, 50), dtype) for seed in range(3))
    gate = gate * jnp.linspace(0.1, 8.0, 7, dtype=dtype)[:, None]  # far into both tails
    made, back = jax.vjp(geglu, value, gate)
    wide = [x.astype(jnp.float32) for x in (value, gate)]
    expected, expected_back = jax.vjp(by_definition, *wide)
    pairs = zip(
        (made, *back(gradient)),
        (expected, *expected_back(gradient.astype(jnp.float32))),
        strict=True,
    )
    rounding = 1e-6 if dtype == jnp.float32 else 2**-9
    for got, wanted in pairs:
        assert got.dtype == dtype
        largest = float(jnp.abs(wanted).max())  # 1 + erf cancels in the lower tail
        np.testing.assert_allclose(
            got.astype(jnp.float32), wanted, rtol=rounding, atol=rounding * largest
        )


def test_nothing_but_the_operands_is_kept_for_the_backward_pass():
    value = gate = jnp.zeros((4, 8), jnp.bfloat16)
    _, back = jax.vjp(geglu, value, gate)
    kept = [leaf for leaf in jax.tree.leaves(back) if getattr(leaf, "size", 0) >= value.size]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16] * 2
