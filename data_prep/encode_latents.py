r"""Encodes every frame of a dataset once, so that training reads latents instead of pixels.

    python -m data_prep.encode_latents --config configs/stage2.py \
        --config.weights=WEIGHTS_FOLDER --config.data.path=CLIPS_FOLDER

Takes the config of a training run, and from it the weights, the clips and all that the numbers
depend on. Whatever the stage, it encodes clean frames and, where there are boxes, boxed ones. The
same command goes on where it was stopped and ends with the same bytes.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from data_prep.frame_batches import (
    Decode,
    Pictures,
    Segment,
    decode_batches,
    joined,
    plan_batches,
)
from posetraj_jax import config_file, errors, fingerprint, pretrained, sharding, weights
from posetraj_jax.conditioning import ConditioningOptions, clip_images, to_pixels
from posetraj_jax.data import latents, pipeline
from posetraj_jax.data.latent_file import EncodedFrames
from posetraj_jax.data.pipeline import DataOptions
from posetraj_jax.errors import UserError, listed
from posetraj_jax.models.networks import Networks, Parameters, build_networks
from posetraj_jax.training import options

ENCODERS = ("vae", "image_encoder")
FRAMES_PER_DEVICE = 8
BATCHES_IN_FLIGHT = 2
"""Batches that the devices work on while the next ones are decoded."""

Encode = Callable[[UInt8[np.ndarray, "n h w 3"]], tuple[jax.Array, jax.Array, jax.Array]]
"""Frames → mean, log-variance and image embedding of each, bfloat16."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and encodes."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.encode_latents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, help="folder; default: data.latents, or else `latents` in data.path"
    )
    parser.add_argument(
        "--frames_per_batch",
        type=int,
        help=f"over all devices; default: {FRAMES_PER_DEVICE} for each",
    )
    known, overrides = config_file.parse(parser, sys.argv[1:] if arguments is None else arguments)
    run(config_file.load(known.config, overrides), known.out, known.frames_per_batch)


def run(c: ConfigDict, out: Path | None = None, frames_per_batch: int | None = None) -> None:
    """Encodes what is missing of the clips of config `c`.

    Raises:
        UserError: the config's weights or clips cannot be used, the folder holds something else, or
            a clip or the disk fails on the way; what is finished is kept.
    """
    o = options.from_config(c)
    out = _folder(c, o.data, out)
    mesh = sharding.make_mesh(sharding.MeshOptions(**c.mesh))
    size = _batch_size(frames_per_batch, mesh)
    source, chosen = pipeline.open_clips(o.data)
    if (out / latents.FINGERPRINT).exists():  # now: loading weights takes long
        latents.require_settings(out, latents.fingerprint(o.data.encoding))

    # Every device its own frames, by products that are split as they are.
    networks = build_networks(replace(o.model, attention="xla"))
    key = pretrained.root_keys(c.seed).frozen
    parameters = pretrained.frozen_parameters(networks, mesh, c.weights, key, ENCODERS)
    parameters = weights.cast(parameters, o.model.dtype)
    encode = make_encode(networks, parameters, mesh, o.step.conditioning)
    digest = fingerprint.of_encoders(parameters, o.model.dtype)
    ids = [source.clip_ids[number] for number in chosen]
    lengths = [source.num_frames[number] for number in chosen]
    with latents.writing(out, latents.fingerprint(o.data.encoding, digest)):
        finished = [latents.is_finished(out, *clip) for clip in zip(ids, lengths, strict=True)]
        plan = plan_batches(lengths, finished, size)
        batches = decode_batches(plan, Decode(o.data, source, tuple(chosen), size))
        with _bar(lengths, finished) as bar:
            for clip, kinds in joined(encode_batches(batches, encode), lengths):
                _require_finite(ids[clip], kinds)
                latents.write(out, ids[clip], kinds)
                bar.update(lengths[clip])
    num_bytes = sum(path.stat().st_size for path in out.iterdir())
    print(f"latents of {len(ids)} clips, {num_bytes / 1e6:,.1f} MB: {out}")
    print(f"train from them with --config.data.latents={out}")


def make_encode(
    networks: Networks, parameters: Parameters, mesh: Mesh, options: ConditioningOptions
) -> Encode:
    """The compiled encoders; each device of the mesh encodes its part of a batch."""

    def encode(parameters, frames_uint8):
        pixels, encoders = to_pixels(frames_uint8), networks.encoders(parameters)
        mean, logvar = encoders.moments(pixels)
        images = clip_images(pixels, options.image_statistics, options.clip_range)
        return tuple(x.astype(jnp.bfloat16) for x in (mean, logvar, encoders.embed(images)))

    # Not `sharding.jit`: any number of devices gives the same bytes, but a CPU's program without
    # YNNPACK sums in an order that depends on the number of threads.
    compiled = jax.jit(encode)
    return lambda frames: compiled(parameters, sharding.put_batch(frames, mesh))


def encode_batches(
    batches: Iterator[tuple[list[Segment], dict[str, Pictures]]], encode: Encode
) -> Iterator[tuple[Segment, dict[str, EncodedFrames]]]:
    """What the encoders say of every segment; fetched when later batches are on their way."""
    waiting: deque = deque()
    for segments, kinds in batches:
        results = {kind: encode(pictures.frames_uint8) for kind, pictures in kinds.items()}
        waiting.append((segments, kinds, results))
        if len(waiting) > BATCHES_IN_FLIGHT:
            yield from _fetched(*waiting.popleft())
    while waiting:
        yield from _fetched(*waiting.popleft())


def _fetched(
    segments: list[Segment], kinds: dict[str, Pictures], results: dict[str, Any]
) -> Iterator[tuple[Segment, dict[str, EncodedFrames]]]:
    batch = {
        kind: EncodedFrames(*map(np.asarray, results[kind]), pictures.thumbnails)
        for kind, pictures in kinds.items()
    }
    for segment in segments:
        yield (
            segment,
            {
                kind: EncodedFrames(*(array[segment.rows] for array in frames))
                for kind, frames in batch.items()
                if segment.clip in kinds[kind].clips
            },
        )


def _bar(lengths: Sequence[int], finished: Sequence[bool]) -> tqdm:
    done = sum(length for length, is_done in zip(lengths, finished, strict=True) if is_done)
    return tqdm(total=sum(lengths), initial=done, unit="frame", desc="encode", dynamic_ncols=True)


def _folder(c: ConfigDict, data: DataOptions, out: Path | None) -> Path:
    """Where the latents go: as asked, where the config expects them, or beside the clips."""
    if out is None and not data.latents and c.data.path in options.SHIPPED:
        raise UserError(
            "the latents of the shipped data need a folder",
            expected="--out FOLDER, because the data lies inside the package",
            got="no --out",
            fix="add --out FOLDER",
        )
    return (out or Path(data.latents or Path(data.path) / "latents")).expanduser().absolute()


def _batch_size(frames_per_batch: int | None, mesh: Mesh) -> int:
    size = frames_per_batch if frames_per_batch is not None else FRAMES_PER_DEVICE * mesh.size
    if size < 1 or size % mesh.size:
        raise UserError(
            "the frames of a batch do not divide over the devices",
            expected=f"a multiple of {mesh.size}, the number of devices",
            got=f"--frames_per_batch {size}",
            fix=f"give --frames_per_batch {max(-(-size // mesh.size), 1) * mesh.size}",
        )
    return size


def _require_finite(clip_id: str, kinds: dict[str, EncodedFrames]) -> None:
    problems = [
        f"{kind} frames: {name}"
        for kind, frames in kinds.items()
        for name, array in frames._asdict().items()
        if not np.isfinite(array.astype(np.float32)).all()
    ]
    if problems:
        raise UserError(
            f"the encoders give no numbers for clip {clip_id}",
            expected="finite latents",
            got=listed(problems),
            fix="check the weights, or set model.dtype=float32 for encoding and training",
        )


if __name__ == "__main__":
    errors.run(main)
