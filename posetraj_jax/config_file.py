"""Finds a config file, applies variants and the command line's overrides, and validates.

    load("configs/stage1.py:tiny,official", {"optim.lr": "3e-4"})

Own code and not ml_collections' flags, because a config must also load in a notebook and every
mistake must end in one clear message.
"""

import argparse
import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from posetraj_jax.config import default, flatten, suggestion
from posetraj_jax.config_rules import validate
from posetraj_jax.errors import UserError, listed

PACKAGE = Path(__file__).resolve().parent
FOLDER = next(f for f in (PACKAGE / "configs", PACKAGE.parent / "configs") if f.is_dir())
"""The configs inside an installed package, or those of the checkout."""


def load(spec: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """Resolves `configs/stage1.py:tiny,official` plus dotted overrides into a validated config.

    Args:
      spec: a path or bare name of a config file, then optionally `:` and comma-separated variants.
        Relative paths are tried from the working directory, then from the package's configs.
      overrides: dotted field → text, as given on the command line (`{"optim.lr": "3e-4"}`).

    Raises:
      UserError: no such file, variant or field, a value of the wrong type, or an invalid config.
    """
    path, _, variants = spec.partition(":")
    c = _get_config(_find_file(path), variants)
    for field, text in (overrides or {}).items():
        _override(c, field, text)
    validate(c)
    return c


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parses a command line with `--config FILE[:variants] [--config.field=value …]`.

    Args:
      parser: of the command's other arguments.

    Returns:
      The arguments, `config` among them, and the overrides for `load`.
    """
    parser.add_argument("--config", required=True, help="config file, then optionally :variants")
    known, rest = parser.parse_known_args(arguments)
    overrides = {}
    while rest:
        name, has_value, value = rest.pop(0).partition("=")
        if not name.startswith("--config.") or not (has_value or rest):
            parser.error(f"unknown or incomplete argument {name!r}")
        overrides[name.removeprefix("--config.")] = value if has_value else rest.pop(0)
    return known, overrides


def name_of(spec: str) -> str:
    """The run's name: `configs/stage1.py:tiny,official` → `stage1-tiny-official`."""
    path, _, variants = spec.partition(":")
    return "-".join([Path(path).stem, *(variants.split(",") if variants else ["svd"])])


def as_given(spec: str, overrides: Mapping[str, str]) -> str:
    """A config as people write it: `configs/stage1.py:tiny seed=3`."""
    return " ".join([spec, *(f"{name}={text}" for name, text in overrides.items())])


def _find_file(path: str) -> Path:
    """A file at that path; else, for a bare name or configs/NAME, the package's own."""
    file = Path(path if path.endswith(".py") else f"{path}.py").expanduser()
    if file.is_file():
        return file
    if file.parent in (Path(), Path("configs")) and (FOLDER / file.name).is_file():
        return FOLDER / file.name
    known = sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
    raise UserError(
        f"there is no config file {path!r}",
        expected="a path, or one of " + ", ".join(f"configs/{name}.py" for name in known),
        got=path,
        fix=suggestion(file.stem, known, "configs/{}.py"),
    )


def _get_config(path: Path, variants: str) -> ConfigDict:
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        c = module.get_config(variants) if variants else module.get_config()
        if not isinstance(c, ConfigDict):
            raise TypeError(f"get_config returned a {type(c).__name__}")
    except UserError:
        raise
    except Exception as error:  # whatever a user's own file may raise
        raise _broken_file(path, f"{type(error).__name__}: {error}") from error
    unlike = sorted(set(flatten(c)) ^ set(flatten(default())))
    if unlike:
        raise _broken_file(path, "missing or unknown fields:" + listed(unlike))
    return c


def _broken_file(path: Path, got: str) -> UserError:
    return UserError(
        f"the config file {path} cannot be used",
        expected="get_config(variant), which returns posetraj_jax.config.default(), changed",
        got=got,
        fix="see configs/stage1.py for the form",
    )


def _override(c: ConfigDict, field: str, text: str) -> None:
    flat = flatten(c)
    if field not in flat:
        raise UserError(
            f"there is no config field {field!r}",
            expected="a field of posetraj_jax/config.py",
            got=f"--config.{field}={text}",
            fix=suggestion(field, list(flat), "--config.{}"),
        )
    *sections, name = field.split(".")
    for section in sections:
        c = c[section]
    c[name] = _parse(field, text, c[name])


def _parse(field: str, text: str, current: Any) -> Any:
    """Reads `text` as a value of the type that the field has now."""
    kind = type(current)
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is tuple:
            parts = [part.strip("' \"") for part in text.strip("()[] ").split(",")]
            kinds = current or ("",)
            return tuple(type(kinds[0])(part) for part in parts if part)
        return kind(ast.literal_eval(text)) if kind is float else int(text)
    except (ValueError, KeyError, SyntaxError, TypeError):
        raise UserError(
            f"config field {field!r} cannot take this value",
            expected=f"{kind.__name__}, such as {current!r}",
            got=text,
            fix=f"give a value of that type, as in --config.{field}={current}",
        ) from None
