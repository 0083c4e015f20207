"""The measurements of `benchmarks.gpu`, each a process: a line of JSON for each number.

A row has `what`, `seconds` (the minimum of a few calls) and `compile_seconds`. On a GPU it has
`peak_mib`, too, the most memory that the process has held on the device so far; sizes grow, so it
is that row's own.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

import nested_jax as nj

Row = dict[str, Any]
LEVELS = range(1, 20)
REPEATS = 3


def levels(implementation: str, quick: bool) -> Iterator[Row]:
    """Time the published level sweep with JAX's random numbers, at several numbers of seeds."""
    from nested_jax import kernels

    on_cpu = jax.default_backend() == "cpu"
    interpreted = implementation == "pallas" and on_cpu
    most, steps = (4, 100) if interpreted else (19, 300 if quick else 30_000)
    word = "interpret" if interpreted else implementation

    def run(model_level, data_level, seed):
        found = kernels.regression_rollout(
            nj.nested_decays(model_level, 0.95, most),
            0.01,
            jax.random.key(seed),
            steps,
            data_levels=data_level,
            max_data_levels=most,
            warmup=steps // 10,
            implementation=word,
        )
        return {"loss": found.loss}

    for seeds in (1,) if quick else (1, 10, 100):
        axes = {"model_level": LEVELS[:most], "data_level": LEVELS[:most], "seed": range(seeds)}
        grid = nj.Grid(**axes)
        yield {
            "what": f"levels, {grid.size:,} runs × {steps:,} steps, {word}",
            **_times_of_sweep(lambda grid=grid: nj.sweep(run, grid, progress=False)),
        }


def _times_of_sweep(sweep: Callable[[], Any]) -> Row:
    first = sweep()
    seconds = [sweep().attrs["run_seconds"] for _ in range(REPEATS)]
    return {"seconds": min(seconds), "compile_seconds": first.attrs["compile_seconds"]}


def heatmap(quick: bool) -> Iterator[Row]:
    """Time AdamW trainings of a small network on digits, all cells of a heatmap at once."""
    from examples import heatmap

    steps = 20 if quick else 1_000
    rates, decays = nj.powers_of_two(-10, 0), nj.powers_of_two(-13, -2)
    run = functools.partial(heatmap.run, steps=steps)
    for seeds in (1,) if quick else (1, 10):
        grid = nj.Grid(learning_rate=rates, weight_decay=decays, seed=range(seeds))
        yield {
            "what": f"heatmap, {grid.size:,} trainings × {steps:,} steps",
            **_times_of_sweep(lambda grid=grid: nj.sweep(run, grid, progress=False)),
        }


def update_step(quick: bool) -> Iterator[Row]:
    """Time one update of a large model with ours and with optax's."""
    from benchmarks import update_step as parts

    params = 200_000 if quick else 24_000_000
    for leaves in (8,) if quick else (8, 768):
        for name in ("adamw", "adafactor"):
            model = parts.model(leaves, params)
            peers = parts.measure(list(parts.PEERS[name]), model, 1)
            seconds = parts.run(peers, model, 10)
            for peer, measured, taken in zip(("", "optax's "), peers, seconds, strict=True):
                yield {
                    "what": f"{peer}{name}, one update, {leaves} leaves",
                    "seconds": taken,
                    "compile_seconds": measured.trace + measured.compile,
                }


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "levels_scan": functools.partial(levels, "scan"),
    "levels_pallas": functools.partial(levels, "pallas"),
    "heatmap": heatmap,
    "update_step": update_step,
}


def main() -> None:
    """Measure a part and append a line for each row as soon as it is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("platform", choices=("gpu", "cpu"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    # The level sweep is float64, as published; networks and large models are float32.
    jax.config.update("jax_enable_x64", options.part.startswith("levels"))
    device = jax.devices()[0]
    if device.platform != options.platform:
        raise SystemExit(f"JAX finds no {options.platform}, but {device.device_kind}.")
    started = time.perf_counter()
    with options.out.open("a") as file:
        for row in PARTS[options.part](options.quick):
            stats = device.memory_stats() or {}
            if "peak_bytes_in_use" in stats:
                row["peak_mib"] = stats["peak_bytes_in_use"] / 2**20
            row["device"] = device.device_kind
            print(json.dumps(row), file=file, flush=True)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
