"""The file of a clip's latents: exact, read in windows, and never believed when it is damaged."""

import json
import os
import resource
import signal

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from posetraj_jax.data import latent_file
from posetraj_jax.data.latent_file import Contents, EncodedFrames, read, read_contents, write
from posetraj_jax.errors import UserError

BFLOAT16 = ml_dtypes.bfloat16
FRAMES = 5


def encoded(seed: int = 0, num_frames: int = FRAMES) -> EncodedFrames:
    rng = np.random.default_rng(seed)
    return EncodedFrames(
        mean=rng.normal(size=(num_frames, 2, 3, 4)).astype(BFLOAT16),
        logvar=rng.normal(size=(num_frames, 2, 3, 4)).astype(BFLOAT16),
        image_embed=rng.normal(size=(num_frames, 6)).astype(BFLOAT16),
        thumbnail=rng.integers(0, 256, (num_frames, 8, 8, 3), dtype=np.uint8),
    )


BOTH = {"clean": encoded(1), "boxed": encoded(2)}


def assert_same(one: EncodedFrames, other: EncodedFrames) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "clip.safetensors", BOTH)
    return tmp_path / "clip.safetensors"


@pytest.mark.parametrize("kind", ["clean", "boxed"])
@pytest.mark.parametrize(("start", "count"), [(0, FRAMES), (0, 1), (2, 3), (4, 1)])
def test_a_window_comes_back_bit_by_bit(path, kind, start, count):
    window = (array[start : start + count] for array in BOTH[kind])
    assert_same(read(path, kind, start, count), EncodedFrames(*window))
    assert read_contents(path) == Contents(("clean", "boxed"), FRAMES, (16, 24))


def test_equal_numbers_give_equal_bytes_and_nothing_is_left_beside_them(path):
    before = path.read_bytes()
    write(path, BOTH)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_numbers_count_and_not_how_they_lie_in_memory(path):
    backwards = EncodedFrames(*(array[::-1] for array in BOTH["clean"]))
    write(path, {"clean": backwards})
    assert_same(read(path, "clean", 0, FRAMES), backwards)


def test_what_is_not_there_is_refused(path, tmp_path):
    write(tmp_path / "clean.safetensors", {"clean": encoded()})
    with pytest.raises(UserError, match=r"boxed frames 0 to 1\n.*clean frames 0 to 4"):
        read(tmp_path / "clean.safetensors", "boxed", 0, 2)
    with pytest.raises(UserError, match=r"clean frames 3 to 5\n.*frames 0 to 4"):
        read(path, "clean", 3, 3)


def offset_of(path, name: str) -> int:
    """Where the numbers of a tensor begin in the file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return end + json.loads(data[8:end])[name]["data_offsets"][0]


def flip(path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["mean", "logvar", "image_embed", "thumbnail", "crc32"])
def test_a_flipped_bit_is_noticed_where_it_is_read_and_only_there(path, name):
    sizes = {"mean": 48, "logvar": 48, "image_embed": 12, "thumbnail": 192, "crc32": 4}
    flip(path, offset_of(path, f"clean.{name}") + 3 * sizes[name])  # in frame 3
    with pytest.raises(UserError, match="others in frame 3"):
        read(path, "clean", 1, 4)
    assert_same(read(path, "clean", 0, 3), EncodedFrames(*(a[:3] for a in BOTH["clean"])))
    assert_same(read(path, "clean", 4, 1), EncodedFrames(*(a[4:] for a in BOTH["clean"])))
    assert_same(read(path, "boxed", 0, FRAMES), BOTH["boxed"])


def test_a_truncated_file_is_refused_at_every_length(path):
    data = path.read_bytes()
    for length in [*range(20), *range(20, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        for use in (read_contents, lambda p: read(p, "clean", 0, 1)):
            with pytest.raises(UserError, match="a complete safetensors file"):
                use(path)


def test_mutations_give_an_error_or_the_right_numbers(path):
    data, rng = path.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for round_number in range(400):
        mutated = bytearray(data)
        end = header if round_number % 2 else len(data)
        for place in rng.integers(0, end, rng.integers(1, 5)):
            mutated[place] = rng.integers(0, 256)
        path.write_bytes(mutated)
        try:
            read_contents(path)
            got = {kind: read(path, kind, 0, FRAMES) for kind in BOTH}
        except UserError:
            refused += 1
        else:
            for kind, frames in got.items():
                assert_same(frames, BOTH[kind])
    assert refused > 350


def rewrite(path, **changes) -> None:
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = tensors | {name.replace("_dot_", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in changed.items() if value is not None}
    path.write_bytes(safetensors.numpy.save(kept))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_dot_mean": np.zeros((5, 2, 3, 4), np.float32)}, "clean.mean: type F32"),
        (
            {"clean_dot_mean": np.zeros((5, 2, 3), BFLOAT16)},
            r"clean.mean: shape \[5, 2, 3\], expected",
        ),
        ({"boxed_dot_logvar": np.zeros((5, 2, 2, 4), BFLOAT16)}, r"boxed.logvar: shape"),
        (
            {"boxed_dot_crc32": np.zeros(4, np.uint32)},
            r"boxed.crc32: shape \[4\], expected \[f\] = \[5\]",
        ),
        ({"clean_dot_thumbnail": None}, "clean.thumbnail: not on both sides"),
        ({"clean_dot_more": np.zeros(1, np.uint8)}, "clean.more: not on both sides"),
        ({"boxed_dot_mean": None}, "boxed.logvar: not on both sides"),
    ],
)
def test_other_tensors_are_named(path, changes, message):
    rewrite(path, **changes)
    for use in (read_contents, lambda p: read(p, "clean", 0, 1)):
        with pytest.raises(UserError, match=message):
            use(path)


def test_files_of_something_else(tmp_path):
    path = tmp_path / "clip.safetensors"
    uses = {
        "no such file": lambda: None,
        "header": lambda: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"),
        "none of them": lambda: path.write_bytes(safetensors.numpy.save({})),
    }
    for message, make in uses.items():
        make()
        with pytest.raises(UserError, match=message):
            read_contents(path)
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    with pytest.raises(UserError, match="no such file"):
        read_contents(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="no such file"):
        read_contents(path)


def test_a_disk_that_fails_while_writing_leaves_the_file_of_before(path):
    """Writes past a size limit fail like a full disk, in the middle of a file."""
    before = path.read_bytes()
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match="too large"):
            write(path, {"clean": encoded(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_thumbnails_tell_pictures_apart_but_not_decoders():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 250, (2, 64, 128, 3), dtype=np.uint8)
    first, second = latent_file.thumbnails(frames)
    by_hand = [frames[1, 8:16, 16:32, c].mean() for c in range(3)]
    np.testing.assert_allclose(second[1, 1], by_hand, atol=0.5)
    noisy = latent_file.thumbnails(frames + rng.integers(0, 2, frames.shape, dtype=np.uint8))
    assert latent_file.is_same_picture(noisy[0], first)
    assert not latent_file.is_same_picture(first, second)
    frames[0, :8, :8] //= 2  # a small object somewhere else
    assert not latent_file.is_same_picture(latent_file.thumbnails(frames)[0], first)
