"""``tinygrad-llm convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.generation.loading import find_model, load_network, load_tokenizer
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer
from tinygrad_llm.training.progress import counting, waiting
from tinygrad_llm.weights import SHARD, Kind

KINDS: dict[str, Kind] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""What GGUF calls them."""


def convert(
    model: str,
    out: Path,
    *,
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float32",
    shard_size: Annotated[int, Parameter(validator=Number(gte=1))] = SHARD,
    force: bool = False,
) -> int:
    """Write a model, and its tokenizer if it has one, as a Hugging Face folder, which transformers reads too, or as a
    GGUF file, which llama.cpp reads.

    Parameters
    ----------
    model
        Folder that tinygrad-llm train wrote, Hugging Face folder, GGUF file, or smollm2 for the package's model. An
        adapter is merged into the model that it belongs to.
    out
        Folder to write, or a file whose name ends in .gguf.
    dtype
        Numbers in the files: float16 and bfloat16 take half the space, and round; q8_0, about a quarter, is for GGUF
        alone.
    shard_size
        Bytes of a file of weights in a folder at most.
    force
        Write into a folder that has a model already, or over a file.
    """
    console = plain_console(stderr=True)
    source = find_model(model)
    _check(source, out, dtype, shard_size, force)
    with waiting(console, f"reading {source}"):
        network = load_network(source)
        tokenizer = load_tokenizer(source.parent if source.suffix == ".safetensors" else source)
    if out.suffix == ".gguf":
        size, problem = _write_gguf(console, out, network, tokenizer, KINDS[dtype])
    elif dtype != "q8_0":  # which was refused above
        with waiting(console, f"writing {out}"):
            network.save_pretrained(out, shard_size, dtype)
            if tokenizer is not None:
                tokenizer.save(out / tokenizer.FILE)
        size, problem = sum(file.stat().st_size for file in out.glob("*.safetensors")), ""
    kind = type(network).__name__
    print(
        f"wrote {out}: a {kind} of {network.parameter_count():,} parameters as {dtype}, {size / 1e6:,.1f} MB of weights"
    )
    if tokenizer is None:
        print("no tokenizer that can be read here stands beside the model, so none was written")
    if problem:
        print(f"the tokenizer was not written: {problem}")
    return 0


def _check(source: Path, out: Path, dtype: str, shard_size: int, force: bool) -> None:
    """ValueError if this would overwrite something, or cannot be."""
    to_file = out.suffix == ".gguf"
    if to_file and out.is_dir():
        raise ValueError(f"{out}: is a folder; choose another name for the file")
    if not to_file and out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder, or a name that ends in .gguf")
    if source.exists() and out.exists() and source.samefile(out):
        raise ValueError(f"{out}: is the model that is to be converted; choose another name")
    if to_file and out.exists() and not force:
        raise ValueError(f"{out}: exists already; choose another name, or replace it with --force")
    if any((out / file).exists() for file in ("config.json", "adapter_config.json")) and not force:
        raise ValueError(f"{out}: holds a model already; choose another folder, or replace it with --force")
    if to_file and shard_size != SHARD:
        raise ValueError(f"{out}: a GGUF file is not divided; leave --shard-size out")
    if not to_file and dtype == "q8_0":
        raise ValueError(f"{out}: q8_0 is for GGUF files; give a name that ends in .gguf, or another --dtype")


def _write_gguf(
    console: Console,
    out: Path,
    network: Pretrained,
    tokenizer: Tokenizer | WordPieceTokenizer | None,
    kind: Kind,
) -> tuple[int, str]:
    """Write the file; return its size, and why it has no tokenizer if that cannot be said there."""
    values, problem = {}, ""
    try:
        if isinstance(tokenizer, Tokenizer):
            values = tokenizer.gguf_values(network.config.vocab_size)
    except ValueError as error:
        problem = str(error)
    out.parent.mkdir(parents=True, exist_ok=True)
    with counting(console, f"writing {out}") as progress:
        network.save_gguf(out, kind, values, progress)
    return out.stat().st_size, problem
