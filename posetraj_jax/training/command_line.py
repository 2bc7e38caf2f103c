"""The command line of `posetraj_jax.train`."""

import argparse
from pathlib import Path
from typing import NamedTuple

from posetraj_jax import config_file, hosts
from posetraj_jax.errors import UserError
from posetraj_jax.hosts import HostOptions
from posetraj_jax.planning import topology as topologies
from posetraj_jax.training import profiling

ABOUT = "Trains a stage, resuming what is there: --config configs/stage1.py:tiny."


class Flags(NamedTuple):
    """What a command line says besides the config."""

    workdir: Path | None = None
    """None: named after the config."""
    profile: profiling.Steps | None = None
    """Which steps to trace."""
    topology: str = ""
    """What to compile for, instead of training."""
    together: HostOptions = HostOptions()
    """Who else trains."""


def parse(arguments: list[str]) -> tuple[str, dict[str, str], Flags]:
    """Splits `--config FILE[:variants] [--config.field=value …]` and the other flags."""
    parser = argparse.ArgumentParser(prog="python -m posetraj_jax.train", description=ABOUT)
    parser.add_argument("--workdir", type=Path, help="default: runs/<config>-<variants>")
    parser.add_argument(
        profiling.FLAG, metavar="FIRST:LAST", help="trace these steps into WORKDIR/profile"
    )
    parser.add_argument(
        "--compile_only", action="store_true", help="print the plan of this config, and end"
    )
    parser.add_argument("--topology", help="with --compile_only; default: the devices here")
    hosts.add_arguments(parser)
    known, overrides = config_file.parse(parser, arguments)
    if known.topology and not known.compile_only:
        raise UserError(
            "training runs on the devices that are there",
            expected="--topology beside --compile_only",
            got=f"--topology={known.topology} alone",
            fix="add --compile_only, or leave --topology out",
        )
    topology = ""
    if known.compile_only:
        topology = known.topology or topologies.of_this_machine()
    profile = profiling.parse(known.profile_steps) if known.profile_steps is not None else None
    together = HostOptions.of(known)
    return known.config, overrides, Flags(known.workdir, profile, topology, together)
