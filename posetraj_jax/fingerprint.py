"""Digests of parameters: equal for equal numbers on any mesh, made without gathering them."""

import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
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


def of_unet(unet: tree.Tree) -> str:
    """The digest of a UNet as accelerators compute with it: in bfloat16, however it is stored."""
    return digest(unet, "bfloat16")


def digest(params: tree.Tree, dtype: Any) -> str:
    """SHA-256 over the names, shapes and numbers of all leaves, in hexadecimal.

    The numbers count through two 32-bit sums per leaf: changing one of them always changes the
    sums, any other change does but with a chance of 2^-64. Made to notice mistakes, not malice.
    """
    dtype, flat = jnp.dtype(dtype), dict(sorted(tree.flatten(params).items()))
    leaves = [jnp.asarray(leaf) for leaf in flat.values()]
    sums = jax.device_get([_sums_of_shards(leaf, dtype) for leaf in leaves])
    none = np.zeros(2, np.uint32)  # of a process that holds copies only
    sums = np.array([np.sum([none, *each], axis=0, dtype=np.uint32) for each in sums])
    if not all(leaf.is_fully_addressable for leaf in leaves):
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    total = hashlib.sha256(dtype.name.encode())
    for path, leaf, whole in zip(flat, leaves, sums, strict=True):
        shape = "x".join(map(str, leaf.shape))
        total.update(f"\n{path} {shape} {whole[0]:08x} {whole[1]:08x}".encode())
    return total.hexdigest()


def _sums_of_shards(leaf: Array, dtype: np.dtype) -> list[UInt32[Array, "2"]]:
    """Two sums of every part of a leaf, made where the part lies: nothing travels."""
    return [
        _sums(
            shard.data, np.array([s.start or 0 for s in shard.index], np.uint32), leaf.shape, dtype
        )
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    ]


@partial(jax.jit, static_argnums=(2, 3))
def _sums(
    part: Array, first: UInt32[Array, "axes"], shape: tuple[int, ...], dtype: np.dtype
) -> UInt32[Array, "2"]:
    """Sums of whole numbers do not depend on their order, so not on how a leaf is cut."""
    whole = jnp.dtype(f"uint{8 * dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(part.astype(dtype), whole).astype(jnp.uint32)
    place = jnp.zeros(part.shape, jnp.uint32)  # in the whole leaf
    for axis, size in enumerate(shape):
        here = first[axis] + jax.lax.broadcasted_iota(jnp.uint32, part.shape, axis)
        place = place * np.uint32(size) + here
    # For each place another one-to-one map of the bits: so numbers that swap places count too.
    mixed = [_mix(bits ^ _mix(place + np.uint32(seed))) for seed in SEEDS]
    return jnp.stack([jnp.sum(each, dtype=jnp.uint32) for each in mixed])


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A one-to-one map of 32 bits that leaves no trace of their order (MurmurHash3's last step)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
