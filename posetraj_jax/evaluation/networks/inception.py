"""Inception v3 as FID has it: 2048 features of a picture, from its last pooling layer.

Two things differ from the Inception v3 that others use, and belong to the published weights: means
over neighbours leave the padding out, and the last block pools by maximum.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.evaluation.networks.units import Unit, max_pool, mean_pool
from posetraj_jax.nn.layers import Make

SIDE, LEAST_SIDE, FEATURES = 299, 75, 2048
"""Pixels of the square picture, the fewest that leave any feature, and how many there are."""


class Layer(NamedTuple):
    """A unit of a block."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)


class Shape(NamedTuple):
    """Chains of units side by side. Chains may begin with the same units, which then are shared."""

    chains: tuple[tuple[Layer, ...], ...]
    pooled: int = 0
    """Channels of the branch that pools; 0 in blocks that halve the grid, which pool as it is."""
    pool: Literal["mean", "max"] = "mean"


def _numbered(name: str, *layers: tuple[int, tuple[int, int]]) -> tuple[Layer, ...]:
    return tuple(Layer(f"{name}_{n}", *layer) for n, layer in enumerate(layers, start=1))


def _narrow(pooled: int) -> Shape:
    fives = _numbered("branch5x5", (48, (1, 1)), (64, (5, 5)))
    threes = _numbered("branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
    return Shape(((Layer("branch1x1", 64),), fives, threes), pooled)


def _long(c: int) -> Shape:
    row, column = (1, 7), (7, 1)
    once = _numbered("branch7x7", (c, (1, 1)), (c, row), (192, column))
    twice = _numbered("branch7x7dbl", (c, (1, 1)), (c, column), (c, row), (c, column), (192, row))
    return Shape(((Layer("branch1x1", 192),), once, twice), 192)


def _wide(pool: Literal["mean", "max"]) -> Shape:
    def forked(*start: Layer, name: str) -> tuple[tuple[Layer, ...], ...]:
        row, column = Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))
        return (*start, row), (*start, column)

    once = forked(Layer("branch3x3_1", 384), name="branch3x3_2")
    twice = forked(*_numbered("branch3x3dbl", (448, (1, 1)), (384, (3, 3))), name="branch3x3dbl_3")
    return Shape(((Layer("branch1x1", 320),), *once, *twice), 192, pool)


BLOCKS = {
    "Mixed_5b": _narrow(32),
    "Mixed_5c": _narrow(64),
    "Mixed_5d": _narrow(64),
    "Mixed_6a": Shape(
        (
            (Layer("branch3x3", 384, (3, 3)),),
            _numbered("branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        )
    ),
    "Mixed_6b": _long(128),
    "Mixed_6c": _long(160),
    "Mixed_6d": _long(160),
    "Mixed_6e": _long(192),
    "Mixed_7a": Shape(
        (
            _numbered("branch3x3", (192, (1, 1)), (320, (3, 3))),
            _numbered("branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3))),
        )
    ),
    "Mixed_7b": _wide("mean"),
    "Mixed_7c": _wide("max"),
}


class Block(nnx.Module):
    """One row of `BLOCKS`."""

    def __init__(self, shape: Shape, make: Make, c_in: int):
        self.shape = shape
        for chain in shape.chains:
            c = c_in
            for layer in chain:
                if not hasattr(self, layer.name):
                    halves = not shape.pooled and layer is chain[-1]
                    options = {"strides": 2, "padding": "VALID"} if halves else {}
                    unit = Unit(make, c, layer.channels, layer.kernel, **options)
                    setattr(self, layer.name, unit)
                c = layer.channels
        if shape.pooled:
            self.branch_pool = Unit(make, c_in, shape.pooled, (1, 1))
        ends = sum(chain[-1].channels for chain in shape.chains)
        self.channels = ends + (shape.pooled or c_in)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """All branches, put together along the channels in their order."""
        made: dict[str, Array] = {}
        for chain in self.shape.chains:
            value = x
            for layer in chain:
                value = made.setdefault(layer.name, getattr(self, layer.name)(value))
        ends = [made[chain[-1].name] for chain in self.shape.chains]
        return jnp.concatenate([*ends, self._pool(x)], axis=-1)

    def _pool(self, x: Array) -> Array:
        if not self.shape.pooled:
            return max_pool(x, (3, 3), (2, 2), "VALID")
        around = mean_pool(x) if self.shape.pool == "mean" else max_pool(x, (3, 3), (1, 1), "SAME")
        return self.branch_pool(around)


class Inception(nnx.Module):
    """Pictures to features. There is one size, so there is nothing to configure.

    Source: pytorch-fid, `InceptionV3` with its last block; modules have the names of its weights.
    """

    def __init__(self, config: None, make: Make):
        valid = {"padding": "VALID"}
        self.Conv2d_1a_3x3 = Unit(make, 3, 32, (3, 3), strides=2, **valid)
        self.Conv2d_2a_3x3 = Unit(make, 32, 32, (3, 3), **valid)
        self.Conv2d_2b_3x3 = Unit(make, 32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Unit(make, 64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Unit(make, 80, 192, (3, 3), **valid)
        c = 192
        for name, shape in BLOCKS.items():
            block = Block(shape, make, c)
            setattr(self, name, block)
            c = block.channels

    def __call__(self, pixels: Float[Array, "b H W 3"]) -> Float[Array, "b 2048"]:
        """Features of pictures in [-1, 1]; FID's are `SIDE` square.

        Raises:
            ValueError: A side is below `LEAST_SIDE`.
        """
        if min(pixels.shape[1:3]) < LEAST_SIDE:
            raise ValueError(f"pictures have sides of at least {LEAST_SIDE}, not {pixels.shape}")
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pixels)))
        x = max_pool(x, (3, 3), (2, 2), "VALID")
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = max_pool(x, (3, 3), (2, 2), "VALID")
        for name in BLOCKS:
            x = getattr(self, name)(x)
        return x.mean((1, 2))
