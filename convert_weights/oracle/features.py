"""The feature networks of FID and FVD in PyTorch, straight from a state dict, layer by layer.

Written from the published definitions (pytorch-fid's Inception, the PyTorch port of I3D); neither
is a package that can be installed beside PyTorch for CPUs.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F  # noqa: N812

Tensor = torch.Tensor
State = Mapping[str, Tensor]


def drawn_state(network: str, seed: int) -> dict[str, Tensor]:
    """A state dict as published, every tensor drawn: of "inception" or "i3d"."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    state = {}
    units, conv = {
        "inception": (inception_units, "conv"),
        "i3d": (i3d_units, "conv3d"),
    }[network]
    for name, shape in units():
        c, fan_in = shape[0], torch.Size(shape[1:]).numel()
        state[f"{name}.{conv}.weight"] = normal(*shape) * (2 / fan_in) ** 0.5
        state[f"{name}.bn.weight"] = 1 + 0.1 * normal(c)
        state[f"{name}.bn.bias"] = 0.1 * normal(c)
        state[f"{name}.bn.running_mean"] = 0.1 * normal(c)
        state[f"{name}.bn.running_var"] = (1 + 0.1 * normal(c)).abs()
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
    if network == "inception":
        return state | {"fc.weight": normal(1008, 2048), "fc.bias": normal(1008)}
    logits = normal(400, 1024, 1, 1, 1) / 32
    return state | {"logits.conv3d.weight": logits, "logits.conv3d.bias": normal(400)}


def inception_units() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names of the units and shapes of their kernels."""
    stem = {"1a_3x3": (32, 3, 3), "2a_3x3": (32, 32, 3), "2b_3x3": (64, 32, 3)}
    stem |= {"3b_1x1": (80, 64, 1), "4a_3x3": (192, 80, 3)}
    for name, (c_out, c_in, side) in stem.items():
        yield f"Conv2d_{name}", (c_out, c_in, side, side)
    for letter, c_in, pool in ("b", 192, 32), ("c", 256, 64), ("d", 288, 64):
        block = f"Mixed_5{letter}"
        yield f"{block}.branch1x1", (64, c_in, 1, 1)
        yield f"{block}.branch5x5_1", (48, c_in, 1, 1)
        yield f"{block}.branch5x5_2", (64, 48, 5, 5)
        yield f"{block}.branch3x3dbl_1", (64, c_in, 1, 1)
        yield f"{block}.branch3x3dbl_2", (96, 64, 3, 3)
        yield f"{block}.branch3x3dbl_3", (96, 96, 3, 3)
        yield f"{block}.branch_pool", (pool, c_in, 1, 1)
    yield "Mixed_6a.branch3x3", (384, 288, 3, 3)
    yield "Mixed_6a.branch3x3dbl_1", (64, 288, 1, 1)
    yield "Mixed_6a.branch3x3dbl_2", (96, 64, 3, 3)
    yield "Mixed_6a.branch3x3dbl_3", (96, 96, 3, 3)
    for letter, c in ("b", 128), ("c", 160), ("d", 160), ("e", 192):
        block = f"Mixed_6{letter}"
        yield f"{block}.branch1x1", (192, 768, 1, 1)
        yield f"{block}.branch7x7_1", (c, 768, 1, 1)
        yield f"{block}.branch7x7_2", (c, c, 1, 7)
        yield f"{block}.branch7x7_3", (192, c, 7, 1)
        yield f"{block}.branch7x7dbl_1", (c, 768, 1, 1)
        yield f"{block}.branch7x7dbl_2", (c, c, 7, 1)
        yield f"{block}.branch7x7dbl_3", (c, c, 1, 7)
        yield f"{block}.branch7x7dbl_4", (c, c, 7, 1)
        yield f"{block}.branch7x7dbl_5", (192, c, 1, 7)
        yield f"{block}.branch_pool", (192, 768, 1, 1)
    yield "Mixed_7a.branch3x3_1", (192, 768, 1, 1)
    yield "Mixed_7a.branch3x3_2", (320, 192, 3, 3)
    yield "Mixed_7a.branch7x7x3_1", (192, 768, 1, 1)
    yield "Mixed_7a.branch7x7x3_2", (192, 192, 1, 7)
    yield "Mixed_7a.branch7x7x3_3", (192, 192, 7, 1)
    yield "Mixed_7a.branch7x7x3_4", (192, 192, 3, 3)
    for letter, c_in in ("b", 1280), ("c", 2048):
        block = f"Mixed_7{letter}"
        yield f"{block}.branch1x1", (320, c_in, 1, 1)
        yield f"{block}.branch3x3_1", (384, c_in, 1, 1)
        yield f"{block}.branch3x3_2a", (384, 384, 1, 3)
        yield f"{block}.branch3x3_2b", (384, 384, 3, 1)
        yield f"{block}.branch3x3dbl_1", (448, c_in, 1, 1)
        yield f"{block}.branch3x3dbl_2", (384, 448, 3, 3)
        yield f"{block}.branch3x3dbl_3a", (384, 384, 1, 3)
        yield f"{block}.branch3x3dbl_3b", (384, 384, 3, 1)
        yield f"{block}.branch_pool", (192, c_in, 1, 1)


def i3d_units() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names of the units and shapes of their kernels, but for the last layer."""
    yield "Conv3d_1a_7x7", (64, 3, 7, 7, 7)
    yield "Conv3d_2b_1x1", (64, 64, 1, 1, 1)
    yield "Conv3d_2c_3x3", (192, 64, 3, 3, 3)
    c = 192
    for block, (b0, b1a, b1b, b2a, b2b, b3b) in I3D_BLOCKS.items():
        yield f"{block}.b0", (b0, c, 1, 1, 1)
        yield f"{block}.b1a", (b1a, c, 1, 1, 1)
        yield f"{block}.b1b", (b1b, b1a, 3, 3, 3)
        yield f"{block}.b2a", (b2a, c, 1, 1, 1)
        yield f"{block}.b2b", (b2b, b2a, 3, 3, 3)
        yield f"{block}.b3b", (b3b, c, 1, 1, 1)
        c = b0 + b1b + b2b + b3b


I3D_BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of the six units of each block."""


def _normed(x: Tensor, state: State, name: str) -> Tensor:
    mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
    scale, bias = state[f"{name}.bn.weight"], state[f"{name}.bn.bias"]
    return F.relu(F.batch_norm(x, mean, var, scale, bias, eps=0.001))


@torch.no_grad()
def run_inception(state: State, pictures: Tensor) -> Tensor:
    """Features (b, 2048) of pictures (b, 3, h, w) in [0, 1], as pytorch-fid has them."""

    def unit(x: Tensor, name: str, padding: int | tuple[int, int] = 0, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.conv.weight"]
        return _normed(F.conv2d(x, kernel, stride=stride, padding=padding), state, name)

    def chain(x: Tensor, name: str, *paddings: int | tuple[int, int]) -> Tensor:
        for n, padding in enumerate(paddings, start=1):
            x = unit(x, f"{name}_{n}", padding)
        return x

    def pooled(x: Tensor, block: str) -> Tensor:
        if block == "Mixed_7c":
            around = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            around = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return unit(around, f"{block}.branch_pool")

    x = 2 * pictures - 1
    x = unit(unit(unit(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1)
    x = F.max_pool2d(x, 3, stride=2)
    x = F.max_pool2d(unit(unit(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, stride=2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        alone, fives = unit(x, f"{block}.branch1x1"), chain(x, f"{block}.branch5x5", 0, 2)
        x = torch.cat(
            [alone, fives, chain(x, f"{block}.branch3x3dbl", 0, 1, 1), pooled(x, block)], 1
        )
    once = unit(x, "Mixed_6a.branch3x3", stride=2)
    twice = chain(x, "Mixed_6a.branch3x3dbl", 0, 1)
    twice = unit(twice, "Mixed_6a.branch3x3dbl_3", stride=2)
    x = torch.cat([once, twice, F.max_pool2d(x, 3, stride=2)], 1)
    row, column = (0, 3), (3, 0)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        alone = unit(x, f"{block}.branch1x1")
        once = chain(x, f"{block}.branch7x7", 0, row, column)
        twice = chain(x, f"{block}.branch7x7dbl", 0, column, row, column, row)
        x = torch.cat([alone, once, twice, pooled(x, block)], 1)
    once = unit(chain(x, "Mixed_7a.branch3x3", 0), "Mixed_7a.branch3x3_2", stride=2)
    twice = chain(x, "Mixed_7a.branch7x7x3", 0, row, column)
    twice = unit(twice, "Mixed_7a.branch7x7x3_4", stride=2)
    x = torch.cat([once, twice, F.max_pool2d(x, 3, stride=2)], 1)
    for block in ("Mixed_7b", "Mixed_7c"):
        alone = unit(x, f"{block}.branch1x1")
        once, twice = chain(x, f"{block}.branch3x3", 0), chain(x, f"{block}.branch3x3dbl", 0, 1)
        ends = [
            unit(start, f"{block}.{name}{letter}", padding)
            for start, name in ((once, "branch3x3_2"), (twice, "branch3x3dbl_3"))
            for letter, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        x = torch.cat([alone, *ends, pooled(x, block)], 1)
    return F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)


@torch.no_grad()
def run_i3d(state: State, clips: Tensor) -> Tensor:
    """Logits (b, 400), means over time, of clips (b, 3, f, h, w) in [-1, 1]."""

    def padded(x: Tensor, window: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        sides: list[int] = []
        for n, k, s in zip(x.shape[:1:-1], window[::-1], strides[::-1], strict=True):
            missing = max(k - (s if n % s == 0 else n % s), 0)
            sides += [missing // 2, missing - missing // 2]
        return F.pad(x, sides)

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.conv3d.weight"]
        x = padded(x, tuple(kernel.shape[2:]), (stride,) * 3)
        return _normed(F.conv3d(x, kernel, stride=stride), state, name)

    def pool(x: Tensor, window: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(padded(x, window, strides), window, strides)

    x = pool(unit(clips, "Conv3d_1a_7x7", stride=2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for block in I3D_BLOCKS:
        if block == "Mixed_4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if block == "Mixed_5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        one = unit(unit(x, f"{block}.b1a"), f"{block}.b1b")
        two = unit(unit(x, f"{block}.b2a"), f"{block}.b2b")
        three = unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{block}.b3b")
        x = torch.cat([unit(x, f"{block}.b0"), one, two, three], 1)
    x = F.avg_pool3d(x, (2, 7, 7), stride=1)
    x = F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return x.mean((2, 3, 4))


def run_features(network: str, tensors: Mapping[str, ArrayLike], pixels: np.ndarray) -> np.ndarray:
    """Features (b, d) of pictures or clips in [-1, 1], channels last: of "inception" or "i3d"."""
    state = {name: torch.tensor(np.asarray(tensor)) for name, tensor in tensors.items()}
    first = torch.from_numpy(pixels).movedim(-1, 1)
    if network == "i3d":
        return run_i3d(state, first).numpy()
    return run_inception(state, (first + 1) / 2).numpy()
