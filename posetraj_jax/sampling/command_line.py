"""Options that every program which samples has: the model, and the settings of a video."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

import jax

from posetraj_jax.sampling.model import TINY, Model, load_model
from posetraj_jax.sampling.settings import FITS, Settings

NO_CACHE = "off"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "posetraj_jax/compiled"


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that `load` reads."""
    add = parser.add_argument
    add("--weights", default="", help=f"folder of converted weights, or {TINY} (those of the run)")
    add("--controlnet", default="", help="run, checkpoint or converted ControlNet (in --weights)")
    add("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="(%(default)s)")
    add("--fsdp", type=int, default=1, help="devices that share one copy of the weights (1)")
    add("--compilation_cache", default=str(CACHE), help=f"folder, or {NO_CACHE} (%(default)s)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Settings."""
    default = Settings()
    for field in fields(Settings):
        value = getattr(default, field.name)
        choices = FITS if field.name == "fit" else None
        parser.add_argument(
            f"--{field.name}",
            type=type(value),
            default=value,
            choices=choices,
            help="(%(default)s)",
        )


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
