"""Momentum on a linear system whose growth never leaves the range of numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class RenormalizedState(NamedTuple):
    """State of `renormalized`.

    Attributes:
        inner: State of the momentum, divided by the norm of the parameters.
        count: Steps so far.
        log_growth: Sum of the logarithms of the divisors after `warmup` steps.
    """

    inner: Any
    count: jax.Array
    log_growth: jax.Array


def renormalized(
    momentum: optax.GradientTransformation, rate: Any, warmup: int
) -> optax.GradientTransformation:
    """Descend along nested momentum; divide parameters and momenta by the parameters' norm.

    On a linear system this changes no direction, and neither growth nor decay ever leaves the
    range of numbers: the logarithms of the divisors add up to that of the growth.
    """

    def init(params):
        zero = jnp.zeros((), params.dtype)
        return RenormalizedState(momentum.init(params), jnp.zeros((), jnp.int32), zero)

    def update(updates, state, params=None):
        updates, inner = momentum.update(updates, state.inner, params)
        inner: Any = inner
        moved = params - rate * updates
        norm = jnp.sqrt(jnp.sum(moved**2))
        scale = 1 / norm  # One division a step: there are many more momenta than parameters.
        # The gains of a bias correction are no part of the linear system.
        inner = inner._replace(momenta=jax.tree.map(lambda x: x * scale, inner.momenta))
        growth = jnp.where(state.count >= warmup, jnp.log(norm), 0.0)
        state = RenormalizedState(inner, state.count + 1, state.log_growth + growth)
        return moved * scale - params, state

    return optax.GradientTransformation(init, update)
