"""Random draws for the steps of a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def source_of_draws(problem: Any, key: Any, draws: Any) -> Callable[[Any], Any]:
    """Return a function step -> draws: the problem's, a given one, or rows of given arrays."""
    if draws is None:
        return lambda t: problem.draw(jax.random.fold_in(key, t))
    if callable(draws):
        return draws
    draws = jax.tree.map(jnp.asarray, draws)
    return lambda t: jax.tree.map(lambda x: x[t], draws)
