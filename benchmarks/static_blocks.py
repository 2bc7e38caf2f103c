"""What the compiler expects one block of the networks to take on a TPU that need not be there.

    python -m benchmarks.static_blocks --blocks "transformer 0" "resnet 1" --passes frozen trains

The blocks of a UNet or Traj-ControlNet at full size, each compiled by itself at the default level
of optimisation for one clip of 14 x 320 x 576: half a minute each, where `benchmarks.static_time`
takes half an hour for the whole step. `transformer 0` is the one at the latents' resolution,
`transformer 3` the middle block's, `maps` the embedding of the drawn maps.

Passes: `forward` alone; `frozen` also differentiates by the block's input, `trains` by its
parameters too. The last line is the sum over the time of the same blocks' model FLOPs at the peak.
Exact for a version of the compiler; no device runs anything. Needs the extra `tpu`.
"""

import argparse
import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks.static_time import KINDS, break_down
from posetraj_jax import flops
from posetraj_jax.models.controlnet import ControlNetConfig, MapEmbedding
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.nn.build import Network, build
from posetraj_jax.nn.resnet import SpatioTemporalResBlock
from posetraj_jax.nn.transformer import SpatioTemporalTransformer
from posetraj_jax.planning import hlo, topology
from posetraj_jax.planning.topology import Topology

FRAMES, HEIGHT, WIDTH = 14, 320, 576
LATENT = 8
"""Pixels along a side of one latent."""
LEVELS = range(4)
BLOCKS = (*(f"{kind} {level}" for kind in ("transformer", "resnet") for level in LEVELS), "maps")
PASSES = ("forward", "frozen", "trains")
DTYPE = jnp.bfloat16


class Block(NamedTuple):
    """A block and the shapes that it is given."""

    network: Network
    run: Callable[..., jax.Array]
    """(parameters, *inputs) → output."""
    inputs: tuple[tuple[int, ...], ...]
    passes: tuple[str, ...] = PASSES


class Row(NamedTuple):
    """A block in one pass; seconds."""

    block: str
    way: str
    kinds: dict[str, float]
    floor: float
    """Of its model FLOPs at the peak."""


def main(arguments: list[str] | None = None) -> float:
    """Prints a row per block and pass, and the ratio of the sums; returns that."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.static_blocks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topology", default="v5p:1x1x1")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=BLOCKS, metavar="BLOCK")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--attention", choices=("splash", "xla"), default="splash")
    known = parser.parse_args(arguments)
    topology.prepare(known.topology)
    target = topology.find(known.topology)
    print(f"one clip on {known.topology}, attention={known.attention}, milliseconds")
    print("| block | pass | " + " | ".join(KINDS) + " | sum | FLOP floor | ratio |")
    print("| --- " * (len(KINDS) + 5) + "|")
    rows = []
    for name in known.blocks:
        passes = block_named(name, known.attention).passes
        for way in (way for way in known.passes if way in passes):
            rows.append(measure(name, way, known.attention, target))
            print(line(rows[-1]), flush=True)
    ratio = sum(sum(row.kinds.values()) for row in rows) / sum(row.floor for row in rows)
    print(f"\nthe compiler expects {ratio:.2f} times what model FLOPs take at the peak")
    return ratio


def measure(name: str, way: str, attention: str, target: Topology) -> Row:
    """Compiles a block for the first device of a topology."""
    function, inputs = one_pass(block_named(name, attention), way, target.devices[0])
    compiled = function.trace(*inputs).lower(lowering_platforms=("tpu",)).compile()
    program = hlo.parse(compiled.as_text().splitlines())
    kinds: dict[str, float] = defaultdict(float)
    for (_, kind), seconds in break_down(program, target.chip).items():
        kinds[kind] += seconds
    # Kernels and folded maps do more than the model asks for.
    plain, inputs = one_pass(block_named(name, "xla"), way, target.devices[0])
    return Row(name, way, dict(kinds), flops.count(plain, *inputs) / target.chip.flops)


def one_pass(block: Block, way: str, device: Any) -> tuple[Any, tuple[Any, ...]]:
    """A block's function in one of `PASSES`, and what to lower it for."""

    def abstract(shape: tuple[int, ...], dtype: Any = DTYPE) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    dtype = jnp.float32 if way == "trains" else DTYPE
    params = jax.tree.map(lambda leaf: abstract(leaf.shape, dtype), block.network.abstract())
    inputs = (params, *map(abstract, block.inputs))
    if way == "forward":
        return jax.jit(block.run), inputs

    def loss(weights: jax.Array, *inputs: Any) -> jax.Array:
        return jnp.sum((block.run(*inputs) * weights).astype(jnp.float32))

    of_params, of_x = 1, 2
    by = (of_params,) * (way == "trains") + (of_x,) * ("frozen" in block.passes)
    weights = abstract(jax.eval_shape(block.run, *inputs).shape)
    return jax.jit(jax.grad(loss, by)), (weights, *inputs)


def block_named(name: str, attention: str) -> Block:
    """A block of `BLOCKS` at full size."""
    unet = UNetConfig.svd()
    made = functools.partial(build, dtype=DTYPE, attention=attention)
    kind, _, level = name.partition(" ")
    if kind == "maps":
        network = made(MapEmbedding, ControlNetConfig.svd())
        maps = (1, FRAMES, HEIGHT, WIDTH, 3)
        # Nobody differentiates by drawn maps.
        return Block(network, network.apply, (maps,), ("forward", "trains"))
    channels = unet.block_out_channels[int(level)]
    side = LATENT * 2 ** int(level)
    x = (1, FRAMES, HEIGHT // side, WIDTH // side, channels)
    if kind == "resnet":
        temb_dim = 4 * unet.block_out_channels[0]
        options = {"eps": 1e-6, "temb_dim": temb_dim}
        network = made(
            lambda _, make: SpatioTemporalResBlock(channels, channels, make, **options), None
        )
        return Block(network, network.apply, (x, (1, temb_dim)))
    heads, context_dim = unet.num_attention_heads[int(level)], unet.cross_attention_dim
    network = made(
        lambda _, make: SpatioTemporalTransformer(channels, heads, make, context_dim=context_dim),
        None,
    )

    def transform(params: Any, x: jax.Array, image: jax.Array) -> jax.Array:
        context = network.apply(params, image, FRAMES, method="context")
        return network.apply(params, x, context)

    return Block(network, transform, (x, (1, context_dim)))


def line(row: Row) -> str:
    """A row of a Markdown table."""
    total = sum(row.kinds.values())
    times = (*(row.kinds.get(kind, 0.0) for kind in KINDS), total, row.floor)
    cells = [f"{1e3 * seconds:.2f}" for seconds in times]
    return "| " + " | ".join((row.block, row.way, *cells, f"{total / row.floor:.1f}")) + " |"


if __name__ == "__main__":
    main()
