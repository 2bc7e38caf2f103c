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

    def map(self, function: Callable[[Any], Any]) -> "Adapted":
        """The same with `function` applied to the kernel and to both factors."""
        return Adapted(*map(function, (self.kernel, self.down, self.up)))


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
    """`jax.lax.dot_general` of a linear layer, for adapted kernels too."""
    product = functools.partial(jax.lax.dot_general, dimension_numbers=dimension_numbers, **options)
    if not isinstance(kernel, Adapted):
        return product(x, kernel)
    return product(x, kernel.kernel) + product(product(x, kernel.down), kernel.up)


def project_halves(
    x: Float[Array, "*batch c_in"], kernel: Float[Array, "c_in c_out"] | Adapted
) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
    """The products with the first and with the second half of a kernel's columns."""
    if not isinstance(kernel, Adapted):
        first, second = jnp.split(kernel, 2, axis=-1)
        return x @ first, x @ second
    plain = project_halves(x, kernel.kernel)
    added = project_halves(x @ kernel.down, kernel.up)
    return plain[0] + added[0], plain[1] + added[1]


def split_columns(
    kernel: Float[Array, "c_in c_out"] | Adapted, parts: int
) -> Float[Array, "c_in parts c"] | Adapted:
    """The kernel with its columns in equal parts."""
    if isinstance(kernel, Adapted):
        wide, up = split_columns(kernel.kernel, parts), split_columns(kernel.up, parts)
        return Adapted(wide, kernel.down, up)
    return kernel.reshape(kernel.shape[0], parts, -1)


@functools.cache
def convolving(convolve: Callable[..., Array]) -> Callable[..., Array]:
    """`jax.lax.conv_general_dilated`, or a function like it, for adapted kernels too.

    Images are channels last.
    """

    def convolve_adapted(x: Array, kernel: Array | Adapted, *args: Any, **options: Any) -> Array:
        if not isinstance(kernel, Adapted):
            return convolve(x, kernel, *args, **options)
        narrow = convolve(x, kernel.down, *args, **options)
        added = jnp.matmul(narrow, kernel.up, precision=options.get("precision"))
        return convolve(x, kernel.kernel, *args, **options) + added

    return convolve_adapted
