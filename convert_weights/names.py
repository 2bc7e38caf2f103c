"""How our parameters are called in PyTorch checkpoints, and which of theirs we leave out.

Paths are nearly the same on both sides. `RENAMES` rewrites one of our paths into the PyTorch name,
row after row; the last component is rewritten by `LEAVES`. `INERT` lists the source tensors that
cannot influence any output, `BUFFERS` those that are no parameters.
"""

import re

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
LEAVES |= {"mean": "running_mean", "var": "running_var"}

_VIDEO = (
    (r"\.to_out\.", ".to_out.0."),
    (r"\.(ff|ff_in)\.proj_in\.", r".\1.net.0.proj."),
    (r"\.(ff|ff_in)\.proj_out\.", r".\1.net.2."),
)
RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "unet": _VIDEO,
    "controlnet": _VIDEO,
    "vae": ((r"\.to_out\.", ".to_out.0."),),
    "clip": (
        (r"^pre_layernorm\.", "pre_layrnorm."),
        (r"^layers\.", "encoder.layers."),
        (r"\.to_([qkv])\.", r".\1_proj."),
        (r"\.to_out\.", ".out_proj."),
        (r"^(?!visual_projection\.)", "vision_model."),
    ),
    "inception": (),
    "i3d": ((r"\.conv\.", ".conv3d."),),
}

_ONE_TOKEN = "the image context is one token: its softmax is 1 whatever the queries and keys are"
_ONE_TOKEN_INERT = (
    (r"transformer_blocks\.\d+\.attn2\.to_q\.weight$", _ONE_TOKEN),
    (r"transformer_blocks\.\d+\.attn2\.to_k\.weight$", _ONE_TOKEN),
    (r"transformer_blocks\.\d+\.norm2\.(weight|bias)$", "it normalises only those queries"),
)
INERT: dict[str, tuple[tuple[str, str], ...]] = {
    "unet": _ONE_TOKEN_INERT,
    "controlnet": _ONE_TOKEN_INERT,
    "vae": (),
    "clip": (),
}
BUFFERS: dict[str, str] = {
    "clip": r"^vision_model\.embeddings\.position_ids$",  # 0, 1, 2, …; no longer saved
    "inception": r"\.num_batches_tracked$|^fc\.",  # features are what comes before the classes
    "i3d": r"\.num_batches_tracked$",
}
"""Source tensors that are no parameters of the network, by pattern; they may be there."""


def torch_name(path: str, component: str) -> str:
    """The PyTorch name of the parameter we call `path`."""
    *modules, leaf = path.split(".")
    name = ".".join([*modules, LEAVES.get(leaf, leaf)])
    for pattern, replacement in RENAMES[component]:
        name = re.sub(pattern, replacement, name)
    return name


def is_buffer(name: str, component: str) -> bool:
    """Whether the source tensor `name` holds no parameter, but constants."""
    return component in BUFFERS and re.search(BUFFERS[component], name) is not None


def inert_reason(name: str, component: str) -> str | None:
    """Why the source tensor `name` is left out; None where it matters."""
    for pattern, reason in INERT[component]:
        if re.search(pattern, name):
            return reason
    return None
