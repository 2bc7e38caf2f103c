"""How long a program takes at least and, if nothing overlaps, at most."""

from collections.abc import Sequence
from typing import NamedTuple

from posetraj_jax.planning.chips import Chip
from posetraj_jax.planning.collectives import Traffic
from posetraj_jax.planning.work import Kernel, Work

ATTAINED = 0.5
"""The part of the peak that products reach at least where nothing waits: heads of 64 numbers fill
half of a matrix unit that is 128 wide."""


class Bounds(NamedTuple):
    """Seconds of one run on one device, each resource by itself."""

    compute: float
    hbm: float
    interconnect: float
    """Over all links that a chip has in its slice."""
    least: float
    """The longest of the three: everything overlaps perfectly."""
    most: float
    """Nothing overlaps, products reach `ATTAINED` of the peak, and messages use one link."""
    static: float | None
    """The compiler's cycles, and its kernels by their own bounds; nothing for messages. None at O0,
    where too many instructions have no estimate."""

    @property
    def binding(self) -> str:
        """The resource that sets `least`."""
        names = {self.compute: "compute", self.hbm: "HBM", self.interconnect: "interconnect"}
        return names[self.least]


def seconds_of(kernel: Kernel, chip: Chip) -> float:
    """The longer of products at the peak and bytes at the bandwidth, of one call."""
    return max(kernel.flops / chip.flops, kernel.num_bytes / chip.hbm_bandwidth)


def bounds_of(
    flops: float, work: Work, traffic: Sequence[Traffic], chip: Chip, links: int, *, level: str
) -> Bounds:
    """The bounds of a program.

    Args:
      flops: of one device, recomputation included.
      links: of a chip to its neighbours; 0 for a single chip.
      level: of optimisation.
    """
    compute, hbm = flops / chip.flops, work.hbm_bytes / chip.hbm_bandwidth
    sent = sum(row.sent_bytes for row in traffic)
    one_link = sent / chip.link_bandwidth
    interconnect = one_link / max(links, 1)
    kernels = sum(kernel.runs * seconds_of(kernel, chip) for kernel in work.kernels)
    return Bounds(
        compute=compute,
        hbm=hbm,
        interconnect=interconnect,
        least=max(compute, hbm, interconnect),
        most=compute / ATTAINED + hbm + one_link,
        static=work.cycles / chip.clock + kernels if level != "O0" and chip.clock else None,
    )
