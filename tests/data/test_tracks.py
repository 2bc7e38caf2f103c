import numpy as np
import pytest

from posetraj_jax.data.tracks import BLUE, BOX_EDGES, GREEN, RED, draw_boxes, draw_maps

SIZE = (60, 80)


def track(*points) -> np.ndarray:
    return np.array(points, np.float32)[:, None]


def mask(picture: np.ndarray, colour) -> np.ndarray:
    return (picture == colour).all(axis=-1)


def line_alone(start, end) -> np.ndarray:
    """The red pixels of a segment, with its green disc moved out of the way by a later track."""
    from posetraj_jax.data.tracks import draw_line

    picture = np.zeros((*SIZE, 3), np.uint8)
    draw_line(picture, np.array(start, float), np.array(end, float), RED, 3)
    assert not (picture.any(-1) & ~mask(picture, RED)).any()
    return mask(picture, RED)


def test_the_disc_is_the_official_29_pixels():
    (first, last) = draw_maps(track((-50, -50), (40, 30)), SIZE, SIZE)
    green = mask(first, GREEN)
    assert green.sum() == 29
    assert green[27:34, 37:44].sum(axis=1).tolist() == [1, 5, 5, 7, 5, 5, 1]
    assert not last.any()


def test_a_line_of_no_length_is_the_official_13_pixels():
    red = line_alone((40, 30), (40, 30))
    assert red.sum() == 13
    assert red[28:33, 38:43].sum(axis=1).tolist() == [1, 3, 5, 3, 1]


def test_a_line_of_20_pixels_reaches_2_beyond_each_end():
    red = line_alone((30, 30), (50, 30))
    columns, rows = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
    assert (columns[0], columns[-1]) == (28, 52)
    assert (rows[0], rows[-1]) == (28, 32)
    assert red.sum(axis=1)[28:33].tolist() == [21, 23, 25, 23, 21]


def test_map_t_shows_the_segment_from_t_to_t_plus_1_and_the_last_is_black():
    maps = draw_maps(track((10, 30), (30, 30), (30, 50)), SIZE, SIZE)
    assert maps.shape == (3, *SIZE, 3)
    assert maps.dtype == np.uint8
    assert tuple(maps[0, 30, 12]) == RED
    assert tuple(maps[0, 30, 30]) == GREEN
    assert tuple(maps[1, 31, 30]) == RED
    assert tuple(maps[1, 50, 30]) == GREEN
    assert not maps[1, 30, 12].any()  # segments do not add up
    assert not maps[2].any()


def test_coordinates_are_scaled_then_truncated_towards_zero():
    # 15 / 120 * 60 = 7.5 -> 7 and -4.5 / 240 * 80 = -1.5 -> -1, which a floor would make -2.
    (first, _) = draw_maps(track((300, 200), (-4.5, 15)), (120, 240), SIZE)
    rows, columns = np.nonzero(mask(first, GREEN))
    assert (rows.min(), rows.max()) == (5, 9)  # the disc's column at distance 1
    assert columns.max() == 2


@pytest.mark.parametrize(
    ("num_tracks", "lines"), [(1, [RED]), (2, [BLUE, RED]), (3, [RED, BLUE, RED])]
)
def test_alternating_colours_end_in_red(num_tracks, lines):
    points = np.array([[(10, 10 + 15 * p), (40, 10 + 15 * p)] for p in range(num_tracks)])
    tracks_px = points.transpose(1, 0, 2).astype(np.float32)
    (first, _) = draw_maps(tracks_px, SIZE, SIZE, colours="alternating")
    assert [tuple(first[10 + 15 * p, 20]) for p in range(num_tracks)] == lines
    (first, _) = draw_maps(tracks_px, SIZE, SIZE)
    assert [tuple(first[10 + 15 * p, 20]) for p in range(num_tracks)] == [RED] * num_tracks


def test_later_tracks_lie_over_earlier_ones():
    crossing = np.array([[(10, 30), (40, 10)], [(40, 30), (40, 50)]], np.float32)
    (first, _) = draw_maps(crossing, SIZE, SIZE)
    assert tuple(first[30, 40]) == RED  # the first track's disc is under the second's line


def test_hidden_segments_can_be_left_out():
    tracks_px = track((10, 30), (30, 30), (50, 30))
    visible = np.array([[True], [True], [False]])
    assert [m.any() for m in draw_maps(tracks_px, SIZE, SIZE)] == [True, True, False]
    kept = draw_maps(tracks_px, SIZE, SIZE, visible=visible)
    assert [m.any() for m in kept] == [True, False, False]


@pytest.mark.parametrize("far", [2e4, 1e5, 3e9, 1e15])
@pytest.mark.parametrize("slope", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.6), (-0.3, 1.0)])
def test_far_points_draw_the_line_that_they_span(far, slope):
    middle, direction = np.array([40.0, 30.0]), np.array(slope)
    tracks_px = np.stack([middle - far * direction, middle + far * direction])[:, None]
    (drawn, _) = draw_maps(tracks_px.astype(np.float64), SIZE, SIZE)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    normal = np.array([-direction[1], direction[0]]) / np.hypot(*direction)
    distance = np.abs((columns - middle[0]) * normal[0] + (rows - middle[1]) * normal[1])
    red = mask(drawn, RED)
    assert red[distance < 0.5].all()
    assert not red[distance > 3.6].any()


def test_lines_that_miss_the_picture_leave_it_black():
    near_miss, far_miss = track((1e6, 1e6), (2e6, 1e6), (1e6, -1e6)), track((1e15, 0), (2e15, 1e15))
    assert not draw_maps(near_miss, SIZE, SIZE).any()
    assert not draw_maps(far_miss, SIZE, SIZE).any()


def test_boxes_have_12_edges_between_corners_that_differ_in_one_axis():
    assert len(set(BOX_EDGES)) == 12
    assert {(0, 1), (0, 2), (0, 4), (3, 7), (5, 7), (6, 7)} <= set(BOX_EDGES)
    assert all(bin(a ^ b).count("1") == 1 for a, b in BOX_EDGES)


def test_a_box_is_drawn_in_red_with_hidden_edges_and_nothing_else_changes():
    corners = np.array([(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
    box_px = corners[:, :2] * [30, 12] + corners[:, 2:] * [6, -20] + [20, 40]
    frames = np.full((2, *SIZE, 3), 90, np.uint8)
    boxed = draw_boxes(frames, box_px[None, None].repeat(2, axis=0))
    assert (frames == 90).all()
    changed = (boxed != 90).any(axis=-1)
    np.testing.assert_array_equal(changed, mask(boxed, RED))
    for first, second in BOX_EDGES:
        x, y = ((box_px[first] + box_px[second]) / 2).astype(int)
        assert changed[0, y, x], (first, second)
    rows, columns = np.nonzero(changed[0])
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (19, 57, 19, 53)


def test_an_unknown_colour_scheme_is_refused():
    with pytest.raises(ValueError, match="alternating"):
        draw_maps(track((0, 0), (1, 1)), SIZE, SIZE, colours="rainbow")
