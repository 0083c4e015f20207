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


def predict(config: Config) -> "xr.DataArray":
    """Return the mean loss that theory expects of every combination of levels.

    Where the mean square of the error settles, this is the stationary loss. Elsewhere, the loss of
    the untrained model grows at every step by the long-run growth factor of the mean square.
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
    # JAX computes the eigenvalues of matrices that are not symmetric on CPUs only.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        losses = _predicted(numbers, initial_loss(config), *levels.values())
    attributes = {"long_name": "predicted mean loss after warm-up", "units": "squared error"}
    return xr.DataArray(np.asarray(losses), levels, [*levels], attrs=attributes)


@jax.jit
def _predicted(numbers, initial, model_levels, data_levels):
    most = model_levels.size, data_levels.size

    def predicted(model_level, data_level):
        decay, dim, rate = (numbers[name] for name in ("decay", "dim", "learning_rate"))
        system = theory.cascade(nj.nested_decays(model_level, decay=decay, max_levels=most[0]))
        drift = theory.cascade(
            nj.nested_decays(data_level + 1, decay=decay, max_levels=most[1] + 1)
        )
        settled = theory.stationary_loss(
            system, dim, rate, noise_std=numbers["noise_std"], drift=drift
        ).total
        growth = theory.mean_square_growth(system, dim, rate)
        # The mean of exp(growth t) over the steps after warm-up, divided by its last value.
        span = growth * (numbers["steps"] - numbers["warmup"])
        mean = jnp.where(span == 0, 1, -jnp.expm1(-span) / jnp.where(span == 0, 1, span))
        grown = initial * jnp.exp(growth * numbers["steps"] + jnp.log(mean))
        return jnp.where(jnp.isfinite(settled), settled, grown)

    return jax.vmap(jax.vmap(predicted, (None, 0)), (0, None))(model_levels, data_levels)
