"""A run folder's files, and the models of whatever MODEL is given that go on with a text."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from tinygrad_llm.data import TokenFile
from tinygrad_llm.generation.loading import Loaded, load_pretrained
from tinygrad_llm.models import Decoder
from tinygrad_llm.models.classifier import classes_of
from tinygrad_llm.nn.quantized import quantize
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.progress import counting

WeightKind = Literal["float32", "int8", "int4"]
"""How the weights of a model that is used are kept."""


class RunFiles:
    """The files of a run folder that exist before training begins."""

    def __init__(self, run: Path) -> None:
        self.config, self.tokenizer = run / "config.toml", run / "tokenizer.json"
        self.training, self.validation = run / "training.tokens", run / "validation.tokens"

    def prepared(self) -> bool:
        """Whether all of them are there and whole, and the tokens are those of the tokenizer."""
        if not all(path.exists() for path in vars(self).values()):
            return False
        try:
            tokenizer, training, validation = self.load()
        except ValueError:  # one was cut short: they are made again
            return False
        return {training.tokenizer_digest, validation.tokenizer_digest} == {tokenizer.digest}

    def load(self) -> tuple[Tokenizer, TokenFile, TokenFile]:
        """The tokenizer, and the tokens to train on and to measure with."""
        return Tokenizer.load(self.tokenizer), TokenFile(self.training), TokenFile(self.validation)


def decoder_of(loaded: Loaded) -> tuple[Decoder, Tokenizer]:
    """A model that goes on with a text, and its tokenizer. ValueError if it is another, or if they do not fit."""
    path, model, tokenizer = loaded
    if labels := classes_of(model):
        raise ValueError(
            f"{path}: holds a classifier into {len(labels)} classes, which writes no text; use tinygrad-llm predict"
        )
    if not isinstance(model, Decoder) or not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{path}: holds a {type(model).__name__}, which is not made to go on with a text")
    held_out = RunFiles(path).validation
    if held_out.is_file() and TokenFile(held_out).tokenizer_digest != tokenizer.digest:
        raise ValueError(f"{path}: the tokenizer and the model do not belong together")
    return model, tokenizer


def load_run(name: str | Path) -> tuple[Decoder, Tokenizer]:
    """`decoder_of` what `load_pretrained` finds by that name."""
    return decoder_of(load_pretrained(name))


def rounded(loaded: Loaded, weights: WeightKind, console: Console) -> tuple[Decoder, Tokenizer]:
    """`decoder_of`, with the weights in fewer bits unless they are to be float32."""
    model, tokenizer = decoder_of(loaded)
    if weights != "float32":
        with counting(console, f"rounding the weights to {weights}") as progress:
            quantize(model, weights, progress)
    return model, tokenizer


def load_rounded(name: str | Path, weights: WeightKind, console: Console) -> tuple[Decoder, Tokenizer]:
    """`rounded` of what `load_pretrained` finds by that name."""
    return rounded(load_pretrained(name), weights, console)
