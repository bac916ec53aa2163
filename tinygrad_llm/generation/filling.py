"""What models say that do not go on with a text: a T5 fills gaps, a BERT finds what is hidden behind masks.

In a text for a T5, gaps are written <1>, <2> ...; its answer names each and what stands there. In a text for a BERT,
"[MASK]" stands for a token. A tokenizer that was trained here has neither: gaps are the last ids of the model, and the
mask is the one behind the tokenizer's.
"""

from __future__ import annotations

import re

import numpy as np

from tinygrad_llm.generation.beam import beam_search
from tinygrad_llm.generation.encoder_decoder import generate_outputs
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.models import T5, Bert
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer

MASK = "[MASK]"
_GAP = re.compile(r"<(\d+)>")


def text_with_gaps(ids: Array, tokenizer: Tokenizer, vocab_size: int) -> str:
    """The text of ids, in which gaps, the ids above the one behind the tokenizer's, are <1> for V - 1, <2> ..."""
    text, begin = "", 0
    for place in [*np.flatnonzero(ids > tokenizer.vocab_size).tolist(), len(ids)]:
        text += tokenizer.decode(ids[begin:place])
        text += f"<{vocab_size - ids[place]}>" if place < len(ids) else ""
        begin = place + 1
    return text


def ids_with_gaps(text: str, tokenizer: Tokenizer, vocab_size: int) -> Array:
    """The ids of such a text. ValueError for a gap that the model does not have."""
    most = vocab_size - tokenizer.vocab_size - 1
    parts: list[Array] = []
    for number, part in enumerate(_GAP.split(text)):
        if number % 2 == 0:
            parts.append(tokenizer.encode(part, disallowed_special=()))
        elif 1 <= int(part) <= most:
            parts.append(np.array([vocab_size - int(part)]))
        else:
            raise ValueError(f"the text has the gap <{part}>, but this model knows <1> to <{most}> only")
    return np.concatenate(parts)


def fill_gaps(
    model: T5,
    tokenizer: Tokenizer,
    text: str,
    max_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    beams: int = 0,
) -> str:
    """What a T5 says to a text with gaps: sampled, or the most probable that a beam of width `beams` finds."""
    config = model.eval().config
    ids = [*ids_with_gaps(text, tokenizer, config.vocab_size), config.end_id]
    with no_grad():
        if beams:
            found = beam_search(model, [ids], beams, max_tokens, config.start_id, config.end_id)[0][0].ids
        else:
            (found,) = generate_outputs(model, [ids], max_tokens, config.start_id, config.end_id, sampling, seed)
    return text_with_gaps(np.asarray(found, int), tokenizer, config.vocab_size)


def fill_masks(model: Bert, ids: Array, mask_id: int) -> Array:
    """ids (B, T) in which each mask is replaced by the token that the model finds most likely there, if not a mask."""
    places = ids == mask_id
    with no_grad():
        logits = np.where(np.arange(model.config.vocab_size) == mask_id, -np.inf, model(ids).data[places])
    filled = ids.copy()
    filled[places] = logits.argmax(-1)
    return filled


def unmasked(model: Bert, tokenizer: Tokenizer | WordPieceTokenizer, text: str) -> str:
    """The text with the token that a BERT finds likeliest in the place of each "[MASK]". ValueError if it has none."""
    if model.eval().masked_lm_head is None:
        raise ValueError("this model has no head that finds hidden words (masked_lm)")
    if MASK not in text:
        raise ValueError(f"the text has no {MASK}, in whose place the model would put a word")
    if isinstance(tokenizer, WordPieceTokenizer):
        ids = tokenizer.encode(text, allowed_special={MASK}, disallowed_special=())
        return tokenizer.decode(fill_masks(model, ids[None], tokenizer.special_tokens[MASK])[0, 1:-1])
    mask_id = tokenizer.vocab_size
    pieces = [tokenizer.encode(part, disallowed_special=()) for part in text.split(MASK)]
    ids = pieces[0]
    for piece in pieces[1:]:
        ids = np.concatenate([ids, [mask_id], piece])
    if len(ids) > model.config.context:
        raise ValueError(f"the text has {len(ids)} tokens, but the model's context is {model.config.context}")
    return tokenizer.decode(fill_masks(model, ids[None], mask_id)[0])
