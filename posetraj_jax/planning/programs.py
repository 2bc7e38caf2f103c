"""The programs that a plan compiles, with all they work on as shapes: those of a real run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from posetraj_jax import generation, sharding, weights
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import ModelOptions, Networks, Parameters, build_networks
from posetraj_jax.planning.topology import Topology
from posetraj_jax.published import ImageStatistics, SigmaRange
from posetraj_jax.sharding import MeshOptions
from posetraj_jax.structs import Batch
from posetraj_jax.training.options import initial_options, model_options, step_options
from posetraj_jax.training.program import (
    BatchShape,
    abstract_batch,
    abstract_frozen,
    abstract_key,
    make_program,
)

STEP_KINDS = (
    # path of an argument → kind; the first matching row holds.
    (r"args\[0\]\.params", "parameters"),
    (r"args\[0\]\.opt_state", "optimizer"),
    (r"args\[0\]\.ema", "EMA"),
    (r"args\[1\]", "frozen"),
    (r"args\[2\]", "batch"),
    (r"", "other"),
)
SAMPLING_KINDS = ((r"args\[3\]", "parameters"), (r"args\[0\]", "latents"), (r"", "conditions"))
DECODE_KINDS = ((r"args\[0\]", "parameters"), (r"", "latents"))

Kinds = Sequence[tuple[str, str]]


class Planned(NamedTuple):
    """A program to compile."""

    name: str
    function: Any
    """A `jax.jit` function."""
    arguments: tuple[Any, ...]
    """ShapeDtypeStructs with shardings."""
    kinds: Kinds
    """Pattern of an argument's path → what it is."""
    plain: Callable[..., Any]
    """The same on the same arguments, with plain attention, whose products can be counted."""
    model: Callable[..., Any]
    """And without recomputation: the model's own FLOPs."""
    runs: int = 1
    """How often it runs for one `clips`."""


class Plan(NamedTuple):
    """What a config runs on a topology."""

    mesh: Mesh
    dtype: str
    """That activations are computed in."""
    attention: str
    """The kernel."""
    clips: int
    """Of one optimizer step, or one batch of videos, over all devices."""
    programs: list[Planned]


def training(c: ConfigDict, topology: Topology) -> Plan:
    """The optimizer step of a validated config; no file that it names is needed.

    Raises:
      UserError: the mesh or the batch does not fit the devices, or the config names an attention
        kernel that they do not have.
    """
    mesh, model = _mesh(c, topology), model_options(c, topology.platform)
    start, options = initial_options(c), step_options(c, ImageStatistics())
    networks = build_networks(model)
    program = make_program(networks, mesh, start, options)
    cached = bool(c.data.latents)
    frozen = abstract_frozen(
        networks, mesh, start, model.dtype, cached=cached, placement=c.mesh.frozen
    )
    batch = abstract_batch(networks, mesh, _batch_shape(c, c.optim.accumulate, cached=cached))

    def step_of(other: ModelOptions) -> Any:
        return make_program(build_networks(other), mesh, start, options).step

    counted = replace(model, attention="xla")
    plain = program.step if counted == model else step_of(counted)
    lean = replace(counted, remat=("none",))

    planned = Planned(
        "train step",
        program.step,
        (program.state, frozen, batch, abstract_key(mesh)),
        STEP_KINDS,
        plain=plain,
        model=plain if lean == counted else step_of(lean),
    )
    clips = c.batch_size * c.optim.accumulate
    return Plan(mesh, str(model.dtype), model.attention, clips, [planned])


def sampling(c: ConfigDict, topology: Topology) -> Plan:
    """One denoising step with guidance, and the decoder, for `batch_size` videos at once.

    Raises:
      UserError: as `training`.
    """
    mesh, model = _mesh(c, topology), model_options(c, topology.platform)
    networks, options = build_networks(model), _sampling_options(c)
    program = generation.make_program(networks, options, mesh)
    plain = generation.make_program(build_networks(replace(model, attention="xla")), options, mesh)
    parameters = _all_parameters(networks, mesh, model.dtype, c.mesh.frozen)
    start = _start(c, program, networks, options, mesh, parameters)
    number = jax.ShapeDtypeStruct((), np.float32, sharding=sharding.replicated(mesh))
    step = Planned(
        "denoising step",
        program.step,
        (start.latents, number, number, parameters, start._replace(latents=None)),
        SAMPLING_KINDS,
        plain=plain.step,
        model=plain.step,
        runs=c.sample.steps,
    )
    decode = Planned(
        "decode",
        program.decode,
        (parameters.vae, start.latents),
        DECODE_KINDS,
        plain=plain.decode,
        model=plain.decode,
    )
    return Plan(mesh, str(model.dtype), model.attention, c.batch_size, [step, decode])


def _sampling_options(c: ConfigDict) -> SamplingOptions:
    sigmas = SigmaRange()
    return SamplingOptions(
        steps=c.sample.steps,
        min_guidance_scale=c.sample.min_guidance_scale,
        max_guidance_scale=c.sample.max_guidance_scale,
        sigma_min=sigmas.sigma_min,
        sigma_max=sigmas.sigma_max,
        conditioning=step_options(c, ImageStatistics()).conditioning,
    )


def _mesh(c: ConfigDict, topology: Topology) -> Mesh:
    mesh = sharding.make_mesh(MeshOptions(**c.mesh), topology.devices)
    sharding.check_batch(c.batch_size, mesh)
    return mesh


def _batch_shape(c: ConfigDict, accumulate: int, *, cached: bool) -> BatchShape:
    clips = c.batch_size * accumulate
    return BatchShape(clips, c.data.num_frames, c.data.height, c.data.width, cached)


def _all_parameters(networks: Networks, mesh: Mesh, dtype: Any, placement: str) -> Parameters:
    trees = {name: net.abstract() if net else {} for name, net in networks._asdict().items()}
    placed = sharding.sharded(Parameters(**trees), mesh, placement)
    return Parameters(*(weights.in_type(tree, dtype) for tree in placed))


def _start(
    c: ConfigDict,
    program: generation.Program,
    networks: Networks,
    options: SamplingOptions,
    mesh: Mesh,
    parameters: Parameters,
) -> generation.Start:
    """What the first denoising step is given: clips over the batch axes, the rest everywhere."""
    batch: Batch = abstract_batch(networks, mesh, _batch_shape(c, 1, cached=False))
    batch = batch._replace(frames_uint8=None)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), c.batch_size))
    noise = jax.eval_shape(program.draw, keys, batch)
    numbers = generation.scalars(options, c.data.num_frames)
    start = jax.eval_shape(program.begin, parameters, batch, noise, numbers)
    halves = 2 if options.is_guided else 1

    def placed(leaf: jax.ShapeDtypeStruct, clips: int) -> jax.ShapeDtypeStruct:
        of_clips = bool(leaf.shape) and leaf.shape[0] == clips
        where = sharding.batch_sharding(mesh) if of_clips else sharding.replicated(mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    shared = start._replace(latents=None, guidance_scales=None)
    shared = jax.tree.map(lambda leaf: placed(leaf, halves * c.batch_size), shared)
    return shared._replace(
        latents=placed(start.latents, c.batch_size),
        guidance_scales=placed(start.guidance_scales, -1),
    )
