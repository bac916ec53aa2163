"""Masked language modelling, how a BERT is pre-trained: some tokens of a text are hidden, and the model finds them.

    text       the default  value   of this  parameter  is used
    input      the default [MASK]   of this  keyword    is used
    target      -     -     value   -    -   parameter   - used

15 % of the tokens are targets. Of these 80 % are replaced by the mask, 10 % by a random token, and 10 % stay: in use
there are no masks, so the model must have something to say of what stands there. Source: Devlin et al. 2018,
arXiv:1810.04805, section 3.1 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.data import IGNORE, TokenFile
from tinygrad_llm.generation.filling import fill_masks
from tinygrad_llm.models import Bert, BertConfig
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import Batch

CHOSEN, MASKED, CHANGED = 0.15, 0.8, 0.1
"""The share of the tokens that are targets; and of these, that are masked and that are replaced at random."""

MEASURED = 4096
"""Targets of held-out text that are measured during training."""


def mask_tokens(
    ids: Array,
    mask_id: int,
    vocab_size: int,
    special: Collection[int],
    generator: np.random.Generator,
    chosen: float = CHOSEN,
    masked: float = MASKED,
    changed: float = CHANGED,
) -> tuple[Array, Array]:
    """(inputs, targets) of texts, ids (B, T); targets are IGNORE (-100) where none is.

    Each token is a target with probability `chosen`, but those in `special` never; and of the targets, shares `masked`
    and `changed` are replaced: by `mask_id`, and by any id below `vocab_size` that is neither special nor the mask.
    """
    if not 0 < chosen <= 1 or not masked >= 0 or not changed >= 0 or masked + changed > 1:
        raise ValueError(
            f"mask_tokens: chosen={chosen} must lie above 0 and up to 1, and masked={masked} and changed={changed} be "
            "shares that together are at most 1"
        )
    ordinary = np.setdiff1d(np.arange(vocab_size), [*special, mask_id])
    if not ordinary.size:
        raise ValueError(f"mask_tokens: all {vocab_size} ids are special; none is left to stand for a token")
    draws = generator.random((2, *ids.shape))
    others = ordinary[generator.integers(len(ordinary), size=ids.shape)]
    is_target = (draws[0] < chosen) & ~np.isin(ids, [*special, mask_id])
    inputs = np.where(is_target & (draws[1] < masked + changed), others, ids)
    inputs = np.where(is_target & (draws[1] < masked), mask_id, inputs)
    return inputs, np.where(is_target, ids, IGNORE)


def bert_config(config: TrainConfig, vocab_size: int) -> BertConfig:
    """A BERT of the sizes of a run, for a tokenizer of `vocab_size` tokens, behind which the mask follows."""
    return BertConfig(
        vocab_size=vocab_size + 1,
        context=config.context,
        channels=config.channels,
        layers=config.layers,
        heads=config.head_count,
        feed_forward=4 * config.channels,
        token_types=1,
        dropout=config.dropout,
        init_std=config.init_std,
    )


class MaskedLanguageModeling:
    """Pre-training of a BERT by masks, on windows drawn from a token file (a `Task`, see `loop.py`)."""

    unit = "tokens"

    def __init__(self, config: TrainConfig, training: TokenFile, validation: TokenFile, tokenizer: Tokenizer) -> None:
        self.config, self.training, self.validation, self.tokenizer = config, training, validation, tokenizer
        self.mask_id = tokenizer.vocab_size
        self.special = frozenset(tokenizer.special_tokens.values())

    def batch(self, step: int, part: int) -> Batch:
        generator = random.stream(self.config.seed, "batch", step, part)
        ids, _ = self.training.batch(self.config.batch_size, self.config.context, generator)
        arrays = self._masked(ids, generator)
        return Batch(arrays, int((arrays[1] != IGNORE).sum()))

    def loss(self, model: Bert, batch: Batch) -> Tensor:
        inputs, targets = batch.arrays
        return model.loss(inputs, targets, ignore_index=IGNORE, reduction="sum")

    def validate(self, model: Bert) -> dict[str, float]:
        """Nats per target, on windows of the held-out text that are masked the same each time."""
        generator = random.stream(self.config.seed, "held out masks")
        nats, count = 0.0, 0
        with no_grad():
            for ids, following in self.validation.windows(self.config.context, self.config.batch_size):
                whole = (following != IGNORE).all(axis=1)  # the last window may be filled up
                if not whole.any():
                    break
                batch = Batch(self._masked(ids[whole], generator), 0)
                nats += self.loss(model, batch).item()
                count += int((batch.arrays[1] != IGNORE).sum())
                if count >= MEASURED:
                    break
        return {"validation_loss": nats / max(1, count)}

    def sample(self, model: Bert) -> str:
        """A piece of the held-out text with masks, with what the model puts there, and as it was."""
        generator = random.stream(self.config.seed, "sample masks")
        ids, _ = self.validation.batch(1, self.config.context, generator)
        inputs, targets = mask_tokens(ids, self.mask_id, self.mask_id, self.special, generator, masked=1.0, changed=0.0)
        places = targets[0] != IGNORE
        filled = fill_masks(model, inputs, self.mask_id)
        right = int((filled == targets).sum())
        return (
            f"masked: {self.readable(inputs[0], places)}\nfilled: {self.readable(filled[0], places)}\n"
            f"text: {self.readable(ids[0], places)}\n{right} of {int(places.sum())} right"
        )

    def readable(self, ids: Array, places: Array) -> str:
        """The text of ids (T,), with brackets around the tokens at `places` (T,), of which a mask is empty."""
        text, begin = "", 0
        for place in np.flatnonzero(places).tolist():
            token = "" if ids[place] == self.mask_id else self.tokenizer.decode(ids[place : place + 1])
            text += f"{self.tokenizer.decode(ids[begin:place])}[{token}]"
            begin = place + 1
        return text + self.tokenizer.decode(ids[begin:])

    def _masked(self, ids: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        return mask_tokens(ids, self.mask_id, self.mask_id, self.special, generator)
