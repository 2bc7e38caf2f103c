"""What the commands of this folder have in common: options, the bar, the figures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from posetraj_jax.errors import UserError

DOWNLOAD = (
    "download stabilityai/stable-video-diffusion-img2vid (or …-xt) from Hugging Face as it is"
)
"""What to do about a published folder that cannot be used."""


def make_parser(name: str, description: str, source: str) -> argparse.ArgumentParser:
    """A parser of SRC, DST and --verify.

    Args:
        source: What SRC is, in a few words.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m convert_weights.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("src", metavar="SRC", type=path, help=source)
    parser.add_argument("dst", metavar="DST", type=path, help="folder to make")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="then run PyTorch's networks and ours on the same input (needs the extra `convert`)",
    )
    return parser


def path(text: str) -> Path:
    """A path as users type it, `~` included."""
    return Path(text).expanduser()


def parse_names(text: str, known: Sequence[str]) -> list[str]:
    """Reads --only: names with commas between, each once, in the order of `known`.

    Raises:
        UserError: A name that is not known.
    """
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(
            f"--only {text}: no such component",
            expected=f"some of {','.join(known)}, with commas between",
            got=", ".join(map(repr, unknown)),
            fix="correct the names, or leave --only out to take all",
        )
    return [name for name in known if name in wanted]


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The type in which our parameters are stored."""
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="float32",
        help="type to store; default: float32, which keeps every source type exactly",
    )


def progress(num_bytes: int) -> tqdm:
    """A bar over the bytes that are read."""
    return tqdm(total=num_bytes, unit="B", unit_scale=True, dynamic_ncols=True)


def print_figures(figures: Mapping[str, float]) -> None:
    """Prints what `verify.verify` measured."""
    for name, error in figures.items():
        print(f"{name:<16} largest relative difference from PyTorch {error:.1e}")
