"""What simple methods reach on the same text, in bits per byte: a model that learns must do better."""

from __future__ import annotations

import gzip
import math

import numpy as np

_STRENGTHS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
_TUNED_ON = 0.1  # the last part of the training tokens, on which the strength of smoothing is chosen


def gzip_bits_per_byte(text: bytes) -> float:
    """Size of `gzip -9` of the text, in bits, divided by the bytes of the text.

    Measured is the text alone (give the validation text): gzip learns as it goes and sees no training text. Nor could
    it make use of it: its window is the last 32,768 bytes. Raises ValueError for an empty text.
    """
    if not text:
        raise ValueError("gzip_bits_per_byte: the text is empty")
    return 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


def bigram_bits_per_byte(training: np.ndarray, validation: np.ndarray, vocab_size: int, n_bytes: int) -> float:
    """Bits per byte of a bigram model, counted on the training ids, over all validation ids but the first.

    p(b | a) = (count(a b) + k p(b)) / (count(a) + k),  p(b) = (count(b) + 1) / (N + V)

    The unigram p(b) is the prior, worth k observations. k is chosen from a fixed list on the last tenth of the training
    ids, with counts from the rest; the validation ids are not looked at. `n_bytes` is the size of the validation text.
    Memory: about 40 bytes per id. Raises ValueError if there are fewer than 20 training or 2 validation ids.
    """
    if len(training) < 20 or len(validation) < 2 or n_bytes < 1:
        raise ValueError(
            f"bigram_bits_per_byte: {len(training)} training ids, {len(validation)} validation ids, {n_bytes} bytes; "
            "at least 20, 2 and 1 are needed"
        )
    cut = len(training) - max(2, round(len(training) * _TUNED_ON))
    tuning = _Bigram(training[:cut], vocab_size)
    best = min(_STRENGTHS, key=lambda strength: tuning.nats(training[cut:], strength))
    return _Bigram(training, vocab_size).nats(validation, best) / math.log(2) / n_bytes


class _Bigram:
    def __init__(self, ids: np.ndarray, vocab_size: int) -> None:
        ids = np.asarray(ids, dtype=np.int64)
        self.vocab_size = vocab_size
        self.unigram = (np.bincount(ids, minlength=vocab_size) + 1) / (len(ids) + vocab_size)
        self.first = np.bincount(ids[:-1], minlength=vocab_size)  # count(a), as the first of a pair
        self.pairs, self.counts = np.unique(ids[:-1] * vocab_size + ids[1:], return_counts=True)

    def nats(self, ids: np.ndarray, strength: float) -> float:
        """Sum of -log p(b | a) over all neighbours a b."""
        ids = np.asarray(ids, dtype=np.int64)
        a, b = ids[:-1], ids[1:]
        code = a * self.vocab_size + b
        place = np.minimum(np.searchsorted(self.pairs, code), len(self.pairs) - 1)
        count = np.where(self.pairs[place] == code, self.counts[place], 0)
        probability = (count + strength * self.unigram[b]) / (self.first[a] + strength)
        return float(-np.log(probability).sum())
