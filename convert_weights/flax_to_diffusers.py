"""Exports to PyTorch: `python -m convert_weights.flax_to_diffusers SRC DST --svd SVD_FOLDER`.

SRC is the folder of a training run, whose ControlNet is exported, or a weights folder, or one
component of it; DST becomes a folder that diffusers and the official code read. Our networks leave
out tensors that cannot influence any output; PyTorch's classes want them, so they are taken from
SVD_FOLDER, the published one. Numbers are stored in the type that SRC has.

A ControlNet's config.json tells in `residual_multiplicity` how often each residual is to be added:
once, for one trained here with the defaults. diffusers' own blocks do that; the official UNet adds
some of them four times.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from convert_weights import mapping, verify
from convert_weights.components import COMPONENTS, write_config
from convert_weights.source import open_component
from convert_weights.svd_to_flax import DOWNLOAD, INDEX, NAMES, copy_settings, print_figures
from convert_weights.tensor_files import StoredTensor
from posetraj_jax import json_file, runs, tree, weights
from posetraj_jax.errors import UserError, run
from posetraj_jax.new_folder import new_folder
from posetraj_jax.nn.build import build

WITH_INERT = ("unet", "controlnet")
"""Components that leave tensors out."""


class Trained(NamedTuple):
    """Parameters of ours that are known to fit their network."""

    name: str
    config: Any
    folder: Path
    item: str
    types: tree.Tree
    """As they are stored."""
    inert: Mapping[str, StoredTensor]

    def state(self, on_read: Any) -> dict[str, np.ndarray]:
        """PyTorch's complete state dict; no more than one tensor is held twice."""
        where = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), self.types
        )
        ours = tree.flatten(weights.load(self.folder, target, self.item))
        dtype, key, state = next(iter(ours.values())).dtype, COMPONENTS[self.name].key, {}
        for path in list(ours):
            name, array = mapping.to_torch_tensor(path, ours.pop(path), key)
            state[name] = array
            on_read(array.nbytes)
        for name, tensor in self.inert.items():
            state[name] = np.asarray(tensor).astype(dtype)
            on_read(state[name].nbytes)
        return state

    @property
    def num_bytes(self) -> int:
        """Bytes that `state` makes."""
        itemsize = jax.tree.leaves(self.types)[0].dtype.itemsize
        inert = sum(int(np.prod(tensor.shape)) for tensor in self.inert.values())
        return tree.num_bytes(self.types) + inert * itemsize


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, exports, and returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.verify:
        verify.require_torch()
    exported = check(options)
    print_figures(export(options.src, options.dst, exported, options.svd, options.verify))
    for one in exported:
        print(f"{options.dst / one.name}: from {one.folder} ({one.item})")
    return 0


def export(
    src: Path, dst: Path, exported: Sequence[Trained], svd: Path | None, verified: bool
) -> dict[str, float]:
    """Writes a folder for PyTorch, which appears only when it is complete.

    With a whole pipeline in it, the files that make it one are copied too.

    Returns:
        What `verify.verify` measured, if `verified`.

    Raises:
        UserError: `dst` exists or cannot be written; or the proof fails.
    """
    total, figures = sum(one.num_bytes for one in exported), {}
    with new_folder(dst, total) as partial:
        with tqdm(total=total, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
            for one in exported:
                bar.set_description(one.name)
                _write(one, partial / one.name, bar.update)
                if (src / (COMPONENTS[one.name].settings or "")).is_file():
                    copy_settings(src, partial, one.name)
        if svd and (svd / INDEX).is_file() and {one.name for one in exported} >= set(NAMES):
            shutil.copyfile(svd / INDEX, partial / INDEX)
        for one in exported if verified else ():
            written = open_component(partial / one.name, one.name, DOWNLOAD)
            figures |= verify.verify(written, one.folder, one.config, one.item)
    return figures


def check(options: argparse.Namespace) -> list[Trained]:
    """Finds what is to be exported and compares it with its network; no number is read.

    Raises:
        UserError: There is nothing to export, or it is not complete; or the SVD folder is missing
            or another model's.
    """
    found = _find(options)
    names = list(found) if options.only is None else options.only.split(",")
    if unknown := [name for name in names if name not in found]:
        raise UserError(
            f"{options.src} has no {', '.join(unknown)}",
            expected=", ".join(COMPONENTS),
            got=", ".join(found) or "none of them",
            fix="give the folder of a run, or of converted weights; correct --only",
        )
    needed = [name for name in names if name in WITH_INERT]
    if needed and options.svd is None:
        raise UserError(
            f"the {' and the '.join(needed)} cannot be exported without --svd",
            expected="the published SVD folder, for the tensors that we leave out",
            got="no --svd",
            fix=f"add --svd SVD_FOLDER; {DOWNLOAD}",
        )
    unet = open_component(options.svd / "unet", "unet", DOWNLOAD) if needed else None
    exported = []
    for name in names:
        config, folder, item = found[name]
        abstract = build(COMPONENTS[name].module_cls, config).abstract()
        types = weights.stored_types(folder, abstract, item)
        inert = unet.inert(types, COMPONENTS[name].key) if name in WITH_INERT else {}
        exported.append(Trained(name, config, folder, item, types, inert))
    return exported


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert_weights.flax_to_diffusers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="a run, or converted weights")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--svd", type=Path, help="published folder; for unet and controlnet")
    parser.add_argument("--only", help="components, with commas between; default: all in SRC")
    parser.add_argument("--step", type=int, help="of a run's checkpoint; default: the newest")
    parser.add_argument(
        "--raw", action="store_true", help="a run's raw parameters, not their moving average"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="then run PyTorch's networks and ours on the same input (needs the extra `convert`)",
    )
    return parser


def _find(options: argparse.Namespace) -> dict[str, tuple[Any, Path, str]]:
    """Component → configuration, folder and tree."""
    src = options.src
    if runs.is_run(src):
        trained = runs.find(src, options.step)
        item = runs.RAW if options.raw else runs.AVERAGED
        return {"controlnet": (trained.config, trained.folder, item)}
    folders = {name: src / name for name in COMPONENTS}
    if (src / weights.PARAMS).is_dir():
        given = json_file.read_object(src / weights.CONFIG, "convert the component again")
        folders = {
            name: src
            for name, component in COMPONENTS.items()
            if component.identity.items() <= given.items()
        }
    return {
        name: (weights.load_config(folder, COMPONENTS[name].config_cls), folder, weights.PARAMS)
        for name, folder in folders.items()
        if (folder / weights.PARAMS).is_dir()
    }


def _write(one: Trained, folder: Path, on_read: Any) -> None:
    folder.mkdir()
    config = write_config(one.config, COMPONENTS[one.name])
    (folder / weights.CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    file = folder / f"{COMPONENTS[one.name].file}.safetensors"
    # transformers refuses files that do not say which framework they are for.
    save_file(one.state(on_read), file, metadata={"format": "pt"})


if __name__ == "__main__":
    run(main)
