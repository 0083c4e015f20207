"""What theory predicts for every scheme, from its transfer function and without a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments.stability.config import Config
from experiments.stability.schemes import SCHEMES, momentum
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

CURVATURE = 2.0
"""Of the squared loss: the gradient's mean is twice the error."""


def stability(config: Config, names: Sequence[str]) -> "xr.Dataset":
    """Return growth at the given rate and the largest stable rate, of mean and mean square.

    Growth is that of the logarithm of the error's size, each step: half that of its mean square.

    Returns:
        `mean_growth`, `mean_square_growth`, `mean_limit` and `mean_square_limit` over scheme and
        model_level.
    """
    import xarray as xr

    dim, rate = config.dim, config.learning_rate

    def predicted(system):
        return {
            "mean_growth": theory.mean_growth(system, CURVATURE * rate),
            "mean_square_growth": theory.mean_square_growth(system, dim, rate) / 2,
            "mean_limit": theory.stability_limit(system) / CURVATURE,
            "mean_square_limit": theory.mean_square_limit(system, dim) / CURVATURE,
        }

    def every(systems):
        return jax.lax.map(lambda scheme: jax.lax.map(predicted, scheme), systems)

    found = _on_cpu(every, lambda: systems_of(config, names))
    levels = np.arange(1, config.model_levels + 1)
    dims = "scheme", "model_level"
    variables = {name: (dims, values) for name, values in found.items()}
    return xr.Dataset(variables, {"scheme": [*names], "model_level": levels})


def losses(config: Config, rates: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the stationary loss by scheme, model level and data level, infinite without one.

    Args:
        config: Options.
        rates: Learning rates of each scheme by model and data level.
    """
    levels = np.arange(1, config.data_levels + 1)

    def drift(level):
        return theory.cascade(
            nj.nested_decays(level + 1, decay=config.decay, max_levels=config.data_levels + 1)
        )

    def predicted(system, rate, drift):
        noise = config.noise_std
        return theory.stationary_loss(system, config.dim, rate, noise_std=noise, drift=drift).total

    def every(arguments):
        systems, rates, drifts = arguments

        def over_data(system_and_rates):
            system, rates = system_and_rates
            return jax.vmap(predicted, (None, 0, 0))(system, rates, drifts)

        # One after another: side by side, their frequencies would take gigabytes.
        return jax.lax.map(lambda scheme: jax.lax.map(over_data, scheme), (systems, rates))

    def arguments():
        stacked = jnp.asarray(np.stack([*rates.values()]))
        return systems_of(config, [*rates]), stacked, jax.vmap(drift)(levels)

    return _on_cpu(every, arguments)


def system_of(config: Config, name: str, level: int) -> theory.StateSpace:
    """Return the state space of a scheme with `level` model levels."""
    scheme = SCHEMES[name]
    return theory.as_state_space(momentum(config, scheme.readout, scheme.matched, level))


def systems_of(config: Config, names: Sequence[str]) -> theory.StateSpace:
    """Return the state spaces of all schemes and model levels, stacked along two axes."""
    levels = jnp.arange(1, config.model_levels + 1)

    def of(readout, matched):
        return jax.vmap(
            lambda level: theory.as_state_space(momentum(config, readout, matched, level))
        )(levels)

    # A bias correction fades: in the end the cascade is the one without.
    kinds = [
        (SCHEMES[name].readout.replace("debiased", "last"), SCHEMES[name].matched) for name in names
    ]
    # Each kind once, since all of them are one program.
    systems = {kind: of(*kind) for kind in dict.fromkeys(kinds)}
    return jax.tree.map(lambda *parts: jnp.stack(parts), *(systems[kind] for kind in kinds))


def _on_cpu(function: Callable[[Any], Any], arguments: Callable[[], Any]) -> Any:
    # Only the CPU has eigenvalues of matrices that are not symmetric.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.tree.map(np.asarray, jax.jit(function)(jax.jit(arguments)()))
