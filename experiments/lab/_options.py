"""Options of the command line: their types, which carry the rules that they are held to."""

import contextlib
import dataclasses
import importlib.util
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING or importlib.util.find_spec("tyro"):
    from tyro.conf import arg
    from tyro.constructors import PrimitiveConstructorSpec
else:
    # `benchmarks.gpu` runs experiments on machines that have JAX and optax but not tyro. Without a
    # command line nothing is parsed: the rules need no more than a place to be kept.
    arg = dict

    @dataclasses.dataclass(frozen=True)
    class PrimitiveConstructorSpec(Generic[TypeVar("T")]):
        nargs: Any
        metavar: Any
        instance_from_str: Any
        is_instance: Any
        str_from_instance: Any


LARGEST = 2**31
"""Counts are below this, the limit of JAX's indices."""


class UsageError(Exception):
    """An option that cannot be followed. It ends in one line and exit code 2."""


@dataclasses.dataclass(frozen=True)
class Option(PrimitiveConstructorSpec[Any]):
    """An option's parser, with the rule for its value.

    The parser passes on what it cannot read, so that `check` names the option, the rule and the
    value in one line, as for any other wrong value.
    """

    check: Callable[[str, Any], None] = lambda name, value: None


def _option(kind: Callable[[str], Any], metavar: str, check: Callable[[str, Any], None]) -> Option:
    def parse(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            return words[0]

    return Option(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
        check=check,
    )


def count(least: int = 1, *, multiple: int = 1, below: int = LARGEST) -> Option:
    """Return an option for an integer of at least `least`, a multiple of `multiple`."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or value < least:
            _refuse(name, f"be an integer of at least {least}", repr(value))
        if value >= below:
            _refuse(name, f"be less than {below}", value)
        if value % multiple:
            _refuse(name, f"be a multiple of {multiple}", value)

    return _option(int, "INT", check)


def _real(rule: str, holds: Callable[[float], bool]) -> Option:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, int | float):
            _refuse(name, rule, repr(value))
        if not holds(value):
            _refuse(name, rule, value)

    return _option(float, "FLOAT", check)


def choice(*words: str) -> Option:
    """Return an option for one of `words`."""

    def check(name: str, value: Any) -> None:
        if value not in words:
            _refuse(name, f"be one of {', '.join(map(repr, words))}", repr(value))

    return _option(str, "{" + ",".join(words) + "}", check)


def _refuse(name: str, rule: str, value: Any) -> typing.NoReturn:
    raise ValueError(f"`{name}` must {rule}, got {value}.")


Count: TypeAlias = Annotated[int, count()]
"""An integer of at least 1."""
Several: TypeAlias = Annotated[int, count(2)]
"""An integer of at least 2."""
Seed: TypeAlias = Annotated[int, count(0, below=2**32), arg(help="Seed of all random numbers.")]
Positive: TypeAlias = Annotated[float, _real("be positive and finite", lambda x: 0 < x < math.inf)]
NonNegative: TypeAlias = Annotated[
    float, _real("be non-negative and finite", lambda x: 0 <= x < math.inf)
]
UnitInterval: TypeAlias = Annotated[float, _real("lie in [0, 1)", lambda x: 0 <= x < 1)]
Quick: TypeAlias = Annotated[
    bool,
    arg(help="Smoke test: smaller values for the options that are at their defaults."),
]
Full: TypeAlias = Annotated[
    bool, arg(help="Larger values for the options that are at their defaults.")
]
Device: TypeAlias = Annotated[str, choice("auto", "cpu", "gpu"), arg(help="Where to run.")]
Folder: TypeAlias = Annotated[
    Path,
    _option(Path, "FOLDER", lambda name, value: None),
    arg(help="Folder for results, figures and the report."),
]
Data: TypeAlias = Annotated[str, arg(help="digits, fashion-mnist, or a folder of idx files.")]
Download: TypeAlias = Annotated[
    bool, arg(help="Download Fashion-MNIST if it is not on this machine.")
]


def option_name(field: str) -> str:
    """Return the option of a field of a configuration."""
    return "--" + field.replace("_", "-")


def check_options(config: Any) -> None:
    """Raise for the first field whose value breaks the rule of its type."""
    for field, hint in typing.get_type_hints(type(config), include_extras=True).items():
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(part, Option):
                part.check(option_name(field), getattr(config, field))


def check_warmup(config: Any) -> None:
    """Raise unless `warmup` is less than `steps`."""
    if config.warmup >= config.steps:
        _refuse("--warmup", f"be less than `--steps` = {config.steps}", config.warmup)


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Turn the errors of argument checks into `UsageError`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
