"""Real renders: minutes long, and only where the render environment is (`make render-env`)."""

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest

import posetraj_jax
from data_prep.engines import render_env, verify
from data_prep.engines.rendered_clip import load_clip
from data_prep.scenes import geometry
from data_prep.scenes.posetraj import make_scenes
from data_prep.scenes.scene import Camera, SceneObject, as_matrix, from_json
from data_prep.scenes.toys import BUILTIN_ASSETS

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not render_env.DEFAULT_PYTHON.is_file(), reason="no .venv-render: run `make render-env`"
    ),
]
WIDTH, HEIGHT = 192, 112


def small_scene(frames: int = 2, **changes):
    scene = make_scenes(1, 0, {"builtin:truck": (0.42, 1.0, 0.57)})[0]
    camera = Camera(as_matrix(geometry.official_k(WIDTH, HEIGHT)), scene.cameras[0].rt)
    thing = dataclasses.replace(scene.objects[0], poses=scene.objects[0].poses[:frames])
    small = {"width": WIDTH, "height": HEIGHT, "cameras": (camera,) * frames, "objects": (thing,)}
    return dataclasses.replace(scene, **(small | changes))


def render(scene, folder):
    folder.mkdir(exist_ok=True)
    render_env.render(
        render_env.DEFAULT_PYTHON, [scene], folder, workers=1, threads=1, on_report=lambda r: None
    )
    return folder / scene.clip_id


def test_the_same_scene_gives_the_same_pixels(tmp_path):
    first, second = (render(small_scene(), tmp_path / name) for name in "ab")
    assert load_clip(first, jpeg_quality=90).frames_jpeg
    for name in ("frame_000.png", "frame_001.png", "mask_001.png", "annotations.npz"):
        assert same_content(first / name, second / name), name


def same_content(a, b) -> bool:
    if a.suffix == ".npz":
        one, two = np.load(a), np.load(b)
        return all(np.array_equal(one[key], two[key]) for key in one.files)
    return np.array_equal(verify.decode(a.read_bytes()), verify.decode(b.read_bytes()))


def test_any_pinhole_camera_projects_exactly(tmp_path):
    """Other focal lengths, principal points off the middle, a camera that moves and looks back."""
    turn = np.diag([-1.0, -1, 1])
    rt = geometry.official_rt()
    behind = np.concatenate([rt[:, :3] @ turn, rt[:, 3:]], axis=1)
    wide = np.array([[150.0, 0, 110], [0, 190, 40], [0, 0, 1]])
    tall = np.array([[260.0, 0, 80], [0, 170, 60], [0, 0, 1]])
    cameras = tuple(Camera(as_matrix(k), as_matrix(m)) for k, m in ((wide, rt), (tall, behind)))
    clip = load_clip(render(small_scene(cameras=cameras), tmp_path), jpeg_quality=90)
    assert verify.problems(clip) == []


def test_two_objects_have_their_own_masks_and_hide_each_other(tmp_path):
    def at(x, y, asset):
        pose = geometry.standing_pose(np.array([x, y]), np.array([0.0, -1.0]))
        return SceneObject(asset=asset, size=1.0, poses=(as_matrix(pose),))

    scene = small_scene(1, objects=(at(0, 0, "builtin:suzanne"), at(0, 0.9, "builtin:car")))
    clip = load_clip(render(scene, tmp_path), jpeg_quality=90)
    mask = verify.decode(clip.masks_png[0])
    assert set(np.unique(mask)) == {0, 1, 2}
    for thing in (0, 1):
        rows, columns = np.nonzero(mask == thing + 1)
        pixels = np.stack([columns, rows], axis=-1) + 0.5
        assert verify.inside_distance(pixels, clip.box_px[0, thing]).min() > -0.05
    centre = [i for i, kind in enumerate(clip.track_kinds) if kind == "centre"]
    assert clip.tracks_visible[0, centre].tolist() == [True, False]


def test_a_killed_worker_leaves_no_half_clip(tmp_path):
    scene = small_scene(14)
    job = tmp_path / "job.json"
    job.write_text(
        f'{{"scenes": [{render_env.to_json(scene)}], "out": "{tmp_path}", "threads": 1}}'
    )
    process = subprocess.Popen(
        [render_env.DEFAULT_PYTHON, "-P", render_env.WORKER, "render", job], stdout=subprocess.PIPE
    )
    for line in process.stdout:
        if line.startswith(render_env.REPORT.encode()):
            break
    process.kill()
    process.wait()
    assert not (tmp_path / scene.clip_id).exists()
    assert (tmp_path / f".partial-{scene.clip_id}").is_dir()


def test_unknown_asset_is_refused(tmp_path):
    with pytest.raises(render_env.UserError, match="unknown asset 'builtin:moon'"):
        render_env.measure(render_env.DEFAULT_PYTHON, ["builtin:moon"])


def test_measured_sides_are_normalised():
    sides = render_env.measure(render_env.DEFAULT_PYTHON, BUILTIN_ASSETS)
    assert list(sides) == list(BUILTIN_ASSETS)
    np.testing.assert_allclose([max(s) for s in sides.values()], 1.0, atol=1e-5)


def test_a_frame_of_a_shipped_video_renders_again_the_same(tmp_path):
    """What lies beside the shipped videos is all that made them."""
    folder = Path(posetraj_jax.__file__).parent / "data/videos"
    video = sorted((folder / "imgs").iterdir())[1].name
    scene = from_json((folder / f"scenes/{video}.json").read_text())
    first = [dataclasses.replace(thing, poses=thing.poses[:1]) for thing in scene.objects]
    scene = dataclasses.replace(scene, cameras=scene.cameras[:1], objects=tuple(first))
    clip = load_clip(render(scene, tmp_path), jpeg_quality=88)
    shipped = verify.decode((folder / f"imgs/{video}/00000.jpg").read_bytes())
    difference = np.abs(verify.decode(clip.frames_jpeg[0]).astype(int) - shipped)
    assert difference.mean() < 0.5
