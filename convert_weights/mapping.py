"""Moves whole state dicts between PyTorch's names and layouts and ours.

PyTorch keeps a linear layer as (out, in) and a convolution as (out, in, *kernel); we keep
(in, out) and (*kernel, in, out). Nothing outside `convert_weights/` knows the former.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from convert_weights.names import is_buffer, torch_name
from posetraj_jax import tree
from posetraj_jax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A tensor that is read, cast and laid out anew only when numpy asks for its numbers."""

    name: str
    """Of the source tensor."""
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    """The source's array, in the source's layout and type."""
    layout: Callable[[np.ndarray], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # Casting first: numpy transposes and casts in one pass at a third of the speed of two.
        cast = np.asarray(self.read()).astype(self.dtype, copy=False)
        if not _all_finite(cast):
            raise UserError(
                f"{self.name} cannot be converted",
                expected=f"finite numbers in {self.dtype}",
                got="infinite numbers or none at all",
                fix="give the weights as they were published",
            )
        return np.asarray(np.ascontiguousarray(self.layout(cast)), dtype)


def from_torch(
    state: Mapping[str, ArrayLike], abstract: tree.Tree, component: str
) -> dict[str, Any]:
    """Our parameters from a PyTorch state dict; numpy arrays in the types of `abstract`.

    Args and errors are those of `leaves_from_torch`.
    """
    return jax.tree.map(np.asarray, leaves_from_torch(state, abstract, component))


def leaves_from_torch(
    state: Mapping[str, ArrayLike], abstract: tree.Tree, component: str
) -> dict[str, Any]:
    """Our parameters from a PyTorch state dict, each made when it is asked for.

    Every source tensor is used exactly once or listed as inert, every parameter is filled exactly
    once.

    Args:
        state: The state dict as numpy arrays, or as objects with a `shape` that numpy can turn into
            arrays; nothing is turned before all shapes are known to fit.
        abstract: The network's `abstract()`, in the types that are wanted.
        component: unet, controlnet, vae or clip.

    Raises:
        UserError: Tensors are missing, unknown or of another shape; all are listed.
    """
    require_fit({name: np.shape(array) for name, array in state.items()}, abstract, component)
    leaves = {}
    for path, target in tree.flatten(abstract).items():
        name = torch_name(path, component)
        layout = functools.partial(_from_torch_layout, path)
        read = functools.partial(np.asarray, state[name])
        leaves[path] = Leaf(name, target.shape, np.dtype(target.dtype), read, layout)
    return tree.unflatten(leaves)


def require_fit(shapes: Mapping[str, tuple[int, ...]], abstract: tree.Tree, component: str) -> None:
    """Raises a UserError that lists all `misfits`, if there are any."""
    if problems := misfits(shapes, abstract, component):
        raise UserError(
            f"the checkpoint does not fit the {component}",
            expected="the tensors of this configuration, and no other",
            got=listed(problems),
            fix="check that the file holds this component and that the variant is the right one",
        )


def misfits(
    shapes: Mapping[str, tuple[int, ...]], abstract: tree.Tree, component: str
) -> list[str]:
    """How names and shapes of a PyTorch state dict differ from our network's: a line for each."""
    wanted = torch_shapes(abstract, component)
    known = wanted | inert_shapes(abstract, component)
    problems = [f"missing: {name}" for name in wanted if name not in shapes]
    unused = sorted(shapes.keys() - known.keys())
    problems += [f"unknown: {name}" for name in unused if not is_buffer(name, component)]
    return problems + [
        f"wrong shape: {name}: expected {want}, got {tuple(shapes[name])}"
        for name, want in known.items()
        if name in shapes and tuple(shapes[name]) != want
    ]


def to_torch(params: tree.Tree, component: str) -> dict[str, np.ndarray]:
    """A complete PyTorch state dict of our parameters; inert tensors get neutral values.

    Neutral means zero, and one for the scale of a norm: a strict load succeeds and the outputs
    are ours.
    """
    state = dict(to_torch_tensor(*item, component) for item in tree.flatten(params).items())
    return state | neutral(params, component)


def neutral(params: tree.Tree, component: str) -> dict[str, np.ndarray]:
    """Values for the tensors that `params` leaves out, with which nothing overflows; float32."""
    return {
        name: (np.ones if name.endswith("norm2.weight") else np.zeros)(shape, np.float32)
        for name, shape in inert_shapes(params, component).items()
    }


def to_torch_tensor(path: str, leaf: ArrayLike, component: str) -> tuple[str, np.ndarray]:
    """The name and the array that the parameter at `path` has in PyTorch."""
    array = np.ascontiguousarray(_to_torch_layout(path, np.asarray(leaf)))
    return torch_name(path, component), array


def torch_shapes(params: tree.Tree, component: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in PyTorch of the tensors `params` holds; leaves may be abstract."""
    return {
        torch_name(path, component): _torch_shape(path, leaf.shape)
        for path, leaf in tree.flatten(params).items()
    }


def inert_shapes(params: tree.Tree, component: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors a PyTorch checkpoint has and `params` leaves out."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in tree.flatten(params).items():
        if component in ("unet", "controlnet") and path.endswith(".attn2.to_v.kernel"):
            block = path.removesuffix(".attn2.to_v.kernel")
            context_dim, d = leaf.shape
            shapes[f"{block}.attn2.to_q.weight"] = (d, d)
            shapes[f"{block}.attn2.to_k.weight"] = (d, context_dim)
            shapes[f"{block}.norm2.weight"] = shapes[f"{block}.norm2.bias"] = (d,)
    return shapes


def _all_finite(array: np.ndarray) -> bool:
    """Whether no number is infinite or none; by exponents, as numpy is slow for two-byte types."""
    bits = np.dtype(f"u{array.dtype.itemsize}")
    infinity = np.asarray(np.inf, array.dtype).view(bits)
    return not ((np.asarray(array).view(bits) & infinity) == infinity).any()


def _is_kernel(path: str) -> bool:
    return re.search(r"(^|\.)kernel$", path) is not None


def _from_torch_layout(path: str, array: np.ndarray) -> np.ndarray:
    """(out, in, *kernel) → (*kernel, in, out); anything but kernels stays."""
    if not _is_kernel(path) or array.ndim < 2:
        return array
    return np.moveaxis(array, (0, 1), (-1, -2))


def _to_torch_layout(path: str, array: np.ndarray) -> np.ndarray:
    """(*kernel, in, out) → (out, in, *kernel); anything but kernels stays."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if _is_kernel(path) else array


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not _is_kernel(path):
        return tuple(shape)
    *kernel, c_in, c_out = shape
    return (c_out, c_in, *kernel)
