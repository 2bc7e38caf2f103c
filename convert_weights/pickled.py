"""Reads state dicts that torch.save wrote, without PyTorch and without running anything.

PyTorch's own restricted loader is no way out: a few hundred bytes make it fill any memory with an
error message. See `pickle_program` for what is done instead.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from convert_weights.pickle_program import (
    TYPES,
    Name,
    PickledTensor,
    Storage,
    follow,
    require,
)
from posetraj_jax.errors import UserError, listed

MOST_PICKLE_BYTES = 4_000_000
"""Of the instructions alone; the numbers lie beside them. 2 000 tensors take 300 kilobytes."""
UNREADABLE = (
    *(ValueError, IndexError, KeyError, struct.error),
    *(OSError, EOFError, RuntimeError, zipfile.BadZipFile),
)
"""What reading a damaged file can end with."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of an entry in a zip file: the signature, and how long its name and its extra field are."""
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""How a file begins that PyTorch wrote before 1.6: two pickles, which are these numbers."""
OLD_COUNT = struct.Struct("<q")
"""Of the numbers of a storage, right before them in such a file."""


def load(file: Path) -> dict[str, PickledTensor]:
    """The tensors of a state dict, by name; none is read.

    Raises:
        UserError: The file is damaged, or holds anything but tensors.
    """
    try:
        with file.open("rb") as opened:
            is_archive = opened.read(2) == b"PK"
        content = _load_archive(file) if is_archive else _load_old(file)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, no dict")
        if others := [f"{n}" for n, t in content.items() if not isinstance(t, PickledTensor)]:
            raise ValueError("not only tensors:" + listed(others))
    except UNREADABLE as error:
        raise UserError(
            f"cannot read {file}",
            expected="a state dict as torch.save writes it: tensors by name and nothing else",
            got=f"{type(error).__name__}: {error}",
            fix="take the safetensors files, or the state dict as it was published; diffusers "
            "saves a model again with save_pretrained(FOLDER, safe_serialization=True)",
        ) from error
    return content


def _load_archive(file: Path) -> Any:
    """What a file holds as PyTorch has written it since 1.6: a zip archive."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any("/code/" in name for name in entries):
            raise ValueError("a TorchScript archive, which is a program (nothing was executed)")
        program, root = _read_program(archive)
        return follow(program, partial(_open_storage, file, entries, root))


def _load_old(file: Path) -> Any:
    """What a file holds as PyTorch wrote it before 1.6: pickles, and then the storages' numbers."""
    with file.open("rb") as opened:
        programs = io.BytesIO(opened.read(MOST_PICKLE_BYTES))
        begins = [follow(programs, _no_storage) for _ in range(2)]
        if begins != [OLD_MAGIC, OLD_PROTOCOL]:
            raise ValueError("neither a zip archive nor an older file of PyTorch")
        if require(follow(programs, _no_storage), dict).get("little_endian") is not True:
            raise ValueError("numbers in another byte order")
        start, found = programs.tell(), {}
        follow(programs, partial(_note_storage, found))
        keys = require(follow(programs, _no_storage), list)
        opened.seek(programs.tell())
        storages = _find_storages(file, opened, [found.pop(require(key, str)) for key in keys])
    if found:
        raise ValueError("tensors without numbers")
    # Only now is it known where the storages are: follow the program once more, with them.
    programs.seek(start)
    return follow(programs, lambda described: storages[described[2]])


def _no_storage(described: Any) -> Any:
    raise ValueError("tensors where none belong")


class _Noted(NamedTuple):
    """A storage of an older file, of which the program does not say where it is."""

    key: str
    kind: str
    size: int


def _note_storage(found: dict[str, _Noted], described: Any) -> Storage:
    """Notes a storage, which is somewhere behind the pickles.

    Args:
        described: ("storage", type, key, device, count, which part of another storage it is).
    """
    what, named, key, _, count, part = require(described, tuple)
    if what != "storage" or type(count) is not int or count < 0 or part is not None:
        raise ValueError("something else than a whole storage")
    noted = _Noted(require(key, str), require(named, Name).name, count)
    if found.setdefault(noted.key, noted) != noted:
        raise ValueError(f"two kinds of storage {key}")
    return Storage(Path(), 0, count, *TYPES[noted.kind])


def _find_storages(file: Path, opened: BinaryIO, noted: Sequence[_Noted]) -> dict[str, Storage]:
    """Where the storages lie: from here on, one behind the other, each after its count."""
    found = {}
    for key, kind, size in noted:
        if OLD_COUNT.unpack(opened.read(OLD_COUNT.size)) != (size,):
            raise ValueError(f"storage {key} has another size than its tensors say")
        found[key] = Storage(file, opened.tell(), size, *TYPES[kind])
        opened.seek(size * found[key].numpy_dtype.itemsize, io.SEEK_CUR)
    if opened.tell() > file.stat().st_size:
        raise ValueError("too few bytes")
    return found


def _read_program(archive: zipfile.ZipFile) -> tuple[BinaryIO, str]:
    """The pickle, and the folder in the archive where it and the numbers are."""
    entries = archive.infolist()
    if packed := [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]:
        raise ValueError("compressed entries:" + listed(packed))
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
        raise ValueError(f"not one data.pkl of at most {MOST_PICKLE_BYTES:,} bytes")
    root = pickles[0].filename.removesuffix("data.pkl")
    if (order := f"{root}byteorder") in archive.namelist():
        with archive.open(order) as opened:
            if opened.read(8) != b"little":
                raise ValueError("numbers in another byte order")
    program = archive.read(pickles[0])
    return io.BytesIO(program), root


def _open_storage(
    file: Path, entries: Mapping[str, zipfile.ZipInfo], root: str, described: Any
) -> Storage:
    """Finds the numbers of a storage in the file.

    Args:
        described: ("storage", type, name of its entry, device, count).
    """
    kind, named, key, _, count = require(described, tuple)
    dtype, numpy_dtype = TYPES[require(named, Name).name]
    if kind != "storage" or type(count) is not int:
        raise ValueError("something else than a storage")
    entry = entries[f"{root}data/{require(key, str)}"]
    if not 0 <= count * numpy_dtype.itemsize <= entry.file_size:
        raise ValueError(f"{entry.filename} has too few bytes")
    with file.open("rb") as opened:
        opened.seek(entry.header_offset)
        signature, *lengths = LOCAL_HEADER.unpack(opened.read(LOCAL_HEADER.size))
    start = entry.header_offset + LOCAL_HEADER.size + sum(lengths)
    if signature != b"PK\3\4" or start + entry.file_size > file.stat().st_size:
        raise ValueError(f"{entry.filename} is not where it should be")
    return Storage(file, start, count, dtype, numpy_dtype)
