"""The numbers that answer the questions, from the measured and predicted datasets."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.lab.figures import interval
from experiments.stability.config import Config
from experiments.stability.schemes import FIXED, TUNED

MODEL_INIT_STD = 2.0
"""Standard deviation of the model's initial weights."""
FORGOTTEN = 0.01
"""Largest share of a stationary loss that the untrained model's may have in a mean loss."""


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: Along the other axes.
        half_width: Half the width of its 95 % t interval.
    """

    mean: xr.DataArray
    half_width: xr.DataArray


def estimate(values: xr.DataArray) -> Estimate:
    """Return the mean over seeds and half the width of its 95 % t interval."""
    values = values.transpose("seed", ...)
    rest = values.isel(seed=0, drop=True)
    mean, half_width = (rest.copy(data=part) for part in interval(values.values))
    return Estimate(mean, half_width)


def initial_loss(config: Config) -> float:
    """Return the expected loss of the untrained model, |w - W|^2 + noise."""
    return MODEL_INIT_STD**2 * (config.dim + 1) + config.dim + config.noise_std**2


def diverged(config: Config, losses: xr.Dataset) -> xr.DataArray:
    """Return which runs ended worse than they began."""
    return ~(losses.loss <= initial_loss(config))  # Not `>`, which is false for NaN.


def growth_bounds(growth: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the predicted growth per step of ln loss: of the mean and of the mean square."""
    bounds = growth.mean_growth, growth.mean_square_growth
    # Where eigenvalues are too ill-conditioned to be separated, there is no number.
    mean, mean_square = (2 * bound.where(np.isfinite(bound)) for bound in bounds)
    return mean, mean_square


def measured_growth(growth: xr.Dataset) -> Estimate:
    """Return the measured growth per step of ln loss, without drift and noise."""
    return estimate(2 * growth.growth)


def first_unstable(growth: xr.Dataset, name: str = "mean_square_growth") -> int | None:
    """Return the first level count of equal decays whose predicted growth is positive."""
    grows = growth[name].sel(scheme="equal") > 0
    return int(growth.model_level.values[grows.values.argmax()]) if grows.any() else None


def crossings(growth: xr.DataArray) -> xr.DataArray:
    """Return the rate at which measured growth turns positive, NaN where it never does.

    Between two rates it is interpolated, on their logarithms.
    """
    growth = growth.transpose(..., "rate")
    rates, values = np.log(growth.rate.values), growth.values
    above = ~(values < 0)
    first = np.where(above.any(-1), above.argmax(-1), 0)
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(values, i[..., None], -1)[..., 0] for i in (first, before))
    share = np.divide(-low, high - low, out=np.full(low.shape, np.nan), where=first > 0)
    crossing = rates[before] + share * (rates[first] - rates[before])
    return growth.isel(rate=0, drop=True).copy(data=np.exp(crossing))


def deviations(config: Config, growth: xr.Dataset, losses: xr.Dataset) -> xr.DataArray:
    """Return (measured - predicted) / standard error of the stationary losses that runs reach.

    The untrained model's loss fades with the mean square's growth. A stationary loss is reached if
    at most `FORGOTTEN` of it is left in the mean loss; the others are NaN.
    """
    losses = losses.sel(scheme=[*FIXED])
    predicted = losses.predicted_loss
    error = losses.loss.std("seed", ddof=1) / np.sqrt(losses.sizes["seed"])
    rate = growth_bounds(growth)[1]
    counted = config.steps - config.warmup
    share = np.exp(rate * config.warmup) * -np.expm1(rate * counted) / (-rate * counted)
    # Where growth has no number, the loss counts as reached.
    reached = ~(initial_loss(config) * share > FORGOTTEN * predicted) & np.isfinite(predicted)
    return ((losses.loss.mean("seed") - predicted) / error).where(reached)


def tested(config: Config, losses: xr.Dataset) -> dict[str, "Hypothesis"]:
    """Return the hypothesis for the schemes in which every run converged."""
    bad = diverged(config, losses).any(("seed", "model_level", "data_level"))
    names = [name for name in ("matched", *TUNED) if not bad.sel(scheme=name)]
    return {name: hypothesis(losses.loss.sel(scheme=name)) for name in names}


class Hypothesis(NamedTuple):
    """How losses compare with "smallest where model and data have the same number of levels".

    Attributes:
        best: Level count with the smallest mean ln loss, by data level.
        cost: By data level, ln(loss with as many levels as the data / loss with the level count
            that was best on the first half of the seeds), on the other half.
        mean_cost: The same, its mean over data levels.
        dip: ln loss with as many levels as the data, less its mean with one fewer and one more.
        by_offset: By model levels minus data levels, mean ln loss relative to its mean over model
            levels.
    """

    best: xr.DataArray
    cost: Estimate
    mean_cost: Estimate
    dip: Estimate
    by_offset: Estimate


def hypothesis(loss: xr.DataArray) -> Hypothesis:
    """Compare losses over seed, model_level and data_level with the hypothesis."""
    loss = loss.transpose("seed", "model_level", "data_level")
    logs = np.log(loss.values)
    models, data = loss.model_level.values, loss.data_level.values
    half = len(logs) // 2
    chosen = logs[:half].mean(0).argmin(0)
    both = np.intersect1d(models, data)  # Both count from 1.
    rest = logs[half:]
    cost = [rest[:, d - 1, d - 1] - rest[:, chosen[d - 1], d - 1] for d in both]
    cost = xr.DataArray(np.array(cost), {"data_level": both}, ["data_level", "seed"])

    # Those with a neighbour on either side.
    inner = [d - 1 for d in both if 1 < d < models[-1]]
    dips = [logs[:, i, i] - (logs[:, i - 1, i] + logs[:, i + 1, i]) / 2 for i in inner]
    dip = np.mean(dips, axis=0) if dips else np.full(len(logs), np.nan)

    offset = models[:, None] - data
    offsets = np.unique(offset)
    centred = logs - logs.mean(1, keepdims=True)
    by_offset = [centred[:, offset == x].mean(1) for x in offsets]
    by_offset = xr.DataArray(np.array(by_offset), {"offset": offsets}, ["offset", "seed"])
    return Hypothesis(
        xr.DataArray(models[logs.mean(0).argmin(0)], {"data_level": data}, ["data_level"]),
        estimate(cost),
        estimate(cost.mean("data_level")),
        estimate(xr.DataArray(dip, dims=["seed"])),
        estimate(by_offset),
    )
