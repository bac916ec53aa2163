"""Merges equal to those of Hugging Face's trainer, on code, on prose, and on text made of ties."""

import sysconfig
from pathlib import Path

import pytest

from tinygrad_llm.random import stream
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.trainer import compiled_learning, learn_merges, learn_plainly
from tinygrad_llm.tokenizer.word_counts import count_words


def code():
    """Sources of the standard library, about 1.5 MB."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [file.read_text(encoding="utf-8") for file in files[::3]]


def prose():
    """The documentation that comes with Python."""
    from pydoc_data import topics

    return list(topics.topics.values())


def soup():
    """Words of few letters, so that most counts are equal, and runs that overlap themselves."""
    generator = stream(0, "soup")
    words = ["".join("abcdé"[i] for i in generator.integers(0, 5, size)) for size in generator.integers(1, 12, 3000)]
    return [" ".join(words), "aaaa " * 7, "abababab " * 5, "\n\n\n\n" * 3]


def peer(texts, vocab_size, min_count):
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face's trainer")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.mark.parametrize("texts", [code, prose, soup], ids=lambda texts: texts.__name__)
@pytest.mark.parametrize(("vocab_size", "min_count"), [(3000, 1), (3000, 40)])
def test_merges_equal_hugging_faces(texts, vocab_size, min_count, tmp_path):
    texts, path = texts(), tmp_path / "tokenizer.json"
    peer(texts, vocab_size, min_count).save(str(path))
    theirs = Tokenizer.load(path)
    ours = Tokenizer.train(texts, vocab_size, "gpt2", min_count=min_count)
    assert ours.merges == theirs.merges
    assert ours.digest == theirs.digest
    assert len(ours.merges) > (2500 if min_count == 1 else 50)


@pytest.mark.parametrize("texts", [code, prose, soup], ids=lambda texts: texts.__name__)
def test_the_compiled_learner_equals_the_plain_one(texts):
    pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)
    words, ids = count_words(texts(), "gpt2"), list(range(256))
    plain = learn_plainly(words, ids, 256, 3000, None, 1)
    assert compiled_learning(words, ids, 256, 3000, None, 1, True) == plain
    assert learn_merges(words, ids, 256, 3000) == plain
