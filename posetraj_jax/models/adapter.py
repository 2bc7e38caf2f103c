"""Adapter training of the ControlNet: its pretrained encoder stays, and low-rank factors train.

Every linear layer and convolution of the encoder gets factors (`nn.low_rank`): of attention,
feed-forward, residual blocks, halvings, the projections around them, the first convolution and the
embeddings. What has no pretrained beginning, or begins at zero, trains itself: the encoder of maps
and camera, and the zero convolutions. Norms, biases and blends of the encoder stay.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from posetraj_jax import tree
from posetraj_jax.nn.layers import Make
from posetraj_jax.nn.low_rank import DOWN, KERNEL, UP, merge

OWN = r"^controlnet_(cond_embedding|down_blocks|mid_block)\."
"""Parameters of a ControlNet that no UNet has."""


def split(controlnet: tree.Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves that train themselves, and the base: those that stay."""
    own, base = {}, {}
    for path, leaf in tree.flatten(controlnet).items():
        (own if is_own(path) else base)[path] = leaf
    return tree.unflatten(own), tree.unflatten(base)


def is_own(path: str) -> bool:
    """Whether the parameter at a path trains itself."""
    return re.search(OWN, path) is not None


def abstract(controlnet: tree.Tree, rank: int) -> dict[str, Any]:
    """All that trains, as float32 ShapeDtypeStructs.

    Args:
      controlnet: a whole one; leaves have a shape.
      rank: of the factors, at least 1.
    """
    own, base = split(controlnet)
    return tree.merged(own, abstract_factors(base, rank))


def abstract_factors(base: tree.Tree, rank: int) -> dict[str, Any]:
    """The factors of every kernel of a base, as float32 ShapeDtypeStructs."""
    found = {}
    for path, leaf in tree.flatten(base).items():
        if path.endswith(f".{KERNEL}"):
            down, up = _factor_paths(path)
            found[down] = jax.ShapeDtypeStruct((*leaf.shape[:-1], rank), jnp.float32)
            found[up] = jax.ShapeDtypeStruct((rank, leaf.shape[-1]), jnp.float32)
    return tree.unflatten(found)


def draw_factors(abstract: tree.Tree, key: Array) -> dict[str, Any]:
    """Factors whose product is zero: U(±1/sqrt(fan_in)) as kernels start, and zeros."""
    make, drawn = Make(key, jnp.float32), {}
    for path, leaf in tree.flatten(abstract).items():
        limit = 0.0 if path.endswith(f".{UP}") else math.prod(leaf.shape[:-1]) ** -0.5
        drawn[path] = make.uniform(leaf.shape, limit) if limit else jnp.zeros(leaf.shape)
    return tree.unflatten(drawn)


def merged(base: tree.Tree, trained: tree.Tree, target: tree.Tree) -> dict[str, Any]:
    """The whole ControlNet that base and adapter are together.

    Args:
      base: each leaf is given up as soon as it has been read.
      trained: of `abstract`.
      target: ShapeDtypeStructs with the type and the sharding that each leaf shall have.
    """
    base, trained, whole = tree.flatten(base), tree.flatten(trained), {}
    for path, like in tree.flatten(target).items():
        down, up = _factor_paths(path)
        if down in trained:
            leaf = merge(base.pop(path), trained[down], trained[up])
        else:
            leaf = base.pop(path) if path in base else trained[path]
        whole[path] = jax.device_put(leaf.astype(like.dtype), like.sharding)
    return tree.unflatten(whole)


def _factor_paths(path: str) -> tuple[str, str]:
    stem = path.removesuffix(KERNEL)
    return stem + DOWN, stem + UP
