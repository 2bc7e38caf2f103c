"""The curve between sRGB, in which pictures are stored, and linear light."""

import numpy as np
from jaxtyping import Float32

Array = np.ndarray


def linear(srgb: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1); what lies outside is clipped."""
    srgb = np.clip(srgb, 0.0, 1.0).astype(np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )
