import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from clips import grey, jpeg, make_clip, png

from posetraj_jax.data.records import Clip, check_clip, open_dataset, write_dataset
from posetraj_jax.errors import UserError


def assert_equal_clips(one: Clip, other: Clip) -> None:
    for field, a, b in zip(Clip._fields, one, other, strict=True):
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field
            np.testing.assert_array_equal(a, b, err_msg=field)
        else:
            assert a == b, field


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*array_record-*"))


def test_clips_come_back_as_written_in_the_same_order(tmp_path, capsys):
    clips = [make_clip(number, num_frames=14 + number) for number in (3, 1, 2)]
    write_dataset(clips, tmp_path, clips_per_shard=2)
    assert capsys.readouterr().out == ""  # TFDS would announce a download
    records = open_dataset(tmp_path)
    assert records.clip_ids == ("clip-003", "clip-001", "clip-002")
    assert records.num_frames == (17, 15, 16)
    assert len(shards(tmp_path)) == 2
    for read in (records, pickle.loads(pickle.dumps(records))):
        for index, clip in enumerate(clips):
            assert_equal_clips(read[index], clip)


def test_a_clip_without_objects_masks_and_cameras_comes_back(tmp_path):
    f = 16
    clip = make_clip(
        masks_png=(),
        box_world=np.zeros((f, 0, 8, 3), np.float32),
        box_px=np.zeros((f, 0, 8, 2), np.float32),
        object_pose=np.zeros((f, 0, 4, 4), np.float32),
        camera_known=False,
    )
    write_dataset([clip], tmp_path)
    assert_equal_clips(open_dataset(tmp_path)[0], clip)


def test_equal_clips_give_equal_bytes(tmp_path):
    for name in "ab":
        write_dataset([make_clip(0), make_clip(1)], tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    write_dataset([make_clip(0), make_clip(2)], tmp_path / "c")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_every_accepted_path_opens_the_dataset(tmp_path):
    folder = write_dataset([make_clip()], tmp_path)
    for path in (folder, folder.parent, folder.parent.parent):
        assert open_dataset(path).clip_ids == ("clip-000",)


def test_any_tfds_user_can_open_it(tmp_path):
    folder = write_dataset([make_clip(2)], tmp_path)
    example = tfds.builder_from_directory(str(folder)).as_data_source("train")[0]
    assert example["clip_id"] == b"clip-002"
    assert example["frames_jpeg"][5].shape == (64, 128, 3)
    assert abs(int(example["frames_jpeg"][5][0, 0, 0]) - 25) <= 1
    np.testing.assert_array_equal(example["tracks_px"], make_clip(2).tracks_px)


def test_writing_and_reading_need_no_tensorflow(tmp_path):
    program = (
        "import sys; from clips import make_clip\n"
        "from posetraj_jax.data.records import open_dataset, write_dataset\n"
        f"write_dataset([make_clip()], {str(tmp_path / 'there')!r})\n"
        f"open_dataset({str(tmp_path / 'there')!r})[0]\n"
        "assert 'tensorflow' not in sys.modules and 'flax' not in sys.modules\n"
    )
    roots = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    program = f"import sys; sys.path[:0] = {roots!r}\n" + program
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    # Another process hashes in another order: the bytes must not depend on it.
    write_dataset([make_clip()], tmp_path / "here")
    assert files(tmp_path / "here") == files(tmp_path / "there")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clip_id": "a/b"}, "clip_id"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": 0.0}, "fps"),
        ({"frames_jpeg": ()}, "frames_jpeg"),
        ({"frames_jpeg": (b"no picture",) * 16}, r"frames_jpeg\[0\]"),
        ({"frames_jpeg": (png(grey(1)),) * 16}, "PNG, expected JPEG"),
        ({"frames_jpeg": (jpeg(grey(1)),) * 15 + (jpeg(grey(1, 8, 8)),)}, r"\[15\]: 8x8, others"),
        ({"masks_png": (png(np.zeros((64, 128), np.uint8)),)}, "masks_png: 1 for 16"),
        ({"tracks_px": np.zeros((15, 2, 2), np.float32)}, "tracks_px"),
        ({"tracks_px": np.zeros(16, np.float32)}, "tracks_px"),
        ({"tracks_px": np.full((16, 2, 2), np.inf, np.float32)}, "not finite"),
        ({"tracks_px": np.zeros((16, 2, 2))}, "float64"),
        ({"track_kinds": ("floor",)}, "track_kinds"),
        ({"box_px": np.zeros((16, 3, 8, 2), np.float32)}, "box_px"),
        ({"box_world": np.zeros((16, 8, 3), np.float32)}, "box_world"),
        ({"camera_k": np.zeros((16, 3, 4), np.float32)}, "camera_k"),
        ({"licence": ""}, "licence"),
        ({"provenance": {"x": object()}}, "provenance"),
    ],
)
def test_an_illegal_clip_is_named_with_its_field(changes, named):
    with pytest.raises(UserError, match=named):
        check_clip(make_clip(**changes))


def test_a_name_that_tfds_could_not_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="My-Clips"):
        write_dataset([make_clip()], tmp_path, name="My-Clips")


def test_all_problems_of_a_clip_are_told_at_once():
    with pytest.raises(UserError) as caught:
        check_clip(make_clip(fps=-1.0, licence="", track_kinds=()))
    for field in ("clip-000", "fps", "licence", "track_kinds"):
        assert field in str(caught.value)


def test_check_clip_returns_the_size_of_the_frames():
    assert check_clip(make_clip()) == (64, 128)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([make_clip(0), make_clip(1, fps=0.0)], "clip-001"),
        ([make_clip(0), make_clip(0)], "comes twice"),
        ([], "at least one clip"),
    ],
)
def test_nothing_is_left_when_writing_fails(tmp_path, clips, message):
    with pytest.raises(UserError, match=message):
        write_dataset(clips, tmp_path)
    assert files(tmp_path) == {}
    write_dataset([make_clip()], tmp_path)  # and the next attempt works


@pytest.mark.parametrize("clips_per_shard", [1, 256])
def test_a_disk_without_room_is_named_and_nothing_is_left(tmp_path, clips_per_shard):
    """A limit of the process stands for the disk: the system refuses either in the same call."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"File too large(.|\n)*make room"):
            write_dataset(map(make_clip, range(3)), tmp_path, clips_per_shard=clips_per_shard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == {}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / "posetraj_clips/incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "part-00000").write_bytes(b"half a dataset")
    folder = write_dataset([make_clip(0)], tmp_path)
    assert list(folder.parent.iterdir()) == [folder]


def test_an_existing_dataset_is_not_overwritten(tmp_path):
    write_dataset([make_clip(0)], tmp_path)
    with pytest.raises(UserError, match="existing"):
        write_dataset([make_clip(1)], tmp_path)
    assert open_dataset(tmp_path).clip_ids == ("clip-000",)


def test_an_absent_or_empty_folder_says_how_to_make_data(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            UserError, match=r"data_prep\.render_posetraj10k --out CLIPS_FOLDER"
        ) as caught:
            open_dataset(path)
        assert str(path) in str(caught.value)


def test_several_datasets_are_listed(tmp_path):
    for name in ("one", "two"):
        write_dataset([make_clip()], tmp_path, name=name)
    with pytest.raises(UserError, match=r"one/1\.0\.0(.|\n)*two/1\.0\.0"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named_before_any_record_is_read(tmp_path, fraction):
    write_dataset([make_clip(0), make_clip(1), make_clip(2)], tmp_path, clips_per_shard=2)
    damaged = shards(tmp_path)[1]
    data = damaged.read_bytes()
    damaged.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path)
    assert f"{damaged} has {int(fraction * len(data))} bytes of {len(data)}" in str(caught.value)
    assert "no record was read" in str(caught.value)


def test_a_damaged_record_is_named_with_how_many_were_read(tmp_path):
    write_dataset([make_clip(0), make_clip(1), make_clip(2)], tmp_path, clips_per_shard=2)
    damaged = shards(tmp_path)[1]
    data = bytearray(damaged.read_bytes())
    data[600] ^= 255
    damaged.write_bytes(data)
    records = open_dataset(tmp_path)
    records[0], records[1]
    with pytest.raises(UserError) as caught:
        records[2]
    assert f"Record 0 of {damaged}" in str(caught.value)
    assert "clip-002" in str(caught.value)
    assert "records read before it: 2" in str(caught.value)


def test_flipped_bits_are_found(tmp_path):
    write_dataset([make_clip()], tmp_path)
    (shard,) = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    data[600] ^= 255
    shard.write_bytes(data)
    with pytest.raises(UserError, match="Record 0"):
        open_dataset(tmp_path)[0]


def test_a_missing_record_file_is_named_when_opening(tmp_path):
    write_dataset([make_clip(0), make_clip(1)], tmp_path, clips_per_shard=1)
    shards(tmp_path)[1].unlink()
    with pytest.raises(UserError, match="00001-of-00002"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["metadata.json", "features.json", "dataset_info.json"])
def test_a_damaged_description_is_an_error_of_the_dataset(tmp_path, name):
    folder = write_dataset([make_clip()], tmp_path)
    (folder / name).write_text('{"clips": ')
    with pytest.raises(UserError, match=r"1\.0\.0"):
        open_dataset(tmp_path)


def test_exchanged_shards_are_found(tmp_path):
    write_dataset([make_clip(0), make_clip(1)], tmp_path, clips_per_shard=1)
    one, two = shards(tmp_path)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    with pytest.raises(UserError, match="the record holds clip 'clip-001'"):
        open_dataset(tmp_path)[0]


def test_an_id_that_is_a_path_is_refused(tmp_path):
    """Files are named after clips: an id of a stranger's dataset must not point elsewhere."""
    folder = write_dataset([make_clip()], tmp_path)
    metadata = (folder / "metadata.json").read_text()
    assert "clip-000" in metadata
    (folder / "metadata.json").write_text(metadata.replace("clip-000", "../../elsewhere"))
    with pytest.raises(UserError, match=r"\.\./\.\./elsewhere"):
        open_dataset(tmp_path)
