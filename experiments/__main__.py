"""The command line: `python -m experiments NAME [options]`."""

import dataclasses
import difflib
import errno
import gc
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
    timescales,
    tracking,
)

# In the order in which a reader meets them.
MODULES = (
    levels,
    stability,
    tracking,
    momentum,
    timescales,
    adam,
    adam_vs_sgd,
    heatmaps,
    adafactor,
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in MODULES}
# New objects before Python looks for garbage. JAX makes millions of objects that it keeps; looking
# through them after every 700 takes 7 to 9 % of a smoke test.
OBJECTS = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment that `arguments` name, or list all; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Some terminals cannot encode every sign.
    gc.set_threshold(OBJECTS, 10, 10)
    commands = {name: _command(experiment) for name, experiment in EXPERIMENTS.items()}
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            if not arguments:
                print(_listing())
                return 0
            _check_words(arguments)
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


def _listing() -> str:
    """Return the experiments with question and duration, in reading order."""
    lines = ["usage: python -m experiments NAME [options]", ""]
    for name, experiment in EXPERIMENTS.items():
        lines += [f"{name:<12} {experiment.question}", f"{'':<12} Takes {experiment.duration}."]
    return "\n".join([*lines, "", "`python -m experiments NAME --help` lists the options."])


def _check_words(words: Sequence[str]) -> None:
    """Raise for an unknown experiment or option, with the nearest known one.

    Raises:
        UsageError: One line, where tyro would print a box of the options of all experiments.
    """
    name, *rest = words
    if name.startswith("-"):
        return
    experiment = EXPERIMENTS.get(name.replace("_", "-"))
    if experiment is None:
        raise lab.UsageError(f"unknown experiment {name!r}.{_nearest(name, [*EXPERIMENTS])}")
    fields = dataclasses.fields(experiment.config)
    flags = [f"no-{field.name}" for field in fields if isinstance(field.default, bool)]
    known = [lab.option_name(option) for option in ("help", *flags, *(x.name for x in fields))]
    for word in rest:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known:
            raise lab.UsageError(f"unknown option {option!r} of {name}.{_nearest(option, known)}")


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" Did you mean {near[0]!r}?" if near else f" Choose one of {', '.join(known)}."


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
