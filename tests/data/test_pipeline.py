import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from clips import NUM_CLIPS, make_clip, official_clip

from posetraj_jax.data.pipeline import (
    decode,
    eval_examples,
    load_example,
    stack,
    train_batches,
)
from posetraj_jax.data.records import open_dataset, write_dataset
from posetraj_jax.data.sources import RecordClip, open_source
from posetraj_jax.data.tracks import draw_boxes, draw_maps
from posetraj_jax.errors import UserError
from posetraj_jax.structs import Batch


def take(iterator, count: int) -> list[Batch]:
    return list(itertools.islice(iterator, count))


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        for field, x, y in zip(Batch._fields, a, b, strict=True):
            if field == "encoded":
                assert x is y is None
                continue
            assert x.dtype == y.dtype, field
            np.testing.assert_array_equal(x, y, err_msg=field)


def firsts(batches: list[Batch]) -> list[int]:
    """The grey level 10 clip + start of every example, up to the JPEG's rounding."""
    levels = np.concatenate([batch.frames_uint8[:, :, 0, 0, 0] for batch in batches]).astype(int)
    return [int(v) for v in np.rint((levels - np.arange(14)).mean(axis=1))]


def clips_of(batches: list[Batch]) -> list[int]:
    """Which clip: its floor point, drawn in map 0, is at x = 42 + 2 start."""
    starts = [
        (int(np.nonzero(maps[0, 50, :, 1] == 255)[0].mean()) - 42) // 2
        for batch in batches
        for maps in batch.maps_uint8
    ]
    return [(first - start) // 10 for first, start in zip(firsts(batches), starts, strict=True)]


def test_a_batch_keeps_its_contract(options):
    (batch,) = take(train_batches(options), 1)
    assert isinstance(batch, Batch)
    assert batch.frames_uint8.shape == batch.maps_uint8.shape == (2, 14, 64, 128, 3)
    assert batch.first_frame_uint8.shape == (2, 64, 128, 3)
    assert batch.frames_uint8.dtype == batch.first_frame_uint8.dtype == np.uint8
    assert batch.camera_rt.shape == (2, 14, 12)
    assert batch.camera_rt.dtype == batch.fps.dtype == np.float32
    assert batch.camera_known.tolist() == [True, True]
    np.testing.assert_allclose(batch.fps, 29.97)


def test_every_epoch_has_every_clip_once_in_another_order(options):
    batches = take(train_batches(options), 10)
    clips = clips_of(batches)
    epochs = [clips[i : i + NUM_CLIPS] for i in range(0, 20, NUM_CLIPS)]
    assert all(sorted(epoch) == list(range(NUM_CLIPS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    starts = np.array(firsts(batches)) - 10 * np.array(clips)
    assert ((starts >= 0) & (starts <= 2 + np.array(clips))).all()


def test_windows_of_a_clip_differ_between_epochs_and_reach_both_ends(options):
    batches = take(train_batches(replace(options, max_clips=1, batch_size=1)), 40)
    assert set(firsts(batches)) == {0, 1, 2}  # 16 frames: starts 0..2


def test_the_seed_alone_decides(options):
    once = take(train_batches(options), 5)
    assert_equal(once, take(train_batches(options), 5))
    assert firsts(once) != firsts(take(train_batches(replace(options, seed=4)), 5))


@pytest.mark.parametrize("read_threads", [0, 1, 5])
def test_batches_do_not_depend_on_threads(options, read_threads):
    expected = take(train_batches(options), 4)
    assert_equal(expected, take(train_batches(replace(options, read_threads=read_threads)), 4))


def test_a_restart_continues_with_the_same_batches(options):
    iterator = train_batches(options)
    take(iterator, 3)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 4)
    iterator.set_state(state)
    assert_equal(expected, take(iterator, 4))
    fresh = train_batches(options)
    fresh.set_state(state)
    assert_equal(expected, take(fresh, 4))


def test_worker_processes_make_the_same_batches_and_restart(options):
    expected = take(train_batches(options), 5)
    options = replace(options, num_workers=2)
    iterator = train_batches(options)
    assert_equal(expected[:3], take(iterator, 3))
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    fresh = train_batches(options)
    fresh.set_state(state)
    assert_equal(expected[3:], take(fresh, 2))
    fresh.close()


@pytest.mark.parametrize("parts", [[(0,), (1,)], [(0, 1), (0, 1)], [(1,), (0, 1)]])
def test_each_host_reads_its_rows_of_what_one_host_reads(options, parts):
    """Rows may be shared: hosts whose devices split a clip between them need the same one."""
    alone = take(train_batches(options), 6)
    for rows in parts:
        expected = [Batch(*(a[list(rows)] for a in batch[:-1])) for batch in alone]
        assert_equal(expected, take(train_batches(options, rows), 6))


def test_max_clips_takes_the_first_by_name(options):
    batches = take(train_batches(replace(options, max_clips=2)), 4)
    assert set(clips_of(batches)) == {0, 1}


def test_examples_to_evaluate_on_are_the_first_windows_by_name(tmp_path, options):
    write_dataset([make_clip(number) for number in (2, 0, 1)], tmp_path)
    options = replace(options, path=str(tmp_path))
    examples = eval_examples(options, 2)
    assert [(e.clip_id, e.start) for e in examples] == [("clip-000", 0), ("clip-001", 0)]
    assert firsts([e.batch for e in examples]) == [0, 10]
    batch = stack(examples)
    assert batch.frames_uint8.shape == (2, 14, 64, 128, 3)
    assert_equal([batch], [stack(eval_examples(replace(options, seed=9), 2))])
    with pytest.raises(UserError, match=r"4 clips(.|\n)*3"):
        eval_examples(options, 4)


def test_maps_and_points_are_at_the_resized_size(options):
    example = eval_examples(replace(options, height=128, width=192), 1)[0]
    floor = make_clip(0).tracks_px[:14, :1]
    np.testing.assert_allclose(example.tracks_px, floor * [1.5, 2], rtol=1e-6)
    expected = draw_maps(floor, (64, 128), (128, 192))
    np.testing.assert_array_equal(example.batch.maps_uint8[0], expected)
    assert not example.batch.maps_uint8[0, -1].any()


@pytest.mark.parametrize("wrong", ["nan", "short", "inf"])
def test_a_camera_that_cannot_be_used_is_named_and_never_zeroed(options, wrong):
    class Clip(RecordClip):
        def camera(self, start, count):
            camera = np.ones((count, 12), np.float32)
            camera[3, 4] = {"nan": np.nan, "inf": np.inf}.get(wrong, 1.0)
            return camera[1:] if wrong == "short" else camera

    clip = Clip(open_dataset(options.path)[0])
    with pytest.raises(
        UserError, match=r"Clip clip-00.* has a camera that cannot be used"
    ) as caught:
        load_example(clip, options, start=0)
    assert ("(13, 12)" if wrong == "short" else "1 numbers are not finite") in caught.value.got


def test_training_on_cameras_needs_one_clip_that_has_one(tmp_path, options):
    """Any clip, not only those that are evaluated; without any, nothing can be learnt."""
    clips = [make_clip(i)._replace(camera_known=i == 2) for i in range(3)]
    write_dataset(clips, tmp_path / "some")
    write_dataset(clips[:2], tmp_path / "none")
    wanted = replace(options, needs_camera=True)
    train_batches(replace(wanted, path=str(tmp_path / "some")))
    with pytest.raises(UserError, match="the cameras of some of the 2 clips"):
        train_batches(replace(wanted, path=str(tmp_path / "none")))
    train_batches(replace(options, path=str(tmp_path / "none")))


def test_no_track_kinds_leave_the_maps_black(options):
    example = eval_examples(replace(options, track_kinds=()), 1)[0]
    assert not example.batch.maps_uint8.any()
    assert example.tracks_px.shape == (options.num_frames, 0, 2)
    assert eval_examples(options, 1)[0].batch.maps_uint8.any()


def test_track_kinds_choose_what_is_drawn(options):
    both = eval_examples(replace(options, track_kinds=("floor", "centre")), 1)[0]
    assert both.tracks_px.shape == (14, 2, 2)
    only = eval_examples(replace(options, track_kinds=("centre",)), 1)[0]
    assert only.tracks_px[0].tolist() == [[40.0, 40.0]]
    with pytest.raises(UserError, match=r"clip-000(.|\n)*surface(.|\n)*centre"):
        eval_examples(replace(options, track_kinds=("surface",)), 1)


def test_hidden_tracks_are_dropped_on_request(tmp_path, options):
    hidden = np.ones((16, 2), bool)
    hidden[5:, 0] = False
    write_dataset([make_clip(0, tracks_visible=hidden)], tmp_path)
    options = replace(options, path=str(tmp_path))
    drawn = eval_examples(options, 1)[0].batch.maps_uint8[0].any(axis=(1, 2, 3))
    assert drawn.tolist() == [True] * 13 + [False]
    options = replace(options, drop_hidden_tracks=True)
    drawn = eval_examples(options, 1)[0].batch.maps_uint8[0].any(axis=(1, 2, 3))
    assert drawn.tolist() == [True] * 4 + [False] * 10


@pytest.mark.parametrize("draw_box", [True, False])
@pytest.mark.parametrize("condition_on_box", [True, False])
def test_targets_and_condition_are_boxed_as_asked(options, draw_box, condition_on_box):
    options = replace(options, draw_box=draw_box, condition_on_box=condition_on_box)
    batch = eval_examples(options, 1)[0].batch
    clean = open_source(options.path)[0].frames(0, 14)
    boxed = draw_boxes(clean, make_clip(0).box_px[:14])
    np.testing.assert_array_equal(batch.frames_uint8[0], boxed if draw_box else clean)
    expected = boxed[0] if condition_on_box else clean[0]
    np.testing.assert_array_equal(batch.first_frame_uint8[0], expected)


def test_the_box_is_drawn_before_resizing(options):
    options = replace(options, height=128, width=256, draw_box=True, condition_on_box=True)
    frame = eval_examples(options, 1)[0].batch.frames_uint8[0, 0].astype(int)
    blends = (frame[..., 0] > 40) & (frame[..., 0] < 220) & (frame[..., 1] < 30)
    assert blends.any()  # antialiased edges can only come from scaling the drawn lines


@pytest.mark.parametrize("points", [True, False])
def test_official_folders_make_batches(tmp_path, options, points):
    for number in range(3):
        folder = official_clip(tmp_path, f"uid{number}_0_S")
        if not points:
            (folder / "traj.npy").unlink()
    options = replace(options, path=str(tmp_path), draw_box=True, condition_on_box=False)
    (batch,) = take(train_batches(options), 1)
    assert batch.frames_uint8.shape == batch.maps_uint8.shape == (2, 14, 64, 128, 3)
    assert (batch.frames_uint8[:, 0] - batch.first_frame_uint8 == 100).all()
    assert not batch.camera_known.any()
    assert not batch.camera_rt.any()
    assert batch.fps.tolist() == [5.0, 5.0]
    example = eval_examples(options, 1)[0]
    assert example.tracks_px.shape == (14, int(points), 2)
    maps = example.batch.maps_uint8[0]
    assert not maps[-1].any()
    if not points:
        assert [int(m[0, 0, 0]) for m in maps] == [*range(200, 213), 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 300}, r"data\.height = 300: use 256 or 320"),
        ({"width": 40}, r"data\.width = 40: use 64"),
        ({"height": 0}, r"data\.height = 0: use 64"),
        ({"resize": "cubic"}, r"data\.resize = 'cubic'"),
        ({"track_colours": "pink"}, r"data\.track_colours"),
        ({"batch_size": 0}, r"data\.batch_size = 0: use 1 or more"),
        ({"num_frames": 18}, "clip-001: 17 frames"),
        ({"path": "nowhere"}, "nowhere(.|\n)*render_posetraj10k"),
    ],
)
def test_wrong_options_are_named(options, changes, message):
    for use in (train_batches, lambda o: eval_examples(o, 1)):
        with pytest.raises(UserError, match=message):
            use(replace(options, **changes))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_clip_stops_training_and_is_named(tmp_path, options, num_workers):
    folder = write_dataset([make_clip(0), make_clip(1)], tmp_path)
    (shard,) = folder.glob("*array_record-*")
    data = bytearray(shard.read_bytes())
    data[600] ^= 255
    shard.write_bytes(data)
    options = replace(options, path=str(tmp_path), num_workers=num_workers)
    with pytest.raises(UserError, match="Record 0 of"):
        take(train_batches(options), 3)


class LargeVideo(RecordClip):
    """A clip of large pictures, which refuses to decode two at once; frame t is grey t."""

    has_camera, frame_kinds = False, ("clean",)

    def __init__(self, *sizes: tuple[int, int]):
        self.clip_id, self.fps, self.sizes = "large", 5.0, sizes

    def frames(self, start: int, count: int) -> np.ndarray:
        assert count == 1
        return np.full((1, *self.sizes[start], 3), start, np.uint8)


def test_large_pictures_are_decoded_one_at_a_time(options):
    frames, stored = decode(LargeVideo(*[(480, 640)] * 5), options, "clean", 1, 3)
    assert stored == (480, 640)
    assert frames.shape == (3, 64, 128, 3)
    assert frames[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_a_picture_of_another_size_is_named(options):
    with pytest.raises(
        UserError, match=r"frame 2 of large(.|\n)*640x480, as the first(.|\n)*64x48"
    ):
        decode(LargeVideo((480, 640), (480, 640), (48, 64)), options, "clean", 0, 3)
