"""Equal merges and ids to Hugging Face's `tokenizers`, equal ids to `tiktoken`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import PATTERNS, Tokenizer
from tinygrad_llm.tokenizer.pretokenize import hugging_face_text, pattern_text

fragments = st.sampled_from(
    ["the", " the", "'s", "'S", "'ſ", "  \n", "\r\n", "12345", "a" * 70, "\u3000", "\x1c", "<|endoftext|>"]
)
texts = st.lists(fragments | st.text(max_size=8), max_size=12).map("".join)
LEARNED_FROM = [
    "The model's gradient of a sum is the sum of gradients; we'll derive it.\n\n  def f(x, y=12345):\n        return x",
    "Größe, naïve, 数字 и буквы \U0001f600\U0001f600 don't DON'T\r\n\t  tabs   and spaces    ",
] * 2


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def tokenizer(request):
    return Tokenizer.train(LEARNED_FROM, 400, pattern=request.param)


def hugging_face_training(texts, vocab_size, pattern):
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face's trainer")
    split, byte_level = tokenizers.pre_tokenizers.Split, tokenizers.pre_tokenizers.ByteLevel
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    if pattern == "gpt2":  # its own built-in pattern, not our spelling of it
        peer.pre_tokenizer = byte_level(add_prefix_space=False, use_regex=True)
    else:
        regex = split(tokenizers.Regex(hugging_face_text(pattern)), "isolated")
        parts = [regex, byte_level(add_prefix_space=False, use_regex=False)]
        peer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(parts)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    peer.train_from_iterator(texts, trainer)
    return peer


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(
    learned_from=st.lists(st.text("ab \n", max_size=30) | st.text(max_size=30) | texts, max_size=5),
    merges=st.integers(0, 60),
)
def test_training_equals_hugging_faces_trainer(tmp_path_factory, pattern, learned_from, merges):
    peer = hugging_face_training(learned_from, 257 + merges, pattern)
    ours = Tokenizer.train(learned_from, 257 + merges, pattern=pattern)
    path = tmp_path_factory.mktemp("peer") / "tokenizer.json"
    peer.save(str(path))
    theirs = Tokenizer.load(path)
    assert ours.merges == theirs.merges
    assert ours.digest == theirs.digest


def test_training_on_the_default_corpus_equals_hugging_faces_trainer(tmp_path):
    from tinygrad_llm.data.corpus import default_corpus

    texts = [document.text for document in default_corpus()[::8]]
    peer = hugging_face_training(texts, 4096, "own")
    peer.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.train(texts, 4096)
    assert ours.merges == Tokenizer.load(tmp_path / "tokenizer.json").merges
    for text in texts[:10]:
        assert ours.encode(text, disallowed_special=()).tolist() == peer.encode(text).ids


@given(text=texts)
def test_hugging_face_reads_our_file_and_gives_equal_ids(tokenizer, tmp_path_factory, text):
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face's encoder")
    path = tmp_path_factory.mktemp("peer") / "tokenizer.json"
    tokenizer.save(path)
    peer = tokenizers.Tokenizer.from_file(str(path))
    ids = tokenizer.encode(text, allowed_special="all")
    assert peer.encode(text).ids == ids.tolist()
    assert peer.decode(ids.tolist(), skip_special_tokens=False) == text
    assert peer.get_vocab_size() == tokenizer.vocab_size


@given(text=texts)
def test_tiktoken_gives_equal_ids(tokenizer, text):
    tiktoken = pytest.importorskip("tiktoken", reason="install .[peers] to compare with tiktoken")
    # tiktoken takes an id for a rank, so the special token must come last there: ids shifted by one
    ranks = {tokenizer.token_bytes(i): i - 1 for i in range(1, tokenizer.vocab_size)}
    separator = tokenizer.vocab_size - 1
    peer = tiktoken.Encoding(
        "peer",
        pat_str=pattern_text(tokenizer.pattern),
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": separator},
    )
    shifted = [separator if i == 0 else i - 1 for i in tokenizer.encode(text, allowed_special="all").tolist()]
    assert peer.encode(text, allowed_special="all") == shifted
    plain = [i - 1 for i in tokenizer.encode(text, disallowed_special=()).tolist()]
    assert peer.encode(text, disallowed_special=()) == plain
