"""What the fast engine shows: textures, holes, shadows, antialiasing, light."""

import dataclasses

import numpy as np
import pytest

from data_prep.engines import fast, fast_floor, fast_light
from data_prep.objects.model import Material, Model
from data_prep.objects.toy_models import TOYS, toy_model
from data_prep.scenes import geometry, looks, toys
from data_prep.scenes.posetraj import SceneOptions, Thing, make_scene
from data_prep.scenes.scene import Camera, SceneObject, as_matrix

WIDTH, HEIGHT = 192, 128


def board(texture=None, alpha_cutoff=0.0, **look) -> Model:
    """An upright square of 1 m that faces the camera (-y)."""
    vertices = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0.5, 0, 1], [-0.5, 0, 1.0]])
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    corners_uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    material = Material(
        (1.0, 1.0, 1.0), 0.0, 1.0, look.get("emissive", (0.0,) * 3), texture, alpha_cutoff
    )
    return Model(
        vertices,
        triangles,
        np.tile(np.array([0, -1, 0], np.float32), (2, 3, 1)),
        corners_uv[triangles],
        np.ones((2, 3, 3), np.float32),
        np.zeros(2, np.int32),
        (material,),
    )


@pytest.fixture
def scene():
    """The board stands at the origin, and the camera looks at it from the front."""
    options = SceneOptions(frames=2, width=WIDTH, height=HEIGHT)
    scene = make_scene(options, [Thing("object:board", "board", (1.0, 0.1, 1.0))], 0)
    rt = geometry.looking_at_rt(np.array([0, -3, 0.8]), np.array([0, 0, 0.5]))
    camera = Camera(as_matrix(geometry.square_pixel_k(WIDTH, HEIGHT, 35.0)), as_matrix(rt))
    pose = as_matrix(geometry.standing_pose(np.zeros(2), np.array([0.0, -1.0])))
    thing = SceneObject("object:board", 1.0, (pose, pose))
    return dataclasses.replace(
        scene, cameras=(camera, camera), objects=(thing,), light=looks._sun(
            elevation=45.0, azimuth=-90.0, strength=2.0, sky_strength=0.3)
    )  # fmt: skip


def first(scene, model):
    return next(fast.render(scene, [model]))


def test_a_texture_is_the_right_way_up(scene):
    texture = np.full((2, 2, 4), 255, np.uint8)
    texture[..., :3] = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]]
    frame = first(scene, board(texture))
    rows, columns = (np.flatnonzero((frame.mask == 1).any(axis=a)) for a in (1, 0))
    quarter_rows = rows[0] + np.array([0.25, 0.75]) * np.ptp(rows)
    quarter_columns = columns[0] + np.array([0.25, 0.75]) * np.ptp(columns)
    shown = [[frame.picture[int(r), int(c)].astype(int) for c in quarter_columns]
             for r in quarter_rows]  # fmt: skip
    for row, expected in zip(shown, texture[..., :3].astype(int), strict=True):
        for got, colour in zip(row, expected, strict=True):
            bright, dark = got[colour > 0].min(), got[colour == 0].max()
            assert bright > 100
            assert dark < bright / 2


def test_holes_show_the_floor(scene):
    texture = np.full((2, 2, 4), 255, np.uint8)
    texture[:, 1, 3] = 0
    solid, holed = (first(scene, board(texture, cutoff)).picture for cutoff in (0.0, 0.5))
    nothing = first(scene, board(np.zeros_like(texture), 0.5)).picture
    middle = WIDTH // 2
    np.testing.assert_array_equal(holed[:, : middle - 2], solid[:, : middle - 2])
    right = slice(middle + 2, middle + 20)
    np.testing.assert_array_equal(holed[30:60, right], nothing[30:60, right])


def test_edges_are_antialiased(scene):
    texture = np.full((2, 2, 4), 255, np.uint8)
    turned = geometry.standing_pose(np.zeros(2), np.array([0.4, -1.0]))
    thing = dataclasses.replace(scene.objects[0], poses=(as_matrix(turned),) * 2)
    frame = first(dataclasses.replace(scene, objects=(thing,)), board(texture))
    edge = frame.picture.astype(int).sum(axis=-1)
    row = HEIGHT // 2
    shades = np.unique(edge[row, np.flatnonzero(frame.mask[row])[0] - 1 :][:3])
    assert len(shades) >= 2


def test_a_shadow_falls_away_from_the_sun(scene):
    texture = np.full((2, 2, 4), 255, np.uint8)
    high = geometry.looking_at_rt(np.array([0, -0.5, 5.0]), np.array([0, 0.5, 0]))
    cameras = (dataclasses.replace(scene.cameras[0], rt=as_matrix(high)),) * 2
    above = dataclasses.replace(scene, cameras=cameras)
    lit = first(above, board(texture))
    unlit = first(above, board(np.zeros_like(texture), 0.5))
    darker = unlit.picture.astype(int).sum(-1) - lit.picture.astype(int).sum(-1) > 40
    rows, _ = np.nonzero(darker & (lit.mask == 0))
    board_rows, _ = np.nonzero(lit.mask)
    # The sun stands in front (-y), so the shadow lies behind: farther up in the picture.
    assert rows.mean() < board_rows.mean()
    assert darker.sum() > 100


def test_light_from_behind_the_surface_does_not_reach_it(scene):
    texture = np.full((2, 2, 4), 255, np.uint8)
    behind = dataclasses.replace(scene.light, sun_azimuth_deg=90.0)
    front = first(scene, board(texture))
    back = first(dataclasses.replace(scene, light=behind), board(texture))
    inside = front.mask == 1
    assert front.picture[inside].mean() > back.picture[inside].mean() + 30


def test_what_shines_needs_no_light(scene):
    dark = dataclasses.replace(scene.light, sun_strength=0.0, sky_strength=0.0)
    frame = first(dataclasses.replace(scene, light=dark), board(emissive=(1.0, 0.0, 0.0)))
    np.testing.assert_array_equal(np.unique(frame.picture[60, 90:100], axis=0), [[255, 0, 0]])
    assert frame.picture[frame.mask == 0][-50:].max() == 0


def test_a_scene_gives_the_same_pixels_twice():
    scene = make_scene(SceneOptions(frames=2), [Thing(TOYS[0], "car", (0.5, 1.0, 0.4))], 0)
    model = toy_model(TOYS[0])
    one, two = (list(fast.render(scene, [model])) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("asset", TOYS)
def test_toys_are_whole_and_look_outwards(asset):
    model = toy_model(asset)
    low, high = model.vertices.min(axis=0), model.vertices.max(axis=0)
    assert (high - low).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose([*(low + high)[:2], low[2]], 0, atol=1e-6)
    a, b, c = (model.vertices[model.triangles[:, i]] for i in range(3))
    faces = np.cross(b - a, c - a)
    # Each solid has a positive volume, and normals that agree with its faces.
    assert (a * faces).sum() > 0
    agree = (faces[:, None] * model.normals).sum(axis=-1)
    assert (agree > 0).mean() > 0.99
    assert len(model.materials) >= 3
    assert len(toys.BUILDERS) == len(TOYS)


def test_tiles_have_their_colours_grout_and_mean():
    floor = looks.tiled_floor("sand")
    x, y = np.meshgrid(np.linspace(0, 4, 801, dtype=np.float32), np.full(3, 0.25, np.float32))
    colours = fast_floor.tiles(floor, x, y, np.full_like(x, 0.005))
    grout = np.abs(x / floor.tile - np.rint(x / floor.tile)) * floor.tile < 0.004
    assert np.abs(colours[grout] / colours[grout].mean(axis=0) - 1).max() < 0.3
    low, high = sorted(np.array(c).sum() for c in floor.colours)
    inside = colours[~grout & (np.abs(x % floor.tile - 0.25) < 0.1)].sum(axis=-1)
    assert inside.min() >= 0.75 * low
    assert inside.max() <= 1.2 * high
    # From far away only the mean is left.
    far = fast_floor.tiles(floor, x, y, np.full_like(x, 5.0))
    assert far.std(axis=(0, 1)).max() < 0.1 * far.mean()


def test_floor_points_are_where_pixels_meet_the_floor():
    k, rt = geometry.official_k(WIDTH, HEIGHT), geometry.official_rt()
    x, y, across = fast_floor.floor_points(k, rt, WIDTH, HEIGHT)
    for row, column in ((100, 20), (60, 150)):
        place = np.array([x[row, column], y[row, column], 0.0])
        np.testing.assert_allclose(
            geometry.project(place, k, rt), [column + 0.5, row + 0.5], atol=0.01
        )
        below = np.array([x[row + 1, column], y[row + 1, column]])
        assert 0.5 < np.linalg.norm(below - place[:2]) / across[row, column] < 2


def test_srgb_table_is_the_standard_curve():
    grey = np.array([[[0.0, 0.2140411, 1.5]]], np.float32)
    assert (
        fast_light.to_srgb(grey).ravel().tolist() == [0, 128, 255]
        or abs(int(fast_light.to_srgb(grey)[0, 0, 1]) - 127.5) <= 0.5
    )
