"""Options that every program which samples has: the model, and the settings of a video."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

import jax

from posetraj_jax.sampling.model import DTYPES, TINY, Model, load_model
from posetraj_jax.sampling.settings import FITS, Settings, explain

NO_CACHE = "off"


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that `load` reads."""
    add = parser.add_argument
    add(
        "--weights",
        default="",
        help=f"folder of converted weights, or {TINY}: small random networks, whose videos are "
        "noise (what the run of --controlnet was trained with)",
    )
    add(
        "--controlnet",
        default="",
        help="training run, one of its checkpoints, or converted ControlNet (that in --weights)",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of parameters and activations; auto: bfloat16 on accelerators (%(default)s)",
    )
    add(
        "--fsdp",
        type=int,
        default=1,
        help="devices that share one copy of the weights; divides their number (%(default)s)",
    )
    add(
        "--compilation_cache",
        default=str(default_cache()),
        help=f"folder that keeps compiled programs for the next time, or {NO_CACHE} (%(default)s)",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Settings."""
    for field in fields(Settings):
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            choices=FITS if field.name == "fit" else None,
            help=explain(field),
        )


def default_cache() -> Path:
    """Where compiled programs are kept if nobody says where."""
    # An empty variable counts as none, by the specification of XDG.
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "posetraj_jax/compiled"


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that were asked for; raises UserError."""
    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})


def load(options: argparse.Namespace) -> Model:
    """The model that was asked for; raises UserError."""
    _keep_compiled(options.compilation_cache)
    return load_model(options.weights, options.controlnet, dtype=options.dtype, fsdp=options.fsdp)


def _keep_compiled(folder: str) -> None:
    """Lets JAX keep compiled programs for the next time, unless the user has said where."""
    if folder != NO_CACHE and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
