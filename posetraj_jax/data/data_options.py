"""Where the clips are and what a batch of them looks like."""

from dataclasses import asdict, dataclass
from typing import Any

from posetraj_jax.data.latents import EncoderOptions
from posetraj_jax.data.lazy_clip import BOXED, CLEAN
from posetraj_jax.data.tracks import COLOURS
from posetraj_jax.data.transforms import RESIZE_KINDS
from posetraj_jax.errors import UserError, listed
from posetraj_jax.structs import SIZE_MULTIPLE


@dataclass(frozen=True)
class DataOptions:
    """Where the clips are and what a batch of them looks like. The names are the config's."""

    path: str
    """Folder of clip records, of official PoseTraj-10K clips, or of VIPSeg videos and tracks."""
    height: int
    """Pixels, a multiple of 64."""
    width: int
    """Pixels, a multiple of 64."""
    batch_size: int
    """Clips per batch, of all hosts together."""
    draw_box: bool
    """Target frames carry the object's projected 3D box."""
    condition_on_box: bool
    """The first frame to condition on carries the box too."""
    seed: int
    """Of the order of the clips and of the windows, 0 .. 2^32 - 1."""
    num_frames: int = 14
    """Frames of a window."""
    track_kinds: tuple[str, ...] = ("floor",)
    """Which tracked points are drawn; none leaves the maps black."""
    track_colours: str = "red"
    """'red' or 'alternating' (official training on VIPSeg)."""
    drop_hidden_tracks: bool = False
    """Leave out segments of points that are outside the picture or behind something."""
    resize: str = "lanczos"
    """'lanczos' (antialiased) or 'bilinear' (official training, no antialiasing)."""
    box_thickness: int = 2
    """Of the drawn box, pixels at the stored size."""
    num_workers: int = 0
    """Worker processes that decode; 0 = threads of this process."""
    read_threads: int = 2
    """Threads that decode ahead, in each process; 0 = decode when asked."""
    latents: str = ""
    """Folder of cached latents to read in place of target frames; empty = decode frames."""
    encoders: EncoderOptions | None = None
    """How cached latents must have been encoded; needed for these only."""
    max_clips: int = 0
    """Use only the first clips by name; 0 = all."""
    needs_camera: bool = False
    """Refuse to train on clips of which not one has a known camera."""

    @property
    def target_kind(self) -> str:
        """Which frames are the target: clean or boxed."""
        return BOXED if self.draw_box else CLEAN

    @property
    def condition_kind(self) -> str:
        """Which kind the frame to condition on is of."""
        return BOXED if self.condition_on_box else CLEAN

    @property
    def encoding(self) -> dict[str, Any]:
        """All that latents depend on besides the pictures and the encoders' weights."""
        names = ("height", "width", "resize", "box_thickness")
        return {name: getattr(self, name) for name in names} | asdict(self.encoders)


def check_options(options: DataOptions) -> None:
    """Checks what can be checked without looking at the data.

    Raises:
        UserError: naming every field that is out of its range.
    """
    problems = [
        f"data.{name} = {value}: use {' or '.join(str(size) for size in _allowed(value))}"
        for name, value in (("height", options.height), ("width", options.width))
        if value not in _allowed(value)
    ]
    for name, choices in (("resize", RESIZE_KINDS), ("track_colours", COLOURS)):
        if getattr(options, name) not in choices:
            problems.append(f"data.{name} = {getattr(options, name)!r}: use one of {choices}")
    least = {"num_frames": 2, "batch_size": 1, "box_thickness": 1}
    least |= {"num_workers": 0, "read_threads": 0, "max_clips": 0, "seed": 0}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            problems.append(f"data.{name} = {getattr(options, name)}: use {bound} or more")
    if problems:
        raise UserError(
            "The data options cannot be used",
            expected="frame sizes that are multiples of 64, and options within their ranges",
            got=listed(problems),
            fix="change these fields of the config",
        )


def _allowed(size: int) -> tuple[int, ...]:
    """The size itself if it is legal, else its nearest legal neighbours."""
    below = size // SIZE_MULTIPLE * SIZE_MULTIPLE
    if size == below > 0:
        return (size,)
    return tuple(near for near in (below, below + SIZE_MULTIPLE) if near > 0)
