"""Files and their indexes: opened whole, in the order of preference, or refused with the reason."""

import json
import os
import struct
import time

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert_weights import tensor_files
from posetraj_jax.errors import UserError
from tests.convert_weights.damage import mutations

SECONDS = 20
INDEX = "model.safetensors.index.json"
KINDS = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def test_the_best_of_several_files_is_found(tmp_path):
    names = (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.bin.index.json",
        "diffusion_pytorch_model.fp16.bin",
        "diffusion_pytorch_model.bin.index.fp16.json",
    )
    for name in names:
        (tmp_path / name).touch()
    for name in names:
        assert tensor_files.find(tmp_path, "diffusion_pytorch_model") == tmp_path / name
        (tmp_path / name).unlink()
    assert tensor_files.find(tmp_path, "diffusion_pytorch_model") is None


def test_transformers_call_their_pickles_otherwise(tmp_path):
    assert tensor_files.layout("model")[0] == "model.safetensors"
    (tmp_path / "pytorch_model.bin").touch()
    assert tensor_files.find(tmp_path, "model") == tmp_path / "pytorch_model.bin"


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_every_type_of_weight_is_read(tmp_path, suffix):
    wide = torch.arange(24.0).reshape(2, 3, 4) / 7
    state = {name: wide.to(kind) for name, kind in KINDS.items()} | {"I64": wide.long()}
    save = save_file if suffix == "safetensors" else torch.save
    save(state, tmp_path / f"a.{suffix}")
    opened = tensor_files.open_tensors(tmp_path / f"a.{suffix}")
    assert opened.keys() == state.keys()
    for name, tensor in opened.items():
        array = np.asarray(tensor)
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, name, (2, 3, 4)), name
        assert array.dtype == (ml_dtypes.bfloat16 if name == "BF16" else state[name].numpy().dtype)
        assert tensor.nbytes == (array.nbytes if name in KINDS else 0)
        np.testing.assert_array_equal(array.astype(np.float64), state[name].double().numpy())


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        tensor_files.open_tensors(path)
    return str(caught.value)


def write_header(path, header, num_bytes):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(num_bytes))


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LIES = {
    "more than the file has": ({"a": entry([10**12], 0, 4 * 10**12)}, 8),
    "more than the offsets say": ({"a": entry([3], 0, 8)}, 8),
    "more than 64 bits can count": ({"a": entry([2**62, 16], 0, 8)}, 8),
    "negative": ({"a": entry([-2], 0, 8)}, 8),
    "bytes used twice": ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8),
    "bytes used by nobody": ({"a": entry([1], 0, 4)}, 8),
    "begins late": ({"a": entry([1], 4, 8)}, 8),
    "ends before it begins": ({"a": entry([1], 8, 4)}, 8),
    "unknown type": ({"a": entry([2], 0, 8, "F33")}, 8),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "no object": ([1, 2], 8),
    "deep": (b"[" * 10**5, 8),
    "no JSON": (b"{", 8),
}


@pytest.mark.parametrize("name", LIES)
def test_headers_that_lie_are_refused(tmp_path, name):
    write_header(tmp_path / "a.safetensors", *LIES[name])
    message = refused(tmp_path / "a.safetensors")
    assert str(tmp_path / "a.safetensors") in message
    assert "SafetensorError" in message


@pytest.mark.parametrize("length", [0, 7, 100, 10**8, 2**63])
def test_headers_of_another_length_are_refused(tmp_path, length):
    write_header(tmp_path / "a.safetensors", {"a": entry([2], 0, 8)}, 8)
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", length))
    assert "SafetensorError" in refused(tmp_path / "a.safetensors")


@pytest.fixture
def shards(tmp_path):
    """Two shards and their index, as transformers and diffusers write them."""
    places = {}
    for number, names in enumerate(("ab", "c")):
        file = f"model-{number}.safetensors"
        save_file({name: torch.full((2,), float(ord(name))) for name in names}, tmp_path / file)
        places |= dict.fromkeys(names, file)
    notes = {"total_size": 24, "note": "." * 300}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": notes, "weight_map": places}))
    return tmp_path / INDEX


def rewrite(index, places):
    index.write_text(json.dumps({"weight_map": places}))


def test_shards_are_one_checkpoint(shards):
    opened = tensor_files.open_tensors(shards)
    assert {name: float(np.asarray(t)[0]) for name, t in opened.items()} == dict(
        zip("abc", map(float, b"abc"), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"c": "model-0.safetensors"}, "c in model-0.safetensors"),
        ({"d": "model-0.safetensors"}, "d in model-0.safetensors"),
        ({"c": "model-2.safetensors"}, "no such file"),
        ({"c": "x" * 5000}, "no such file"),
        ({"c": "a\0b"}, "no such file"),
        ({"c": "\ud800"}, "no such file"),
        ({"c": "folder"}, "something else"),
        ({"c": "pipe"}, "something else"),
        *(({"c": name}, "same folder") for name in ("../a", "/a", "a/b", "", ".", "..", 7, ["a"])),
    ],
)
def test_indexes_that_do_not_fit_are_refused(shards, change, words):
    (shards.parent / "folder").mkdir()
    os.mkfifo(shards.parent / "pipe")
    rewrite(shards, json.loads(shards.read_text())["weight_map"] | change)
    assert words in refused(shards)


def test_a_tensor_that_the_index_leaves_out_is_named(shards):
    rewrite(shards, {"a": "model-0.safetensors", "c": "model-1.safetensors"})
    assert "b in model-0.safetensors" in refused(shards)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": []}', "{}", "[" * 10**5, "\0"])
def test_an_index_that_is_none_is_refused(shards, text):
    shards.write_text(text)
    assert str(shards) in refused(shards)


def outcome(path):
    try:
        for tensor in tensor_files.open_tensors(path).values():
            if tensor.dtype in tensor_files.DTYPES:
                np.asarray(tensor)
    except UserError:
        return "refused"
    return "read"


@pytest.mark.parametrize("kind", ["file", "index"])
def test_damaged_files_are_read_or_refused(shards, kind):
    path = shards if kind == "index" else shards.with_name("model-0.safetensors")
    start = time.monotonic()
    outcomes = []
    for content in mutations(path.read_bytes(), 300, seed=2):
        path.write_bytes(content)
        outcomes.append(outcome(path))
    assert min(outcomes.count("read"), outcomes.count("refused")) > 3
    assert time.monotonic() - start < SECONDS
