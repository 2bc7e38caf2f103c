"""The hand-written kernels, compiled for the TPU whose chips give a kernel the least memory."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from posetraj_jax.nn.attention_kernels import attend_splash
from posetraj_jax.nn.frame_attention import MOST_FRAMES, attend_frames_on_tpu
from posetraj_jax.nn.fused_feed_forward import Weights, feed_forward_on_tpu
from posetraj_jax.planning import topology, work
from posetraj_jax.planning.hlo import parse

pytest.importorskip("libtpu")

SIZES = {
    # frames, tokens, heads of the two widest levels
    "14x320x576": ((14, 2880, 5), (14, 720, 10)),
    "25x576x1024": ((25, 9216, 5), (25, 2304, 10)),
    "longest": ((MOST_FRAMES, 2880, 5), (MOST_FRAMES // 2, 2880, 5)),
}


@pytest.fixture(scope="module")
def chip():
    topology.prepare("v5e:1x1")
    return topology.find("v5e:1x1").devices[0]


@pytest.mark.parametrize("attend", [attend_splash, attend_frames_on_tpu])
@pytest.mark.parametrize("shapes", SIZES.values(), ids=SIZES)
def test_forward_and_backward_fit(chip, attend, shapes):
    for frames, tokens, heads in shapes:
        shape, place = (1, frames, tokens, heads, 64), SingleDeviceSharding(chip)
        array = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

        def both(q, k, v, gradient):
            made, back = jax.vjp(attend, q, k, v)
            return made, *back(gradient)

        kernels = kernels_of(both, *[array] * 4)
        assert len(kernels) == 2
        assert all(kernel.flops > 0 for kernel in kernels)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("tokens", "d"), [(2880, 320), (720, 640), (180, 1280)])
def test_feed_forward_layers_fit(chip, tokens, d, dtype):
    """With the weights' gradients, which take the most memory."""

    def abstract(*shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(chip))

    x, h = abstract(1, 14, tokens, d), 4 * d
    shapes = (d,), (d,), (d, 2 * h), (2 * h,), (h, d), (d,)
    weights = Weights(*(abstract(*shape) for shape in shapes))

    def both(x, weights, gradient):
        made, back = jax.vjp(feed_forward_on_tpu, x, weights)
        return made, *back(gradient)

    products = 2 * 14 * tokens * d * h
    assert sorted(kernel.flops for kernel in kernels_of(both, x, weights, x)) == [
        3 * products,
        5 * products,
    ]


def kernels_of(function, *args):
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",))
    return work.of_program(parse(lowered.compile().as_text().splitlines())).kernels
