"""The README's lines on what came before the transformer, from what ``tinygrad-llm compare --json`` has written.

tinygrad-llm compare --json architectures.json
python benchmarks/readme_architectures.py architectures.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from tinygrad_llm.study.architectures.report import markdown
from tinygrad_llm.study.architectures.results import Comparison

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/readme_architectures.py FILE.json")
    try:
        print(markdown(Comparison.load(Path(sys.argv[1]))), end="")
    except (ValueError, OSError) as error:
        sys.exit(f"readme_architectures: {error}")
