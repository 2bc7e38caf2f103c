import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import toy_worker

from data_prep import render_vipseg
from data_prep.engines import verify, verify_video
from data_prep.engines.cycles import load_clip
from data_prep.engines.rendered_clip import Packing
from data_prep.fanout.report import EXIT_INCOMPLETE
from data_prep.scenes import geometry
from data_prep.scenes.filmed import FRAMES, HEIGHT, WIDTH, make_scenes
from data_prep.scenes.scene import SceneObject, as_matrix, from_json
from data_prep.scenes.toys import BUILTIN_ASSETS
from posetraj_jax.data.pipeline import DataOptions, eval_examples
from posetraj_jax.data.sources import open_source
from posetraj_jax.errors import UserError

SIDES = dict.fromkeys(BUILTIN_ASSETS, tuple(toy_worker.SIDES))
VIDEO = "0000_orbit_car_duck"


PACKING = Packing(90, depth=True, licence="CC0-1.0", source="posetraj10k")


def run(folder, *more, out="out"):
    return render_vipseg.main(
        [
            f"--out={folder / out}",
            f"--render_python={toy_worker.make_python(folder)}",
            "--num_videos=2",
            "--workers=1",
            "--retries=0",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with videos in `out`."""
    folder = tmp_path_factory.mktemp("videos")
    assert run(folder) == 0
    return folder


def drawn(scene, folder):
    toy_worker.draw(scene, folder)
    return load_clip(folder, scene, PACKING)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return drawn(make_scenes(1, 0, SIDES)[0], tmp_path_factory.mktemp("clip") / VIDEO)


def test_videos_are_written_as_the_reader_expects_them(finished):
    source = open_source(finished / "out", min_frames=14)
    assert source.clip_ids == (VIDEO, "0001_dolly_plane_chair")
    assert source.num_frames == (FRAMES, FRAMES)
    video = source[0]
    assert video.frames(0, 2).shape == (2, HEIGHT, WIDTH, 3)
    assert video.tracks(0, 2).kinds == ("void", "stuff", "object", "object")
    assert source[1].tracks(0, 2).kinds == ("stuff", "object", "object")
    text = (finished / f"out/trajectory_CoTracker_all/{VIDEO}.json").read_text()
    assert list(json.loads(text)) == ["0", "43", "12400", "12401"]
    assert all(type(n) is int for track in json.loads(text).values() for p in track for n in p)


def test_cameras_and_tracks_are_those_of_the_scene(finished):
    video = open_source(finished / "out")[0]
    scene = from_json((finished / f"out/scenes/{VIDEO}.json").read_text())
    assert scene == make_scenes(1, 0, SIDES)[0]
    camera, tracks = video.camera(0, FRAMES), video.tracks(0, FRAMES)
    for frame, expected in enumerate(scene.cameras):
        rt = np.array(expected.rt)
        np.testing.assert_allclose(camera[frame, :9].reshape(3, 3), rt[:, :3], atol=1e-6)
        np.testing.assert_allclose(camera[frame, 9:], rt[:, 3], atol=1e-5)
        middles = [
            geometry.transform(np.array(thing.poses[frame]), (toy_worker.LOW + toy_worker.HIGH) / 2)
            for thing in scene.objects
        ]
        places = [*(scene.about["floor_points"][name] for name in ("0", "43")), *middles]
        pixels = geometry.project(np.array(places), np.array(expected.k), rt)
        np.testing.assert_allclose(np.trunc(pixels), tracks.points_px[frame], atol=1)
        assert (np.abs(pixels) + 1e-3 >= np.abs(tracks.points_px[frame])).all()  # towards zero


def test_videos_can_be_trained_on(finished):
    options = DataOptions(
        path=str(finished / "out"), height=128, width=192, batch_size=1, draw_box=False,
        condition_on_box=False, seed=0, track_kinds=("object",),
    )  # fmt: skip
    one, _ = eval_examples(options, 2)
    assert one.batch.camera_known.tolist() == [True]
    assert (one.batch.maps_uint8[0, :13] == (255, 0, 0)).all(axis=-1).any(axis=(1, 2)).all()


def test_the_same_arguments_give_the_same_bytes(finished, tmp_path):
    run(tmp_path)
    files = [path for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()]
    assert len(files) == 2 * (FRAMES + 3)
    for path in files:
        other = finished / path.relative_to(tmp_path)
        assert path.read_bytes() == other.read_bytes(), path.name


def test_a_stopped_run_goes_on_and_leaves_no_half_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOY_FAILS_AT", "0001_dolly_plane_chair")
    assert run(tmp_path) == EXIT_INCOMPLETE
    assert "cannot go on with 0001_dolly" in capsys.readouterr().out
    assert len(open_source(tmp_path / "out")) == 1
    monkeypatch.delenv("TOY_FAILS_AT")
    assert len(list((tmp_path / ".out.parts").glob("*/*.clip"))) == 1
    monkeypatch.setenv("TOY_FAILS_AT", VIDEO)  # which is finished, so that nobody makes it again
    assert run(tmp_path) == 0
    assert len(open_source(tmp_path / "out")) == 2
    assert not (tmp_path / ".out.parts").exists()


def test_an_unsound_video_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOY_MOVES_MASKS", "9")
    with pytest.raises(UserError, match="Nothing was made"):
        run(tmp_path)
    assert "frame 4: the mask of object 0 leaves" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_fast_engine_needs_no_blender(tmp_path):
    assert run(tmp_path, "--engine=fast", "--render_python=nowhere", "--num_videos=1") == 0
    source = open_source(tmp_path / "out")
    assert source.clip_ids == (VIDEO,)
    assert source[0].frames(0, 1).std() > 20


def test_an_existing_folder_and_a_missing_blender_are_named(tmp_path):
    with pytest.raises(UserError, match="make render-env"):
        run(tmp_path, "--render_python=nowhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").touch()
    with pytest.raises(UserError, match="There is something else in"):
        run(tmp_path)


def test_a_sound_video_has_no_problems(clip):
    assert verify_video.problems(clip) == []


@pytest.mark.parametrize("hides", [True, False], ids=["hidden", "cut"])
def test_objects_that_hide_each_other_or_are_cut_are_sound(tmp_path, hides):
    crane = make_scenes(4, 0, SIDES)[3]

    def standing(x: float, y: float) -> SceneObject:
        pose = geometry.standing_pose(np.array([x, y]), np.array([1.0, 0.0]))
        return SceneObject(asset="builtin:car", size=1.0, poses=(as_matrix(pose),) * FRAMES)

    # Down from above: at last, the second object stands behind the middle of the first.
    objects = (standing(0.0 if hides else 2.2, -0.5), standing(-0.2, 0.8))
    clip = drawn(replace(crane, cameras=crane.cameras[::-1], objects=objects), tmp_path / "a")
    seen = clip.tracks_visible[:, verify_video.middle_track(clip, 1)]
    assert seen.all() != hides
    assert (np.array(clip.provenance["mesh_rect_px"])[..., 2].max() > WIDTH) != hides
    assert verify_video.problems(clip) == []
    assert verify.problems(clip) == []


def black() -> bytes:
    return cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def without(clip, thing: int) -> tuple[bytes, ...]:
    """Masks in which the pixels of one object are the floor's."""
    masks = [verify.decode(png) for png in clip.masks_png]
    return tuple(
        cv2.imencode(".png", np.where(mask == thing + 1, 0, mask))[1].tobytes() for mask in masks
    )


def exchanged(clip) -> tuple[bytes, ...]:
    swap = np.array([0, 2, 1], np.uint8)
    return tuple(cv2.imencode(".png", swap[verify.decode(p)])[1].tobytes() for p in clip.masks_png)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"box_px": c.box_px + np.float32(0.5)}, "px from the projection of box_world"),
        (lambda c: {"camera_rt": np.roll(c.camera_rt, 1, axis=0)}, "px from the projection"),
        (lambda c: {"camera_rt": c.camera_rt[[0] * FRAMES]}, "the camera stands still"),
        (lambda c: {"object_pose": np.roll(c.object_pose, 1, axis=0)}, "does not carry its box"),
        (lambda c: {"masks_png": c.masks_png[::-1]}, "leaves its box"),
        (lambda c: {"masks_png": exchanged(c)}, "leaves its box"),
        (lambda c: {"masks_png": without(c, 1)}, "frame 0: object 1 has 0 pixels"),
        (lambda c: {"frames_jpeg": (black(),) * FRAMES}, "mean brightness 0"),
        (lambda c: {"tracks_px": c.tracks_px + np.float32(70)}, "px from all objects"),
        (lambda c: {"tracks_px": c.tracks_px + np.float32(900)}, "leaves the picture"),
        (lambda c: {"tracks_px": np.roll(c.tracks_px, 8, axis=1)}, "is on another object"),
        (lambda c: {"tracks_visible": ~c.tracks_visible}, "is hidden in the first frame"),
    ],
)
def test_each_defect_is_found(clip, change, message):
    lines = verify_video.problems(clip._replace(**change(clip)))
    assert any(message in line for line in lines), lines[:3]


def test_a_mask_that_lacks_a_part_is_found(clip):
    mask = verify.decode(clip.masks_png[0])
    columns = np.nonzero((mask == 1).any(axis=0))[0]
    mask[:, columns[0] : columns[0] + 4] = 0
    png = cv2.imencode(".png", mask)[1].tobytes()
    lines = verify_video.problems(clip._replace(masks_png=(png, *clip.masks_png[1:])))
    assert any("frame 0" in line and "outline" in line for line in lines)
