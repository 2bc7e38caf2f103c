"""Exports to PyTorch: `python -m convert_weights.flax_to_diffusers SRC DST --svd SVD_FOLDER`.

SRC is the folder of a training run, whose ControlNet or fine-tuned UNet is exported, or a weights
folder, or one component of it; DST becomes a folder that diffusers and the official code read. Our
networks leave out tensors that cannot influence any output; PyTorch's classes want them, so they
are taken from SVD_FOLDER, the published one. Numbers are stored in the type that SRC has.

A ControlNet's config.json tells in `residual_multiplicity` how often each residual is to be added:
once, for one trained here with the defaults. The official UNet adds some of them four times;
--official_unet divides the last layers by that, so that its sums are ours.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from convert_weights import mapping, verify
from convert_weights.command_line import (
    DOWNLOAD,
    make_parser,
    parse_names,
    path,
    print_figures,
    progress,
)
from convert_weights.components import COMPONENTS, INDEX, PIPELINE, write_config
from convert_weights.source import copy_settings, open_component
from convert_weights.tensor_files import StoredTensor
from posetraj_jax import fingerprint, json_file, runs, tree, weights
from posetraj_jax.errors import UserError, listed, run
from posetraj_jax.models.controlnet import ControlNetConfig, official_residual_multiplicity
from posetraj_jax.new_folder import new_folder
from posetraj_jax.nn.build import build
from posetraj_jax.saved import Saved

WITH_INERT = ("unet", "controlnet")
"""Components that leave tensors out."""


class Stored(NamedTuple):
    """Where the parameters of a component of ours are."""

    config: Any
    saved: Saved
    rest: Path | None = None
    """The component that a run trained a part of; its other parameters are there."""
    digest: str = ""
    """Of that whole component, as the run knew it."""

    def types(self, abstract: tree.Tree) -> tree.Tree:
        """The leaves as they are stored; float32, as what was trained, where there is a rest."""
        if self.rest is None:
            return self.saved.types(abstract)
        weights.stored_types(self.rest, abstract)
        self.saved.types(self._trained(abstract))
        return abstract

    def load(self, target: tree.Tree) -> tree.Tree:
        """Reads all leaves, as `weights.load`; raises UserError if `rest` has other numbers."""
        if self.rest is None:
            return self.saved.load(target)
        whole = weights.load(self.rest, target)
        _require_digest(self.rest, fingerprint.of_unet(whole), self.digest)
        trained = self.saved.load(self._trained(target))
        return tree.unflatten(tree.flatten(whole) | tree.flatten(trained))

    def _trained(self, target: tree.Tree) -> tree.Tree:
        names = self.saved.paths()
        return tree.unflatten({p: x for p, x in tree.flatten(target).items() if p in names})


class Exported(NamedTuple):
    """Parameters of ours that are known to fit their network."""

    name: str
    stored: Stored
    types: tree.Tree
    """As they are stored."""
    inert: Mapping[str, StoredTensor]
    written: Any
    """The configuration that is written; another `residual_multiplicity` scales the taps."""

    def state(self, on_read: Any) -> dict[str, np.ndarray]:
        """PyTorch's complete state dict; no more than one tensor is held twice."""
        ours = tree.flatten(self.stored.load(weights.unsharded(self.types)))
        dtype, key, state = next(iter(ours.values())).dtype, COMPONENTS[self.name].key, {}
        scales = _scales(self.stored.config, self.written)
        for leaf_path in list(ours):
            leaf = ours.pop(leaf_path)
            name, array = mapping.to_torch_tensor(leaf_path, leaf, key)
            # In float32 where it is scaled: a third has no end, and bfloat16 would show it.
            state[name] = array.astype(np.float32) * scales[name] if name in scales else array
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
        print(f"{options.dst / one.name}: from {one.stored.saved.folder} ({one.stored.saved.item})")
    return 0


def export(
    src: Path, dst: Path, exported: Sequence[Exported], svd: Path | None, verified: bool
) -> dict[str, float]:
    """Writes a folder for PyTorch, which appears only when it is complete.

    With a whole pipeline in it, the files that make it one are copied too.

    Returns:
        What `verify.verify` measured, if `verified`.

    Raises:
        UserError: `dst` exists or cannot be written; or the proof fails.
    """
    total, figures = sum(one.num_bytes for one in exported), {}
    with new_folder(dst, total) as made:
        with progress(total) as bar:
            for one in exported:
                bar.set_description(one.name)
                _write(one, made / one.name, bar.update)
                if (src / (COMPONENTS[one.name].settings or "")).is_file():
                    copy_settings(src, made, one.name)
        if svd and (svd / INDEX).is_file() and {one.name for one in exported} >= set(PIPELINE):
            shutil.copyfile(svd / INDEX, made / INDEX)
        for one in exported if verified else ():
            written = open_component(made / one.name, one.name, DOWNLOAD)
            figures |= verify.verify(written, one.stored.load, one.stored.config)
    return figures


def check(options: argparse.Namespace) -> list[Exported]:
    """Finds what is to be exported and compares it with its network; no number is read.

    Raises:
        UserError: There is nothing to export, or it is not complete; or the SVD folder is missing
            or another model's.
    """
    found = _find(options)
    if not found:
        raise UserError(
            f"{options.src} has no parameters of ours",
            expected=f"the folder of a run, or some of {', '.join(COMPONENTS)}",
            got="a folder" if options.src.is_dir() else "no such folder",
            fix="give the folder of a run, or of converted weights",
        )
    names = list(found) if options.only is None else parse_names(options.only, list(found))
    _require_fitting_options(options, names, found)
    needs_svd = any(name in WITH_INERT for name in names)
    unet = open_component(options.svd / "unet", "unet", DOWNLOAD) if needs_svd else None
    exported = []
    for name in names:
        stored = found[name]
        _require_exportable(stored)
        types = stored.types(build(COMPONENTS[name].module_cls, stored.config).abstract())
        inert = unet.inert(types, COMPONENTS[name].key) if name in WITH_INERT else {}
        is_scaled = name == "controlnet" and options.official_unet
        written = _for_official_unet(stored.config) if is_scaled else stored.config
        exported.append(Exported(name, stored, types, inert, written))
    return exported


def _require_fitting_options(
    options: argparse.Namespace, names: Sequence[str], found: Mapping[str, Stored]
) -> None:
    problems, needed = [], [name for name in names if name in WITH_INERT]
    if needed and options.svd is None:
        problems.append(f"--svd is missing: the {' and the '.join(needed)} cannot do without")
    if (options.raw or options.step is not None) and not runs.is_run(options.src):
        problems.append("--raw and --step choose from the checkpoints of a run; SRC is none")
    if options.weights and not any(found[name].rest for name in names):
        problems.append("--weights has the rest of a network of which a part was trained; none is")
    if options.official_unet and "controlnet" not in names:
        problems.append("--official_unet scales a ControlNet; none is exported")
    if problems:
        raise UserError(
            "the options do not fit what is exported",
            expected="options that have an effect, and --svd SVD_FOLDER where it is needed",
            got=listed(problems),
            fix=f"correct the options; if SVD_FOLDER is missing, {DOWNLOAD}",
        )


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("flax_to_diffusers", __doc__, "a run, or converted weights")
    parser.add_argument("--svd", type=path, help="published folder; for unet and controlnet")
    parser.add_argument("--only", help="components, with commas between; default: all in SRC")
    parser.add_argument("--step", type=int, help="of a run's checkpoint; default: the newest")
    parser.add_argument(
        "--weights", type=path, help="of a run that trained a part of the UNet; default: its own"
    )
    parser.add_argument(
        "--raw", action="store_true", help="a run's raw parameters, not their moving average"
    )
    parser.add_argument(
        "--official_unet",
        action="store_true",
        help="scale a ControlNet for the UNet of the official code, which repeats residuals",
    )
    return parser


def _find(options: argparse.Namespace) -> dict[str, Stored]:
    """The components that SRC has."""
    src = options.src
    if runs.is_run(src):
        trained = runs.find(src, options.step)
        item = runs.RAW if options.raw else trained.item
        stored = Stored(trained.config, trained.saved._replace(item=item))
        if trained.record["trainable"] != "all":
            stored = stored._replace(rest=_frozen_part(options, trained), digest=trained.unet)
        return {trained.name: stored}
    folders = {name: src / name for name in COMPONENTS}
    if (src / weights.PARAMS).is_dir():
        given = json_file.read_object(src / weights.CONFIG, "convert the component again")
        folders = {
            name: src
            for name, component in COMPONENTS.items()
            if component.identity.items() <= given.items()
        }
    return {
        name: Stored(weights.load_config(folder, COMPONENTS[name].config_cls), Saved(folder))
        for name, folder in folders.items()
        if (folder / weights.PARAMS).is_dir()
    }


def _frozen_part(options: argparse.Namespace, trained: runs.Trained) -> Path:
    """The converted component beside which a part of it was trained."""
    folder = options.weights or trained.record["weights"]
    if not folder:
        raise UserError(
            f"{options.src} has trained only the {trained.record['trainable']} parameters",
            expected="the weights with the others",
            got="a run that drew them at random",
            fix="export a run that started from converted weights",
        )
    return Path(folder).expanduser() / trained.name


def _require_digest(folder: Path, got: str, wanted: str) -> None:
    if got != wanted:
        raise UserError(
            f"the weights in {folder} are not those that a part was trained beside",
            expected=f"numbers with the digest {wanted or '(none: drawn at random)'}",
            got=got,
            fix="give the weights that the run began with: --weights FOLDER",
        )


def _require_exportable(stored: Stored) -> None:
    if getattr(stored.config, "camera_encoder", "linear") != "linear":
        raise UserError(
            f"{stored.saved.folder} has a camera encoder that PyTorch's code does not",
            expected="camera.encoder = linear, as in the official code",
            got=f"camera.encoder = {stored.config.camera_encoder}",
            fix="keep it in our format; only linear camera branches can be exported",
        )


def _for_official_unet(config: ControlNetConfig) -> ControlNetConfig:
    official = official_residual_multiplicity(config.num_levels, config.layers_per_block)
    return dataclasses.replace(config, residual_multiplicity=official)


def _scales(ours: Any, written: Any) -> dict[str, float]:
    """Factors of PyTorch's tensors that make up for another `residual_multiplicity`."""
    if ours == written:
        return {}
    times = zip(ours.residual_multiplicity, written.residual_multiplicity, strict=True)
    return {
        f"controlnet_down_blocks.{k}.{name}": a / b
        for k, (a, b) in enumerate(times)
        for name in ("weight", "bias")
    }


def _write(one: Exported, folder: Path, on_read: Any) -> None:
    folder.mkdir()
    config, fields = folder / weights.CONFIG, write_config(one.written, COMPONENTS[one.name])
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    file = folder / f"{COMPONENTS[one.name].file}.safetensors"
    try:
        # transformers refuses files that do not say which framework they are for.
        save_file(one.state(on_read), file, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, as safetensors reports it
        raise OSError(str(error)) from error
    file.chmod(config.stat().st_mode)  # safetensors makes it readable by its owner alone


if __name__ == "__main__":
    run(main)
