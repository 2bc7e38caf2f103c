"""Parameters of the PyTorch networks: drawn anew, rounded, taken out and put in."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn


def redraw(module: nn.Module, seed: int) -> nn.Module:
    """Draws every parameter anew and returns `module`.

    Kernels from N(0, 1/fan_in), scales of norms from 1 + N(0, 0.1²), mixers from N(0, 1), biases
    and the rest from N(0, 0.02²). Initial values hide mistakes: zero convolutions, even mixers,
    norms that do nothing; kernels as small as the biases would hide the input of a deep chain
    without norms, such as the map embedding.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for child in module.modules():
            is_norm = isinstance(child, nn.GroupNorm | nn.LayerNorm)
            for name, parameter in child.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                if is_norm and name == "weight":
                    parameter.copy_(1 + 0.1 * noise)
                elif name == "mix_factor":
                    parameter.copy_(noise)
                elif parameter.ndim > 1:
                    parameter.copy_(noise * parameter[0].numel() ** -0.5)
                else:
                    parameter.copy_(0.02 * noise)
    return module.eval()


def state(module: nn.Module) -> dict[str, np.ndarray]:
    """The state dict as numpy arrays."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def load(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> nn.Module:
    """Loads a complete state dict of numpy arrays; a name too many or too few is an error."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    module.load_state_dict(tensors, strict=True)
    return module.eval()


@torch.no_grad()
def round_parameters(module: nn.Module, dtype: str) -> None:
    """Gives every parameter the value it has after a cast to `dtype` and back."""
    for parameter in module.parameters():
        parameter.copy_(parameter.to(getattr(torch, dtype)))
