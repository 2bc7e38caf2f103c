"""Nested dicts of arrays seen as flat tables: paths, lookup by pattern, exact comparison, sizes.

A parameter tree is a nested dict with string keys; a leaf is whatever is not a mapping. A path
joins the keys with dots: `down_blocks.0.resnets.1.time_mixer.mix_factor`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp

Value = TypeVar("Value")
Tree = Mapping[Any, Any]

SEPARATOR = "."


def flatten(tree: Tree) -> dict[str, Any]:
    """Path → leaf, in the order of the tree.

    Raises:
        ValueError: A key is not a string or contains a dot, so its path would be ambiguous.
    """
    flat = {}
    for key, value in tree.items():
        if not isinstance(key, str) or SEPARATOR in key:
            raise ValueError(f"a tree's keys are strings without dots, got {key!r}")
        if isinstance(value, Mapping):
            flat |= {f"{key}{SEPARATOR}{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict whose `flatten` is `flat`.

    Raises:
        ValueError: One path goes through another path's leaf.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split(SEPARATOR)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path} goes through a leaf")
        if name in node:
            raise ValueError(f"{path} is both a leaf and a subtree")
        node[name] = leaf
    return tree


def merged(first: Tree, second: Tree) -> dict[str, Any]:
    """One tree with the leaves of both.

    Raises:
        ValueError: A path has a leaf in both, or goes through a leaf of the other.
    """
    flat, more = flatten(first), flatten(second)
    if twice := flat.keys() & more.keys():
        raise ValueError(f"{sorted(twice)[0]} has a leaf in both trees")
    return unflatten(flat | more)


def first_match(table: Sequence[tuple[str, Value]], path: str) -> Value:
    """The value of the first row whose regular expression is found anywhere in `path`.

    Anchor a pattern with ^ and $ to match whole paths; end a table with the row ("", value) to
    give everything else an explicit value.

    Raises:
        LookupError: No row matches.
    """
    for pattern, value in table:
        if re.search(pattern, path):
            return value
    raise LookupError(f"no row of the table matches {path}")


def differences(expected: Tree, got: Tree, *, dtypes: bool = True) -> list[str]:
    """How `got` departs from `expected` in names, shapes and dtypes: one line per leaf.

    Leaves need `shape` and `dtype` only, so abstract trees can stand on either side. An empty list
    means the trees are interchangeable; with `dtypes=False`, up to a cast.
    """
    wanted, given = flatten(expected), flatten(got)
    problems = [f"missing: {path}" for path in wanted if path not in given]
    problems += [f"unexpected: {path}" for path in given if path not in wanted]
    for path in wanted.keys() & given.keys():
        want, have = wanted[path], given[path]
        if tuple(want.shape) != tuple(have.shape):
            shapes = f"expected {tuple(want.shape)}, got {tuple(have.shape)}"
            problems.append(f"wrong shape: {path}: {shapes}")
        elif dtypes and jnp.dtype(want.dtype) != jnp.dtype(have.dtype):
            names = f"expected {jnp.dtype(want.dtype)}, got {jnp.dtype(have.dtype)}"
            problems.append(f"wrong dtype: {path}: {names}")
    return sorted(problems)


def num_params(tree: Tree) -> int:
    """Numbers held by all leaves together."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def num_bytes(tree: Tree) -> int:
    """Bytes held by all leaves together, on one device without sharding."""
    return sum(
        math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in flatten(tree).values()
    )
