"""GGUF: what belongs to the tokenizer is read, and no length in the file is believed."""

import struct

import pytest

from tinygrad_llm.gguf_metadata import read_metadata
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.alphabet import to_characters
from tinygrad_llm.tokenizer.formats.parts import Conventions

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the then than a hat\n  and 123 that's thou Größe 数字 aaaa bbbb"] * 3, 290, pattern="gpt2")


def same(one, other):
    assert (one.digest, one.conventions) == (other.digest, other.conventions)


def gguf_text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value):
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_text(value)
    kind = 8 if value and isinstance(value[0], str) else 5
    items = b"".join(gguf_text(item) if kind == 8 else struct.pack("<i", item) for item in value)
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def gguf(values, tensors=0):
    content = b"".join(gguf_text(name) + gguf_value(value) for name, value in values.items())
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(values)) + content


def gguf_values(tokenizer, **changes):
    names = {number: name for name, number in tokenizer.special_tokens.items()}
    written = [names.get(i) or to_characters(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    values = {
        "general.architecture": "llama",
        "llama.rope.freq_base": 1e5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": written,
        "tokenizer.ggml.token_type": [3 if i in names else 1 for i in range(len(written))],
        "tokenizer.ggml.merges": [f"{written[a]} {written[b]}" for a, b in tokenizer.merges],
    }
    values |= {f"tokenizer.{'ggml.' * (name != 'chat_template')}{name}": value for name, value in changes.items()}
    return {name: value for name, value in values.items() if value is not None}


def test_a_gguf_file_is_read_for_its_tokenizer(tmp_path, tokenizer):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(gguf_values(tokenizer)) + bytes(100))
    same(Tokenizer.load(path), tokenizer)
    same(Tokenizer.load(tmp_path), tokenizer)
    path.rename(tmp_path / "model.bin")  # known by its content
    same(Tokenizer.load(tmp_path / "model.bin"), tokenizer)
    with pytest.raises(ValueError, match="a GGUF file holds a model too"):
        tokenizer.save(path)


def test_what_a_gguf_file_says_of_its_model_is_kept(tmp_path, tokenizer):
    path = tmp_path / "model.gguf"
    more = {"bos_token_id": 0, "eos_token_id": 5, "add_bos_token": True, "chat_template": "{{ messages }}"}
    path.write_bytes(gguf(gguf_values(tokenizer, **more)))
    assert Tokenizer.load(path).conventions == Conventions((0,), (), 0, 5, "{{ messages }}")
    path.write_bytes(gguf(gguf_values(tokenizer, **more | {"add_bos_token": False, "add_eos_token": True})))
    assert Tokenizer.load(path).conventions[:2] == ((), (5,))
    expected = {
        "llama-bpe": ("llama3", True, ""),
        "qwen2": ("qwen2", False, "NFC"),
        "smollm": ("smollm", False, ""),
        "gpt-4o": ("o200k", False, ""),
    }
    for pre, (pattern, whole_words, normal_form) in expected.items():
        path.write_bytes(gguf(gguf_values(tokenizer, pre=pre, bos_token_id=0)))
        vocabulary = Tokenizer.load(path).vocabulary
        assert (vocabulary.pattern, vocabulary.whole_words, vocabulary.normal_form) == (
            pattern,
            whole_words,
            normal_form,
        )
        assert Tokenizer.load(path).conventions.before == ((0,) if pre == "llama-bpe" else ())


def test_token_types_of_gguf(tmp_path, tokenizer):
    values = gguf_values(tokenizer)
    values["tokenizer.ggml.tokens"] += ["[PAD]", "<user>", "<unk>"]
    values["tokenizer.ggml.token_type"] += [5, 4, 2]
    (tmp_path / "model.gguf").write_bytes(gguf(values))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.special_tokens == {END: 0, "<user>": 291, "<unk>": 292}
    with pytest.raises(ValueError, match="id 290"):
        loaded.decode([290])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; only byte-level BPE"),
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": 5}, "tokenizer.ggml.tokens is a int, but must be a list"),
        ({"merges": None}, "merges is missing"),
        ({"pre": "new"}, "tokenizer.ggml.pre is 'new'.*known: gpt-2.*pass pattern="),
        ({"pre": None}, "tokenizer.ggml.pre is ''"),
        ({"token_type": [1]}, "has 290 tokens, but 1 of token_type"),
        ({"bos_token_id": 290}, "bos_token_id is 290, but there are 290 tokens"),
        ({"eos_token_id": "a"}, "eos_token_id is 'a'"),
        ({"chat_template": 5}, "chat_template is a int"),
        ({"merges": ["t h", "t h"]}, "merge 1 't h' stands already as merge 0"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "'a' stands twice, as 0 and 1"),
    ],
)
def test_a_damaged_gguf_tokenizer_is_named(tmp_path, tokenizer, changes, message):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(gguf(gguf_values(tokenizer, **changes)))
    with pytest.raises(ValueError, match=rf"damaged\.gguf: .*{message}"):
        Tokenizer.load(path)
    if "pre" in changes:
        assert Tokenizer.load(path, pattern="gpt2").digest == tokenizer.digest


def test_a_gguf_file_cut_at_any_byte_is_refused(tmp_path, tokenizer):
    path = tmp_path / "cut.gguf"
    content = gguf(gguf_values(tokenizer))
    for size in [*range(300), *range(300, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf: .*(cut short|is empty)"):
            Tokenizer.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML" + bytes(20), "begins with b'GGML'"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), "cut short"),
        (gguf({})[:16] + struct.pack("<QQ", 1, 1 << 62), "a text claims 4611686018427387904 bytes"),
        (gguf({"a": [1]})[:-12] + struct.pack("<Qi", 1 << 31, 1), "a claims 2147483648 numbers"),
        (gguf({"a": ["b"]})[:-17] + struct.pack("<Q", 1 << 61) + gguf_text("b"), "a claims 2305843009213693952 texts"),
        (gguf({"a": ["b"]})[:-17] + struct.pack("<Q", 3) + gguf_text("b"), "a claims 3 texts"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + gguf_text("a") + struct.pack("<I", 99), "a has the type 99"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + gguf_text("a") + struct.pack("<IIQ", 9, 9, 0), "a has the type 9"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + 2 * (gguf_text("a") + gguf_value(1)), "'a' stands twice"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"\xff" + gguf_value(1), "byte 32: no UTF-8"),
    ],
)
def test_a_lying_gguf_header_is_refused(tmp_path, content, message):
    path = tmp_path / "lie.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"lie\.gguf: .*{message}"):
        Tokenizer.load(path)


def test_numbers_of_every_kind_are_read(tmp_path):
    kinds = [(0, "B", 255), (1, "b", -1), (2, "H", 65535), (3, "h", -2), (4, "I", 1 << 31), (5, "i", -3), (6, "f", 0.5)]
    kinds += [(7, "?", True), (10, "Q", 1 << 63), (11, "q", -(1 << 62)), (12, "d", 0.1)]
    content = struct.pack("<4sIQQ", b"GGUF", 2, 0, 2 * len(kinds))
    for kind, code, number in kinds:
        content += gguf_text(f"one {kind}") + struct.pack("<I" + code, kind, number)
        content += gguf_text(f"two {kind}") + struct.pack("<IIQ2" + code, 9, kind, 2, number, number)
    path = tmp_path / "numbers.gguf"
    path.write_bytes(content)
    values = read_metadata(path)
    for kind, _, number in kinds:
        assert values[f"one {kind}"] == number
        assert values[f"two {kind}"] == [number, number]
        assert type(values[f"one {kind}"]) is type(number)


# ---- what we write


@pytest.mark.parametrize(
    ("pattern", "whole_words", "normal_form"),
    [
        ("gpt2", False, ""),
        ("smollm", False, ""),
        ("llama3", True, ""),
        ("qwen2", False, "NFC"),
        ("o200k", False, ""),
    ],
)
@pytest.mark.parametrize(
    "conventions",
    [Conventions(), Conventions((0,), (), 0, 0, "{{ messages }}"), Conventions((), (0,), None, 0)],
)
def test_what_is_written_is_read_again(tokenizer, pattern, whole_words, normal_form, conventions, tmp_path):
    parts = tokenizer._parts._replace(
        pattern=pattern, whole_words=whole_words, normal_form=normal_form, conventions=conventions
    )
    written = Tokenizer(*parts)
    (tmp_path / "x.gguf").write_bytes(gguf(written.gguf_values(written.vocab_size)))
    same(Tokenizer.load(tmp_path / "x.gguf"), written)


def test_rows_of_the_model_without_a_token_are_unused(tokenizer, tmp_path):
    rows = tokenizer.vocab_size + 3
    values = tokenizer.gguf_values(rows)
    assert values["tokenizer.ggml.token_type"] == [3] + [1] * (rows - 4) + [5] * 3
    assert values["tokenizer.ggml.tokens"][0] == END
    assert len(set(values["tokenizer.ggml.tokens"])) == rows
    assert values["tokenizer.ggml.pre"] == "gpt-2"
    (tmp_path / "x.gguf").write_bytes(gguf(values))
    same(Tokenizer.load(tmp_path / "x.gguf"), tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "own"}, "GGUF has no name for the pattern 'own'; it has them for .*gpt2"),
        ({"whole_words": True}, "cannot say that whole words are looked up first and .* with the pattern gpt2"),
        ({"pattern": "llama3"}, "cannot say that whole words are not looked up first"),
        ({"normal_form": "NFC"}, "the normal form is 'NFC' with the pattern gpt2"),
        ({"merges": []}, "no tokenizer without merges"),
        ({"conventions": Conventions((3,), (), 0, 0)}, r"can add the bos token 0 to a text, but not \[3\]"),
        ({"conventions": Conventions((), (0, 0), 0, 0)}, r"can add the eos token 0 to a text, but not \[0, 0\]"),
    ],
)
def test_what_gguf_cannot_say_is_refused(tokenizer, changes, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(*tokenizer._parts._replace(**changes)).gguf_values(tokenizer.vocab_size)


def test_more_tokens_than_the_model_has_rows_are_refused(tokenizer):
    with pytest.raises(ValueError, match=f"the tokenizer has the id {tokenizer.vocab_size - 1}, the model has 200"):
        tokenizer.gguf_values(200)
