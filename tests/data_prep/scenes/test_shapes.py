from collections import Counter

import numpy as np
import pytest

from data_prep.scenes import shapes, toys

SHAPES = {
    "box": shapes.box(1, 2, 3),
    "prism": shapes.prism([(0, 0), (1, 0), (0, 1)], 2, "z"),
    "lathe": shapes.lathe([(0, 0), (1, 0), (0.5, 2)]),
    "ellipsoid": shapes.ellipsoid(1, 2, 3),
    "cylinder": shapes.cylinder(1, 4, "y"),
    "tube": shapes.tube([(0, 0), (1, 0), (1, 1)], [0.1, 0.2, 0.1]),
}


@pytest.mark.parametrize("mesh", SHAPES.values(), ids=SHAPES)
def test_shapes_are_closed(mesh):
    edges = Counter(
        frozenset(pair)
        for face in mesh.faces
        for pair in zip(face, face[1:] + face[:1])  # noqa: B905
    )
    assert set(edges.values()) == {2}
    assert set().union(*mesh.faces) == set(range(len(mesh.vertices)))


@pytest.mark.parametrize(
    ("name", "sides"),
    [("box", (1, 2, 3)), ("prism", (1, 1, 2)), ("lathe", (2, 2, 2)), ("ellipsoid", (2, 4, 6)),
     ("cylinder", (2, 4, 2))],
)  # fmt: skip
def test_shapes_have_their_size(name, sides):
    vertices = SHAPES[name].vertices
    np.testing.assert_allclose(vertices.max(axis=0) - vertices.min(axis=0), sides, atol=1e-12)


def test_turns_are_right_handed():
    point = shapes.Mesh(np.array([[0.0, 1.0, 0.0]]), ())
    np.testing.assert_allclose(point.turned("x", 90).vertices, [[0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(point.turned("z", 90).vertices, [[-1, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("name", toys.BUILDERS)
def test_objects_are_lopsided_and_coloured(name):
    parts = toys.BUILDERS[name]()
    assert {part.material for part in parts} <= set(toys.MATERIALS)
    assert len({part.material for part in parts}) >= 3
    vertices = np.concatenate([part.mesh.vertices for part in parts])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    # Halves in front of and behind the middle differ in what they are made of.
    middle = (low[1] + high[1]) / 2
    colours = [
        Counter(p.material for p in parts if (p.mesh.vertices[:, 1].mean() < middle) == front)
        for front in (True, False)
    ]
    assert colours[0] != colours[1]
    assert (high - low)[2] / (high - low)[0] > 0.1, "the official renderer rejects flat objects"
