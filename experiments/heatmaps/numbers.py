"""How the good weight decays of a heatmap move with the learning rate, with intervals over seeds.

Losses are compared by their logarithms, averaged over seeds and capped at the loss of guessing: a
network that diverged is as bad as one that decayed to nothing. With l the mean of a cell, for each
learning rate

    best decay        the mean of log2(decay), weighted by exp(-8 (l - l of the row's best cell)): a
                      cell whose loss is 10 % above the best has weight 1/2, 100 % above 0.004;
    tolerable decay   the decay above the best at which the loss is twice that of the row's best
                      cell, interpolated between cells.

A learning rate belongs to the basin if its best cell is within a factor of 2 of the heatmap's. It
has a clear best decay only if the smallest and the largest decay both have less than half the
weight of the best; otherwise, a decay of 0 might be as good. Slopes are those of least squares
lines through these points against log2(rate), of at least three rates: 0 if rate and decay can be
tuned independently, 1 if the decay has to be proportional to the rate. The 95 % intervals are
jackknife intervals: each seed is left out in turn, and the rates stay those of all seeds together.
Differences are paired, because all heatmaps share their seeds.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from experiments.heatmaps.config import VARIANTS
from experiments.heatmaps.variants import SCHEDULES
from experiments.lab import figures

SHARPNESS = 8.0
"""Of the weights; at twice this, single cells decide."""
BASIN = 2.0
"""Factor of the loss within which a rate belongs to the basin."""
TOLERATED = 2.0
"""Factor of the loss up to which a decay is tolerable."""
FEWEST = 3
"""Rates that a slope needs."""
METRICS = ("train_loss", "train_error", "test_loss", "test_error")

Losses = Float[np.ndarray, "rate decay"]
Positions = Float[np.ndarray, " rate"]


class Slope(NamedTuple):
    """A slope of log decay against log rate, with its interval.

    Attributes:
        estimate: The slope of all seeds.
        low: Lower end of the interval.
        high: Upper end of the interval.
        without_each_seed: The slope without each of the seeds.
    """

    estimate: float
    low: float
    high: float
    without_each_seed: tuple[float, ...]

    def __str__(self) -> str:
        # Plus zero, since a negative zero would show its sign.
        ends = [f"{round(x, 2) + 0.0:.2f}" for x in (self.estimate, self.low, self.high)]
        # Spaces that do not break keep an interval on one line.
        return "{}\N{NO-BREAK SPACE}[{},\N{NO-BREAK SPACE}{}]".format(*ends).replace("-", "−")

    @property
    def includes_zero(self) -> bool:
        """Whether the interval includes 0."""
        return self.low <= 0 <= self.high


class Trend(NamedTuple):
    """How the best or the tolerable decay moves with the learning rate.

    Attributes:
        decays: log2 of the decay for each rate, NaN where it is not clear.
        slope: None with too few rates.
    """

    decays: Positions
    slope: Slope | None


Trends = Mapping[str, Mapping[str, Trend]]
"""By variant, the trends of its "best" and "tolerable" decay."""


def log_losses(
    results: xr.Dataset, metric: str = "test_loss"
) -> Float[np.ndarray, "rate decay seed"]:
    """Return the logarithms of losses, capped at guessing."""
    losses, guess = results[metric].values, results.attrs["guess"]
    with np.errstate(divide="ignore"):
        return np.log(np.where(losses < guess, losses, guess))


def trends(results: xr.Dataset) -> dict[str, Trend]:
    """Return how the best and the tolerable decay move with the rate."""
    mean = log_losses(results).mean(2)
    basin = mean.min(1) <= mean.min() + math.log(BASIN)
    clear = (_weights(mean)[:, [0, -1]] < 0.5).all(1)
    return {
        "best": _trend(results, _best_decays, basin & clear),
        "tolerable": _trend(results, _tolerable_decays, basin),
    }


def _weights(mean: Losses) -> Losses:
    return np.exp(-SHARPNESS * (mean - mean.min(1, keepdims=True)))


def _best_decays(mean: Losses, decays: np.ndarray) -> Positions:
    weights = _weights(mean)
    return (weights * decays).sum(1) / weights.sum(1)


def _tolerable_decays(mean: Losses, decays: np.ndarray) -> Positions:
    edges = np.full(len(mean), np.nan)
    for i, row in enumerate(mean):
        bound = row.min() + math.log(TOLERATED)
        beyond = np.flatnonzero((row > bound) & (np.arange(len(row)) > row.argmin()))
        if beyond.size:
            j = beyond[0]
            share = (bound - row[j - 1]) / (row[j] - row[j - 1])
            edges[i] = decays[j - 1] + share * (decays[j] - decays[j - 1])
    return edges


def _trend(
    results: xr.Dataset, place: Callable[[Losses, np.ndarray], Positions], clear: np.ndarray
) -> Trend:
    logs, rates = log_losses(results), np.log2(results.learning_rate.values)
    left_out = [np.delete(logs, i, axis=2) for i in range(logs.shape[2])]
    decays = np.log2(results.weight_decay.values)
    places = np.stack([place(some.mean(2), decays) for some in (logs, *left_out)])
    found = np.where(clear, places[0], np.nan)
    # The same rates whichever seed is left out, so that their choice does not widen the interval.
    fitted = clear & np.isfinite(places).all(0)
    if fitted.sum() < FEWEST:
        return Trend(found, None)
    x = rates[fitted] - rates[fitted].mean()
    slopes = places[:, fitted] @ x / (x @ x)
    return Trend(found, jackknifed(slopes[0], slopes[1:]))


def jackknifed(estimate: float, left_out: np.ndarray) -> Slope:
    """Return an estimate with the t interval of its jackknife."""
    half = (len(left_out) - 1) * float(figures.interval(left_out)[1])
    estimate = float(estimate)
    return Slope(estimate, estimate - half, estimate + half, tuple(left_out.tolist()))


def difference(first: Slope | None, second: Slope | None) -> Slope | None:
    """Return the second minus the first, seed by seed."""
    if first is None or second is None:
        return None
    left_out = np.subtract(second.without_each_seed, first.without_each_seed)
    return jackknifed(second.estimate - first.estimate, left_out)


def all_trends(results: Mapping[str, xr.Dataset]) -> Trends:
    """Return the trends of every heatmap of weight decay."""
    names = [name for name, variant in VARIANTS.items() if variant.across == "weight_decay"]
    return {name: trends(results[name]) for name in names}


def normalization(found: Trends) -> dict[str, dict[str, Slope | None]]:
    """Return by schedule how normalization changes AdamW's slopes."""
    return {
        schedule: {
            which: difference(trend.slope, found[f"adamw-{schedule}-normalized"][which].slope)
            for which, trend in found[f"adamw-{schedule}"].items()
        }
        for schedule in SCHEDULES
    }


def described(found: Trends) -> dict[str, Any]:
    """Return all trends, ready for JSON."""

    def slopes(some: Mapping[str, Slope | None]) -> dict[str, Any]:
        return {f"slope_of_{key}": slope and slope._asdict() for key, slope in some.items()}

    variants = {
        name: {
            f"log2_{which}_decay": [float(x) if np.isfinite(x) else None for x in trend.decays]
            for which, trend in one.items()
        }
        | slopes({which: trend.slope for which, trend in one.items()})
        for name, one in found.items()
    }
    changes = {schedule: slopes(both) for schedule, both in normalization(found).items()}
    return {"variants": variants, "normalized_less_not": changes}


def best_cell(results: xr.Dataset) -> xr.Dataset:
    """Return all seeds of the cell with the smallest mean log test loss."""
    mean = log_losses(results).mean(2)
    places = map(int, np.unravel_index(mean.argmin(), mean.shape))
    return results.isel(dict(zip(results.test_loss.dims, places, strict=False)))


def csv(results: Mapping[str, xr.Dataset]) -> str:
    """Return a table of all trainings; the seed runs fastest."""
    frames = []
    for name, variant in VARIANTS.items():
        frame = results[name][[*METRICS, "diverged"]].to_dataframe().reset_index()
        frame = frame.rename(columns={variant.across: "value"}).astype({"diverged": int})
        frames.append(frame.assign(variant=name, across=variant.across))
    columns = ["variant", "learning_rate", "across", "value", "seed", *METRICS, "diverged"]
    return pd.concat(frames)[columns].to_csv(index=False, float_format="%.9g", na_rep="nan")
