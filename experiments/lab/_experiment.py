"""An experiment is a value; `run` does for all of them what they share."""

import contextlib
import dataclasses
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax

import nested_jax as nj
from experiments.lab import _folder, _options, data
from experiments.lab._options import UsageError
from nested_jax.sweeps import write_file

if TYPE_CHECKING:
    import xarray as xr

C = TypeVar("C", bound=Any)
"""The options of an experiment, a dataclass; `device` and `out` are among them."""


@dataclasses.dataclass
class Lab:
    """Where an experiment runs.

    Attributes:
        folder: The experiment's folder.
        device: The device it runs on.
        parts: Names of its parts, in the order in which they run.
        images: The images it learns, if it asked for any.
        seconds: Part -> its wall time and, if it has sweeps, their time to compile and to run. What
            was read from the store took no time to run; `origin` says so.
    """

    folder: Path
    device: Any
    parts: Sequence[str]
    images: Any = None
    seconds: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    _current: str = ""
    _began: float = 0.0
    # Whether the current part read something from the store, and whether its line is printed.
    _read: bool = False
    _printed: bool = False

    def sweep(
        self,
        part: str,
        function: Callable[..., Any],
        grid: nj.Grid,
        *,
        piece: str = "",
        **options: Any,
    ) -> "xr.Dataset":
        """Run a sweep that is stored in the experiment's folder, so that it can be resumed.

        Args:
            part: One of the experiment's parts.
            function: What is swept, as in `nj.sweep`.
            grid: Over which points.
            piece: Name of this sweep among several of the part.
            options: Further options of `nj.sweep`.
        """
        store = self.folder / "store" / part / piece
        stored, chunks = nj.sweeps.stored_chunks(store, grid)
        self.begin(part, stored=stored / chunks if chunks else 0.0)
        results = nj.sweep(function, grid, store=store, **options)
        times = self.seconds[part]
        for name in ("compile_seconds", "run_seconds"):
            times[name] = times.get(name, 0.0) + results.attrs[name]
        return results

    def begin(self, part: str, *, stored: float = 0.0) -> None:
        """Begin a part, or go on with it, and print its line once.

        The line of a part that was read from the store says so. It is printed when the part
        computes something, or else when it ends.

        Args:
            part: One of the experiment's parts.
            stored: The share of what follows that is read from the store.
        """
        if part != self._current:
            self.end()
            self._current, self._began = part, time.perf_counter()
            self._read = self._printed = False
            self.seconds.setdefault(part, {"wall_seconds": 0.0})
        self._read |= stored > 0
        if stored < 1:
            self._print("partly from the store")

    def end(self) -> None:
        """End the current part, if there is one."""
        if self._current:
            self._print("from the store")
            self.seconds[self._current]["wall_seconds"] += time.perf_counter() - self._began
            self._current = ""

    def _print(self, origin: str) -> None:
        if not self._printed:
            self._printed = True
            number = f"part {self.parts.index(self._current) + 1} of {len(self.parts)}"
            line = f"{number}: {self._current.replace('_', ' ')}"
            if self._read:
                self.seconds[self._current]["origin"] = origin
                line += f" ({origin})"
            print(line, flush=True)


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[C]):
    """An experiment.

    Its package has a module `runs` with `simulate(config, lab)`, which runs all sweeps through
    `lab.sweep` and returns datasets by name of their files, and a module `report` with
    `sections(config, results)`. Both are imported when they are needed: the command line should
    start fast, and figures and tables would take their memory on top of the compiler's.

    Attributes:
        package: Name of the package.
        question: What it answers, in one sentence.
        duration: How long it takes, in words.
        config: The dataclass of its options. Their types carry their rules.
        parts: Names of the parts of `simulate`, in the order in which they run.
        check: Raises for rules between several options.
        check_images: Raises for rules between options and images.
        presets: For each flag, the options that it changes if they are at their defaults.
        x64: Whether floats have 64 bits.
        learns: Whether it learns images, those of the option `data`.
    """

    package: str
    question: str
    duration: str
    config: type[C]
    parts: Sequence[str]
    check: Callable[[C], None] = lambda config: None
    check_images: Callable[[C, data.Images], None] = lambda config, images: None
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    x64: bool = True
    learns: bool = False

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return self.package.rpartition(".")[2].replace("_", "-")

    @property
    def runs(self) -> Any:
        """The module with `simulate` and, for what takes hours, `estimate(config, lab)`."""
        return importlib.import_module(f"{self.package}.runs")

    @property
    def report(self) -> Any:
        """The module with `sections`."""
        return importlib.import_module(f"{self.package}.report")


def run(experiment: Experiment[Any], config: Any) -> None:
    """Run an experiment: check, simulate, save, report.

    Raises:
        UsageError: If an option cannot be followed, or the folder cannot be used.
    """
    started = time.perf_counter()
    config = resolved(experiment, config)
    with _options.usage():
        _options.check_options(config)
        flags = [f"`--{flag}`" for flag in experiment.presets if getattr(config, flag)]
        if len(flags) > 1:
            raise ValueError(f"{flags[0]} cannot be combined with {flags[1]}.")
        experiment.check(config)
        images = data.load(config.data, download=config.download) if experiment.learns else None
        if images:
            experiment.check_images(config, images)
    device = use_device(config.device, x64=experiment.x64)
    with _folder.claimed(config) as folder:
        lab = Lab(folder, device, experiment.parts, images)
        _announce(experiment, config, lab)
        results = experiment.runs.simulate(config, lab)
        lab.end()
        sections = experiment.report.sections(config, results)
        from experiments.lab import _report  # After the runs, like the experiment's own report.

        for name, dataset in results.items():
            nj.sweeps.save(dataset, folder / f"{name}.nc")
        made = {"config": _folder.describe(config), **_folder.provenance(device)}
        made |= {"data": images.origin} if images else {}
        _report.write(folder, experiment.name, experiment.question, made, [*results], sections)
        # Written last: a folder whose config.json has versions is complete.
        times = {"wall_seconds": time.perf_counter() - started, "seconds": lab.seconds}
        described = json.dumps(made | {"parts": [*results], **times}, indent=2)
        write_file(folder / "config.json", described + "\n")
        # A report is written before it is shown: a terminal that fails costs no result.
        _report.show(experiment.question, made, sections)
    print(f"Report: {config.out / 'report.html'}")


def _announce(experiment: Experiment[Any], config: Any, lab: Lab) -> None:
    """Print what is learned and, for long runs without a GPU, how long they take."""
    if lab.images:
        print(lab.images.origin)
    if "full" in experiment.presets and config.full and lab.device.platform == "cpu":
        hours = experiment.runs.estimate(config, lab) / 3600
        print(f"Without a GPU, this takes about {hours:.1f} hours on this machine. You may stop it")
        print("and run it again with the same options: finished chunks are kept.", flush=True)


def resolved(experiment: Experiment[C], config: C) -> C:
    """Return the options, with those at their defaults changed as the flags say."""
    defaults, values = type(config)(), {}
    for flag, preset in experiment.presets.items():
        values |= preset if getattr(config, flag) else {}
    untouched = {
        name: value
        for name, value in values.items()
        if getattr(config, name) == getattr(defaults, name)
    }
    return dataclasses.replace(config, **untouched)


def use_device(device: str, *, x64: bool = True) -> Any:
    """Run on `device` ("auto", "cpu" or "gpu") from here on, in float64 or 32; return it.

    Raises:
        UsageError: If there is no such device.
    """
    jax.config.update("jax_enable_x64", x64)
    # One CPU device for each core, as sweeps use all devices. Once JAX runs, as in tests, it is
    # too late.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    cache = os.environ.get("NESTED_JAX_CACHE", Path(__file__).parents[2] / ".cache" / "jax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    # Also of single operations, of which a run has hundreds: to compile one takes 40 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        chosen = jax.devices(None if device == "auto" else device)[0]
    except RuntimeError as error:
        raise UsageError(f"`--device` must name a device of this machine, got {device}.") from error
    jax.config.update("jax_default_device", chosen)
    return chosen
