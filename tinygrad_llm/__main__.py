"""``python -m tinygrad_llm`` is the command ``tinygrad-llm``."""

from tinygrad_llm.cli.main import run

run()
