"""What theory predicts for every scheme, from its transfer function and without a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments.stability.config import Config
from experiments.stability.schemes import SCHEMES, momentum
from nested_jax import theory

if TYPE_CHECKING:
    import xarray as xr

Kind: TypeAlias = tuple[str, bool]
"""The readout of a cascade, and whether its delay is matched."""
Systems: TypeAlias = Mapping[Kind, theory.StateSpace]

CURVATURE = 2.0
"""Of the squared loss: the gradient's mean is twice the error."""


def stability(config: Config, systems: Systems, names: Sequence[str]) -> "xr.Dataset":
    """Return growth at the given rate and the largest rate that is stable in the mean square.

    Growth is that of the logarithm of the error's size, each step: half that of its mean square.

    Args:
        config: Options.
        systems: As from `systems_of`.
        names: Schemes.

    Returns:
        `mean_growth`, `mean_square_growth` and `mean_square_limit` over scheme and model_level.
    """
    import xarray as xr

    dim, rate = config.dim, config.learning_rate

    def predicted(system):
        return {
            "mean_growth": theory.mean_growth(system, CURVATURE * rate),
            "mean_square_growth": theory.mean_square_growth(system, dim, rate) / 2,
            "mean_square_limit": theory.mean_square_limit(system, dim) / CURVATURE,
        }

    def every(systems):
        return jax.lax.map(lambda kind: jax.lax.map(predicted, kind), systems)

    kinds, places = _distinct(map(kind_of, names))
    found = _on_cpu(every, _stacked(systems[kind] for kind in kinds))
    levels = np.arange(1, config.model_levels + 1)
    dims = "scheme", "model_level"
    variables = {name: (dims, values[places]) for name, values in found.items()}
    return xr.Dataset(variables, {"scheme": [*names], "model_level": levels})


def losses(config: Config, systems: Systems, rates: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the stationary loss by scheme, model level and data level, infinite without one.

    Args:
        config: Options.
        systems: As from `systems_of`.
        rates: Learning rates of each scheme by model and data level.
    """

    def drift(level):
        return theory.cascade(
            nj.nested_decays(level + 1, decay=config.decay, max_levels=config.data_levels + 1)
        )

    def predicted(system, rate, drift):
        noise = config.noise_std
        return theory.stationary_loss(system, config.dim, rate, noise_std=noise, drift=drift).total

    def every(systems, rates):
        drifts = jax.vmap(drift)(jnp.arange(1, config.data_levels + 1))

        def over_data(system_and_rates):
            system, rates = system_and_rates
            return jax.vmap(predicted, (None, 0, 0))(system, rates, drifts)

        # One after another, so that each sum ends once it has settled.
        return jax.lax.map(lambda scheme: jax.lax.map(over_data, scheme), (systems, rates))

    # A scheme that differs from another by its bias correction alone has the same loss.
    asked, places = _distinct((kind_of(name), rates[name].tobytes()) for name in rates)
    first = [places.index(i) for i in range(len(asked))]
    stacked = np.stack([*rates.values()])[first]
    return _on_cpu(every, _stacked(systems[kind] for kind, _ in asked), stacked)[places]


def growth_at(config: Config, system: theory.StateSpace, rates: np.ndarray) -> np.ndarray:
    """Return the growth of the logarithm of the mean square, each step, at every rate."""

    def every(system, rates):
        # One after another, so that each search ends once it has found its root.
        return jax.lax.map(lambda rate: theory.mean_square_growth(system, config.dim, rate), rates)

    return _on_cpu(every, system, rates)


def systems_of(config: Config) -> Systems:
    """Return the state spaces of all model levels, stacked, for each kind of cascade."""
    levels = jnp.arange(1, config.model_levels + 1)

    def of(readout, matched):
        return jax.vmap(
            lambda level: theory.as_state_space(momentum(config, readout, matched, level))
        )(levels)

    kinds = dict.fromkeys(map(kind_of, SCHEMES))
    return _on_cpu(lambda: {kind: of(*kind) for kind in kinds})


def system_of(config: Config, name: str, level: int) -> theory.StateSpace:
    """Return the state space of a scheme with `level` model levels, without superfluous entries."""
    return theory.as_state_space(momentum(config, *kind_of(name), level))


def kind_of(name: str) -> Kind:
    """Return what makes the linear system of a scheme: its readout and whether it is matched."""
    scheme = SCHEMES[name]
    # A bias correction fades: in the end the cascade is the one without.
    return scheme.readout.replace("debiased", "last"), scheme.matched


def _distinct(values: Iterable[Any]) -> tuple[list[Any], list[int]]:
    """Return each value once, and the place of every value among them."""
    values = [*values]
    once = [*dict.fromkeys(values)]
    return once, [once.index(value) for value in values]


def _stacked(systems: Iterable[theory.StateSpace]) -> theory.StateSpace:
    return jax.tree.map(lambda *parts: np.stack(parts), *systems)


def _on_cpu(function: Callable[..., Any], *arguments: Any) -> Any:
    # Only the CPU has eigenvalues of matrices that are not symmetric.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.tree.map(np.asarray, jax.jit(function)(*arguments))
