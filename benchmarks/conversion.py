"""What converting weights costs, at true size: `python -m benchmarks.conversion`.

Writes random weights of Stable Video Diffusion, and of a ControlNet with camera, as PyTorch's
classes publish them; converts them with the commands that users type; and prints

* the peak of anonymous memory against the bytes of the converted tree,
* the time against `cp` and `sync` of the same files in the same run,
* the largest difference from PyTorch of every network (`--verify`),
* whether a ControlNet that was converted and exported is the same bytes.

Needs Linux and the extra `convert`; at true size 18 GB of memory, mapped files included, 45 GB of
disk, and six minutes on two cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.torch import save_file

from convert_weights import oracle
from convert_weights.components import COMPONENTS, OURS, write_config
from convert_weights.names import inert_reason
from convert_weights.tensor_files import find, open_tensors
from posetraj_jax.models.clip import CLIPVisionConfig
from posetraj_jax.models.controlnet import ControlNetConfig
from posetraj_jax.models.unet import UNetConfig
from posetraj_jax.models.vae import VAEConfig
from posetraj_jax.nn.build import build
from posetraj_jax.tree import num_params

SHARD = {"svd": "2GB", "tiny": "2MB"}
POLL_SECONDS = 0.01
FILE = "diffusion_pytorch_model.safetensors"


class Cost(NamedTuple):
    """What one command took."""

    seconds: float
    peak_bytes: int
    """Most anonymous memory of the process: pages of mapped files do not count."""
    output: str


class Figures(NamedTuple):
    """What this benchmark measures, for the test at true size."""

    memory_over_tree: dict[str, float]
    """Layout of the source → peak memory over the bytes of the converted UNet in bfloat16."""
    time_over_copy: dict[str, float]
    """Layout of the source → time over that of `cp` and `sync`."""
    differences: dict[str, float]
    """Network → largest relative difference from PyTorch, float32."""
    is_same_bytes: bool
    """Whether the exported ControlNet holds the source's numbers."""


def main(arguments: list[str] | None = None) -> Figures:
    """Runs everything in a temporary folder and prints as it goes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=tuple(SHARD), default="svd", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's choice")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return measure(Path(folder), options.size)


def measure(folder: Path, size: str) -> Figures:
    """Writes, converts and compares below `folder`."""
    layouts = _publish(folder, size)
    memory, times = {}, {}
    tree_bytes = 2 * num_params(build(COMPONENTS["unet"].module_cls, _configs(size)[0]).abstract())
    print(f"\nthe UNet to bfloat16, {tree_bytes / 1e9:.2f} GB", flush=True)
    for name, source in layouts.items():
        command = ("svd_to_flax", source, folder / "out", "--only", "unet", "--dtype", "bfloat16")
        cost = _run(*command)
        copying = _copy(source / "unet", folder / "copy")
        memory[name], times[name] = cost.peak_bytes / tree_bytes, cost.seconds / copying
        print(
            f"  {name:<12} {cost.seconds:6.1f} s, {cost.peak_bytes / 1e9:5.2f} GB; cp + sync ",
            end="",
        )
        print(f"{copying:5.1f} s", flush=True)
        shutil.rmtree(folder / "out")
    print("\nfloat32, whole and verified against PyTorch", flush=True)
    source = layouts["fp32 shards"]
    weights = folder / "weights"
    proofs = [_run("svd_to_flax", source, weights, "--verify")]
    controlnet = ("posetraj_to_flax", folder / "controlnet", weights / "controlnet", "--verify")
    proofs.append(_run(*controlnet))
    for what, cost in zip(("the pipeline", "the ControlNet"), proofs, strict=True):
        print(f"  {what}: converted and verified in {_words(cost)}", flush=True)
    back = ("flax_to_diffusers", weights, folder / "back", "--only", "controlnet", "--svd", source)
    print(f"  the ControlNet: exported in {_words(_run(*back))}", flush=True)
    is_same = _is_same(folder / "controlnet" / FILE, folder / "back" / "controlnet" / FILE, source)
    return _report(Figures(memory, times, _differences(proofs), is_same))


def _report(figures: Figures) -> Figures:
    print("\nlargest relative difference from PyTorch")
    for name, difference in figures.differences.items():
        print(f"  {name:<16} {difference:.1e}")
    print("\nthe ControlNet, to Flax and back: ", end="")
    print("bitwise the same" if figures.is_same_bytes else "NOT the same")
    print("\nratios, source of the UNet     memory / tree     time / (cp + sync)")
    for name, ratio in figures.memory_over_tree.items():
        print(f"  {name:<28} {ratio:>12.2f} {figures.time_over_copy[name]:>18.2f}")
    return figures


def _words(cost: Cost) -> str:
    return f"{cost.seconds:.0f} s, {cost.peak_bytes / 1e9:.1f} GB"


def _configs(size: str) -> tuple[UNetConfig, VAEConfig, CLIPVisionConfig, ControlNetConfig]:
    if size == "tiny":
        controlnet = ControlNetConfig.tiny(camera=True)
        return UNetConfig.tiny(), VAEConfig.tiny(), CLIPVisionConfig.tiny(), controlnet
    controlnet = ControlNetConfig.svd(camera=True)
    return UNetConfig.svd(), VAEConfig.svd(), CLIPVisionConfig.vit_h(), controlnet


def _publish(folder: Path, size: str) -> dict[str, Path]:
    """The pipeline in both layouts and the ControlNet, every number drawn; layout → folder."""
    layouts = {"fp16 variant": folder / "fp16", "fp32 shards": folder / "fp32"}
    unet, vae, clip, controlnet = _configs(size)
    makers = {
        "unet": lambda: oracle.drawn(oracle.unet, unet, seed=0),
        "vae": lambda: oracle.drawn(oracle.vae, vae, seed=1),
        "image_encoder": lambda: oracle.redraw(oracle.clip(clip), seed=2),
    }
    for name, make in makers.items():
        print(f"writing {name}", flush=True)
        module = make()
        module.save_pretrained(layouts["fp32 shards"] / name, max_shard_size=SHARD[size])
        module.half().save_pretrained(layouts["fp16 variant"] / name, variant="fp16")
    for source in layouts.values():
        oracle.save_settings(source)
    print("writing controlnet", flush=True)
    module = oracle.drawn(oracle.controlnet, controlnet, seed=3)
    (folder / "controlnet").mkdir()
    save_file(module.state_dict(), folder / "controlnet" / FILE)
    fields = write_config(controlnet, COMPONENTS["controlnet"])
    fields = {name: value for name, value in fields.items() if name not in OURS}
    (folder / "controlnet" / "config.json").write_text(json.dumps(fields))
    return layouts


def _run(module: str, *arguments: object) -> Cost:
    """Runs a command of `convert_weights` and watches its memory; ends with `sync`."""
    command = [sys.executable, "-m", f"convert_weights.{module}", *map(str, arguments)]
    subprocess.run(["sync"], check=True)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with _peak_of(process.pid) as peak:
        output, errors = process.communicate()
    subprocess.run(["sync"], check=True)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors}")
    return Cost(seconds, peak[0], output)


@contextmanager
def _peak_of(pid: int) -> Iterator[list[int]]:
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            peak[0] = max(peak[0], _anonymous_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _copy(source: Path, target: Path) -> float:
    """Seconds of `cp` and `sync`, once the files have been read anyway."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync"], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def _differences(costs: list[Cost]) -> dict[str, float]:
    lines = [line for cost in costs for line in cost.output.splitlines() if "difference" in line]
    return {line.split(" largest")[0].strip(): float(line.split()[-1]) for line in lines}


def _is_same(one: Path, other: Path, svd: Path) -> bool:
    """Whether `other` holds the numbers of `one`, and where those are inert, the SVD folder's."""
    first, second = open_tensors(one), open_tensors(other)
    unet = open_tensors(find(svd / "unet", COMPONENTS["unet"].file))
    return first.keys() == second.keys() and all(
        np.array_equal(second[name], (unet if inert_reason(name, "controlnet") else first)[name])
        for name in first
    )


if __name__ == "__main__":
    main()
