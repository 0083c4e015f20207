"""What the tests of sweeps share: functions to sweep, and the loop that they are held to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj

FLOAT32_RTOL = 1e-5  # 40 steps that contract; a vmapped sum may add up in another order.
MEMORY_RTOL = 0.02  # Buffers of a few scalars come and go with the shape of a loop.
HESSIAN = np.random.default_rng(0).uniform(0.1, 0.5, (5, 5)).astype(np.float32)


def powers(base, exponent):
    return {"power": base**exponent, "root": jnp.sqrt(base)}


def descend(rate, scale, seed):
    """Return the losses of a descent: sums whose order shows in their last bits."""

    def step(point, _):
        point = point - rate * (HESSIAN @ point) * scale
        return point, point @ point

    start = jax.random.normal(jax.random.key(seed), (5,))
    losses = jax.lax.scan(step, start, length=30)[1]
    return {"loss": losses[-1], "curve": losses[::10]}


DESCENTS = nj.Grid(rate=[0.1, 0.2, 0.3], scale=[0.5, 1.0], seed=range(5))


def assert_is_the_loop(results, run, grid):
    """Raise unless every variable of `results` is what `run` gives at its point."""
    for indices in itertools.product(*map(range, grid.shape)):
        at = dict(zip(grid, indices, strict=True))
        point = {
            key: column[at[name]] for name in grid for key, column in grid[name].columns.items()
        }
        expected = run(**point)
        assert set(results.data_vars) == expected.keys()
        for name, value in expected.items():
            actual = results[name].isel(at).values
            np.testing.assert_allclose(actual, value, rtol=FLOAT32_RTOL)
