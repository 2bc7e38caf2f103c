"""Converts a ControlNet: `python -m convert_weights.posetraj_to_flax SRC DST`.

SRC is the folder `controlnet/` of a checkpoint that the official PyTorch code saved, with or
without the camera's projection; DST becomes one component of a weights folder, such as
WEIGHTS/controlnet.

The official UNet adds residual k several times. The weights are not changed for it: DST's
config.json says how often in `residual_multiplicity`, and our ControlNet multiplies.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from convert_weights import verify
from convert_weights.command_line import add_dtype, make_parser, print_figures, progress
from convert_weights.components import MOST_SKIPS
from convert_weights.source import Source, open_component
from posetraj_jax import tree, weights
from posetraj_jax.errors import run
from posetraj_jax.models.controlnet import ControlNet, official_residual_multiplicity
from posetraj_jax.new_folder import new_folder
from posetraj_jax.nn.build import build

CAMERA = "controlnet_cond_embedding.cc_projection.weight"
FIX = "give a folder `controlnet` of a checkpoint, with its config.json and safetensors"


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, converts, and returns the exit code."""
    parser = make_parser("posetraj_to_flax", __doc__, "folder with config.json and tensors")
    add_dtype(parser)
    parser.add_argument(
        "--multiplicity",
        choices=("recorded", "official", "once"),
        default="recorded",
        help="how often residuals were added when it was trained; default: what config.json says, "
        "and what the official UNet does where it says nothing",
    )
    options = parser.parse_args(arguments)
    if options.verify:
        verify.require_torch()
    source = check(options.src, options.multiplicity)
    print_figures(convert(source, options.dst, options.dtype, options.verify))
    config = source.network.config
    print(
        f"{options.dst}: {'with' if config.camera else 'without'} camera, residuals added "
        f"{','.join(map(str, config.residual_multiplicity))} times, {options.dtype}"
    )
    return 0


def check(src: Path, multiplicity: str = "recorded") -> Source:
    """Opens a ControlNet without reading a tensor; raises as `source.open_component`.

    Args:
        multiplicity: "recorded", "official" or "once". An export of ours records it; one that was
            trained on by the official code may carry a record that is no longer true.
    """
    source = open_component(src, "controlnet", FIX, _official)
    if multiplicity == "recorded":
        return source
    config = source.network.config
    official = official_residual_multiplicity(config.num_levels, config.layers_per_block)
    times = official if multiplicity == "official" else (1,) * len(official)
    network = build(ControlNet, dataclasses.replace(config, residual_multiplicity=times))
    return source._replace(network=network, config=source.config | {"residual_multiplicity": times})


def convert(source: Source, dst: Path, dtype: Any, verified: bool) -> dict[str, float]:
    """Writes the ControlNet to `dst`, which appears only when it is complete.

    Returns:
        What `verify.verify` measured, if `verified`.

    Raises:
        UserError: `dst` exists or cannot be written; or the proof fails.
    """
    with new_folder(dst, tree.num_bytes(source.leaves(dtype))) as partial:
        with progress(source.num_bytes) as bar:
            weights.save(source.leaves(dtype, on_read=bar.update), source.config, partial)
        if not verified:
            return {}
        load = functools.partial(weights.load, partial)
        return verify.verify(source, load, source.network.config, rounded_to=dtype)


def _official(given: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """What config.json cannot tell of an official ControlNet."""
    fields = {"camera": CAMERA in tensors}
    levels, layers = given.get("block_out_channels"), given.get("layers_per_block")
    if isinstance(levels, list) and type(layers) is int and len(levels) * layers <= MOST_SKIPS:
        fields["residual_multiplicity"] = official_residual_multiplicity(len(levels), layers)
    return fields  # what is no list or too much is refused by the config's own checks


if __name__ == "__main__":
    run(main)
