"""What the runs of the Adam experiment share: the optimizer, its metrics, keys and times."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from experiments.adam.config import Config

if TYPE_CHECKING:
    import xarray as xr

B1, B2 = 0.9, 0.999
"""Adam's decays, unless others are named."""
CURVATURES = np.geomspace(1.0, 100.0, 10)
"""Of the noisy quadratic."""
POINTS = 60
"""Times, at equal ratios, at which a run is reported."""


def adam(
    rate: Any,
    b1: Any = B1,
    b2: Any = B2,
    eps: Any = 1e-8,
    debias: bool = True,
    schedule: Any = None,
) -> Any:
    """Return Adam with its metrics."""
    scale = nj.scale_by_adam(b1, b2=b2, eps=eps, debias=debias)
    step = nj.scale_by_learning_rate(rate, schedule=schedule)
    return nj.with_metrics(optax.chain(scale, step))


def measured(
    tx: Any, draws: Callable[[Any], jax.Array], steps: int, shape: tuple[int, ...] = ()
) -> nj.Metrics:
    """Return the metrics of every step on the gradients `draws(t)`."""

    def step(state: Any, t: Any) -> tuple[Any, nj.Metrics]:
        _, state = tx.update(draws(t), state, params)
        return state, nj.metrics_of(state)

    params = jnp.zeros(shape)
    return jax.lax.scan(step, tx.init(params), jnp.arange(steps))[1]


def excess(params: Any, opt_state: Any = None) -> jax.Array:
    """Return the loss of the quadratic above its least, without noise."""
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES) * jnp.square(params))


def key_of(config: Config, seed: Any) -> jax.Array:
    """Return the key of one of the seeds."""
    return jax.random.fold_in(jax.random.key(config.seed), seed)


def times(steps: int) -> np.ndarray:
    """Return step counts from 1 to `steps` at equal ratios."""
    return np.unique(np.geomspace(1, steps, POINTS).round().astype(int))


def timed(results: "xr.Dataset", at: np.ndarray) -> "xr.Dataset":
    """Return `results` with one time axis in place of one for each array."""

    def renamed(array: "xr.DataArray") -> "xr.DataArray":
        return array.rename({dim: "t" for dim in array.dims if str(dim).endswith("_0")})

    return results.map(renamed, keep_attrs=True).assign_coords(t=at)
