"""The two losses that every result lies between: the best possible, and always answering 0."""

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from experiments.levels.config import Config
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

ALL_INPUTS = 5
"""With up to this many data levels, the bound is the mean over all inputs that a run counts."""
FEW = 3_000, 1_000
"""With more, it is over this many steps, the second number excluded: within 1 %."""
TOGETHER = 3
"""Neighbouring levels whose bounds share a program. Fewer compile more, more compute more."""


def groups(levels: Iterable[int]) -> list[list[int]]:
    """Return levels in groups, each with one number of steps, for `bounds`."""
    return [[*group] for _, group in itertools.groupby(levels, lambda d: d // TOGETHER)]


def bounds(config: Config, inputs: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Return the best possible losses by data level, computed by one program.

    Args:
        config: Options.
        inputs: By data level, of shape (steps, dim).
    """
    most = max(inputs)

    def bound(d: int) -> float:
        steps, warmup = _steps(config, d)
        counted = {"inputs": jnp.asarray(inputs[d][:steps]), "warmup": warmup}
        drift = config.decay, config.noise_std
        return float(theory.tracking_bound(config.dim, d, *drift, **counted, max_levels=most))

    return {d: bound(d) for d in inputs}


def references(config: Config, bounds: Mapping[int, float]) -> "xr.Dataset":
    """Return the references of each number of data levels.

    Args:
        config: Options.
        bounds: The best possible losses by data level.

    Returns:
        `tracking_bound`, `zero_loss` and `bound_steps`, the number of steps that the bound is the
        mean of, by data_level.
    """
    import xarray as xr

    levels = sorted(bounds)
    drift = config.decay, config.noise_std
    found = {
        "tracking_bound": [bounds[d] for d in levels],
        "zero_loss": [float(theory.predict_zero_loss(config.dim, d, *drift)) for d in levels],
        "bound_steps": [steps - warmup for steps, warmup in (_steps(config, d) for d in levels)],
    }
    variables = {name: ("data_level", np.asarray(values)) for name, values in found.items()}
    return xr.Dataset(variables, {"data_level": levels})


def _steps(config: Config, levels: int) -> tuple[int, int]:
    """Return the number of steps of the bound, and how many of the first are excluded."""
    if config.bound == "full" or levels <= ALL_INPUTS or config.steps <= FEW[0]:
        return config.steps, config.warmup
    return FEW
