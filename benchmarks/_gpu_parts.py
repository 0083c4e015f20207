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
MOST = 19  # Levels, of the model and of the data.
REPEATS = 3


def levels_scan(quick: bool) -> Iterator[Row]:
    """Time the level sweep as a compiled scan, by one step and by eight an iteration."""
    steps = 300 if quick else 30_000
    sizes = {1: (1, 10, 100), 8: (1, 100)}
    if jax.default_backend() == "cpu":  # Where more than one step is known to be slower.
        sizes = {1: (1,), 2: (1,)} if quick else {1: (1, 10, 100)}
    for unroll, seeds in sizes.items():

        def run(model_level, data_level, seed, unroll=unroll):
            problem = nj.drifting_regression(
                10, data_levels=data_level, decay=0.95, noise_std=0.1, max_levels=MOST
            )
            tx = nj.nested_momentum(0.01, levels=model_level, decay=0.95, max_levels=MOST)
            key, warmup = jax.random.key(seed), steps // 10
            trace = nj.rollout(tx, problem, key, steps, warmup=warmup, unroll=unroll)
            return {"loss": trace.mean_loss}

        for row in _levels(run, seeds, MOST):
            yield row | {"what": f"{row['what']} × {steps:,} steps, scan, unroll {unroll}"}


def levels_pallas(quick: bool) -> Iterator[Row]:
    """Time the level sweep as kernels, which a CPU can only interpret, at a small size."""
    from experiments.levels import kernels

    on_cpu = jax.default_backend() == "cpu"
    most, steps, word = (4, 100, "interpret") if on_cpu else (MOST, 30_000, "pallas")

    def run(model_level, data_level, seed):
        decays, key = (
            nj.nested_decays(model_level, decay=0.95, max_levels=most),
            jax.random.key(seed),
        )
        levels = {"data_levels": data_level, "max_data_levels": most}
        found = kernels.regression_rollout(
            decays, 0.01, key, steps, **levels, warmup=steps // 10, implementation=word
        )
        return {"loss": found.mean_loss}

    for row in _levels(run, (1,) if quick else (1, 10, 100), most):
        yield row | {"what": f"{row['what']} × {steps:,} steps, {word}"}


def _levels(run: Callable[..., Any], numbers_of_seeds: tuple[int, ...], most: int) -> Iterator[Row]:
    """Yield the times of a level sweep at several numbers of seeds."""
    levels = range(1, most + 1)
    for seeds in numbers_of_seeds:
        grid = nj.Grid(model_level=levels, data_level=levels, seed=range(seeds))
        times = _times_of_sweep(lambda grid=grid: nj.sweep(run, grid, progress=False))
        yield {"what": f"levels, {grid.size:,} runs", **times}


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
    "levels_scan": levels_scan,
    "levels_pallas": levels_pallas,
    "heatmap": heatmap,
    "update_step": update_step,
}


def main() -> None:
    """Measure a part and append each row to the file at once."""
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
