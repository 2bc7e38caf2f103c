"""Digests of parameters: equal for equal numbers, on any mesh. Nothing is gathered or copied."""

import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from posetraj_jax import tree
from posetraj_jax.models.networks import Parameters

SEEDS = (0, 0x9E3779B9)
"""Of the two sums of every leaf."""


def of_encoders(parameters: Parameters, dtype: Any) -> str:
    """The digest of all that encodes frames: the VAE's encoder, and the image tower.

    Args:
      parameters: the other networks' are not read.
      dtype: that the encoders compute in; equal once cast to it is equal.
    """
    vae = {name: parameters.vae[name] for name in ("encoder", "quant_conv")}
    return digest({"vae": vae, "image_encoder": parameters.image_encoder}, dtype)


def digest(params: tree.Tree, dtype: Any) -> str:
    """SHA-256 over the names, shapes and numbers of all leaves, in hexadecimal.

    The numbers count through two 32-bit sums per leaf: changing one of them always changes the
    sums, any other change does but with a chance of 2^-64. Made to notice mistakes, not malice.
    """
    dtype = jnp.dtype(dtype)
    sums = {path: _sums(leaf, dtype) for path, leaf in sorted(tree.flatten(params).items())}
    total = hashlib.sha256(dtype.name.encode())
    for path, pair in jax.device_get(sums).items():
        shape = "x".join(map(str, tree.flatten(params)[path].shape))
        total.update(f"\n{path} {shape} {pair[0]:08x} {pair[1]:08x}".encode())
    return total.hexdigest()


@partial(jax.jit, static_argnames="dtype")
def _sums(leaf: Array, dtype: np.dtype) -> UInt32[Array, "2"]:
    """Sums of whole numbers do not depend on their order, so not on how the leaf is sharded."""
    whole = jnp.dtype(f"uint{8 * dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(leaf.astype(dtype), whole).astype(jnp.uint32)
    # For each place another one-to-one map of the bits: so numbers that swap places count too.
    place = jnp.arange(bits.size, dtype=jnp.uint32).reshape(bits.shape)
    mixed = [_mix(bits ^ _mix(place + np.uint32(seed))) for seed in SEEDS]
    return jnp.stack([jnp.sum(each, dtype=jnp.uint32) for each in mixed])


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A one-to-one map of 32 bits that leaves no trace of their order (MurmurHash3's last step)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
