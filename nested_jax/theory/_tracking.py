r"""How good could any method be on a drifting regression?

The true weights are linear and Gaussian, so the Kalman filter is the Bayes predictor and its mean
loss is a lower bound for every method. Its covariance P does not depend on the targets: one scan
over the inputs gives the bound. With the levels' dynamics W' = A W + b delta, the same for every
coordinate, the state holds levels x coordinates and one step is

    P <- (A (x) I) P (A (x) I)^T + b b^T (x) I,   k = P x~,   S = x~^T k + sigma^2,
    P <- P - k k^T / S,

where x~ is x on level 1 and 0 elsewhere. S is the variance of the target given all earlier steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nested_jax._core.cascade import check_levels, stage_decays
from nested_jax._core.checks import (
    check_below,
    check_count,
    check_int_fits,
    check_key,
    check_non_negative,
    check_reals,
    check_static_count,
    check_unit_interval,
    or_nan,
)
from nested_jax._core.draws import source_of_draws
from nested_jax._core.dtypes import complement
from nested_jax._core.types import ScalarLike
from nested_jax.problems import drifting_regression


def tracking_bound(
    dim: int = 10,
    data_levels: ScalarLike = 1,
    decay: ScalarLike = 0.95,
    noise_std: ScalarLike = 0.1,
    *,
    key: jax.Array | None = None,
    steps: int | None = None,
    warmup: int = 0,
    inputs: Float[Array, "steps dim"] | None = None,
    max_levels: int | None = None,
) -> Float[Array, ""]:
    r"""Return the smallest mean loss that any method can have on `drifting_regression`.

    The bound is the mean over the counted steps of :math:`S_t`, the variance of the target given
    the inputs and targets of all earlier steps. For D = 1, d = 1 and the constant input 1, with
    :math:`P_0 = 1`, the recurrence is

    .. math::

        P \leftarrow a^2 P + (1 - a)^2, \qquad S = P + \sigma^2, \qquad
        P \leftarrow P - P^2 / S .

    In general P has :math:`(d D)^2` entries and starts as the identity, the covariance of the
    problem's initial weights. A single run can have a smaller loss by chance; the mean over the
    initial weights, the drift and the noise cannot. A Kalman filter attains the bound.

    The update subtracts :math:`k k^\top / S`, which keeps P symmetric up to rounding errors that
    the drift's dynamics shrink. The Joseph form was measured to be no more accurate.

    Args:
        dim: D >= 1, static.
        data_levels: d >= 1; may be traced if `max_levels` is given. Otherwise each number of levels
            is a program of its own.
        decay: :math:`a \in [0, 1)` of the true weights; may be traced.
        noise_std: :math:`\sigma \ge 0`, a standard deviation; may be traced.
        key: The inputs are those of `rollout` with this key. Needs `steps`; not with `inputs`.
        steps: Number of steps, static, at least 1.
        warmup: Number of initial steps to leave out of the mean, less than `steps`; static.
        inputs: The regressors x of every step, of shape (steps, dim), without the bias feature.
        max_levels: The number of levels that the covariance has room for, static; `data_levels` if
            not given. A step costs as much as with this number of levels.

    Returns:
        The bound, in JAX's default dtype. NaN if rounding makes :math:`S - \sigma^2` negative,
        which happens for predictable drift with little noise: the true value is then below the
        precision of the dtype.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range, or not exactly one of `inputs` and
            (`key` and `steps`) is given.

    Example:
        >>> import jax
        >>> from nested_jax.theory import tracking_bound
        >>> bound = tracking_bound(3, data_levels=2, key=jax.random.key(0), steps=2000, warmup=500)
        >>> f"{bound:.4f}"  # Predicting 0 gives 0.0485.
        '0.0157'

    References:
        Kalman (1960), A new approach to linear filtering and prediction problems,
        doi:10.1115/1.3662552.
    """
    check_static_count("dim", dim, 1)
    check_static_count("warmup", warmup)
    noise_std = check_non_negative("noise_std", noise_std)
    levels, valid, decay = check_levels("data_levels", data_levels, decay, "max_levels", max_levels)
    inputs = _inputs(int(dim), key, steps, inputs)
    check_below("warmup", warmup, len(inputs))
    # A level of decay 0 passes its input on: with decays beyond d of 0, the process is that of d.
    decays = or_nan(valid, stage_decays(data_levels, decay, levels))
    return _mean_variance(decays, complement(decays), noise_std, inputs, int(warmup))


def predict_zero_loss(
    dim: ScalarLike = 10,
    data_levels: ScalarLike = 1,
    decay: ScalarLike = 0.95,
    noise_std: ScalarLike = 0.1,
) -> Float[Array, ""]:
    r"""Return the stationary mean loss of always predicting 0 on `drifting_regression`.

    A method with a larger loss is worse than no model. The loss is the variance of the target,

    .. math::

        \sigma^2 + D (1 - a)^{2 d} \sum_{j \ge 0} \binom{j + d - 1}{d - 1}^2 a^{2 j}
        = \sigma^2 + D \, \frac{1 - a}{(1 + a)^{2 d - 1}}
          \sum_{k = 0}^{d - 1} \binom{d - 1}{k}^2 a^{2 k} .

    The finite sum is :math:`(1 - a^2)^{d-1} P_{d-1}((1 + a^2) / (1 - a^2))` with a Legendre
    polynomial :math:`P_{d-1}`. Its recurrence over d is used, so no binomial overflows and every
    argument may be traced. Only forward-mode differentiation is supported (`jax.jacfwd`).

    Args:
        dim: D >= 1; may be traced.
        data_levels: d >= 1; may be traced.
        decay: :math:`a \in [0, 1)` of the true weights; may be traced.
        noise_std: :math:`\sigma \ge 0`, a standard deviation; may be traced.

    Returns:
        The loss, in JAX's default dtype.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range.

    Example:
        >>> from nested_jax.theory import predict_zero_loss
        >>> [f"{predict_zero_loss(10, data_levels=d):.4f}" for d in (1, 2, 3)]
        ['0.2664', '0.1383', '0.1062']

    References:
        DLMF, https://dlmf.nist.gov, 15.8.1 (Euler's transformation of the series) and 14.10.3
        (recurrence).
    """
    valid = check_count("dim", dim, 1) & check_count("data_levels", data_levels, 1)
    decay = check_unit_interval("decay", decay)
    noise_std = check_non_negative("noise_std", noise_std)
    check_int_fits("data_levels", data_levels)
    # Narrow integers overflow in the recurrence, and D need not fit one at all.
    dim, levels = jnp.asarray(dim, float), jnp.asarray(data_levels, int)
    return or_nan(valid, _zero_loss(dim, levels, decay, complement(decay), noise_std))


@jax.jit
def _zero_loss(dim, levels, decay, below, noise_std):
    dtype = jnp.result_type(float)
    dim, a, below, noise_std = (jnp.asarray(x, dtype) for x in (dim, decay, below, noise_std))
    # The terms of Legendre's recurrence, scaled by (1 + a)^2 per level: all values lie in (0, 1].
    sides, middle = (below / (1 + a)) ** 2, (1 + a**2) / (1 + a) ** 2

    def next_level(n, values):
        before, value = values
        return value, ((2 * n + 1) * middle * value - n * sides * before) / (n + 1)

    start = jnp.zeros((), dtype), jnp.ones((), dtype)
    _, value = jax.lax.fori_loop(0, levels - 1, next_level, start)
    return noise_std**2 + dim * below / (1 + a) * value


def _inputs(dim, key, steps, inputs):
    """Return the inputs in JAX's default dtype: those given, or those that `rollout` draws."""
    if inputs is None:
        for name, value in (("key", key), ("steps", steps)):
            if value is None:
                raise ValueError(f"`{name}` must be given unless `inputs` is, got None.")
        check_key("key", key)
        check_static_count("steps", steps, 1)
        return _drawn(key, int(steps), dim)
    for name, value in (("key", key), ("steps", steps)):
        if value is not None:
            raise ValueError(f"`{name}` must be None if `inputs` are given, got {value!r}.")
    check_reals("inputs", inputs)
    inputs = jnp.asarray(inputs, float)
    if inputs.ndim != 2 or inputs.shape[1] != dim or not len(inputs):
        raise ValueError(f"`inputs` must have shape (steps, {dim}), got {inputs.shape}.")
    return inputs


@partial(jax.jit, static_argnums=(1, 2))
def _drawn(key, steps, dim):
    draw = source_of_draws(drifting_regression(dim), jax.random.split(key)[1], None)
    return jax.vmap(draw)(jnp.arange(steps, dtype=jnp.int32)).inputs


@partial(jax.jit, static_argnames="warmup")
def _mean_variance(decays, below, noise_std, inputs, warmup):
    """Return the mean of S for levels of `decays`, outermost first, and `below` = 1 - decays."""
    decays, below, noise_std = (jnp.asarray(x, inputs.dtype) for x in (decays, below, noise_std))
    A, b = _dynamics(decays, below)
    levels, dim, size = b.size, inputs.shape[1], b.size * inputs.shape[1]
    drive = jnp.kron(jnp.outer(b, b), jnp.eye(dim, dtype=inputs.dtype))

    def left(P):
        # (A (x) I) P as a product with A, of fewer operations than with the Kronecker product.
        rows = jax.lax.dot(A, P.reshape(levels, -1), precision=jax.lax.Precision.HIGHEST)
        return rows.reshape(size, size)

    def step(P, x):
        P = left(left(P).T) + drive  # P is symmetric.
        k = jnp.sum(P[:, :dim] * x, 1)
        known = jnp.sum(k[:dim] * x)
        # NaN from here on once P is no longer definite.
        S = jnp.where(known >= 0, known + noise_std**2, jnp.nan)
        # Without noise, inputs of 0 teach nothing.
        k = jnp.where(S == 0, 0, k / jnp.sqrt(S))
        # The same vector on both sides: an antisymmetric part of P can only shrink, with A.
        return P - jnp.outer(k, k), S

    return jnp.mean(jax.lax.scan(step, jnp.eye(size, dtype=inputs.dtype), inputs)[1][warmup:])


def _dynamics(decays, below):
    """Return A and b: a_ij = decay_j prod_{i <= k < j} below_k, b_i = prod_{k >= i} below_k."""
    level = jnp.arange(decays.size)
    steps = jnp.where(level[:, None] < level, jnp.roll(below, 1), 1)
    through = jnp.triu(jnp.cumprod(steps, axis=1))
    return through * decays, through[:, -1] * below[-1]
