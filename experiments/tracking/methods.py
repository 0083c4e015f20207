"""Adaptive filters as optax transforms: finished optimizers that read the inputs from `batch`.

Each runs in `nested_jax.rollout` on `drifting_regression`, whose batch holds features f = (x, 1)
and a target y. The error is delta = y - w . f at the current parameters w. The incoming gradient is
not used. Every number may be traced.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nested_jax import theory


class RecursiveLeastSquaresState(NamedTuple):
    """State of `recursive_least_squares`: the inverse of the weighted sum of f f^T."""

    inverse: Float[Array, "features features"]


class IdbdState(NamedTuple):
    """State of `idbd`: logarithms of the rates, and the traces of past steps."""

    log_rates: Float[Array, " features"]
    trace: Float[Array, " features"]


class KalmanFilterState(NamedTuple):
    """State of `kalman_filter`: prediction for the next step, by level and coordinate."""

    mean: Float[Array, "levels dim"]
    covariance: Float[Array, "levels dim levels dim"]


def _method(
    init: optax.TransformInitFn,
    step: Callable[[Array, Array, Array, Any], tuple[Array, Any]],
) -> optax.GradientTransformationExtraArgs:
    """Return the transform of `step`: (features, target, parameters, state) -> (update, state)."""

    def update(
        updates: Any, state: Any, params: Any = None, *, batch: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        del updates, extra_args
        for name, value in (("params", params), ("batch", batch)):
            if value is None:
                raise ValueError(f"`{name}` must be passed to `update`, got None.")
        return step(batch.features, batch.target, params, state)

    return optax.GradientTransformationExtraArgs(init, update)


def normalized_lms(rate: Any, *, eps: Any = 1e-8) -> optax.GradientTransformationExtraArgs:
    """Return normalized LMS, w <- w + rate * delta f / (eps + |f|^2); stable for rates below 2."""

    def step(features, target, params, state):
        error = target - jnp.sum(params * features)
        return rate * error / (eps + jnp.sum(features**2)) * features, state

    return _method(optax.init_empty_state, step)


def recursive_least_squares(
    forgetting: Any, *, initial: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Return recursive least squares with exponential forgetting L, from P = `initial` I.

    k = P f / (L + f . P f), w <- w + k delta, P <- (P - k f^T P) / L. With L = 1 it is ridge
    regression about the initial weights.
    """

    def init(params):
        return RecursiveLeastSquaresState(initial * jnp.eye(params.size, dtype=params.dtype))

    def step(features, target, params, state):
        P = state.inverse
        k = jnp.sum(P * features, -1)
        scale = forgetting + jnp.sum(features * k)
        # The gain times f^T P, as in textbooks, blows up: rounding makes it asymmetric, and an
        # asymmetric part of P grows by 1 / L a step. This product is symmetric to the last bit.
        half = k / jnp.sqrt(scale)
        P = (P - half[:, None] * half) / forgetting
        error = target - jnp.sum(params * features)
        return k / scale * error, RecursiveLeastSquaresState(P)

    return _method(init, step)


def idbd(meta_rate: Any, *, rate: Any) -> optax.GradientTransformationExtraArgs:
    """Return IDBD: LMS with a rate per feature that follows its own gradient.

    b <- b + meta_rate delta f h, a = exp(b), w <- w + a delta f, h <- h max(1 - a f^2, 0) + a delta
    f, from a = `rate` and h = 0. With `meta_rate` 0 it is LMS: SGD on the squared loss at half of
    `rate`.

    Sutton (1992), Adapting bias by gradient descent, Figure 2.
    """

    def init(params):
        return IdbdState(jnp.full_like(params, jnp.log(rate)), jnp.zeros_like(params))

    def step(features, target, params, state):
        slope = (target - jnp.sum(params * features)) * features
        log_rates = state.log_rates + meta_rate * slope * state.trace
        rates = jnp.exp(log_rates)
        kept = jnp.maximum(1 - rates * features**2, 0)
        return rates * slope, IdbdState(log_rates, state.trace * kept + rates * slope)

    return _method(init, step)


def kalman_filter(
    levels: int, *, decay: Any = 0.95, noise_std: Any = 0.1
) -> optax.GradientTransformationExtraArgs:
    """Return the Kalman filter that assumes `levels` data levels, static.

    Each update leads to the weights predicted for the next step, with bias 0, so the initial
    parameters matter in step 0 only. With the levels of the data the filter attains
    `nested_jax.theory.tracking_bound`, whose recurrence it follows.
    """
    system = theory.cascade([decay] * levels)
    highest = jax.lax.Precision.HIGHEST

    def predicted(mean, P):
        A, b = (x.astype(mean.dtype) for x in (system.transition, system.drive))
        unit = jnp.eye(mean.shape[1], dtype=mean.dtype)
        drive = (b[:, None, None, None] * b[:, None]) * unit[:, None]
        P = jnp.einsum("ij,jkmn->ikmn", A, P, precision=highest)
        P = jnp.einsum("lm,ikmn->ikln", A, P, precision=highest) + drive
        return KalmanFilterState(jnp.matmul(A, mean, precision=highest), P)

    def init(params):
        dim = params.size - 1
        mean = jnp.zeros((levels, dim), params.dtype)
        P = jnp.eye(levels * dim, dtype=params.dtype).reshape(levels, dim, levels, dim)
        return predicted(mean, P)

    def step(features, target, params, state):
        x, (mean, P) = features[:-1], state
        k = jnp.sum(P[:, :, 0, :] * x, -1)
        S = jnp.sum(k[0] * x) + noise_std**2
        half = k / jnp.sqrt(S)
        mean = mean + k / S * (target - jnp.sum(mean[0] * x))
        state = predicted(mean, P - half[:, :, None, None] * half)
        return jnp.append(state.mean[0], 0) - params, state

    return _method(init, step)
