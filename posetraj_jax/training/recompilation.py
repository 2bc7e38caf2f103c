"""A training step that is compiled again while the run goes on is a mistake, and stops the run.

At full size a compilation takes minutes; one in every step looks like a slow machine, and nothing
else tells.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from posetraj_jax.errors import UserError, listed

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event at the end of each compilation, in the thread that asked for it."""
MAY_COMPILE = 2
"""Calls: the second sees the state that the first has made."""
MOST_NAMED = 8


class CompiledOnce:
    """A step that raises if a call after the second has compiled anything. Use it in `with`.

    Only what compiles inside of a call counts, so evaluation and sampling may.
    """

    def __init__(self, step: Callable[..., Any], names: Sequence[str]):
        """Watches nothing yet.

        Args:
          step: such as a `jax.jit` function.
          names: of its arguments, for the message.
        """
        self._step, self._names = step, names
        self._calls, self._thread = 0, 0
        self._known: list[dict[str, str]] = []
        self.compilations = 0
        """Inside of all calls so far."""

    def __enter__(self) -> "CompiledOnce":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def __call__(self, *arguments: Any) -> Any:
        """The step's results.

        Raises:
          UserError: the third or a later call compiled; names what is new in its arguments.
        """
        self._calls += 1
        if self._calls <= MAY_COMPILE:
            self._known.append(_described(self._names, arguments))
        before, self._thread = self.compilations, threading.get_ident()
        try:
            results = self._step(*arguments)
        finally:
            self._thread = 0
        if self._calls > MAY_COMPILE and self.compilations > before:
            raise self._error(_described(self._names, arguments))
        return results

    def _listen(self, event: str, *_: Any, **__: Any) -> None:
        if event == COMPILED and threading.get_ident() == self._thread:
            self.compilations += 1

    def _error(self, now: dict[str, str]) -> UserError:
        """Says what differs from that of the first calls which is most alike."""
        changes = min((_changes(old, now) for old in self._known), key=len)
        if len(changes) > MOST_NAMED:
            changes[MOST_NAMED:] = [f"and {len(changes) - MOST_NAMED} more"]
        return UserError(
            f"the training step was compiled again in step {self._calls} since the start",
            expected="one program for the whole run: every batch of the same shapes and types",
            got=listed(changes)
            if changes
            else "the same shapes, types and places as before; "
            "JAX_EXPLAIN_CACHE_MISSES=1 tells more",
            fix="mend what changes; the same command resumes from the last checkpoint",
        )


def _changes(old: dict[str, str], now: dict[str, str]) -> list[str]:
    return [
        f"{name}: was {old.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in sorted(old.keys() | now.keys())
        if old.get(name) != now.get(name)
    ]


def _described(names: Sequence[str], arguments: Sequence[Any]) -> dict[str, str]:
    """Path → type, shape and place of every array, donated ones too."""
    described = {}
    for name, argument in zip(names, arguments, strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(argument):
            aval = jax.typeof(leaf)
            weak = ", weak type" if getattr(aval, "weak_type", False) else ""
            place = f" in {leaf.sharding}" if isinstance(leaf, jax.Array) else ""
            shape = ", ".join(map(str, aval.shape))
            described[name + jax.tree_util.keystr(path)] = f"{aval.dtype}[{shape}]{weak}{place}"
    return described
