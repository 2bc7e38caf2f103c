"""How fast training gets its windows, and that it can go on: `python -m benchmarks.data_pipeline`.

Grain's windows per second of stage 1 (boxes drawn) from 320 x 576 JPEG records, and from cached
latents of the same clips; each with reading threads and with worker processes, on two cores. Beside
each, in turns so that the noise of the machine is shared, the same JPEGs are decoded by OpenCV with
two threads and nothing else is done. Then the memory of the process while it takes 10 000 windows.

The clips are the shipped ones, the latents random numbers of the right shapes: speed does not
depend on what they say. A busy machine gives fewer than two cores, which is the second column; the
last is what two would give, computed from the processor time that a window took. Needs Linux.
"""

import argparse
import ctypes
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import ml_dtypes
import numpy as np

from posetraj_jax.data import latents
from posetraj_jax.data.latent_file import EncodedFrames, thumbnails
from posetraj_jax.data.latents import EncoderOptions
from posetraj_jax.data.lazy_clip import BOXED
from posetraj_jax.data.pipeline import DataOptions, train_batches
from posetraj_jax.data.records import Clip, open_dataset, write_dataset
from posetraj_jax.data.sources import open_source
from posetraj_jax.structs import PIXELS_PER_LATENT

CORES = 2
COPIES = 4
"""Of the 16 shipped clips: so many that reading is not always of the same few."""
SHIPPED = Path(__file__).parents[1] / "posetraj_jax/data/clips"
CHANNELS, EMBEDDING = 4, 1024
BARS = {"JPEG": 20.0, "latents": 200.0}
"""Windows per second on two cores."""
MOST_GROWTH = 0.05
MEMORY_ROWS = 20
ENCODERS = EncoderOptions("unit", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bfloat16")


class Rate(NamedTuple):
    """What some windows took."""

    per_second: float
    per_cpu_second: float
    """Windows per second of processor time, of one core."""

    @property
    def cores(self) -> float:
        """How many cores the machine gave."""
        return self.per_second / self.per_cpu_second


class Figures(NamedTuple):
    """What this benchmark measures."""

    rates: dict[str, Rate]
    """'JPEG, 2 threads' and so on, and 'cv2'; the fastest round of each."""
    memory_bytes: list[int]
    """Of the process, after equal numbers of windows."""

    @property
    def growth(self) -> float:
        """Of the memory since it has settled, as a share: medians of the first and last thirds."""
        settled = self.memory_bytes[len(self.memory_bytes) // 10 :]
        third = len(settled) // 3
        return float(np.median(settled[-third:]) / np.median(settled[:third]) - 1)


def main(arguments: list[str] | None = None) -> Figures:
    """Makes the data in a temporary folder, measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--windows", type=int, default=10_000, help="of the proof of memory (%(default)s)")
    add("--rounds", type=int, default=3, help="of each rate; the best counts (%(default)s)")
    add("--round_seconds", type=float, default=4.0, help="of each rate (%(default)s)")
    add("--batch_size", type=int, default=2, help="windows (%(default)s)")
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    print(f"{len(cores)} cores, load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), options.batch_size)
        rates = measure_rates(data, options.rounds, options.round_seconds)
        _print_rates(rates)
        figures = Figures(rates, measure_memory(data, options.windows))
    print(f"\nmemory grew by {figures.growth:.1%} from its first third to its last; ", end="")
    print(f"the bar is {MOST_GROWTH:.0%}")
    return figures


def make_data(folder: Path, batch_size: int) -> DataOptions:
    """Writes the clips and their latents; returns how to read the latents."""
    write_dataset(_clips(), folder / "clips")
    data = DataOptions(
        path=str(folder / "clips"),
        height=320,
        width=576,
        batch_size=batch_size,
        draw_box=True,
        condition_on_box=True,
        seed=0,
        encoders=ENCODERS,
        latents=str(folder / "latents"),
    )
    source = open_source(data.path)
    random = np.random.default_rng(0)
    with latents.writing(folder / "latents", latents.fingerprint(data.encoding, "none")):
        for index, clip_id in enumerate(source.clip_ids):
            frames = source[index].boxed_frames(0, source.num_frames[index], data.box_thickness)
            latents.write(folder / "latents", clip_id, {BOXED: _encoded(frames, random)})
    return data


def _clips() -> Iterator[Clip]:
    records = open_dataset(SHIPPED)
    for copy, index in itertools.product(range(COPIES), range(len(records))):
        clip = records[index]
        yield clip._replace(clip_id=f"{clip.clip_id}-{copy}")


def _encoded(frames: np.ndarray, random: np.random.Generator) -> EncodedFrames:
    """Random numbers with the shapes of what the encoders say of frames [f h w 3]."""
    f, h, w, _ = frames.shape
    shapes = (f, h // PIXELS_PER_LATENT, w // PIXELS_PER_LATENT, CHANNELS), (f, EMBEDDING)
    mean, logvar, image_embed = (
        random.normal(size=shape).astype(ml_dtypes.bfloat16)
        for shape in (shapes[0], shapes[0], shapes[1])
    )
    return EncodedFrames(mean, logvar, image_embed, thumbnails(frames))


def measure_rates(data: DataOptions, rounds: int, seconds: float) -> dict[str, Rate]:
    """The best of some rounds, in each of which every way of reading has its turn."""
    ways: dict[str, Callable[[], Rate]] = {}
    for what, made in (("JPEG", replace(data, latents="")), ("latents", data)):
        threads = replace(made, read_threads=CORES)
        workers = replace(made, num_workers=CORES, read_threads=1)
        ways[f"{what}, {CORES} threads"] = partial(_pipeline, threads, seconds)
        ways[f"{what}, {CORES} workers"] = partial(_pipeline, workers, seconds)
    ways["cv2"] = partial(_plain_decoding, data, seconds)
    best: dict[str, Rate] = {}
    for _ in range(rounds):
        for name, measure in ways.items():
            rate = measure()
            best[name] = max(rate, best.get(name, rate))
    return best


def _pipeline(options: DataOptions, seconds: float) -> Rate:
    """Of `train_batches`, once everything has started and what was read ahead is taken."""
    batches = train_batches(options)
    ahead = 2 * CORES * 2
    for _ in itertools.islice(batches, ahead):
        pass
    start, busy, count = time.perf_counter(), _cpu_seconds(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += options.batch_size
    rate = Rate(count / (time.perf_counter() - start), count / (_cpu_seconds() - busy))
    batches.close()
    return rate


def _plain_decoding(options: DataOptions, seconds: float) -> Rate:
    """Of decoding the frames of windows with OpenCV's threads off, and forgetting them."""
    records = open_dataset(options.path)
    windows = [records[index].frames_jpeg for index in range(16)]

    def decode(index: int) -> None:
        for jpeg in windows[index % len(windows)]:
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)

    cv2.setNumThreads(1)
    start, busy, count = time.perf_counter(), _cpu_seconds(), 0
    with ThreadPoolExecutor(CORES) as pool:
        while time.perf_counter() - start < seconds:
            count += len(list(pool.map(decode, range(count, count + 4 * CORES))))
    return Rate(count / (time.perf_counter() - start), count / (_cpu_seconds() - busy))


def measure_memory(data: DataOptions, windows: int) -> list[int]:
    """Bytes of this process at the start, and after equal parts of many windows of latents."""
    print(f"\nmemory of the process, {windows} windows from cached latents", flush=True)
    batches, sizes = train_batches(data), []
    for row in range(MEMORY_ROWS + 1):
        for _ in itertools.islice(batches, windows // MEMORY_ROWS // data.batch_size if row else 1):
            pass
        sizes.append(_resident_bytes())
        print(f"  {row * windows // MEMORY_ROWS:>7} {sizes[-1] / 1e6:8.1f} MB", flush=True)
    batches.close()
    return sizes


def _print_rates(rates: dict[str, Rate]) -> None:
    plain = rates["cv2"]
    print(
        "\nwindows of 14 frames   per second  on cores  of the bar  of plain decoding  by CPU time"
    )
    for name, rate in rates.items():
        what = name.split(",")[0]
        bar = f"{rate.per_second / BARS[what]:.2f}x" if what in BARS else ""
        print(
            f"  {name:<20} {rate.per_second:>10.1f} {rate.cores:>9.2f} {bar:>11} "
            f"{rate.per_second / plain.per_second:>17.2f}x {CORES * rate.per_cpu_second:>12.1f}"
        )


def _cpu_seconds() -> float:
    """Processor time of this process and of the workers it has now."""
    ticks = 0
    for pid in ("self", *_children()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children() -> list[str]:
    """Of every thread of this process: a worker belongs to the thread that started it."""
    lists = Path("/proc/self/task").glob("*/children")
    return [pid for file in lists for pid in file.read_text().split()]


def _resident_bytes() -> int:
    """Of this process, without what the allocator keeps for later: that is noise."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
