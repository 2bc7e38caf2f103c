"""PoseTraj in JAX: trajectory-controlled image-to-video diffusion on Stable Video Diffusion."""

__version__ = "0.1.0"
