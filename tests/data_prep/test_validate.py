"""`python -m data_prep.inspect --validate` names each kind of damage, and reads on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_clips import FRAMES, HEIGHT, WIDTH, encoded, noise, real_clip, sound_clip

from data_prep import inspect
from data_prep.engines import verify
from posetraj_jax.data import record_codec
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.records import write_dataset
from posetraj_jax.errors import UserError
from tests.data.clips import official_clip, vipseg_video

WHOLE = encoded(noise(0), "JPEG")


def instead(name: str, index: int, data: bytes) -> dict:
    """A change to one picture of a clip."""
    pictures = list(getattr(sound_clip(), name))
    pictures[index] = data
    return {name: tuple(pictures)}


def changed(name: str, index: tuple, value: float) -> dict:
    """A change to one number of an array."""
    array = getattr(sound_clip(), name).copy()
    array[index] = value
    return {name: array}


def mask(level: int, dtype: type = np.uint8) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), level, dtype)


DEFECTS = {
    "truncated JPEG": (instead("frames_jpeg", 2, WHOLE[:-900]), r"pictures: frames_jpeg\[2\]: OSE"),
    "grey JPEG": (
        instead("frames_jpeg", 1, encoded(mask(9), "JPEG")),
        r"frames_jpeg\[1\]: mode L, expected RGB",
    ),
    "another size": (
        instead("frames_jpeg", 3, encoded(noise(0, (32, 32, 3)), "JPEG")),
        r"not a legal record: frames_jpeg\[3\]: 32x32, others 96x64",
    ),
    "no picture": (instead("masks_png", 0, b"nothing"), r"masks_png\[0\]"),
    "coloured mask": (
        instead("masks_png", 0, encoded(noise(0), "PNG")),
        r"masks_png\[0\]: mode RGB, expected L",
    ),
    "mask of nobody": (
        instead("masks_png", 3, encoded(mask(2), "PNG")),
        r"masks_png\[3\]: holds 2, with 1 objects",
    ),
    "8-bit depth": (
        instead("depths_png", 0, encoded(mask(7), "PNG")),
        r"depths_png\[0\]: mode L, expected I;16",
    ),
    "broken depth": (
        instead("depths_png", 1, encoded(noise(1, (HEIGHT, WIDTH)).astype(np.uint16), "PNG")[:-99]),
        r"depths_png\[1\]: ",
    ),
    "not finite": (changed("tracks_px", (1, 0, 0), np.nan), "tracks_px: 1 numbers are not finite"),
    "box off": (changed("box_px", (2, 0, 5, 1), 3.0), "frame 2: box_px is .* px from"),
    "box left behind": (
        {"box_world": np.repeat(sound_clip().box_world[:1], FRAMES, axis=0)},
        "frame 3: the pose of object 0 does not carry its box",
    ),
    "scaled pose": (
        {"object_pose": sound_clip().object_pose * np.float32(1.1)},
        "object_pose: 4 of 4 are not rotations",
    ),
    "mirrored pose": (
        changed("object_pose", (0, 0, slice(0, 3), 2), (0, 0, -1)),
        "object_pose: 1 of 4 are not rotations",
    ),
    "last row": (changed("object_pose", (1, 0, 3, 0), 0.5), "last rows are not 0 0 0 1"),
    "camera": (changed("camera_rt", (1, 0, 0), 2.0), "camera_rt: 1 of 4 are not rotations"),
    "visible outside": (
        changed("tracks_px", (3, 1, 0), WIDTH + 2.0),
        r"1 points are visible outside the picture, first point 1 of frame 3 at \[98\.0",
    ),
    "nobody's track": (changed("track_objects", (1,), 4), r"track_objects: \[4\], with 1 objects"),
    "provenance": ({"provenance": ["a", "list"]}, "provenance: no JSON object"),
    "no frame rate": ({"fps": 0.0}, "fps: 0.0 is not a positive number"),
}


def write(clips: list[Clip], folder: Path, monkeypatch, **options) -> Path:
    """Writes clips that need not be legal."""
    monkeypatch.setattr(record_codec, "check_clip", lambda clip: None)
    return write_dataset(clips, folder, **options)


def report(folder: Path, capsys, *more: str) -> tuple[str, UserError]:
    """What is printed, and the error."""
    with pytest.raises(UserError) as caught:
        inspect.main([str(folder), "--validate", *more])
    return capsys.readouterr().out, caught.value


def test_sound_clips_of_all_kinds_pass(tmp_path, capsys):
    write_dataset([sound_clip(0), sound_clip(1), real_clip(2)], tmp_path)
    inspect.main([str(tmp_path), "--validate"])
    assert "3 clips with 12 frames read, 0 clips with problems" in capsys.readouterr().out


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_named_and_only_it(tmp_path, capsys, monkeypatch, name):
    changes, expected = DEFECTS[name]
    clips = [sound_clip(1), sound_clip(0, clip_id="bad", **changes), sound_clip(2)]
    write(clips, tmp_path, monkeypatch)
    text, error = report(tmp_path, capsys)
    assert re.search(expected, text), text
    assert "bad:" in text
    assert "clip-00" not in text
    assert "1 of 3 clips" in error.what


def test_segments_of_real_video_bound_its_masks(tmp_path, capsys, monkeypatch):
    clip = real_clip()._replace(masks_png=(encoded(mask(3), "PNG"),) * FRAMES)
    write([clip], tmp_path, monkeypatch)
    text, _ = report(tmp_path, capsys)
    assert "masks_png[0]: holds 3, with 2 objects or segments" in text


def test_a_truncated_file_is_named_and_the_others_are_read(tmp_path, capsys):
    clips = [sound_clip(number) for number in range(6)]
    folder = write_dataset(clips, tmp_path, clips_per_shard=2)
    _, shard, _ = sorted(folder.glob("*array_record-*"))
    shard.write_bytes(shard.read_bytes()[:-5000])
    text, error = report(tmp_path, capsys)
    assert f"damaged file: {shard}" in text
    assert "2 of 6 clips" in error.what
    assert "16 frames read" in text
    shard.unlink()
    text, error = report(tmp_path, capsys)
    assert f"damaged file: no {shard}" in text


def test_flipped_bits_are_named_and_the_other_records_are_read(tmp_path, capsys):
    folder = write_dataset([sound_clip(number) for number in range(3)], tmp_path)
    (shard,) = folder.glob("*array_record-*")
    data = bytearray(shard.read_bytes())
    data[25_000] ^= 1  # in the second record; at 65536 it would hit the index, and all of them
    shard.write_bytes(data)
    text, error = report(tmp_path, capsys)
    assert f"cannot be read: Record 1 of {shard}" in text
    assert "1 of 3 clips" in error.what


@pytest.mark.parametrize(
    ("number", "field", "value", "expected"),
    [
        (1, 0, "other", "the record holds clip 'clip-001'"),
        (1, 1, 7, "index: 4 frames, but 7 in the index"),
        (1, 0, "clip-000", "the index has this id twice"),
    ],
)
def test_an_index_of_something_else_is_named(tmp_path, capsys, number, field, value, expected):
    folder = write_dataset([sound_clip(0), sound_clip(1)], tmp_path)
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["clips"][number][field] = value
    path.write_text(json.dumps(metadata))
    text, _ = report(tmp_path, capsys)
    assert expected in text


def test_the_same_clip_twice_is_named(tmp_path, capsys):
    write_dataset([sound_clip(0), sound_clip(1), sound_clip(0, clip_id="again")], tmp_path)
    text, error = report(tmp_path, capsys)
    assert "the same clip twice: its first frame is that of clip-000" in text
    assert "1 of 3 clips" in error.what


def test_rendered_clips_are_compared_with_their_pixels(tmp_path, capsys, monkeypatch):
    rendered = {"track_points": [[0, 0, 0]] * 2}
    write_dataset([sound_clip(0, provenance=rendered), sound_clip(1)], tmp_path)
    monkeypatch.setattr(verify, "problems", lambda clip: ["frame 0: dark"])
    text, _ = report(tmp_path, capsys)
    assert "clip-000:\n    - rendering: frame 0: dark" in text
    assert "1 rendered clips compared" in text
    monkeypatch.setattr(verify, "problems", lambda clip: clip.provenance["track_points"][9])
    assert "its provenance does not fit it (IndexError" in report(tmp_path, capsys)[0]
    monkeypatch.setattr(verify, "problems", lambda clip: clip.provenance["of a later version"])
    inspect.main([str(tmp_path), "--validate"])
    text = capsys.readouterr().out
    assert "0 rendered clips compared" in text
    assert "1 clips, rendered by another version" in text


def test_only_the_first_bad_clips_are_shown_and_all_are_counted(tmp_path, capsys, monkeypatch):
    clips = [sound_clip(n, fps=-1.0, licence="") for n in range(5)]
    write(clips, tmp_path, monkeypatch)
    text, error = report(tmp_path, capsys, "--most=2", "--threads=1")
    assert text.count("fps: -1.0") == 2
    assert "3 more clips" in text
    assert "not a legal record: 10" in error.got


def test_vipseg_is_read_to_the_end(tmp_path, capsys):
    for number, name in enumerate(("cut", "good", "lost", "sizes")):
        vipseg_video(tmp_path, name, level=30 * number)
    pictures = tmp_path / "imgs"
    cut = pictures / "cut/00000003.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (pictures / "sizes/00000002.png").write_bytes(encoded(noise(0), "PNG"))
    (tmp_path / "trajectory_CoTracker_all/lost.json").unlink()
    text, error = report(tmp_path, capsys)
    assert "3 of 4 clips" in error.what
    assert "cut:\n    - pictures: frame 3: A picture cannot be decoded" in text
    assert "sizes:\n    - pictures: frame 2: 96x64, others 96x48" in text
    assert "lost:\n    - cannot be read: " in text
    assert "good:" not in text


def test_official_folders_are_read_to_the_end(tmp_path, capsys):
    for number in range(3):
        official_clip(tmp_path, f"uid{number}_0_S")
    (tmp_path / "uid1_0_S/traj.npy").write_bytes(b"nothing")
    (tmp_path / "uid2_0_S/images_bbox/0004.png").write_bytes(b"nothing")
    text, error = report(tmp_path, capsys)
    assert "uid1_0_S:\n    - cannot be read: tracks: " in text
    assert "pictures: boxed frame 4: " in text
    assert "the same clip twice: its first frame is that of uid0_0_S" in text
    assert "2 of 3 clips" in error.what
