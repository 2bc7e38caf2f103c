"""What is for TPUs only, compiled for chips that give a kernel little memory."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from posetraj_jax import sharding
from posetraj_jax.nn.attention_kernels import attend_splash
from posetraj_jax.nn.build import build
from posetraj_jax.nn.frame_attention import MOST_FRAMES, attend_frames_on_tpu
from posetraj_jax.nn.fused_feed_forward import Weights, feed_forward_on_tpu
from posetraj_jax.nn.transformer import SpatioTemporalTransformer
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


@pytest.mark.parametrize(
    ("attend", "size"),
    [(attend, size) for attend in (attend_splash, attend_frames_on_tpu) for size in list(SIZES)[:2]]
    + [(attend_frames_on_tpu, "longest")],  # to splash attention every frame is one more
)
def test_forward_and_backward_fit(chip, attend, size):
    for frames, tokens, heads in SIZES[size]:
        shape, place = (1, frames, tokens, heads, 64), SingleDeviceSharding(chip)
        array = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

        def both(q, k, v, gradient):
            made, back = jax.vjp(attend, q, k, v)
            return made, *back(gradient)

        kernels = kernels_of(both, *[array] * 4)
        assert len(kernels) == 2
        assert all(kernel.flops > 0 for kernel in kernels)


@pytest.mark.parametrize(
    ("dtype", "tokens", "d"),
    [
        (jnp.bfloat16, 2880, 320),
        (jnp.bfloat16, 720, 640),
        (jnp.bfloat16, 180, 1280),
        (jnp.float32, 2880, 320),
        pytest.param(jnp.float32, 720, 640, marks=pytest.mark.full),
        pytest.param(jnp.float32, 180, 1280, marks=pytest.mark.full),
    ],
)
def test_feed_forward_layers_fit(chip, dtype, tokens, d):
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


def test_devices_exchange_parameters_only():
    """Forward and backward: whoever lays activations out or hands them to a kernel has his own."""
    topology.prepare("v5e:2x2")
    mesh = sharding.make_mesh(sharding.MeshOptions(1, 4), topology.find("v5e:2x2").devices)
    network = build(
        lambda _, make: SpatioTemporalTransformer(128, 2, make, context_dim=64),
        None,
        dtype=jnp.bfloat16,
        attention="splash",
    )
    params = sharding.sharded(network.abstract(), mesh)
    clips = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
    x = jax.ShapeDtypeStruct((4, 14, 24, 24, 128), jnp.bfloat16, sharding=clips)
    image = jax.ShapeDtypeStruct((4, 64), jnp.bfloat16, sharding=clips)

    def both(params, x, image, gradient):
        def run(x):
            return network.apply(params, x, network.apply(params, image, 14, method="context"))

        made, back = jax.vjp(run, x)
        return made, *back(gradient)

    traced = sharding.jit(both, mesh).trace(params, x, image, x)
    text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    shapes = re.findall(r"= \(?bf16\[([0-9,]+)\]\S* (?:all-\w+|collective-\w+)(?:-start)?\(", text)
    assert shapes
    assert max(shape.count(",") for shape in shapes) == 1


def kernels_of(function, *args):
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",))
    return work.of_program(parse(lowered.compile().as_text().splitlines())).kernels
