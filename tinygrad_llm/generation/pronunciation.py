"""How English words are spoken, by the model of the package g2p-en: letters in, phonemes out.

Phonemes are ARPAbet's, as the CMU pronouncing dictionary has them: 15 vowels, each with its stress (0 none, 1 primary,
2 secondary), and 24 consonants. The model knows one vowel without a stress besides.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence

import numpy as np

from tinygrad_llm.generation.beam import beam_search
from tinygrad_llm.generation.encoder_decoder import generate_outputs
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.models.recurrent_encoder_decoder import RecurrentEncoderDecoder
from tinygrad_llm.tape import Array
from tinygrad_llm.weights.g2p import LETTER_COUNT, PHONEME_COUNT

VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = [*"BDFGKLMNPRSTVWYZ", "CH", "DH", "HH", "JH", "NG", "SH", "TH", "ZH"]

LETTERS = ("<pad>", "<unk>", "</s>", *string.ascii_lowercase)
"""By id. Each word ends with </s>; <unk> is every character that is no letter."""

PHONEMES = ("<pad>", "<unk>", "<s>", "</s>", *sorted([*(v + s for v in VOWELS for s in "012"), "UW", *CONSONANTS]))
"""By id."""

UNKNOWN, WORD_END = LETTERS.index("<unk>"), LETTERS.index("</s>")


def spelled(word: str) -> Array:
    """The ids of a word's letters, without accents and as small letters, and of its end."""
    plain = (c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
    ids = [LETTERS.index(c) if c in string.ascii_lowercase else UNKNOWN for c in plain]
    return np.array([*ids, WORD_END])


def pronounce(
    model: RecurrentEncoderDecoder, words: Sequence[str], max_phonemes: int = 100, beams: int = 0
) -> list[list[str]]:
    """The phonemes of each word: always the likeliest next one, or what a beam of width `beams` finds the likeliest.

    ValueError for a model that is not over these letters and phonemes.
    """
    sizes = model.config.vocab_size, model.config.decoder_vocab_size
    if sizes != (LETTER_COUNT, PHONEME_COUNT):
        raise ValueError(f"the model turns {sizes[0]} tokens into {sizes[1]}, not letters into phonemes as g2p-en's")
    inputs, ends = [spelled(word) for word in words], (model.config.start_id, model.config.end_id)
    if beams:
        found = [best.ids for (best,) in beam_search(model, inputs, beams, max_phonemes, *ends)]
    else:
        found = generate_outputs(model, inputs, max_phonemes, *ends, Sampling(temperature=0))
    return [[PHONEMES[phoneme] for phoneme in ids] for ids in found]
