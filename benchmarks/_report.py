"""What a part of the benchmark reports: one table on the screen, and one record of numbers."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from nested_jax.sweeps import write_file

PACKAGES = ("nested-jax", "jax", "jaxlib", "optax", "numpy", "numba", "torch")
WIDTH = 120

Record = dict[str, Any]


def record(
    config: Any,
    ratios: Mapping[str, float],
    goals: Mapping[str, float],
    seconds: Mapping[str, Any],
    **more: Any,
) -> Record:
    """Return what a part of the benchmark found.

    Args:
        config: The dataclass of its options; ratios of different options are not compared.
        ratios: By name, "A / B", of which less is better: the times of ours over another's.
        goals: The most that some of the ratios should be.
        seconds: The times that the ratios were made of.
        more: What else there is to know.
    """
    return {
        "machine": machine(),
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "versions": versions(),
        "config": describe(config),
        "ratios": {name: float(ratio) for name, ratio in ratios.items()},
        "goals": {name: goal for name, goal in goals.items() if name in ratios},
        "seconds": seconds,
        **more,
    }


def describe(config: Any) -> dict[str, Any]:
    """Return the options that ratios depend on: all but where they go."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "out"}


def machine() -> str:
    """Return the processor's name, its cores and JAX's version: what ratios depend on most."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # Not Linux: the architecture has to do.
    jax = ".".join(importlib.metadata.version("jax").split(".")[:2])
    return f"{name}, {os.cpu_count()} cores, JAX {jax}"


def file_name(machine: str) -> str:
    """Return the name of the file for what `machine` returned."""
    return "-".join(re.findall(r"[a-z0-9.]+", machine.lower())) + ".json"


def versions() -> dict[str, str]:
    """Return the versions of the packages that are compared, as far as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON aside and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(content, indent=2) + "\n")


def show_times(
    title: str,
    seconds: Mapping[str, Sequence[float]],
    yardstick: str,
    columns: Mapping[str, Mapping[str, str]],
    notes: Sequence[str],
) -> None:
    """Print minima, medians and ratios to the yardstick, with further columns by name."""
    table = rich.table.Table(title=title)
    table.add_column("what", no_wrap=True)
    for name in ("seconds (min)", "median", f"ratio to {yardstick}", *columns):
        table.add_column(name, justify="right")
    unit = min(seconds.get(yardstick, [float("nan")]))
    for name, taken in sorted(seconds.items(), key=lambda item: min(item[1])):
        least = min(taken)
        cells = [f"{least:.3g}", f"{statistics.median(taken):.3g}", f"{least / unit:.3g}"]
        table.add_row(name, *cells, *(column.get(name, "") for column in columns.values()))
    console = rich.console.Console(width=WIDTH)
    console.print(table)
    for note in notes:
        console.print(note)


def quotients(
    seconds: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Return ratios of minima by name "A / B", of the pairs that were both timed."""
    return {
        f"{ours} / {other}": min(seconds[ours]) / min(seconds[other])
        for ours, other in pairs
        if ours in seconds and other in seconds
    }


def finish(config: Any, found: Record) -> None:
    """Print the ratios that have goals; write the record where the options say."""
    console = rich.console.Console(width=WIDTH)
    for name, goal in found["goals"].items():
        reached = found["ratios"][name] <= goal
        console.print(
            f"{name}: {found['ratios'][name]:.3g}, goal at most {goal:.3g}"
            f" ({'reached' if reached else 'missed'})"
        )
    if config.out:
        write(config.out, found)
