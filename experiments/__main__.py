"""The command line: `python -m experiments NAME [options]`."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from experiments import lab, levels, stability

# In the order in which a reader meets them.
MODULES = (levels, stability)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment that `arguments` name; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Some terminals cannot encode every sign.
    commands = {name: _command(experiment) for name, experiment in EXPERIMENTS.items()}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m experiments", args=arguments, sort_subcommands=False
        )
    except lab.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
