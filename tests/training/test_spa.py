"""The spatial promotion loss: whom its gradient reaches, and that it changes nothing else."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posetraj_jax import flops, tree
from posetraj_jax.models.networks import ModelOptions, Networks, Parameters, build_networks
from posetraj_jax.training.loss import (
    NoisedClips,
    SpatialPromotion,
    losses_and_gradient,
    still_losses,
)
from posetraj_jax.training.optimizer import keep_spatial, make_optimizer, part_labels
from tests.training.conftest import OPTIONS, narrow

KINDS = [
    ("single_frame", "bypass"),
    ("single_frame", "active"),
    ("sliced", "active"),
    ("sliced", "bypass"),
]
by_kind = pytest.mark.parametrize(("source", "temporal"), KINDS[:3])


def promotion(**fields) -> SpatialPromotion:
    return dataclasses.replace(OPTIONS.spa, **fields)


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """Everything redrawn that starts at zero, and two noised clips with cameras.

    Nothing in this file is compiled as a whole: the operations are compiled one by one, which all
    gradients share, and no fusion rounds one of them differently.
    """

    networks: Networks
    params: Any
    complete: Callable[[Any], Parameters]
    clips: NoisedClips

    @functools.cached_property
    def plain(self):
        """Losses and gradient without stills."""
        return self.gradient(promotion(weight=0.0))

    def gradient(self, spa: SpatialPromotion, clips=None):
        clips = self.clips if clips is None else clips
        losses, grads = losses_and_gradient(
            self.params, self.complete, clips, networks=self.networks, spa=spa
        )
        return losses, {path: np.asarray(leaf) for path, leaf in tree.flatten(grads).items()}

    def still_gradient(self, spa: SpatialPromotion, stop_temporal: bool = False):
        """Of L_SPA alone, unmasked; or with what is temporal held constant."""

        def hold(leaf, part):
            return jax.lax.stop_gradient(leaf) if part == "temporal" else leaf

        def mean(params):
            if stop_temporal:
                params = jax.tree.map(hold, params, part_labels(params))
            parameters = self.complete(params)
            return still_losses(parameters, self.clips, self.networks, spa).mean()

        return jax.grad(mean)(self.params)


@pytest.fixture(scope="module")
def setting():
    networks, params, frozen, clips = narrow()
    complete = functools.partial(frozen.with_part, "controlnet")
    with jax.default_matmul_precision("highest"):
        yield Setting(networks, params, complete, clips)


def temporal_paths(params) -> set[str]:
    return {path for path, part in tree.flatten(part_labels(params)).items() if part == "temporal"}


def assert_close(got, wanted, tolerance):
    largest = max(np.abs(leaf).max() for leaf in wanted.values())
    for path, leaf in wanted.items():
        assert np.abs(got[path] - leaf).max() <= tolerance * largest, path


@pytest.mark.parametrize(
    ("source", "temporal"),
    [KINDS[0], *(pytest.param(*kind, marks=pytest.mark.full) for kind in KINDS[1:3])],
)
def test_the_gradient_is_that_of_held_temporal_parameters(setting, source, temporal):
    """Zero on every temporal leaf, not on any spatial one, and the sum is what it should be."""
    spa = promotion(source=source, temporal=temporal)
    (losses, total), (plain_losses, plain) = setting.gradient(spa), setting.plain
    assert float(losses["loss"]) == float(plain_losses["loss"])
    assert "loss_spa" not in plain_losses
    held = tree.flatten(setting.still_gradient(spa, stop_temporal=True))
    assert_close(total, {path: plain[path] + 0.5 * held[path] for path in plain}, 1e-6)

    masked = tree.flatten(keep_spatial(setting.still_gradient(spa)))
    temporal_leaves = temporal_paths(setting.params)
    assert 0 < len(temporal_leaves) < len(masked)
    for path, leaf in masked.items():
        largest = float(np.abs(leaf).max())
        assert largest == 0.0 if path in temporal_leaves else largest > 0.0, path


@by_kind
def test_masked_gradients_cost_nothing(setting, source, temporal):
    """Counted FLOPs: as many as if temporal parameters were constants."""
    spa = promotion(source=source, temporal=temporal)
    masked = flops.count(lambda: keep_spatial(setting.still_gradient(spa)))
    assert masked == flops.count(lambda: setting.still_gradient(spa, stop_temporal=True))
    if temporal == "active":
        assert masked < flops.count(lambda: setting.still_gradient(spa))


def test_with_and_without_stills_only_spatial_parameters_differ(setting):
    """One step of the optimizer without clipping, which would couple them."""
    optimizer = make_optimizer(dataclasses.replace(OPTIONS.optim, clip_norm=0.0))

    def step(spa):
        grads = tree.unflatten(setting.gradient(spa)[1])
        updates, _ = optimizer.update(grads, optimizer.init(setting.params), setting.params)
        return tree.flatten(updates)

    without, with_stills = step(promotion(weight=0.0)), step(promotion(temporal="active"))
    same = {path for path in without if np.array_equal(without[path], with_stills[path])}
    assert same == temporal_paths(setting.params)


def test_only_the_official_gradient_reaches_temporal_parameters(setting):
    spa = promotion(source="sliced", temporal="active", gradient="all")
    losses, total = setting.gradient(spa)
    raw = tree.flatten(setting.still_gradient(spa))
    plain = setting.plain[1]
    assert_close(total, {path: plain[path] + 0.5 * raw[path] for path in plain}, 1e-6)
    assert float(losses["loss_spa"]) > 0
    assert all(np.abs(raw[path]).max() > 0 for path in temporal_paths(setting.params))


@pytest.mark.full
@pytest.mark.parametrize(
    ("source", "temporal", "gradient"),
    [*((*kind, "spatial") for kind in KINDS[:3]), ("sliced", "active", "all")],
)
def test_the_gradient_of_two_clips_is_the_mean_of_each_ones(setting, source, temporal, gradient):
    """Of batches [a, b], [a] and [b]: a mean over clips, which take nothing from each other."""
    spa = promotion(source=source, temporal=temporal, gradient=gradient)
    together, total = setting.gradient(spa)
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], setting.clips) for i in (0, 1)]
    apart = [setting.gradient(spa, clips) for clips in alone]
    for name, value in together.items():
        mean = (apart[0][0][name] + apart[1][0][name]) / 2
        assert float(value) == pytest.approx(float(mean), rel=1e-5), name
    assert_close(total, {path: (apart[0][1][path] + apart[1][1][path]) / 2 for path in total}, 1e-5)
    assert float(apart[0][0]["loss_spa"]) != pytest.approx(float(apart[1][0]["loss_spa"]), rel=1e-2)


@pytest.mark.parametrize(("source", "temporal"), [KINDS[0], KINDS[2]])
def test_the_loss_of_two_clips_is_that_of_each_alone(setting, source, temporal):
    spa = promotion(source=source, temporal=temporal, frames=2)

    @jax.jit
    def losses(clips):
        parameters = setting.complete(setting.params)
        return still_losses(parameters, clips, setting.networks, spa)

    alone = [
        float(losses(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], setting.clips))[0])
        for i in (0, 1)
    ]
    np.testing.assert_allclose(losses(setting.clips), alone, rtol=1e-5)


def test_every_switch_does_something(setting):
    found = [
        float(setting.gradient(promotion(source=source, temporal=temporal))[0]["loss_spa"])
        for source, temporal in KINDS
    ]
    gaps = [abs(a - b) for i, a in enumerate(found) for b in found[:i]]
    assert min(gaps) > 1e-4 * max(found), found


def test_a_still_network_reads_no_temporal_parameter(setting):
    damaged = jax.tree.map(
        lambda leaf, part: leaf * jnp.nan if part == "temporal" else leaf,
        setting.params,
        part_labels(setting.params),
    )
    losses = [
        still_losses(setting.complete(params), setting.clips, setting.networks, promotion())
        for params in (setting.params, damaged)
    ]
    np.testing.assert_array_equal(*losses)


def test_the_table_names_all_that_is_temporal():
    options = ModelOptions("svd", (1,) * 12, camera=True, camera_encoder="mlp")
    labels = tree.flatten(part_labels(build_networks(options).controlnet.abstract()))
    spatial = (
        r"spatial_res_block",
        r"\.transformer_blocks\.",
        r"^controlnet_(down|mid|cond)",
        r"^(conv_in|time_embedding|add_embedding)\.",
        r"\.(norm|proj_in|proj_out|downsamplers\.0\.conv)\.",
    )
    for path, part in labels.items():
        is_temporal = re.search(r"temporal|time_mixer|time_pos_embed", path) is not None
        assert part == ("temporal" if is_temporal else "spatial"), path
        assert is_temporal or any(re.search(pattern, path) for pattern in spatial), path
