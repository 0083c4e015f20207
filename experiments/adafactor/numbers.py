"""Numbers of the Adafactor experiment: what a factored moment loses, and losses at best caps."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.special import kl_div


def rows_and_columns(moment: np.ndarray) -> np.ndarray:
    """Return R Cᵀ / ΣV with the sums R of rows and C of columns, Adafactor's second moment.

    It is the rank-one matrix of least generalized KL divergence, as its derivatives by R and C are
    0: row and column sums are those of V.
    """
    return np.outer(moment.sum(1), moment.sum(0)) / moment.sum()


def singular(moment: np.ndarray) -> np.ndarray:
    """Return the rank-one matrix of least squared error, from the largest singular value."""
    left, values, right = np.linalg.svd(moment, full_matrices=False)
    # Both vectors of a non-negative matrix have one sign.
    return values[0] * np.abs(np.outer(left[:, 0], right[0]))


def rows(moment: np.ndarray) -> np.ndarray:
    """Return the means of rows, the best matrix of equal columns."""
    return np.broadcast_to(moment.mean(1, keepdims=True), moment.shape)


def columns(moment: np.ndarray) -> np.ndarray:
    """Return the means of columns, the best matrix of equal rows."""
    return np.broadcast_to(moment.mean(0, keepdims=True), moment.shape)


APPROXIMATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows × columns": rows_and_columns,
    "singular values": singular,
    "rows alone": rows,
    "columns alone": columns,
}
"""Approximations of a second moment V, with a row for each input of a layer."""


def divergence(moment: np.ndarray, approximation: np.ndarray) -> float:
    """Return the generalized KL divergence Σ V log(V/V̂) − V + V̂, divided by ΣV."""
    return float(kl_div(moment, approximation).sum() / moment.sum())


def divergences(moments: xr.Dataset) -> xr.DataArray:
    """Return the divergence of each approximation over seeds, layers and approximations."""
    table = [
        [[divergence(moment, near(moment)) for near in APPROXIMATIONS.values()] for moment in layer]
        for layer in (moments[name].transpose("seed", ...).values for name in moments)
    ]
    layers = [str(name) for name in moments]
    coordinates = {"layer": layers, "approximation": [*APPROXIMATIONS]}
    found = xr.DataArray(table, coordinates, ("layer", "seed", "approximation"))
    return found.transpose("seed", ...)


def best_cap(losses: xr.DataArray) -> float:
    """Return the cap of least geometric mean loss over the seeds; a diverged run is never best."""
    return float(losses.cap[_logs(losses).mean(1).argmin()])


def at_best_cap(losses: xr.DataArray) -> np.ndarray:
    """Return the loss of each seed at the cap that is best for the other seeds.

    The seed itself does not choose: the least of noisy losses would be too small.
    """
    logs = _logs(losses)
    chosen = [np.delete(logs, seed, 1).mean(1).argmin() for seed in range(logs.shape[1])]
    return np.exp(logs[chosen, range(logs.shape[1])])


def _logs(losses: xr.DataArray) -> np.ndarray:
    logs = np.log(losses.transpose("cap", "seed").values)
    return np.where(np.isfinite(logs), logs, np.inf)
