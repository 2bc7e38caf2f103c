"""Model FLOPs of sampling one video at full size: once per video, per step, and decoding.

    python -m benchmarks.sampling_flops

Counted in the jaxprs of the sampler itself, so exact and the same on any machine; nothing is
computed. The last line is what a sampler that keeps nothing between steps would cost more.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from posetraj_jax import config, flops, generation, sharding
from posetraj_jax.conditioning import ConditioningOptions
from posetraj_jax.generation import SamplingOptions
from posetraj_jax.models.networks import ModelOptions, Networks, Parameters, build_networks
from posetraj_jax.published import ImageStatistics
from posetraj_jax.sharding import MeshOptions
from posetraj_jax.structs import Batch

STEPS = 25
SIZES = {
    # variant, frames, height, width
    "14 x 320 x 576": ("svd", 14, 320, 576),
    "14 x 576 x 1024": ("svd", 14, 576, 1024),
    "25 x 576 x 1024": ("svd_xt", 25, 576, 1024),
}


class Counts(NamedTuple):
    """FLOPs of one video with guidance."""

    begin: int
    """Encoders and everything that no noise level changes."""
    step: int
    decode: int
    networks: int
    """UNet and ControlNet for one half of the guidance, at one noise level, and nothing else."""
    forgetful_step: int
    """Of a sampler that keeps nothing between steps."""

    def total(self, step: int) -> int:
        """Of a whole video whose steps cost this."""
        return self.begin + STEPS * step + self.decode


def main() -> None:
    """Prints a row per size."""
    for size, (variant, frames, height, width) in SIZES.items():
        made = count(variant, frames, height, width)
        tera = [f"{number / 1e12:.2f}" for number in made[:3]]
        total = made.total(made.step) / 1e12
        print(
            f"{size:16} once {tera[0]} + {STEPS} x {tera[1]} + decoding {tera[2]} = {total:.1f} TF"
        )
        more = made.total(made.forgetful_step) / made.total(made.step) - 1
        print(f"{'':16} keeping nothing between steps: {more:.2%} more", flush=True)


def count(variant: str, frames: int, height: int, width: int) -> Counts:
    """Counts a video of this size."""
    networks = build_networks(ModelOptions(variant, (1,) * 12, dtype=jnp.bfloat16))
    parameters = parameters_of(networks)
    options = sampling_options()
    mesh = sharding.make_mesh(MeshOptions(1), jax.devices()[:1])
    program = generation.make_program(networks, options, mesh)
    batch = abstract_batch(frames, height, width)
    noise = jax.eval_shape(program.draw, abstract_keys(), batch)
    numbers = generation.scalars(options, frames)
    begun = parameters, batch, noise, numbers
    start = jax.eval_shape(program.begin, *begun)
    told = start._replace(latents=None)
    stepped = start.latents, shape(), shape(), parameters, told
    latents = jax.eval_shape(program.step, *stepped)
    return Counts(
        begin=flops.count(program.begin, *begun),
        step=flops.count(program.step, *stepped),
        decode=flops.count(program.decode, parameters.vae, latents),
        networks=_one_half(networks, parameters, start),
        forgetful_step=_forgetful(networks, parameters, start, frames, height, width),
    )


def shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    """An array that takes no memory."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def parameters_of(networks: Networks) -> Parameters:
    """Abstract parameters of all networks, in bfloat16."""
    trees = {name: network.abstract() for name, network in networks._asdict().items()}
    return Parameters(**jax.tree.map(lambda leaf: shape(*leaf.shape, dtype=jnp.bfloat16), trees))


def sampling_options() -> SamplingOptions:
    """SVD's, with guidance."""
    options = ConditioningOptions(
        **config.default().conditioning, image_statistics=ImageStatistics()
    )
    return SamplingOptions(STEPS, 1.0, 3.0, 0.002, 700.0, options)


def abstract_batch(frames: int, height: int, width: int) -> Batch:
    """One picture with its maps."""
    return Batch(
        frames_uint8=None,
        first_frame_uint8=shape(1, height, width, 3, dtype=np.uint8),
        maps_uint8=shape(1, frames, height, width, 3, dtype=np.uint8),
        camera_rt=shape(1, frames, 12),
        camera_known=shape(1, dtype=bool),
        fps=shape(1),
    )


def abstract_keys() -> Any:
    """The key of one video."""
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))


def _one_half(networks: Networks, parameters: Parameters, start: generation.Start) -> int:
    """The two networks alone, on one video."""
    half = jax.tree.map(_first_half, start.steady)
    latents = start.latents
    sample = shape(*latents.shape[:-1], 2 * latents.shape[-1])

    def run(parameters, sample, steady):
        guidance = steady.controlnet
        residuals = networks.controlnet.apply(
            parameters.controlnet, sample, jnp.zeros(1), *guidance, method="predict"
        )
        return networks.unet.apply(
            parameters.unet, sample, jnp.zeros(1), steady.unet, residuals, method="predict"
        )

    return flops.count(run, parameters, sample, half)


def _first_half(leaf: Any) -> Any:
    """Of what has both halves of the guidance; the rest as it is."""
    if len(leaf.shape) and leaf.shape[0] == 2:
        return shape(1, *leaf.shape[1:], dtype=leaf.dtype)
    return leaf


def _forgetful(
    networks: Networks,
    parameters: Parameters,
    start: generation.Start,
    frames: int,
    height: int,
    width: int,
) -> int:
    """A guided step that embeds maps, image and ids anew for both halves."""
    maps = shape(2, frames, height, width, 3)
    embed = shape(2, networks.unet.config.cross_attention_dim)
    images = start.cond.image_latents

    def run(parameters, latents, maps, embed, ids, images):
        cond = start.cond._replace(
            image_embed=embed, image_latents=images, maps_pixels=maps, time_ids=ids
        )
        both = jnp.concatenate([latents, latents])
        return networks.denoiser(parameters, both, jnp.ones(2), cond)

    return flops.count(run, parameters, start.latents, maps, embed, shape(2, 3), images)


if __name__ == "__main__":
    main()
