"""Real series, predicted one step ahead from their recent past: the losses add up as they come."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab
from experiments.lab.tuning import Method, Range, trials, values
from experiments.tracking.compared import METHODS
from experiments.tracking.config import Config
from experiments.tracking.methods import kalman_filter
from nested_jax.problems import RegressionBatch

if TYPE_CHECKING:
    import xarray as xr

LAGS = 12
"""The change to come is predicted from this many changes before, and a constant."""


class Series(NamedTuple):
    """A series that statsmodels ships.

    Attributes:
        label: What it is.
        load: Returns its values.
    """

    label: str
    load: Callable[[Any], np.ndarray]


def _months(data: Any) -> np.ndarray:
    """Return a table of a row a year and a column a month as one series."""
    return data.drop(columns="YEAR").to_numpy(float).ravel()


SERIES: Mapping[str, Series] = {
    "co2": Series(
        "CO₂ at Mauna Loa, weekly",
        lambda data: data.co2.interpolate().to_numpy(float),
    ),
    "elnino": Series("sea temperature, monthly", _months),
    "sunspots": Series("sunspots, yearly", lambda data: data.SUNACTIVITY.to_numpy(float)),
}


def _filter(levels: int) -> Callable[..., Any]:
    return lambda decay, noise_std: kalman_filter(levels, decay=decay, noise_std=noise_std)


FILTER = {"decay": Range(1e-4, 0.3, complement=True), "noise_std": Range(0.03, 3.0)}
COMPARED: Mapping[str, Method] = dict(METHODS) | {
    f"kalman_{m}": Method(
        f"Kalman filter, {m} level{'s' * (m > 1)}", _filter(m), FILTER, needs_inputs=True
    )
    for m in (1, 2)
}


def examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and targets of a series, in the order in which they come.

    The targets are its changes from one value to the next, divided by their root mean square over
    the first half, and the features are the `LAGS` changes before and 1. Their number is even.
    """
    import statsmodels.api

    series = SERIES[name].load(getattr(statsmodels.api.datasets, name).load_pandas().data)
    changes = np.diff(series)
    changes /= np.sqrt(np.mean(changes[: changes.size // 2] ** 2))
    past = np.lib.stride_tricks.sliding_window_view(changes[:-1], LAGS)[:, ::-1]
    even = len(past) // 2 * 2
    features = np.column_stack([past, np.ones(len(past))])
    return features[-even:], changes[-even:]


def simulate(config: Config, lab: Lab) -> "xr.Dataset":
    """Tune each method on the first half of each series, and report its loss on the second.

    Returns:
        `loss` over optimizer and series, divided by that of predicting no change: below 1, a method
        predicts something.
    """
    import xarray as xr

    found = [examples(name) for name in SERIES]
    sizes = np.asarray([target.size for _, target in found])
    # Zeros after the end add nothing to a loss, and all series have one program.
    features, targets = (
        np.stack([_padded(x, max(sizes)) for x in part]) for part in zip(*found, strict=True)
    )
    batches = RegressionBatch(jnp.asarray(features), jnp.asarray(targets))
    still = [np.mean(target[target.size // 2 :] ** 2) for _, target in found]
    losses = [_losses(config, lab, name, batches, sizes) for name in COMPARED]
    coordinates = {"optimizer": [*COMPARED], "series": [*SERIES]}
    return xr.Dataset({"loss": (("optimizer", "series"), np.asarray(losses) / still)}, coordinates)


def _padded(x: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]))])


def _losses(
    config: Config, lab: Lab, name: str, batches: RegressionBatch, sizes: np.ndarray
) -> np.ndarray:
    """Return a method's mean loss on the second half of each series, tuned on the first."""
    method, count = COMPARED[name], config.trials
    table = jax.tree.map(jnp.asarray, values(method, trials(method, count)))

    def run(batches, halves, table, *, trial, series):
        tx = method.make(**{name: x[trial] for name, x in table.items()})
        draws = jax.tree.map(lambda x: x[series], batches)
        initial, half = (jnp.zeros(LAGS + 1), None), halves[series]
        steps = draws.target.size
        trace = nj.rollout(tx, PROBLEM, None, steps, stride=1, initial=initial, draws=draws)
        losses, t = jnp.asarray(trace.loss_curve), jnp.arange(steps)
        # Two sums: a run that diverges in the second half must not spoil the first, which tunes.
        parts = [(t < half), (t >= half) & (t < 2 * half)]
        return {"loss": jnp.stack([jnp.sum(losses, where=part) / half for part in parts])}

    grid = nj.Grid(trial=range(count), series=range(len(sizes)))
    function = Partial(run, batches, jnp.asarray(sizes // 2), table)
    found = lab.sweep("series", function, grid, piece=name).loss.values
    first = np.where(np.isfinite(found[..., 0]), found[..., 0], np.inf)
    return found[first.argmin(0), np.arange(len(sizes)), 1]


PROBLEM = nj.drifting_regression(LAGS)._replace(observe=lambda draws, world: (draws, world))
