"""Time what one waits for before anything runs: imports, and the published sweep from a cold start.

    python -m benchmarks.start_up

Each call is a process of its own; calls take turns, and the minimum counts. The yardstick is
importing JAX and optax, which no user of either can avoid. `python -m experiments levels` is timed
whole, report included: cold, with an empty folder of compiled programs, and cached, with the
folder that the cold call left.

About a minute on 2 CPU cores. Expected: importing nested_jax takes at most 1.2 times as long as
importing JAX and optax.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from benchmarks import _report

YARDSTICK, OURS = "import jax, optax", "import nested_jax"
COLD, CACHED = "experiments levels, cold", "experiments levels, cached"
GOALS = {f"{OURS} / {YARDSTICK}": 1.2}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time imports and the published sweep from a cold start."""

    repeats: int = 3
    """Repeats of the published sweep, of which the minimum counts."""
    imports: int = 10
    """Repeats of each import."""
    steps: int = 30_000
    """Steps of each of the 361 runs."""
    out: Path | None = None
    """JSON file to write the record to."""


def main(config: Config) -> None:
    """Run all calls in turn and print the table."""
    seconds: dict[str, list[float]] = {YARDSTICK: [], OURS: [], COLD: [], CACHED: []}
    for statement in (YARDSTICK, OURS):
        _time("-c", statement)  # Modules are compiled to bytecode, and read from disk, once.
    for _ in range(config.imports):
        for statement in (YARDSTICK, OURS):
            seconds[statement].append(_time("-c", statement))
    for _ in range(config.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name in (COLD, CACHED):
                seconds[name].append(_time_levels(config, Path(folder), name))
    notes = ["Each call is a process of its own."]
    _report.show_times(f"Start-up; {_report.machine()}", seconds, YARDSTICK, {}, notes)
    pairs = [(name, YARDSTICK) for name in (OURS, COLD, CACHED)] + [(CACHED, COLD)]
    ratios = _report.quotients(seconds, pairs)
    _report.finish(config, _report.record(config, ratios, GOALS, seconds))


def _time_levels(config: Config, folder: Path, name: str) -> float:
    # The published figures are of the default steps; others need a warm-up that fits.
    steps = ["--steps", str(config.steps), "--warmup", str(config.steps // 10)]
    words = ["-m", "experiments", "levels", *steps, "--device", "cpu", "--out", str(folder / name)]
    return _time(*words, NESTED_JAX_CACHE=str(folder / "cache"))


def _time(*words: str, **environment: str) -> float:
    """Return the seconds of a call of Python."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, *words], env=os.environ | environment, check=True, capture_output=True
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main(tyro.cli(Config))
