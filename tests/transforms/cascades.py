"""What the tests of nested momentum share: tolerances, and an impulse to put in."""

import jax.numpy as jnp
import numpy as np

RTOL = 1e-13  # In float64 each of 20 steps x 4 stages rounds twice: well inside this.
FLOAT32_RTOL = 20 * np.finfo(np.float32).eps  # Of 18 stages; numbers that do not add up.


def impulse(steps, dtype=float):
    return jnp.zeros(steps, dtype).at[0].set(1.0)
