"""Digests: of every number and its place, of nothing else, and the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import fingerprint, sharding, tree
from posetraj_jax.models.networks import ModelOptions, Parameters, build_networks
from tests.meshes import mesh_of

PARAMS = {
    "conv": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.ones(4)},
    "norm": {"scale": np.full(4, 0.5, np.float32)},
}


def digest(params, dtype=jnp.float32) -> str:
    return fingerprint.digest(jax.tree.map(jnp.float32, params), dtype)


def changed(path: str, change) -> dict:
    """A copy with one leaf changed in place."""
    flat = {name: np.array(leaf, np.float32) for name, leaf in tree.flatten(PARAMS).items()}
    change(flat[path])
    return tree.unflatten(flat)


def test_equal_parameters_have_equal_digests():
    assert digest(PARAMS) == digest(jax.tree.map(np.copy, PARAMS))
    assert len(digest(PARAMS)) == 64
    order = dict(reversed([(name, dict(reversed(sub.items()))) for name, sub in PARAMS.items()]))
    assert list(order) == ["norm", "conv"]
    assert digest(order) == digest(PARAMS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_single_number_counts(dtype):
    digests = {digest(PARAMS, dtype)}
    count = 1
    for path, leaf in tree.flatten(PARAMS).items():
        for place in range(leaf.size):
            step = 2.0**-7 if dtype == jnp.bfloat16 else 2.0**-22

            def nudge(array, place=place, step=step):
                array.flat[place] = array.flat[place] * (1 + step) if array.flat[place] else step

            digests.add(digest(changed(path, nudge), dtype))
            count += 1
    assert len(digests) == count == 33


def test_numbers_that_swap_places_count():
    digests, count = {digest(PARAMS)}, 1
    for one in range(24):
        for other in range(one):

            def swap(kernel, one=one, other=other):
                kernel.flat[[one, other]] = kernel.flat[[other, one]]

            digests.add(digest(changed("conv.kernel", swap)))
            count += 1
    assert len(digests) == count == 277


def test_names_shapes_and_signs_count():
    kernel = PARAMS["conv"]["kernel"]
    renamed = {"conv": PARAMS["conv"], "norm2": PARAMS["norm"]}
    reshaped = PARAMS | {"conv": PARAMS["conv"] | {"kernel": kernel.reshape(3, 2, 4)}}
    negative = changed("conv.kernel", lambda array: np.negative(array, out=array))
    less = {"conv": PARAMS["conv"]}
    cast = digest(PARAMS, jnp.bfloat16)  # all these numbers are the same in bfloat16
    others = [digest(params) for params in (renamed, reshaped, negative, less)] + [cast]
    assert len({digest(PARAMS), *others}) == 6


def test_what_becomes_the_same_when_cast_is_the_same():
    def nudge(kernel):
        kernel.flat[5] *= 1 + 2.0**-12

    nudged = changed("conv.kernel", nudge)
    assert digest(nudged) != digest(PARAMS)
    assert digest(nudged, jnp.bfloat16) == digest(PARAMS, jnp.bfloat16)
    stored = jax.tree.map(jnp.bfloat16, PARAMS)
    assert fingerprint.digest(stored, jnp.bfloat16) == digest(PARAMS, jnp.bfloat16)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_the_mesh_does_not_count(shape):
    params = {
        "conv": {"kernel": jnp.arange(3 * 3 * 4 * 16.0).reshape(3, 3, 4, 16), "bias": jnp.ones(16)},
        "narrow": {"kernel": jnp.arange(12.0).reshape(4, 3)},  # stays whole
        "mix_factor": jnp.float32(0.5),
    }
    mesh = mesh_of(*shape)
    placed = jax.device_put(params, sharding.parameter_shardings(params, mesh))
    kernel = placed["conv"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == 16 // shape[1]
    for dtype in (jnp.float32, jnp.bfloat16):
        assert fingerprint.digest(placed, dtype) == fingerprint.digest(params, dtype)


def test_what_encodes_counts_and_what_decodes_does_not():
    networks = build_networks(ModelOptions("micro", (1,) * 4))
    keys = jax.random.split(jax.random.key(0), 2)
    parameters = Parameters(
        unet={},
        controlnet={},
        vae=networks.vae.init(keys[0]),
        image_encoder=networks.image_encoder.init(keys[1]),
    )
    expected = fingerprint.of_encoders(parameters, jnp.float32)

    def with_one_more(name: str, path: str) -> str:
        flat = tree.flatten(getattr(parameters, name))
        leaf = np.array(flat[path])
        leaf.flat[-1] += 1.0
        flat[path] = jnp.asarray(leaf)
        changed = parameters._replace(**{name: tree.unflatten(flat)})
        return fingerprint.of_encoders(changed, jnp.float32)

    by_network = {"vae": [], "image_encoder": []}
    for name, tops in by_network.items():
        paths = sorted(tree.flatten(getattr(parameters, name)))
        for path in [*paths[::12], paths[-1]]:
            is_same = with_one_more(name, path) == expected
            assert is_same == path.startswith("decoder."), path
            tops.append(path.split(".")[0])
    assert set(by_network["vae"]) == {"encoder", "decoder", "quant_conv"}
    assert len(set(by_network["image_encoder"])) > 2


def test_the_unet_is_the_same_in_float32_and_in_bfloat16():
    """Weights converted with `--dtype bfloat16` are those that float32 ones are cast to."""
    unet = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) * 1.001, PARAMS)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), unet)
    assert fingerprint.of_unet(unet) == fingerprint.of_unet(half)
    other = jax.tree.map(lambda leaf: leaf * 1.1, unet)
    assert fingerprint.of_unet(other) != fingerprint.of_unet(unet)
