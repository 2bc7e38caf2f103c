"""Convolutions on a CPU: XLA with and without YNNPACK, and PyTorch, forward and for the kernel.

    python -m benchmarks.cpu_convolutions [--repeats 7]

The sizes are those of `benchmarks.against_pytorch`: 3 x 3 convolutions of the UNet's four levels
and of the autoencoder and map encoder at the picture's resolution and half of it, 14 frames,
float32. XLA keeps channels last, PyTorch first, as each side's networks do. All take turns, and the
fastest run of each counts. Both use all cores. Needs the extra `convert`.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from convert_weights import oracle
from posetraj_jax.sharding import WITHOUT_YNNPACK

FRAMES = 14
SIZES = ((24, 40, 64), (12, 20, 128), (6, 10, 256), (3, 5, 256), (96, 160, 64), (192, 320, 32))
"""Height, width, channels."""

Run = Callable[[], Any]


def main(arguments: list[str] | None = None) -> float:
    """Prints GFLOP/s; returns YNNPACK's time for all kernel gradients over that of XLA's own."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_convolutions", description=__doc__
    )
    parser.add_argument("--repeats", type=int, default=7)
    known = parser.parse_args(arguments)
    oracle.use_threads(os.cpu_count() or 1)
    print("GFLOP/s         forward: XLA  YNNPACK  PyTorch    of the kernel: XLA  YNNPACK  PyTorch")
    total = np.zeros(6)
    for h, w, c in tqdm(SIZES, leave=False):
        seconds = fastest(runs(h, w, c), known.repeats)
        total += seconds
        flops = 2 * FRAMES * h * w * c * c * 9
        rates = flops / seconds / 1e9
        fields = "{:17.0f}{:9.0f}{:9.0f}{:22.0f}{:9.0f}{:9.0f}".format(*rates)
        tqdm.write(f"{f'{h} x {w} x {c}':14}{fields}")
    xla, ynnpack, pytorch = total.reshape(2, 3).T
    for number, name in enumerate(("forward", "of the kernel")):
        print(f"{name}: XLA's own code {pytorch[number] / xla[number]:.2f} times PyTorch's speed")
        print(f"{name}: YNNPACK {pytorch[number] / ynnpack[number]:.2f} times PyTorch's speed")
    ratio = ynnpack[1] / xla[1]
    print(f"YNNPACK's time / XLA's own, gradients of kernels: {ratio:.1f}")
    return ratio


def runs(h: int, w: int, c: int) -> tuple[Run, ...]:
    """Forward by XLA, YNNPACK, PyTorch; and the gradient of the kernel by each."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((FRAMES, h, w, c), np.float32)
    kernel = rng.standard_normal((3, 3, c, c), np.float32)
    ours = jnp.asarray(x), jnp.asarray(kernel)
    forward, of_kernel = oracle.prepare_convolution(x, kernel)
    return (
        *(_of_xla(_convolve, ours, options) for options in (WITHOUT_YNNPACK, None)),
        forward,
        *(_of_xla(_of_kernel, ours, options) for options in (WITHOUT_YNNPACK, None)),
        of_kernel,
    )


def fastest(tasks: tuple[Run, ...], repeats: int) -> np.ndarray:
    """Seconds of the fastest run of each; the first does not count."""
    for task in tasks:
        task()
    taken: list[list[float]] = [[] for _ in tasks]
    for _ in range(repeats):
        for task, seconds in zip(tasks, taken, strict=True):
            begin = time.perf_counter()
            task()
            seconds.append(time.perf_counter() - begin)
    return np.array([min(seconds) for seconds in taken])


def _of_xla(function: Callable[..., jax.Array], arrays: Any, options: Any) -> Run:
    compiled = jax.jit(function, compiler_options=options)
    return lambda: compiled(*arrays).block_until_ready()


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=axes)


def _of_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Where the gradient of the output is `x` too."""
    return jax.vjp(functools.partial(_convolve, x), kernel)[1](x)[0]


if __name__ == "__main__":
    main()
