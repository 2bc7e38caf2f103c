"""Model FLOPs of one training step at full size, one clip, by what is switched on.

    python -m benchmarks.step_flops

Counted in the jaxpr of the step itself, so exact and the same on any machine; nothing is computed.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posetraj_jax import config, config_file, flops, sharding
from posetraj_jax.models.networks import Networks, Parameters, build_networks, options_of
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch, Encoded
from posetraj_jax.training.optimizer import make_optimizer
from posetraj_jax.training.options import step_options
from posetraj_jax.training.state import plan
from posetraj_jax.training.step import train_step

ROWS = (
    # what, config, fields, whether latents come from the cache
    ("stage 1", "stage1", {}, False),
    ("stage 1, official", "stage1:official", {}, False),
    ("stage 1, cached latents", "stage1", {}, True),
    ("stage 1, cached, spa.temporal=active", "stage1", {"spa.temporal": "active"}, True),
    ("stage 1, cached, spa.weight=0", "stage1", {"spa.weight": "0"}, True),
    ("stage 3, cached latents", "stage3", {}, True),
)


def main() -> None:
    """Prints a line per row, and what stills and encoding add."""
    counts = {}
    for what, spec, fields, cached in ROWS:
        counts[what] = count(spec, fields, cached)
        print(f"{what:40} {counts[what] / 1e12:7.2f} TF per clip", flush=True)
    without = counts["stage 1, cached, spa.weight=0"]
    bypass = counts["stage 1, cached latents"] / without - 1
    active = counts["stage 1, cached, spa.temporal=active"] / without - 1
    print(
        f"\nstills add {bypass:.1%} (bypass), {active:.1%} (active) to a step from cached latents"
    )
    saved = 1 - counts["stage 1, cached latents"] / counts["stage 1"]
    print(f"cached latents save {saved:.1%} of stage 1")


def count(spec: str, fields: dict[str, str], cached: bool) -> int:
    """Model FLOPs of `train_step` of a config on one clip."""
    c = config_file.load(spec, {"optim.accumulate": "1", **fields})
    networks = build_networks(options_of(config.flatten(c), jnp.bfloat16))
    options = step_options(c, ImageStatistics())
    optimizer, mesh = make_optimizer(options.optim), sharding.make_mesh(1, 1, jax.devices()[:1])
    averages = options.optim.ema_decay > 0
    _, state = plan(networks.controlnet.abstract(), optimizer, mesh, averages=averages)
    step = partial(train_step, networks=networks, optimizer=optimizer, options=options)
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract_batch(c, networks, cached)
    return flops.count(step, state, abstract_frozen(networks), batch, key)


def shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    """An array that takes no memory."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def abstract_frozen(networks: Networks) -> Parameters:
    """The frozen networks, in bfloat16."""
    trees = {name: net.abstract() for name, net in networks._asdict().items()}
    half = jax.tree.map(lambda leaf: shape(*leaf.shape, dtype=jnp.bfloat16), trees)
    return Parameters(**half | {"controlnet": {}})


def abstract_batch(c: Any, networks: Networks, cached: bool = False, clips: int = 1) -> Batch:
    """What a config's pipeline would give."""
    b, f, h, w = clips, c.data.num_frames, c.data.height, c.data.width
    frames = shape(b, f, h, w, 3, dtype=np.uint8)
    moments = shape(b, f, h // 8, w // 8, networks.vae.config.latent_channels)
    image_embed = shape(b, networks.image_encoder.config.projection_dim)
    return Batch(
        frames_uint8=None if cached else frames,
        first_frame_uint8=shape(b, h, w, 3, dtype=np.uint8),
        maps_uint8=frames,
        camera_rt=shape(b, f, 12),
        camera_known=shape(b, dtype=bool),
        fps=shape(b),
        encoded=Encoded(moments, moments, image_embed) if cached else None,
    )


if __name__ == "__main__":
    main()
