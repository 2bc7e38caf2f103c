"""Requests → videos: in batches over all devices, with progress, and stoppable between steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from posetraj_jax import generation, provenance, sharding
from posetraj_jax.errors import UserError
from posetraj_jax.generation import Program, SamplingOptions
from posetraj_jax.models.networks import Networks
from posetraj_jax.sampling.inputs import Request, make_batch, read_request
from posetraj_jax.sampling.model import Model
from posetraj_jax.sampling.settings import Settings

SEEDS = 2**32
"""How many there are; after the last one comes 0."""

DRAWING_PACKAGES = ("numpy", "pillow", "opencv-python-headless", "av")
"""What reads pictures, draws tracks, and writes videos."""

Progress = Callable[[int, int], bool]
"""Called with the denoising steps done and their number; returns False to stop."""


class Video(NamedTuple):
    """A video that was made, and what it was made of."""

    frames_uint8: UInt8[np.ndarray, "f h w 3"]
    tracks_px: Float[np.ndarray, "f p 2"]
    """In pixels of the frames."""
    settings: dict[str, Any]
    """All that it takes to make it again, but for the picture, the tracks and the camera: the
    fields of Settings, the model's weights, controlnet, dtype and fsdp, and what it was made on and
    with."""


class StoppedError(Exception):
    """`Progress` said to stop; nothing was made."""


def generate(
    image: Any,
    tracks: Any,
    model: Model,
    *,
    camera: Path | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Video:
    """Makes one video of a picture and tracks.

    Args:
        image, tracks: as `read_request` takes them.
        model: of `load_model`, which may be used again and again.
        camera: a camera.npy as TRAM writes it, for a model that has a camera branch.
        progress: see there.
        settings: fields of Settings.

    Raises:
        UserError: something given cannot be used.
        StoppedError: `progress` returned False.
    """
    chosen = Settings(**settings)
    request = read_request(image, tracks, chosen, camera)
    (made,) = generate_many([request], model, chosen, progress)
    return made


def generate_many(
    requests: Sequence[Request], model: Model, settings: Settings, progress: Progress | None = None
) -> Iterator[Video]:
    """Makes videos, as many at a time as there are devices for them; video i has seed + i.

    A video does not depend on the others that are made with it.

    Raises:
        UserError: a camera is known, and the ControlNet has no branch for it.
        StoppedError: `progress` returned False.
    """
    _require_camera_branch(requests, model)
    at_a_time = sharding.batch_shards(model.mesh)
    batches = range(0, len(requests), at_a_time)
    total, done = len(batches) * settings.num_inference_steps, 0
    record = _record_of(model)
    options = sampling_options(model, settings)
    program = program_of(model, options)
    for first in batches:
        chosen = np.minimum(np.arange(first, first + at_a_time), len(requests) - 1)
        batch = make_batch([requests[i] for i in chosen], settings)
        keys = jax.vmap(jax.random.key)(((settings.seed + chosen) % SEEDS).astype(np.uint32))
        placed = sharding.put_batch(batch, model.mesh)
        noise = program.draw(jax.device_put(keys, sharding.batch_sharding(model.mesh)), placed)
        latents = None
        steps = generation.generate(program, model.parameters, placed, noise, options)
        for latents in steps:  # noqa: B007 - the last one is decoded
            done += 1
            if progress is not None and not progress(done, total):
                raise StoppedError
        frames = generation.decode(program, model.parameters, latents, settings.decode_chunk_size)
        for i in range(min(at_a_time, len(requests) - first)):
            seed = (settings.seed + first + i) % SEEDS
            said = asdict(replace(settings, seed=seed)) | record
            tracks = requests[first + i].trajectories.tracks_px
            yield Video(frames[i], tracks, said)


def _require_camera_branch(requests: Sequence[Request], model: Model) -> None:
    if model.conditioning.camera is None and any(r.camera_rt is not None for r in requests):
        raise UserError(
            "The camera would be ignored",
            expected="a ControlNet with a camera branch, such as those of stage 3",
            got=f"one without: {model.said['controlnet'] or 'a random one'}",
            fix="give another --controlnet, or no --camera",
        )


def _record_of(model: Model) -> dict[str, Any]:
    """What a video's settings say of the model, and of what computes."""
    devices = model.mesh.devices
    return {
        **model.said,
        "dtype": str(jax.tree.leaves(model.parameters.unet)[0].dtype),
        "fsdp": model.mesh.shape["fsdp"],
        "devices": {"kind": devices.flat[0].device_kind, **model.mesh.shape},
        "made_with": provenance.made_with(provenance.PACKAGES + DRAWING_PACKAGES),
    }


def sampling_options(model: Model, settings: Settings) -> SamplingOptions:
    """The settings as the sampler takes them."""
    return SamplingOptions(
        steps=settings.num_inference_steps,
        min_guidance_scale=settings.min_guidance_scale,
        max_guidance_scale=settings.max_guidance_scale,
        sigma_min=model.sigmas.sigma_min,
        sigma_max=model.sigmas.sigma_max,
        conditioning=replace(
            model.conditioning,
            noise_aug_strength=settings.noise_aug_strength,
            motion_bucket_id=settings.motion_bucket_id,
        ),
        controlnet_scale=settings.controlnet_conditioning_scale,
    )


def program_of(model: Model, options: SamplingOptions) -> Program:
    """The compiled sampler of a model; numbers that may change do not make a new one."""
    plain = replace(
        options,
        steps=1,
        min_guidance_scale=1.0,
        max_guidance_scale=2.0 if options.is_guided else 1.0,
        controlnet_scale=1.0,
        conditioning=replace(options.conditioning, noise_aug_strength=0.0, motion_bucket_id=0.0),
    )
    return _program(model.networks, plain, model.mesh)


@lru_cache(maxsize=4)
def _program(networks: Networks, options: SamplingOptions, mesh: Mesh) -> Program:
    return generation.make_program(networks, options, mesh)
