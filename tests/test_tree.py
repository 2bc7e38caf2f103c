import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import tree

TREE = {"a": {"0": {"kernel": np.zeros((2, 3))}, "10": np.ones(4)}, "b": np.zeros((), np.int8)}


def shaped(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def test_flatten_joins_keys_with_dots_and_unflatten_undoes_it():
    flat = tree.flatten(TREE)
    assert list(flat) == ["a.0.kernel", "a.10", "b"]
    assert flat["a.10"] is TREE["a"]["10"]
    assert tree.unflatten(flat) == TREE


@pytest.mark.parametrize("bad", [{"a.b": 1}, {0: 1}, {"a": {1: 2}}])
def test_ambiguous_keys_are_refused(bad):
    with pytest.raises(ValueError, match="strings without dots"):
        tree.flatten(bad)


@pytest.mark.parametrize("paths", [("a", "a.b"), ("a.b", "a")])
def test_a_leaf_cannot_also_be_a_subtree(paths):
    with pytest.raises(ValueError, match="leaf"):
        tree.unflatten(dict.fromkeys(paths, 0))


def test_the_first_matching_row_wins_and_none_is_an_error():
    table = [(r"^a\.", "first"), (r"kernel$", "second")]
    assert tree.first_match(table, "a.0.kernel") == "first"
    assert tree.first_match(table, "b.kernel") == "second"
    with pytest.raises(LookupError, match=r"b\.bias"):
        tree.first_match(table, "b.bias")
    assert tree.first_match([*table, ("", "rest")], "b.bias") == "rest"


def test_differences_name_every_leaf_that_departs():
    expected = shaped(same=(2,), gone=(3,), turned=(2, 5), cast=(7,))
    got = shaped(same=(2,), extra=(3,), turned=(5, 2), cast=(7,))
    got["cast"] = jax.ShapeDtypeStruct((7,), jnp.bfloat16)
    assert tree.differences(expected, expected) == []
    assert tree.differences(expected, got) == [
        "missing: gone",
        "unexpected: extra",
        "wrong dtype: cast: expected float32, got bfloat16",
        "wrong shape: turned: expected (2, 5), got (5, 2)",
    ]
    assert not any("cast" in line for line in tree.differences(expected, got, dtypes=False))


def test_sizes_count_every_leaf():
    assert tree.num_params(TREE) == 6 + 4 + 1
    assert tree.num_bytes(TREE) == 8 * 10 + 1
