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

from experiments.heatmaps.best import log_losses
from experiments.heatmaps.config import VARIANTS
from experiments.heatmaps.slopes import Slope, difference, jackknifed, mean_of, shifted
from experiments.heatmaps.variants import SCHEDULES

SHARPNESS = 8.0
"""Of the weights; at twice this, single cells decide."""
BASIN = 2.0
"""Factor of the loss within which a rate belongs to the basin."""
TOLERATED = 2.0
"""Factor of the loss up to which a decay is tolerable."""
FEWEST = 3
"""Rates that a slope needs."""
PAPER, SCALED, L2 = "AdamW, decay λ", "AdamW, decay α·λ", "Adam + L2"
"""Decays under cosine: the paper's; as in optax and torch; a penalty λ‖θ‖²/2 of the loss."""
METRICS = ("train_loss", "train_error", "validation_loss", "validation_error")

Losses = Float[np.ndarray, "rate decay"]
Positions = Float[np.ndarray, " rate"]


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


def trends(results: xr.Dataset) -> dict[str, Trend]:
    """Return how the best and the tolerable decay move with the rate."""
    logs = log_losses(results)
    return moves(results, logs, "learning_rate", logs.mean(2).min() + math.log(BASIN))


def moves(results: xr.Dataset, logs: np.ndarray, axis: str, bound: Any) -> dict[str, Trend]:
    """Return how the best and the tolerable decay move along `axis`, where losses keep a bound.

    Args:
        results: Whose coordinates are used.
        logs: Log losses, over the axis, the decay and the seed.
        axis: "learning_rate" or "steps".
        bound: On the log loss of a row's best cell; a number, or one for each row.
    """
    mean = logs.mean(2)
    basin = mean.min(1) <= bound
    clear = (_weights(mean)[:, [0, -1]] < 0.5).all(1)
    x, decays = np.log2(results[axis].values), np.log2(results.weight_decay.values)
    return {
        "best": _trend(logs, x, decays, _best_decays, basin & clear),
        "tolerable": _trend(logs, x, decays, _tolerable_decays, basin),
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
    logs: np.ndarray,
    along: np.ndarray,
    decays: np.ndarray,
    place: Callable[[Losses, np.ndarray], Positions],
    clear: np.ndarray,
) -> Trend:
    left_out = [np.delete(logs, i, axis=2) for i in range(logs.shape[2])]
    places = np.stack([place(some.mean(2), decays) for some in (logs, *left_out)])
    found = np.where(clear, places[0], np.nan)
    # The same rows whichever seed is left out, so that their choice does not widen the interval.
    fitted = clear & np.isfinite(places).all(0)
    if fitted.sum() < FEWEST:
        return Trend(found, None)
    x = along[fitted] - along[fitted].mean()
    slopes = places[:, fitted] @ x / (x @ x)
    return Trend(found, jackknifed(slopes[0], slopes[1:]))


def decoupling(found: Trends) -> dict[str, dict[str, Slope | None]]:
    """Return the slopes under cosine of AdamW's decay in both units, and of Adam with L2.

    A decay that the learning rate multiplies gives the same trainings at λ / α as the paper's at λ:
    its slopes are those of λ, less 1.
    """
    paper, l2 = (
        {which: trend.slope for which, trend in found[name].items()}
        for name in ("adamw-cosine", "l2-cosine")
    )
    return {PAPER: paper, SCALED: {key: shifted(x, -1.0) for key, x in paper.items()}, L2: l2}


class Lengths(NamedTuple):
    """How the best or the tolerable decay moves with the length of the run.

    Attributes:
        rates: Learning rates.
        trends: Of the normalized decay against the length, for each rate.
        normalized: Mean slope of all rates with one; None without.
        plain: The same for decays that are not normalized. Under a schedule of one cycle both are
            the same trainings in other units, λ√T and λ, so it is the slope of λ√T less 1/2.
    """

    rates: np.ndarray
    trends: list[Trend]
    normalized: Slope | None
    plain: Slope | None


def by_length(results: xr.Dataset) -> dict[str, Lengths]:
    """Return how the best and the tolerable decay move with the length of the run."""
    logs = log_losses(results)
    # A rate counts at the lengths at which it is near the best of that length.
    bound = logs.mean(3).min((1, 2)) + math.log(BASIN)
    rates = results.learning_rate.values
    found = [moves(results, logs[:, i], "steps", bound) for i in range(len(rates))]
    lengths = {}
    for which in ("best", "tolerable"):
        trends = [one[which] for one in found]
        slope = mean_of([trend.slope for trend in trends if trend.slope is not None])
        lengths[which] = Lengths(rates, trends, slope, shifted(slope, -0.5))
    return lengths


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
        if f"adamw-{schedule}-normalized" in found
    }


def described(found: Trends, lengths: Mapping[str, Lengths]) -> dict[str, Any]:
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
    by_length = {
        name: slopes({which: getattr(one, name) for which, one in lengths.items()})
        for name in ("normalized", "plain")
    }
    units = {name: slopes(both) for name, both in decoupling(found).items()}
    return {
        "variants": variants,
        "normalized_less_not": changes,
        "decoupling": units,
        "by_length": by_length,
    }


def csv(results: Mapping[str, xr.Dataset]) -> str:
    """Return a table of all trainings; the seed runs fastest."""
    frames = []
    for name, variant in VARIANTS.items():
        frame = results[name][[*METRICS, "diverged"]].to_dataframe().reset_index()
        frame = frame.rename(columns={variant.across: "value"}).astype({"diverged": int})
        frames.append(frame.assign(variant=name, across=variant.across))
    columns = ["variant", "learning_rate", "across", "value", "seed", *METRICS, "diverged"]
    return pd.concat(frames)[columns].to_csv(index=False, float_format="%.9g", na_rep="nan")
