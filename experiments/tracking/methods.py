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


class AutostepState(NamedTuple):
    """State of `autostep`, by feature: rates, traces of past steps, scale of the meta-gradient."""

    rates: Float[Array, " features"]
    trace: Float[Array, " features"]
    scale: Float[Array, " features"]


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


def autostep(
    rate: Any, *, meta_rate: Any, horizon: Any = 1e4
) -> optax.GradientTransformationExtraArgs:
    """Return Autostep: LMS with a rate per feature that follows its own, normalized gradient.

    With the meta-gradient m = delta f h of each feature: v <- max(|m|, v + a f^2 (|m| - v) /
    `horizon`), a <- a exp(`meta_rate` m / v), a <- a / max(sum a f^2, 1), w <- w + a delta f,
    h <- h (1 - a f^2) + a delta f, from a = `rate`, h = 0 and v = 0. No step passes the target.
    With `meta_rate` 0 and small rates it is LMS: SGD on the squared loss at half of `rate`.

    Mahmood, Sutton, Degris & Pilarski (2012), Tuning-free step-size adaptation, Table 1.
    """

    def init(params):
        zeros = jnp.zeros_like(params)
        return AutostepState(jnp.full_like(params, rate), zeros, zeros)

    def step(features, target, params, state):
        slope, power = (target - jnp.sum(params * features)) * features, features**2
        meta = slope * state.trace
        nearer = state.rates * power / horizon * (jnp.abs(meta) - state.scale)
        scale = jnp.maximum(jnp.abs(meta), state.scale + nearer)
        rates = state.rates * jnp.exp(meta_rate * meta / jnp.where(scale > 0, scale, 1))
        rates = rates / jnp.maximum(jnp.sum(rates * power), 1)
        trace = state.trace * (1 - rates * power) + rates * slope
        return rates * slope, AutostepState(rates, trace, scale)

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
