"""Model FLOPs of one training step at full size, one clip, by what is switched on.

    python -m benchmarks.step_flops

Counted in the jaxpr of the step itself, so exact and the same on any machine; nothing is computed.
"""

import jax
import jax.numpy as jnp

from posetraj_jax import config, config_file, flops, sharding
from posetraj_jax.models.networks import build_networks, options_of
from posetraj_jax.published import ImageStatistics
from posetraj_jax.sharding import MeshOptions
from posetraj_jax.training.options import initial_options, step_options
from posetraj_jax.training.program import (
    BatchShape,
    abstract_batch,
    abstract_frozen,
    abstract_key,
    make_program,
)

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
    """Model FLOPs of a step of a config on one clip: what is recomputed counts once."""
    c = config_file.load(spec, {"optim.accumulate": "1", "model.remat": "none", **fields})
    networks = build_networks(options_of(config.flatten(c), jnp.bfloat16))
    mesh = sharding.make_mesh(MeshOptions(1), jax.devices()[:1])
    start = initial_options(c)
    program = make_program(networks, mesh, start, step_options(c, ImageStatistics()))
    frozen = abstract_frozen(networks, mesh, start, jnp.bfloat16, cached=cached)
    shape = BatchShape(1, c.data.num_frames, c.data.height, c.data.width, cached)
    batch = abstract_batch(networks, mesh, shape)
    return flops.count(program.step, program.state, frozen, batch, abstract_key(mesh))


if __name__ == "__main__":
    main()
