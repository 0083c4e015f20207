"""What a run is about, as four pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """A stochastic objective, possibly moving, for `nested_jax.rollout`.

    Attributes:
        init: key -> (params, world): initial parameters of the model, and the problem's own
            moving state (None if nothing moves).
        draw: key -> draws: all randomness of one step. `rollout` calls it under `jax.vmap` for a
            block of steps at once; a recorded stream of draws takes its place with `draws=`.
        observe: (draws, world) -> (batch, world): the data of this step. Pure.
        loss: (params, batch) -> scalar. Pure and differentiable in `params`.
    """

    init: Callable[[Any], tuple[Any, Any]]
    draw: Callable[[Any], Any]
    observe: Callable[[Any, Any], tuple[Any, Any]]
    loss: Callable[[Any, Any], Any]
