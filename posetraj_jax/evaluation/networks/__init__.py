"""The feature networks of FID and FVD, for the weights they were published with."""

from posetraj_jax.evaluation.networks.i3d import I3D
from posetraj_jax.evaluation.networks.inception import Inception

NETWORKS = {"inception": Inception, "i3d": I3D}
FIRST_UNITS = {"inception": "Conv2d_1a_3x3", "i3d": "Conv3d_1a_7x7"}
"""By which one of their state dicts is known."""
