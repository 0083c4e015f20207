"""The runs of the tracking experiment: tuned methods and filters on drift, and real series."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab
from experiments.lab.tuning import Method, tuned, values
from experiments.tracking import streams
from experiments.tracking.compared import METHODS
from experiments.tracking.config import Config
from experiments.tracking.methods import kalman_filter
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

BOUND_STEPS = 20_000
"""Inputs over which the bound is averaged: it is then known to about 0.3 %."""


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Tune each method on some seeds and run it on others, beside filters and the bound.

    Returns:
        "references": `bound` and `zero` by data_level, the best possible loss and that of always
        answering 0. "methods": `loss` over optimizer, seed and data_level, and `at`, the chosen
        point of the unit cube of the method's hyperparameters. "filters": `loss` over
        assumed_level, seed and data_level. "streams": as of `streams.simulate`.
    """
    keys = jax.random.split(jax.random.key(config.seed), 3)
    references = _references(config, lab, keys[0])
    chosen = {name: _tuned(config, lab, keys[1], name) for name in METHODS}
    return {
        "references": references,
        "methods": _methods(config, lab, keys[2], chosen),
        "filters": _filters(config, lab, keys[2]),
        "streams": streams.simulate(config, lab),
    }


def _references(config: Config, lab: Lab, key: jax.Array) -> "xr.Dataset":
    """Return the best possible loss, and that of always answering 0."""
    import xarray as xr

    lab.begin("bound")
    levels = np.arange(1, config.data_levels + 1)
    steps = {"key": key, "steps": BOUND_STEPS, "warmup": min(config.warmup, BOUND_STEPS // 2)}
    drift = config.decay, config.noise_std
    found = {
        "bound": [theory.tracking_bound(config.dim, int(d), *drift, **steps) for d in levels],
        "zero": [theory.predict_zero_loss(config.dim, d, *drift) for d in levels],
    }
    variables = {name: ("data_level", np.asarray(x)) for name, x in found.items()}
    return xr.Dataset(variables, {"data_level": levels})


def _tuned(config: Config, lab: Lab, key: jax.Array, name: str) -> np.ndarray:
    """Return the best tried point of a method's unit cube by data level.

    The smallest mean loss over the tuning seeds decides. A run that overflows loses.
    """
    method = METHODS[name]
    grid = nj.Grid(
        trial=range(config.trials),
        data_level=range(1, config.data_levels + 1),
        seed=range(config.tuning_seeds),
    )

    def losses(turn, points):
        run = _function(config, method, key, values(method, points))
        found = lab.sweep("tuning", run, grid, piece=f"{name}_{turn + 1}")
        return found.loss.mean("seed", skipna=False).transpose("trial", "data_level").values

    size = {"cases": config.data_levels, "count": config.trials, "rounds": config.rounds}
    return tuned(method, losses, **size)


def _methods(
    config: Config, lab: Lab, key: jax.Array, chosen: dict[str, np.ndarray]
) -> "xr.Dataset":
    """Run each method with its chosen hyperparameters on the reported seeds."""
    import xarray as xr

    found: list[xr.Dataset] = []
    for name, method in METHODS.items():
        run = _function(config, method, key, values(method, chosen[name][None]))
        losses = lab.sweep("methods", run, _reported(config, trial=[0]), piece=name)
        at = np.full((config.data_levels, 4), np.nan)
        at[:, : chosen[name].shape[1]] = chosen[name]
        losses = losses.isel(trial=0, drop=True).assign(at=(("data_level", "hyperparameter"), at))
        found.append(losses.assign_coords(optimizer=name))
    return xr.concat(found, "optimizer", combine_attrs="drop")


def _filters(config: Config, lab: Lab, key: jax.Array) -> "xr.Dataset":
    """Run the Kalman filters that assume 1, 2, ... levels, on the seeds of the methods."""
    import xarray as xr

    found: list[xr.Dataset] = []
    for m in range(1, config.data_levels + 1):

        def run(key, *, data_level, seed, m=m):
            tx = kalman_filter(m, decay=config.decay, noise_std=config.noise_std)
            return _loss(config, tx, jax.random.fold_in(key, seed), data_level)

        losses = lab.sweep("filters", Partial(run, key), _reported(config), piece=str(m))
        found.append(losses.assign_coords(assumed_level=m))
    return xr.concat(found, "assumed_level", combine_attrs="drop")


def _reported(config: Config, **axes: Any) -> nj.Grid:
    levels = range(1, config.data_levels + 1)
    return nj.Grid(**axes, data_level=levels, seed=range(config.seeds))


def _function(config: Config, method: Method, key: jax.Array, table: dict[str, Any]) -> Partial:
    """Return a function of trial, data_level and seed; `table` has these axes but the seed."""

    def run(key, table, *, trial, data_level, seed):
        tx = method.make(**{name: x[trial, data_level - 1] for name, x in table.items()})
        return _loss(config, tx, jax.random.fold_in(key, seed), data_level)

    return Partial(run, key, jax.tree.map(jnp.asarray, table))


def _loss(config: Config, tx: Any, key: jax.Array, data_level: Any) -> dict[str, jax.Array]:
    problem = nj.drifting_regression(
        config.dim,
        data_levels=data_level,
        decay=config.decay,
        noise_std=config.noise_std,
        max_levels=config.data_levels,
    )
    return {"loss": nj.rollout(tx, problem, key, config.steps, warmup=config.warmup).mean_loss}
