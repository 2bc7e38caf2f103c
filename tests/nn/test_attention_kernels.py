"""Attention's kernels against the plain products, and what padding must never do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import sharding
from posetraj_jax.nn import attention, attention_kernels
from posetraj_jax.nn.attention import SelfAttention
from posetraj_jax.nn.attention_kernels import (
    attend,
    attend_blocked,
    attend_splash,
    pad_tokens,
    tile_of,
)
from posetraj_jax.nn.build import build
from tests.meshes import mesh_of


def draw(*shape: int) -> list[jax.Array]:
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4)]


def splash(q, k, v, **options):
    return attend_splash(q, k, v, interpret=True, **options)


@pytest.mark.parametrize("tokens", [720, 2880, 512])
def test_splash_equals_the_plain_products_forward_and_backward(tokens):
    q, k, v, gradient = draw(1, 1, tokens, 1, 64)
    with jax.default_matmul_precision("highest"):
        made, back = jax.vjp(jax.jit(splash), q, k, v)
        expected, expected_back = jax.vjp(jax.jit(attend), q, k, v)
        pairs = zip((made, *back(gradient)), (expected, *expected_back(gradient)), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_clips_frames_and_heads_do_not_see_each_other():
    q, k, v, _ = draw(2, 3, 130, 2, 64)
    made = jax.jit(splash)(q, k, v)
    np.testing.assert_allclose(made, attend(q, k, v), atol=1e-4)


def test_what_pads_a_sequence_is_never_seen():
    """Every real key has a score far below zero, which is what a key of padding would have."""
    q, k, v, _ = draw(1, 1, 100, 1, 64)
    q, k = jnp.abs(q) + 1.0, -jnp.abs(k) - 1.0
    np.testing.assert_allclose(splash(q, k, v), attend(q, k, v), atol=1e-4)


def test_tokens_added_before_the_projections_are_never_seen():
    """Whatever stands there: a projection's bias makes zeros into something else."""
    q, k, v, gradient = draw(1, 2, 130, 1, 64)
    more = [(0, 0), (0, 0), (0, 254), (0, 0), (0, 0)]
    with jax.default_matmul_precision("highest"):
        expected, expected_back = jax.vjp(attend, q, k, v)
        padded = [jnp.pad(part, more, constant_values=9.0) for part in (q, k, v)]
        made, back = jax.vjp(lambda *qkv: splash(*qkv, num_tokens=130)[:, :, :130], *padded)
        pairs = zip((made, *back(gradient)), (expected, *expected_back(gradient)), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got[:, :, :130], wanted, atol=1e-5)
            np.testing.assert_array_equal(got[:, :, 130:], 0.0)


def test_self_attention_pads_its_tokens_once_and_gives_them_back(monkeypatch):
    tokens, d = 530, 128
    (x, *_) = draw(1, 2, tokens, d)
    plain = build(lambda _, make: SelfAttention(d, 2, make, qkv_bias=True), None)
    for_tpu = build(
        lambda _, make: SelfAttention(d, 2, make, qkv_bias=True), None, attention="splash"
    )
    params = plain.init(jax.random.key(1))
    seen = []

    def interpreted(q, k, v, kernel, *, num_tokens):
        seen.append((kernel, q.shape[2], num_tokens))
        return splash(q, k, v, num_tokens=num_tokens)

    with jax.default_matmul_precision("highest"):
        expected = plain.apply(params, x)
        monkeypatch.setattr(attention, "attend", interpreted)
        made = for_tpu.apply(params, x)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert seen == [("splash", tile_of(tokens)[1], tokens)]


def test_tokens_that_devices_share_are_not_padded_together():
    mesh = mesh_of(1, 2, 2, devices=jax.devices()[:4])
    shapes = {}
    for frames in (4, 3):  # two devices split four frames, but of three the tokens
        (x, *_) = draw(2, frames, 520, 8)
        placed = jax.device_put(x, sharding.replicated(mesh))
        padded = sharding.jit(lambda x: pad_tokens(x, "splash"), mesh)(placed)
        shapes[frames] = padded.shape[2]
    assert shapes == {4: tile_of(520)[1], 3: 520}


@pytest.mark.parametrize(
    ("tokens", "tile"), [(2880, (1024, 3072)), (720, (768, 768)), (9216, (1024, 9216))]
)
def test_the_tile_pads_as_little_as_any(tokens, tile):
    assert tile_of(tokens) == tile


@pytest.mark.parametrize("shape", [(2, 2, 128, 1, 64), (1, 3, 128, 1, 64)])
def test_every_device_attends_to_its_own_part(shape):
    """By frames, and, where these do not divide, by queries with all keys."""
    q, k, v, _ = draw(*shape)
    mesh = mesh_of(1, 2, 2, devices=jax.devices()[:4])
    placed = jax.device_put((q, k, v), sharding.replicated(mesh))
    made = sharding.jit(splash, mesh)(*placed)
    np.testing.assert_allclose(made, attend(q, k, v), atol=1e-4)


@pytest.mark.parametrize("most", [2**20, 48 * 100, 1])
def test_blocks_equal_the_plain_products_forward_and_backward(monkeypatch, most):
    """A whole head, several blocks of queries, and one query, at a time."""
    monkeypatch.setattr(attention_kernels, "BLOCK_SCORES", most)
    q, k, v, gradient = draw(2, 3, 96, 2, 16)
    with jax.default_matmul_precision("highest"):
        made, back = jax.vjp(jax.jit(attend_blocked), q, k, v)
        expected, expected_back = jax.vjp(jax.jit(attend), q, k, v)
    pairs = zip((made, *back(gradient)), (expected, *expected_back(gradient)), strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_blocks_keep_no_scores():
    """Not even while a gradient is computed."""
    arrays = draw(1, 14, 960, 1, 64)
    scores = 14 * 960 * 960 * 4

    def temporaries(kernel):
        def gradients(q, k, v, gradient):
            return jax.vjp(functools.partial(attend, kernel=kernel), q, k, v)[1](gradient)

        return jax.jit(gradients).lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("xla") > scores
    assert temporaries("blocked") < scores / 2


def test_devices_that_share_clips_take_the_plain_products():
    q, k, v, _ = draw(1, 4, 1280, 1, 8)
    mesh = mesh_of(1, 2, 2, devices=jax.devices()[:4])
    placed = jax.device_put((q, k, v), sharding.replicated(mesh))
    loops = []
    for compiled in (
        sharding.jit(functools.partial(attend, kernel="blocked"), mesh),
        jax.jit(functools.partial(attend, kernel="blocked")),
    ):
        loops.append("while" in compiled.lower(*placed).as_text())
        np.testing.assert_allclose(compiled(*placed), attend(q, k, v), atol=1e-5)
    assert loops == [False, True]


def test_few_tokens_take_the_plain_products():
    """On a device without the kernel, so that calling it would fail."""
    q, k, v, _ = draw(1, 1, 64, 1, 8)
    np.testing.assert_array_equal(attend(q, k, v, "splash"), attend(q, k, v, "xla"))
    with pytest.raises(ValueError, match=r"interpret|CPU"):
        attend(*(jnp.tile(each, (1, 1, 8, 1, 1)) for each in (q, k, v)), "splash")
