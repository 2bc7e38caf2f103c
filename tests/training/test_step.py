"""The train step: frozen stays frozen, accumulation is a mean, sharded equals single device."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import pretrained, sharding, tree
from posetraj_jax.models.networks import ModelOptions, Parameters, build_networks
from posetraj_jax.training import initial
from posetraj_jax.training.loss import clip_losses, noise_clips
from posetraj_jax.training.optimizer import make_optimizer, part_labels
from posetraj_jax.training.state import lay_out
from posetraj_jax.training.step import mean_over_microbatches, train_step
from tests.meshes import mesh_of, one_device
from tests.training.conftest import FRAMES, INITIAL, OPTIONS, make_batch, redrawn, start

KEY = jax.random.key(7)
BATCH = make_batch(8)


def whole_step(networks, optimizer):
    """The step as training compiles it, products at full float32 precision."""
    step = partial(train_step, networks=networks, optimizer=optimizer, options=OPTIONS)
    return jax.default_matmul_precision("highest")(step)


@pytest.fixture(scope="module")
def two_steps(networks):
    """Copies of state and frozen parameters from before, then what two steps made of them.

    The first step donates its state, as training does: were a frozen array part of the state's
    memory, it would be overwritten.
    """
    state, frozen, optimizer = start.__wrapped__(networks, one_device())
    before = jax.tree.map(np.array, (state, frozen))
    step = jax.jit(whole_step(networks, optimizer), donate_argnums=0)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)  # else it would be compiled again

    def run(number):
        fresh = jax.device_put(before[0]._replace(step=np.int32(number)), where)
        return step(fresh, frozen, BATCH, KEY)

    first = step(state, frozen, BATCH, KEY)
    assert state.params["conv_in"]["kernel"].is_deleted()
    return before, frozen, first, run


def losses_of(networks, params, frozen, batch, sigma, keys):
    clips = noise_clips(
        frozen, batch, sigma, keys, networks=networks, options=OPTIONS.conditioning, drop=True
    )
    return clip_losses(frozen.with_part("controlnet", params), clips, networks.denoiser)


def test_training_changes_every_parameter_and_nothing_frozen(two_steps):
    (state, frozen), frozen_after, (after, metrics), _ = two_steps
    assert int(after.step) == 1
    assert np.isfinite(metrics["loss"])
    assert float(metrics["grad_norm"]) > 0
    jax.tree.map(np.testing.assert_array_equal, frozen, frozen_after)
    trained = tree.flatten(after.params)
    same = [
        path
        for path, old in tree.flatten(state.params).items()
        if np.array_equal(old, trained[path])
    ]
    assert not same, f"not trained: {same}"


def test_the_ema_follows_with_its_warmed_up_decay(two_steps):
    (state, _), _, (after, _), _ = two_steps
    # Step 0: decay min(0.9, 1 / 10), so 0.1 of the old average remains.
    expected = jax.tree.map(lambda a, p: 0.1 * a + 0.9 * p, state.ema, after.params)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), after.ema, expected)


def test_randomness_comes_from_the_step_number_alone(two_steps):
    _, _, (after, metrics), run = two_steps
    again, same = run(0)
    assert float(same["loss"]) == float(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, again.params, after.params)
    assert float(run(1)[1]["loss"]) != float(metrics["loss"])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_microbatches_are_interleaved_and_averaged(count):
    """Clip i has fps i: the mean over microbatches of their sums is the sum over clips / count."""
    batch = make_batch(4)._replace(fps=jnp.arange(4.0))
    seen = []

    def function(micro, key):
        jax.debug.callback(lambda fps: seen.append(fps.tolist()), micro.fps)
        return {"sum": micro.fps.sum(), "noise": jax.random.normal(key)}

    mean = mean_over_microbatches(function, batch, KEY, count)
    jax.effects_barrier()
    assert float(mean["sum"]) == 6.0 / count
    assert sorted(seen) == [list(map(float, range(i, 4, count))) for i in range(count)]
    keys = [KEY] if count == 1 else jax.random.split(KEY, count)
    expected = np.mean([float(jax.random.normal(key)) for key in keys])
    assert float(mean["noise"]) == pytest.approx(expected, rel=1e-5)


def test_parameters_are_really_sharded(networks):
    state, frozen, _ = start(networks, mesh_of(2, 4))
    kernel = state.params["conv_in"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 4
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if sharding.path_of(path).endswith("conv_in.kernel") and leaf.ndim == 4
    ]
    assert len(moments) >= 2
    assert all(m.addressable_shards[0].data.shape[-1] * 4 == m.shape[-1] for m in moments)
    frozen_kernel = frozen.unet["conv_in"]["kernel"]
    assert frozen_kernel.addressable_shards[0].data.shape[-1] * 4 == frozen_kernel.shape[-1]


@pytest.mark.parametrize(
    "part",
    [pytest.param("all", marks=pytest.mark.full), "spatial", "temporal"],
)
def test_fine_tuning_trains_the_chosen_part_of_the_unet(part):
    """Traced only: the state holds that part, and nothing of it is left among what is frozen."""
    networks = build_networks(ModelOptions("micro", (1,) * 4, controlled=False))
    options = dataclasses.replace(INITIAL, stage=0, trainable=part)
    params = initial.abstract_params(networks, options)
    optimizer = make_optimizer(OPTIONS.optim)
    _, state = lay_out(params, optimizer, one_device(), averages=True)
    trees = {name: getattr(networks, name).abstract() for name in pretrained.READY}
    frozen = initial.without_trained(Parameters(**trees, controlnet={}), {}, options)
    assert tree.flatten(frozen.unet).keys().isdisjoint(tree.flatten(params))
    step = partial(
        train_step,
        networks=networks,
        optimizer=optimizer,
        options=dataclasses.replace(OPTIONS, trained="unet"),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    after, metrics = jax.eval_shape(step, state, frozen, make_batch(1), key)
    assert not tree.differences(params, after.params)
    assert metrics["loss_spa"].shape == ()  # stills of the UNet alone
    labels = set(tree.flatten(part_labels(params)).values())
    assert labels == ({"spatial", "temporal"} if part == "all" else {part})


def test_a_batch_of_two_is_two_batches_of_one(networks):
    state, frozen, _ = start(networks, one_device())
    batch, keys, sigma = make_batch(2), jax.random.split(KEY, 2), jnp.array([0.3, 3.0])

    @jax.jit
    def losses(batch, sigma, keys):
        return losses_of(networks, state.params, frozen, batch, sigma, keys)

    with jax.default_matmul_precision("highest"):
        together = losses(batch, sigma, keys)
        apart = [
            losses(
                jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch),
                sigma[i : i + 1],
                keys[i : i + 1],
            )[0]
            for i in range(2)
        ]
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_a_fresh_controlnet_changes_nothing(networks):
    """Zero convolutions: the denoiser with an untrained ControlNet is exactly the UNet's."""
    _, frozen, _ = start(networks, one_device())
    fresh, _ = initial.initial_params(networks, frozen, None, one_device(), KEY, INITIAL, {})
    sample = jax.random.normal(KEY, (1, FRAMES, 8, 8, 8))
    inputs = (sample, jnp.zeros(1), jnp.ones((1, 64)), jnp.ones((1, 3)))

    @jax.jit
    def outputs(params):
        maps = jax.random.normal(KEY, (1, FRAMES, 64, 64, 3))
        features = networks.controlnet.apply(params, maps, None, method="encode_maps")
        residuals = networks.controlnet.apply(params, *inputs, features)
        plain = networks.unet.apply(frozen.unet, *inputs)
        return plain, networks.unet.apply(frozen.unet, *inputs, residuals)

    plain, steered = outputs(fresh)
    np.testing.assert_array_equal(plain, steered)
    plain, steered = outputs(redrawn(fresh))
    assert float(jnp.abs(plain - steered).max()) > 1e-3
