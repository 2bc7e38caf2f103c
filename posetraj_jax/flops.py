"""Model FLOPs of a function: its matrix products and convolutions, counted exactly.

Counted in the jaxpr, after what no output needs is removed: a compiler's own count is wrong for
loops, whose body it counts once, and for recomputation. A multiply and an add are two.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn
from jax.interpreters import partial_eval


def count(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """FLOPs of one call; arguments may be ShapeDtypeStructs. Nothing is computed.

    The body of a scan counts as often as it runs; of a `cond`, the costliest branch. Zeros that pad
    a convolution count as numbers.

    Raises:
        ValueError: A while loop, whose length nobody knows.
    """
    # Traced as itself: what is compiled with options of its own cannot stand in another program.
    compiled = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    closed = compiled.trace(*args, **kwargs).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _count(jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
        c_out = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(out) * math.prod(kernel) // c_out
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "while" and any(inner):
        raise ValueError("a while loop has no known number of steps; use a scan")
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
