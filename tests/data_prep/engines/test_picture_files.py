"""Which floors and skies an engine refuses before any work."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.engines.engine import CYCLES, FAST, Engine
from data_prep.engines.fast_sky import SkyPicture
from posetraj_jax.errors import UserError

HDR = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n"


def engine(name: str) -> Engine:
    return Engine(name, "python", 1, "cpu")


def bomb(width: int, height: int) -> bytes:
    """A PNG of some bytes that claims this size."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n\0\0\0\r" + content + struct.pack(">I", zlib.crc32(content))
    return head + struct.pack(">I", 1_000_000) + b"IDAT"


@pytest.fixture
def good(tmp_path) -> dict[str, Path]:
    paths = {kind: tmp_path / f"good.{kind}" for kind in ("png", "jpg", "hdr", "exr")}
    for kind in ("png", "jpg"):
        cv2.imwrite(str(paths[kind]), np.full((8, 16, 3), 90, np.uint8))
    cv2.imwrite(str(paths["hdr"]), np.full((8, 16, 3), 0.5, np.float32))
    paths["exr"].write_bytes(b"v/1\x01\2\0\0\0")
    return paths


def test_what_can_be_read_passes(good):
    engine(FAST).require_pictures([good["png"], good["jpg"]], [good["jpg"], good["hdr"]])
    engine(CYCLES).require_pictures(list(good.values()), list(good.values()))
    assert SkyPicture.read(good["hdr"]) is not None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("sky.exr", b"v/1\x01\2\0\0\0", "engine cycles only"),
        ("sky.png", b"v/1\x01\2\0\0\0", "engine cycles only"),
        ("text.png", b"hello", "no JPEG or PNG picture: it starts with b'hell'"),
        ("text.hdr", b"hello", "no Radiance picture: it starts with b'hello'"),
        ("upside_down.hdr", HDR + b"+Y 8 +X 16\n", "does not give its size"),
        ("none.hdr", HDR + b"-Y 0 +X 16\n", "16x0"),
        ("large.hdr", HDR + b"-Y 20000 +X 40000\n", "40000x20000, not between"),
        ("large.png", bomb(9000, 9000), "9000x9000, more than 64,000,000 pixels"),
        ("bomb.png", bomb(100_000, 100_000), "more than 64,000,000 pixels"),
        ("cut.png", b"\x89PNG\r\n", "no JPEG or PNG picture"),
        ("empty.jpg", b"", "an empty file"),
        ("missing.jpg", None, "no such file"),
    ],
)
def test_what_the_fast_engine_cannot_read(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="engine fast cannot read 1 of the pictures") as caught:
        engine(FAST).require_pictures([], [path])
    assert reason in caught.value.got
    assert str(path) in caught.value.got


def test_all_are_named_at_once_floors_too(tmp_path, good):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "text.jpg").write_text("hello")
    floors, skies = [good["hdr"], pipe, good["png"]], [good["exr"], tmp_path / "text.jpg"]
    with pytest.raises(UserError, match="4 of the pictures") as caught:
        engine(FAST).require_pictures(floors, skies)
    for part in ("good.hdr: a .hdr is for skies", "pipe.png: not a file", "good.exr", "text.jpg"):
        assert part in caught.value.got
    with pytest.raises(UserError, match="2 of the pictures") as caught:
        engine(CYCLES).require_pictures(floors, skies)
    assert "text.jpg: no picture: it starts with b'hell'" in caught.value.got


def test_a_panorama_that_is_cut_off_is_named(tmp_path, good):
    path = tmp_path / "cut.hdr"
    path.write_bytes(good["hdr"].read_bytes()[:-10])
    with pytest.raises(UserError, match="A panorama cannot be read") as caught:
        SkyPicture.read(path)
    assert caught.value.got == "damage behind its header"
