"""Slopes of log decay, with jackknife intervals over seeds that all slopes share."""

from typing import NamedTuple

import numpy as np

from experiments.lab import figures


class Slope(NamedTuple):
    """A slope of log decay against log rate or log length, with its interval.

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


def farther_from_zero(first: Slope | None, second: Slope | None) -> Slope | None:
    """Return by how much the second is farther from 0 than the first, seed by seed."""
    if first is None or second is None:
        return None
    left_out = np.abs(second.without_each_seed) - np.abs(first.without_each_seed)
    return jackknifed(abs(second.estimate) - abs(first.estimate), left_out)


def mean_of(slopes: list[Slope]) -> Slope | None:
    """Return the mean of slopes with its interval: the seeds are left out of all at once."""
    if not slopes:
        return None
    left_out = np.mean([slope.without_each_seed for slope in slopes], axis=0)
    return jackknifed(float(np.mean([slope.estimate for slope in slopes])), left_out)


def shifted(slope: Slope | None, by: float) -> Slope | None:
    """Return the slope of the decay times the rate, or the length, to the power `by`."""
    if slope is None:
        return None
    estimate, low, high, left_out = slope
    return Slope(estimate + by, low + by, high + by, tuple(x + by for x in left_out))
