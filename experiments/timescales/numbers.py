"""What the report's sentences, tables and figures are computed from."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.lab.figures import geometric_interval
from experiments.timescales.methods import extended

TASKS = {"drift": "drift", "quadratics": "quadratics", "language": "the language model"}
"""Dataset of a task -> the task in a sentence."""
GAIN = 1.01
"""A second time scale pays from this ratio of losses on: tuning is not finer."""


class Comparison(NamedTuple):
    """A method against the one with one time scale that it extends, on one case of a task.

    Attributes:
        method: Its name.
        base: Name of the other.
        case: Name of the case.
        mean: Geometric mean over seeds of its loss over the other's.
        low: Lower end of the mean's 95 % interval.
        high: Upper end.
    """

    method: str
    base: str
    case: str
    mean: float
    low: float
    high: float

    @property
    def pays(self) -> bool:
        """Whether the loss is smaller by at least 1 %, beyond the interval."""
        return self.high < 1 / GAIN

    @property
    def costs(self) -> bool:
        """Whether the loss is larger by at least 1 %, beyond the interval."""
        return self.low > GAIN


def comparisons(results: dict[str, xr.Dataset], task: str) -> list[Comparison]:
    """Return the comparisons of a task, by method and then by case."""
    loss = results[task].loss.transpose("optimizer", "case", "seed")
    found = []
    for name, base in extended(task).items():
        for case in loss.case.values:
            runs = loss.sel(case=case)
            ratio = runs.sel(optimizer=name).values / runs.sel(optimizer=base).values
            interval = (float(x) for x in geometric_interval(ratio))
            found.append(Comparison(name, base, str(case), *interval))
    return found


def counts(results: dict[str, xr.Dataset]) -> dict[str, tuple[int, int, int]]:
    """Return, by task, in how many comparisons it pays, in how many it costs, and of how many."""
    found = {task: comparisons(results, task) for task in TASKS}
    return {
        task: (sum(one.pays for one in all_), sum(one.costs for one in all_), len(all_))
        for task, all_ in found.items()
    }


def shown_loss(results: dict[str, xr.Dataset], task: str) -> xr.DataArray:
    """Return the losses over optimizer, case and seed; on drift as multiples of the bound."""
    loss = results[task].loss.transpose("optimizer", "case", "seed")
    return loss / results[task].bound if task == "drift" else loss


def best_of(results: dict[str, xr.Dataset], task: str) -> str:
    """Return the method with the smallest loss, in the geometric mean over cases and seeds."""
    loss = shown_loss(results, task)
    logs = np.log(np.where(np.isfinite(loss.values), loss.values, np.inf)).mean((1, 2))
    return str(loss.optimizer.values[np.nanargmin(logs)])
