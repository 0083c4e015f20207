"""Runs of noisy gradient descent that begin in a local minimum, over the batch size."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy.optimize import brentq

import nested_jax as nj
from experiments.lab import Lab
from experiments.momentum.config import Config
from experiments.momentum.surfaces import SURFACES

if TYPE_CHECKING:
    import xarray as xr

BATCHES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
LEARNING_RATE = 0.1
"""Learning rate of plain descent; with momentum it is multiplied by 1 - decay."""
NOISE = 2.0
"""Standard deviation of the gradient of one example, in each coordinate."""
NODES = 240
"""Nodes across the dent: two for the smallest step's deviation, and more at the ends."""


def slope(x: Any) -> Any:
    """Return the derivative of “Many minima” by one of its two coordinates, which are alike."""
    return 0.1 * x + 0.4 * np.sin(4 * x)


def dent() -> tuple[float, float, float]:
    """Return the local minimum next to the deepest, and the rims on both sides of it."""
    # The derivative changes its sign once in each of these brackets.
    return _root(1.2, 1.7), _root(0.5, 1.1), _root(2.2, 2.7)


def _root(low: float, high: float) -> float:
    return float(np.asarray(brentq(slope, low, high)))


def simulate(config: Config, lab: Lab) -> "xr.Dataset":
    """Return whether each run left its dent, and what is expected without momentum."""
    minimum, inner, outer = dent()
    surface = SURFACES["many_minima"]

    def run(key: jax.Array, decay: Any, batch: Any, trial: Any) -> dict[str, Any]:
        # The mean gradient of a batch of normals is one normal with a batch-th of the variance.
        deviation = NOISE / jnp.sqrt(batch)
        noisy = nj.Problem(
            init=lambda key: (jnp.full(2, minimum), None),
            draw=lambda key: jax.random.normal(key, (2,)),
            observe=lambda draws, world: (draws, world),
            loss=lambda params, batch: surface.loss(params) + deviation * (batch @ params),
        )

        def outside(params: jax.Array, opt_state: Any) -> jax.Array:
            return ((params < inner) | (params > outer)).any()

        tx = nj.momentum(LEARNING_RATE * (1 - decay), decay=decay)
        options = {"stride": 1, "record": outside}
        key = jax.random.fold_in(key, trial)
        trace = nj.rollout(tx, noisy, key, config.escape_steps, **options)
        return {"escaped": trace.records.any()}

    key = jax.random.fold_in(jax.random.key(config.seed), 100)
    grid = nj.Grid(
        decay=sorted({0.0, config.decay}), batch=BATCHES, trial=range(config.escape_runs)
    )
    results = lab.sweep("escapes", Partial(run, key), grid)
    expected = [escape_probability(batch, config.escape_steps) for batch in BATCHES]
    results["expected"] = (("batch",), np.array(expected))
    return results


def escape_probability(batch: float, steps: int) -> float:
    """Return the probability that plain descent leaves the dent within `steps`, by quadrature.

    A coordinate is a Markov chain: from x it goes to a normal around x - rate * slope(x). The
    probability s_t(x) to stay inside for t steps follows from s_0 = 1 and
    s_{t+1}(x) = ∫ p(y | x) s_t(y) dy over the dent. The two coordinates are independent.
    """
    minimum, inner, outer = dent()
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = (outer - inner) / 2
    y, deviation = inner + half * (nodes + 1), LEARNING_RATE * NOISE / np.sqrt(batch)

    def kernel(x: np.ndarray) -> np.ndarray:
        z = (y - (x - LEARNING_RATE * slope(x))[:, None]) / deviation
        return half * weights * np.exp(-(z**2) / 2) / (deviation * np.sqrt(2 * np.pi))

    inside = np.linalg.matrix_power(kernel(y), steps - 1) @ np.ones(NODES)
    stays = (kernel(np.array([minimum])) @ inside).item()
    return float(np.clip(1 - stays**2, 0, 1))
