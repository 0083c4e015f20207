"""What the report's sentences and figures are computed from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments.lab.tuning import values
from experiments.tracking.compared import METHODS

ALIKE = 1.01
"""Methods whose mean multiples differ by less than this ratio share a rank: tuning is not finer."""


def multiples(results: dict[str, xr.Dataset]) -> xr.DataArray:
    """Return the loss of each method as a multiple of the bound, by optimizer, seed, data_level."""
    return results["methods"].loss / results["references"].bound


def order(results: dict[str, xr.Dataset]) -> list[str]:
    """Return the methods from the closest to the bound on, by `mean_multiples`."""
    mean = mean_multiples(results).fillna(np.inf)
    return [str(name) for name in mean.sortby(mean).optimizer.values]


def mean_multiples(results: dict[str, xr.Dataset]) -> xr.DataArray:
    """Return the multiple of each method: the mean over seeds, geometric over data levels."""
    by_level = multiples(results).mean("seed", skipna=False)
    logs = by_level.copy(data=np.log(by_level.values)).mean("data_level", skipna=False)
    return logs.copy(data=np.exp(logs.values))


def alike(results: dict[str, xr.Dataset], names: Sequence[str]) -> list[str]:
    """Return those of `names` that are within `ALIKE` of the first, in their order."""
    mean = mean_multiples(results)
    best = mean.sel(optimizer=names[0])
    return [name for name in names if float(mean.sel(optimizer=name) / best) <= ALIKE]


def span(results: dict[str, xr.Dataset], name: str) -> str:
    """Return the smallest and largest mean multiple of a method over the data levels."""
    mean = multiples(results).sel(optimizer=name).mean("seed", skipna=False).values
    if not np.isfinite(mean).all():
        return "diverges on some runs"
    low, high = f"{mean.min():.2f}", f"{mean.max():.2f}"
    return f"{low} times" if low == high else f"{low} to {high} times"


def penalties(results: dict[str, xr.Dataset]) -> xr.DataArray:
    """Return the loss of each filter over the smallest of its data level."""
    mean = results["filters"].loss.mean("seed", skipna=False)
    return mean / mean.min("assumed_level")


def against(results: dict[str, xr.Dataset], name: str, other: str) -> xr.DataArray:
    """Return the loss of one method over that of another on the same runs."""
    loss = results["methods"].loss
    return loss.sel(optimizer=name) / loss.sel(optimizer=other)


def chosen(results: dict[str, xr.Dataset], name: str) -> dict[str, Any]:
    """Return the tuned hyperparameters of a method by data level."""
    method = METHODS[name]
    at = results["methods"].at.sel(optimizer=name).transpose("data_level", "hyperparameter").values
    found = values(method, at[:, : len(method.tuned)])
    return {name: found[name] for name in method.tuned}
