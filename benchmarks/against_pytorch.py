"""How fast the networks, a training step and sampling are beside PyTorch on the same processor.

    python -m benchmarks.against_pytorch [--repeats 5] [--threads 2]

Both sides have the same random parameters and inputs: networks of every kind of block, a fifth as
wide as Stable Video Diffusion, float32, 14 frames of 192 x 320. PyTorch's side is the oracle of the
tests: diffusers' blocks, scheduler and autoencoder, and the official training's step. Ours takes
the whole optimizer step, PyTorch's stops at the gradient. Runs alternate, the fastest of each side
counts, and how far the UNets' outputs lie apart is printed first. Needs the extra `convert`.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from convert_weights import mapping, oracle
from posetraj_jax import config_file, generation, sharding
from posetraj_jax.generation import Noise, SamplingOptions
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.networks import Networks, Parameters, assemble, suited_to
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.published import ImageStatistics, SigmaRange
from posetraj_jax.sharding import MeshOptions
from posetraj_jax.structs import Batch
from posetraj_jax.training.options import initial_options, step_options
from posetraj_jax.training.program import make_program

FRAMES, HEIGHT, WIDTH = 14, 192, 320
STEPS = 4
"""Of sampling, with guidance."""
BARS = {"UNet forward": 1.4, "training step": 1.0, "sampling": 1.3}

ENCODER = {
    "block_out_channels": (64, 128, 256, 256),
    "num_attention_heads": (1, 2, 4, 4),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 64,
    "projection_class_embeddings_input_dim": 192,
}

COMPONENTS = {
    "unet": "unet",
    "controlnet": "controlnet",
    "vae": "vae",
    "image_encoder": "clip",
}
"""Field of `Networks` → the converters' name of the network."""

Run = Callable[[], Any]


class Pair(NamedTuple):
    """The same networks twice."""

    networks: Networks
    parameters: Parameters
    modules: oracle.Modules


class Inputs(NamedTuple):
    """One clip and its noise; numpy."""

    pictures: np.ndarray
    maps: np.ndarray
    latents: np.ndarray
    image_noise: np.ndarray


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Prints a line per task, ratios last; returns PyTorch's time over ours."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against_pytorch", description=__doc__
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    known = parser.parse_args(arguments)
    oracle.use_threads(known.threads)
    pair, inputs = make_pair(), make_inputs()
    print(f"float32, {FRAMES} x {HEIGHT} x {WIDTH}, {known.threads} threads of PyTorch")
    ours, theirs = unet_runs(pair, inputs)
    apart = np.abs(np.asarray(ours()) - theirs()).max() / np.abs(theirs()).max()
    print(f"the UNets' outputs differ by {apart:.1e} of the largest\n")
    tasks = {
        "UNet forward": (ours, theirs),
        "training step": training_runs(pair, inputs),
        "sampling": sampling_runs(pair, inputs),
    }
    ratios = {}
    for name, runs in tasks.items():
        mine, others = fastest(name, runs, known.repeats)
        ratios[name] = others / mine
        print(f"{name:15} PyTorch {others:7.2f} s, JAX {mine:7.2f} s")
    print()
    for name, ratio in ratios.items():
        print(f"{name:15} {ratio:.2f} times PyTorch's speed (bar {BARS[name]})")
    return ratios


def fastest(name: str, runs: tuple[Run, Run], repeats: int) -> tuple[float, float]:
    """Seconds of the fastest run of each, which take turns; the first of each does not count."""
    for run in runs:
        run()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in tqdm(range(repeats), desc=name, leave=False):
        for run, taken in zip(runs, seconds, strict=True):
            begin = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begin)
    return min(seconds[0]), min(seconds[1])


def make_pair() -> Pair:
    """Random networks, ours with PyTorch's parameters."""
    networks = assemble(
        UNetConfig(**ENCODER),
        ControlNetConfig(**ENCODER),
        VAEConfig(block_out_channels=(32, 64, 128, 128)),
        CLIPVisionConfig.tiny(),
        **suited_to("cpu"),
    )
    parameters, modules = [], {}
    for seed, (field, key) in enumerate(COMPONENTS.items()):
        network = getattr(networks, field)
        module = oracle.redraw(getattr(oracle, key)(network.config), seed)
        modules[field] = module
        tensors = mapping.from_torch(oracle.state(module), network.abstract(), key)
        parameters.append(jax.tree.map(jnp.asarray, tensors))
    return Pair(networks, Parameters(*parameters), oracle.Modules(**modules))


def make_inputs() -> Inputs:
    """Random pictures and noise."""
    rng = np.random.default_rng(0)
    pictures, maps = rng.integers(0, 256, (2, FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    latents = rng.standard_normal((FRAMES, HEIGHT // 8, WIDTH // 8, 4), np.float32)
    image_noise = rng.standard_normal((HEIGHT, WIDTH, 3), np.float32)
    return Inputs(pictures, maps, latents, image_noise)


def batch_of(inputs: Inputs) -> Batch:
    """The clip as a batch of one."""
    return Batch(
        frames_uint8=inputs.pictures[None],
        first_frame_uint8=inputs.pictures[:1],
        maps_uint8=inputs.maps[None],
        camera_rt=np.zeros((1, FRAMES, 12), np.float32),
        camera_known=np.zeros(1, bool),
        fps=np.full(1, 7.0, np.float32),
    )


def unet_runs(pair: Pair, inputs: Inputs) -> tuple[Run, Run]:
    """The UNet alone."""
    sample = np.concatenate([inputs.latents, inputs.latents[:1].repeat(FRAMES, 0)], -1)[None]
    embed = np.full((1, ENCODER["cross_attention_dim"]), 0.1, np.float32)
    told = np.zeros(1, np.float32), embed, np.array([[6.0, 127.0, 0.02]], np.float32)
    mesh = sharding.make_mesh(MeshOptions(1), jax.devices()[:1])
    compiled = sharding.jit(pair.networks.unet.apply, mesh)
    return (
        lambda: jax.block_until_ready(compiled(pair.parameters.unet, sample, *told)),
        lambda: oracle.run_unet(pair.modules.unet, sample, *told),
    )


def training_runs(pair: Pair, inputs: Inputs) -> tuple[Run, Run]:
    """A step of stage 1: encoding, both losses, the gradient, and ours the optimizer."""
    c = config_file.load("configs/stage1.py:tiny", {"optim.accumulate": "1"})
    mesh = sharding.make_mesh(MeshOptions(1), jax.devices()[:1])
    options = step_options(c, ImageStatistics())
    program = make_program(pair.networks, mesh, initial_options(c), options)
    params = jax.tree.map(jnp.copy, pair.parameters.controlnet)  # `begin` donates them
    state = program.begin(jax.device_put(params, sharding.replicated(mesh)))
    frozen = pair.parameters._replace(controlnet={})
    batch = sharding.put_batch(batch_of(inputs), mesh)
    key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))

    def ours() -> None:
        nonlocal state
        state, metrics = program.step(state, frozen, batch, key)
        jax.block_until_ready((state, metrics))

    clip = oracle.Clip(inputs.pictures, inputs.maps, None)
    draws = oracle.Draws(inputs.latents, inputs.latents, sigma=0.7, dropout=0.9, frame=3)
    return ours, lambda: oracle.training_step(pair.modules, clip, draws)


def sampling_runs(pair: Pair, inputs: Inputs) -> tuple[Run, Run]:
    """A whole video: encoders, steps with guidance, decoding."""
    settings = oracle.SampleSettings(
        num_inference_steps=STEPS,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
        fps=7.0,
        motion_bucket_id=127.0,
        noise_aug_strength=0.02,
        decode_chunk_size=FRAMES,
    )
    given = oracle.SampleInputs(
        inputs.pictures[0], inputs.maps, None, inputs.latents, inputs.image_noise
    )
    c = config_file.load("configs/stage1.py:tiny", {})
    sigmas = SigmaRange()
    conditioning = step_options(c, ImageStatistics()).conditioning
    options = SamplingOptions(STEPS, 1.0, 3.0, sigmas.sigma_min, sigmas.sigma_max, conditioning)
    mesh = sharding.make_mesh(MeshOptions(1), jax.devices()[:1])
    program = generation.make_program(pair.networks, options, mesh)
    batch = sharding.put_batch(batch_of(inputs), mesh)
    noise = Noise(jnp.asarray(inputs.latents[None]), jnp.asarray(inputs.image_noise[None]))

    def ours() -> np.ndarray:
        *_, latents = generation.generate(program, pair.parameters, batch, noise, options)
        return generation.decode(program, pair.parameters, latents)

    return ours, lambda: oracle.sample(pair.modules, oracle.scheduler(), given, settings)


if __name__ == "__main__":
    main()
