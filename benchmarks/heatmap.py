"""A heatmap of 132 AdamW trainings against what one would otherwise write, side by side in one run.

The command: `python -m benchmarks.heatmap`.

The training is that of `examples/heatmap.py`: a network of one hidden layer on digits. Peers: a
loop that compiles every configuration, a loop over one jitted function of traced numbers, and
Optuna and Ray Tune driving that function, which are left out where they are not installed (`pip
install optuna "ray[tune]"`). All must come to the same losses. Every peer's first call starts
without compiled programs; later calls take turns, and the minimum counts. The loop that compiles
runs `compiled` configurations, and its time is scaled up.

About 2 minutes on 2 CPU cores. Expected: the sweep at least 5 times faster than the loop that
compiles, and ahead of all others, both in the first call and later.
"""

import dataclasses
import functools
import importlib.util
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import rich.console
import rich.table

import nested_jax as nj
from benchmarks import _report

OURS, OURS_ALONE = "nested_jax.sweep, all devices", "nested_jax.sweep, 1 device"
COMPILED = "a loop that compiles each, scaled"
# Roundings of float32 grow in 1,000 steps to 2e-4 of the loss at rates up to 1/64, to 2e-3 at 1/32,
# and above, where training is chaotic, to .4: there only the size of the loss can be compared.
RTOL, CHAOTIC_RTOL, CHAOTIC_RATE = 1e-3, 1.0, 1 / 32
RATES, DECAYS = nj.powers_of_two(-10, 0), nj.powers_of_two(-13, -2)
POINTS = [*itertools.product(RATES.tolist(), DECAYS.tolist())]


@dataclasses.dataclass(frozen=True)
class Config:
    """Time a heatmap of 132 trainings against loops, Optuna and Ray Tune."""

    steps: int = 1_000
    """Steps of each of the 132 trainings."""
    repeats: int = 3
    """Later calls of each peer, of which the minimum counts."""
    compiled: int = 4
    """Configurations that the loop that compiles each of them is timed on."""
    ray: bool = True
    """Whether to time Ray Tune, if it is installed."""
    out: Path | None = None
    """JSON file to write the times to."""


def main(config: Config) -> None:
    """Run all peers in turn and print the table."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    first: dict[str, float] = {}
    later: dict[str, list[float]] = {}
    reference = None
    with tempfile.TemporaryDirectory() as folder:
        peers = _peers(config, folder)
        for name, peer in itertools.chain(*[peers.items()] * (1 + config.repeats)):
            if name not in first:
                jax.clear_caches()
            started = time.perf_counter()
            losses, share = peer()
            seconds = (time.perf_counter() - started) / share
            if name in first:
                later.setdefault(name, []).append(seconds)
            else:
                first[name] = seconds
            reference = losses if reference is None else reference
            _compare(name, losses, reference[: losses.size])
    _show(config, first, later)
    _report.finish(config, _record(config, first, later))


def _compare(name: str, losses: np.ndarray, reference: np.ndarray) -> None:
    chaotic = np.asarray(POINTS)[: losses.size, 0] >= CHAOTIC_RATE
    allowed = np.where(chaotic, CHAOTIC_RTOL, RTOL)
    np.testing.assert_array_less(abs(losses / reference - 1), allowed, err_msg=name)


Peer = Callable[[], tuple[np.ndarray, float]]


def _peers(config: Config, folder: str) -> dict[str, Peer]:
    """Return name -> (() -> losses, and the share of the configurations that they are)."""
    # Not before: the example makes arrays, which settles the number of devices.
    from examples import heatmap

    grid = nj.Grid(learning_rate=RATES, weight_decay=DECAYS, seed=[0])
    run = functools.partial(heatmap.run, steps=config.steps)
    jitted = jax.jit(run)

    def sweep(devices):
        return nj.sweep(run, grid, devices=devices, progress=False).loss.values.ravel(), 1.0

    def one_jit():
        losses = [jitted(rate, decay, 0)["loss"] for rate, decay in POINTS]
        return np.asarray(jax.device_get(losses)), 1.0

    def compile_each():
        some = POINTS[: config.compiled]
        losses = [jax.jit(functools.partial(run, *point, 0))()["loss"] for point in some]
        return np.asarray(jax.device_get(losses)), len(some) / len(POINTS)

    peers: dict[str, Peer] = {
        OURS: lambda: sweep(None),
        OURS_ALONE: lambda: sweep(jax.devices()[:1]),
        "one jit of traced numbers, in a loop": one_jit,
        COMPILED: compile_each,
    }
    if importlib.util.find_spec("optuna"):
        peers["Optuna driving the one jit"] = lambda: (_optuna(jitted), 1.0)
    else:
        rich.print("Optuna is not installed and left out.")
    if config.ray and importlib.util.find_spec("ray") and importlib.util.find_spec("pyarrow"):
        peers["Ray Tune driving the one jit"] = lambda: (_ray(config, folder), 1.0)
    else:
        rich.print("Ray Tune is not installed, or not wanted, and left out.")
    return peers


def _optuna(jitted) -> np.ndarray:
    import optuna

    def objective(trial):
        rate = trial.suggest_float("rate", RATES[0], RATES[-1])
        decay = trial.suggest_float("decay", DECAYS[0], DECAYS[-1])
        return float(jitted(rate, decay, 0)["loss"])

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GridSampler({"rate": [*RATES], "decay": [*DECAYS]}, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=len(POINTS))
    losses = {(t.params["rate"], t.params["decay"]): t.value for t in study.trials}
    return np.asarray([losses[point] for point in POINTS])


def _ray(config: Config, folder: str) -> np.ndarray:
    import ray
    from ray import tune

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    tuner = tune.Tuner(
        functools.partial(_trial, steps=config.steps),
        param_space={"rate": tune.grid_search([*RATES]), "decay": tune.grid_search([*DECAYS])},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    metrics = [(result.config or {}, result.metrics or {}) for result in tuner.fit()]
    losses = {(point["rate"], point["decay"]): found["loss"] for point, found in metrics}
    return np.asarray([losses[point] for point in POINTS])


def _trial(point: dict[str, float], steps: int) -> dict[str, float]:
    from benchmarks import heatmap  # By its name, so that a worker compiles once.

    return {"loss": float(heatmap._jitted(steps)(point["rate"], point["decay"], 0)["loss"])}


@functools.cache
def _jitted(steps: int):
    from examples import heatmap

    return jax.jit(functools.partial(heatmap.run, steps=steps))


def _record(
    config: Config, first: dict[str, float], later: dict[str, list[float]]
) -> _report.Record:
    ratios = {}
    least = {name: min(taken) for name, taken in later.items()}
    for when, seconds in (("first call", first), ("later", least)):
        for name in seconds:
            if name not in (OURS, OURS_ALONE):
                ratios[f"{when}, {OURS} / {name}"] = seconds[OURS] / seconds[name]
    # Whatever one would write otherwise is not to be faster.
    goals = {name: 0.2 if COMPILED in name else 1.0 for name in ratios}
    return _report.record(config, ratios, goals, {"first call": first, "later": later})


def _show(config: Config, first: dict[str, float], later: dict[str, list[float]]) -> None:
    title = f"{len(POINTS)} trainings × {config.steps} steps, float32; {_report.machine()}"
    table = rich.table.Table(title=title)
    table.add_column("what")
    for name in ("first call s", "ratio", "later s (min)", "ratio"):
        table.add_column(name, justify="right")
    for name in sorted(first, key=lambda name: min(later.get(name, [first[name]]))):
        row = [f"{first[name]:.2f}", f"{first[name] / first[OURS]:.1f}"]
        if config.repeats:
            row += [f"{min(later[name]):.2f}", f"{min(later[name]) / min(later[OURS]):.1f}"]
        table.add_row(name, *row)
    rich.console.Console(width=110).print(table)


if __name__ == "__main__":
    import tyro  # Not above: `benchmarks.gpu`, which uses parts of this, does without.

    main(tyro.cli(Config))
