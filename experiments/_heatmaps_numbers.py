"""How diagonal a basin is: what is read off the heatmaps, as numbers with intervals over seeds.

All losses are compared by their logarithms, averaged over seeds, those of guessing at most: a
network that diverged and one that decayed to nothing are as bad as guessing. With l the mean of
a cell, for each learning rate

    best decay        the mean of log2(decay), weighted by exp(-8 (l - l of the row's best cell)): a
                      cell whose loss is 10 % above the best has weight 1/2, 100 % above .004;
    tolerable decay   the decay above the best at which the loss is twice that of the row's best
                      cell, between cells by interpolation.

A rate belongs to the basin if its best cell is within a factor of 2 of the heatmap's; and its best
decay can be told only if both the smallest and the largest decay have less than half the weight of
the best, so that where no decay is as good as some, nothing is reported. The slopes are those of
the least squares lines through these against log2(rate), of three rates at least: 0 if rate and
decay can be tuned apart, 1 if the decay has to follow the rate. Intervals are jackknife ones, of
95 %: each seed is left out in turn, with the rates kept that all seeds together have told; and of
a difference likewise, since all heatmaps share their seeds.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import stdtrit

from experiments._heatmaps_variants import SCHEDULES, VARIANTS

SHARPNESS = 8.0
"""Of the weights; at twice as much single cells decide."""
BASIN = 2.0
"""Factor of the loss within which a rate belongs to the basin."""
TOLERATED = 2.0
"""Factor of the loss up to which a decay is tolerable."""
FEWEST = 3
"""Rates that a slope needs."""

Losses = Float[np.ndarray, "rate decay"]
Positions = Float[np.ndarray, " rate"]


class Slope(NamedTuple):
    """A slope with its interval.

    Attributes:
        estimate: Powers of two of the decay for one of the rate.
        low: Lower end.
        high: Upper end.
        left_out: The slope without each of the seeds.
    """

    estimate: float
    low: float
    high: float
    left_out: np.ndarray

    def __str__(self) -> str:
        # Plus zero, since a negative zero would show its sign.
        ends = [f"{round(x, 2) + 0.0:.2f}" for x in (self.estimate, self.low, self.high)]
        # Spaces that do not break, so that an interval stays on its line.
        return "{}\N{NO-BREAK SPACE}[{},\N{NO-BREAK SPACE}{}]".format(*ends).replace("-", "−")


class Diagonality(NamedTuple):
    """What is known of one heatmap.

    Attributes:
        best: log2 of the best decay for each rate; NaN where it cannot be told.
        tolerable: log2 of the tolerable decay for each rate; NaN likewise.
        slope_best: Slope of the best; None if too few rates tell it.
        slope_tolerable: Slope of the tolerable.
    """

    best: Positions
    tolerable: Positions
    slope_best: Slope | None
    slope_tolerable: Slope | None


def log_losses(results: xr.Dataset, across: str) -> Float[np.ndarray, "rate decay seed"]:
    """Return the logarithms of the test losses, those of guessing at most."""
    guess = results.attrs["guess"]
    losses = results.test_loss.transpose("learning_rate", across, "seed").values
    return np.log(np.where(losses < guess, losses, guess))


def diagonality(results: xr.Dataset, across: str = "weight_decay") -> Diagonality:
    """Return how best and tolerable decay move with the rate."""
    logs = log_losses(results, across)
    decays = np.log2(results[across].values)
    rates = np.log2(results.learning_rate.values)
    found = []
    for told, anywhere in (
        (best_decays(logs.mean(2), decays), _centres),
        (tolerable_decays(logs.mean(2), decays), _edges),
    ):
        found.append((told, _slope(logs, rates, decays, anywhere, np.isfinite(told))))
    (best, slope_best), (tolerable, slope_tolerable) = found
    return Diagonality(best, tolerable, slope_best, slope_tolerable)


def in_basin(mean: Losses) -> np.ndarray:
    """Return which rates are worth considering."""
    return mean.min(1) <= mean.min() + math.log(BASIN)


def _weights(mean: Losses) -> Losses:
    return np.exp(-SHARPNESS * (mean - mean.min(1, keepdims=True)))


def _centres(mean: Losses, decays: np.ndarray) -> Positions:
    weights = _weights(mean)
    return (weights * decays).sum(1) / weights.sum(1)


def best_decays(mean: Losses, decays: np.ndarray) -> Positions:
    """Return log2 of the best decay for each rate, NaN where it cannot be told."""
    weights = _weights(mean)
    told = (weights[:, [0, -1]] < 0.5).all(1) & in_basin(mean)
    return np.where(told, _centres(mean, decays), np.nan)


def tolerable_decays(mean: Losses, decays: np.ndarray) -> Positions:
    """Return log2 of the tolerable decay for each rate, NaN where it cannot be told."""
    return np.where(in_basin(mean), _edges(mean, decays), np.nan)


def _edges(mean: Losses, decays: np.ndarray) -> Positions:
    edges = np.full(len(mean), np.nan)
    for i, row in enumerate(mean):
        bound = row.min() + math.log(TOLERATED)
        beyond = np.flatnonzero((row > bound) & (np.arange(len(row)) > row.argmin()))
        if beyond.size:
            j = beyond[0]
            share = (bound - row[j - 1]) / (row[j] - row[j - 1])
            edges[i] = decays[j - 1] + share * (decays[j] - decays[j - 1])
    return edges


def _slope(
    logs: np.ndarray,
    rates: np.ndarray,
    decays: np.ndarray,
    anywhere: Callable[[Losses, np.ndarray], Positions],
    told: np.ndarray,
) -> Slope | None:
    # Of the same rates whichever seed is left out: their number must not be part of the chance.
    seeds = logs.shape[2]
    means = [logs.mean(2)] + [np.delete(logs, i, axis=2).mean(2) for i in range(seeds)]
    places = np.stack([anywhere(mean, decays) for mean in means])
    told = told & np.isfinite(places).all(0)
    if told.sum() < FEWEST:
        return None
    x = rates[told] - rates[told].mean()
    slopes = places[:, told] @ x / (x @ x)
    return jackknifed(slopes[0], slopes[1:])


def jackknifed(estimate: float, left_out: np.ndarray) -> Slope:
    """Return an estimate with the t interval of its jackknife."""
    seeds = len(left_out)
    error = math.sqrt((seeds - 1) * float(np.mean((left_out - left_out.mean()) ** 2)))
    half = float(stdtrit(seeds - 1, 0.975)) * error
    return Slope(float(estimate), float(estimate - half), float(estimate + half), left_out)


def difference(first: Slope | None, second: Slope | None) -> Slope | None:
    """Return the second less the first, seed by seed."""
    if first is None or second is None:
        return None
    return jackknifed(second.estimate - first.estimate, second.left_out - first.left_out)


def basins(results: Mapping[str, xr.Dataset]) -> dict[str, Diagonality]:
    """Return what is known of every heatmap of weight decay."""
    names = [name for name, variant in VARIANTS.items() if variant.across == "weight_decay"]
    return {name: diagonality(results[name]) for name in names}


def pairs(found: Mapping[str, Diagonality]) -> dict[str, tuple[Slope | None, Slope | None]]:
    """Return by schedule what normalization changes in AdamW's slopes, of best and tolerable."""
    changes = {}
    for schedule in SCHEDULES:
        plain, normalized = found[f"adamw-{schedule}"], found[f"adamw-{schedule}-normalized"]
        changes[schedule] = (
            difference(plain.slope_best, normalized.slope_best),
            difference(plain.slope_tolerable, normalized.slope_tolerable),
        )
    return changes


def described(found: Mapping[str, Diagonality]) -> dict[str, Any]:
    """Return all of it, ready for JSON."""

    def numbers(values: Positions) -> list[float | None]:
        return [float(x) if np.isfinite(x) else None for x in values]

    def slope(of: Slope | None) -> dict[str, Any] | None:
        if of is None:
            return None
        ends = {"estimate": of.estimate, "low": of.low, "high": of.high}
        return ends | {"without_each_seed": of.left_out.tolist()}

    variants = {
        name: {
            "log2_best_decay": numbers(one.best),
            "log2_tolerable_decay": numbers(one.tolerable),
            "slope_of_best": slope(one.slope_best),
            "slope_of_tolerable": slope(one.slope_tolerable),
        }
        for name, one in found.items()
    }
    changes = {
        schedule: dict(zip(("slope_of_best", "slope_of_tolerable"), map(slope, both), strict=True))
        for schedule, both in pairs(found).items()
    }
    return {"variants": variants, "normalized_less_not": changes}


def best_cell(results: xr.Dataset, across: str) -> xr.Dataset:
    """Return the cell of the least test loss, by its logarithm's mean over seeds; all seeds."""
    mean = log_losses(results, across).mean(2)
    rate, other = np.unravel_index(int(mean.argmin()), mean.shape)
    return results.isel({"learning_rate": int(rate), across: int(other)})


def rows(results: Mapping[str, xr.Dataset]) -> list[str]:
    """Return the lines of a table of all trainings, the seed running fastest."""
    metrics = ("train_loss", "train_error", "test_loss", "test_error", "diverged")
    lines = [",".join(("variant", "learning_rate", "across", "value", "seed", *metrics))]
    for name, variant in VARIANTS.items():
        own = results[name].transpose("learning_rate", variant.across, "seed")
        axes = own.learning_rate.values, own[variant.across].values, own.seed.values
        columns = [own[metric].values.ravel() for metric in metrics]
        for (rate, value, seed), *numbers, diverged in zip(
            itertools.product(*axes), *columns, strict=True
        ):
            shown = [f"{number:.9g}" for number in numbers]
            cells = [name, f"{rate:.9g}", variant.across, f"{value:.9g}", str(seed), *shown]
            lines.append(",".join([*cells, str(int(diverged))]))
    return lines
