"""What the stored results of the stability experiment say, in numbers."""

import json
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

LEVEL = 0.95
"""Confidence level of all intervals."""
MODEL_INIT_STD = 2.0
"""Standard deviation of the model's initial weights."""
FORGOTTEN = 0.01
"""Share of a stationary loss that the untrained model's may have in a mean after warm-up."""


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: Along the other axes.
        half_width: Of its t interval.
    """

    mean: xr.DataArray
    half_width: xr.DataArray


def estimate(values: xr.DataArray, dim: str = "seed") -> Estimate:
    """Return the mean over seeds and half the width of its 95 % t interval."""
    n = values.sizes[dim]
    error = values.std(dim, ddof=1, skipna=False) / np.sqrt(n)
    return Estimate(values.mean(dim, skipna=False), stdtrit(n - 1, 0.5 + LEVEL / 2) * error)


def config(results: xr.Dataset) -> dict[str, Any]:
    """Return the options that the results were made with."""
    return json.loads(results.attrs["config"])


def initial_loss(results: xr.Dataset) -> float:
    """Return the expected loss of the untrained model, |w - W|^2 + noise."""
    options = config(results)
    model = MODEL_INIT_STD**2 * (options["dim"] + 1)
    return model + options["dim"] + options["noise_std"] ** 2


def diverged(results: xr.Dataset) -> xr.DataArray:
    """Tell which runs ended worse than they began."""
    return ~(results.loss <= initial_loss(results))  # Not `>`, which is false for NaN.


def growth_bounds(results: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the predicted growth of the mean and of the mean square, of ln loss a step."""
    bounds = results.mean_growth, results.mean_square_growth
    # Where eigenvalues are too ill-conditioned to be told apart, there is no number.
    mean, mean_square = (2 * bound.where(np.isfinite(bound)) for bound in bounds)
    return mean, mean_square


def measured_growth(results: xr.Dataset) -> Estimate:
    """Return the measured growth of ln loss a step, without drift and noise."""
    return estimate(2 * results.growth)


def thresholds(results: xr.Dataset) -> xr.DataArray:
    """Return the rate at which measured growth turns positive, NaN where it never does.

    Between two rates it is interpolated, on their logarithms.
    """
    growth = results.probed_growth.transpose(..., "probe")
    rates = np.log(results.probe.values)
    values = growth.values
    above = ~(values < 0)
    first = np.where(above.any(-1), above.argmax(-1), 0)
    high = np.take_along_axis(values, first[..., None], -1)[..., 0]
    low = np.take_along_axis(values, np.maximum(first - 1, 0)[..., None], -1)[..., 0]
    share = np.divide(-low, high - low, out=np.full(low.shape, np.nan), where=first > 0)
    crossing = rates[np.maximum(first - 1, 0)] + share * (rates[first] - rates[first - 1])
    return growth.isel(probe=0, drop=True).copy(data=np.exp(crossing))


def deviations(results: xr.Dataset) -> xr.DataArray:
    """Return (measured - predicted) / standard error of the stationary losses that are reached.

    Of those that exist, some are not reached within the warm-up: the untrained model's loss fades
    with the mean square's growth, and must have faded to `FORGOTTEN` of the stationary one.
    """
    loss = results.loss.sel(scheme=results.fixed.values)
    error = loss.std("seed", ddof=1) / np.sqrt(loss.sizes["seed"])
    predicted = results.predicted_loss.sel(scheme=results.fixed.values)
    options, growth = config(results), growth_bounds(results)[1].rename(fixed="scheme")
    counted = options["steps"] - options["warmup"]
    share = np.exp(growth * options["warmup"]) * -np.expm1(growth * counted) / (-growth * counted)
    # Where there is no growth to be told, the loss is taken to be reached.
    reached = ~(initial_loss(results) * share > FORGOTTEN * predicted) & np.isfinite(predicted)
    return ((loss.mean("seed") - predicted) / error).where(reached)


def first_unstable(results: xr.Dataset, name: str = "mean_square_growth") -> int | None:
    """Return the first level count of equal decays whose predicted growth is positive."""
    grows = results[name].sel(fixed="equal") > 0
    return int(results.model_level.values[grows.values.argmax()]) if grows.any() else None


class Hypothesis(NamedTuple):
    """How a scheme's losses stand to: "smallest where model and data have the same levels".

    Attributes:
        best: Level count with the smallest mean ln loss, by data level.
        cost: By data level, ln(loss with as many levels as the data / loss with the level count
            that was best on the first half of the seeds), on the other half.
        mean_cost: The same, its mean over data levels.
        dip: ln loss with as many levels as the data, less its mean with one fewer and one more.
        by_offset: Mean ln loss of all pairs whose model has so many levels more than the data,
            each against the mean over model levels.
    """

    best: xr.DataArray
    cost: Estimate
    mean_cost: Estimate
    dip: Estimate
    by_offset: Estimate


def hypothesis(loss: xr.DataArray) -> Hypothesis:
    """Hold losses over seed, model_level and data_level against the hypothesis."""
    loss = loss.transpose("seed", "model_level", "data_level")
    logs = np.log(loss.values)
    models, data = loss.model_level.values, loss.data_level.values
    half = len(logs) // 2
    chosen = logs[:half].mean(0).argmin(0)
    both = np.intersect1d(models, data)  # Both count from 1.
    rest = logs[half:]
    cost = [rest[:, d - 1, d - 1] - rest[:, chosen[d - 1], d - 1] for d in both]
    cost = xr.DataArray(np.array(cost), {"data_level": both}, ["data_level", "seed"])

    # Those that have a neighbour on either side.
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
