"""A program that trains a toy by the real loop, data and checkpoints, on any number of processes.

python -m tests.training.toy_run WORKDIR STEPS [--mesh 2,4,1] [--pause S] [--fail_in P] …
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from posetraj_jax import config_file, errors, fingerprint, hosts, peers, runs, sharding
from posetraj_jax.data import pipeline
from posetraj_jax.errors import UserError
from posetraj_jax.sharding import MeshOptions
from posetraj_jax.training import options
from posetraj_jax.training import workdir as workdirs
from posetraj_jax.training.checkpoint import Checkpoints
from posetraj_jax.training.clock import Clock
from posetraj_jax.training.loop import Actions, Schedule, train
from posetraj_jax.training.metrics import MetricWriter
from posetraj_jax.training.state import lay_out

BATCH_SIZE = 8
OPTIMIZER = optax.adam(1e-2)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--mesh", default="-1,1,1")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--lost_s", type=float, default=peers.LOST_S)
    parser.add_argument("--connect_s", type=int, default=hosts.CONNECT_S)
    parser.add_argument("--shared_s", type=float, default=workdirs.SHARED_WITHIN_S)
    parser.add_argument("--fail_in", type=int, default=-1)
    hosts.add_arguments(parser)
    known = parser.parse_args()
    peers.LOST_S, hosts.CONNECT_S = known.lost_s, known.connect_s
    workdirs.SHARED_WITHIN_S = known.shared_s
    with hosts.joined(hosts.HostOptions.of(known)):
        return run(known)


def run(known: argparse.Namespace) -> int:
    mesh = sharding.make_mesh(MeshOptions(*map(int, known.mesh.split(","))))
    c = config_file.load("configs/stage1.py:micro", {"batch_size": str(BATCH_SIZE)})
    data = options.from_config(c).data
    hosts.require_same("settings", {"steps": known.steps}, "start them alike")
    workdirs.check(known.workdir, {"steps": known.steps})
    saved = hosts.told("newest", lambda: max(runs.steps(known.workdir), default=None))
    rows = sharding.rows_of_host(BATCH_SIZE, mesh)
    batches = pipeline.train_batches(data, rows.rows)
    if known.fail_in == jax.process_index():
        raise UserError("toy trouble", expected="none", got="some", fix="mend it")
    params = {"dense": {"kernel": jnp.linspace(-0.01, 0.01, 64 * 64 * 16).reshape(-1, 16)}}
    placed = sharding.put_whole(params, sharding.parameter_shardings(params, mesh))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    begin, abstract = lay_out(shapes, OPTIMIZER, mesh, averages=True)
    print("digest", fingerprint.digest(placed, "float32"))
    workdirs.claim(known.workdir, {"steps": known.steps}, "")
    with Checkpoints(known.workdir / runs.CHECKPOINTS, keep=3) as checkpoints:
        state = begin(placed) if saved is None else checkpoints.restore(abstract, batches)
        step = sharding.jit(update, mesh, donate_argnums=0)

        def advance(state, batch):
            time.sleep(known.pause)
            return step(state, sharding.put_batch(batch.frames_uint8, mesh, rows))

        actions = Actions(
            step=advance,
            evaluate=lambda state: {},
            sample=lambda state, step, progress: [progress("sampling") for _ in range(3)],
            save=lambda state: checkpoints.save(state, batches, {}),
        )
        schedule = Schedule(known.steps, log=1, evaluate=0, sample=0, save=2)
        with MetricWriter(known.workdir, int(state.step), tensorboard=False) as writer:
            state, stopped = train(state, batches, Clock(BATCH_SIZE), schedule, actions, writer)
    return errors.EXIT_BY_SIGNAL + stopped if stopped else 0


def update(state, frames):
    """A step whose loss depends on which clip is where in the batch."""
    clips = frames[:, 0].astype(jnp.float32).mean(-1).reshape(len(frames), -1) / 255

    def loss(params):
        per_clip = jnp.square(clips @ params["dense"]["kernel"] - 1).mean(-1)
        return jnp.mean(per_clip * (1 + np.arange(len(frames))))

    value, gradient = jax.value_and_grad(loss)(state.params)
    changes, opt_state = OPTIMIZER.update(gradient, state.opt_state)
    params = optax.apply_updates(state.params, changes)
    scalars = {"loss": value, "loss_zero": value, "grad_norm": optax.global_norm(gradient)}
    return state._replace(step=state.step + 1, params=params, opt_state=opt_state), scalars


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    errors.run(main)
