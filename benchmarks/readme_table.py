"""The README's table of speeds, in Markdown, from what ``tinygrad-llm bench --json`` has written.

tinygrad-llm bench train decode --against torch --threads 2,1 --json speeds.json
python benchmarks/readme_table.py speeds.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from tinygrad_llm.study.benchmarks.report import markdown
from tinygrad_llm.study.benchmarks.results import Results

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/readme_table.py FILE.json")
    try:
        print(markdown(Results.load(Path(sys.argv[1]))), end="")
    except (ValueError, OSError) as error:
        sys.exit(f"readme_table: {error}")
