"""Loads and saves the parameters of one network, always against an abstract target.

A weights folder holds one folder per component (`unet`, `vae`, `image_encoder`, `controlnet`), each
with `config.json` and an Orbax tree `params`. Names, shapes and types are compared before a byte is
read: merging a wrong tree would otherwise pass in silence.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from posetraj_jax import tree
from posetraj_jax.errors import UserError, listed

PARAMS, CONFIG = "params", "config.json"
HOW_TO_CONVERT = "python -m convert_weights.svd_to_flax SVD_FOLDER WEIGHTS_FOLDER"


def save(params: tree.Tree, component_config: dict[str, Any], folder: Path) -> None:
    """Writes one component; the folder appears only when it is complete.

    Raises:
      UserError: the folder exists already.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise UserError(
            f"cannot write weights to {folder}",
            expected="a folder that does not exist yet",
            got="something that does",
            fix="choose another folder, or remove this one",
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / CONFIG).write_text(json.dumps(component_config, indent=2, sort_keys=True) + "\n")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(partial / PARAMS, params)
    partial.rename(folder)


def load(folder: Path, target: tree.Tree) -> tree.Tree:
    """Reads one component directly onto its devices.

    Args:
      folder: the component's folder, such as `WEIGHTS/unet`.
      target: ShapeDtypeStructs of the config's network, with the type and the sharding that each
        leaf shall have; the folder must hold exactly these leaves, in any floating type.

    Raises:
      UserError: no such folder, or leaves missing, unexpected or of another shape, all named.
    """
    folder = Path(folder).absolute()
    if not (folder / PARAMS).is_dir():
        raise UserError(
            f"no weights in {folder}",
            expected=f"a folder with {CONFIG} and {PARAMS}/",
            got="nothing" if not folder.exists() else "other files",
            fix=f"make them with: {HOW_TO_CONVERT}",
        )
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(folder / PARAMS).item_metadata.tree
            _require_fit(folder, target, stored)
            return checkpointer.restore(folder / PARAMS, target)
        except (ValueError, OSError, KeyError, AttributeError) as error:
            raise UserError(
                f"cannot read the weights in {folder}",
                expected=f"a complete Orbax tree in {PARAMS}/",
                got=f"{type(error).__name__}: {error}".splitlines()[0],
                fix=f"copy the folder again, or make it with: {HOW_TO_CONVERT}",
            ) from error


def cast(params: tree.Tree, dtype: Any) -> tree.Tree:
    """Casts every leaf to a floating type."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)


def _require_fit(folder: Path, target: tree.Tree, stored: tree.Tree) -> None:
    problems = tree.differences(target, stored, dtypes=False)
    if problems:
        raise UserError(
            f"the weights in {folder} do not fit the config's network",
            expected=f"the {len(tree.flatten(target))} leaves of this model.variant",
            got=listed(problems),
            fix="give weights of this model.variant, or change model.variant",
        )
