"""The definition of a problem: four pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """A stochastic objective, static or moving, for `nested_jax.rollout`.

    Attributes:
        init: key -> (params, world): the model's initial parameters, and the moving state of the
            problem (None if nothing moves).
        draw: key -> draws: all randomness of one step. `rollout` calls it under `jax.vmap` for a
            block of steps; its argument `draws` replaces it with recorded draws.
        observe: (draws, world) -> (batch, world): the data of one step. Pure.
        loss: (params, batch) -> scalar. Pure and differentiable in `params`.
    """

    init: Callable[[Any], tuple[Any, Any]]
    draw: Callable[[Any], Any]
    observe: Callable[[Any, Any], tuple[Any, Any]]
    loss: Callable[[Any, Any], Any]
