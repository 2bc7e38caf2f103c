"""Trains a stage: `python -m posetraj_jax.train --config configs/stage1.py:tiny`.

Order of life: config → mesh → data → networks → frozen weights → workdir → state or restore → loop.
Everything that can be wrong with what the user gave is found before anything slow begins.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax.numpy as jnp
from clu import parameter_overview
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from posetraj_jax import (
    config,
    config_file,
    errors,
    fingerprint,
    hosts,
    pretrained,
    runs,
    sharding,
    weights,
)
from posetraj_jax.data import pipeline
from posetraj_jax.data.batch_stream import BatchStream
from posetraj_jax.data.data_options import DataOptions
from posetraj_jax.models.networks import Networks, Parameters, build_networks
from posetraj_jax.planning import making, page
from posetraj_jax.planning.making import Request
from posetraj_jax.sharding import HostRows, MeshOptions
from posetraj_jax.training import initial, machine, metrics, options, profiling
from posetraj_jax.training import workdir as workdirs
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.clock import Clock
from posetraj_jax.training.command_line import parse
from posetraj_jax.training.device_batches import DeviceBatches
from posetraj_jax.training.fixed_clips import FixedClips
from posetraj_jax.training.loop import Actions, train
from posetraj_jax.training.machine import Machine
from posetraj_jax.training.metrics import MetricWriter
from posetraj_jax.training.options import TrainingOptions
from posetraj_jax.training.origin import find_origin, require_same_unet
from posetraj_jax.training.profiling import ProfiledStep
from posetraj_jax.training.program import STEP_ARGUMENTS, make_program
from posetraj_jax.training.recompilation import CompiledOnce
from posetraj_jax.training.state import TrainState

SAME_COMMAND = "start all processes with the same command; only --process_id may differ"
SAME_CLIPS = "let all hosts read the same folder, or copy the whole of it to each"


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, trains, and returns the exit code."""
    spec, overrides, flags = parse(sys.argv[1:] if arguments is None else arguments)
    if flags.topology:
        c = config_file.load(spec, overrides)
        return _compile_only(c, config_file.as_given(spec, overrides), flags.topology)
    with hosts.joined(flags.together):
        c = config_file.load(spec, overrides)
        workdir = flags.workdir or Path("runs") / config_file.name_of(spec)
        return run(c, workdir, flags.profile)


def _compile_only(c: ConfigDict, name: str, topology: str) -> int:
    """Prints what `posetraj_jax.plan` says of the config as it is; writes nothing."""
    print(page.render(making.page_of(c, Request(name, topology))), end="")
    return 0


def run(c: ConfigDict, workdir: Path, profile: profiling.Steps | None = None) -> int:
    """Trains config `c` in `workdir`, resuming what is there; returns the exit code."""
    o, flat = options.from_config(c), config.flatten(c)
    hosts.require_same("settings", flat | {"--workdir": str(workdir)}, SAME_COMMAND)
    initial.require_one_host(o.initial)
    workdirs.check(workdir, flat)
    saved, finished = hosts.told("what is there", lambda: _what_is_there(c, workdir))
    profiling.check(profile, saved or 0, c.steps)
    if finished:
        workdirs.claim(workdir, flat)  # fewer steps may have been asked for than before
        return _report(workdir, saved, stopped=None)
    mesh = sharding.make_mesh(MeshOptions(**c.mesh))
    sharding.check_batch(c.batch_size, mesh)
    networks = build_networks(o.model)
    origin = None if saved is not None else find_origin(o.initial, networks)
    initial.require_fit(origin, networks, o.initial)
    batches, rows = _open_batches(o.data, mesh)
    watched = pipeline.eval_examples(o.data, max(c.eval.clips, c.sample.clips))

    program = make_program(networks, mesh, o.initial, o.step)
    print(parameter_overview.get_parameter_overview(program.state.params, include_stats=False))
    watch = FixedClips(networks, mesh, watched, o.watch)
    keys = pretrained.root_keys(c.seed)
    frozen, unet = _frozen(c, o, networks, mesh, keys.frozen)
    require_same_unet(origin, unet)

    workdirs.claim(workdir, flat, unet)
    checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, c.save.keep)
    with workdirs.writing(workdir), checkpoints:
        base = initial.abstract_base(networks, mesh, o.initial, o.model.dtype, c.mesh.frozen)
        if saved is not None:
            params, base = None, workdirs.load_base(workdir, base)
        else:
            params, base = initial.initial_params(
                networks, frozen, origin, mesh, keys.init, o.initial, base
            )
            workdirs.keep_base(workdir, base, networks.controlnet)
        # Before there is a state, because the float32 numbers of the frozen networks go here.
        frozen = weights.cast(initial.without_trained(frozen, base, o.initial), o.model.dtype)
        state = (
            program.begin(params) if saved is None else checkpoints.restore(program.state, batches)
        )
        print(f"{workdir}: step {int(state.step)} of {c.steps}, mesh {dict(mesh.shape)}")

        with (
            MetricWriter(workdir, int(state.step), tensorboard=c.log.tensorboard) as writer,
            ProfiledStep(program.step, int(state.step), profile, workdir) as traced,
            CompiledOnce(traced, STEP_ARGUMENTS) as step,
            DeviceBatches(batches, partial(sharding.put_batch, mesh=mesh, held=rows)) as batches,
        ):
            clock = _clock(machine.describe(o, networks, program, mesh, frozen), step, o.data)
            actions = Actions(
                step=lambda state, batch: step(state, frozen, batch, keys.train),
                evaluate=lambda state: watch.evaluate(state.averaged, frozen),
                sample=_sampler(watch, frozen, workdir, writer),
                save=lambda state: checkpoints.save(state, batches, flat),
            )
            state, stopped = train(state, batches, clock, o.schedule, actions, writer)
            print(clock.summary())
    return _report(workdir, int(state.step), stopped)


def _clock(devices: Machine, step: CompiledOnce, data: DataOptions) -> Clock:
    """Tells of the devices too, and how often the step was compiled."""
    print(f"machine: {devices}")
    return Clock(
        data.batch_size,
        lambda seconds: devices.figures(seconds) | {"compilations": step.compilations},
    )


def _sampler(
    watch: FixedClips, frozen: Parameters, workdir: Path, writer: MetricWriter
) -> Callable[[TrainState, int, Callable[[str], bool]], None]:
    """What `Actions.sample` is."""

    def sample(state, step, progress):
        for made in watch.sample(state.averaged, frozen, _sample_folder(workdir, step), progress):
            writer.write_image(step, f"sample/{made.clip_id}", made.sheet)

    return sample


def _what_is_there(c: ConfigDict, workdir: Path) -> tuple[int | None, bool]:
    """The step of the newest checkpoint, and whether it is the last, with all its samples."""
    newest = max(runs.steps(workdir), default=None)
    done = newest is not None and newest >= c.steps
    return newest, done and len(_samples(workdir, newest)) >= c.sample.clips


def _open_batches(data: DataOptions, mesh: Mesh) -> tuple[BatchStream, HostRows]:
    """What this process reads, and which part it is; refuses other clips than process 0's."""
    rows = sharding.rows_of_host(data.batch_size, mesh)
    batches = pipeline.train_batches(data, rows.rows)
    hosts.require_same("clips", batches.get_state(), SAME_CLIPS)
    return batches, rows


def _frozen(
    c: ConfigDict, o: TrainingOptions, networks: Networks, mesh: Mesh, key: Array
) -> tuple[Parameters, str]:
    """The networks that come ready, and the digest of the UNet, "" if it is drawn."""
    # What trains itself starts from float32 numbers; what an adapter stands beside need not.
    dtype = o.model.dtype if o.initial.rank else jnp.float32
    frozen = pretrained.frozen_parameters(
        networks, mesh, c.weights, key, dtype=dtype, placement=c.mesh.frozen
    )
    frozen = initial.without_cached(frozen, o.data, o.model.dtype)
    return frozen, fingerprint.of_unet(frozen.unet) if c.weights else ""


def _sample_folder(workdir: Path, step: int) -> Path:
    return workdir / "samples" / f"step_{step:06d}"


def _samples(workdir: Path, step: int) -> list[Path]:
    return sorted(_sample_folder(workdir, step).glob("*.gif"))


def _report(workdir: Path, step: int, stopped: int | None) -> int:
    """Prints where everything is; returns the exit code."""
    if hosts.is_writer():
        print(f"\n{'stopped' if stopped else 'finished'} at step {step}; in {workdir}:")
        found = [metrics.plot_loss(workdir), workdir / metrics.JSONL, workdir / runs.CHECKPOINTS]
        for path in [*found, *_samples(workdir, step)]:
            print(f"  {path}")
    return errors.EXIT_BY_SIGNAL + stopped if stopped else 0


if __name__ == "__main__":
    errors.run(main)
