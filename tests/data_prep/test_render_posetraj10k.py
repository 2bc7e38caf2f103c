"""From objects to packed clips, with the fast engine, and with a stand-in for Blender."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_worker

from data_prep import render_posetraj10k
from data_prep.engines import verify
from data_prep.fanout.report import EXIT_INCOMPLETE
from posetraj_jax.data.pipeline import DataOptions, eval_examples
from posetraj_jax.data.records import open_dataset
from posetraj_jax.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = ("--paths_per_object=2", "--frames=3", "--width=192", "--height=128")


def run(folder: Path, *more: str, out: str = "out", engine: str = "fast") -> int:
    return render_posetraj10k.main(
        [f"--out={folder / out}", f"--engine={engine}", "--workers=1", *SMALL, *more]
    )


def record_file(folder: Path) -> Path:
    (path,) = folder.glob("*/*/*.array_record*")
    return path


def write_cube(path: Path, sides=(0.5, 1.0, 0.4)) -> None:
    """A box as .obj text, y up; each side a group of its own colour."""
    x, y, z = np.array(sides) / 2
    corners = [(a * x, b * z, c * y) for c in (-1, 1) for b in (-1, 1) for a in (-1, 1)]
    faces = [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]
    lines = [f"v {a} {b} {c} {0.5 + a} {0.5 + b} {0.5 + c}" for a, b, c in corners]
    lines += [f"f {' '.join(map(str, face))}" for face in faces]
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the clips of two toys in `out`."""
    folder = tmp_path_factory.mktemp("clips")
    assert run(folder, "--objects=builtin:car,duck") == 0
    return folder


@pytest.fixture(scope="module")
def clip(finished):
    return open_dataset(finished / "out")[0]


def test_clips_are_rendered_checked_and_packed(finished, clip):
    records = open_dataset(finished / "out")
    assert sorted(name.rsplit("_", 1)[0] for name in records.clip_ids) == [
        "car_0", "car_1", "duck_0", "duck_1",
    ]  # fmt: skip
    assert {name.rsplit("_", 1)[1] for name in records.clip_ids[:2]} == {"S", "circle"}
    assert clip.source == "posetraj10k/fast-1"
    assert clip.licence == "CC0-1.0"
    assert len(clip.frames_jpeg) == len(clip.depths_png) == 3
    assert clip.provenance["object_files"] == [{"uid": "car", "name": "builtin:car"}]
    assert verify.problems(clip) == []
    assert not (finished / "out/.posetraj10k.parts").exists()


def test_depth_is_that_of_floor_and_object(clip):
    depth = verify.decode(clip.depths_png[0]) / 1000.0
    mask = verify.decode(clip.masks_png[0])
    box = clip.box_world[0, 0] @ clip.camera_rt[0, :, :3].T + clip.camera_rt[0, :, 3]
    inside = depth[mask == 1]
    assert box[:, 2].min() - 0.001 <= inside.min()
    assert inside.max() <= box[:, 2].max() + 0.001
    bottom = np.flatnonzero(mask[-1] == 0)[0]
    # The floor at the bottom of the picture: 2.3 m below the camera, by the slope of the ray.
    k, rt = clip.camera_k[0].astype(np.float64), clip.camera_rt[0].astype(np.float64)
    ray = np.linalg.inv(k) @ [bottom + 0.5, 127.5, 1.0] @ rt[:, :3]
    assert depth[-1, bottom] == pytest.approx(-2.3 / ray[2], abs=0.001)


@pytest.mark.parametrize("options", [("--workers=2",), ("--seed=0",)], ids=["parallel", "again"])
def test_the_same_arguments_give_the_same_bytes(finished, tmp_path, options):
    run(tmp_path, "--objects=builtin:car,duck", *options)
    same = record_file(tmp_path / "out").read_bytes()
    assert same == record_file(finished / "out").read_bytes()


def test_clips_of_an_object_do_not_depend_on_the_others(finished, tmp_path):
    run(tmp_path, "--objects=builtin:teapot,duck")
    records, before = open_dataset(tmp_path / "out"), open_dataset(finished / "out")
    chosen = {clip_id: n for n, clip_id in enumerate(records.clip_ids)}
    for number, clip_id in enumerate(before.clip_ids):
        if clip_id.startswith("duck"):
            assert records[chosen[clip_id]].frames_jpeg == before[number].frames_jpeg


def test_another_seed_gives_other_clips(finished, tmp_path):
    run(tmp_path, "--objects=builtin:car,duck", "--seed=1")
    assert record_file(tmp_path / "out").read_bytes() != record_file(finished / "out").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if name == "moving" else pytest.mark.full)
        for name, options in {
            "moving": ("--camera=moving", "--objects_per_clip=2"),
            "random": ("--camera=random", "--light=random", "--floor=random", "--no_depth"),
            "curves": ("--curves", "ellipse", "line", "spiral", "eight", "--light=overhead"),
            "official": ("--heading=centre", "--width=240", "--height=160"),
        }.items()
    ],
)
def test_what_is_filmed_can_be_chosen(tmp_path, options):
    run(tmp_path, "--objects=builtin:car,duck,plane", *options)
    records = open_dataset(tmp_path / "out")
    assert len(records) == 6
    clips = [records[n] for n in range(6)]
    assert all(verify.problems(clip) == [] for clip in clips)
    moves = [bool(np.ptp(clip.camera_rt, axis=0).max() > 1e-3) for clip in clips]
    assert moves == ["--camera=moving" in options] * 6
    assert {clip.box_px.shape[1] for clip in clips} == {2 if "--camera=moving" in options else 1}
    assert all(bool(clip.depths_png) != ("--no_depth" in options) for clip in clips)


def test_pictures_can_be_floor_and_sky(tmp_path):
    floor, sky = tmp_path / "floor.png", tmp_path / "sky.hdr"
    cv2.imwrite(str(floor), np.full((8, 8, 3), (0, 0, 200), np.uint8))
    cv2.imwrite(str(sky), np.full((16, 32, 3), 0.5, np.float32))
    pictures = (f"--floor_pictures={floor}", f"--skies={sky}")
    run(tmp_path, "--objects=builtin:car", *pictures)
    clip = open_dataset(tmp_path / "out")[0]
    corner = verify.decode(clip.frames_jpeg[0])[-8:, :8].reshape(-1, 3).mean(axis=0)
    assert corner[0] > 5 * corner[1]
    assert clip.provenance["floor"] == "floor.png"


def test_objects_from_files_good_and_bad(tmp_path, capsys):
    folder = tmp_path / "objects"
    folder.mkdir()
    write_cube(folder / "a box, größer.obj")
    write_cube(folder / "plain.obj")
    write_cube(folder / "flat.obj", sides=(1.0, 1.0, 0.05))
    (folder / "broken.glb").write_bytes(b"glTF\2\0\0\0 nonsense")
    (folder / "empty.glb").write_bytes(b"")
    (folder / "scripts.blend").write_bytes(b"BLENDER-v300")
    assert run(tmp_path, f"--objects={folder}", "--workers=2") == EXIT_INCOMPLETE
    said = capsys.readouterr().out
    assert "4 of 6 rejected" in said
    for name, reason in {
        "flat.obj": "flat: ",
        "broken.glb": "broken",
        "empty.glb": "an empty file",
        "scripts.blend": "may carry scripts",
    }.items():
        assert any(name in line and reason in line for line in said.splitlines()), name
    report = json.loads((tmp_path / "out/posetraj10k-report.json").read_text())
    assert len(report["finished"]) == 2
    assert set(report["rejected"]) == {"flat.obj", "broken.glb", "empty.glb", "scripts.blend"}
    records = open_dataset(tmp_path / "out")
    assert len(records) == 4
    files = {tuple(records[n].provenance["object_files"][0]["name"] for n in range(4))}
    assert files == {("a box, größer.obj",) * 2 + ("plain.obj",) * 2}
    assert run(tmp_path, f"--objects={folder}", "--accept_rejects", out="again") == 0


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """Clips are finished one by one, so a crash in the last one costs only that."""
    python = f"--render_python={toy_worker.make_python(tmp_path)}"
    arguments = ("--objects=builtin:car,duck", python, "--retries=0")
    clip_id = open_dataset_ids(tmp_path, *arguments)[3]
    shutil.rmtree(tmp_path / "names")
    monkeypatch.setenv("TOY_FAILS_AT", clip_id)
    assert run(tmp_path, *arguments, engine="cycles") == EXIT_INCOMPLETE
    parts = list((tmp_path / "out/.posetraj10k.parts").glob("*/*.clip"))
    assert len(parts) == 3
    times = {path: path.stat().st_mtime_ns for path in parts}
    monkeypatch.delenv("TOY_FAILS_AT")
    assert len(open_dataset(tmp_path / "out")) == 2  # the other object
    kept = [path for path in parts if path.stat().st_mtime_ns == times[path]]
    assert run(tmp_path, *arguments, engine="cycles") == 0
    assert len(kept) == 3
    assert len(open_dataset(tmp_path / "out")) == 4


def open_dataset_ids(folder: Path, *arguments: str) -> tuple[str, ...]:
    run(folder, *arguments, out="names", engine="cycles")
    return open_dataset(folder / "names").clip_ids


def test_an_unsound_clip_is_not_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOY_MOVES_MASKS", "5")
    python = f"--render_python={toy_worker.make_python(tmp_path)}"
    arguments = ("--objects=builtin:car,duck", python, "--retries=0", "--frames=5")
    with pytest.raises(UserError, match="Nothing was made"):
        run(tmp_path, *arguments, engine="cycles")
    assert "frame 4: the mask of object 0 leaves its" in capsys.readouterr().out


def test_training_reads_them(finished):
    options = DataOptions(
        path=str(finished / "out"), height=128, width=192, batch_size=1, draw_box=True,
        condition_on_box=True, seed=0, num_frames=3,
    )  # fmt: skip
    example = eval_examples(options, 1)[0]
    assert (example.batch.maps_uint8 == (255, 0, 0)).all(axis=-1).any()
    assert (example.batch.frames_uint8 == (255, 0, 0)).all(axis=-1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--paths_per_object=0"], "--paths_per_object is 0"),
        (["--jpeg_quality=99"], "it goes from 1 to 95"),
        (["--frames=1", "--seed=-1"], r"--seed is -1(.|\n)*--frames is 1"),
        (["--heading=centre", "--curves", "line"], "does not go with"),
        (["--floor_pictures=nowhere.png"], "no picture nowhere.png"),
        ([f"--skies={__file__}"], "cannot read 1 of the pictures"),
        (["--objects=builtin:moon"], "no built-in object 'moon'"),
        (["--objects=nowhere"], "nowhere"),
        (["--engine=cycles", "--render_python=nowhere"], "make render-env"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, *options)


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out/posetraj10k/.* cannot be made: .*/file is no folder"):
        run(tmp_path, out="file/out")


def test_an_existing_dataset_is_named_before_rendering(finished):
    with pytest.raises(UserError, match="There is something else in"):
        run(finished, "--seed=1")


def test_the_same_command_again_finds_its_dataset(finished, capsys):
    before = record_file(finished / "out").stat().st_mtime_ns
    assert run(finished, "--objects=builtin:car,duck") == 0
    assert "is there already" in capsys.readouterr().out
    assert record_file(finished / "out").stat().st_mtime_ns == before


def test_a_texture_or_picture_that_changed_is_rendered_again(tmp_path):
    """Though the object's own file is the same."""
    folder = tmp_path / "objects"
    folder.mkdir()
    write_cube(folder / "box.obj")
    text = (folder / "box.obj").read_text()
    (folder / "box.obj").write_text("mtllib box.mtl\nusemtl paint\n" + text)
    (folder / "box.mtl").write_text("newmtl paint\nKd 1 0 0\n")
    floor = tmp_path / "floor.png"
    cv2.imwrite(str(floor), np.full((8, 8, 3), 60, np.uint8))
    parse = render_posetraj10k.make_parser().parse_args
    options = parse(
        [f"--objects={folder}", "--out=x", "--engine=fast", f"--floor_pictures={floor}"]
    )

    def digest() -> str:
        render_posetraj10k._files_beside.cache_clear()
        (task,), _ = render_posetraj10k.tasks_of(options)
        return task.folder(tmp_path).name

    first = digest()
    assert digest() == first
    (folder / "box.mtl").write_text("newmtl paint\nKd 0.5 0 0\n")
    second = digest()
    cv2.imwrite(str(floor), np.full((9, 9, 3), 60, np.uint8))
    assert len({first, second, digest()}) == 3


def test_user_errors_exit_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.render_posetraj10k", f"--out={tmp_path}", "--frames=0"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--frames is 0, it goes from 2 to 1000" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"box_px": c.box_px + np.float32(0.5)}, "px from the projection of box_world"),
        (lambda c: {"box_px": c.box_px * np.float32(0.98)}, "leaves its box"),
        (lambda c: {"object_pose": np.roll(c.object_pose, 1, axis=0)}, "does not carry its box"),
        (lambda c: {"tracks_px": c.tracks_px + np.float32(30)}, "floor track"),
        (lambda c: {"tracks_px": c.tracks_px - np.float32(90)}, "px from side"),
        (lambda c: {"masks_png": c.masks_png[::-1]}, "leaves its box"),
        (lambda c: {"frames_jpeg": (_black(),) * 3}, "mean brightness 0"),
        (lambda c: {"tracks_visible": ~c.tracks_visible}, "not as visible as the depth says"),
    ],
)
def test_each_defect_is_found(clip, change, message):
    assert any(message in line for line in verify.problems(clip._replace(**change(clip))))


def test_a_loose_box_is_found(clip):
    """The box of an unmodified cage: larger than what is seen, though it contains it."""
    middle = clip.box_world.mean(axis=2, keepdims=True)
    world = (middle + 1.1 * (clip.box_world - middle)).astype(np.float32)
    px = np.stack(
        [
            verify.geometry.project(w.astype(np.float64), k, rt)
            for w, k, rt in zip(world, clip.camera_k, clip.camera_rt, strict=True)
        ]
    ).astype(np.float32)
    lines = verify.problems(clip._replace(box_world=world, box_px=px))
    assert any("off side" in line for line in lines)
    assert not any("leaves its box" in line for line in lines)


def test_a_hidden_part_of_the_object_is_found(clip):
    """A mask that lacks a part still lies in the box, but no longer fills the outline."""
    mask = verify.decode(clip.masks_png[0])
    columns = np.nonzero(mask.any(axis=0))[0]
    mask[:, columns[0] : columns[0] + 4] = 0
    png = cv2.imencode(".png", mask)[1].tobytes()
    lines = verify.problems(clip._replace(masks_png=(png, *clip.masks_png[1:])))
    assert any("frame 0" in line and "outline" in line for line in lines)


def test_help_lists_every_group(capsys):
    with pytest.raises(SystemExit):
        render_posetraj10k.main(["--help"])
    said = capsys.readouterr().out
    assert all(
        w in said for w in ("what is filmed", "how it is rendered", "how the work is spread")
    )


def _black() -> bytes:
    return cv2.imencode(".jpg", np.zeros((128, 192, 3), np.uint8))[1].tobytes()
