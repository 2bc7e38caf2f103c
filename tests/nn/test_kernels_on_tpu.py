"""The hand-written kernels, compiled for the TPU whose chips give a kernel the least memory."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from posetraj_jax.nn.attention_kernels import attend_splash
from posetraj_jax.nn.frame_attention import MOST_FRAMES, attend_frames_on_tpu
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

        lowered = jax.jit(both).trace(*[array] * 4).lower(lowering_platforms=("tpu",))
        program = parse(lowered.compile().as_text().splitlines())
        kernels = work.of_program(program).kernels
        assert len(kernels) == 2
        assert all(kernel.flops > 0 for kernel in kernels)
