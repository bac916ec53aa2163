"""``tinygrad-llm convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.generation.loading import find_model, load_tokenizer
from tinygrad_llm.models import load_model
from tinygrad_llm.training.progress import waiting
from tinygrad_llm.weights import SHARD, Dtype


def convert(
    model: str,
    out: Path,
    *,
    dtype: Dtype = "float32",
    shard_size: Annotated[int, Parameter(validator=Number(gte=1))] = SHARD,
    force: bool = False,
) -> int:
    """Write a model, and its tokenizer if it has one, as a Hugging Face folder, which transformers reads too.

    Parameters
    ----------
    model
        Folder that tinygrad-llm train wrote, Hugging Face folder, GGUF file, or smollm2 for the package's model.
    out
        Folder to write.
    dtype
        Numbers in the files: float16 and bfloat16 take half the space, and round.
    shard_size
        Bytes of a file of weights at most.
    force
        Write into a folder that has a model already.
    """
    console = plain_console(stderr=True)
    source = find_model(model)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder")
    if source.exists() and out.exists() and source.samefile(out):
        raise ValueError(f"{out}: is the model that is to be converted; choose another folder")
    if (out / "config.json").exists() and not force:
        raise ValueError(f"{out}: holds a model already; choose another folder, or replace it with --force")
    with waiting(console, f"reading {source}"):
        network, tokenizer = load_model(source), load_tokenizer(source)
    with waiting(console, f"writing {out}"):
        network.save_pretrained(out, shard_size, dtype)
        if tokenizer is not None:
            tokenizer.save(out / tokenizer.FILE)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    kind = type(network).__name__
    print(
        f"wrote {out}: a {kind} of {network.parameter_count():,} parameters as {dtype}, {size / 1e6:,.1f} MB of weights"
    )
    if tokenizer is None:
        print("no tokenizer that can be read here stands beside the model, so none was written")
    return 0
