"""The two losses that every result lies between: the best possible, and always answering 0."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import jax
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


def references(config: Config, inputs: dict[int, np.ndarray]) -> "xr.Dataset":
    """Return the references of each number of data levels.

    Args:
        config: Options.
        inputs: The inputs of a run by number of data levels, each of shape (steps, dim).

    Returns:
        `tracking_bound`, `zero_loss` and `bound_steps`, the number of steps that the bound is the
        mean of, by data_level.
    """
    import xarray as xr

    levels = [*inputs]
    timing = {d: _steps(config, d) for d in levels}
    drift = config.decay, config.noise_std
    wide = jnp.result_type(float) == np.float64

    def bound(d: int) -> float:
        steps, warmup = timing[d]
        # A thread has contexts of its own. One run is too little work for a GPU.
        with jax.enable_x64(wide), jax.default_device(jax.local_devices(backend="cpu")[0]):
            chosen = {"inputs": inputs[d][:steps], "warmup": warmup}
            return float(theory.tracking_bound(config.dim, d, *drift, **chosen))

    # Each number of levels is a program, and compilation uses one core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bounds = [*pool.map(bound, levels[::-1])][::-1]
    zeros = [
        theory.predict_zero_loss(config.dim, d, config.decay, config.noise_std) for d in levels
    ]
    found = {
        "tracking_bound": np.asarray(bounds),
        "zero_loss": np.asarray(zeros),
        "bound_steps": np.asarray([steps - warmup for steps, warmup in timing.values()]),
    }
    variables = {name: ("data_level", values) for name, values in found.items()}
    return xr.Dataset(variables, {"data_level": levels})


def _steps(config: Config, levels: int) -> tuple[int, int]:
    """Return the number of steps of the bound, and how many of the first are excluded."""
    if config.bound == "full" or levels <= ALL_INPUTS or config.steps <= FEW[0]:
        return config.steps, config.warmup
    return FEW
