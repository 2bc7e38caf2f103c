"""What is watched while training: the loss and sampled videos of fixed clips with fixed noise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from posetraj_jax import generation, hosts, sharding, video
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.data import pipeline
from posetraj_jax.data.pipeline import Example
from posetraj_jax.diffusion.noise import NoiseOptions, sigma_quantile
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import Networks, Parameters
from posetraj_jax.training.loss import clip_losses, noise_clips, zero_losses

SAMPLE_SEED = 7
"""Root of the noise of sampled videos; not a field, so that videos of all runs compare."""
SHEET_FRAMES = 7
"""Frames of a sampled clip that its contact sheet shows."""


@dataclass(frozen=True)
class WatchOptions:
    """How the fixed clips are watched: parts of several config sections."""

    trained: str
    eval_clips: int
    noise_levels: int
    sample_clips: int
    batch_size: int
    seed: int
    conditioning: ConditioningOptions
    noise: NoiseOptions
    sampling: SamplingOptions


class Sampled(NamedTuple):
    """A video made from a fixed clip."""

    clip_id: str
    gif: Path
    sheet: UInt8[np.ndarray, "h w 3"]
    """Frames of the target above the same frames of the sample, the tracks drawn on both."""


class FixedClips:
    """Compiled evaluation and sampling of the first clips of a dataset."""

    def __init__(
        self, networks: Networks, mesh: Mesh, examples: Sequence[Example], options: WatchOptions
    ):
        self._examples, self._mesh, self._options = examples, mesh, options
        self._program = generation.make_program(networks, options.sampling, mesh)
        losses = partial(_losses, networks=networks, options=options)
        self._losses = sharding.jit(losses, mesh, out_shardings=sharding.replicated(mesh))

    def evaluate(self, params: Any, frozen: Parameters) -> dict[str, float]:
        """Mean losses, nothing dropped, over all clips and in each band of the noise density.

        The density is cut into `noise_levels` bands of equal probability; in each, clip i of n is
        evaluated once, at quantile (i + 1/2) / n of the band. The same numbers whatever the batch
        size and the mesh: each evaluation has its own key, and what only fills up the last batch is
        not counted.
        """
        o, counts = self._options, (self._options.noise_levels, self._options.eval_clips)
        total = counts[0] * counts[1]
        keys = jax.random.key_data(jax.random.split(jax.random.key(o.seed), total))
        sigma = np.asarray(sigma_quantile((np.arange(total) + 0.5) / total, o.noise))
        losses = np.concatenate(
            [
                np.asarray(self._losses(params, frozen, *sharding.put_batch(part, self._mesh)))
                for part in self._batches(sigma, np.asarray(keys))
            ]
        )[:total].reshape(*counts, 2)
        means = {"eval/loss": losses[..., 0].mean(), "eval/loss_zero": losses[..., 1].mean()}
        edges = np.asarray(sigma_quantile(np.linspace(0.0, 1.0, counts[0] + 1), o.noise))
        for band, values in enumerate(losses[..., 0]):
            low, high = sorted(edges[band : band + 2])
            means[f"eval/loss_sigma_{low:.3g}_to_{high:.3g}"] = values.mean()
        return {name: float(mean) for name, mean in means.items()}

    def _batches(self, sigma: Float[np.ndarray, "n"], keys: np.ndarray) -> Iterator[tuple]:
        """Clips, noise levels and keys of all evaluations, by batches; the last is filled up."""
        total, size = len(sigma), self._options.batch_size
        for first in range(0, total, size):
            order = np.minimum(np.arange(first, first + size), total - 1)
            clips = [self._examples[i % self._options.eval_clips] for i in order]
            yield pipeline.stack(clips), sigma[order], keys[order]

    def sample(
        self, params: Any, frozen: Parameters, folder: Path, progress: Callable[[str], bool]
    ) -> Iterator[Sampled]:
        """Samples each clip from its first frame and track, and writes one GIF per clip.

        All processes sample; process 0 alone writes, and yields.

        Args:
          progress: shown a line per denoising step; once it returns False nothing more is made.
        """
        parameters = frozen.with_part(self._options.trained, params)
        examples = self._examples[: self._options.sample_clips]
        for index, example in enumerate(examples):
            key = jax.random.fold_in(jax.random.key(SAMPLE_SEED), index)
            noise = self._program.draw(key[None], example.batch)
            steps = generation.generate(
                self._program, parameters, example.batch, noise, self._options.sampling
            )
            for step, latents in enumerate(steps, start=1):  # noqa: B007 - the last one is decoded
                if not progress(f"sampling clip {index + 1} of {len(examples)}, step {step}"):
                    return
            frames = generation.decode(self._program, parameters, latents)[0]
            if hosts.is_writer():
                yield write_comparison(folder, example, frames)


def _losses(
    params: Any,
    frozen: Parameters,
    batch: Any,
    sigma: Float[Array, "b"],
    key_data: Array,
    *,
    networks: Networks,
    options: WatchOptions,
) -> Float[Array, "b 2"]:
    """The loss of each clip and that of predicting zero."""
    keys = jax.random.wrap_key_data(key_data)
    clips = noise_clips(
        frozen,
        batch,
        sigma,
        keys,
        networks=networks,
        options=options.conditioning,
        drop=False,
    )
    parameters = frozen.with_part(options.trained, params)
    losses = clip_losses(parameters, clips, networks.denoiser)
    return jax.numpy.stack([losses, zero_losses(clips)], axis=-1)


def write_comparison(
    folder: Path, example: Example, frames: UInt8[np.ndarray, "f h w 3"]
) -> Sampled:
    """Writes a PNG and then a GIF: the target and the sample, the tracks drawn on both."""
    pair = (example.shown_uint8, frames)
    drawn = [video.draw_polylines(picture, example.tracks_px) for picture in pair]
    folder.mkdir(parents=True, exist_ok=True)
    gif = folder / f"{example.clip_id}.gif"
    shown = np.linspace(0, len(frames) - 1, min(SHEET_FRAMES, len(frames))).round().astype(int)
    frames = np.concatenate([clip[shown] for clip in drawn])
    sheet = video.contact_sheet(frames, columns=len(shown))
    video.write_image(gif.with_suffix(".png"), sheet)
    # Last: a clip with a GIF counts as sampled.
    video.write_video(gif, video.side_by_side(*drawn), fps=float(example.batch.fps[0]))
    return Sampled(example.clip_id, gif, sheet)
