"""The chips that a plan may name: what one device of each holds and how fast it is."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device of a mesh. Rates are the makers' peaks, in units per second."""

    name: str
    """As in the name of a topology."""
    device_kind: str
    """As JAX calls it."""
    hbm_bytes: float
    """On the data sheet."""
    usable_bytes: float
    """What the compiler or the driver leaves to a program."""
    flops: float
    """bfloat16, dense; a multiply and an add are two."""
    hbm_bandwidth: float
    """Bytes."""
    link_bandwidth: float
    """Bytes, of one link to a neighbour, in one direction."""
    clock: float
    """Cycles, to read the compiler's cycle estimates."""
    smallest: str
    """The smallest topology; the number of its dimensions is that of the network."""
    options: tuple[tuple[str, str], ...] = ()
    """What the compiler must be told besides, so that a device is a whole chip."""


# FLOPs, memory and its bandwidth: Google Cloud's page of each TPU version. Links: the table in "How to
# Scale Your Model" (Google DeepMind, 2025). Usable bytes: the limit that libtpu's compiler names
# when a program exceeds it. Clocks: the FLOPs over those of the matrix units' cycle (v6e: assumed).
TPUS = (
    Chip("v4", "TPU v4", 32 * GIB, 30.75 * GIB, 275e12, 1.2e12, 45e9, 1.05e9, "1x1x1",
         (("chip_config_name", "megacore"),)),
    Chip("v5e", "TPU v5 lite", 16 * GIB, 15.75 * GIB, 197e12, 0.82e12, 45e9, 1.5e9, "1x1"),
    Chip("v5p", "TPU v5", 96 * GIB, 95.74 * GIB, 459e12, 2.77e12, 90e9, 1.75e9, "1x1x1"),
    Chip("v6e", "TPU v6 lite", 32 * GIB, 31.25 * GIB, 918e12, 1.64e12, 90e9, 1.75e9, "1x1"),
)  # fmt: skip

# NVIDIA's data sheets (NVLink as one link); the driver and the CUDA context keep about 1 GiB. No cycles are estimated.
GPUS = (
    Chip("a100", "NVIDIA A100", 80e9, 79e9, 312e12, 2.04e12, 300e9, 1.41e9, "1"),
    Chip("h200", "NVIDIA H200", 141e9, 140e9, 989e12, 4.8e12, 450e9, 1.98e9, "1"),
    Chip("h100", "NVIDIA H100", 80e9, 79e9, 989e12, 3.35e12, 450e9, 1.98e9, "1"),
)


def tpu_named(name: str) -> Chip | None:
    """The TPU version of a topology's name; None for an unknown one."""
    return next((chip for chip in TPUS if chip.name == name), None)


def gpu_of(device_kind: str) -> Chip | None:
    """The GPU that JAX calls so; None for one that the table lacks."""
    return next((chip for chip in GPUS if device_kind.startswith(chip.device_kind)), None)
