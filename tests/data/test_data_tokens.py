"""Token files, batches and the baselines."""

import hashlib
import math
from collections import Counter
from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import (
    IGNORE,
    DataError,
    Document,
    TextFiles,
    TokenFile,
    bigram_bits_per_byte,
    gzip_bits_per_byte,
    write_tokens,
)
from tinygrad_llm.random import stream
from tinygrad_llm.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the cat and the dog; the end é"], 270)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.bin"


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_the_row_is_a_separator_before_each_document(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tokens") / "tokens.bin"
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    if not any(texts):
        with pytest.raises(DataError, match="no text to write"):
            write_tokens(documents, TOKENIZER, path)
        assert list(path.parent.iterdir()) == []
        return
    file = write_tokens(documents, TOKENIZER, path)
    expected = [i for text in texts for i in [0, *TOKENIZER.encode(text, disallowed_special=())]]
    assert file.ids.tolist() == expected
    assert file.ids.dtype == np.uint16
    assert len(file) == len(expected)
    assert file.n_bytes == sum(len(text.encode()) for text in texts) == TOKENIZER.count_bytes(file.ids)
    assert file.n_documents == len(texts)
    assert file.vocab_size == 270
    assert file.tokenizer_digest == TOKENIZER.digest
    assert TokenFile(str(path)).ids.tolist() == expected
    assert list(path.parent.iterdir()) == [path]


def test_a_document_in_parts_has_one_separator(tmp_path, path):
    source = tmp_path / "text.txt"
    source.write_text("the cat\n" * 100, encoding="utf-8")
    file = write_tokens(TextFiles(source, piece=80), TOKENIZER, path)
    assert file.ids.tolist().count(0) == 1
    assert TOKENIZER.decode(file.ids[1:]) == "the cat\n" * 100
    # two documents whose first parts were held out elsewhere
    file = write_tokens(
        [Document("a", "a", 2), Document("b", "b", 1), Document("b", "b", 2)], TOKENIZER, tmp_path / "other.bin"
    )
    assert TOKENIZER.decode(file.ids) == "<|endoftext|>a<|endoftext|>bb"


def test_the_name_of_a_special_token_in_a_text_is_text(path):
    file = write_tokens([Document("d", "<|endoftext|>")], TOKENIZER, path)
    assert file.ids.tolist().count(0) == 1


def test_ids_above_two_bytes_take_four(path):
    class Large:
        vocab_size, separator_id, digest = 70_000, 69_999, "x"

        def encode(self, text, disallowed_special):
            return np.array([1, 66_000], dtype=np.int32)

    file = write_tokens([Document("d", "text")], Large(), path)
    assert file.ids.dtype == np.uint32
    assert file.ids.tolist() == [69_999, 1, 66_000]


def test_progress_counts_bytes(path):
    seen = []
    write_tokens([Document("a", "é"), Document("b", "xyz")], TOKENIZER, path, seen.append)
    assert seen == [2, 5]


def test_a_failure_leaves_the_old_file(path):
    write_tokens([Document("a", "old")], TOKENIZER, path)
    before = path.read_bytes()

    def documents():
        yield Document("a", "new")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_tokens(documents(), TOKENIZER, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_file_is_named(path):
    write_tokens([Document("a", "some text")], TOKENIZER, path)
    good = path.read_bytes()
    for content, message in [
        (good[:-1], "the file was cut or changed"),
        (good + b"xx", "the file was cut or changed"),
        (good[:100], "not a token file of this version"),
        (good.replace(b"tokens 1", b"tokens 9"), "not a token file of this version"),
        (good[:513] + b"\xff" + good[514:], "its ids are not those that were written"),
        (good[:-1] + bytes([good[-1] ^ 1]), "its ids are not those that were written"),
        (b"", "not a token file of this version"),
        (b"\xff" * 600, "not a token file of this version"),
    ]:
        broken = path.with_name("broken.bin")
        broken.write_bytes(content)
        with pytest.raises(DataError, match=rf"broken\.bin: .*{message}"):
            TokenFile(broken)


def test_the_digest_is_of_the_ids(path):
    file = write_tokens([Document("a", "some text"), Document("b", "more")], TOKENIZER, path)
    assert file.digest == hashlib.blake2b(file.ids.tobytes(), digest_size=32).hexdigest() == TokenFile(path).digest
    other = write_tokens([Document("a", "some text"), Document("b", "mere")], TOKENIZER, path.with_name("other.bin"))
    assert other.digest != file.digest


# ---- batches


@pytest.fixture
def row(tmp_path):
    """Makes a token file in which each id says its place; a new one each time, as Windows keeps open files."""
    numbers = count()

    def make(length):
        class Counting:
            vocab_size, separator_id, digest = 60_000, 0, "x"

            def encode(self, text, disallowed_special):
                return np.arange(1, length, dtype=np.int32)

        return write_tokens([Document("d", "text")], Counting(), tmp_path / f"{next(numbers)}.bin")

    return make


@given(length=st.integers(2, 50), context=st.integers(1, 60), batch_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_batch_is_of_windows_and_their_next_ids(row, length, context, batch_size, seed):
    file = row(length)
    inputs, targets = file.batch(batch_size, context, stream(seed, "batch"))
    assert inputs.shape == targets.shape == (batch_size, min(context, length - 1))
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs) == 1).all()
    assert (targets < length).all()
    again = file.batch(batch_size, context, stream(seed, "batch"))
    assert (again[0] == inputs).all()


def test_every_place_is_drawn(row):
    file = row(10)
    inputs, _ = file.batch(1000, 3, stream(0, "batch"))
    assert set(inputs[:, 0].tolist()) == set(range(7))
    assert (file.batch(50, 3, stream(1, "batch"))[0] != inputs[:50]).any()


@given(length=st.integers(2, 60), context=st.integers(1, 70), batch_size=st.integers(1, 5))
def test_windows_predict_each_id_but_the_first_exactly_once(row, length, context, batch_size):
    seen = []
    for inputs, targets in row(length).windows(context, batch_size):
        assert inputs.shape == targets.shape
        assert 1 <= len(inputs) <= batch_size
        assert inputs.shape[1] == min(context, length - 1)
        counted = targets != IGNORE
        assert (targets[counted] == inputs[counted] + 1).all()
        assert (inputs >= 0).all()
        assert counted.any(axis=1).all()  # no row is only filling
        seen += targets[counted].tolist()
    assert seen == list(range(1, length))


def test_a_file_of_one_token_and_empty_windows_are_refused(row):
    with pytest.raises(DataError, match=r"1 token\(s\), but at least 2 are needed"):
        row(1).batch(1, 1, stream(0))
    with pytest.raises(ValueError, match="batch_size 0 and context 3 must be at least 1"):
        row(5).batch(0, 3, stream(0))
    with pytest.raises(ValueError, match="batch_size 2 and context 0"):
        next(row(5).windows(0, 2))


# ---- baselines


def test_gzip_counts_its_whole_output():
    assert gzip_bits_per_byte(b"a") == 8 * 21  # 10 bytes of header, 3 of data, 8 of checksum and size
    assert gzip_bits_per_byte(b"abc " * 10_000) < 0.05
    assert gzip_bits_per_byte(stream(0).bytes(10_000)) > 8
    with pytest.raises(ValueError, match="empty"):
        gzip_bits_per_byte(b"")


def obvious_bigram_bits(training, validation, vocab_size, strength):
    ones, pairs, firsts = Counter(training), Counter(pairwise(training)), Counter(training[:-1])
    bits = 0.0
    for a, b in pairwise(validation):
        prior = (ones[b] + 1) / (len(training) + vocab_size)
        bits -= math.log2((pairs[a, b] + strength * prior) / (firsts[a] + strength))
    return bits


@given(seed=st.integers(0, 100), vocab_size=st.integers(2, 12))
def test_bigram_is_the_formula_with_one_of_the_strengths_chosen_without_the_validation_ids(seed, vocab_size):
    generator = stream(seed, "bigram")
    training = generator.integers(0, vocab_size, 100).tolist()
    validation = generator.integers(0, vocab_size, 40).tolist()
    from tinygrad_llm.data.baselines import _STRENGTHS

    best = min(_STRENGTHS, key=lambda k: obvious_bigram_bits(training[:90], training[90:], vocab_size, k))
    expected = obvious_bigram_bits(training, validation, vocab_size, best) / 17
    actual = bigram_bits_per_byte(np.array(training, np.uint16), np.array(validation, np.uint16), vocab_size, 17)
    assert actual == pytest.approx(expected, rel=1e-12)


def test_bigram_probabilities_sum_to_one():
    from tinygrad_llm.data.baselines import _Bigram

    model = _Bigram(stream(0).integers(0, 7, 50), 7)
    for a in range(7):
        assert sum(math.exp(-model.nats(np.array([a, b]), 2.0)) for b in range(7)) == pytest.approx(1, rel=1e-12)


def test_bigram_learns_and_refuses_too_little():
    row = np.array([0, 1, 2, 3] * 100, dtype=np.uint16)
    assert bigram_bits_per_byte(row, row, 50_000, 400) < 0.2
    with pytest.raises(ValueError, match="5 training ids, 400 validation ids, 400 bytes"):
        bigram_bits_per_byte(row[:5], row, 4, 400)
