"""Published folders, checked as a whole before anything is read or written."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from numpy.typing import ArrayLike

from convert_weights import mapping, tensor_files
from convert_weights.components import COMPONENTS, OURS, read_config
from convert_weights.names import is_buffer
from convert_weights.tensor_files import DTYPES, StoredTensor
from posetraj_jax import json_file, tree, weights
from posetraj_jax.errors import UserError, listed
from posetraj_jax.nn.build import Network, build

MOST_LISTED = 40


class Source(NamedTuple):
    """A component whose tensors are known to fill our network exactly."""

    name: str
    network: Network
    config: dict[str, Any]
    """Its config.json, with our own fields added."""
    tensors: dict[str, StoredTensor]
    file: Path

    def leaves(self, dtype: Any, on_read: Callable[[int], Any] = lambda num_bytes: None) -> Any:
        """Our parameters in `dtype`, each made when it is asked for.

        Args:
            on_read: Told the bytes of each source tensor once it has been read.
        """
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), self.network.abstract()
        )
        state = {name: watched(tensor, on_read) for name, tensor in self.tensors.items()}
        return mapping.leaves_from_torch(state, abstract, COMPONENTS[self.name].key)

    @property
    def num_bytes(self) -> int:
        """Bytes that `leaves` reads in all."""
        used = mapping.torch_shapes(self.network.abstract(), COMPONENTS[self.name].key)
        return sum(self.tensors[name].nbytes for name in used)

    def state_dict(self) -> dict[str, ArrayLike]:
        """What PyTorch's class loads: all tensors, no buffers, neutral values for absent ones."""
        key = COMPONENTS[self.name].key
        kept = {n: tensor for n, tensor in self.tensors.items() if not is_buffer(n, key)}
        return mapping.neutral(self.network.abstract(), key) | kept

    def inert(self, params: tree.Tree, component: str) -> dict[str, StoredTensor]:
        """The tensors that `component` with these parameters leaves out, from this component.

        Raises:
            UserError: They are not here, or have another shape.
        """
        wanted = mapping.inert_shapes(params, component)
        wrong = [
            f"{name}: expected {shape}, got {getattr(self.tensors.get(name), 'shape', 'nothing')}"
            for name, shape in wanted.items()
            if name not in self.tensors or self.tensors[name].shape != shape
        ]
        if wrong:
            raise UserError(
                f"{self.file} is not the model these parameters come from",
                expected="the tensors that cannot influence any output and were left out here",
                got=listed(wrong, MOST_LISTED),
                fix="give the folder of the Stable Video Diffusion that was converted",
            )
        return {name: self.tensors[name] for name in wanted}


def open_component(
    folder: Path, name: str, fix: str, ours: Callable[..., dict[str, Any]] | None = None
) -> Source:
    """Opens one component without reading a tensor.

    Args:
        folder: With its config.json and its tensors.
        name: In `COMPONENTS`.
        fix: What to do about a folder that is something else.
        ours: (config.json, tensor names) → fields of our configuration that config.json lacks.

    Raises:
        UserError: The config describes a network we do not have; a file is missing or damaged;
            tensors are missing, unknown, of another shape or not floating. All are listed.
    """
    component, file = COMPONENTS[name], tensor_files.find(folder, COMPONENTS[name].file)
    path = folder / weights.CONFIG
    missing = [] if path.is_file() else [f"no {weights.CONFIG}"]
    missing += [] if file else ["no tensors"]
    if missing:
        raise UserError(
            f"{folder} cannot be converted",
            expected=f"{weights.CONFIG} and {component.file}.safetensors, whole or in shards with "
            "their index, or the fp16 variant, or .bin",
            got=("a folder" if folder.is_dir() else "no such folder") + listed(missing),
            fix=fix,
        )
    given = json_file.read_object(path, fix)
    tensors = tensor_files.open_tensors(file)
    config, problems = read_config(given, component, ours(given, tensors) if ours else {})
    if problems:
        expected = "the architecture of Stable Video Diffusion, at any size"
        raise _unfit(path, problems, expected, fix)
    network = build(component.module_cls, config)
    if problems := _tensor_problems(tensors, network, component.key):
        expected = f"the tensors of its {weights.CONFIG}, and no other"
        raise _unfit(file, problems, expected, fix)
    own = {field: getattr(config, field) for field in OURS if hasattr(config, field)}
    return Source(name, network, given | own, tensors, file)


def copy_settings(src: Path, dst: Path, name: str) -> None:
    """Copies the config, beside its folder, without which the component cannot be used."""
    if relative := COMPONENTS[name].settings:
        (dst / relative).parent.mkdir()
        shutil.copyfile(src / relative, dst / relative)


def _tensor_problems(
    tensors: Mapping[str, StoredTensor], network: Network, component: str
) -> list[str]:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    abstract = network.abstract()
    problems = mapping.misfits(shapes, abstract, component)
    used = [tensors[n] for n in mapping.torch_shapes(abstract, component) if n in tensors]
    return problems + [
        f"wrong type: {tensor.name}: {tensor.dtype}, not one of {', '.join(DTYPES)}"
        for tensor in used
        if tensor.dtype not in DTYPES
    ]


def watched(tensor: StoredTensor, on_read: Callable[[int], Any]) -> StoredTensor:
    """The tensor, which tells `on_read` its bytes once it has been read."""

    def read():
        array = tensor.read()
        on_read(tensor.nbytes)
        return array

    return tensor._replace(read=read)


def _unfit(path: Path, problems: Sequence[str], expected: str, fix: str) -> UserError:
    got = listed(problems, MOST_LISTED)
    return UserError(f"cannot convert {path}", expected=expected, got=got, fix=fix)
