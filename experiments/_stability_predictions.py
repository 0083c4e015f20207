"""What the stability experiment predicts: no run is made, only responses are asked for."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments._stability_runs import CASCADES, Case, Scheme, momentum
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

    from experiments.stability import Config

CURVATURE = 2.0
"""Of the squared loss: the gradient's mean is twice the error."""


def stability(config: "Config", schemes: Sequence[Scheme]) -> "xr.Dataset":
    """Return growth at the given rate and the largest stable rate, of mean and mean square.

    Growth is that of the logarithm of the error's size a step: of the mean square, half.

    Returns:
        `mean_growth`, `mean_square_growth`, `mean_limit` and `mean_square_limit` over case and
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
        return _mapped(lambda s: _mapped(predicted, s), systems)

    found = _on_cpu(every, lambda: systems_of(config, schemes))
    dims = "case", "model_level"
    levels = np.arange(1, config.model_levels + 1)
    variables = {name: (dims, values) for name, values in found.items()}
    return xr.Dataset(variables, {"case": np.arange(len(schemes)), "model_level": levels})


def losses(config: "Config", cases: Sequence[Case]) -> "xr.DataArray":
    """Return the stationary loss, infinite where there is none.

    Returns:
        Over case, model_level and data_level.
    """
    import xarray as xr

    levels = np.arange(1, config.data_levels + 1)

    def drift(level):
        return theory.cascade(
            nj.nested_decays(level + 1, decay=config.decay, max_levels=config.data_levels + 1)
        )

    def every(systems, rates, drifts):
        def predicted(system, rate, drift):
            noise = config.noise_std
            return theory.stationary_loss(
                system, config.dim, rate, noise_std=noise, drift=drift
            ).total

        def over_data(system_and_rates):
            system, rates = system_and_rates
            return jax.vmap(predicted, (None, 0, 0))(system, rates, drifts)

        return _mapped(lambda case: _mapped(over_data, case), (systems, rates))

    def arguments():
        schemes = [case.scheme for case in cases]
        rates = jnp.asarray(np.stack([case.rates for case in cases]))
        return systems_of(config, schemes), rates, jax.vmap(drift)(levels)

    found = _on_cpu(lambda args: every(*args), arguments)
    coordinates = {
        "case": np.arange(len(cases)),
        "model_level": np.arange(1, config.model_levels + 1),
        "data_level": levels,
    }
    return xr.DataArray(found, coordinates, [*coordinates])


def systems_of(config: "Config", schemes: Sequence[Scheme]) -> theory.StateSpace:
    """Return the state spaces of all schemes and model levels, stacked along two axes."""
    levels = jnp.arange(1, config.model_levels + 1)

    def of_scheme(scheme):
        matched = CASCADES.index(scheme.cascade)
        return jax.vmap(
            lambda level: theory.as_state_space(momentum(config, scheme.readout, matched, level))
        )(levels)

    # A bias correction fades: in the end it is the cascade without.
    lasting = [s._replace(readout="last") if s.readout == "debiased" else s for s in schemes]
    # Each once, since all of them are one program.
    systems = {scheme: of_scheme(scheme) for scheme in dict.fromkeys(lasting)}
    return jax.tree.map(lambda *parts: jnp.stack(parts), *(systems[s] for s in lasting))


def _mapped(function: Callable[[Any], Any], inputs: Any) -> Any:
    # One after another: side by side, their frequencies would take gigabytes.
    return jax.lax.map(function, inputs)


def _on_cpu(function: Callable[[Any], Any], arguments: Callable[[], Any]) -> Any:
    # Eigenvalues of matrices that are not symmetric are the CPU's alone.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.tree.map(np.asarray, jax.jit(function)(jax.jit(arguments)()))
