"""Says what a configuration needs of a machine that is not there, before anybody rents it.

    python -m posetraj_jax.plan --config configs/stage3.py --topology v5e:4x4

Compiles the very program that training (or `--sampling`) runs for the named TPU slice, and prints
one page: whether it fits, HBM by kind, FLOPs, collectives, and how long a step takes. docs/plan.md
says how to read it. Neither weights nor data are needed.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from posetraj_jax import config_file, errors
from posetraj_jax.errors import UserError
from posetraj_jax.planning import making, page
from posetraj_jax.planning.compilation import LEVELS
from posetraj_jax.planning.making import Request
from posetraj_jax.planning.topology import EXAMPLES


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, prints the page, and returns the exit code."""
    parser = _parser()
    known, overrides = config_file.parse(parser, sys.argv[1:] if arguments is None else arguments)
    c = config_file.load(known.config, overrides)
    request = Request(
        name=config_file.as_given(known.config, overrides),
        topology=known.topology,
        samples=known.sampling,
        level=known.level,
        clips_per_device=_clips_per_device(known.clips_per_device, overrides),
    )
    return show(c, request, known)


def show(c: ConfigDict, request: Request, files: argparse.Namespace) -> int:
    """Prints the page of a request and writes the files that were asked for.

    Args:
      files: with `json`, `out` (paths or None) and `no_cache`.
    """
    for path in filter(None, (files.json, files.out)):
        _require_writable(path)
    made = making.page_of(c, request, cached=not files.no_cache)
    text = page.render(made)
    print(text, end="")
    if files.json:
        files.json.write_text(json.dumps(made, indent=1) + "\n")
    if files.out:
        files.out.write_text(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m posetraj_jax.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topology", required=True, help=f"one of {EXAMPLES}, …")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--out", type=Path, help="write the page there")
    parser.add_argument(
        "--sampling", action="store_true", help="plan the sampler instead of training"
    )
    parser.add_argument(
        "--clips_per_device",
        type=int,
        help="sets batch_size to so many clips for every device (every `context` devices); "
        "default 1, or --config.batch_size if that is given",
    )
    parser.add_argument(
        "--level",
        choices=tuple(LEVELS),
        default="O0",
        help="how well the compiler optimises: O0 takes minutes, default far longer",
    )
    parser.add_argument("--no_cache", action="store_true", help="compile even if nothing changed")
    return parser


def _clips_per_device(asked: int | None, overrides: Mapping[str, str]) -> int:
    if asked is None:
        return 0 if "batch_size" in overrides else 1
    if asked < 1 or "batch_size" in overrides:
        batch = f" --config.batch_size={overrides.get('batch_size')}"
        raise UserError(
            "the number of clips cannot be settled",
            expected="either --clips_per_device of at least 1, or --config.batch_size",
            got=f"--clips_per_device {asked}" + batch * ("batch_size" in overrides),
            fix="give one of the two",
        )
    return asked


def _require_writable(path: Path) -> None:
    """Before minutes are spent: a place where a file can be."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(
            f"cannot write {path}",
            expected="a file in a folder that exists",
            got="a folder" if path.is_dir() else f"no folder {path.absolute().parent}",
            fix="name another file, or make the folder",
        )


if __name__ == "__main__":
    errors.run(main)
