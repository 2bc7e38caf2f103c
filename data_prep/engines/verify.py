"""Checks that the annotations of a rendered clip agree with its pixels."""

from collections.abc import Iterator

import cv2
import numpy as np

from data_prep.scenes import geometry
from posetraj_jax.data.records import Clip

TOUCH_PX = 2.0
"""How near the object's pixels must come to each side of its box."""
INSIDE_PX = 0.05
REPROJECTION_PX = 0.01
BOX_METRES = 1e-4
MIN_OBJECT_PIXELS = 100
MOST_WRONG, MOST_WRONG_SHARE = 2, 0.01
"""Points that may be seen otherwise than the depth says: it is known at pixels only."""
SAME_METRES = 3e-3
NINE = np.ones((3, 3), np.uint8)
BRIGHTNESS = (40.0, 215.0)
MIN_CONTRAST = 8.0


def decode(data: bytes) -> np.ndarray:
    """An encoded picture as RGB [h w 3] or grey [h w] uint8."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 else picture


def problems(clip: Clip) -> list[str]:
    """All that is wrong with a rendered clip, one line each; empty if it is sound.

    Per frame and object: box and pose agree and project to `box_px`; the projected box contains
    every pixel of the mask. Where no other object is near: on each of the box's six sides the point
    where the object touches it lies within 2 px of the mask, unless it is a tip too thin for
    pixels; the mask ends within 2 px of where the object's pixels end, left, top, right and bottom,
    as its triangles say; the floor track lies under the object. The pictures are neither dark,
    blown nor flat. Over the clip: what `tracks_visible` says of the points on surfaces agrees with
    the depth, if that is stored.

    A 3D box is tight when the object touches its six sides. The rectangle around its projection may
    still be wider than the mask, because few objects reach into the corners of their box.
    """
    found = [] if clip.box_px.shape[1] else ["no objects"]
    for frame, (jpeg, png) in enumerate(zip(clip.frames_jpeg, clip.masks_png, strict=True)):
        picture, mask = decode(jpeg), decode(png)
        lines = [*picture_problems(picture), *geometry_problems(clip, frame)]
        for thing in range(clip.box_px.shape[1]):
            if alone(clip, frame, thing):
                lines += _object_problems(clip, frame, thing, mask == thing + 1)
            elif (mask == thing + 1).any():
                lines += mask_problems(clip, frame, thing, mask == thing + 1)
        found += [f"frame {frame}: {line}" for line in lines]
    return found + list(_visibility_problems(clip))


def alone(clip: Clip, frame: int, thing: int) -> bool:
    """Whether no other object comes near to an object in the picture."""
    outlines = np.array(clip.provenance["mesh_rect_px"])[frame]
    left, top, right, bottom = outlines[thing]
    others = np.delete(outlines, thing, axis=0)
    aside = (others[:, 0] > right) | (others[:, 2] < left)
    return bool((aside | (others[:, 1] > bottom) | (others[:, 3] < top)).all())


def _visibility_problems(clip: Clip) -> Iterator[str]:
    agrees, count = visibility_agreement(clip)
    if count - agrees > max(MOST_WRONG, MOST_WRONG_SHARE * count):
        yield f"{count - agrees} of {count} surface points are not as visible as the depth says"


def visibility_agreement(clip: Clip) -> tuple[int, int]:
    """Surface points whose visibility is that which the depth says, and all of which it says one.

    Depth is known at the centres of pixels. It says that a point is hidden if all nine pixels there
    show something nearer, and visible if all show nothing nearer; between these, at edges and on
    steep surfaces, it says nothing. (0, 0) without depth.
    """
    surface = np.flatnonzero([kind == "surface" for kind in clip.track_kinds])
    agrees = count = 0
    for frame, png in enumerate(clip.depths_png):
        metres = decode(png).astype(np.float64) / 1000.0
        metres[metres == 0] = np.inf
        nearest, farthest = cv2.erode(metres, NINE), cv2.dilate(metres, NINE)
        pose, rt = (a[frame].astype(np.float64) for a in (clip.object_pose, clip.camera_rt))
        for number in surface:
            x, y = np.floor(clip.tracks_px[frame, number]).astype(int)
            if not (0 <= x < metres.shape[1] and 0 <= y < metres.shape[0]):
                continue
            place = np.array(clip.provenance["track_points"][number])
            world = geometry.transform(pose[clip.track_objects[number]], place)
            away = geometry.depth(world, rt) - SAME_METRES
            hidden, seen = away > farthest[y, x], away <= nearest[y, x]
            agrees += bool(seen if clip.tracks_visible[frame, number] else hidden)
            count += bool(hidden or seen)
    return agrees, count


def picture_problems(picture: np.ndarray) -> Iterator[str]:
    """Says that a picture [h w 3] is dark, blown or flat."""
    mean, spread = float(picture.mean()), float(picture.std())
    if not BRIGHTNESS[0] <= mean <= BRIGHTNESS[1]:
        yield f"mean brightness {mean:.0f}, expected {BRIGHTNESS}"
    if spread < MIN_CONTRAST:
        yield f"contrast {spread:.1f}, expected {MIN_CONTRAST} or more"


def geometry_problems(clip: Clip, frame: int) -> Iterator[str]:
    """Says where camera, boxes, their projections and poses disagree in a frame."""
    k, rt = clip.camera_k[frame].astype(np.float64), clip.camera_rt[frame].astype(np.float64)
    off = geometry.project(clip.box_world[frame].astype(np.float64), k, rt) - clip.box_px[frame]
    if np.abs(off).max() > REPROJECTION_PX:
        yield f"box_px is {np.abs(off).max():.3f} px from the projection of box_world"
    for thing in range(clip.box_px.shape[1]):
        rest = geometry.transform(
            np.linalg.inv(clip.object_pose[0, thing]), clip.box_world[0, thing]
        )
        moved = geometry.transform(clip.object_pose[frame, thing], rest)
        if np.abs(moved - clip.box_world[frame, thing]).max() > BOX_METRES:
            yield f"the pose of object {thing} does not carry its box from frame 0 to this frame"


def _object_problems(clip: Clip, frame: int, thing: int, mask: np.ndarray) -> Iterator[str]:
    if mask.sum() < MIN_OBJECT_PIXELS:
        yield f"object {thing} has {mask.sum()} pixels"
        return
    yield from mask_problems(clip, frame, thing, mask)
    yield from _touch_problems(clip, frame, thing, mask)
    yield from outline_problems(clip, frame, thing, mask)
    columns = np.nonzero(mask.any(axis=0))[0]
    for point in _floor_points(clip, frame, thing):
        under = inside_distance(point[None], clip.box_px[frame, thing, :4]).min() >= 0
        if not under or not columns[0] < point[0] < columns[-1] + 1:
            yield f"the floor track of object {thing} is not under it"


def mask_problems(clip: Clip, frame: int, thing: int, mask: np.ndarray) -> Iterator[str]:
    """Says that the mask [h w] of an object, which is not empty, leaves the object's box."""
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns, rows], axis=-1) + 0.5
    outside = -inside_distance(pixels, clip.box_px[frame, thing]).min()
    if outside > INSIDE_PX:
        yield f"the mask of object {thing} leaves its box by {outside:.2f} px"


def outline_problems(clip: Clip, frame: int, thing: int, mask: np.ndarray) -> Iterator[str]:
    """Says that the mask [h w] of an object, wholly seen, does not fill its outline."""
    rows, columns = np.nonzero(mask)
    ends = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    gap = np.abs(np.array(clip.provenance["alone_rect_px"])[frame, thing] - ends).max()
    if gap > TOUCH_PX:
        yield f"the mask of object {thing} ends {gap:.2f} px from the outline of its triangles"


def _touch_problems(clip: Clip, frame: int, thing: int, mask: np.ndarray) -> Iterator[str]:
    away = cv2.distanceTransform(1 - mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    thin = clip.provenance["thin_tips"][frame][thing]
    for side, (pixel, world) in contacts(clip, frame, thing).items():
        row, column = np.clip(pixel[::-1].astype(int), 0, np.array(mask.shape) - 1)
        if away[row, column] > TOUCH_PX and not thin[side]:
            yield f"object {thing} is {away[row, column]:.2f} px from side {side} of its box"
        face = clip.box_world[frame, thing][list(geometry.BOX_FACES[side])].astype(np.float64)
        normal = np.cross(face[1] - face[0], face[2] - face[0])
        height = abs((world - face[0]) @ normal) / np.linalg.norm(normal)
        if height > BOX_METRES:
            yield f"object {thing} stays {height:.4f} m off side {side} of its box"


def contacts(clip: Clip, frame: int, thing: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Where an object touches the sides of its box: side (as BOX_FACES) to (pixel, world) point."""
    names = ("x_low", "x_high", "y_low", "y_high", "z_low", "z_high")
    pose = clip.object_pose[frame, thing].astype(np.float64)
    found = {}
    for i, name in enumerate(clip.provenance["track_names"]):
        if clip.track_objects[i] == thing and name in names:
            world = geometry.transform(pose, np.array(clip.provenance["track_points"][i]))
            found[names.index(name)] = clip.tracks_px[frame, i], world
    return found


def _floor_points(clip: Clip, frame: int, thing: int) -> np.ndarray:
    chosen = [
        kind == "floor" and owner == thing
        for kind, owner in zip(clip.track_kinds, clip.track_objects, strict=True)
    ]
    return clip.tracks_px[frame][chosen]


def inside_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """How far [n] points [n 2] lie inside the convex hull of corners [m 2]; below 0 outside."""
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)
    edges = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=-1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # The hull's middle tells which side is inside, whatever way round OpenCV lists it.
    normals *= np.sign(np.sum((hull.mean(axis=0) - hull) * normals, axis=1))[:, None]
    return ((points[:, None] - hull) * normals).sum(axis=-1).min(axis=1)
