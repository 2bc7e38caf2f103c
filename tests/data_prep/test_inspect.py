"""What is counted and drawn of a dataset; `--validate` is in test_validate.py."""

import subprocess
import sys
import tracemalloc
from copy import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_clips import FRAMES, HEIGHT, WIDTH, real_clip, sound_clip

from data_prep import inspect
from data_prep.looking import clip_sheet, overview
from data_prep.looking.dataset import Seen
from data_prep.looking.geometry_checks import angles_deg
from data_prep.looking.statistics import Statistics, facts_of
from posetraj_jax.data import record_codec
from posetraj_jax.data.clip import ARRAYS, Clip
from posetraj_jax.data.records import write_dataset
from posetraj_jax.data.sources import RecordClip, open_source
from posetraj_jax.errors import UserError
from tests.data.clips import official_clip, vipseg_video

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT / "posetraj_jax/data/videos"
CLIPS = ROOT / "posetraj_jax/data/clips"


def seen(clip: Clip) -> Seen:
    return Seen(RecordClip(clip), clip, len(clip.frames_jpeg))


def sheet_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_counts_and_sheet_of_rendered_clips(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset([sound_clip(n) for n in range(3)], tmp_path / "data", name="three")
    inspect.main(["data"])
    text = capsys.readouterr().out
    for part in (
        "three: clip records in data",
        "3 with 12 frames",
        "4 per clip",
        "96x64",
        "S (2), circle (1)",
        "cameras       still",
        "3D boxes      1 per clip",
        "3 and 3 clips",
        "1 floor, 1 surface per clip",
        "24: 100.0% visible, 0.0% outside the picture",
        "degrees: 5 % 30.0, median 30.0",
        "three-sheet.png",
    ):
        assert part in text, part
    assert sheet_of(tmp_path / "three-sheet.png").shape[2] == 3


def test_counts_of_real_video_leave_out_what_is_outside(tmp_path):
    clip = real_clip()
    facts = facts_of(seen(clip))
    assert (facts.num_boxes, facts.camera, facts.parts) == (0, "unknown", ("masks",))
    steps = np.linalg.norm(np.diff(clip.tracks_px[:, 0], axis=0), axis=1)
    np.testing.assert_allclose(facts.steps_px[:, 0], steps, rtol=1e-5)
    statistics = Statistics()
    statistics.add(facts)
    text = "\n".join(statistics.lines(num_bytes=2_000_000))
    assert "8: 62.5% visible, 37.5% outside the picture" in text
    assert "cameras       unknown" in text
    assert "2.0 MB" in text
    assert "turning" not in text


def test_lengths_and_moving_cameras_are_told_apart(tmp_path):
    statistics, clip = Statistics(), sound_clip()
    for length in range(2, FRAMES + 1):
        names = {*ARRAYS, "frames_jpeg", "masks_png", "depths_png"} - {"track_objects"}
        short = clip._replace(**{name: copy(getattr(clip, name)[:length]) for name in names})
        short.camera_rt[-1, 0, 3] += 0.1
        statistics.add(facts_of(seen(short)))
    lines = list(statistics.lines(0))
    assert any(line.split() == ["2", "1", "#" * 30] for line in lines)
    assert any(line.split() == ["cameras", "moving"] for line in lines)


@pytest.mark.parametrize("kind", ["vipseg", "official", "maps"])
def test_folders_are_counted_and_drawn(tmp_path, capsys, kind):
    root = tmp_path / "root"
    if kind == "vipseg":
        vipseg_video(root, "one")
        expected = ("VIPSeg's folders", "2 object", "1 void", "frames        16 per clip")
    else:
        folder = official_clip(root, "uid_0_circle")
        expected = ("PoseTraj-10K's folders", "paths         circle", "3D boxes      1 per clip")
        if kind == "maps":
            (folder / "traj.npy").unlink()
            expected += ("maps that are drawn already",)
    inspect.main([str(root), f"--out={tmp_path / 'sheet.png'}"])
    text = capsys.readouterr().out
    for part in expected:
        assert part in text, part
    assert sheet_of(tmp_path / "sheet.png").size


def test_a_sheet_has_frames_boxes_maps_and_tracks_in_their_places():
    clip = sound_clip()
    facts = facts_of(seen(clip))
    side = 240
    block = overview.draw_block(RecordClip(clip), facts, side)
    size = round(side / 1.5), side
    assert block.shape[1] == overview.STRIP + 4 * (side + overview.GAP)
    tops = [overview.TITLE + row * (size[0] + overview.GAP) for row in range(4)]
    assert block.shape[0] == tops[-1] + size[0] + overview.GAP
    rows = [block[top : top + size[0], overview.STRIP :] for top in tops]
    assert not (rows[0] == (255, 0, 0)).all(axis=2).any()
    boxes = (rows[1][..., 0] > 200) & (rows[1][..., 1:].max(axis=2) < 60)
    assert boxes.sum() > 100
    assert {(0, 0, 0), (255, 0, 0), (0, 255, 0)} <= {tuple(p) for p in rows[2].reshape(-1, 3)}
    assert (rows[3] != rows[0]).any(axis=2).mean() < 0.2
    end = np.trunc(clip.tracks_px[-1, 0] * 2.5).astype(int)
    left = 3 * (side + overview.GAP)
    shown = rows[3][end[1], left + end[0]]
    assert tuple(shown) != tuple(rows[0][end[1], left + end[0]])


@pytest.mark.parametrize("count", [1, 2, 5, 6, 40])
def test_sheets_stay_small_and_blocks_do_not_overlap(count):
    cell = overview.cell_for(count)
    assert overview.SMALLEST_CELL <= cell.side <= overview.CELL
    height = overview.TITLE + 4 * (round(cell.side / 1.5) + overview.GAP)
    shape = (height, overview.STRIP + 4 * (cell.side + overview.GAP), 3)
    sheet = overview.join([np.full(shape, 100 + n, np.uint8) for n in range(count)], cell.across)
    assert max(sheet.shape) <= overview.LARGEST
    levels = np.bincount(sheet[..., 0].ravel(), minlength=256)[100 : 100 + count]
    assert (levels == shape[0] * shape[1]).all()


def test_too_many_clips_for_a_sheet_are_refused():
    with pytest.raises(UserError, match=r"at most [0-9]+ clips"):
        overview.cell_for(1000)


def test_large_frames_are_scaled_down(tmp_path):
    picture = np.zeros((1080, 1920, 3), np.uint8)
    folder = tmp_path / "uid_0_S"
    for part in ("images", "traj_vid_enhanced"):
        (folder / part).mkdir(parents=True)
        for t in range(3):
            Image.fromarray(picture).save(folder / part / f"{t}.png")
    inspect.main([str(tmp_path), f"--out={tmp_path / 'sheet.png'}"])
    assert max(sheet_of(tmp_path / "sheet.png").shape) < 1300


def test_several_datasets_are_listed(tmp_path, capsys):
    write_dataset([sound_clip()], tmp_path / "a" / "rendered", name="one")
    write_dataset([sound_clip()], tmp_path / "a" / "rendered", name="two")
    vipseg_video(tmp_path / "b", "video")
    with pytest.raises(UserError, match="is not one dataset") as caught:
        inspect.main([str(tmp_path)])
    for part in ("one/1.0.0", "two/1.0.0", "VIPSeg", "3 in it"):
        assert part in caught.value.got
    with pytest.raises(UserError, match="no such folder"):
        inspect.main([str(tmp_path / "nowhere")])
    (tmp_path / "clips.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="a file, not a folder"):
        inspect.main([str(tmp_path / "clips.zip")])
    (tmp_path / "videos/imgs").mkdir(parents=True)
    (tmp_path / "videos/output_cotracker_all").mkdir()
    for more in ([], ["--validate"]):
        with pytest.raises(UserError, match=r"No videos in|There are no clips in"):
            inspect.main([str(tmp_path / "videos"), *more])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        inspect.main([str(tmp_path / "empty")])


def test_an_illegal_record_is_named_while_counting(tmp_path, monkeypatch):
    monkeypatch.setattr(record_codec, "check_clip", lambda clip: None)
    write_dataset([sound_clip(0, frames_jpeg=())], tmp_path)
    with pytest.raises(UserError, match="Clip 'clip-000' is not a legal record"):
        inspect.main([str(tmp_path), f"--out={tmp_path / 'sheet.png'}"])


def test_chosen_clips_are_drawn_and_others_named(tmp_path):
    write_dataset([sound_clip(n) for n in range(3)], tmp_path / "data")
    out = f"--out={tmp_path / 'sheet.png'}"
    inspect.main([str(tmp_path / "data"), out, "--clips", "clip-001"])
    one = sheet_of(tmp_path / "sheet.png")
    inspect.main([str(tmp_path / "data"), out, "--num_clips=2"])
    assert sheet_of(tmp_path / "sheet.png").size > 1.5 * one.size
    with pytest.raises(UserError, match="no_such"):
        inspect.main([str(tmp_path / "data"), out, "--clips", "no_such"])
    with pytest.raises(SystemExit):
        inspect.main([str(tmp_path / "data"), "--out=sheet.txt"])


def test_sheets_show_every_frame_with_boxes(tmp_path):
    inspect.main([str(CLIPS), f"--sheets={tmp_path}", "--clips", "car_0_circle"])
    (path,) = tmp_path.iterdir()
    sheet = sheet_of(path)
    assert sheet.shape == (4 * 320, 4 * 576, 3)
    assert (sheet == (255, 0, 0)).all(axis=-1).any(), "no red box"
    with pytest.raises(UserError, match="no_such"):
        inspect.main([str(CLIPS), f"--sheets={tmp_path}", "--clips", "no_such"])


def test_sheets_show_tracks_or_nothing(tmp_path):
    video = "0000_orbit_car_duck"
    source = open_source(VIDEOS)
    clip = source[source.clip_ids.index(video)]
    frames = clip.frames(0, 16)
    height, width = frames.shape[1:3]
    inspect.main([str(VIDEOS), f"--sheets={tmp_path / 'drawn'}", "--clips", video])
    sheet = sheet_of(tmp_path / "drawn" / f"{video}.png")
    assert sheet.shape == (4 * height, 4 * width, 3)
    tracks = clip.tracks(0, 16)
    for frame in (0, 6):
        row, column = divmod(frame, 4)
        for number in np.flatnonzero(tracks.visible[frame]):
            x, y = tracks.points_px[frame, number].astype(int)
            shown = sheet[row * height + y, column * width + x]
            assert tuple(shown) == clip_sheet.GREEN
    inspect.main([str(VIDEOS), f"--sheets={tmp_path / 'plain'}", "--plain", "--clips", video])
    plain = sheet_of(tmp_path / "plain" / f"{video}.png")
    np.testing.assert_array_equal(plain[:height, :width], frames[0])


def test_sheets_of_real_and_of_boxed_clips(tmp_path):
    clip = real_clip()
    sheet = clip_sheet.draw_clip(seen(clip))
    assert sheet.shape == (HEIGHT, 4 * WIDTH, 3)
    folder = official_clip(tmp_path, "uid_0_S")
    for part in ("images", "traj_vid_enhanced"):
        for path in (folder / part).iterdir():
            path.unlink()
    boxed = open_source(tmp_path)[0]
    sheet = clip_sheet.draw_clip(Seen(boxed, None, 16))
    assert sheet[40, 40].tolist() == [100, 100, 100]


def test_angles_are_exact_when_small_and_when_large():
    angles = np.deg2rad([1e-5, 0.5, 90.0, 179.999])
    turned = np.stack(
        [[[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]] for a in angles]
    )
    still = np.broadcast_to(np.eye(3), turned.shape)
    np.testing.assert_allclose(angles_deg(still, turned), np.rad2deg(angles), rtol=1e-6)


@pytest.mark.parametrize("what", ["--num_clips=1", "--validate"])
def test_memory_does_not_grow_with_the_dataset(tmp_path, monkeypatch, what):
    """300 records of 60 kB each: 18 MB in all."""
    pad = {"padding": "x" * 40_000}
    clips = (sound_clip(number, provenance=pad) for number in range(300))
    write_dataset(clips, tmp_path / "data", clips_per_shard=50)
    monkeypatch.chdir(tmp_path)  # where the sheet goes
    arguments = [what, *(["--threads=1"] if what == "--validate" else [])]
    inspect.main([str(VIDEOS), *arguments])  # what is loaded once
    tracemalloc.start()
    inspect.main([str(tmp_path / "data"), *arguments])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--validate --out=a.png", "--out goes with counts and one sheet, not with --validate"),
        ("--validate --plain", "--plain goes with --sheets, not with --validate"),
        ("--validate --clips a", "--clips goes with counts and one sheet or --sheets, not"),
        ("--validate --num_clips=6", "--num_clips goes with counts and one sheet, not"),
        ("--plain", "--plain goes with --sheets, not with counts and one sheet"),
        ("--sheets=s --out=a.png", "--out goes with counts and one sheet, not with --sheets"),
        ("--sheets=s --num_clips=6", "--num_clips goes with counts and one sheet, not"),
        ("--most=50", "--most goes with --validate, not with counts and one sheet"),
        ("--sheets=s --threads=1", "--threads goes with --validate, not with --sheets"),
        ("--clips a --num_clips=6", "not allowed with argument --clips"),
        ("--validate --sheets=s", "not allowed with argument --validate"),
        ("--plain --most=1", "--plain goes with --sheets, not with counts and one sheet; --most"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, capsys, arguments, message):
    """Before anything is read, and also where the value is the default one."""
    with pytest.raises(SystemExit) as caught:
        inspect.main([str(tmp_path / "nowhere"), *arguments.split()])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_every_option_is_said_to_belong_somewhere():
    parser_names = vars(inspect._parse(["data"])).keys() - {"dataset", "validate", "sheets"}
    assert parser_names == inspect.BELONGS_TO.keys()


def test_exit_codes(tmp_path):
    folder = write_dataset([sound_clip(0), sound_clip(1)], tmp_path / "data")
    command = [sys.executable, "-m", "data_prep.inspect", str(tmp_path / "data"), "--validate"]
    good = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert "2 clips with 8 frames read, 0 clips with problems" in good.stdout
    (shard,) = folder.glob("*array_record-*")
    shard.write_bytes(shard.read_bytes()[:-1000])
    bad = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "error: 2 of 2 clips" in bad.stderr
    assert str(shard) in bad.stdout
