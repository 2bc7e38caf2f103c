"""Proves a conversion: the PyTorch network and ours, on the same seeded input, in float32."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert_weights.components import COMPONENTS, OURS
from convert_weights.source import Source
from posetraj_jax import tree, weights
from posetraj_jax.errors import UserError, listed
from posetraj_jax.nn.build import Network, build
from posetraj_jax.structs import CAMERA_NUMBERS, MAP_CHANNELS

TOLERANCE = 1e-4
"""Largest difference, in units of the largest output, that rounding in float32 may make."""
SEED, FRAMES, ROWS, COLUMNS = 0, 3, 16, 24
"""Of the input: three frames of 16 x 24 latents, so of 128 x 192 pixels."""

Outputs = dict[str, tuple[np.ndarray, ...]]
"""What is printed in one line → arrays, each measured in units of its own largest number."""


def require_torch() -> None:
    """Raises a UserError unless the PyTorch networks can be built."""
    try:
        import convert_weights.oracle  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--verify cannot run the PyTorch networks",
            expected="PyTorch, diffusers and transformers",
            got=str(error),
            fix='pip install torch==2.13.0, then pip install -e ".[convert]"',
        ) from error


def verify(
    source: Source,
    load: Callable[[tree.Tree], tree.Tree],
    config: Any,
    *,
    rounded_to: str | None = None,
) -> dict[str, float]:
    """The largest difference of each output, in units of its largest number.

    Args:
        source: The component in PyTorch's format.
        load: Reads the component in ours, given ShapeDtypeStructs.
        config: What our network is to be.
        rounded_to: Type to which PyTorch's parameters are rounded first, where ours were: what is
            compared is the conversion, not the rounding.

    Raises:
        UserError: A difference above `TOLERANCE`.
    """
    network, inputs = build(COMPONENTS[source.name].module_cls, config), _draw(source.name, config)
    expected = _run_torch(source, rounded_to, inputs)  # one network is gone before the next
    params = load(weights.unsharded(network.abstract(), jnp.float32))
    return compare(source.name, _run_ours(source.name, network, params, inputs), expected)


def compare(component: str, got: Outputs, expected: Outputs) -> dict[str, float]:
    """The largest difference of each output, in units of its largest number.

    Raises:
        UserError: A difference above `TOLERANCE`.
    """
    errors = {
        name: max(map(_relative_error, zip(got[name], arrays, strict=True)))
        for name, arrays in expected.items()
    }
    if wrong := [f"{name}: {error:.1e}" for name, error in errors.items() if error > TOLERANCE]:
        raise UserError(
            f"the converted {component} does not compute what the PyTorch network computes",
            expected=f"relative differences of at most {TOLERANCE:.0e}",
            got=listed(wrong),
            fix="report this as a bug of posetraj_jax, with the source and this message",
        )
    return errors


def _relative_error(pair: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest difference in units of the largest output; infinite where one is not finite."""
    ours, theirs = pair
    difference, scale = np.abs(ours - theirs).max(), np.abs(theirs).max()
    if difference == 0:  # both may be zero: a ControlNet that was never trained
        return 0.0
    return float(difference / scale) if np.isfinite(difference) and scale > 0 else float("inf")


def _draw(name: str, config: Any) -> dict[str, np.ndarray]:
    random = np.random.default_rng(SEED)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    if name == "image_encoder":
        return {"images": normal(1, config.image_size, config.image_size, 3)}
    clip = (1, FRAMES, ROWS, COLUMNS)
    if name == "vae":
        scale = 2 ** (len(config.block_out_channels) - 1)
        pixels = normal(FRAMES, ROWS * scale, COLUMNS * scale, config.in_channels)
        return {"pixels": pixels.clip(-1, 1), "latents_raw": normal(*clip, config.latent_channels)}
    inputs = {
        "sample": normal(*clip, config.in_channels),
        "c_noise": normal(1),
        "image_embed": normal(1, config.cross_attention_dim),
        "time_ids": np.array([[6.0, 127.0, 0.02]], np.float32),
    }
    if name == "controlnet":
        maps = normal(1, FRAMES, ROWS * 8, COLUMNS * 8, MAP_CHANNELS)
        inputs["maps_pixels"] = maps.clip(-1, 1)
        if config.camera:
            inputs["camera_rt"] = normal(1, FRAMES, CAMERA_NUMBERS)
    return inputs


def _run_torch(source: Source, dtype: str | None, inputs: Mapping[str, np.ndarray]) -> Outputs:
    from convert_weights import oracle

    config, tensors = source.network.config, source.state_dict()
    if source.name == "controlnet":
        module = oracle.from_tensors(lambda: oracle.controlnet(config), tensors)
    else:
        fields = {name: value for name, value in source.config.items() if name not in OURS}
        module = oracle.from_published(source.name, fields, tensors)
    if dtype:
        oracle.round_parameters(module, dtype)
    if source.name == "unet":
        return {"unet": (oracle.run_unet(module, *inputs.values()),)}
    if source.name == "vae":
        moments = oracle.run_vae_encode(module, inputs["pixels"])
        decoded = oracle.run_vae_decode(module, inputs["latents_raw"])
        return {"vae encode": tuple(moments), "vae decode": (decoded,)}
    if source.name == "image_encoder":
        return {"image_encoder": (oracle.run_clip(module, inputs["images"]),)}
    *rest, maps = (inputs[name] for name in inputs if name != "camera_rt")
    residuals = oracle.run_controlnet(module, *rest, maps, camera_rt=inputs.get("camera_rt"))
    times = config.residual_multiplicity
    skips = [skip * m for skip, m in zip(residuals.skips, times, strict=True)]
    return {"controlnet": (*skips, residuals.mid)}


def _run_ours(
    name: str, network: Network, params: Any, inputs: Mapping[str, np.ndarray]
) -> Outputs:
    def call(method: str | None, *arguments: Any) -> Any:
        run = jax.jit(lambda params, *x: network.apply(params, *x, method=method))
        with jax.default_matmul_precision("highest"):
            return jax.tree.map(np.asarray, run(params, *arguments))

    if name == "vae":
        moments, decoded = call("encode", inputs["pixels"]), call("decode", inputs["latents_raw"])
        return {"vae encode": tuple(moments), "vae decode": (decoded,)}
    if name != "controlnet":
        return {name: (call(None, *inputs.values()),)}
    features = call("encode_maps", inputs["maps_pixels"], inputs.get("camera_rt"))
    rest = [x for key, x in inputs.items() if key not in ("maps_pixels", "camera_rt")]
    residuals = call(None, *rest, features)
    return {name: (*residuals.skips, residuals.mid)}
