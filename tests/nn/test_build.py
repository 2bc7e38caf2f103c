import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from posetraj_jax import tree
from posetraj_jax.nn.build import build
from posetraj_jax.nn.layers import Make

LAYERS = 12  # two digits: "10" sorts before "2" as text


class Chain(nnx.Module):
    """Layers of one shape in a row: any mix-up of their order changes the output."""

    def __init__(self, d: int, make: Make):
        self.layers = nnx.List([make.linear(d, d) for _ in range(LAYERS)])
        self.norm = make.layer_norm(d)
        self.out = make.linear(d, 2 * d, bias=False)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.out(self.norm(x))

    def first(self, x, *, times=1):
        return self.layers[0](x) * times


NETWORK = build(Chain, 4)
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0))


def by_hand(params, x):
    for i in range(LAYERS):
        layer = params["layers"][str(i)]
        x = x @ layer["kernel"] + layer["bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x * params["norm"]["scale"] + params["norm"]["bias"]) @ params["out"]["kernel"]


def test_parameters_have_the_abstract_names_shapes_and_types(params):
    assert tree.differences(NETWORK.abstract(), params) == []
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert tree.num_params(params) == LAYERS * 20 + 8 + 32


def test_each_kernel_is_drawn_once_and_each_key_gives_other_kernels(params):
    again, other = NETWORK.init(jax.random.key(0)), NETWORK.init(jax.random.key(1))
    kernels = [params["layers"][str(i)]["kernel"] for i in range(LAYERS)]
    kernels += [other["layers"][str(i)]["kernel"] for i in range(LAYERS)]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 2 * LAYERS
    assert all(float(jnp.abs(kernel).max()) <= 0.5 for kernel in kernels)
    assert float(jnp.std(jnp.stack(kernels))) == pytest.approx(0.5 / 3**0.5, rel=0.1)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_leaf_larger_than_a_block_of_noise_gets_its_own():
    network = build(lambda _, make: nnx.List([make.linear(3000, 2000), make.linear(8, 8)]), None)
    kernel = np.asarray(network.init(jax.random.key(0))["0"]["kernel"])
    assert np.unique(kernel).size > 0.5 * kernel.size
    assert np.abs(kernel).max() == pytest.approx(3000**-0.5, rel=1e-3)


def test_layers_run_in_their_order_whatever_the_order_of_the_dict(params):
    shuffled = {name: params[name] for name in ("out", "norm", "layers")}
    shuffled["layers"] = {str(i): params["layers"][str(i)] for i in reversed(range(LAYERS))}
    expected = by_hand(jax.tree.map(np.asarray, params), X)
    for given in (params, shuffled):
        np.testing.assert_allclose(NETWORK.apply(given, X), expected, rtol=1e-4, atol=1e-5)


def test_methods_and_keyword_arguments_reach_the_module(params):
    first = params["layers"]["0"]
    expected = 3 * (X @ first["kernel"] + first["bias"])
    np.testing.assert_allclose(
        NETWORK.apply(params, X, method="first", times=3), expected, rtol=1e-5, atol=1e-6
    )


def test_wrong_trees_are_refused_by_name(params):
    flat = tree.flatten(params)
    flat["layers.3.bais"] = flat.pop("layers.3.bias")
    flat["out.kernel"] = flat["out.kernel"].T
    with pytest.raises(ValueError, match="not the parameters of Chain") as refused:
        jax.jit(NETWORK.apply)(tree.unflatten(flat), X)
    assert "missing: layers.3.bias" in str(refused.value)
    assert "unexpected: layers.3.bais" in str(refused.value)
    assert "wrong shape: out.kernel: expected (4, 8), got (8, 4)" in str(refused.value)


def test_parameters_of_another_type_are_cast_to_the_compute_type(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert NETWORK.apply(half, X).dtype == jnp.float32
    assert build(Chain, 4, dtype=jnp.bfloat16).apply(params, X).dtype == jnp.bfloat16


def test_unknown_remat_is_refused():
    with pytest.raises(ValueError, match="remat is"):
        build(Chain, 4, remat=("everything",))
