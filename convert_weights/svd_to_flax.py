"""Converts Stable Video Diffusion: `python -m convert_weights.svd_to_flax SRC DST`.

SRC is a folder in the layout diffusers publishes and reads; DST becomes the weights folder that
training and sampling load (see `posetraj_jax.weights`). Whatever can be wrong with SRC is found
from its configs and the headers of its files, before anything is read or written.
"""

import argparse
import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from convert_weights import mapping
from posetraj_jax import weights
from posetraj_jax.errors import UserError, listed, run
from posetraj_jax.models.clip import CLIPVision, CLIPVisionConfig
from posetraj_jax.models.unet import UNet, UNetConfig
from posetraj_jax.models.vae import VAE, VAEConfig
from posetraj_jax.nn.build import Network, build

LAYOUT = tuple(
    name
    for variant in ("", ".fp16")
    for stem in ("diffusion_pytorch_model", "model")
    for name in (f"{stem}{variant}.safetensors", f"{stem}.safetensors.index{variant}.json")
)
"""Files that hold, or index, a component's tensors; the first that exists is read."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
FLOATING = ("F64", "F32", "F16", "BF16")
DOWNLOAD = (
    "download stabilityai/stable-video-diffusion-img2vid (or …-xt) from Hugging Face as it is"
)
UNPICKLE = (
    "save pickled tensors as safetensors first: load the folder with diffusers, then call "
    "save_pretrained(FOLDER, safe_serialization=True)"
)
OURS = {"temporal_context"}
"""Fields of our configurations that no published config has."""


class Component(NamedTuple):
    """How one folder of SRC is understood."""

    key: str
    """Its name in `convert_weights.mapping`."""
    config_cls: type
    module_cls: type
    fixed: Callable[[Any], dict[str, Any]]
    """Fields of the source's config that our network, of this configuration, has built in."""
    harmless: str
    """Pattern of further fields, which change no number; any other is refused."""


def _unet_blocks(config: UNetConfig) -> dict[str, Any]:
    attending = config.num_levels - 1
    return {
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * attending
        + ["DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal"]
        + ["CrossAttnUpBlockSpatioTemporal"] * attending,
    }


def _vae_blocks(config: VAEConfig) -> dict[str, Any]:
    return {"down_block_types": ["DownEncoderBlock2D"] * len(config.block_out_channels)}


def _clip_layers(config: CLIPVisionConfig) -> dict[str, Any]:
    return {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_channels": 3}


COMPONENTS = {
    "unet": Component("unet", UNetConfig, UNet, _unet_blocks, r"_|sample_size$"),
    "vae": Component("vae", VAEConfig, VAE, _vae_blocks, r"_|sample_size$|force_upcast$"),
    # transformers saves, version by version, more fields that are no architecture: all may pass.
    "image_encoder": Component("clip", CLIPVisionConfig, CLIPVision, _clip_layers, r""),
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open safetensors file; its numbers are read when numpy asks for them."""

    file: Any
    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it: F32, F16, …"""
    on_read: Callable[[], Any] = lambda: None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.on_read()
        return np.asarray(self.file.get_tensor(self.name), dtype)


class Source(NamedTuple):
    """A component whose tensors are known to fill our network."""

    name: str
    network: Network
    tensors: dict[str, StoredTensor]

    def read(self, dtype: Any) -> dict[str, Any]:
        """Our parameters in `dtype`, with a progress bar."""
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), self.network.abstract()
        )
        total = len(jax.tree.leaves(abstract))
        with tqdm(total=total, desc=self.name, unit="tensor", dynamic_ncols=True) as bar:
            state = {
                name: dataclasses.replace(tensor, on_read=bar.update)
                for name, tensor in self.tensors.items()
            }
            return mapping.from_torch(state, abstract, COMPONENTS[self.name].key)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, converts, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m convert_weights.svd_to_flax",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "src", metavar="SRC", type=Path, help="folder with " + ", ".join(COMPONENTS)
    )
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to make")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="float32",
        help="type to store; default: float32, which keeps every source type exactly",
    )
    parser.add_argument("--only", default=",".join(COMPONENTS), help="default: %(default)s")
    options = parser.parse_args(arguments)
    names = _component_names(options.only)
    convert(options.src, options.dst, names, options.dtype)
    print(f"{options.dst}: {', '.join(names)} in {options.dtype}")
    return 0


def convert(src: Path, dst: Path, names: Sequence[str], dtype: Any) -> None:
    """Writes the components `names` of `src` to `dst`, which appears only when it is complete.

    Raises:
        UserError: `dst` exists or cannot be written; or anything `check` refuses.
    """
    dst = dst.absolute()
    if dst.exists():
        raise UserError(
            f"cannot write weights to {dst}",
            expected="a folder that does not exist yet",
            got="something that does",
            fix="choose another folder, or remove this one",
        )
    sources = check(src, names)
    beside = next(parent for parent in dst.parents if parent.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{dst.name}.", dir=beside) as temporary:
            partial = Path(temporary) / dst.name  # not the private folder itself: modes are kept
            for source in sources:
                config = dataclasses.asdict(source.network.config)
                weights.save(source.read(dtype), config, partial / source.name)
            dst.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(dst)
    except OSError as error:
        raise UserError(
            f"cannot write weights to {dst}",
            expected="a place with enough room where you may write",
            got=str(error),
            fix="choose another folder, or make room",
        ) from error


def check(src: Path, names: Sequence[str]) -> list[Source]:
    """Opens the components `names` of `src` without reading a tensor.

    Raises:
        UserError: `src` has another layout; a config describes a network we do not have; a file is
            damaged or pickled; tensors are missing, unknown, of another shape or not floating.
    """
    files = {name: _tensor_file(src / name) for name in names}
    problems, pickled = [], False
    for name, file in files.items():
        if not (src / name / weights.CONFIG).is_file():
            problems.append(f"no {name}/{weights.CONFIG}")
        if file is None:
            pickles = sorted(p.name for p in (src / name).glob("*") if p.suffix in PICKLES)
            problems.append(f"{name}/ holds {pickles[0]}" if pickles else f"no tensors in {name}/")
            pickled |= bool(pickles)
    if problems:
        got = "a folder" if src.is_dir() else "a file" if src.exists() else "nothing there"
        raise UserError(
            f"{src} is not a diffusers folder with safetensors",
            expected=f"{', '.join(f'{name}/' for name in names)} in it, each with {weights.CONFIG} "
            f"and one of {', '.join(LAYOUT)}",
            got=got + listed(problems),
            fix=UNPICKLE if pickled else DOWNLOAD,
        )
    return [_source(src / name, file) for name, file in files.items()]


def _component_names(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in COMPONENTS]:
        raise UserError(
            f"--only {text}: no such component",
            expected=f"some of {','.join(COMPONENTS)}, with commas between",
            got=", ".join(map(repr, unknown)),
            fix="correct the names, or leave --only out to convert all",
        )
    return [name for name in COMPONENTS if name in wanted]


def _tensor_file(folder: Path) -> Path | None:
    return next((folder / name for name in LAYOUT if (folder / name).is_file()), None)


def _source(folder: Path, file: Path) -> Source:
    component = COMPONENTS[folder.name]
    network = build(component.module_cls, _read_config(folder / weights.CONFIG, component))
    tensors = _open_shards(file) if file.suffix == ".json" else _open(file)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        mapping.require_fit(shapes, network.abstract(), component.key)
    except UserError as error:
        what = f"cannot convert {file}: {error.what}"
        raise UserError(what, expected=error.expected, got=error.got, fix=error.fix) from error
    used = [tensors[name] for name in mapping.torch_shapes(network.abstract(), component.key)]
    if others := [f"{t.name}: {t.dtype}" for t in used if t.dtype not in FLOATING]:
        raise _unfit(file, others, f"tensors of the types {', '.join(FLOATING)}")
    return Source(folder.name, network, tensors)


def _read_config(path: Path, component: Component) -> Any:
    """Our configuration of the network that a published config.json describes."""
    given = _read_json(path)
    fields = dataclasses.fields(component.config_cls)
    likes = {field.name: field.default for field in fields if field.name not in OURS}
    if wrong := [
        f"{name}: {given.get(name, 'nothing')!r}, not like {like!r}"
        for name, like in likes.items()
        if not _is_like(given.get(name), like)
    ]:
        raise _unfit(path, wrong, f"all of {', '.join(likes)}")
    values = {name: given[name] for name in likes}
    try:
        config = component.config_cls(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        )
    except ValueError as error:
        raise _unfit(path, [str(error)], "fields that fit each other") from error
    fixed = component.fixed(config)
    wrong = [
        f"{name}: {given.get(name, 'nothing')!r}, not {value!r}"
        for name, value in fixed.items()
        if given.get(name) != value
    ]
    unknown = [name for name in given if name not in values and name not in fixed]
    wrong += [f"{n}: not known here" for n in unknown if not re.match(component.harmless, n)]
    if wrong:
        raise _unfit(path, wrong, "the architecture of Stable Video Diffusion, at any size")
    return config


def _is_like(value: Any, like: Any) -> bool:
    """Whether a JSON value is positive and has the type of a field's default."""
    if isinstance(like, tuple):
        return isinstance(value, list) and value != [] and all(_is_like(v, like[0]) for v in value)
    types = (int, float) if isinstance(like, float) else (int,)
    return type(value) in types and value > 0


def _open(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, memory-mapped; only the header is read."""
    try:
        opened = safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, "a complete safetensors file", error) from error
    slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    return {
        name: StoredTensor(opened, name, tuple(part.get_shape()), part.get_dtype())
        for name, part in slices.items()
    }


def _open_shards(index: Path) -> dict[str, StoredTensor]:
    """The tensors of all files that an index names; it says of each tensor where it is."""
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in places.values()
    ):
        raise _unfit(index, ["others"], "weight_map: tensors and files in the same folder")
    shards = {file: _open(index.with_name(file)) for file in sorted(set(places.values()))}
    found = {(name, file) for file, tensors in shards.items() for name in tensors}
    if wrong := sorted(f"{name} in {file}" for name, file in found ^ set(places.items())):
        raise _unfit(index, wrong, "the tensors of its files, each once; not on one side only")
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _unreadable(path, "a JSON file", error) from error
    if not isinstance(content, dict):
        raise _unfit(path, [type(content).__name__], "a JSON object")
    return content


def _unreadable(path: Path, expected: str, error: Exception) -> UserError:
    fix = "copy or download it again, whole; a git-lfs pointer is only a line of text"
    got = f"{type(error).__name__}: {error}"
    return UserError(f"cannot read {path}", expected=expected, got=got, fix=fix)


def _unfit(path: Path, problems: Sequence[str], expected: str) -> UserError:
    fix = f"use {path.parent} as it was published: {DOWNLOAD}"
    return UserError(f"cannot convert {path}", expected=expected, got=listed(problems), fix=fix)


if __name__ == "__main__":
    run(main)
