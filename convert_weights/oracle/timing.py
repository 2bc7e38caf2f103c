"""What benchmarks time: all that is not to be timed is done before."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float


def prepare_convolution(
    x: Float[np.ndarray, "n h w c"], kernel: Float[np.ndarray, "3 3 c d"]
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """A convolution with one zero around, and its kernel's gradient where that of the output is x.

    Channels come first here, as in the networks.
    """
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    taps = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    return (
        lambda: torch.nn.functional.conv2d(images, taps, padding=1),
        lambda: torch.nn.grad.conv2d_weight(images, taps.shape, images, padding=1),
    )
