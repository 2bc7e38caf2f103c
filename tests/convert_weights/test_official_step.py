"""Losses and gradients of the official variants are those of the official code in PyTorch.

`pytest -s` prints the worst figures.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights import mapping, oracle
from posetraj_jax import config_file, tree
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.models.networks import Networks, Parameters, build_networks
from posetraj_jax.structs import Batch
from posetraj_jax.training.loss import (
    NoisedClips,
    SpatialPromotion,
    draw_clip_noise,
    losses_and_gradient,
    noise_clips,
)
from posetraj_jax.training.options import from_config
from posetraj_jax.training.step import StepOptions
from tests.parity import paired

LOSSES = ("loss", "loss_spa")
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
FLOOR = 1e-2
"""Of the largest entry in the tree: what gradients smaller than that are measured in."""
FRAMES, HEIGHT, WIDTH = 3, 64, 128
COMPONENTS = ("unet", "controlnet", "vae", "clip")
BANDS = {"embedding": (0.0, 0.1), "both": (0.1, 0.2), "latents": (0.2, 0.3), "nothing": (0.3, 1.0)}
"""What is dropped, and for which r."""


class Case(NamedTuple):
    stage: int
    dropped: str
    sigma: float
    camera_dropped: bool = False


CASES = (
    Case(1, "nothing", 0.7),
    Case(1, "embedding", 0.05),
    Case(1, "both", 0.7),
    Case(1, "latents", 20.0),
    Case(3, "nothing", 0.7),
    Case(3, "embedding", 20.0, camera_dropped=True),
    Case(3, "latents", 0.05),
)


class Pairs(NamedTuple):
    """The networks of a stage, ours and PyTorch's, with the same redrawn parameters."""

    params: Parameters
    modules: oracle.Modules


def options_of(stage: int, **overrides: str) -> tuple[Networks, StepOptions]:
    spec = f"configs/stage{stage}.py:micro,official"
    options = from_config(config_file.load(spec, overrides))
    return build_networks(options.model), options.step


@functools.cache
def pairs_of(stage: int) -> Pairs:
    networks, _ = options_of(stage)
    ours, theirs = [], []
    for seed, (name, network) in enumerate(zip(COMPONENTS, networks, strict=True)):
        pair = paired(network, getattr(oracle, name)(network.config), name, seed)
        ours.append(pair.params)
        theirs.append(pair.module)
    by_field = dict(zip(Parameters._fields, theirs, strict=True))
    return Pairs(Parameters(*jax.tree.map(jnp.asarray, ours)), oracle.Modules(**by_field))


@functools.cache
def batch() -> Batch:
    """One clip; `camera_rt` is world-to-camera."""
    rng = np.random.default_rng(0)
    frames, maps = rng.integers(0, 256, (2, 1, FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    rotations, _ = np.linalg.qr(rng.standard_normal((1, FRAMES, 3, 3)))
    rotations *= np.sign(np.linalg.det(rotations))[..., None, None]
    translations = rng.standard_normal((1, FRAMES, 3))
    camera_rt = np.concatenate([rotations.reshape(1, FRAMES, 9), translations], axis=-1)
    return Batch(
        frames_uint8=frames,
        first_frame_uint8=frames[:, 0],
        maps_uint8=maps,
        camera_rt=camera_rt.astype(np.float32),
        camera_known=np.ones(1, bool),
        fps=np.full(1, 5.0, np.float32),  # not the constant of the official code
    )


@functools.cache
def keys_and_noise() -> tuple[Any, Any]:
    """Of many steps, to choose from."""
    keys = jax.random.split(jax.random.key(0), 256)
    draw = jax.jit(functools.partial(draw_clip_noise, latent_channels=4))
    return keys, jax.tree.map(np.asarray, draw(keys, batch()))


def chosen(case: Case) -> int:
    """The first key that drops what `case` says and makes another frame than the first a still."""
    _, noise = keys_and_noise()
    image, camera = noise.dropout.T
    low, high = BANDS[case.dropped]
    fits = (low <= image) & (image < high) & (noise.frame_order[:, 0] > 0)
    return int(np.flatnonzero(fits & ((camera < 0.5) == case.camera_dropped))[0])


@functools.cache
def official_step(case: Case) -> oracle.Step:
    """The step in PyTorch."""
    noise = jax.tree.map(lambda x: x[chosen(case)], keys_and_noise()[1])
    draws = oracle.Draws(
        posterior=noise.posterior,
        diffusion=noise.diffusion,
        sigma=case.sigma,
        dropout=float(noise.dropout[0]),
        frame=int(noise.frame_order[0]),
    )
    camera = None
    if case.stage == 3:
        camera = np.zeros((FRAMES, 12)) if case.camera_dropped else camera_to_world()
    clip = oracle.Clip(batch().frames_uint8[0], batch().maps_uint8[0], camera)
    return oracle.training_step(pairs_of(case.stage).modules, clip, draws)


def camera_to_world() -> np.ndarray:
    """The inverse of every pose of the clip, as the official files have it."""
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, :3] = batch().camera_rt[0, :, :9].reshape(FRAMES, 3, 3)
    poses[:, :3, 3] = batch().camera_rt[0, :, 9:]
    inverse = np.linalg.inv(poses)
    return np.concatenate([inverse[:, :3, :3].reshape(FRAMES, 9), inverse[:, :3, 3]], axis=1)


def our_clips(case: Case, networks: Networks, options: StepOptions) -> NoisedClips:
    params, key = pairs_of(case.stage).params, keys_and_noise()[0][chosen(case)]
    noise = compiled_noise(networks, options.conditioning)
    return noise(params, batch(), jnp.array([case.sigma]), key[None])


def our_step(case: Case, **overrides: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Losses, and the gradient of the ControlNet."""
    networks, options = options_of(case.stage, **overrides)
    params = pairs_of(case.stage).params
    controlnet, frozen = params.controlnet, params._replace(controlnet={})
    with jax.default_matmul_precision("highest"):
        clips = our_clips(case, networks, options)
        losses, gradient = compiled_step(networks, options.spa)(controlnet, frozen, clips)
    return jax.tree.map(float, losses), jax.tree.map(np.asarray, gradient)


def our_losses(case: Case, **overrides: str) -> dict[str, float]:
    """The same losses with nothing to train: compiles several times faster."""
    networks, options = options_of(case.stage, **overrides)
    params = pairs_of(case.stage).params
    with jax.default_matmul_precision("highest"):
        clips = our_clips(case, networks, options)
        losses, _ = compiled_step(networks, options.spa)({}, params, clips)
    return jax.tree.map(float, losses)


@functools.cache
def compiled_noise(networks: Networks, options: ConditioningOptions) -> Any:
    return jax.jit(functools.partial(noise_clips, networks=networks, options=options, drop=True))


@functools.cache
def compiled_step(networks: Networks, spa: SpatialPromotion) -> Any:
    def run(controlnet, frozen, clips):
        complete = functools.partial(frozen.with_part, "controlnet")
        return losses_and_gradient(controlnet, complete, clips, networks=networks, spa=spa)

    return jax.jit(run)


def errors_of(losses: dict[str, float], gradient: Any, official: oracle.Step) -> dict[str, float]:
    """How far from the official step, in tolerances, by loss and by tensor of the ControlNet."""
    errors = {}
    for name in LOSSES:
        theirs = getattr(official, name)
        errors[name] = abs(losses[name] - theirs) / theirs / LOSS_TOLERANCE
    floor = FLOOR * max(np.abs(theirs).max() for theirs in official.gradient.values())
    for path, leaf in tree.flatten(gradient).items():
        name, ours = mapping.to_torch_tensor(path, leaf, "controlnet")
        theirs = official.gradient[name]
        scale = max(np.abs(theirs).max(), floor)
        errors[name] = float(np.abs(ours - theirs).max() / scale / GRADIENT_TOLERANCE)
    return errors


def figures(errors: dict[str, float]) -> str:
    """Losses relative to the official ones, and the worst gradient in the unit it is judged in."""
    loss, spa = (errors[name] * LOSS_TOLERANCE for name in LOSSES)
    name = max(errors.keys() - set(LOSSES), key=errors.__getitem__)
    worst = errors[name] * GRADIENT_TOLERANCE
    return f"loss {loss:.1e}, SPA {spa:.1e}, gradient {worst:.1e} of {name}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_losses_and_every_gradient_are_the_official_ones(case):
    official = official_step(case)
    losses, gradient = our_step(case)
    errors = errors_of(losses, gradient, official)
    print(f"\n{case}: {figures(errors)}")
    inert = mapping.inert_shapes(gradient, "controlnet").keys()
    assert errors.keys() == {*LOSSES, *official.gradient} - inert
    assert all(error < 1 for error in errors.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_only_what_cannot_matter_has_no_official_gradient(case):
    """So no tensor is too small for the floor to compare."""
    gradient = official_step(case).gradient
    sizes = {name: np.abs(array).max() for name, array in gradient.items()}
    largest = max(sizes.values())
    nothing = set(mapping.inert_shapes(pairs_of(case.stage).params.controlnet, "controlnet"))
    if case.dropped in ("embedding", "both"):
        nothing |= {name for name in sizes if re.search(r"attn2\.(to_v|to_out\.0)\.weight", name)}
    assert {name for name, size in sizes.items() if size < 1e-4 * largest} == nothing
    assert max(sizes[name] for name in nothing) < 1e-6 * largest  # rounding


@pytest.mark.parametrize(
    ("stage", "field", "ours"),
    [
        (1, "conditioning.time_ids", "svd"),
        (1, "conditioning.clip_range", "unit"),
        (1, "conditioning.noise_aug", "pixels"),
        (3, "camera.normalise", "relative"),
    ],
)
def test_our_conditioning_is_not_the_official_one(stage, field, ours):
    case = next(case for case in CASES if case.stage == stage)
    errors = errors_of(*our_step(case, **{field: ours}), official_step(case))
    print(f"\n{field}: {figures(errors)}")
    assert max(errors[name] for name in LOSSES) > 10
    assert max(errors.values()) > 100  # a gradient


@pytest.mark.full
@pytest.mark.parametrize(
    ("field", "ours", "changed"),
    [
        ("model.residual_multiplicity", "1,1,1,1", ("loss", "loss_spa")),
        ("spa.source", "single_frame", ("loss_spa",)),
        ("spa.temporal", "bypass", ("loss_spa",)),
    ],
)
def test_our_losses_are_not_the_official_ones(field, ours, changed):
    """And where only the stills differ, the loss of the clip stays the official one."""
    errors = errors_of(our_losses(CASES[0], **{field: ours}), {}, official_step(CASES[0]))
    print(f"\n{field}, in tolerances: {errors}")
    for name in LOSSES:
        assert errors[name] > 10 if name in changed else errors[name] < 1
