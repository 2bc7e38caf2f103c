"""Cameras of strangers: the numbers that numpy wrote, or one clear error and nothing executed."""

import os
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from camera_files import contents, packed, saved, turning, write_camera

from posetraj_jax.data.camera_file import MOST_BYTES, Camera, read_camera
from posetraj_jax.errors import UserError

MOST_MEMORY, MOST_SECONDS = 400_000_000, 60
R, T = turning(5)
RECONSTRUCT = np.zeros(1).__reduce__()[0]


def read_bytes(folder: Path, data: bytes) -> Camera:
    path = folder / "camera.npy"
    path.write_bytes(data)
    return read_camera(path)


def test_what_numpy_saves_is_read(tmp_path):
    write_camera(tmp_path / "camera.npy", 5)
    camera = read_camera(tmp_path / "camera.npy")
    np.testing.assert_array_equal(camera.rotations, R.astype(np.float32))
    np.testing.assert_array_equal(camera.translations, T)
    assert camera.rotations.dtype == camera.translations.dtype == np.float64


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_old_and_new_numpy_are_read(tmp_path, protocol, core):
    """numpy 1 writes protocol 3 and numpy.core, numpy 2 protocol 4 and numpy._core."""
    data = saved(contents(), protocol, core)
    assert data[128:130] == bytes([0x80, protocol])
    assert f"{core}.multiarray".encode() in data
    camera = read_bytes(tmp_path, data)
    np.testing.assert_array_equal(camera.rotations, R.astype(np.float32))
    np.testing.assert_array_equal(camera.translations, T)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a.astype(">f8"), np.float16])
def test_other_layouts_of_the_same_numbers_are_read(tmp_path, change):
    rotations = np.tile(np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), (4, 1, 1))
    translations = np.arange(12.0).reshape(4, 3)
    content = {"pred_cam_R": change(rotations), "pred_cam_T": change(translations)}
    camera = read_bytes(tmp_path, saved(content))
    np.testing.assert_array_equal(camera.rotations, rotations)
    np.testing.assert_array_equal(camera.translations, translations)


def test_a_static_camera_of_tram_is_read(tmp_path):
    """Its rotations are one matrix seen many times (strides of 0)."""
    still = np.broadcast_to(np.eye(3, dtype=np.float32), (6, 3, 3))
    content = {"pred_cam_R": still, "pred_cam_T": np.zeros((6, 3), np.float32)}
    np.testing.assert_array_equal(read_bytes(tmp_path, saved(content)).rotations, still)


def test_rotations_as_exact_as_slam_gives_them_are_accepted(tmp_path):
    write_camera(tmp_path / "camera.npy", 5, pred_cam_R=R * (1 + 2e-4))
    assert read_camera(tmp_path / "camera.npy").rotations.shape == (5, 3, 3)


def nan_in(array: np.ndarray, frame: int) -> np.ndarray:
    changed = array.copy()
    changed[frame].flat[0] = np.nan
    return changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pred_cam_R": None}, "pred_cam_R: missing"),
        ({"pred_cam_T": None}, "pred_cam_T: missing"),
        ({"pred_cam_T": nan_in(T, 3)}, "pred_cam_T: not finite in 1 of 5 frames, first in frame 3"),
        ({"pred_cam_T": np.full_like(T, np.inf)}, "pred_cam_T: not finite in 5 of 5 frames"),
        ({"pred_cam_T": T * 1e9}, r"pred_cam_T: beyond 10000 m"),
        ({"pred_cam_R": nan_in(R, 1)}, "pred_cam_R: not finite in 1 of 5 frames, first in frame 1"),
        ({"pred_cam_R": 1.01 * R}, "pred_cam_R: no rotation in 5 of 5 frames"),
        ({"pred_cam_R": -R}, "pred_cam_R: no rotation"),
        ({"pred_cam_R": 1e200 * R}, "pred_cam_R: no rotation"),
        ({"pred_cam_R": R[:, :2]}, r"pred_cam_R: shape \(5, 2, 3\)"),
        ({"pred_cam_R": R[0]}, r"pred_cam_R: shape \(3, 3\)"),
        ({"pred_cam_R": R[:0], "pred_cam_T": T[:0]}, r"pred_cam_R: shape \(0, 3, 3\)"),
        ({"pred_cam_T": T[:, :, None]}, r"pred_cam_T: shape \(5, 3, 1\)"),
        ({"pred_cam_T": T[:4]}, "pred_cam_R has 5 frames, pred_cam_T 4"),
        ({"pred_cam_T": T.astype(complex)}, "pred_cam_T: numbers of type '<c16'"),
        ({"pred_cam_T": T.astype("U3")}, "pred_cam_T: numbers of type '<U3'"),
        ({"pred_cam_T": T.astype(object)}, r"pred_cam_T: numbers of type '\|O8'"),
        ({"pred_cam_T": T.tolist()}, "pred_cam_T: no array"),
        ({"pred_cam_T": np.float64(1)}, "pred_cam_T: no array"),
    ],
)
def test_each_field_at_fault_is_named(tmp_path, changes, words):
    write_camera(tmp_path / "camera.npy", 5, **changes)
    with pytest.raises(UserError, match=words) as caught:
        read_camera(tmp_path / "camera.npy")
    assert str(tmp_path / "camera.npy") in str(caught.value)


class Payload:
    """Has a pickle that calls a function, and gives the result a state."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return self.function, self.arguments, self.state


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, protocol):
    evidence = tmp_path / "it ran"
    payload = Payload(os.system, f"touch '{evidence}'")
    pickle.loads(pickle.dumps(payload, protocol))
    assert evidence.exists(), "the payload of this test is none"
    evidence.unlink()
    for content in (contents() | {"extra": payload}, payload):
        with pytest.raises(UserError, match=r"names 'posix\.system'(.|\n)*nothing was executed"):
            read_bytes(tmp_path, saved(content, protocol))
    assert not evidence.exists()


def array_of(shape: tuple, data: bytes) -> Payload:
    """The pickle of an array of float64 that says it has a shape."""
    state = (1, shape, np.dtype(np.float64), False, data)
    return Payload(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (array_of((10**12, 3), b"12345678"), "shape none that an array can have"),
        (array_of((MOST_BYTES, 3), b"12345678"), "not the 48,000,000 bytes of its shape"),
        (array_of((-1, 3), b""), "shape none that an array can have"),
        (array_of((3,) * 40, b"12345678"), "shape none that an array can have"),
        (array_of((1, 3), b"1234"), "not the 24 bytes of its shape"),
        (array_of((True, 3), b"1" * 24), "shape none that an array can have"),
        # numpy would make this one at once: the brackets hold its shape, not its state.
        (Payload(RECONSTRUCT, np.ndarray, (10**12,), b"b"), "no array"),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_no_array_is_made_that_the_file_does_not_hold(tmp_path, wrong, words, protocol):
    with pytest.raises(UserError, match=f"pred_cam_T: {words}"):
        read_bytes(tmp_path, saved(contents() | {"pred_cam_T": wrong}, protocol))


def doubled(levels: int) -> bytes:
    """The instructions for a tuple of two tuples of two tuples...: 2^levels in a few bytes."""
    return b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(levels))


@pytest.mark.parametrize(
    "program",
    [
        b"Nr\xff\xff\xff\xff.",  # a place in the memory that is far away
        b"}" + doubled(60) + b"Ns.",  # a key that takes 2^60 steps to hash
        b"}(" + doubled(60) + b"Nu.",
        b"\x95" + b"\xff" * 7 + b"\x3f" + b"N.",  # a frame of 2^62 bytes
        b"B\xff\xff\xff\xffabc.",  # bytes that are not there
        b"X\xff\xff\xff\xffabc.",
        b"\x8b\xff\xff\xff\x7f1.",  # instructions that no array needs: a long number,
        b"N2.",  # a copy,
        b"\x82\x01.",  # a registered extension,
        b"\x8f(N\x90.",  # a set,
        b"cnumpy\nndarray\n)\x81.",  # a new object,
        b"cnumpy\nndarray\n}b.",  # a change to a type,
        b"cnumpy\ndtype\ncnumpy\ndtype\nR.",  # a call with something else than a tuple
        b"]Nb.",
        b"]NNs.",
        b"R",
        b"",
    ],
    ids=lambda program: program[:12].hex(),
)
def test_a_pickle_cannot_take_much_memory_or_time(tmp_path, program):
    memory, seconds = taken(tmp_path, program)
    assert memory < MOST_MEMORY
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize(
    "program",
    [
        lambda n: b"}" + b")" + b"\x85" * n + b"Ns.",  # so deep that hashing overflows the stack
        lambda n: b")" + b"\x85" * n + b".",
        lambda n: b"]" * n + b"a" * 10 + b".",
        lambda n: b"}" * n + b".",
        lambda n: b"N" + b"\x94" * n + b".",
        lambda n: b"(" * n + b".",
    ],
    ids=["deep key", "deep", "lists", "dicts", "memory", "marks"],
)
def test_a_long_pickle_takes_memory_and_time_as_it_is_long(tmp_path, program):
    """Memory is counted on a twentieth of the longest, because counting it takes long."""
    memory, _ = taken(tmp_path, program(MOST_BYTES // 20))
    assert memory < MOST_MEMORY / 20
    start = time.monotonic()
    refuse(tmp_path, program(MOST_BYTES - 200))
    assert time.monotonic() - start < MOST_SECONDS


def taken(folder: Path, program: bytes) -> tuple[int, float]:
    """Bytes and seconds that it takes to refuse a pickle."""
    start = time.monotonic()
    tracemalloc.start()
    refuse(folder, program)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, time.monotonic() - start


def refuse(folder: Path, program: bytes) -> None:
    with pytest.raises(UserError, match=r"camera\.npy"):
        read_bytes(folder, packed(b"\x80\x04" + program))


def test_a_cut_file_is_refused_wherever_it_ends(tmp_path):
    data = saved(contents(2), 4)
    for end in range(0, len(data) - 1, 7):
        with pytest.raises(UserError, match=r"camera\.npy"):
            read_bytes(tmp_path, data[:end])


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_damaged_file_is_read_or_refused(tmp_path, protocol):
    """What is read after damage still is a camera; most damage is found."""
    rng, data, read = np.random.default_rng(0), saved(contents(2), protocol), 0
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            camera = read_bytes(tmp_path, bytes(damaged))
        except UserError:
            continue
        read += 1
        assert camera.rotations.shape == (2, 3, 3)
        assert np.isfinite(camera.translations).all()
        np.testing.assert_allclose(np.linalg.det(camera.rotations), 1, atol=5e-3)
    assert 0 < read < 150


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff"]
)
def test_what_is_no_camera_is_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"not what np\.save makes of a dict"):
        read_bytes(tmp_path, content)


def test_an_array_without_a_dict_is_refused(tmp_path):
    np.save(tmp_path / "camera.npy", T)
    with pytest.raises(UserError, match=r"not what np\.save makes of a dict"):
        read_camera(tmp_path / "camera.npy")
    with pytest.raises(UserError, match="the pickle holds no dict"):
        read_bytes(tmp_path, saved([1, 2]))


def test_a_missing_a_huge_and_an_endless_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="FileNotFoundError"):
        read_camera(tmp_path / "none.npy")
    with (tmp_path / "huge.npy").open("wb") as file:
        file.truncate(10**11)  # sparse: it takes no room
    with pytest.raises(UserError, match="more than 2,000,000 bytes"):
        read_camera(tmp_path / "huge.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    for name in ("pipe.npy", "zero.npy"):
        with pytest.raises(UserError, match="not a file"):
            read_camera(tmp_path / name)
