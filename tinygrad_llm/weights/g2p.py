"""The weights of the package g2p-en, a GRU encoder-decoder that says how English words are spoken: an .npz file.

Park and Kim 2018, https://github.com/Kyubyong/g2p. 29 letters and marks become 74 phonemes and marks; there is no
attention. Gates are r, z, n and matrices (out, in), as in PyTorch. The arrays must be those of version 2.1.0, by name,
shape and kind, which is checked before any is read; what an .npz can hold beside plain numbers is never opened.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.tape import Array
from tinygrad_llm.weights.recurrent_encoder_decoder import MODEL_TYPES
from tinygrad_llm.weights.stored import Checkpoint, Stored

LETTER_COUNT, PHONEME_COUNT, UNITS = 29, 74, 256
"""Tokens of the inputs, and of the outputs; channels and units."""

CONFIG: dict[str, Any] = {
    "model_type": MODEL_TYPES[0],
    "kind": "gru",
    "vocab_size": LETTER_COUNT,
    "decoder_vocab_size": PHONEME_COUNT,
    "channels": UNITS,
    "units": UNITS,
    "layers": 1,
    "bidirectional": False,
    "attention": False,
    "dropout": 0.0,
    "init_std": 0.1,
    "pad_id": 0,
    "start_id": 2,
    "end_id": 3,
}

GRU = {"w_ih": "weight_x", "w_hh": "weight_h", "b_ih": "bias", "b_hh": "state_bias"}

NAMES = {
    "enc_emb": "encoder.token_embedding.weight",
    "dec_emb": "decoder.token_embedding.weight",
    **{f"enc_{theirs}": f"encoder.layers.0.{ours}" for theirs, ours in GRU.items()},
    **{f"dec_{theirs}": f"decoder.layers.0.{ours}" for theirs, ours in GRU.items()},
    "fc_w": "lm_head.weight",
    "fc_b": "lm_head.bias",
}
"""Theirs to ours."""

SHAPES: dict[str, tuple[int, ...]] = {
    "enc_emb": (LETTER_COUNT, UNITS),
    "dec_emb": (PHONEME_COUNT, UNITS),
    **{f"{half}_{matrix}": (3 * UNITS, UNITS) for half in ("enc", "dec") for matrix in ("w_ih", "w_hh")},
    **{f"{half}_{bias}": (3 * UNITS,) for half in ("enc", "dec") for bias in ("b_ih", "b_hh")},
    "fc_w": (PHONEME_COUNT, UNITS),
    "fc_b": (PHONEME_COUNT,),
}
"""As the file has them."""


def read_g2p(path: Path) -> Checkpoint:
    """The model in g2p-en's checkpoint20.npz. FileNotFoundError or ValueError that names file and fault."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        arrays = _checked_arrays(path)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{path}: not the weights of g2p-en 2.1.0 ({error})") from error
    tensors: dict[str, Stored] = {}
    for name, array in arrays.items():
        tensors[NAMES[name]] = _stored(array if array.ndim == 1 or name.endswith("emb") else array.T)
    return Checkpoint(path, CONFIG, tensors)


def _stored(array: Array) -> Stored:
    return Stored("F32", array.shape, lambda: array)


def _checked_arrays(path: Path) -> dict[str, Array]:
    """The arrays, of the names, shapes and kind that are expected, and finite; else nothing is read, or asked for."""
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist()]
        wanted = {f"{name}.npy" for name in SHAPES}
        if odd := sorted(wanted.symmetric_difference(names)):
            raise ValueError(f"missing or unexpected: {', '.join(odd[:5])}")
        if len(names) > len(wanted):
            raise ValueError("an array stands twice in it")
        for name, shape in SHAPES.items():
            with archive.open(f"{name}.npy") as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{name} is in another version of NumPy's format")
                found, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
                if found != shape or by_columns or dtype != np.dtype("<f4"):
                    raise ValueError(f"{name} should be float32 {shape}, and is {dtype} {found}")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in SHAPES}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return arrays
