"""The two losses that every result lies between: the best possible, and always answering 0."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.levels.config import Config
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

ALL_INPUTS = 5
"""With up to this many data levels, the bound is the mean over all inputs that a run counts."""
FEW = 3_000, 1_000
"""With more, it is over this many steps, the second number excluded: within 1 %."""


def bound(config: Config, data_level: int, inputs: np.ndarray) -> float:
    """Return the best possible loss on `inputs`, of shape (steps, dim)."""
    steps, warmup = _steps(config, data_level)
    chosen = {"inputs": inputs[:steps], "warmup": warmup}
    drift = config.decay, config.noise_std
    return float(theory.tracking_bound(config.dim, data_level, *drift, **chosen))


def references(config: Config, bounds: Sequence[float]) -> "xr.Dataset":
    """Return the references of each number of data levels.

    Args:
        config: Options.
        bounds: The `bound` of 1, 2, ... data levels.

    Returns:
        `tracking_bound`, `zero_loss` and `bound_steps`, the number of steps that the bound is the
        mean of, by data_level.
    """
    import xarray as xr

    levels = range(1, len(bounds) + 1)
    drift = config.decay, config.noise_std
    found = {
        "tracking_bound": bounds,
        "zero_loss": [float(theory.predict_zero_loss(config.dim, d, *drift)) for d in levels],
        "bound_steps": [steps - warmup for steps, warmup in (_steps(config, d) for d in levels)],
    }
    variables = {name: ("data_level", np.asarray(values)) for name, values in found.items()}
    return xr.Dataset(variables, {"data_level": [*levels]})


def _steps(config: Config, levels: int) -> tuple[int, int]:
    """Return the number of steps of the bound, and how many of the first are excluded."""
    if config.bound == "full" or levels <= ALL_INPUTS or config.steps <= FEW[0]:
        return config.steps, config.warmup
    return FEW
