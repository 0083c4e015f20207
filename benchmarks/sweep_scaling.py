"""What a sweep costs as it grows: in runs, in devices and in steps, on the level sweep.

The command: `python -m benchmarks.sweep_scaling`.

The sweep is `experiments/levels` on JAX's random numbers, 19 × 19 combinations of levels and a
third axis of seeds. Each number of devices has a process of its own, which stays; processes take
turns, and the minimum of the repeats counts. Compilations are those until the first chunk is
there, of whatever kind; memory is the most that the process had until then, JAX itself included.

About 2 minutes on 2 CPU cores. Expected: a run among 36,100 costs at most 1.3 times what one among
361 does, and two devices are at least 1.8 times as fast as one on these, on cores that are idle; at
most two compilations; memory flat in the steps.
"""

import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import rich.console
import rich.table
import tyro

import nested_jax as nj
from benchmarks import _report
from experiments.levels import runs
from experiments.levels.config import Config as Levels
from nested_jax.sweeps import LocalDevices

LEVELS = range(1, 20)
# The most that a run among many should cost, of one among few; that the time on several devices
# should be, of an even share; and memory of many steps, of that of few.
MOST_A_RUN, MOST_OF_A_SHARE, MOST_MEMORY = 1.3, 2 / 1.8, 1.1
COMPILATION = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the level sweep at several sizes."""

    steps: int = 10_000
    """Steps of each run."""
    seeds: int = 100
    """Seeds of the large sweep, of 361 runs each; the small one has one."""
    devices: tuple[int, ...] = (1, 2)
    """Numbers of CPU devices."""
    memory_steps: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Steps of a run where its memory is measured."""
    repeats: int = 2
    """Repeats, of which the minimum counts."""
    out: Path | None = None
    """JSON file to write the measurements to."""


def main(config: Config) -> None:
    """Measure in turn and print the table."""
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    workers = {devices: _start(devices) for devices in config.devices}
    for _ in range(config.repeats):
        for seeds in (1, config.seeds):
            for devices, worker in workers.items():
                measured = _ask(worker, config.steps, seeds)
                row = rows.setdefault((devices, seeds, config.steps), measured | {"repeats": []})
                row["repeats"].append(measured["seconds"])
                row["seconds"] = min(row["repeats"])
    for worker in workers.values():
        worker.communicate()
    for steps in config.memory_steps:
        worker = _start(1)
        rows.setdefault((1, 1, steps), _ask(worker, steps, 1))
        worker.communicate()
    _show(config, rows)
    seconds = {
        f"{_runs(seeds)}, devices: {devices}, steps: {steps:,}": row.get(
            "repeats", [row["seconds"]]
        )
        for (devices, seeds, steps), row in rows.items()
    }
    ratios, goals = _ratios(config, rows)
    cases = [dict(zip(("devices", "seeds", "steps"), k, strict=True)) | rows[k] for k in rows]
    _report.finish(config, _report.record(config, ratios, goals, seconds, rows=cases))


def _runs(seeds: int) -> str:
    return f"{len(LEVELS) ** 2 * seeds:,} runs"


def _ratios(
    config: Config, rows: dict[tuple[int, int, int], dict[str, Any]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what runs, devices and steps cost as they get more, and the most they should."""
    ratios, goals = {}, {}
    for devices in config.devices:
        few, many = (rows[devices, seeds, config.steps] for seeds in (1, config.seeds))
        name = f"a run, devices: {devices}, of {_runs(config.seeds)} / of {_runs(1)}"
        ratios[name] = many["seconds"] / many["runs"] / (few["seconds"] / few["runs"])
        goals[name] = MOST_A_RUN
    for seeds in (1, config.seeds):
        for devices in config.devices[1:]:
            first, more = (rows[n, seeds, config.steps] for n in (config.devices[0], devices))
            name = f"{_runs(seeds)}, {devices} devices / {config.devices[0]}"
            ratios[name] = more["seconds"] / first["seconds"]
            if seeds > 1:  # Among few runs the stream, which all devices compute, weighs.
                goals[name] = MOST_OF_A_SHARE * config.devices[0] / devices
    if len(config.memory_steps) > 1:
        least, most = min(config.memory_steps), max(config.memory_steps)
        name = f"memory, {most:,} steps / {least:,} steps"
        ratios[name] = rows[1, 1, most]["peak_mib"] / rows[1, 1, least]["peak_mib"]
        goals[name] = MOST_MEMORY
    return ratios, goals


def _start(devices: int) -> subprocess.Popen:
    program = f"from benchmarks import sweep_scaling; sweep_scaling.work({devices})"
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: subprocess.Popen, steps: int, seeds: int) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(json.dumps({"steps": steps, "seeds": seeds}), file=worker.stdin, flush=True)
    return json.loads(worker.stdout.readline())


def work(devices: int) -> None:
    """Measure what the lines of standard input ask for: the life of a worker."""
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    for line in sys.stdin:
        print(json.dumps(_measure(**json.loads(line))), flush=True)


def _measure(steps: int, seeds: int) -> dict[str, Any]:
    compilations = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == COMPILATION:
            compilations.append(duration_secs)

    run = _function(steps, seeds)
    grid = nj.Grid(model_level=LEVELS, data_level=LEVELS, seed=range(seeds))
    jax.monitoring.register_event_duration_secs_listener(listen)
    executor, started = _Clocked(), time.perf_counter()
    attributes = nj.sweep(run, grid, executor=executor, progress=False).attrs
    jax.monitoring.unregister_event_duration_listener(listen)
    return {
        "runs": attributes["runs"],
        "chunk": attributes["chunk"],
        "seconds": attributes["run_seconds"],
        "first_result_seconds": executor.first - started,
        "compilations": len(compilations),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


@functools.cache
def _function(steps: int, seeds: int):
    config = Levels(stream="jax", seeds=seeds, steps=steps, warmup=steps // 10)
    return runs.function(config)


class _Clocked(LocalDevices):
    """All devices, and a clock that is read when their first chunks are there."""

    first = float("nan")

    def evaluate(self, job, indices):
        for wave in super().evaluate(job, indices):
            if self.first != self.first:
                self.first = time.perf_counter()
            yield wave


def _show(config: Config, rows: dict[tuple[int, int, int], dict[str, Any]]) -> None:
    table = rich.table.Table(title=f"The level sweep, float64; {_report.machine()}")
    names = ("devices", "steps", "runs", "chunk", "seconds", "µs a run", "of 361 runs'")
    for name in (*names, "first result s", "compilations", "peak MiB"):
        table.add_column(name, justify="right")
    for (devices, _, steps), row in sorted(rows.items()):
        cost = row["seconds"] / row["runs"]
        small = rows[devices, 1, steps]
        table.add_row(
            f"{devices}",
            f"{steps:,}",
            f"{row['runs']:,}",
            f"{row['chunk']:,}",
            f"{row['seconds']:.2f}",
            f"{cost * 1e6:.0f}",
            f"{cost / small['seconds'] * small['runs']:.2f}",
            f"{row['first_result_seconds']:.1f}",
            f"{row['compilations']}",
            f"{row['peak_mib']:.0f}",
        )
    console = rich.console.Console(width=120)
    console.print(table)
    for seeds in (1, config.seeds):
        one = rows[config.devices[0], seeds, config.steps]
        for devices in config.devices[1:]:
            ratio = one["seconds"] / rows[devices, seeds, config.steps]["seconds"]
            console.print(f"{one['runs']:,} runs: {devices} devices are {ratio:.2f} times as fast.")
    console.print(f"Load of the machine: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores.")


if __name__ == "__main__":
    main(tyro.cli(Config))
