"""A folder of latents: what it refuses, and what the pipeline reads from it in place of pixels."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from clips import make_clip, official_clip, vipseg_video

from posetraj_jax.data import latent_file, latents
from posetraj_jax.data.latent_file import EncodedFrames
from posetraj_jax.data.latents import EncoderOptions
from posetraj_jax.data.pipeline import (
    DataOptions,
    decode,
    eval_examples,
    open_clips,
    stack,
    train_batches,
)
from posetraj_jax.data.records import write_dataset
from posetraj_jax.data.sources import open_source
from posetraj_jax.errors import UserError

NUM_CLIPS = 3
ENCODERS = EncoderOptions("unit", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "float32")
BOXED_OFFSET = 100


def fake_codes(clip: int, kind: str, pictures) -> EncodedFrames:
    """The mean of frame t of clip c is 20 c + t, 100 more if boxed; the rest is minus that."""
    num_frames, height, width, _ = pictures.shape
    number = 20 * clip + np.arange(num_frames) + BOXED_OFFSET * (kind == "boxed")
    number = number.astype(ml_dtypes.bfloat16)[:, None, None, None]
    latent = (height // 8, width // 8, 4)
    return EncodedFrames(
        mean=np.broadcast_to(number, (num_frames, *latent)),
        logvar=np.broadcast_to(-number, (num_frames, *latent)),
        image_embed=np.broadcast_to(-number[:, 0, 0], (num_frames, 6)),
        thumbnail=latent_file.thumbnails(pictures),
    )


def encode(options: DataOptions, kinds=("clean", "boxed")) -> None:
    """Fills `options.latents` without any encoder."""
    source, chosen = open_clips(options)
    folder = Path(options.latents)
    with latents.writing(folder, latents.fingerprint(options.encoding, "abc")):
        for clip in chosen:
            codes = {}
            for kind in kinds:
                pictures, _ = decode(source[clip], options, kind, 0, source.num_frames[clip])
                codes[kind] = fake_codes(clip, kind, pictures)
            latents.write(folder, source.clip_ids[clip], codes)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> DataOptions:
    """Clips 0..2 of 16..18 frames and their latents, in one folder."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset([make_clip(number, 16 + number) for number in range(NUM_CLIPS)], folder)
    options = DataOptions(
        path=str(folder),
        height=64,
        width=128,
        batch_size=2,
        draw_box=False,
        condition_on_box=False,
        seed=3,
        latents=str(folder / "latents"),
        encoders=ENCODERS,
    )
    encode(options)
    return options


@pytest.fixture
def options(made, tmp_path) -> DataOptions:
    """The same with latents of its own, to be spoilt."""
    options = replace(made, latents=str(tmp_path / "latents"))
    encode(options)
    return options


def take(options: DataOptions, count: int):
    return list(itertools.islice(train_batches(options), count))


@pytest.mark.parametrize("draw_box", [True, False])
@pytest.mark.parametrize("condition_on_box", [True, False])
def test_batches_hold_latents_of_the_window_that_pixels_would_be_of(
    made, draw_box, condition_on_box
):
    kinds = {"draw_box": draw_box, "condition_on_box": condition_on_box}
    read, seen = (take(replace(made, **kinds, latents=folder), 6) for folder in (made.latents, ""))
    for cached, plain in zip(read, seen, strict=True):
        assert cached.frames_uint8 is None
        for name in ("first_frame_uint8", "maps_uint8", "camera_rt", "camera_known", "fps"):
            np.testing.assert_array_equal(getattr(cached, name), getattr(plain, name))
        # Frame t of clip c is grey 10 c + t where no box is drawn.
        levels = plain.frames_uint8[:, :, 0, 0, 0].astype(int)
        number = cached.encoded.mean[:, :, 0, 0, 0].astype(int) - BOXED_OFFSET * draw_box
        clip, frame = number // 20, number % 20
        assert np.abs(10 * clip + frame - levels).max() <= 1  # JPEG's rounding
        np.testing.assert_array_equal(cached.encoded.logvar, -cached.encoded.mean)
        first = number[:, 0] + BOXED_OFFSET * condition_on_box
        np.testing.assert_array_equal(cached.encoded.image_embed[:, 0].astype(int), -first)
        assert cached.encoded.mean.shape == (2, 14, 8, 16, 4)
        assert cached.encoded.image_embed.shape == (2, 6)
        assert {array.dtype for array in cached.encoded} == {np.dtype(ml_dtypes.bfloat16)}


def test_worker_processes_hand_over_the_same_latents(made):
    one, other = (take(replace(made, num_workers=n), 3) for n in (0, 1))
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a.encoded, b.encoded, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_examples_to_look_at_still_have_their_frames(made):
    made = replace(made, draw_box=True)
    cached, plain = (eval_examples(replace(made, latents=f), 2) for f in (made.latents, ""))
    for one, other in zip(cached, plain, strict=True):
        np.testing.assert_array_equal(one.shown_uint8, other.batch.frames_uint8[0])
        np.testing.assert_array_equal(one.shown_uint8, other.shown_uint8)
    assert stack(cached).encoded.mean.shape == (2, 14, 8, 16, 4)


def test_only_the_first_frame_is_decoded(made, monkeypatch):
    counts = []
    source, _ = open_clips(made)
    clip_class = type(source[0])
    original = clip_class.frames

    def frames(self, start, count):
        counts.append(count)
        return original(self, start, count)

    monkeypatch.setattr(clip_class, "frames", frames)
    take(replace(made, read_threads=0), 2)
    assert set(counts) == {1}
    cached = len(counts)
    counts.clear()
    take(replace(made, read_threads=0, latents=""), 2)
    assert sum(counts) == 14 * cached


def uses(options: DataOptions):
    return (lambda: train_batches(options)), (lambda: eval_examples(options, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": "bilinear"}, "resize: 'lanczos', not 'bilinear'"),
        ({"box_thickness": 3}, "box_thickness: 2, not 3"),
        ({"height": 128}, r"height: 64, not 128(.|\n)*clip-000: frames of 128x64 pixels"),
        ({"encoders": replace(ENCODERS, dtype="bfloat16")}, "dtype: 'float32', not 'bfloat16'"),
        ({"encoders": replace(ENCODERS, clip_range="official")}, "clip_range: 'unit', not"),
        ({"encoders": replace(ENCODERS, image_std=(1.0, 1.0, 1.0))}, "image_std: .*0.25"),
        ({"latents": "nowhere"}, "There are no latents in nowhere(.|\n)*encode_latents"),
    ],
)
def test_other_settings_are_named(made, changes, message):
    for use in uses(replace(made, **changes)):
        with pytest.raises(UserError, match=message):
            use()


def test_all_that_is_wrong_with_the_clips_is_told_at_once(options):
    folder = Path(options.latents)
    clean_only = latent_file.read(folder / "clip-001.safetensors", "clean", 0, 17)
    latent_file.write(folder / "clip-001.safetensors", {"clean": clean_only})
    (folder / "clip-000.safetensors").unlink()
    whole = folder / "clip-002.safetensors"
    whole.write_bytes(whole.read_bytes()[:-1])
    index = json.loads((folder / "encoded.json").read_text())
    (folder / "encoded.json").write_text(json.dumps(index | {"resize": "nearest", "more": 1}))
    for use in uses(replace(options, draw_box=True)):
        with pytest.raises(UserError) as caught:
            use()
        for problem in (
            "more: 1, not None",
            "resize: 'nearest', not 'lanczos'",
            "clip-000: no such file",
            "clip-001: no boxed frames",
            "clip-002: Error while deserializing header: incomplete metadata",
        ):
            assert problem in caught.value.got
        assert "the boxed and the clean frames of 3 clips" in caught.value.expected
    train_batches(replace(options, latents=""))  # the clips themselves are sound


def test_only_chosen_clips_and_needed_kinds_count(made, options):
    folder = Path(options.latents)
    for name in ("clip-001", "clip-002"):
        (folder / f"{name}.safetensors").unlink()
    clean_only = latent_file.read(folder / "clip-000.safetensors", "clean", 0, 16)
    latent_file.write(folder / "clip-000.safetensors", {"clean": clean_only})
    assert take(replace(options, max_clips=1, batch_size=1), 1)
    with pytest.raises(UserError, match="clip-000: no boxed frames"):
        train_batches(replace(options, max_clips=1, condition_on_box=True))


def test_latents_of_another_length_are_refused(options):
    folder = Path(options.latents)
    short = latent_file.read(folder / "clip-000.safetensors", "clean", 0, 15)
    latent_file.write(folder / "clip-000.safetensors", {"clean": short})
    with pytest.raises(UserError, match="clip-000: 15 frames, not 16"):
        train_batches(options)


def test_latents_of_clips_that_were_made_again_are_refused(options, tmp_path):
    clips = [make_clip(i + 1, 16 + i, clip_id=f"clip-{i:03d}") for i in range(NUM_CLIPS)]
    write_dataset(clips, tmp_path / "again")
    again = replace(options, path=str(tmp_path / "again"))
    with pytest.raises(UserError, match="The latents of clip clip-000 are of other pictures"):
        eval_examples(again, 1)
    with pytest.raises(UserError, match="are of other pictures"):
        take(again, 1)


def test_a_damaged_clip_is_named_when_its_turn_comes(options):
    path = Path(options.latents) / "clip-001.safetensors"
    data = bytearray(path.read_bytes())
    for place in range(2000, len(data), 100):
        data[place] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"cannot be read: {path}"):
        take(options, 4)


WANTED = {"format": 1, "height": 64, "encoders": "abc"}


def test_a_folder_is_new_or_has_the_same_fingerprint(tmp_path):
    folder = tmp_path / "deep" / "latents"
    with latents.writing(folder, WANTED):
        pass
    assert json.loads((folder / "encoded.json").read_text()) == WANTED
    (folder / ".clip.safetensors.partial").write_text("half")  # as a killed process leaves it
    with latents.writing(folder, WANTED):
        assert os.listdir(folder) == ["encoded.json"]
    for change, message in (
        ({"height": 128}, "height: 64, not 128"),
        ({"encoders": "abd"}, "encoders: 'abc', not 'abd'"),
    ):
        with pytest.raises(UserError, match=message), latents.writing(folder, WANTED | change):
            raise AssertionError("not reached")
    assert json.loads((folder / "encoded.json").read_text()) == WANTED


@pytest.mark.parametrize("text", ["", "[]", '{"format": ', "\xff", "{}"])
def test_a_damaged_fingerprint_is_no_fingerprint(tmp_path, text):
    (tmp_path / "encoded.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"encoded\.json|encoded in another way"):
        latents.require_settings(tmp_path, WANTED)
    with pytest.raises(UserError), latents.writing(tmp_path, WANTED):
        raise AssertionError("not reached")
    assert (tmp_path / "encoded.json").read_text(encoding="latin-1") == text


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_text("a picture")
    with pytest.raises(UserError, match="holiday"), latents.writing(tmp_path, WANTED):
        raise AssertionError("not reached")
    assert os.listdir(tmp_path) == ["holiday.jpg"]
    file = tmp_path / "holiday.jpg"
    with pytest.raises(UserError, match="cannot be written"), latents.writing(file, WANTED):
        raise AssertionError("not reached")


def test_two_processes_never_share_a_folder(tmp_path):
    with (
        latents.writing(tmp_path, WANTED),
        pytest.raises(UserError, match="another process"),
        latents.writing(tmp_path, WANTED),
    ):
        raise AssertionError("not reached")
    with latents.writing(tmp_path, WANTED):
        pass


@pytest.mark.parametrize("clip_id", ["../clip", "/clip", "a/b", "a\0b"])
def test_a_strangers_id_names_no_file_elsewhere(tmp_path, clip_id):
    with pytest.raises(UserError, match="the name of a file"):
        latents.clip_file(tmp_path, clip_id)


def test_latents_beside_clips_are_no_clips(tmp_path):
    write_dataset([make_clip(0)], tmp_path / "records")
    official_clip(tmp_path / "official", "a_0_S")
    vipseg_video(tmp_path / "videos", "video")
    (version,) = (tmp_path / "records").glob("*/*")
    for path in (tmp_path / "records", version, tmp_path / "official", tmp_path / "videos"):
        before = open_source(path)
        with latents.writing(path / "latents", WANTED):
            pass
        after = open_source(path)
        assert after.clip_ids == before.clip_ids
        assert len(after[0].frames(0, 2)) == 2


def test_sources_say_which_frames_they_have(tmp_path):
    without = make_clip(1)
    without = without._replace(**{n: getattr(without, n)[:, :0] for n in OBJECT_FIELDS})
    write_dataset([make_clip(0), without], tmp_path / "records")
    records = open_source(tmp_path / "records")
    assert [records[i].frame_kinds for i in (0, 1)] == [("clean", "boxed"), ("clean",)]
    for name, missing in (("a", ()), ("b", ("images_bbox",)), ("c", ("images",))):
        folder = official_clip(tmp_path / "official", name)
        for part in missing:
            for picture in (folder / part).iterdir():
                picture.unlink()
    lonely = official_clip(tmp_path / "official", "d")
    (lonely / "bbox.npy").unlink()
    for picture in (lonely / "images_bbox").iterdir():
        picture.unlink()
    official = open_source(tmp_path / "official")
    kinds = [official[i].frame_kinds for i in range(4)]
    assert kinds == [("clean", "boxed"), ("clean", "boxed"), ("boxed",), ("clean",)]
    for clip, has in zip(official, kinds, strict=False):
        for kind, frames in (("clean", clip.frames), ("boxed", clip.boxed_frames)):
            more = (1,) if kind == "boxed" else ()
            if kind in has:
                assert len(frames(0, 2, *more)) == 2
            else:
                with pytest.raises(UserError):
                    frames(0, 2, *more)
    vipseg_video(tmp_path / "videos", "video")
    assert open_source(tmp_path / "videos")[0].frame_kinds == ("clean",)


OBJECT_FIELDS = ("box_world", "box_px", "object_pose")
