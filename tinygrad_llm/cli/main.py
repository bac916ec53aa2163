"""The command ``tinygrad-llm``: finds the subcommand, and turns mistakes into one line and an exit status.

0 done, 1 failure, 2 wrong usage, 130 interrupted. ``TINYGRAD_LLM_DEBUG=1`` shows the traceback of a failure.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnknownCommandError

from tinygrad_llm import __version__
from tinygrad_llm.backend import chosen_backend
from tinygrad_llm.cli.bench import bench
from tinygrad_llm.cli.chat import chat
from tinygrad_llm.cli.compare import compare
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.cli.convert import convert
from tinygrad_llm.cli.dataset import dataset
from tinygrad_llm.cli.derive import derive
from tinygrad_llm.cli.evaluate import evaluate
from tinygrad_llm.cli.exercise import app as exercise_app
from tinygrad_llm.cli.explore import explore
from tinygrad_llm.cli.finetune import app as finetune_app
from tinygrad_llm.cli.generate import generate
from tinygrad_llm.cli.ladder import ladder
from tinygrad_llm.cli.plan import plan
from tinygrad_llm.cli.predict import predict
from tinygrad_llm.cli.schedule import schedule
from tinygrad_llm.cli.tokenizer import app as tokenizer_app
from tinygrad_llm.cli.train import given_options, train
from tinygrad_llm.cli.why import why
from tinygrad_llm.parallel.launch import complain
from tinygrad_llm.parallel.mesh import RanksError

app = App(
    name="tinygrad-llm",
    help="A large language model from scratch on NumPy: train a GPT, generate text, study every gradient.",
    version=__version__,
)
app.command(train, help_epilogue="Example: tinygrad-llm train --data book.txt --steps 200 --out book")
app.command(dataset, help_epilogue="Example: tinygrad-llm dataset questions --out questions.jsonl")
app.command(finetune_app)
app.command(generate, help_epilogue='Example: tinygrad-llm generate run --prompt "def " --max-tokens 50 --seed 1')
app.command(chat, help_epilogue="Example: tinygrad-llm chat smollm2 --weights int8")
app.command(predict, help_epilogue='Example: tinygrad-llm predict run "free money, click here"')
app.command(evaluate, name="eval", help_epilogue="Example: tinygrad-llm eval run --data other.txt")
app.command(convert, help_epilogue="Example: tinygrad-llm convert smollm2 smollm2.gguf --dtype q8_0")
app.command(derive, help_epilogue="Example: tinygrad-llm derive softmax --shape 2,3")
app.command(tokenizer_app)
app.command(exercise_app)
app.command(ladder, help_epilogue="Example: tinygrad-llm ladder softmax --plot softmax.png")
app.command(bench, help_epilogue="Example: tinygrad-llm bench kernels --plot roofline.png")
app.command(compare, help_epilogue="Example: tinygrad-llm compare gpt lstm --quick --out small")
app.command(explore, help_epilogue="Example: tinygrad-llm explore --out explorer.html")
app.command(plan, help_epilogue="Example: tinygrad-llm plan gpt3-175b --dp 16 --pp 8 --tp 8 --microbatches 96 --zero 1")
app.command(schedule, help_epilogue="Example: tinygrad-llm schedule 1f1b --stages 4 --microbatches 8 --out 1f1b.svg")
app.command(why, help_epilogue='Example: tinygrad-llm why "blocks.0.mlp.up.weight.grad[3, 5]" --depth 2')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. Ctrl-C is left to the caller, `tinygrad_llm.__main__`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given_options.set({a.split("=")[0][2:].replace("-", "_") for a in arguments if a.startswith("--")})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except (CycloptsError, ValueError, TypeError) as error:
        return _complain(error, 2, "see tinygrad-llm --help" if not arguments else "")
    try:
        chosen_backend()  # a mistake in the environment is told before any work
        return command(*bound.args, **bound.kwargs) or 0
    except BrokenPipeError:  # the reader of our output has gone, as in `tinygrad-llm generate run | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RanksError as error:
        return _complain(error, 2)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("TINYGRAD_LLM_DEBUG"):
            raise
        return _complain(error, 1)


def _complain(error: BaseException, status: int, remedy: str = "") -> int:
    message = str(error).strip() or type(error).__name__
    if isinstance(error, UnknownCommandError) and error.app:  # its own list ends after eight
        names = ", ".join(name for name in error.app if not name.startswith("-"))
        message = f"{message.partition(' Available commands: ')[0]} Available commands: {names}."
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = f"tinygrad-llm: error: {message}" + (f" ({remedy})" if remedy else "")
    if not complain(text):
        plain_console(stderr=True).print(text)
    return status
