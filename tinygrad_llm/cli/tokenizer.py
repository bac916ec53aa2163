"""``tinygrad-llm tokenizer``: train, encode, decode, show, compression."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Literal, cast

from cyclopts import App, Parameter

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.data import DataError, TextFiles
from tinygrad_llm.files import atomic_write
from tinygrad_llm.generation.loading import find_model
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.study.tokens.compression import compression_table, count_files
from tinygrad_llm.study.tokens.document import tokens_page
from tinygrad_llm.study.tokens.learning import learned_table
from tinygrad_llm.study.tokens.merges import words_of
from tinygrad_llm.study.tokens.text_form import EVERYTHING, Limits, merge_lists, running_text, token_table
from tinygrad_llm.study.tokens.visible import printed
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.trainer import Learned
from tinygrad_llm.training import TrainConfig, read_corpus, train_tokenizer
from tinygrad_llm.training.progress import counting

app = App(name="tokenizer", help="Train a byte-level BPE tokenizer, or use one.")
RUN = Path("run")
FILES = 20  # lines of compression without --all
EXPLAINED = 20  # merges without a number
_DIGITS = 20  # more than any id has

Flag = Annotated[bool, Parameter(negative=())]
Errors = Annotated[
    Literal["strict", "replace"],
    Parameter(help='Bytes that are not UTF-8: an error (strict), or "�" in their place (replace).'),
]
Vocabulary = Annotated[
    Path, Parameter(help="File of a tokenizer, or a folder that has one, as tinygrad-llm train wrote it.")
]


@app.command(help_epilogue="Example: tinygrad-llm tokenizer train --data book.txt --vocab-size 4096 --out book.json")
def train(
    *,
    data: str = "",
    vocab_size: int = TrainConfig.vocab_size,
    pattern: str = TrainConfig.pattern,
    min_count: int = 1,
    errors: Errors = "strict",
    explain: Annotated[list[int] | None, Parameter(consume_multiple=(0, 1), negative=())] = None,
    out: Path = Path("tokenizer.json"),
) -> int:
    """Learn a vocabulary from text and write it as tokenizer.json.

    The merges are those that Hugging Face's trainer learns from the same words.

    Parameters
    ----------
    data
        File or folder of UTF-8 text; without it, the documentation that comes with Python.
    vocab_size
        Tokens, the 256 bytes and the document separator among them.
    pattern
        How text is cut into words before merging: own, gpt2, smollm, cl100k, llama3, qwen2, o200k, or a regular
        expression.
    min_count
        How often a pair must stand in the text to become a token.
    explain
        Print the first merges as they were learned: 20, or as many as are asked for.
    out
        File to write.
    """
    TrainConfig(vocab_size=vocab_size, pattern=pattern)  # refuses what cannot be, before anything is read
    shown = EXPLAINED if explain == [] else explain[0] if explain else 0
    for name, number in (("min-count", min_count), ("explain", 1 if explain is None else shown)):
        if number < 1:
            raise ValueError(f"--{name} {number}: must be at least 1")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"{out}: --out needs a file name in a folder that exists")
    console, corpus, explained = plain_console(), read_corpus(data, errors), list[Learned]()
    size = corpus.size() if isinstance(corpus, TextFiles) else None
    texts = (document.text for document in corpus)
    try:
        tokenizer = train_tokenizer(texts, vocab_size, pattern, console, size, min_count, explained.append)
    except DataError as error:
        replaceable = errors == "strict" and "not UTF-8" in str(error)
        raise ValueError(f"{error}{', or take it as it is with --errors replace' if replaceable else ''}") from None
    tokenizer.save(out)
    if shown:
        for line in learned_table(tokenizer, explained[0], shown):
            console.print(line)
    console.print(f"wrote {out}: {tokenizer.vocab_size:,} tokens")
    return 0


@app.command(help_epilogue='Example: tinygrad-llm tokenizer encode "Hello world" --tokenizer run')
def encode(
    text: str | None = None, *, tokenizer: Vocabulary = RUN, special: Flag = False, errors: Errors = "strict"
) -> int:
    """Print the token ids of a text, or of standard input.

    Parameters
    ----------
    text
        The text; without it, standard input.
    special
        The names of special tokens, as <|endoftext|>, are those tokens; else they are text as any other.
    """
    own = _load(tokenizer)
    allowed: Literal["all"] | tuple[()] = "all" if special else ()
    ids = own.encode(_text(text, errors), allowed_special=allowed, disallowed_special=())
    print(" ".join(map(str, ids.tolist())))
    return 0


@app.command(help_epilogue="Example: tinygrad-llm tokenizer decode 39 68 75 --tokenizer run")
def decode(*ids: int, tokenizer: Vocabulary = RUN) -> int:
    """Print the text of token ids, given as arguments or on standard input.

    Parameters
    ----------
    ids
        The ids; without them, those on standard input, with white space between them.
    """
    decoder = _load(tokenizer).stream_decoder()
    for some in [ids] if ids else _numbers(cast(BufferedReader, sys.stdin.buffer)):
        print(decoder.feed(some), end="", flush=True)
    print(decoder.flush())
    return 0


@app.command(help_epilogue='Example: tinygrad-llm tokenizer show "Hello world" --html hello.html')
def show(
    text: str | None = None,
    *,
    tokenizer: Vocabulary = RUN,
    special: Flag = False,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    errors: Errors = "strict",
    html: Path | None = None,
    force: Flag = False,
) -> int:
    """Show the tokens of a text: in colours, with their ids and bytes, and the merges that made them, in order.

    White space is shown as signs: a space is ·, a tab ⇥, a line feed ⏎. The rank of a merge is its
    place among the tokenizer's merges, from 0: the lowest goes first.

    Parameters
    ----------
    text
        The text; without it, standard input.
    special
        The names of special tokens, as <|endoftext|>, are those tokens; else they are text as any other.
    all_
        Show all of a long text.
    html
        Write a page into this file that steps through the merges, and print nothing else.
    force
        Replace the file if it exists.
    """
    if html is not None:
        refuse_existing(html, force)
    own, content = _load(tokenizer), _text(text, errors)
    if html is not None:
        atomic_write(html, tokens_page(own, content, special).encode("utf-8"))
        print(f"wrote {html}\nopen it in a browser: {html.absolute().as_uri()}")
        return 0
    words, limits, console = words_of(own, content, special), EVERYTHING if all_ else Limits(), plain_console()
    if words:
        colour = console.color_system is not None and not console.no_color
        console.print(running_text(own, words, limits, colour), end="\n\n")
        for line in (*token_table(own, words, limits), *merge_lists(own, words, limits), ""):
            console.print(line)
    tokens, size = sum(len(word.ids) for word in words), len(content.encode("utf-8"))
    print(f"{_count(tokens, 'token')}, {_count(size, 'byte')}, {size / max(1, tokens):.2f} bytes per token")
    return 0


@app.command(
    help_epilogue="Example: tinygrad-llm tokenizer compression book.txt texts/ --tokenizer run --plot rates.png"
)
def compression(
    paths: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    tokenizer: tuple[Path, ...] = (RUN,),
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    errors: Errors = "strict",
    plot: Path | None = None,
    force: Flag = False,
) -> int:
    """Count how many bytes a token covers, file by file, with one tokenizer or several.

    Parameters
    ----------
    paths
        Files or folders of UTF-8 text.
    tokenizer
        File of a tokenizer, or a folder that has one; may be given several times.
    all_
        List all files, not only the largest.
    plot
        Draw the bytes per token into this PNG file.
    force
        Replace the file if it exists.
    """
    if plot is not None:
        refuse_existing(plot, force)
        if plot.suffix.lower() != ".png":
            raise ValueError(f"{plot}: the picture is a PNG; give a name that ends in .png")
    tokenizers, skipped = [_load(path) for path in tokenizer], Counter[str]()
    with counting(plain_console(stderr=True), "encoding") as progress:
        counts = count_files(list(dict.fromkeys(paths)), tokenizers, skipped, errors, progress)
    console, labels = plain_console(), [printed(str(path)) for path in tokenizer]
    for line in compression_table(counts, labels, len(counts) if all_ else FILES):
        console.print(line)
    if skipped:
        print("skipped: " + ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())))
    if plot is not None:
        from tinygrad_llm.study.tokens.plot import plot as draw_into

        draw_into(counts, labels, plot)
        print(f"wrote {plot}")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _load(path: Path) -> Tokenizer:
    """The tokenizer in a file or a folder; if there is none, the error says how to get one."""
    try:
        return Tokenizer.load(find_model(path))
    except FileNotFoundError as error:
        what = str(error) if error.strerror is None else f"{path}: no such file or folder"
        raise ValueError(
            f"{what}; tinygrad-llm train and tinygrad-llm tokenizer train make one, --tokenizer PATH names another"
        ) from None


def _text(text: str | None, errors: str) -> str:
    """The text, or standard input; raises ValueError for bytes that are not UTF-8, unless `errors` is "replace"."""
    if text is None:
        where, data = "standard input", sys.stdin.buffer.read()
    else:
        where, data = "the text", _bytes_given(text)
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: not UTF-8: {error.reason} at byte {error.start}; convert it first, or take what can be read "
            "with --errors replace"
        ) from None


def _bytes_given(text: str) -> bytes:
    """The bytes of an argument: those that are not UTF-8 are in it as lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _numbers(stream: BufferedReader) -> Iterator[list[int]]:
    """The numbers in a stream of any length, as many at a time as there are."""
    begun = b""  # a number whose end has not come
    while piece := stream.read1(1 << 16):
        words = (begun + piece).split()
        begun = b"" if piece[-1:].isspace() or not words else words.pop()
        yield [_number(word) for word in words]
        if len(begun) > _DIGITS:
            _number(begun + b"...")
    if begun:
        yield [_number(begun)]


def _number(word: bytes) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"decode: {word[:40].decode(errors='backslashreplace')!r} is not a token id") from None
