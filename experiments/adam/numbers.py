"""Theory and statistics: what steps and ratios should be, and what becomes of the regret."""

from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import norm

from experiments.adam.tools import B1, B2
from experiments.lab.figures import interval, slope

FALLS = -0.1
"""The mean regret R(T)/T counts as vanishing if it falls at least as fast as this power of T."""


def bound(b1: Any, b2: Any, t: Any = np.inf, *, growing: bool = True) -> Any:
    """Return the largest step / learning rate of t growing gradients, or of one after t - 1 zeros.

    No t gradients make a larger step than growing ones.
    """
    ratio = b1**2 / b2
    terms = (1 - ratio**t) / (1 - ratio) if growing else 1.0
    gain = np.sqrt(1 - b2**t) / (1 - b1**t)
    return gain * (1 - b1) / np.sqrt(1 - b2) * np.sqrt(terms)


def noise_ratio(mean: float, swing: float, noise: float, b1: Any) -> Any:
    """Return the late mean of |m| / sqrt(v) on a stream of gradients, for b2 near 1."""
    if swing:
        return (1 - b1) / (1 + b1)
    if not noise:
        return np.ones_like(b1)
    spread = noise * np.sqrt((1 - b1) / (1 + b1))
    folded = 2 * spread * norm.pdf(mean / spread) + mean * (1 - 2 * norm.cdf(-mean / spread))
    return folded / np.sqrt(mean**2 + noise**2)


def late_ratio(signal: xr.Dataset) -> xr.DataArray:
    """Return the ratio's mean over the last six of the reported times."""
    late = signal.ratio.isel(t=slice(-6, None)).mean("t")
    return late.transpose("seed", "stream", "b1")


def game_times(runs: xr.Dataset) -> np.ndarray:
    """Return the steps at which a counterexample was reported; its `t` counts windows."""
    windows = runs.t.values
    return windows * (int(runs.steps) // int(windows[-1]))


def lately(t: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the mean regret per step over the last nine tenths of the run."""
    tenth = np.searchsorted(t, t[-1] / 10)
    return (t[-1] * runs[:, -1] - t[tenth] * runs[:, tenth]) / (t[-1] - t[tenth])


def exponents(t: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the slope of log R(T)/T on log T over the last decade, of the seeds with R > 0."""
    decade = t >= t[-1] / 10
    slopes = slope(t[decade], runs[:, decade])
    return slopes[np.isfinite(slopes)]


def vanishes(slopes: np.ndarray) -> bool:
    """Return whether R(T)/T vanishes: the interval of its exponent is below `FALLS`."""
    mean, half = interval(slopes)
    return bool(mean + half < FALLS)


def chosen(results: xr.Dataset) -> xr.DataArray:
    """Return the learning rate of least mean regret on the tuning seeds, by game and method."""
    seeds = slice(0, results.attrs["tuning_seeds"])
    tuning = results.regret.isel(seed=seeds).isel(t=-1, drop=True)
    return tuning.mean("seed").fillna(np.inf).idxmin("learning_rate")


def reported(results: xr.Dataset) -> xr.DataArray:
    """Return the regret on the seeds that chose no learning rate."""
    regret = results.regret.isel(seed=slice(results.attrs["tuning_seeds"], None))
    return regret.transpose("seed", "game", "optimizer", "learning_rate", "t")


def jump(t: Any) -> Any:
    """Return by how much a constant gradient's step t grows if its bias is not corrected."""
    return (1 - B1**t) / np.sqrt(1 - B2**t)


def small_from(share: float) -> int:
    """Return the first step from which 1 / √(1 − β₂ᵗ) is at most 1 + `share`."""
    return int(np.ceil(np.log(1 - (1 + share) ** -2.0) / np.log(B2)))


def tuned(results: xr.Dataset) -> xr.Dataset:
    """Return the ladder's runs on the seeds for the report, at the rates that the others chose.

    Each method has the rate of least geometric mean of its last loss, in `rate`.
    """
    losses = results["last"].isel(seed=slice(0, results.attrs["tuning_seeds"]))
    # A diverged run is never best.
    logs = losses.copy(data=np.log(losses.values)).fillna(np.inf)
    best = logs.mean("seed").idxmin("learning_rate")
    found = results.sel(learning_rate=best).isel(seed=slice(results.attrs["tuning_seeds"], None))
    return found.drop_vars("learning_rate").assign(rate=best).transpose("seed", "optimizer", ...)


def steps_to(losses: np.ndarray, t: np.ndarray, target: float) -> np.ndarray:
    """Return the first of the steps t at which each run's loss is at most `target`, else inf."""
    reached = losses <= target
    return np.where(reached.any(-1), np.asarray(t, float)[reached.argmax(-1)], np.inf)
