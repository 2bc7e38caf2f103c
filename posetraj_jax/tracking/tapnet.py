"""Follows points with DeepMind's BootsTAPIR or TAPNext, whose package and weights the user gives.

Neither is a dependency of this project: both are imported only when they are asked for.

Never run with real weights: the calls and conventions below are read from the package's own
notebooks and models, and the tests put a stand-in of the same interface in its place.

    model       file of weights (storage.googleapis.com/dm-tapnet/...)
    bootstapir  bootstap/bootstapir_checkpoint_v2.pt
    tapnext     tapnext/bootstapnext_ckpt.npz

Source: google-deepmind/tapnet, colabs/torch_tapir_demo.ipynb, colabs/torch_tapnext_demo.ipynb,
tapnet/torch/tapir_model.py, tapnet/tapnext/tapnext_torch.py.
"""

import importlib
import pickle
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from posetraj_jax.errors import UserError
from posetraj_jax.tracking.track_json import Tracked, inside

Array = np.ndarray

SIZE = (256, 256)
"""(height, width) that both were trained and are evaluated on."""
WEIGHTS = {
    "bootstapir": "bootstap/bootstapir_checkpoint_v2.pt",
    "tapnext": "tapnext/bootstapnext_ckpt.npz",
}
MODULES = {
    "bootstapir": ("torch", "tapnet.torch.tapir_model"),
    "tapnext": ("torch", "tapnet.tapnext.tapnext_torch", "tapnet.tapnext.tapnext_torch_utils"),
}
INSTALL = "pip install 'tapnet[torch] @ git+https://github.com/google-deepmind/tapnet' einops"
DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError)
DAMAGED += (pickle.UnpicklingError, zipfile.BadZipFile)
"""What loading a file ends with that holds other weights, or none."""


def track(
    frames: UInt8[Array, "f h w 3"], seeds: Float[Array, "p 2"], *, model: str, weights: Path
) -> Tracked:
    """Follows points of the first frame through all frames, on a GPU if torch finds one.

    Frames are resized to SIZE, and the points back. Both models count as this project does: the
    centre of the first pixel is (0.5, 0.5), so positions are only scaled.

    Args:
        frames: RGB.
        seeds: (x, y) in pixels, inside the picture.
        model: 'bootstapir' or 'tapnext'.
        weights: its file.

    Returns:
        Points, in the first frame the seeds themselves; visible where the model says so and the
        point is inside the picture.

    Raises:
        UserError: another model, seeds elsewhere, a package or file that is missing, weights that
            do not fit the model, or points that are not finite.
    """
    if model not in WEIGHTS:
        raise _unusable("There is no such tracker", f"one of {', '.join(WEIGHTS)}", repr(model))
    height, width = frames.shape[1:3]
    good = np.isfinite(seeds).all(axis=1) & inside(seeds, (height, width))
    if not good.all():
        expected = f"(x, y) inside the first frame, {width} x {height} pixels"
        got = f"{(~good).sum()} of {len(good)} elsewhere"
        raise _unusable("Points cannot be followed", expected, got)
    network, modules = _load(model, Path(weights))
    scale = np.array([SIZE[1] / width, SIZE[0] / height])
    resized = np.stack([cv2.resize(f, SIZE[::-1], interpolation=cv2.INTER_AREA) for f in frames])
    video = resized.astype(np.float32) / 255 * 2 - 1
    queries = np.zeros((len(seeds), 3), np.float32)  # (frame, y, x)
    queries[:, 1:] = (seeds * scale)[:, ::-1]
    run = _run_tapir if model == "bootstapir" else _run_tapnext
    points, visible = run(modules["torch"], network, video, queries)
    points = (points / scale).astype(np.float32)
    if not np.isfinite(points).all():
        got = f"{(~np.isfinite(points)).sum()} numbers that are not"
        raise _unusable(f"{model} failed", "finite points", got, f"check the weights {weights}")
    points[0] = seeds
    visible = visible & inside(points, (height, width))
    visible[0] = True
    return Tracked(points, visible)


def _run_tapir(
    torch: ModuleType, network: Any, video: Float32[Array, "f h w 3"], queries: Array
) -> tuple[Float32[Array, "f p 2"], Bool[Array, "f p"]]:
    """Points (x, y) at SIZE; visible where neither hidden nor uncertain, as the notebook has it."""
    with torch.no_grad():
        out = network(_tensor(torch, video), _tensor(torch, queries))
    tracks, occlusion, expected_dist = (
        _array(out[name])[0].swapaxes(0, 1) for name in ("tracks", "occlusion", "expected_dist")
    )
    return tracks, _likely_not(occlusion) * _likely_not(expected_dist) > 0.5


def _likely_not(logits: Array) -> Array:
    """1 - sigmoid, which does not overflow."""
    return 0.5 - 0.5 * np.tanh(0.5 * logits.astype(np.float64))


def _run_tapnext(
    torch: ModuleType, network: Any, video: Float32[Array, "f h w 3"], queries: Array
) -> tuple[Float32[Array, "f p 2"], Bool[Array, "f p"]]:
    """Points (x, y) at SIZE, frame by frame as the notebook runs it; the model says (y, x)."""
    tracks, visible, state = [], [], None
    with torch.no_grad():
        for frame in range(len(video)):
            given = {"video": _tensor(torch, video[frame : frame + 1])}
            given |= {"query_points": _tensor(torch, queries)} if state is None else {}
            given |= {} if state is None else {"state": state}
            positions, _, logits, state = network(**given)
            tracks.append(_array(positions)[0, 0][:, ::-1])
            visible.append(_array(logits)[0, 0, :, 0] > 0)
    return np.stack(tracks), np.stack(visible)


def _tensor(torch: ModuleType, array: Array) -> Any:
    """A batch of one, where the network is."""
    return torch.from_numpy(np.ascontiguousarray(array))[None].to(_device(torch))


def _device(torch: ModuleType) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _array(tensor: Any) -> Array:
    return tensor.detach().cpu().float().numpy()


def _load(model: str, weights: Path) -> tuple[Any, dict[str, ModuleType]]:
    """The network with its weights, and the modules by their names."""
    try:
        modules = {name: importlib.import_module(name) for name in MODULES[model]}
    except ImportError as error:
        what = f"{model} cannot be used: its package is not installed"
        raise _unusable(
            what, f"to import {', '.join(MODULES[model])}", str(error), INSTALL
        ) from error
    torch = modules["torch"]
    address = f"https://storage.googleapis.com/dm-tapnet/{WEIGHTS[model]}"
    try:
        if model == "bootstapir":
            network = modules["tapnet.torch.tapir_model"].TAPIR(pyramid_level=1)
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        else:
            network = modules["tapnet.tapnext.tapnext_torch"].TAPNext(image_size=SIZE)
            restorer = modules["tapnet.tapnext.tapnext_torch_utils"]
            network = restorer.restore_model_from_jax_checkpoint(network, str(weights))
    except DAMAGED as error:
        raise _unusable(
            f"The weights of {model} cannot be used: {weights}",
            f"the file {address}",
            f"{type(error).__name__}: {error}"[:500],
            "download that file, and give its path",
        ) from error
    return network.to(_device(torch)).eval(), modules


def _unusable(what: str, expected: str, got: str, fix: str = "give other ones") -> UserError:
    return UserError(what, expected=expected, got=got, fix=fix)
