"""Real renders: minutes long, and only where the render environment is (`make render-env`)."""

import dataclasses
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import pytest

import posetraj_jax
from data_prep.engines import annotations, cycles, fast, render_env, verify
from data_prep.engines.cycles import Cycles
from data_prep.engines.rendered_clip import Packing
from data_prep.objects.toy_models import toy_model
from data_prep.scenes import geometry
from data_prep.scenes.posetraj import SceneOptions, Thing, make_scene
from data_prep.scenes.scene import Camera, SceneObject, as_matrix, from_json
from data_prep.scenes.toys import BUILTIN_ASSETS
from posetraj_jax.data.record_codec import encode

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not render_env.DEFAULT_PYTHON.is_file(), reason="no .venv-render: run `make render-env`"
    ),
]
WIDTH, HEIGHT = 192, 112


PACKING = Packing(90, depth=True, licence="CC0-1.0", source="posetraj10k")
TRUCK = Thing("builtin:truck", "truck", (0.42, 1.0, 0.57))


def small_scene(frames: int = 2, **changes):
    scene = make_scene(SceneOptions(), [TRUCK], 0)
    camera = Camera(as_matrix(geometry.official_k(WIDTH, HEIGHT)), scene.cameras[0].rt)
    thing = dataclasses.replace(scene.objects[0], poses=scene.objects[0].poses[:frames])
    small = {"width": WIDTH, "height": HEIGHT, "cameras": (camera,) * frames, "objects": (thing,)}
    return dataclasses.replace(scene, **(small | changes))


def render(scene, models=MappingProxyType({}), pictures=MappingProxyType({}), packing=PACKING):
    clips = []
    blender = Cycles(render_env.DEFAULT_PYTHON)
    cycles.render(blender, [scene], models, pictures, packing, clips.append)
    return clips[0]


def test_the_same_scene_gives_the_same_record():
    first, second = render(small_scene()), render(small_scene())
    assert encode(first) == encode(second)


def test_any_pinhole_camera_projects_exactly():
    """Other focal lengths, principal points off the middle, a camera that moves and looks back."""
    turn = np.diag([-1.0, -1, 1])
    rt = geometry.official_rt()
    behind = np.concatenate([rt[:, :3] @ turn, rt[:, 3:]], axis=1)
    wide = np.array([[150.0, 0, 110], [0, 190, 40], [0, 0, 1]])
    tall = np.array([[260.0, 0, 80], [0, 170, 60], [0, 0, 1]])
    cameras = tuple(Camera(as_matrix(k), as_matrix(m)) for k, m in ((wide, rt), (tall, behind)))
    clip = render(small_scene(cameras=cameras))
    assert verify.problems(clip) == []


def test_two_objects_have_their_own_masks_and_hide_each_other():
    def at(x, y, asset):
        pose = geometry.standing_pose(np.array([x, y]), np.array([0.0, -1.0]))
        return SceneObject(asset=asset, size=1.0, poses=(as_matrix(pose),))

    scene = small_scene(1, objects=(at(0, 0, "builtin:suzanne"), at(0, 0.9, "builtin:car")))
    clip = render(scene)
    mask = verify.decode(clip.masks_png[0])
    assert set(np.unique(mask)) == {0, 1, 2}
    for thing in (0, 1):
        rows, columns = np.nonzero(mask == thing + 1)
        pixels = np.stack([columns, rows], axis=-1) + 0.5
        assert verify.inside_distance(pixels, clip.box_px[0, thing]).min() > -0.05
    centre = [i for i, kind in enumerate(clip.track_kinds) if kind == "centre"]
    assert clip.tracks_visible[0, centre].tolist() == [True, False]


def test_blenders_masks_are_those_of_the_triangles():
    """Rays of Blender against our z-buffer: they differ at edges only, by rounding."""
    thing = small_scene().objects[0]
    scene = small_scene(objects=(thing, dataclasses.replace(thing, asset="builtin:suzanne")))
    scene = dataclasses.replace(scene, objects=scene.objects[1:])
    clip = render(scene)
    for frame in range(2):
        mask = verify.decode(clip.masks_png[frame])
        depth = verify.decode(clip.depths_png[frame]) / 1000.0
        floor = annotations.floor_inverse_depth(
            clip.camera_k[frame].astype(np.float64), clip.camera_rt[frame].astype(np.float64),
            WIDTH, HEIGHT,
        )  # fmt: skip
        ours = depth < 1 / floor - 2e-3
        differ = ours != (mask > 0)
        assert differ.mean() < 1e-3
        assert mask.any()


def test_a_model_renders_alike_on_both_engines(tmp_path):
    """The same vertices, poses and light: masks equal but for edges, pictures alike."""
    model = toy_model("builtin:car")
    thing = dataclasses.replace(small_scene().objects[0], asset="object:car")
    scene = small_scene(objects=(thing,), samples=32)
    clip, frames = render(scene, {"object:car": model}), list(fast.render(scene, [model]))
    for frame in range(2):
        mask, picture = verify.decode(clip.masks_png[frame]), verify.decode(clip.frames_jpeg[frame])
        assert (mask != frames[frame].mask).mean() < 1e-3
        ours = frames[frame].picture.astype(float)
        for part in (mask > 0, mask == 0):
            assert np.abs(picture[part].mean(axis=0) - ours[part].mean(axis=0)).max() < 45
    assert verify.problems(clip) == []


def test_pictures_lie_on_floor_and_sky(tmp_path):
    floor, sky = tmp_path / "floor.png", tmp_path / "sky.hdr"
    cv2.imwrite(str(floor), np.full((8, 8, 3), (0, 0, 200), np.uint8))
    cv2.imwrite(str(sky), np.full((16, 32, 3), 0.5, np.float32))
    scene = small_scene(1)
    scene = dataclasses.replace(
        scene,
        floor=dataclasses.replace(scene.floor, picture="floor.png"),
        light=dataclasses.replace(scene.light, picture="sky.hdr"),
    )
    clip = render(scene, pictures={"floor.png": floor, "sky.hdr": sky})
    corner = verify.decode(clip.frames_jpeg[0])[-8:, :8].reshape(-1, 3).mean(axis=0)
    assert corner[0] > 3 * corner[1]


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(render_env.UserError, match="no HIP device that this Blender can use"):
        cycles.render(
            Cycles(render_env.DEFAULT_PYTHON, device="HIP"), [small_scene()], {}, {}, PACKING, print
        )


def test_unknown_asset_is_refused(tmp_path):
    with pytest.raises(render_env.UserError, match="unknown asset 'builtin:moon'"):
        render_env.measure(render_env.DEFAULT_PYTHON, ["builtin:moon"])


def test_measured_sides_are_normalised():
    sides = render_env.measure(render_env.DEFAULT_PYTHON, BUILTIN_ASSETS)
    assert list(sides) == list(BUILTIN_ASSETS)
    np.testing.assert_allclose([max(s) for s in sides.values()], 1.0, atol=1e-5)


def test_a_frame_of_a_shipped_video_renders_again_the_same():
    """What lies beside the shipped videos is all that made them."""
    folder = Path(posetraj_jax.__file__).parent / "data/videos"
    video = sorted((folder / "imgs").iterdir())[1].name
    scene = from_json((folder / f"scenes/{video}.json").read_text())
    first = [dataclasses.replace(thing, poses=thing.poses[:1]) for thing in scene.objects]
    scene = dataclasses.replace(scene, cameras=scene.cameras[:1], objects=tuple(first))
    clip = render(scene, packing=PACKING._replace(jpeg_quality=88))
    shipped = verify.decode((folder / f"imgs/{video}/00000.jpg").read_bytes())
    difference = np.abs(verify.decode(clip.frames_jpeg[0]).astype(int) - shipped)
    assert difference.mean() < 0.5
