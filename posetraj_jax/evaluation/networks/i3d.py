"""I3D: 400 features of a clip, the logits of the actions of Kinetics-400."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from posetraj_jax.evaluation.networks.units import Unit, max_pool
from posetraj_jax.nn.layers import Make

SIDE, FEATURES, LEAST_FRAMES = 224, 400, 9
"""Pixels of the square clip, how many features it has, and the fewest frames that leave any."""

THREE = (3, 3, 3)
STEM = (("Conv3d_2b_1x1", 64, (1, 1, 1)), ("Conv3d_2c_3x3", 192, THREE))
MIXED = {
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
"""Channels of the six units of each block: alone, two, two, and after the pool."""
POOLED_BEFORE = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": (THREE, (2, 2, 2))}
POOLED_BEFORE |= {"Mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Windows and strides of the pools between them."""


class Mixed(nnx.Module):
    """Four branches over space and time, put together along the channels."""

    def __init__(self, widths: tuple[int, ...], make: Make, c_in: int):
        alone, two, two_out, other, other_out, pooled = widths
        one = (1, 1, 1)
        self.b0 = Unit(make, c_in, alone, one)
        self.b1a, self.b1b = Unit(make, c_in, two, one), Unit(make, two, two_out, THREE)
        self.b2a, self.b2b = Unit(make, c_in, other, one), Unit(make, other, other_out, THREE)
        self.b3b = Unit(make, c_in, pooled, one)

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w d"]:
        """Features on the same grid."""
        around = max_pool(x, THREE, (1, 1, 1), "SAME")
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(around)
        return jnp.concatenate(branches, axis=-1)


class Logits(nnx.Module):
    """The last layer, which is a convolution of one tap."""

    def __init__(self, make: Make, c_in: int):
        self.conv = make.conv(c_in, FEATURES, (1, 1, 1))

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w 400"]:
        """Logits at every position that is left."""
        return self.conv(x)


class I3D(nnx.Module):
    """Clips to features. There is one size, so there is nothing to configure.

    Source: DeepMind's I3D of Kinetics-400 in the names of its PyTorch port, `InceptionI3d`; FVD's
    features are the means of its logits over time.
    """

    def __init__(self, config: None, make: Make):
        self.Conv3d_1a_7x7 = Unit(make, 3, 64, (7, 7, 7), strides=2)
        c = 64
        for name, channels, kernel in STEM:
            setattr(self, name, Unit(make, c, channels, kernel))
            c = channels
        for name, widths in MIXED.items():
            setattr(self, name, Mixed(widths, make, c))
            c = sum(widths[i] for i in (0, 2, 4, 5))
        self.logits = Logits(make, c)

    def __call__(self, pixels: Float[Array, "b f H W 3"]) -> Float[Array, "b 400"]:
        """Features of clips in [-1, 1], `SIDE` square.

        Raises:
            ValueError: Frames of another size, or fewer than `LEAST_FRAMES`.
        """
        if pixels.shape[1] < LEAST_FRAMES or pixels.shape[2:4] != (SIDE, SIDE):
            expected = f"at least {LEAST_FRAMES} frames of {SIDE} x {SIDE}"
            raise ValueError(f"clips have {expected}, not {pixels.shape}")
        x = max_pool(self.Conv3d_1a_7x7(pixels), (1, 3, 3), (1, 2, 2), "SAME")
        for name, *_ in STEM:
            x = getattr(self, name)(x)
        for name in MIXED:
            if name in POOLED_BEFORE:
                x = max_pool(x, *POOLED_BEFORE[name], "SAME")
            x = getattr(self, name)(x)
        window = (1, 2, 7, 7, 1)
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1,) * 5, "VALID") / (2 * 7 * 7)
        return self.logits(x).mean((1, 2, 3))
