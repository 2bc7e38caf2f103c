"""One clip record as bytes: a `tf.train.Example` whose features are the fields of `Clip`.

Pictures are `Sequence(Image)` (the JPEG or PNG bytes, untouched), arrays little-endian
`Tensor(bytes)`, names `Text`, `provenance` JSON text. `clip.ARRAYS` has the axes and types of the
arrays. Equal clips give equal bytes.
"""

import functools
import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from posetraj_jax.data.clip import ARRAYS, Array, Clip, check_clip

TEXTS = ("clip_id", "source", "licence")
UNREADABLE = (RuntimeError, ValueError, KeyError, TypeError, IndexError, DecodeError)
"""What decoding a damaged record can end with."""


def features() -> tfds.features.FeaturesDict:
    """The schema, as TFDS describes it."""
    kinds = tfds.features
    tensors = {
        name: kinds.Tensor(
            shape=[int(axis) if axis.isdigit() else None for axis in axes.split()],
            dtype=dtype,
            encoding="bytes",
        )
        for name, (axes, dtype) in ARRAYS.items()
    }
    return kinds.FeaturesDict(
        {
            **{name: kinds.Text() for name in (*TEXTS, "provenance")},
            **tensors,
            "frames_jpeg": kinds.Sequence(kinds.Image(encoding_format="jpeg")),
            "masks_png": kinds.Sequence(kinds.Image(shape=(None, None, 1), encoding_format="png")),
            "depths_png": kinds.Sequence(
                kinds.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
            ),
            "fps": kinds.Tensor(shape=(), dtype=np.float64, encoding="bytes"),
            "track_kinds": kinds.Sequence(kinds.Text()),
            "camera_known": kinds.Scalar(np.bool_),
        }
    )


_features = functools.cache(features)  # TFDS binds those of a dataset to it


def encode(clip: Clip) -> bytes:
    """The record of a clip.

    Raises:
        UserError: the clip is not legal.
    """
    check_clip(clip)
    # Protobuf maps have no order of their own: without this, equal clips give unequal files.
    proto = tf_example_pb2.Example.FromString(_features().serialize_example(_to_example(clip)))
    return proto.SerializeToString(deterministic=True)


def decode(record: bytes) -> Clip:
    """The clip of a record; its pictures stay encoded.

    Raises:
        One of UNREADABLE: the record is damaged.
    """
    stored = tf_example_pb2.Example.FromString(record).features.feature
    missing = [name for name in (*TEXTS, "frames_jpeg", "provenance") if name not in stored]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in the record")
    texts = {name: stored[name].bytes_list.value[0].decode() for name in TEXTS}
    kinds = (kind.decode() for kind in stored["track_kinds"].bytes_list.value)
    return Clip(
        **texts,
        **{name: _array(stored, name) for name in ARRAYS},
        frames_jpeg=tuple(stored["frames_jpeg"].bytes_list.value),
        masks_png=tuple(stored["masks_png"].bytes_list.value),
        depths_png=tuple(stored["depths_png"].bytes_list.value),
        fps=float(np.frombuffer(stored["fps"].bytes_list.value[0], "<f8")[0]),
        track_kinds=tuple(kinds),
        camera_known=bool(stored["camera_known"].int64_list.value[0]),
        provenance=json.loads(stored["provenance"].bytes_list.value[0]),
    )


def _array(stored: Any, name: str) -> Array:
    axes, dtype = ARRAYS[name]
    letters = axes.split()
    if sum(not letter.isdigit() for letter in letters) > 1:  # TFDS then stores the shape beside it
        shape = list(stored[f"{name}/shape"].int64_list.value)
        data = stored[f"{name}/value"].bytes_list.value[0]
    else:
        shape = [int(letter) if letter.isdigit() else -1 for letter in letters]
        data = stored[name].bytes_list.value[0]
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)


def _to_example(clip: Clip) -> dict[str, Any]:
    return clip._asdict() | {
        "fps": np.float64(clip.fps),
        "frames_jpeg": list(clip.frames_jpeg),
        "masks_png": list(clip.masks_png),
        "depths_png": list(clip.depths_png),
        "track_kinds": list(clip.track_kinds),
        "provenance": json.dumps(clip.provenance, sort_keys=True),
    }
