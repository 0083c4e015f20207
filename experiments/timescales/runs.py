"""The runs of the experiment on time scales: each method tuned and reported on each task."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab
from experiments.lab.tuning import Method, tuned, values
from experiments.timescales import gauge
from experiments.timescales.config import Config
from experiments.timescales.methods import compared
from experiments.timescales.tasks import DRIFT, Task, tasks
from experiments.timescales.text import load
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

BOUND_STEPS = 20_000
"""Inputs over which the bound is averaged: it is then known to about 0.3 %."""


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Tune each method on some seeds of each task and run it on others; read the gauge.

    Returns:
        "drift", "quadratics", "language": `loss` over optimizer, case and seed, and `at`, the
        chosen point of the unit cube of the method's hyperparameters; drift also has the tracking
        `bound` by case. "gauge": as of `gauge.simulate`.
    """
    text = load(config.text, config.context)
    bound, tuning, reported = jax.random.split(jax.random.key(config.seed), 3)
    keys = {"tuning": tuning, "reported": reported}
    bounds = _bounds(config, lab, bound)
    found = tasks(config, text)
    results = {name: _compared(config, lab, name, task, keys) for name, task in found.items()}
    results["drift"] = results["drift"].assign(bound=("case", bounds))
    chosen = {name: _chosen(results["language"], name) for name in gauge.GAUGED}
    results["language"].attrs["origin"] = text.origin
    readings = gauge.simulate(config, lab, text, found["language"], reported, chosen)
    return results | {"gauge": readings}


def _bounds(config: Config, lab: Lab, key: jax.Array) -> np.ndarray:
    lab.begin("bound")
    steps = {"key": key, "steps": BOUND_STEPS, "warmup": config.drift_steps // 4}
    dim, *drift = DRIFT.values()
    levels = range(1, config.data_levels + 1)
    return np.asarray([theory.tracking_bound(int(dim), d, *drift, **steps) for d in levels])


def _compared(
    config: Config, lab: Lab, name: str, task: Task, keys: dict[str, jax.Array]
) -> "xr.Dataset":
    """Tune all methods on a task, and run them on the reported seeds."""
    import xarray as xr

    found = []
    cases = range(len(task.cases))
    for each, method in compared(name).items():
        run = _function(task, method)
        grid = nj.Grid(trial=range(config.trials), case=cases, seed=range(task.tuning_seeds))

        def losses(turn: int, points: np.ndarray, each=each, run=run, grid=grid) -> np.ndarray:
            bound = run(keys["tuning"], points)
            tried = lab.sweep(name, bound, grid, piece=f"{each}_{turn + 1}")
            return tried.score.mean("seed", skipna=False).transpose("trial", "case").values

        size = {"cases": len(cases), "count": config.trials, "rounds": config.rounds}
        best = tuned(method, losses, **size)
        # As many rows as in tuning, so that JAX has traced the function already.
        bound = run(keys["reported"], np.repeat(best[None], config.trials, 0))
        grid = nj.Grid(trial=[0], case=cases, seed=range(task.seeds))
        loss = lab.sweep(name, bound, grid, piece=each).loss.isel(trial=0, drop=True)
        at = np.full((len(cases), 4), np.nan)
        at[:, : best.shape[1]] = best
        kept = xr.Dataset({"loss": loss, "at": (("case", "hyperparameter"), at)})
        found.append(kept.assign_coords(optimizer=each))
    joined = xr.concat(found, "optimizer", combine_attrs="drop")
    return joined.assign_coords(case=[*task.cases])


def _function(task: Task, method: Method) -> Callable[[jax.Array, np.ndarray], Partial]:
    """Return what binds a key and points to a function of trial, case and seed.

    The points have the first two as their axes. The function is the same each time: JAX traces it
    once.
    """

    def run(data: Any, key: Any, table: Any, *, trial: Any, case: Any, seed: Any) -> Any:
        tx = method.make(**{name: x[trial, case] for name, x in table.items()})
        return task.run(data, tx, jax.random.fold_in(key, seed), case)

    def bound(key: jax.Array, points: np.ndarray) -> Partial:
        table = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values(method, points))
        return Partial(run, task.data, key, table)

    return bound


def _chosen(results: "xr.Dataset", name: str) -> dict[str, float]:
    """Return the tuned hyperparameters of a method of the language model."""
    method = compared("language")[name]
    at = results["at"].sel(optimizer=name).values[0, : len(method.tuned)]
    return {one: float(x) for one, x in values(method, at).items()}
