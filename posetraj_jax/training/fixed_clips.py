"""What is watched while training: the loss and sampled videos of fixed clips with fixed noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from posetraj_jax import generation, sharding, video
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.data import pipeline
from posetraj_jax.data.pipeline import Example
from posetraj_jax.diffusion.noise import NoiseOptions, sigma_quantile
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import Networks
from posetraj_jax.training.loss import clip_losses
from posetraj_jax.training.state import Frozen, bind_encoders

SAMPLE_SEED = 7
"""Root of the noise of sampled videos; not a field, so that videos of all runs compare."""


@dataclass(frozen=True)
class WatchOptions:
    """How the fixed clips are watched: parts of several config sections."""

    eval_clips: int
    sample_clips: int
    batch_size: int
    seed: int
    conditioning: ConditioningOptions
    noise: NoiseOptions
    sampling: SamplingOptions


class FixedClips:
    """Compiled evaluation and sampling of the first clips of a dataset."""

    def __init__(
        self, networks: Networks, mesh: Mesh, examples: Sequence[Example], options: WatchOptions
    ):
        self._examples, self._mesh, self._options = examples, mesh, options
        self._program = generation.make_program(
            networks, partial(bind_encoders, networks), options.sampling
        )
        self._losses = jax.jit(
            partial(clip_losses, networks=networks, options=options.conditioning, dropout=0.0)
        )

    def evaluate(self, params: Any, frozen: Frozen) -> dict[str, float]:
        """Mean loss, nothing dropped: clip i of n at quantile (i + 1/2) / n of the noise density.

        The same numbers whatever the batch size and the mesh: each clip has its own key, and clips
        that only fill up the last batch are not counted.
        """
        o, count = self._options, self._options.eval_clips
        keys = jax.random.split(jax.random.key(o.seed), count)
        sigma = np.asarray(sigma_quantile((np.arange(count) + 0.5) / count, o.noise))
        totals = {"eval/loss": 0.0, "eval/loss_zero": 0.0}
        for first in range(0, count, o.batch_size):
            order = np.minimum(np.arange(first, first + o.batch_size), count - 1)
            batch = pipeline.stack([self._examples[i] for i in order])
            placed = put((batch, sigma[order], jax.random.key_data(keys[order])), self._mesh)
            batch, sigmas, key_data = placed
            losses = self._losses(params, frozen, batch, sigmas, jax.random.wrap_key_data(key_data))
            for name, values in zip(totals, losses, strict=True):
                totals[name] += float(np.sum(np.asarray(values)[: count - first]))
        return {name: total / count for name, total in totals.items()}

    def sample(
        self, params: Any, frozen: Frozen, folder: Path, progress: Callable[[str], bool]
    ) -> list[Path]:
        """Samples each clip from its first frame and track, and writes one GIF per clip.

        Args:
          progress: shown a line per denoising step; once it returns False nothing more is made.
        """
        paths = []
        examples = self._examples[: self._options.sample_clips]
        for index, example in enumerate(examples):
            key = jax.random.fold_in(jax.random.key(SAMPLE_SEED), index)
            steps = generation.generate(
                self._program, params, frozen, example.batch, key, self._options.sampling
            )
            for step, latents in enumerate(steps, start=1):  # noqa: B007 - the last one is decoded
                if not progress(f"sampling clip {index + 1} of {len(examples)}, step {step}"):
                    return paths
            frames = np.asarray(self._program.decode(frozen.vae, latents))[0]
            paths.append(folder / f"{example.clip_id}.gif")
            write_comparison(paths[-1], example, frames)
        return paths


def put(tree: Any, mesh: Mesh) -> Any:
    """Moves this host's part of arrays to its devices, split along the first axis."""
    placement = sharding.batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(placement, np.asarray(leaf)), tree
    )


def write_comparison(path: Path, example: Example, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
    """Writes a GIF: the target on the left, the sample on the right, the track drawn on both."""
    pair = (np.asarray(example.batch.frames_uint8)[0], frames)
    drawn = [video.draw_polylines(picture, example.tracks_px) for picture in pair]
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write_video(path, video.side_by_side(*drawn), fps=float(example.batch.fps[0]))
