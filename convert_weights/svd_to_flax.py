"""Converts Stable Video Diffusion: `python -m convert_weights.svd_to_flax SRC DST`.

SRC is a folder in the layout diffusers publishes and reads; DST becomes the weights folder that
training and sampling load (see `posetraj_jax.weights`). Whatever can be wrong with SRC is found
from its configs and the headers of its files, before anything is read or written. Memory stays far
below the size of the model.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from convert_weights import verify
from convert_weights.command_line import (
    DOWNLOAD,
    add_dtype,
    make_parser,
    parse_names,
    print_figures,
    progress,
)
from convert_weights.components import COMPONENTS, INDEX, PIPELINE
from convert_weights.source import Source, copy_settings, open_component
from posetraj_jax import json_file, published, tree, weights
from posetraj_jax.errors import UserError, all_of, run
from posetraj_jax.new_folder import new_folder

NUM_FRAMES = {"svd": 14, "svd_xt": 25}
CLASS_NAME = "StableVideoDiffusionPipeline"
READERS = {
    published.SCHEDULER: published.read_sigma_range,
    published.PREPROCESSOR: published.read_image_statistics,
}


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, converts, and returns the exit code."""
    options = _parser().parse_args(arguments)
    names = parse_names(options.only, PIPELINE)
    if options.verify:
        verify.require_torch()
    sources = check(options.src, names, options.variant)
    print_figures(convert(options.src, options.dst, sources, options.dtype, options.verify))
    print(f"{options.dst}: {', '.join(names)} in {options.dtype}")
    return 0


def convert(
    src: Path, dst: Path, sources: Sequence[Source], dtype: Any, verified: bool
) -> dict[str, float]:
    """Writes `sources` to `dst`, which appears only when it is complete.

    Returns:
        What `verify.verify` measured, if `verified`.

    Raises:
        UserError: `dst` exists or cannot be written; or the proof fails.
    """
    num_bytes, figures = sum(tree.num_bytes(source.leaves(dtype)) for source in sources), {}
    with new_folder(dst, num_bytes) as made:
        with progress(sum(source.num_bytes for source in sources)) as bar:
            for source in sources:
                bar.set_description(source.name)
                params = source.leaves(dtype, on_read=bar.update)
                weights.save(params, source.config, made / source.name)
                copy_settings(src, made, source.name)
        for source in sources if verified else ():
            load, config = partial(weights.load, made / source.name), source.network.config
            figures |= verify.verify(source, load, config, rounded_to=dtype)
    return figures


def check(src: Path, names: Sequence[str], variant: str | None = None) -> list[Source]:
    """Opens the components `names` of `src` without reading a tensor.

    Args:
        variant: svd or svd_xt, which the UNet must then be; None takes either.

    Raises:
        UserError: `src` is another pipeline or has another layout, or `variant` is not what it is;
            or what `source.open_component` refuses.
    """
    if not any((src / name).is_dir() for name in names):
        there = "none of them" if src.is_dir() else "a file" if src.exists() else "nothing there"
        raise UserError(
            f"{src} is no Stable Video Diffusion",
            expected=f"a diffusers folder with {', '.join(f'{name}/' for name in names)}",
            got=there,
            fix=DOWNLOAD,
        )
    if (src / INDEX).exists():
        _require_pipeline(src / INDEX)
    calls = [partial(open_component, src / name, name, DOWNLOAD) for name in names]
    settings = [COMPONENTS[name].settings for name in names if COMPONENTS[name].settings]
    calls += [partial(READERS[path], src, DOWNLOAD) for path in settings]
    sources = all_of(f"{src} cannot be converted", calls)[: len(names)]
    if variant:
        _require_variant(src, {source.name: source for source in sources}, variant)
    return sources


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("svd_to_flax", __doc__, "folder with " + ", ".join(PIPELINE))
    add_dtype(parser)
    parser.add_argument("--only", default=",".join(PIPELINE), help="default: %(default)s")
    parser.add_argument(
        "--variant", choices=tuple(NUM_FRAMES), help="refuse anything else; default: take either"
    )
    return parser


def _require_pipeline(index: Path) -> None:
    name = json_file.read_object(index, DOWNLOAD).get("_class_name")
    if name != CLASS_NAME:
        raise UserError(
            f"{index.parent} is another model",
            expected=f"a {CLASS_NAME} in {INDEX}",
            got=f"a {published.SHORT.repr(name)}",
            fix=DOWNLOAD,
        )


def _require_variant(src: Path, sources: dict[str, Source], variant: str) -> None:
    frames = sources["unet"].network.config.num_frames if "unet" in sources else "no UNet in --only"
    if frames != NUM_FRAMES[variant]:
        raise UserError(
            f"{src} is not the variant {variant}",
            expected=f"num_frames {NUM_FRAMES[variant]} in unet/{weights.CONFIG}",
            got=f"{frames}" + (", which is svd_xt" if frames == NUM_FRAMES["svd_xt"] else ""),
            fix="give the other folder, or the --variant that it is",
        )


if __name__ == "__main__":
    run(main)
