"""``tinygrad-llm tokenizer``: train, encode, decode, show."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App
from rich.text import Text

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training import TrainConfig, read_corpus, train_tokenizer

app = App(name="tokenizer", help="Train a byte-level BPE tokenizer, or use one.")
COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")


@app.command(help_epilogue="Example: tinygrad-llm tokenizer train --data book.txt --vocab-size 4096 --out book.json")
def train(
    *,
    data: str = "",
    vocab_size: int = TrainConfig.vocab_size,
    pattern: str = TrainConfig.pattern,
    out: Path = Path("tokenizer.json"),
) -> int:
    """Learn a vocabulary from text and write it as tokenizer.json.


    Parameters
    ----------
    data
        File or folder of UTF-8 text; without it, the documentation that comes with Python.
    vocab_size
        Tokens, the 256 bytes and the document separator among them.
    pattern
        How text is cut into words before merging: own, gpt2, cl100k, or a regular expression.
    out
        File to write.
    """
    TrainConfig(vocab_size=vocab_size, pattern=pattern)  # refuses what cannot be, before anything is read
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"{out}: --out needs a file name in a folder that exists")
    console = plain_console()
    tokenizer = train_tokenizer((d.text for d in read_corpus(data)), vocab_size, pattern, console)
    tokenizer.save(out)
    console.print(f"wrote {out}: {tokenizer.vocab_size:,} tokens")
    return 0


@app.command(help_epilogue='Example: tinygrad-llm tokenizer encode run/tokenizer.json "Hello world"')
def encode(tokenizer: Path, text: str | None = None) -> int:
    """Print the token ids of a text, or of standard input."""
    print(*_load(tokenizer).encode(_text(text), disallowed_special=()).tolist())
    return 0


@app.command(help_epilogue="Example: tinygrad-llm tokenizer decode run/tokenizer.json 39 68 75")
def decode(tokenizer: Path, *ids: int) -> int:
    """Print the text of token ids, given as arguments or on standard input."""
    numbers = list(ids) or [_number(word) for word in sys.stdin.read().split()]
    print(_load(tokenizer).decode(numbers))
    return 0


@app.command(help_epilogue='Example: tinygrad-llm tokenizer show run/tokenizer.json "Hello world"')
def show(tokenizer: Path, text: str | None = None) -> int:
    """Colour the tokens of a text, and list their ids and bytes."""
    own, text = _load(tokenizer), _text(text)
    ids = own.encode(text, disallowed_special=()).tolist()
    coloured = Text()
    for number, token in enumerate(ids):
        coloured.append(own.token_bytes(token).decode("utf-8", "backslashreplace"), COLOURS[number % len(COLOURS)])
    console = plain_console()
    console.print(coloured)
    for token in ids:
        print(f"{token:>8}  {own.token_bytes(token)!r}")
    size = len(text.encode())
    print(f"{len(ids)} tokens, {size} bytes, {size / max(1, len(ids)):.2f} bytes per token")
    return 0


def _load(path: Path) -> Tokenizer:
    """A tokenizer.json, or the one in a run folder."""
    return Tokenizer.load(path / "tokenizer.json" if path.is_dir() else path)


def _text(text: str | None) -> str:
    return sys.stdin.buffer.read().decode("utf-8") if text is None else text


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"decode: {word!r} is not a token id") from None
