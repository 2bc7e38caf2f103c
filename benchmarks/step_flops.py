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
from posetraj_jax.conditioning import CameraOptions, ConditioningOptions
from posetraj_jax.diffusion.noise import NoiseOptions
from posetraj_jax.models.networks import Networks, Parameters, build_networks, options_of
from posetraj_jax.published import ImageStatistics
from posetraj_jax.structs import Batch, Encoded
from posetraj_jax.training.loss import SpatialPromotion
from posetraj_jax.training.optimizer import OptimizerOptions, make_optimizer
from posetraj_jax.training.state import plan
from posetraj_jax.training.step import StepOptions, train_step

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
    camera = CameraOptions(c.camera.normalise, c.camera.drop) if c.camera.enabled else None
    conditioning = ConditioningOptions(
        **c.conditioning, image_statistics=ImageStatistics(), camera=camera
    )
    optim = OptimizerOptions(**c.optim)
    options = StepOptions(
        trained="controlnet",
        conditioning=conditioning,
        noise=NoiseOptions(**c.diffusion),
        spa=SpatialPromotion(**c.spa),
        optim=optim,
    )
    optimizer, mesh = make_optimizer(optim), sharding.make_mesh(1, 1, jax.devices()[:1])
    _, state = plan(networks.controlnet.abstract(), optimizer, mesh)
    step = partial(train_step, networks=networks, optimizer=optimizer, options=options)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return flops.count(step, state, _frozen(networks), _batch(c, cached), key)


def _shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _frozen(networks: Networks) -> Parameters:
    trees = {name: net.abstract() for name, net in networks._asdict().items()}
    half = jax.tree.map(lambda leaf: _shape(*leaf.shape, dtype=jnp.bfloat16), trees)
    return Parameters(**half | {"controlnet": {}})


def _batch(c: Any, cached: bool) -> Batch:
    f, h, w = c.data.num_frames, c.data.height, c.data.width
    frames, moments = _shape(1, f, h, w, 3, dtype=np.uint8), _shape(1, f, h // 8, w // 8, 4)
    return Batch(
        frames_uint8=None if cached else frames,
        first_frame_uint8=_shape(1, h, w, 3, dtype=np.uint8),
        maps_uint8=frames,
        camera_rt=_shape(1, f, 12),
        camera_known=_shape(1, dtype=bool),
        fps=_shape(1),
        encoded=Encoded(moments, moments, _shape(1, 1024)) if cached else None,
    )


if __name__ == "__main__":
    main()
