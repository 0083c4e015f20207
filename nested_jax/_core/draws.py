"""Where the randomness of a run's steps comes from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def source_of_draws(problem: Any, key: Any, draws: Any) -> Callable[[Any], Any]:
    """Return the function step -> draws: the problem's own, a given one, or rows of arrays."""
    if draws is None:
        return lambda t: problem.draw(jax.random.fold_in(key, t))
    if callable(draws):
        return draws
    draws = jax.tree.map(jnp.asarray, draws)
    return lambda t: jax.tree.map(lambda x: x[t], draws)
