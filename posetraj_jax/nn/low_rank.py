"""Low-rank factors beside a kernel: what a layer does with W + A B, without making that matrix.

In a tree of parameters the factors lie next to their kernel, as `down` (A) and `up` (B). Layers
compute W x + B (A x): neither the sum nor a gradient of its size ever exists, and in bfloat16 the
small product is not rounded away against the large kernel.

Source: LoRA (arXiv 2106.09685). Differs: no factor alpha / rank, which the learning rate makes up
for; convolutions have factors too, the first of which is a convolution of the kernel's own size.
"""

import functools
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from posetraj_jax.nn.shared_kernels import use_whole

KERNEL, DOWN, UP = "kernel", "down", "up"
"""Names of leaves: the kernel [... c_in c_out] and its factors [... c_in r] and [r c_out]."""


class Adapted:
    """A kernel with its factors, in the kernel's place in a tree: one leaf, of the kernel's shape.

    Raises:
        ValueError: the factors' product has another shape.
    """

    def __init__(self, kernel: Any, down: Any, up: Any):
        self.kernel, self.down, self.up = kernel, down, up
        self.shape, self.dtype = kernel.shape, kernel.dtype
        if (*down.shape[:-1], *up.shape[1:]) != kernel.shape or down.shape[-1:] != up.shape[:1]:
            shapes = f"{down.shape} and {up.shape}"
            raise ValueError(f"factors {shapes} beside a kernel {kernel.shape}")

    def __getitem__(self, index: EllipsisType) -> "Adapted":
        """Itself: Flax reads every parameter as `parameter[...]`."""
        return self


def joined(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with every kernel that has factors beside it, and these, as one `Adapted` leaf."""
    tree = {
        name: joined(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
    }
    if tree.keys() >= {KERNEL, DOWN, UP}:
        tree[KERNEL] = Adapted(tree[KERNEL], tree.pop(DOWN), tree.pop(UP))
    return tree


def merge(
    kernel: Float[Array, "*taps c_in c_out"],
    down: Float[Array, "*taps c_in r"],
    up: Float[Array, "r c_out"],
) -> Float[Array, "*taps c_in c_out"]:
    """W + A B in float32: a kernel that does without factors what it does with them."""
    product = jnp.matmul(down.astype(jnp.float32), up.astype(jnp.float32), precision="highest")
    return kernel.astype(jnp.float32) + product


def dot_general(x: Array, kernel: Array | Adapted, dimension_numbers: Any, **options: Any) -> Array:
    """`jax.lax.dot_general` of a linear layer, for adapted kernels too; the kernel may be split."""

    def product(kernel: Array, x: Array) -> Array:
        return jax.lax.dot_general(x, kernel, dimension_numbers, **options)

    return _with_factors(product, x, kernel)


def project_halves(
    x: Float[Array, "*batch c_in"], kernel: Float[Array, "c_in c_out"] | Adapted
) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
    """The products with the first and with the second half of a kernel's columns."""

    def product(kernel: Array, x: Array) -> tuple[Array, Array]:
        first, second = jnp.split(kernel, 2, axis=-1)
        return x @ first, x @ second

    return _with_factors(product, x, kernel)


def project_heads(
    x: Float[Array, "*batch c_in"], kernel: Float[Array, "c_in c_out"] | Adapted, k: int
) -> Float[Array, "*batch k c"]:
    """The product with a kernel, its columns in `k` equal parts."""

    def product(kernel: Array, x: Array) -> Array:
        return jnp.tensordot(x, kernel.reshape(kernel.shape[0], k, -1), 1)

    return _with_factors(product, x, kernel)


def _with_factors(product: Callable[[Array, Array], Any], x: Array, kernel: Array | Adapted) -> Any:
    """product(kernel, x), linear in both; of an adapted kernel the sum of what its parts make."""
    if not isinstance(kernel, Adapted):
        return use_whole(product, kernel, x.dtype, x)
    narrow = use_whole(lambda down, x: x @ down, kernel.down, x.dtype, x)
    added = use_whole(product, kernel.up, x.dtype, narrow)
    return jax.tree.map(jnp.add, use_whole(product, kernel.kernel, x.dtype, x), added)


@functools.cache
def convolving(convolve: Callable[..., Array]) -> Callable[..., Array]:
    """`jax.lax.conv_general_dilated`, or a function like it, for adapted and for split kernels too.

    Images are channels last.
    """

    def convolve_adapted(x: Array, kernel: Array | Adapted, *args: Any, **options: Any) -> Array:
        def product(kernel: Array, x: Array) -> Array:
            return convolve(x, kernel, *args, **options)

        if not isinstance(kernel, Adapted):
            return use_whole(product, kernel, x.dtype, x)
        narrow = use_whole(product, kernel.down, x.dtype, x)
        added = use_whole(lambda up, narrow: narrow @ up, kernel.up, x.dtype, narrow)
        return use_whole(product, kernel.kernel, x.dtype, x) + added

    return convolve_adapted
