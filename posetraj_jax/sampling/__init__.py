"""One picture and drawn tracks → a video: `generate(image, tracks, load_model(WEIGHTS))`."""

from posetraj_jax.sampling.generate import StoppedError, Video, generate, generate_many
from posetraj_jax.sampling.inputs import Request, dim_outside, read_request
from posetraj_jax.sampling.model import TINY, Model, load_model
from posetraj_jax.sampling.settings import Settings

__all__ = [
    "TINY",
    "Model",
    "Request",
    "Settings",
    "StoppedError",
    "Video",
    "dim_outside",
    "generate",
    "generate_many",
    "load_model",
    "read_request",
]
