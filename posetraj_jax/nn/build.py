"""Networks as pure functions of plain nested dicts: the only place that splits and merges.

Flax matches leaves by their order when it merges, so a misspelt key or a transposed matrix can
pass unnoticed. Here names and shapes are compared exactly first; that costs Python time while
tracing and nothing afterwards.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from posetraj_jax import tree
from posetraj_jax.nn import low_rank
from posetraj_jax.nn.attention_kernels import Attention
from posetraj_jax.nn.layers import Make, Remat

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A module class with its configuration, seen as functions of a nested dict of parameters.

    The dict's keys are the module paths ("down_blocks" → "0" → "resnets" …); leaves are called
    kernel, bias, scale, embedding or mix_factor.
    """

    module_cls: Callable[[Any, Make], nnx.Module]
    config: Any
    dtype: Any = jnp.float32
    remat: tuple[Remat, ...] = ("none",)
    """One policy for all levels, or one for each from the widest image down."""
    attention: Attention = "xla"
    """The kernel of self-attention within frames."""
    still: bool = False
    """For clips of one frame: nothing temporal runs, and its parameters are not read."""

    def init(self, key: Any) -> Params:
        """Fresh float32 parameters; `layers.Make` says how they start. Fit for `jax.jit`."""
        return _construct(self, key)[1]

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, without making them; computed once."""
        return tree.unflatten(tree.flatten(_structure(self)[1]))

    def apply(self, params: Params, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Calls the module, or one of its methods, with these parameters.

        Parameters may have any floating type: they are cast where they are used. Beside a kernel
        may be low-rank factors, which adapt it (see `nn.low_rank`).

        Raises:
            ValueError: Names or shapes of `params` are not exactly this network's.
        """
        graph, expected = _structure(self)
        params = low_rank.joined(params)
        if problems := tree.differences(expected, params, dtypes=False):
            raise ValueError(
                f"these are not the parameters of {self.module_cls.__name__}:\n  "
                + "\n  ".join(problems)
            )
        module = nnx.merge(graph, _with_list_indices(params))
        with jax.named_scope(self.module_cls.__name__):
            return getattr(module, method or "__call__")(*args, **kwargs)


def build(
    module_cls: Callable[[Any, Make], nnx.Module],
    config: Any,
    *,
    dtype: Any = jnp.float32,
    remat: Sequence[str] = ("none",),
    attention: str = "xla",
) -> Network:
    """The network `module_cls(config)` computing in `dtype`.

    `remat` has "none", "blocks" or "dots" (see `layers.checkpointed`) for all levels or for each.

    Raises:
        ValueError: Unknown `remat` or `attention`.
    """
    if unknown := set(remat) - set(get_args(Remat)):
        raise ValueError(f"remat is one of {', '.join(get_args(Remat))}, got {sorted(unknown)}")
    if attention not in get_args(Attention):
        raise ValueError(f"attention is one of {get_args(Attention)}, got {attention!r}")
    return Network(module_cls, config, jnp.dtype(dtype), tuple(remat), attention)


def _construct(network: Network, key: Any) -> tuple[Any, Params]:
    make = Make(key, network.dtype, network.remat, still=network.still, attention=network.attention)
    graph, state = nnx.split(network.module_cls(network.config, make), nnx.Param)
    return graph, _with_string_keys(nnx.to_pure_dict(state))


@functools.cache
def _structure(network: Network) -> tuple[Any, Params]:
    graph = None

    def construct(key: Any) -> Params:
        nonlocal graph
        graph, params = _construct(network, key)
        return params

    # The graph holds no arrays, so it may leave the trace.
    params = jax.eval_shape(construct, jax.eval_shape(lambda: jax.random.key(0)))
    return graph, params


def _with_string_keys(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {str(key): _with_string_keys(value) for key, value in node.items()}


def _with_list_indices(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    restored = {int(k) if k.isdigit() else k: _with_list_indices(v) for k, v in node.items()}
    return dict(sorted(restored.items()))
