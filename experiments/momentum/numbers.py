"""What the report says of the runs, as numbers with 95 % intervals."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import binom, binomtest

from experiments.momentum.mitigations import CASES, MITIGATIONS, PLAIN, applies
from experiments.momentum.runs import CONTROL
from experiments.momentum.surfaces import SURFACES

RESAMPLES = 4000
"""Resamples of the starts, enough for two digits of an interval's ends."""
SEED = 0
"""Of the resamples, so that a report is the same each time."""


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def median(values: np.ndarray) -> Estimate:
    """Return the median of independent values, which may be infinite, with an exact interval.

    The interval goes from the k-th smallest to the k-th largest value, with the largest k for which
    fewer than k of n fair coins show heads in at most 2.5 % of cases. Below 6 values none is.
    """
    ordered = np.sort(np.asarray(values, float))
    # The median of inf and inf is inf, but NumPy computes inf - inf on the way.
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]].mean()
    # The quantile is the first count that more than 2.5 % of cases do not exceed.
    k = int(binom.ppf(0.025, len(ordered), 0.5))
    if k == 0:
        return Estimate(float(middle), np.nan, np.nan)
    return Estimate(float(middle), float(ordered[k - 1]), float(ordered[-k]))


def proportion(count: int, of: int) -> Estimate:
    """Return a share with its exact (Clopper-Pearson) interval."""
    found = binomtest(count, of).proportion_ci(0.95, "exact")
    return Estimate(count / of, float(found.low), float(found.high))


def compare(value: Estimate, reference: Estimate) -> str:
    """Return "fewer", "more" or "alike", the last if the intervals touch."""
    if value.high < reference.low:
        return "fewer"
    return "more" if value.low > reference.high else "alike"


class Cell(NamedTuple):
    """A mitigation on a surface, at the setting and rate that half of the starts chose.

    Attributes:
        steps: Median steps to the goal over the other half; infinite if most runs do not arrive.
        arrived: Number of runs that arrive, of that half.
        of: Number of runs in that half.
        case: Index of the setting in `CASES`.
        learning_rate: The rate.
        edge: Whether it is the least or largest of those tried.
        verdict: Its steps against those of plain gradient descent, see `compare`.
    """

    steps: Estimate
    arrived: int
    of: int
    case: int
    learning_rate: float
    edge: bool
    verdict: str


def matrix(mitigations: xr.Dataset) -> dict[tuple[str, str], Cell]:
    """Return a cell for each (surface, mitigation) that applies."""
    steps = mitigations.attrs["steps"]
    settled = mitigations.settled.transpose("surface", "case", "share", "start")
    # Even starts choose and odd ones count: a choice looks better on its own starts than it is.
    efforts = settled.where(settled >= 0, steps).isel(start=slice(0, None, 2)).mean("start")
    counted = settled.where(settled >= 0, np.inf).isel(start=slice(1, None, 2))
    cells: dict[tuple[str, str], Cell] = {}
    for word, surface in SURFACES.items():
        for mitigation in MITIGATIONS:
            if not applies(surface, mitigation):
                continue
            cases = [i for i, case in enumerate(CASES) if case.mitigation == mitigation]
            tried = efforts.sel(surface=word, case=cases).values
            best, share = np.unravel_index(tried.argmin(), tried.shape)
            point = {"surface": word, "case": cases[best]}
            values = counted.sel(point).isel(share=share).values
            found = median(values)
            reference = cells[word, PLAIN].steps if mitigation != PLAIN else found
            cells[word, mitigation] = Cell(
                found,
                int(np.isfinite(values).sum()),
                values.size,
                cases[best],
                float(mitigations.learning_rate.sel(point).isel(share=share, start=0)),
                share in (0, tried.shape[1] - 1),
                compare(found, reference),
            )
    return cells


def margins(tuning: xr.Dataset, steps: int, slow: str, fast: str) -> dict[str, Estimate]:
    """Return how many times the steps of `fast` the method `slow` takes, on each surface.

    Mean steps over the starts but the control, runs that do not arrive counting as all `steps`,
    each method at its best rate. Starts are resampled, the same for both methods, and the best
    rates are chosen anew each time.
    """
    settled = tuning.settled.drop_sel(start=CONTROL)
    efforts = settled.where(settled >= 0, steps)
    n = efforts.sizes["start"]
    shares = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    shares = np.concatenate([np.full((1, n), 1 / n), shares])
    found = {}
    for word in efforts.surface.values:
        best = [
            (efforts.sel({"surface": word, "algorithm": name}).transpose("share", "start").values)
            @ shares.T
            for name in (slow, fast)
        ]
        ratios = best[0].min(0) / best[1].min(0)
        low, high = np.quantile(ratios[1:], [0.025, 0.975])
        found[str(word)] = Estimate(float(ratios[0]), float(low), float(high))
    return found


def escaped(escapes: xr.Dataset) -> dict[float, list[Estimate]]:
    """Return decay -> the share of runs that leave the dent, one for each batch size."""
    size = escapes.sizes["trial"]
    return {
        float(decay): [
            proportion(int(n), size) for n in escapes.escaped.sel(decay=decay).sum("trial")
        ]
        for decay in escapes.decay.values
    }
