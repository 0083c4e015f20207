"""The command line: `python -m experiments NAME [options]`."""

import io
import os
import sys
from collections.abc import Sequence

import tyro

from experiments import adafactor, adam, adam_vs_sgd, heatmaps, levels, momentum, stability
from experiments._cli import UsageError

EXPERIMENTS = {
    "adafactor": adafactor.main,
    "adam": adam.main,
    "adam-vs-sgd": adam_vs_sgd.main,
    "heatmaps": heatmaps.main,
    "levels": levels.main,
    "momentum": momentum.main,
    "stability": stability.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment that `arguments` name; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Not all terminals know the signs of tables.
    try:
        tyro.extras.subcommand_cli_from_dict(
            EXPERIMENTS, prog="python -m experiments", args=arguments
        )
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Who reads, `head` say, has seen enough. Python is not to try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
