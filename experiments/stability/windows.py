"""Ranges of learning rates in which the mean square grows, though larger rates are stable again."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.stability.config import Config
from experiments.stability.numbers import crossings
from experiments.stability.predictions import growth_at, system_of

FAR = 1.5
"""A measured limit this many times the predicted one is explained."""
RATES, LARGEST = 61, 20.0
"""Rates at equal ratios, 5 % apart, from the predicted limit to this many times of it."""


class Window(NamedTuple):
    """A range of learning rates in which the mean square grows.

    Attributes:
        low: Where it begins: the predicted limit.
        high: Where the mean square is stable again.
        growth: The largest growth of ln loss in it, per step.
        next_limit: The limit beyond it; infinite if there is none in reach.
    """

    low: float
    high: float
    growth: float
    next_limit: float


def windows(
    config: Config, limits: xr.DataArray, measured: xr.DataArray
) -> dict[tuple[str, int], Window]:
    """Return the windows of the schemes and levels whose measured limit is far above.

    Args:
        config: Options.
        limits: Predicted largest stable rates over scheme and model_level.
        measured: Measured ones, over the same.
    """
    found = {}
    for scheme in measured.scheme.values:
        for level in measured.model_level.values:
            at = {"scheme": scheme, "model_level": level}
            limit, mean = float(limits.sel(at)), float(measured.sel(at))
            if mean > FAR * limit > 0:
                window = _window(config, str(scheme), int(level), limit)
                found |= {(str(scheme), int(level)): window} if window else {}
    return found


def _window(config: Config, scheme: str, level: int, limit: float) -> Window | None:
    """Return the first window, or None if no larger rate is stable again."""
    rates = 0.999 * limit * np.geomspace(1, LARGEST, RATES)
    grows = growth_at(config, system_of(config, scheme, level), rates)
    first, end, beyond = _crossings(grows)[:3]
    if first is None or end is None:
        return None
    inside = grows[first + 1 : end + 1].max()
    edges = (_zero(rates, grows, i) for i in (end, beyond))
    return Window(limit, next(edges), float(inside), next(edges))


def _crossings(grows: np.ndarray) -> list[int | None]:
    """Return the indices after which the sign changes, and None where there is none."""
    found = np.flatnonzero(np.diff(grows > 0))
    return [*map(int, found), None, None, None]


def _zero(rates: np.ndarray, grows: np.ndarray, i: int | None) -> float:
    """Return the rate at which growth is 0, between rates i and i + 1."""
    if i is None:
        return np.inf
    near = np.sign(grows[i + 1]) * grows[i : i + 2]  # It rises.
    return float(crossings(xr.DataArray(near, {"rate": rates[i : i + 2]}, ["rate"])))
