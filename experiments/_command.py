"""What every experiment does before its runs and after them.

An experiment's `main` is a block `with begun(config, check) as run:`. It imports its report where
the runs are done, and not before: tables and figures would take their memory on top of the
compiler's.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from experiments import _artifacts, _cli, _data
from experiments._cli import UsageError
from nested_jax._core import checks as _checks

if TYPE_CHECKING:
    import xarray as xr

C = TypeVar("C", bound=Any)
"""The options of an experiment, a dataclass; `device` and `out` are among them."""
LARGEST = 2**31
"""Counts are below: what JAX's indices can hold."""


@dataclasses.dataclass(frozen=True)
class Run(Generic[C]):
    """An experiment whose options were checked, with a folder of its own.

    Attributes:
        config: Its options.
        device: Where it runs.
        images: What is learned, if it was begun with images.
    """

    config: C
    device: Any
    images: Any

    def made(self) -> dict[str, Any]:
        """Return how and with what it ran; call it when it has."""
        return {"config": _artifacts.describe(self.config), **_artifacts.provenance(self.device)}

    def announce(self, estimate: Callable[[C, Any], float]) -> None:
        """Print what is learned and, of `--full` without a GPU, how long that takes."""
        print(self.images.origin)
        if not self.config.full or self.device.platform != "cpu":
            return
        hours = estimate(self.config, self.images) / 3600
        print(f"No GPU is used: about {hours:.1f} hours on this machine. It may be stopped and run")
        print("again with the same options: what is done is kept.", flush=True)


@contextlib.contextmanager
def begun(
    config: C,
    check: Callable[[C], None],
    *,
    load: Callable[[C], _data.Images] | None = None,
    x64: bool = True,
    **presets: Mapping[str, Any],
) -> Iterator[Run[C]]:
    """Check options, take device and folder, and in the end say where the report is.

    Args:
        config: The options as they were given.
        check: Raises for the first option that cannot be followed.
        load: Returns the images.
        x64: Whether floats have 64 bits.
        presets: What each flag stands for.

    Raises:
        UsageError: If an option cannot be followed, or the folder not be used.
    """
    config = resolved(config, **presets)
    with _cli.usage():
        check(config)
        _checks.check_choice("--device", config.device, ("auto", "cpu", "gpu"))
        given = [f"`--{flag}`" for flag in presets if getattr(config, flag)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} must come without {given[1]}, got both.")
        images = load(config) if load else None
    device = _cli.use_device(config.device, x64=x64)
    told = _artifacts.claim(config.out, config)
    with _refusing(config.out, told):
        # A report is written before it is shown: a screen that fails costs no result.
        yield Run(config, device, images)
    print(f"Report: {config.out / 'report.html'}")


@contextlib.contextmanager
def _refusing(folder: Path, told: bytes | None) -> Iterator[None]:
    """Turn what is wrong with an experiment's folder while it runs into `UsageError`.

    What `told` of the last run does so again if the store is not touched.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("`store`"):
            raise
        if told is not None:
            _artifacts.write(folder / "config.json", told)
        raise UsageError(
            f"`--out` must be a new folder, or as it was left: {error} To run all of it again, "
            f"pass another or remove {folder / 'store'}."
        ) from error
    except OSError as error:
        if str(folder) not in str(error):
            raise
        raise _artifacts.not_writable(folder, error) from error


def resolved(config: C, **presets: Mapping[str, Any]) -> C:
    """Return the options with what their flags stand for, where they are at their defaults."""
    defaults = type(config)()
    values = {}
    for flag, preset in presets.items():
        values |= preset if getattr(config, flag) else {}
    untouched = {
        name: value
        for name, value in values.items()
        if getattr(config, name) == getattr(defaults, name)
    }
    return dataclasses.replace(config, **untouched)


def option(name: str) -> str:
    """Return the option of a field."""
    return "--" + name.replace("_", "-")


def check_counts(config: Any, least: int, *names: str) -> None:
    """Raise unless the fields are integers of at least `least`."""
    for name in names:
        _checks.check_static_count(option(name), getattr(config, name), least)
        _checks.check_below(option(name), getattr(config, name), LARGEST)


def check_multiple(config: Any, unit: int, *names: str) -> None:
    """Raise unless the fields are multiples of `unit`."""
    for name in names:
        value = getattr(config, name)
        if value % unit:
            raise ValueError(f"`{option(name)}` must be a multiple of {unit}, got {value}.")


def check_warmup(config: Any) -> None:
    """Raise unless `warmup` is a number of steps below `steps`."""
    _checks.check_static_count("--warmup", config.warmup)
    if config.warmup >= config.steps:
        raise ValueError(
            f"`--warmup` must be less than `--steps` = {config.steps}, got {config.warmup}."
        )


def check_seed(config: Any, name: str = "seed", below: int = 2**32) -> None:
    """Raise unless the field is a seed."""
    _checks.check_static_count(option(name), getattr(config, name))
    _checks.check_below(option(name), getattr(config, name), below)


def tell(title: str, results: "xr.Dataset") -> None:
    """Print how many trainings a part took, and how long."""
    seconds = results.attrs["compile_seconds"] + results.attrs["run_seconds"]
    print(f"{title}: {results.attrs['runs']} trainings, {seconds:.0f} s")
