"""What every source of clips offers: random access by number, and decoding of what is asked for.

A source knows the names and lengths of its clips without opening a picture; a clip decodes only the
frames that are asked for. Sizes and coordinates are the stored ones.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from posetraj_jax.errors import UserError

Array = np.ndarray

FRAME_KINDS = CLEAN, BOXED = ("clean", "boxed")
"""Frames as recorded, and the same with the 3D box drawn in."""


class Tracks(NamedTuple):
    """The tracked points of a window of a clip."""

    points_px: Float32[Array, "f p 2"]
    visible: Bool[Array, "f p"]
    kinds: tuple[str, ...]


@runtime_checkable
class LazyClip(Protocol):
    """One clip of a source. `start, count` choose consecutive frames; nothing else is decoded."""

    clip_id: str
    fps: float

    @property
    def frame_kinds(self) -> tuple[str, ...]:
        """Which of `FRAME_KINDS` can be had: that of `frames`, that of `boxed_frames`, or both."""

    def frames(self, start: int, count: int) -> UInt8[Array, "f h w 3"]:
        """Decodes frames as recorded, RGB."""

    def boxed_frames(self, start: int, count: int, thickness: int) -> UInt8[Array, "f h w 3"]:
        """Decodes frames with the 3D box drawn in, lines of `thickness` pixels."""

    def tracks(self, start: int, count: int) -> Tracks | None:
        """The tracked points; None for a clip that has only drawn maps."""

    def drawn_maps(self, start: int, count: int) -> UInt8[Array, "f h w 3"] | None:
        """Maps that came with the clip, the last one black; None where `tracks` has the points."""

    @property
    def has_camera(self) -> bool:
        """Whether its camera is known; reads no number."""

    def camera(self, start: int, count: int) -> Float32[Array, "f 12"] | None:
        """Row-major world-to-camera rotation, then translation; None if unknown."""


@runtime_checkable
class Source(Protocol):
    """Clips by number, in a fixed order."""

    clip_ids: tuple[str, ...]
    num_frames: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LazyClip: ...


def no_box(clip: str, got: str) -> UserError:
    """The error of a clip that is asked for boxes and has none; `got` says what it has."""
    return UserError(
        f"Clip {clip} has no 3D box to draw",
        expected="boxes, because data.draw_box or data.condition_on_box asks for them",
        got=got,
        fix="set data.draw_box=False and data.condition_on_box=False (stages 2 and 3)",
    )
