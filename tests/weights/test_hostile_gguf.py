"""Damaged and lying GGUF files, made byte by byte."""

import struct
import tracemalloc

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.models import Llama, LlamaConfig, load_model
from tinygrad_llm.weights import scatter
from tinygrad_llm.weights.gguf_names import LLAMA

SIZES = {"vocab_size": 40, "context": 16, "channels": 32, "layers": 1, "heads": 1, "kv_heads": 1, "feed_forward": 32}
MODEL = Llama(LlamaConfig(**SIZES), seed=1)

VALUES = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 16,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 1,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def text(value):
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def written(value):
    """A value with its type."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<IQ", 10, value)


def tensors():
    """(name, shape, type, offset, data) of each; rows of queries and keys in llama.cpp's order."""
    found, offset = [], 0
    for name, array in scatter(MODEL.layout, MODEL.config, MODEL.state_dict()).items():
        if "q_proj" in name or "k_proj" in name:
            array = array.reshape(1, 2, 16, 32).swapaxes(1, 2).reshape(32, 32)
        found.append([LLAMA.gguf(name), array.shape, 0, offset, np.ascontiguousarray(array).tobytes()])
        offset += array.nbytes
    return found


def gguf(values=VALUES, places=None, count=None, magic=b"GGUF", version=3):
    places = tensors() if places is None else places
    head = magic + struct.pack("<IQQ", version, len(places) if count is None else count, len(values))
    head += b"".join(text(name) + written(value) for name, value in values.items())
    for name, shape, kind, offset, _ in places:
        sizes = b"".join(struct.pack("<Q", n) for n in shape[::-1])
        head += text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)
    return head + b"\0" * (-len(head) % 32) + b"".join(data for *_, data in places)


def place(number, **changes):
    """The file with one tensor described otherwise: its name, shape, kind or offset."""
    found = tensors()
    for field, value in changes.items():
        found[number][["name", "shape", "kind", "offset", "data"].index(field)] = value
    return gguf(places=found)


def test_the_file_as_it_should_be(tmp_path):
    ids = np.arange(10)[None]
    for name in ("model.gguf", "model"):  # known by its first bytes, whatever it is called
        (tmp_path / name).write_bytes(gguf())
        with no_grad():
            np.testing.assert_array_equal(load_model(tmp_path / name)(ids).data, MODEL(ids).data)


def nan():
    return np.full(32, np.nan, np.float32).tobytes()


QUERIES = [name for name, *_ in tensors()].index("blk.0.attn_q.weight")
END = sum(len(data) for *_, data in tensors())

DAMAGED = {
    "empty": (b"", "is empty: no GGUF file"),
    "another magic": (gguf(magic=b"GGML"), "begins with b'GGML'"),
    "version 1": (gguf(version=1), "has GGUF version 1"),
    "version 9": (gguf(version=9), "has GGUF version 9"),
    "big-endian": (gguf(version=3 << 24), "it is written big-endian"),
    "only a beginning": (gguf()[:20], "a value claims 8 bytes, but the file has only 20 bytes"),
    "half the settings": (gguf()[:150], "the file has only 150 bytes"),
    "half the tensors": (gguf()[:-9000], "but the file has [0-9,]+: is it cut short"),
    "10^18 tensors": (gguf(count=10**18), "claims|a text"),
    "a tensor more than there is": (gguf(count=len(tensors()) + 1), "claims|a text|dimensions|alignment|multiple"),
    "no architecture": (gguf({k: v for k, v in VALUES.items() if "general" not in k}), "its architecture is 'None'"),
    "an unknown architecture": (gguf(VALUES | {"general.architecture": "mamba"}), "its architecture is 'mamba'"),
    "an architecture that is a number": (gguf(VALUES | {"general.architecture": 7}), "its architecture is '7'"),
    "no heads": (gguf(VALUES | {"llama.attention.head_count": 0}), "its numbers of heads are 0 and 1"),
    "heads in words": (gguf(VALUES | {"llama.attention.head_count": "one"}), "its numbers of heads are 'one'"),
    "no width": (gguf({k: v for k, v in VALUES.items() if "embedding" not in k}), "config.json lacks hidden_size"),
    "a width of 2^60": (gguf(VALUES | {"llama.embedding_length": 2**60}), "says channels = "),
    "2^60 layers": (gguf(VALUES | {"llama.block_count": 2**60}), "says layers = "),
    "an unknown scaling": (
        gguf(VALUES | {"llama.rope.scaling.type": "longrope"}),
        "are scaled by 'longrope'",
    ),
    "no alignment": (gguf(VALUES | {"general.alignment": 0}), "general.alignment is 0"),
    "an alignment in words": (gguf(VALUES | {"general.alignment": "x"}), "general.alignment is 'x'"),
    "an unknown type": (place(1, kind=99), "has the type 99; known are F32"),
    "rows that are no blocks": (place(1, kind=12), "has rows of 32, no multiple of the 256 of Q4_K"),
    "no axes": (place(1, shape=()), "has 0 dimensions; 1 to 4 are possible"),
    "nine axes": (place(1, shape=(1,) * 8 + (32,)), "has 9 dimensions; 1 to 4 are possible"),
    "2^60 rows": (place(1, shape=(2**60, 32)), "ends at byte [0-9,]+, but the file has"),
    "a name twice": (place(1, name="token_embd.weight"), "the tensor 'token_embd.weight' stands twice"),
    "an offset of its own": (place(1, offset=4), "begins at byte 4, no multiple of 32"),
    "over another": (place(1, offset=0), "inside of 'token_embd.weight'|inside of 'blk.0.attn_norm.weight'"),
    "beyond the end": (place(1, offset=2**62), "ends at byte [0-9,]+, but the file has"),
    "another name": (place(1, name="x.weight"), r"(?s)missing: .*unexpected: x.weight \(32,\)"),
    "another shape": (place(1, shape=(4, 8)), r"should be \(32,\), and is \(4, 8\)"),
    "the same by two names": (place(1, name="model.embed_tokens.weight"), "stands there by two names"),
    "half of each head rotates": (gguf(VALUES | {"llama.rope.dimension_count": 16}), "rotates 16 of the 32 channels"),
    "a width in words": (gguf(VALUES | {"llama.embedding_length": "x"}), "what stands for channels is 'x'"),
    "a scaling with more": (
        gguf(VALUES | {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.attn_factor": 2.0}),
        "llama.rope.scaling.attn_factor, which is unknown here",
    ),
    "a scaling of nothing": (gguf(VALUES | {"llama.rope.scaling.factor": 0.0}), "factor=0.0 must be a positive"),
    "an odd number of rows": (place(QUERIES, shape=(31, 32)), "has 31 rows, no multiple of twice its 1 heads"),
    "frequencies of nothing": (
        place(1, name="rope_freqs.weight", shape=(16,), data=bytes(128)),
        "not as those of Llama 3.1 are",
    ),
    "a scaling twice": (
        gguf(
            VALUES | {"llama.rope.scaling.type": "linear"}, [*tensors(), ["rope_freqs.weight", (1,), 0, END, bytes(32)]]
        ),
        "are scaled twice, by 'linear' and by rope_freqs.weight",
    ),
    "frequencies of another kind": (place(1, name="rope_freqs.weight"), "not as those of Llama 3.1 are"),
    "not a number": (place(1, data=nan()), "holds numbers that are not finite"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
