"""Optuna with batches of 32 against Optuna that calls one jitted function at a time, in one run.

The command: `python -m benchmarks.optuna_batches`.

Both draw the same points with a random sampler and must come to the same losses. The run is that of
README's example. The first calls compile; later calls take turns, and the minimum counts. The goal
is a batch that is at least 8 times as fast.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import rich.console
import rich.table

import nested_jax as nj
from benchmarks import _report

OURS, SINGLE = "batches, nested_jax.sweeps.optuna", "one jitted call at a time"
RTOL = 1e-3  # Roundings of float32, which grow over the steps of a run near the limit of stability.
GOAL = 1 / 8
LOW, HIGH, LEVELS = 1e-4, 0.02, 8


@dataclasses.dataclass(frozen=True)
class Config:
    """Time an Optuna study in batches against one jitted call at a time."""

    trials: int = 128
    """Trials of a study."""
    batch: int = 32
    """Trials of a batch."""
    steps: int = 30_000
    """Steps of each run."""
    repeats: int = 3
    """Later calls of each, of which the minimum counts."""
    out: Path | None = None
    """JSON file to write the times to."""


def main(config: Config) -> None:
    """Run both in turn and print the table."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    peers = _peers(config)
    first: dict[str, float] = {}
    later: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(1 + config.repeats):
        losses = {}
        for name, peer in peers.items():
            started = time.perf_counter()
            losses[name] = peer()
            seconds = time.perf_counter() - started
            if number:
                later[name].append(seconds)
            else:
                first[name] = seconds
        np.testing.assert_allclose(losses[OURS], losses[SINGLE], rtol=RTOL)
    _show(config, first, later)
    ratios = {
        f"first call, {OURS} / {SINGLE}": first[OURS] / first[SINGLE],
        f"later, {OURS} / {SINGLE}": min(later[OURS]) / min(later[SINGLE]),
    }
    goals = dict.fromkeys([*ratios][1:], GOAL)
    times = {"first call": first, "later": later}
    _report.finish(config, _report.record(config, ratios, goals, times))


def _peers(config: Config) -> dict[str, Callable[[], np.ndarray]]:
    import optuna
    from optuna.distributions import FloatDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def run(learning_rate, levels):
        tx = nj.nested_momentum(learning_rate, levels=levels, max_levels=LEVELS)
        problem = nj.drifting_regression(dim=10, data_levels=3)
        trace = nj.rollout(tx, problem, jax.random.key(0), config.steps, warmup=300)
        return {"loss": trace.mean_loss}

    jitted = jax.jit(run)
    space = {
        "learning_rate": FloatDistribution(LOW, HIGH, log=True),
        "levels": IntDistribution(1, 4),
    }

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", LOW, HIGH, log=True)
        return float(jitted(rate, trial.suggest_int("levels", 1, 4))["loss"])

    def study() -> optuna.Study:
        return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def values(done: optuna.Study) -> np.ndarray:
        return np.asarray([trial.value for trial in done.trials], float)

    def batches() -> np.ndarray:
        own = study()
        options = {"metric": "loss", "trials": config.trials, "batch": config.batch}
        nj.sweeps.optuna.optimize(own, run, space, **options)
        return values(own)

    def single() -> np.ndarray:
        own = study()
        own.optimize(objective, n_trials=config.trials)
        return values(own)

    return {OURS: batches, SINGLE: single}


def _show(config: Config, first: dict[str, float], later: dict[str, list[float]]) -> None:
    title = f"{config.trials} trials × {config.steps} steps, float32; {_report.machine()}"
    table = rich.table.Table(title=title)
    table.add_column("Optuna with")
    for name in ("first call s", "ratio", "later s (min)", "ratio"):
        table.add_column(name, justify="right")
    for name in first:
        least = min(later[name])
        row = [f"{first[name]:.2f}", f"{first[name] / first[OURS]:.1f}"]
        table.add_row(name, *row, f"{least:.2f}", f"{least / min(later[OURS]):.1f}")
    rich.console.Console(width=110).print(table)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
