"""The chips that a plan may name: what one device of each holds and how fast it is."""

from dataclasses import dataclass

GIB = 2.0**30


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
    clock: float = 0.0
    """Cycles, to read the compiler's estimates; of TPUs only."""
    dimensions: int = 1
    """Of the network of a slice."""
    options: tuple[tuple[str, str], ...] = ()
    """What the compiler must be told besides, so that a device is a whole chip."""


# FLOPs, memory and its bandwidth: Google Cloud's page of each TPU version. Links: the table in
# "How to Scale Your Model" (Google DeepMind, 2025). Usable bytes: the limit that libtpu's compiler
# names when a program exceeds it. Clocks: the FLOPs over those of the matrix units' cycle (v6e:
# assumed).
TPUS = (
    Chip(
        name="v4",
        device_kind="TPU v4",
        hbm_bytes=32 * GIB,
        usable_bytes=30.75 * GIB,
        flops=275e12,
        hbm_bandwidth=1.23e12,
        link_bandwidth=45e9,
        clock=1.05e9,
        dimensions=3,
        options=(("chip_config_name", "megacore"),),
    ),
    Chip(
        name="v5e",
        device_kind="TPU v5 lite",
        hbm_bytes=16 * GIB,
        usable_bytes=15.75 * GIB,
        flops=197e12,
        hbm_bandwidth=0.82e12,
        link_bandwidth=45e9,
        clock=1.5e9,
        dimensions=2,
    ),
    Chip(
        name="v5p",
        device_kind="TPU v5",
        hbm_bytes=96 * GIB,
        usable_bytes=95.74 * GIB,
        flops=459e12,
        hbm_bandwidth=2.77e12,
        link_bandwidth=90e9,
        clock=1.75e9,
        dimensions=3,
    ),
    Chip(
        name="v6e",
        device_kind="TPU v6 lite",
        hbm_bytes=32 * GIB,
        usable_bytes=31.25 * GIB,
        flops=918e12,
        hbm_bandwidth=1.64e12,
        link_bandwidth=90e9,
        clock=1.75e9,
        dimensions=2,
    ),
)

# NVIDIA's data sheets, NVLink as one link; the driver and CUDA keep about 1 GB. The first row whose
# kind a device's begins with holds.
GPUS = (
    Chip("a100-40gb", "NVIDIA A100-SXM4-40GB", 40e9, 39e9, 312e12, 1.555e12, 300e9),
    Chip("a100-pcie-40gb", "NVIDIA A100-PCIE-40GB", 40e9, 39e9, 312e12, 1.555e12, 32e9),
    Chip("a100", "NVIDIA A100", 80e9, 79e9, 312e12, 2.04e12, 300e9),
    Chip("h200-nvl", "NVIDIA H200 NVL", 141e9, 140e9, 835e12, 4.8e12, 450e9),
    Chip("h200", "NVIDIA H200", 141e9, 140e9, 989e12, 4.8e12, 450e9),
    Chip("h100-pcie", "NVIDIA H100 PCIe", 80e9, 79e9, 756e12, 2.0e12, 300e9),
    Chip("h100-nvl", "NVIDIA H100 NVL", 94e9, 93e9, 835e12, 3.9e12, 300e9),
    Chip("h100", "NVIDIA H100", 80e9, 79e9, 989e12, 3.35e12, 450e9),
)


def tpu_named(name: str) -> Chip | None:
    """The TPU version of a topology's name; None for an unknown one."""
    return next((chip for chip in TPUS if chip.name == name), None)


def gpu_of(device_kind: str) -> Chip | None:
    """The GPU that JAX calls so; None for one that the table lacks."""
    return next((chip for chip in GPUS if device_kind.startswith(chip.device_kind)), None)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so, on a real machine or in a plan; None for one without a row."""
    tpus = (chip for chip in TPUS if device_kind in (chip.device_kind, f"TPU {chip.name}"))
    return next(tpus, None) or gpu_of(device_kind)
