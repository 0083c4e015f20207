"""What theory predicts for every combination of levels."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments.levels.config import Config
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

MODEL_INIT_STD = 2.0
"""Standard deviation of the model's initial weights in the published experiment."""


def initial_loss(config: Config) -> float:
    """Return the expected loss of the untrained model, |w - W|^2 + noise."""
    return MODEL_INIT_STD**2 * (config.dim + 1) + config.dim + config.noise_std**2


def predict(config: Config) -> "xr.Dataset":
    """Return what theory expects of every combination of levels.

    Returns:
        `predicted_growth`, the growth of the mean square error per step, by model_level; and
        `predicted_loss`, the mean loss, by model_level and data_level. Where the mean square of the
        error settles, that is the stationary loss. Elsewhere, the loss of the untrained model grows
        at every step by the predicted growth.
    """
    import xarray as xr

    levels = {
        "model_level": np.arange(1, config.model_levels + 1),
        "data_level": np.arange(1, config.data_levels + 1),
    }
    numbers = {
        name: getattr(config, name)
        for name in ("dim", "decay", "learning_rate", "steps", "warmup", "noise_std")
    }
    growth, losses = _predicted(numbers, initial_loss(config), *levels.values())
    attributes = {"long_name": "predicted mean loss after warm-up", "units": "squared error"}
    variables = {
        "predicted_growth": ("model_level", np.asarray(growth)),
        "predicted_loss": ([*levels], np.asarray(losses), attributes),
    }
    return xr.Dataset(variables, levels)


@jax.jit
def _predicted(numbers, initial, model_levels, data_levels):
    most = model_levels.size, data_levels.size

    decay, dim, rate = (numbers[name] for name in ("decay", "dim", "learning_rate"))

    def cascade(levels, at_most):
        return theory.cascade(nj.nested_decays(levels, decay=decay, max_levels=at_most))

    def growth(model_level):
        return theory.mean_square_growth(cascade(model_level, most[0]), dim, rate)

    def loss(model_level, growth, data_level):
        drift = cascade(data_level + 1, most[1] + 1)
        settled = theory.stationary_loss(
            cascade(model_level, most[0]), dim, rate, noise_std=numbers["noise_std"], drift=drift
        ).total
        # The mean of exp(growth t) over the steps after warm-up, divided by its last value.
        span = growth * (numbers["steps"] - numbers["warmup"])
        mean = jnp.where(span == 0, 1, -jnp.expm1(-span) / jnp.where(span == 0, 1, span))
        grown = initial * jnp.exp(growth * numbers["steps"] + jnp.log(mean))
        return jnp.where(jnp.isfinite(settled), settled, grown)

    growths = jax.vmap(growth)(model_levels)
    over_data = jax.vmap(loss, (None, None, 0))
    return growths, jax.vmap(over_data, (0, 0, None))(model_levels, growths, data_levels)
