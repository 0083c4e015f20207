"""The command line: `python -m experiments NAME [options]`."""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from experiments import (
    adafactor,
    adam,
    adam_vs_sgd,
    heatmaps,
    lab,
    levels,
    momentum,
    stability,
    tracking,
)

# In the order in which a reader meets them.
MODULES = (levels, stability, tracking, momentum, adam, adam_vs_sgd, heatmaps, adafactor)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment that `arguments` name; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Some terminals cannot encode every sign.
    commands = {name: _command(experiment) for name, experiment in EXPERIMENTS.items()}
    try:
        try:
            tyro.extras.subcommand_cli_from_dict(
                commands, prog="python -m experiments", args=arguments, sort_subcommands=False
            )
        finally:
            sys.stdout.flush()
    except lab.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Errors of files have names; what is left is the terminal's, or that of a pipe.
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # Python must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The reader of a broken pipe, such as `head`, has seen enough.
        if error.errno == errno.ENOSPC:
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _command(experiment: lab.Experiment[Any]) -> Callable[..., None]:
    """Return a function of the experiment's options, as tyro reads them."""

    def command(config: Any) -> None:
        lab.run(experiment, config)

    command.__doc__ = f"{experiment.question}\n\nTakes {experiment.duration}."
    # Options without a prefix.
    command.__annotations__["config"] = Annotated[experiment.config, tyro.conf.arg(name="")]
    return command


if __name__ == "__main__":
    sys.exit(main())
