"""What the command lines of all experiments share."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import jax
import tyro
from tyro.constructors import PrimitiveConstructorSpec


class UsageError(Exception):
    """An option that cannot be followed; ends in one line and exit code 2."""


def _lenient(kind: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Return a parser that hands on what it cannot read.

    The experiment's own check then names the option, the rule and the value in one line, as for
    any other wrong value.
    """

    def parse(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            return words[0]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


Integer: TypeAlias = Annotated[int, _lenient(int, "INT")]
Real: TypeAlias = Annotated[float, _lenient(float, "FLOAT")]
Folder: TypeAlias = Annotated[Path, _lenient(Path, "FOLDER")]


def word(*choices: str) -> PrimitiveConstructorSpec[Any]:
    """Return the parser of an option that is one of `choices`."""
    return _lenient(str, "{" + ",".join(choices) + "}")


# For the one argument of an experiment's `main`: its fields become options without a prefix.
OPTIONS = tyro.conf.arg(name="")


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Turn the errors of argument checks into `UsageError`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def use_device(device: str, *, x64: bool = True) -> Any:
    """Run on `device` ("auto", "cpu" or "gpu") from here on, in float64 or 32; return it.

    Raises:
        UsageError: If there is no such device.
    """
    jax.config.update("jax_enable_x64", x64)
    # A CPU device a core: a sweep uses all devices. Too late if JAX has started, as under tests.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    cache = os.environ.get("NESTED_JAX_CACHE", Path(__file__).parents[1] / ".cache" / "jax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    try:
        chosen = jax.devices(None if device == "auto" else device)[0]
    except RuntimeError as error:
        raise UsageError(f"`--device` must name a device of this machine, got {device}.") from error
    jax.config.update("jax_default_device", chosen)
    return chosen
