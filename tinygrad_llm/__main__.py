"""The command ``tinygrad-llm``, also as ``python -m tinygrad_llm``."""

import sys


def run() -> None:
    """Entry point: the commands are imported inside, so that Ctrl-C while they are is no traceback either."""
    try:
        from tinygrad_llm.cli.main import main
        from tinygrad_llm.parallel.launch import guarded, launched_ranks

        status = guarded(main) if launched_ranks() > 1 else main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    run()
