"""The feed-forward layer: the gated product against its definition, the kernels against it all."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.nn.build import build
from posetraj_jax.nn.frame_attention import attend_frames
from posetraj_jax.nn.fused_feed_forward import MOST_TOKENS, Weights, feed_forward_on_tpu, suits
from posetraj_jax.nn.geglu import geglu
from posetraj_jax.nn.transformer import SpatialBlock, TemporalBlock
from tests.meshes import mesh_of
from tests.parity import draw


def gated_by_definition(value, gate):
    return value * jax.nn.gelu(gate, approximate=False)


def by_definition(x, weights):
    """x + W2 geglu(W1 norm(x))."""
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    normed = normed * weights.scale + weights.shift
    value, gate = jnp.split(normed @ weights.w_in + weights.b_in, 2, axis=-1)
    return x + gated_by_definition(value, gate) @ weights.w_out + weights.b_out


def on_tpu(x, weights):
    return feed_forward_on_tpu(x, weights, interpret=True)


def attend_frames_plainly(q, k, v, kernel):
    return attend_frames(q, k, v)


def draw_weights(d, hidden):
    shapes = Weights((d,), (d,), (d, 2 * hidden), (2 * hidden,), (hidden, d), (d,))
    return Weights(
        *(0.3 * jnp.asarray(draw(10 + seed, *shape)) for seed, shape in enumerate(shapes))
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gated_product_and_its_gradient_are_those_of_the_definition(dtype):
    value, gate, gradient = (jnp.asarray(draw(seed, 7, 50), dtype) for seed in range(3))
    gate = gate * jnp.linspace(0.1, 8.0, 7, dtype=dtype)[:, None]  # far into both tails
    made, back = jax.vjp(geglu, value, gate)
    wide = [x.astype(jnp.float32) for x in (value, gate)]
    expected, expected_back = jax.vjp(gated_by_definition, *wide)
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
    assert [leaf.dtype for leaf in kept(back, value.size)] == [jnp.bfloat16] * 2


@pytest.mark.parametrize(
    ("shape", "hidden"),
    [
        ((1, 2, MOST_TOKENS, 32), 128),  # two full tiles
        ((2, 3, 123, 24), 256),  # the last tile reaches beyond the tokens
        ((1, 1, 7, 320), 1280),  # two blocks of hidden features, few tokens
    ],
    ids=str,
)
def test_the_kernels_values_and_all_gradients_are_those_of_the_definition(shape, hidden):
    x, gradient, weights = draw(0, *shape), draw(1, *shape), draw_weights(shape[-1], hidden)
    with jax.default_matmul_precision("highest"):
        made, back = jax.vjp(jax.jit(on_tpu), x, weights)
        expected, expected_back = jax.vjp(jax.jit(by_definition), x, weights)
        assert_same((made, back(gradient)), (expected, expected_back(gradient)))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_the_gradient_of_the_input_alone_is_the_same_and_makes_no_hidden_array(wrap):
    x, weights = draw(0, 1, 2, 300, 32), draw_weights(32, 128)

    def of_x(x):
        return jax.vjp(wrap(lambda x: on_tpu(x, weights)), x)[1](x)[0]

    def of_all(x):
        return jax.vjp(wrap(on_tpu), x, weights)[1](x)[0]

    np.testing.assert_allclose(jax.jit(of_x)(x), jax.jit(of_all)(x), rtol=1e-6)
    hidden = x.size // 32 * 128
    assert largest_result(of_x, x) < hidden <= largest_result(of_all, x)


def test_nothing_but_the_tokens_is_kept_of_them():
    x, weights = jnp.zeros((1, 2, 300, 32), jnp.bfloat16), draw_weights(32, 128)
    _, back = jax.vjp(on_tpu, x, weights)
    assert [leaf.shape for leaf in kept(back, x.size)] == [x.shape]


def test_in_bfloat16_the_result_is_rounded_about_once():
    x, weights = jnp.asarray(draw(0, 1, 2, 300, 32), jnp.bfloat16), draw_weights(32, 128)
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    exact = by_definition(*jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (x, weights)))
    made = on_tpu(x, weights)
    assert made.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        made.astype(jnp.float32), exact, rtol=2**-8, atol=2**-8 * float(jnp.abs(exact).max())
    )


@pytest.mark.parametrize("shape", [(2, 4, 30, 16), (2, 3, 30, 16)], ids=["frames", "rows"])
def test_every_device_has_its_own_tokens(shape):
    x, gradient, weights = draw(0, *shape), draw(1, *shape), draw_weights(16, 128)
    mesh = mesh_of(1, 2, 2, devices=jax.devices()[:4])

    def both(function):
        def run(x, weights, gradient):
            made, back = jax.vjp(function, x, weights)
            return made, back(gradient)

        return run

    placed = jax.device_put((x, weights, gradient), sharding.replicated(mesh))
    made = sharding.jit(both(on_tpu), mesh)(*placed)
    assert_same(made, both(by_definition)(x, weights, gradient), 1e-4)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("block", [SpatialBlock, TemporalBlock])
def test_blocks_of_a_transformer_are_the_same_with_the_kernels(monkeypatch, block, remat):
    """In the place of each, so that what the module hands over is what the kernels take."""
    monkeypatch.setattr("posetraj_jax.nn.feed_forward.feed_forward_on_tpu", on_tpu)
    # Theirs has its own test.
    monkeypatch.setattr("posetraj_jax.nn.attention.attend_frames", attend_frames_plainly)
    order = () if block is SpatialBlock else ("batch_major",)
    d, x, from_image = 32, *(jnp.asarray(draw(*of)) for of in ((0, 1, 2, 260, 32), (1, 1, 32)))
    plain, fused = (
        build(lambda _, make: block(d, 2, 16, make, *order), None, attention=attention)
        for attention in ("xla", "splash")
    )
    params = plain.init(jax.random.key(0))

    def both(network, params, x):
        def loss(params, x):
            run = lambda *args: network.apply(*args, from_image)  # noqa: E731
            return jnp.sum(jnp.sin((jax.checkpoint(run) if remat else run)(params, x)))

        return jax.value_and_grad(loss, (0, 1))(params, x)

    assert_same(both(fused, params, x), both(plain, params, x), 1e-4)


def test_small_or_uneven_inputs_take_the_plain_products():
    tokens = jnp.zeros((1, 1, MOST_TOKENS, 8))
    assert suits(tokens, 128)
    assert not suits(tokens[:, :, 1:], 128)
    assert not suits(tokens, 64)


def test_each_devices_own_tokens_count():
    half, whole = (jnp.zeros((2, 1, n, 8)) for n in (MOST_TOKENS - 1, MOST_TOKENS))
    mesh = mesh_of(2, 1, 1, devices=jax.devices()[:2])
    taken = sharding.jit(lambda *xs: [jnp.asarray(suits(x, 128)) for x in xs], mesh)
    placed = jax.device_put((half, whole), sharding.batch_sharding(mesh))
    assert [bool(each) for each in taken(*placed)] == [False, True]


def assert_same(made, expected, tolerance=1e-5):
    for got, wanted in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        largest = max(float(jnp.abs(wanted).max()), 1e-3)
        np.testing.assert_allclose(got, wanted, atol=tolerance * largest)


def kept(back, least):
    return [leaf for leaf in jax.tree.leaves(back) if getattr(leaf, "size", 0) >= least]


def largest_result(function, x):
    """Numbers in the largest result of a kernel."""
    calls = [
        equation
        for equation in equations(jax.make_jaxpr(function)(x).jaxpr)
        if equation.primitive.name == "pallas_call"
    ]
    return max(math.prod(out.aval.shape) for call in calls for out in call.outvars)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if equation.primitive.name != "pallas_call" and hasattr(inner, "eqns"):
                yield from equations(inner)
