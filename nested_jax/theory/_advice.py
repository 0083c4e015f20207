"""Advice: stable and rescaled learning rates, and optimal constants for quadratics."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nested_jax._core.checks import check_choice, check_positive, is_traced, or_nan
from nested_jax._core.types import ScalarLike
from nested_jax.theory._mean_square import CURVATURE, mean_square_limit
from nested_jax.theory._responses import dc_gain
from nested_jax.theory._state_space import System


def stable_rate(
    system: System, dim: ScalarLike, *, margin: ScalarLike = 0.5, bias: bool = True
) -> Float[Array, ""]:
    r"""Return a learning rate at which online regression is stable in the mean square.

    It is `margin` times the largest stable learning rate: half of `mean_square_limit`, because the
    squared loss has curvature 2. With equal decays this rate shrinks with every level. With decays
    of matched delay (`matched_delay_decays`) it shrinks little more than with two levels. Only
    forward-mode differentiation is supported (`jax.jacfwd`).

    Args:
        system: An `optax.GradientTransformation` or a `StateSpace`, without its learning rate. For
            a finished optimizer, the result is a multiplier of its learning rate.
        dim: Number of inputs D >= 1, of variance 1; may be traced.
        margin: Fraction of the largest stable rate, positive; may be traced. At the default, plain
            gradient descent without a bias contracts fastest: its mean square is multiplied by
            :math:`1 - 4 \eta + 4 \eta^2 (D + 2)` per step.
        bias: Whether the model has a bias; static.

    Returns:
        The learning rate; 0 if none is stable.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range, `system` is not linear and
            time-invariant, or its spectral radius is 1 or more.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import cascade, stable_rate
        >>> f"{stable_rate(cascade(nj.nested_decays(19)), 10, margin=1):.4f}"
        '0.0024'
        >>> f"{stable_rate(cascade(nj.matched_delay_decays(19)), 10, margin=1):.4f}"
        '0.0289'
    """
    margin = check_positive("margin", margin)
    return jnp.asarray(margin) * mean_square_limit(system, dim, bias=bias) / CURVATURE


def rescaled_rate(system: System, learning_rate: ScalarLike) -> Float[Array, ""]:
    r"""Return the learning rate that keeps the speed of gradient descent once a transform is added.

    Under a constant gradient g, gradient descent moves the parameters by :math:`\eta g` per step.
    With a transform, the step approaches :math:`\eta H(1) g` (the terminal velocity). The learning
    rate :math:`\eta / |H(1)|` therefore keeps the speed: :math:`\eta (1 - \rho)` for accumulated
    momentum, and :math:`\eta` itself for averages, whose gain is 1.

    Args:
        system: The transform to add: an `optax.GradientTransformation` or a `StateSpace`, without
            its learning rate.
        learning_rate: :math:`\eta > 0` without the transform; may be traced.

    Returns:
        The learning rate to use with the transform. It is infinite if the gain is 0, and 0 if the
        system never forgets.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `learning_rate` is not positive, or `system` is not linear and time-invariant
            or has no gain (see `dc_gain`).

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import rescaled_rate
        >>> f"{rescaled_rate(nj.scale_by_accumulated_momentum(0.9), 0.1):.4f}"
        '0.0100'
    """
    learning_rate = check_positive("learning_rate", learning_rate)
    return jnp.asarray(learning_rate) / jnp.abs(dc_gain(system))


class Tuning(NamedTuple):
    r"""Constants of a method for a quadratic, and the convergence rate that they achieve.

    Attributes:
        learning_rate: :math:`\eta`.
        decay: :math:`\rho` of accumulated momentum, :math:`s \leftarrow \rho s + u`.
        rate: The worst asymptotic factor by which the error shrinks per step.
    """

    learning_rate: Float[Array, ""]
    decay: Float[Array, ""]
    rate: Float[Array, ""]


def _gradient_descent(mu, L):
    return 2 / (L + mu), jnp.zeros_like(L), (L - mu) / (L + mu)


def _heavy_ball(mu, L):
    sum_ = jnp.sqrt(L) + jnp.sqrt(mu)
    rate = (jnp.sqrt(L) - jnp.sqrt(mu)) / sum_
    return 4 / sum_**2, rate**2, rate


def _nesterov(mu, L):
    root = jnp.sqrt(mu / L)
    return 1 / L, (1 - root) / (1 + root), 1 - root


def _nesterov_quadratic(mu, L):
    q = jnp.sqrt(3 * L / mu + 1)
    return 4 / (3 * L + mu), (q - 2) / (q + 2), 1 - 2 / q


_TUNINGS = {
    "gradient_descent": _gradient_descent,
    "heavy_ball": _heavy_ball,
    "nesterov": _nesterov,
    "nesterov_quadratic": _nesterov_quadratic,
}


def optimal_tuning(method: str, smallest: ScalarLike, largest: ScalarLike) -> Tuning:
    r"""Return the optimal constants of a method for quadratics with a given range of curvatures.

    The eigenvalues of the Hessian lie in :math:`[\mu, L]`, and :math:`\kappa = L / \mu`. Each
    `method` has the following learning rate, decay, and factor by which the error shrinks per step:

    - ``"gradient_descent"``: :math:`2/(L+\mu)`, 0, :math:`(\kappa-1)/(\kappa+1)`;
    - ``"heavy_ball"``: :math:`4/(\sqrt L+\sqrt\mu)^2`, the factor squared,
      :math:`(\sqrt\kappa-1)/(\sqrt\kappa+1)`;
    - ``"nesterov"``: :math:`1/L`, :math:`(\sqrt\kappa-1)/(\sqrt\kappa+1)`,
      :math:`1-1/\sqrt\kappa`;
    - ``"nesterov_quadratic"``: :math:`4/(3L+\mu)`, :math:`(q-2)/(q+2)`, :math:`1-2/q`, with
      :math:`q=\sqrt{3\kappa+1}`.

    The factors are asymptotic; the error of heavy ball may grow at first. ``"nesterov"`` is the
    common choice, which also holds for convex functions that are not quadratic.
    ``"nesterov_quadratic"`` is the best for quadratics.

    Args:
        method: One of the names above; static.
        smallest: :math:`\mu > 0`; may be traced.
        largest: :math:`L \ge \mu`; may be traced.

    Returns:
        A `Tuning` of scalars.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `method` is unknown, or unless 0 < `smallest` <= `largest`.

    Example:
        >>> from nested_jax.theory import optimal_tuning
        >>> methods = ["gradient_descent", "heavy_ball", "nesterov", "nesterov_quadratic"]
        >>> [f"{optimal_tuning(method, 1, 100).rate:.4f}" for method in methods]
        ['0.9802', '0.8182', '0.9000', '0.8847']

    References:
        Lessard, Recht & Packard, Analysis and design of optimization algorithms via integral
        quadratic constraints (2016), proposition 1, doi:10.1137/15M1009597.
    """
    check_choice("method", method, _TUNINGS)
    smallest = check_positive("smallest", smallest)
    largest = check_positive("largest", largest)
    if not (is_traced(smallest) or is_traced(largest)) and smallest > largest:
        raise ValueError(f"`smallest` must be at most `largest` = {largest}, got {smallest}.")
    mu, L = (jnp.asarray(x, jnp.result_type(float)) for x in (smallest, largest))
    return or_nan(mu <= L, Tuning(*_TUNINGS[method](mu, L)))
