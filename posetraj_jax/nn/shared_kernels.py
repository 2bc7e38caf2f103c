"""Kernels whose parts lie on several devices: whole where a layer uses them, and nowhere else."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from posetraj_jax.sharding import FSDP, current_mesh, parameter_spec


def use_whole(function: Callable[..., Any], kernels: Any, dtype: Any, *operands: Any) -> Any:
    """function(kernels, *operands) of whole kernels in the compute type, wherever their parts lie.

    Where devices share parameters, they exchange the narrow type. The kernels are gathered again
    for the backward pass, not kept, and their gradients summed straight into the parts that the
    devices keep.

    Args:
      kernels: an array, or several in a tree.
      operands: all else that gradients may go to; `function` must not hold such arrays itself.
    """
    mesh = current_mesh()
    if mesh is None or mesh.shape[FSDP] == 1:
        return function(jax.tree.map(lambda kernel: jnp.asarray(kernel, dtype), kernels), *operands)
    if _recomputes.get():
        return function(jax.tree.map(functools.partial(_gather, dtype), kernels), *operands)
    return _use(function, jnp.dtype(dtype), kernels, operands)


@contextmanager
def recomputing() -> Iterator[None]:
    """What is traced inside will run again before its backward pass, which uses those kernels."""
    token = _recomputes.set(True)
    try:
        yield
    finally:
        _recomputes.reset(token)


_recomputes: ContextVar[bool] = ContextVar("recomputes", default=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _use(function: Callable[..., Any], dtype: Any, kernels: Any, operands: Any) -> Any:
    return function(jax.tree.map(functools.partial(_gather, dtype), kernels), *operands)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Wanted:
    """Which leaves of kernels and operands gradients go to."""

    flags: tuple[bool, ...]


def _use_forward(function: Callable[..., Any], dtype: Any, kernels: Any, operands: Any) -> Any:
    leaves, structure = jax.tree.flatten((kernels, operands))
    values = structure.unflatten([leaf.value for leaf in leaves])
    wanted = _Wanted(tuple(leaf.perturbed for leaf in leaves))
    return _use(function, dtype, *values), (values, wanted)


def _use_backward(function: Callable[..., Any], dtype: Any, saved: Any, gradient: Any) -> Any:
    values, wanted = saved
    gradient = jax.tree.map(_as_array, gradient, is_leaf=_is_zero)
    # Without the barrier XLA keeps the kernels of the forward pass instead.
    (kernels, operands), gradient = jax.lax.optimization_barrier((values, gradient))
    leaves, structure = jax.tree.flatten((kernels, operands))

    def of_wanted(chosen: list[Any]) -> Any:
        rest = iter(chosen)
        pairs = zip(leaves, wanted.flags, strict=True)
        kernels, operands = structure.unflatten([next(rest) if w else leaf for leaf, w in pairs])
        return function(jax.tree.map(functools.partial(_gather, dtype), kernels), *operands)

    _, back = jax.vjp(of_wanted, [leaf for leaf, w in zip(leaves, wanted.flags, strict=True) if w])
    (made,) = back(gradient)
    rest = iter(made)
    return structure.unflatten([next(rest) if w else None for w in wanted.flags])


def _is_zero(gradient: Any) -> bool:
    return isinstance(gradient, SymbolicZero)


def _as_array(gradient: Any) -> Array:
    return jnp.zeros(gradient.shape, gradient.dtype) if _is_zero(gradient) else gradient


_use.defvjp(_use_forward, _use_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(dtype: Any, kernel: Array) -> Array:
    # Without the barrier XLA gathers first and casts then, at twice the bytes.
    narrow = jax.lax.optimization_barrier(kernel.astype(dtype))
    return jax.lax.with_sharding_constraint(narrow, P())


def _gather_forward(dtype: Any, kernel: Array) -> tuple[Array, Array]:
    return _gather(dtype, kernel), jnp.zeros((0,), kernel.dtype)


def _gather_backward(dtype: Any, of_type: Array, gradient: Array) -> tuple[Array]:
    spec = parameter_spec("kernel", gradient.shape, current_mesh())
    return (jax.lax.with_sharding_constraint(gradient, spec).astype(of_type.dtype),)


_gather.defvjp(_gather_forward, _gather_backward)
