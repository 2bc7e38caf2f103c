"""Files of torch.save: tensors are read exactly, everything else is refused and never run."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from convert_weights import pickled
from posetraj_jax.errors import UserError
from tests.convert_weights.damage import mutations

ROOT = Path(__file__).parents[2]
MEMORY, SECONDS = 1 << 30, 20
LOAD = f"""
import json, resource, sys, time
from pathlib import Path
from convert_weights import pickled
from posetraj_jax.errors import UserError

resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
answers = {{}}
for file in sys.argv[1:]:
    try:
        answers[file] = f"read: {{list(pickled.load(Path(file)))}}"
    except UserError as error:
        answers[file] = str(error)
print(json.dumps(answers | {{"torch": "torch" in sys.modules}}))
"""


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def storage(count, key="0", kind="Float"):
    """Instructions that ask for a storage of `count` numbers."""
    number = b"\x8a\x08" + struct.pack("<q", count)
    names = b"ctorch\n%sStorage\n" % kind.encode() + text(key) + text("cpu")
    return b"(" + text("storage") + names + number + b"tQ"


def tensor(inside, shape=b"K\x01\x85", strides=b"K\x01\x85"):
    """Instructions that make a tensor of the storage that `inside` puts on the stack."""
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + inside
        + b"K\x00"
        + shape
        + strides
        + (b"\x89" + hooks + b"tR")
    )


def state(value):
    """The program of a dict with one entry."""
    return b"\x80\x02}" + text("a") + value + b"s."


def nested(make, levels):
    """Makes, level by level, something that holds the one before twice: 2 ** levels in print."""
    steps = (make(b"h" + bytes([n])) + b"q" + bytes([n + 1]) for n in range(levels))
    return b"\x80\x02Nq\x00" + b"".join(steps)


def tuple_of_two(last):
    return last + last + b"\x86"


def dict_of_two(last):
    return b"}" + text("a") + last + b"s" + text("b") + last + b"s"


def reduced(function, *arguments, protocol=2):
    class Evil:
        def __reduce__(self):
            return function, arguments

    return pickle.dumps({"a": Evil()}, protocol)


def archive(program, compression=zipfile.ZIP_STORED, **entries):
    """A file as torch.save writes it, around a program of our own."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as opened:
        for name, data in {"data.pkl": program, "data/0": bytes(64), **entries}.items():
            opened.writestr(f"archive/{name}", data)
    return content.getvalue()


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def two_programs():
    return archive(state(b"N"), **{"more/data.pkl": state(b"N")})


def longer(content, num_bytes):
    """The file with the first entry of its directory that long."""
    place = content.index(b"PK\1\2") + 20
    return content[:place] + struct.pack("<II", num_bytes, num_bytes) + content[place + 8 :]


def moved(content, start):
    """The file with the first entry of its directory said to be there."""
    place = content.index(b"PK\1\2")
    name_length, extra_length = struct.unpack_from("<HH", content, place + 28)
    head = bytearray(content[place : place + 46 + name_length])
    assert extra_length == 0
    head[30:32], head[42:46] = struct.pack("<H", 12), b"\xff" * 4
    extra = struct.pack("<HHQ", 1, 8, start)
    content = content[:place] + bytes(head) + extra + content[place + len(head) :]
    end = content.rindex(b"PK\5\6")
    size = struct.unpack_from("<I", content, end + 12)[0] + len(extra)
    return content[: end + 12] + struct.pack("<I", size) + content[end + 16 :]


OLD = {"_use_new_zipfile_serialization": False}


def old_storage(count, kind="Float", part=b"N"):
    """As `storage`, in a file from before PyTorch 1.6."""
    return storage(count, kind=kind).removesuffix(b"tQ") + part + b"tQ"


def ordered(pairs):
    """An OrderedDict as Python 2 wrote it: made of a list of lists."""
    return b"\x80\x02ccollections\nOrderedDict\n]" + pairs + b"a\x85R."


def older(program, keys=("0",), numbers=None, little_endian=True, first=None):
    """A file as torch.save wrote it before 1.6, around a program of our own."""
    start = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian}
    head = [pickle.dumps(part, 2) for part in start]
    numbers = struct.pack("<qff", 2, 0.5, -1.0) if numbers is None else numbers
    return b"".join([first or head[0], *head[1:], program, pickle.dumps(list(keys), 2), numbers])


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


COMMAND = "touch EXECUTED"
REFUSED = {
    "os.system": (archive(reduced(os.system, COMMAND)), "posix.system"),
    "eval": (archive(reduced(eval, f"__import__('os').system({COMMAND!r})")), "eval"),
    "GLOBAL in text": (
        archive(b"cposix\nsystem\n(V" + COMMAND.encode() + b"\ntR."),
        "posix.system",
    ),
    "INST": (archive(b"(" + text(COMMAND) + b"iposix\nsystem\n."), "INST"),
    "STACK_GLOBAL": (
        archive(b"\x80\x04" + text("posix") + text("system") + b"\x93(" + text(COMMAND) + b"tR."),
        "STACK_GLOBAL",
    ),
    "protocol 4": (archive(reduced(os.system, COMMAND, protocol=4)), "FRAME"),
    "object built anew": (
        archive(b"\x80\x02cposix\nsystem\n(" + text(COMMAND) + b"t\x81."),
        "posix",
    ),
    "bytearray bomb": (archive(reduced(bytearray, 10**12)), "bytearray"),
    "BYTEARRAY8": (archive(b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b"."), "10000000000"),
    "LONG4": (archive(state(b"\x8b" + struct.pack("<i", 8) + bytes(8))), "LONG4"),
    "storage called": (
        archive(state(b"ctorch\nFloatStorage\n\x8a\x06" + bytes(5) + b"\x10\x85R")),
        "torch.FloatStorage of 1 arguments",
    ),
    "tensor called": (archive(state(b"(" + storage(16)[1:] + b")R")), "name should be"),
    "storage of terabytes": (archive(state(tensor(storage(10**12)))), "too few bytes"),
    "storage below zero": (archive(state(tensor(storage(-1)))), "too few bytes"),
    "no such storage": (archive(state(tensor(storage(1, key="1")))), "archive/data/1"),
    "storage of another kind": (archive(state(tensor(storage(1, kind="Bool")))), "BoolStorage"),
    "tensor beyond": (archive(state(tensor(storage(16), b"K\x11\x85"))), "beyond its storage"),
    "tensor with far steps": (
        archive(state(tensor(storage(16), b"K\x02\x85", b"K\x10\x85"))),
        "beyond its storage",
    ),
    "negative shape": (archive(state(tensor(storage(16), b"J\xff\xff\xff\xff\x85"))), "sensible"),
    "shape of text": (archive(state(tensor(storage(16), text("a") + b"\x85"))), "sensible shape"),
    "no storage": (archive(state(tensor(b"N"))), "storage should be"),
    "nested dicts called": (archive(nested(dict_of_two, 60) + b")R."), "a dict where a name"),
    "nested tuples as a name": (
        archive(nested(tuple_of_two, 60) + b"}h\x3cNs."),
        "a tuple where a str should be",
    ),
    "nested tuples": (
        archive(nested(tuple_of_two, 60) + b"}" + text("a") + b"h\x3cs."),
        "tensors:",
    ),
    "compressed": (archive(state(b"N"), zipfile.ZIP_DEFLATED), "compressed entries"),
    "zip bomb": (archive(bytes(10**8), zipfile.ZIP_DEFLATED), "compressed entries"),
    "long program": (archive(bytes(5 * 10**6)), "of at most 4,000,000 bytes"),
    "endless program": (archive(b"\x80\x02" + b"}" * 3_900_000), "exhausted before seeing STOP"),
    "two programs": (two_programs(), "not one data.pkl"),
    "no program": (archive(b"")[:0] + archive(b"N.").replace(b"data.pkl", b"data.txt"), "data.pkl"),
    "empty program": (archive(b"\x80\x02."), "IndexError"),
    "entry beyond the end": (longer(archive(state(b"N")), 10**6), "EOFError"),
    "entry far away": (moved(archive(state(b"N")), 2**63 - 1), "OSError"),
    "entry farther than can be said": (moved(archive(state(b"N")), 2**64 - 1), "offset"),
    "big-endian": (archive(state(tensor(storage(1))), byteorder=b"big"), "byte order"),
    "TorchScript": (scripted(), "TorchScript"),
    "truncated": (saved({"a": torch.ones(2)})[:-30], "not a zip file"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "opcode"),
    "empty": (b"", "before seeing STOP"),
    "old, os.system": (older(reduced(os.system, COMMAND)), "posix.system"),
    "old, first os.system": (reduced(os.system, COMMAND), "posix.system"),
    "old, no storages": (older(state(tensor(old_storage(2))), keys=[]), "without numbers"),
    "old, others": (older(state(tensor(old_storage(2))), keys=["0", "1"]), "KeyError: '1'"),
    "old, twice": (older(state(tensor(old_storage(2))), keys=["0", "0"]), "KeyError: '0'"),
    "old, keys of numbers": (older(state(tensor(old_storage(2))), keys=[0]), "a int where"),
    "old, other count": (older(state(tensor(old_storage(3)))), "another size"),
    "old, terabytes": (
        older(state(tensor(old_storage(10**12))), numbers=struct.pack("<q", 10**12)),
        "too few bytes",
    ),
    "old, below zero": (
        older(state(tensor(old_storage(-2))), numbers=struct.pack("<q", -2)),
        "a whole storage",
    ),
    "old, two kinds": (
        older(
            b"\x80\x02}"
            + (text("a") + tensor(old_storage(2)) + b"s")
            + (text("b") + tensor(old_storage(2, kind="Int")) + b"s.")
        ),
        "two kinds of storage 0",
    ),
    "old, part of another": (
        older(state(tensor(old_storage(2, part=b"K\x01")))),
        "a whole storage",
    ),
    "old, big-endian": (older(state(b"N"), little_endian=False), "byte order"),
    "old, tensor in front": (older(state(b"N"), first=state(tensor(old_storage(1)))), "where none"),
    "old, pairs of three": (older(ordered(b"(" + text("a") + b"NNt")), "a tuple where a list"),
    "old, pairs by number": (older(ordered(b"(lq\x01K\x01aNa")), "LIST"),
    "old, cut": (saved({"a": torch.ones(9)}, **OLD)[:-8], "too few bytes"),
    "old, training state": (saved({"a": torch.ones(2), "step": 3}, **OLD), "step"),
    "list": (saved([torch.ones(2)]), "a list"),
    "tensor": (saved(torch.ones(2)), "a PickledTensor"),
    "model": (saved(nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "training state": (saved({"state_dict": {"a": torch.ones(2)}, "betas": [0.9, 1]}), "betas"),
    "dict by number": (saved({1: torch.ones(2)}), "a int where a str should be"),
    "numbers": (saved({"a": torch.ones(2), "step": 3}), "step"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What one process, with little memory and time, says to every file of `REFUSED`."""
    folder = tmp_path_factory.mktemp("refused")
    files = {name: folder / f"{number}.bin" for number, name in enumerate(REFUSED)}
    for name, file in files.items():
        file.write_bytes(REFUSED[name][0])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, files.values())],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    given = json.loads(done.stdout)
    assert not (folder / "EXECUTED").exists()
    assert given.pop("torch") is False
    return {name: given[str(file)] for name, file in files.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dict_of_tensors_is_refused(answers, name):
    assert "cannot read" in answers[name]
    assert REFUSED[name][1] in answers[name]
    assert len(answers[name]) < 1000


def test_the_evil_files_would_be_executed_by_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(io.BytesIO(REFUSED["os.system"][0])) as opened:
        pickle.loads(opened.read("archive/data.pkl"))
    assert (tmp_path / "EXECUTED").exists()


def tensors():
    wide = torch.arange(24.0).reshape(4, 6)
    return {
        "float64": wide.double() / 7,
        "float32": wide / 7,
        "float16": wide.half() / 7,
        "bfloat16": wide.bfloat16() / 7,
        "int64": wide.long(),
        "int8": wide.char() - 12,
        "transposed": wide.T,
        "part": wide[1:3, ::2],
        "bfloat16 part": (wide.bfloat16() / 7).T[1:],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(wide),
        "ä" * 300: wide,
    }


both_formats = pytest.mark.parametrize("options", [{}, OLD], ids=["new", "before 1.6"])


@both_formats
def test_tensors_are_what_torch_saved(tmp_path, options):
    torch.save(tensors(), tmp_path / "a.bin", **options)
    loaded = pickled.load(tmp_path / "a.bin")
    assert list(loaded) == list(tensors())
    for name, expected in tensors().items():
        array = loaded[name].read()
        assert loaded[name].shape == array.shape == tuple(expected.shape)
        assert array.dtype == {"bfloat16": ml_dtypes.bfloat16}.get(
            str(expected.dtype).removeprefix("torch."), str(expected.dtype).removeprefix("torch.")
        )
        np.testing.assert_array_equal(array.astype(np.float64), expected.detach().double().numpy())


@both_formats
def test_state_dicts_with_notes_and_tied_weights_are_read(tmp_path, options):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[1].weight = module[0].weight
    torch.save(module.state_dict(), tmp_path / "a.bin", **options)
    loaded = pickled.load(tmp_path / "a.bin")
    assert list(loaded) == list(module.state_dict())
    for name, expected in module.state_dict().items():
        np.testing.assert_array_equal(loaded[name].read(), expected.numpy(), err_msg=name)


def test_a_file_of_2017_is_read(tmp_path):
    """Written by Python 2: byte strings, pairs, and tensors made of four arguments."""
    short = lambda string: b"U" + bytes([len(string)]) + string.encode()  # noqa: E731
    of_2017 = (
        b"ctorch._utils\n_rebuild_tensor\n("
        + old_storage(2).replace(text("storage"), short("storage")).replace(text("0"), short("0"))
        + b"K\x00K\x02\x85K\x01\x85tR"
    )
    program = ordered(b"]" + short("a.weight") + b"a" + of_2017 + b"a")
    (tmp_path / "a.pt").write_bytes(older(program))
    loaded = pickled.load(tmp_path / "a.pt")
    np.testing.assert_array_equal(loaded["a.weight"].read(), np.float32([0.5, -1.0]))


def test_opening_reads_no_numbers_however_many_are_claimed(tmp_path):
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "a.bin")
    (expanded,) = pickled.load(tmp_path / "a.bin").values()
    assert expanded.shape == (10**6, 10**6)


def test_a_file_cut_after_it_was_opened_is_no_memory_error(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.bin")
    (opened,) = pickled.load(tmp_path / "a.bin").values()
    os.truncate(tmp_path / "a.bin", 2000)
    with pytest.raises(OSError, match="cut while it was read"):
        opened.read()


def small(**options):
    """A file whose program has every instruction that a state dict may have."""
    return saved(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict(), **options)


def damaged_programs(count):
    with zipfile.ZipFile(io.BytesIO(small())) as opened:
        entries = {name.split("/", 1)[1]: opened.read(name) for name in opened.namelist()}
    for program in mutations(entries.pop("data.pkl"), count, seed=1):
        yield archive(program, **entries)


@pytest.mark.parametrize("kind", ["file", "old file", "program"])
def test_damaged_files_are_read_or_refused(tmp_path, kind):
    file, outcomes, start = tmp_path / "a.bin", {"read": 0, "refused": 0}, time.monotonic()
    options = OLD if kind == "old file" else {}
    files = mutations(small(**options), 300, seed=0)
    for content in damaged_programs(300) if kind == "program" else files:
        file.write_bytes(content)
        try:
            [tensor.read() for tensor in pickled.load(file).values()]
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 3, outcomes
    assert time.monotonic() - start < SECONDS
