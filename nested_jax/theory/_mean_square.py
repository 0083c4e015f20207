r"""Online regression: how the mean square of the error grows, and where it settles.

Each step has one example: features f = (x, 1) with x ~ N(0, I_D), a target y = w* . f + noise, and
the gradient 2 g, g = (e . f - noise) f, of its squared loss at the error e = w - w*. A coordinate
of the error and the state of the transform for it, s = (e, ...), move by s' = A_0 s + b g; with
u . s = e and E[f f^T] = I the mean of g is e, and the mean of s moves by A = A_0 + b u^T. Since

    E[(e . f)^2 f_i^2] = |e|^2 + 2 e_i^2   for an input,   |e|^2   for the constant 1,

the second moments summed over the inputs, P, and of the bias, Q, follow

    P' = A P A^T + b b^T ((D + 1) P_ee + D Q_ee + D sigma^2),
    Q' = A Q A^T + b b^T (P_ee + sigma^2).

Covariances between coordinates do not enter. Were the constant one more Gaussian, D would be D + 1
and Q nothing. In this form the noise that the gradient adds is of rank one: all that matters is the
energy of the impulse response h_j = u^T A^j b, and a matrix of order n^2 never appears.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nested_jax._core.checks import check_count, check_flag, check_non_negative, check_positive
from nested_jax._core.types import ScalarLike
from nested_jax.theory._discounted_energy import discounted_energy
from nested_jax.theory._stability import (
    closed_loop,
    eigenvalues_of,
    oriented,
    stability_limit,
)
from nested_jax.theory._state_space import System, as_state_space

CURVATURE = 2.0  # Of the squared loss, per unit variance of the features.
# Doublings of the number of terms in a sum: enough wherever float64 can tell the radius from 1.
DOUBLINGS = 64
# Where a power of A is no larger, what follows, its square, is below the rounding of the sum.
NEGLIGIBLE = 1e-20
# Steps of the search for a start of Newton's method and of the method, together.
ROOT_STEPS = 100
# Factor from step to step of a search that still is left of all that is finite.
WIDER = 16
# Rates at which stability is looked at, before the first interval that loses it is halved.
RATES = 64
HALVINGS = 50


def mean_square_growth(
    system: System, dim: ScalarLike, learning_rate: ScalarLike = 1.0, *, bias: bool = True
) -> Float[Array, ""]:
    r"""Return the growth of the mean square error under online regression, a step.

    The problem is that of `drifting_regression`: inputs :math:`x \sim N(0, I_D)`, one example a
    step, squared loss. The mean square is multiplied by :math:`\lambda` a step in the end, the
    root of

    .. math::

        \mu \sum_{j \ge 0} \lambda^{-j-1} h_j^2 = 1, \qquad
        \mu = \tfrac12 \left(D + 1 + \sqrt{(D + 1)^2 + 4 D}\right),

    :math:`h` being the impulse response of the mean error to half a gradient. (Without a bias
    :math:`\mu = D + 1`.) It is at least twice `mean_growth` at c = 2 rate. A single run, the
    logarithm of its error, grows by at most half of it (Jensen's inequality): where the mean
    square grows slowly, most runs may shrink, and a few rare ones carry the mean. The result may be
    differentiated forwards (`jax.jacfwd`), not backwards.

    The bias is treated as what it is, the feature 1. As one more Gaussian it would count for
    :math:`\mu = D + 2`: 12 instead of 11.844 at D = 10, which at a rate of .01 gives up to 1.5e-4
    too much.

    Args:
        system: An `optax.GradientTransformation` or a `StateSpace`, as for `mean_growth`.
        dim: D >= 1; may be traced.
        learning_rate: :math:`\eta > 0`; 1 for a finished optimizer, which has its own. May be
            traced.
        bias: Whether the model has one; static.

    Returns:
        :math:`\ln \lambda`.

    Raises:
        TypeError: If an argument is of the wrong kind, or `system` not linear and time-invariant.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import mean_square_growth
        >>> systems = [nj.nested_momentum(1e-2, levels=m) for m in (1, 5, 7)]
        >>> [f"{mean_square_growth(system, 10):+.4f}" for system in systems]
        ['-0.0355', '-0.0031', '+0.0024']
    """
    _check(dim, learning_rate, bias)
    return _growth(oriented(system), noise_weight(dim, bias), learning_rate)


@jax.jit
def _growth(system, weight, learning_rate):
    A, b = _mean_dynamics(system, learning_rate)
    eigenvalues = eigenvalues_of(jax.lax.stop_gradient(A))
    bound, impulse = 2 * jnp.log(jnp.max(jnp.abs(eigenvalues))), b
    # The sum has no negative term, so any one of them alone gives a lower bound.
    for j in range(b.size):
        bound = jnp.maximum(bound, jnp.log(weight * impulse[0] ** 2) / (j + 1))
        impulse = A @ impulse

    def excess(growth):
        energy = discounted_energy(A, b, jnp.eye(b.size)[0], eigenvalues, growth)
        return jnp.log(weight * energy)

    return _first_root(excess, jax.lax.stop_gradient(bound))


def _first_root(excess, bound):
    """Return the root of a convex falling function that is infinite up to some point >= bound.

    Newton's method comes from the left and never passes the root. Close to where the values are
    infinite they can be wrong: a start is sought further right, and left again if that is too far.
    A root left of the first step is within rounding of it.
    """
    eps = jnp.finfo(bound.dtype).eps

    def closer(carry):
        i, point, low, high, width, certain, _ = carry
        value, slope = jax.jvp(excess, (point,), (jnp.ones_like(point),))
        usable = jnp.isfinite(value) & (slope < 0)
        left = usable & (value > 0)
        low, high = jnp.where(usable & ~left, low, point), jnp.where(usable & ~left, point, high)
        search = jnp.where(high < jnp.inf, (low + high) / 2 - point, width)
        step = jnp.where(left, -value / slope, jnp.where(certain, 0, search))
        close = jnp.abs(step) <= 4 * eps * jnp.maximum(jnp.abs(point), 1e-3)
        width = jnp.where(left | certain, width, WIDER * width)
        return i + 1, point + step, low, high, width, certain | left, close

    def unfinished(carry):
        return (carry[0] < ROOT_STEPS) & ~carry[-1]

    width = jnp.full_like(bound, 64 * eps)
    start = (0, bound + width, bound, jnp.full_like(bound, jnp.inf), width, False, False)
    return jax.lax.while_loop(unfinished, closer, start)[1]


def mean_square_limit(system: System, dim: ScalarLike, *, bias: bool = True) -> Float[Array, ""]:
    r"""Return the largest rate at which the mean square error does not grow.

    There :math:`\mu \sum_j h_j^2 = 1` (see `mean_square_growth`). It is below the limit of the
    mean, :math:`c^* / 2` with the :math:`c^*` of `stability_limit`, often far: of plain gradient
    descent without a bias it is :math:`1 / (D + 2)` instead of 1.

    Args:
        system: As for `mean_growth`. Of a finished optimizer the result is a multiplier of the
            rate it has.
        dim: D >= 1; may be traced.
        bias: Whether the model has one; static.

    Returns:
        The rate; 0 if there is none.

    Raises:
        TypeError: If an argument is of the wrong kind, or `system` not linear and time-invariant.
        ValueError: If a concrete number is out of range, or `system` does not forget its inputs.

    Example:
        >>> import optax
        >>> from nested_jax.theory import mean_square_limit
        >>> f"{mean_square_limit(optax.identity(), 10, bias=False):.5f}"
        '0.08333'
    """
    _check(dim, 1.0, bias)
    system = oriented(system)
    return _limit(system, noise_weight(dim, bias), stability_limit(system) / CURVATURE)


@jax.jit
def _limit(system, weight, highest):
    def stable(rate):
        A, b = _mean_dynamics(system, rate)
        return weight * _energy(A, b, jnp.eye(b.size)[0]) < 1

    # The limit is about 1 / (weight gain) where that is small: gains up to 1e6 are on the way.
    lowest = jnp.minimum(highest, 1 / weight) * 1e-6
    rates = lowest * (highest / lowest) ** (jnp.arange(RATES) / RATES)
    first = jnp.argmin(jnp.append(jax.vmap(stable)(rates), False))
    low = jnp.where(first == 0, 0, rates[first - 1])
    high = jnp.where(first == RATES, highest, rates[jnp.minimum(first, RATES - 1)])

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        fine = stable(middle)
        return jnp.where(fine, middle, low), jnp.where(fine, high, middle)

    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return jnp.where(highest > 0, low, highest)  # 0, or NaN.


class StationaryLoss(NamedTuple):
    r"""What the mean loss is made of once a run has settled; infinite where it never does.

    Attributes:
        noise: :math:`\sigma^2`, which no model avoids.
        excess: What the noise costs through the gradients.
        tracking: What is lost because the true weights move.
    """

    noise: Float[Array, ""]
    excess: Float[Array, ""]
    tracking: Float[Array, ""]

    @property
    def total(self) -> Float[Array, ""]:
        """The mean loss."""
        return self.noise + self.excess + self.tracking


def stationary_loss(
    system: System,
    dim: ScalarLike,
    learning_rate: ScalarLike = 1.0,
    *,
    noise_std: ScalarLike = 0.1,
    drift: System | None = None,
    bias: bool = True,
) -> StationaryLoss:
    r"""Return the mean loss that online regression settles at.

    With :math:`K = \sum_j h_j^2` (see `mean_square_growth`) and L the mean square distance
    at which the mean model follows one true weight, filtered white noise,

    .. math::

        P &= K ((D + 1) P + D Q + D \sigma^2) + D L, \qquad Q = K (P + \sigma^2), \\
        E[(\hat y - y)^2] &= \sigma^2 + P + Q .

    Of plain gradient descent without a bias and without drift the excess is
    :math:`D \eta \sigma^2 / (1 - \eta (D + 2))`. The loss is that of a step before its update, as
    `rollout` reports it.

    Args:
        system: As for `mean_square_growth`.
        dim: D >= 1; may be traced.
        learning_rate: :math:`\eta > 0`; 1 for a finished optimizer. May be traced.
        noise_std: :math:`\sigma \ge 0` of the target; may be traced. This default, and d levels of
            decay .95, are those of `drifting_regression`.
        drift: What makes each true weight from a stream of standard normals: a transform or a
            `StateSpace`, such as `cascade([0.95] * d)` for d data levels, or `optax.trace(1.0)`
            for a random walk. Constant if None.
        bias: Whether the model has one, which the truth has not; static.

    Returns:
        A `StationaryLoss`.

    Raises:
        TypeError: If an argument is of the wrong kind, or a system not linear and time-invariant.
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import cascade, stationary_loss
        >>> loss = stationary_loss(nj.nested_momentum(1e-2, levels=3), 10, drift=cascade([0.95]))
        >>> [f"{part:.4f}" for part in (*loss, loss.total)]
        ['0.0100', '0.0016', '0.3707', '0.3823']
    """
    _check(dim, learning_rate, bias)
    check_non_negative("noise_std", noise_std)
    drift = None if drift is None else as_state_space(drift)
    numbers = (jnp.asarray(x, jnp.result_type(float)) for x in (dim, learning_rate, noise_std))
    return _stationary(oriented(system), *numbers, drift, 1.0 * bias)


@jax.jit
def _stationary(system, dim, learning_rate, noise_std, drift, bias):
    A, b = _mean_dynamics(system, learning_rate)
    K, noise = _energy(A, b, jnp.eye(b.size)[0]), noise_std**2
    lag = 0.0 if drift is None else _lag(A, b, drift)
    beside = bias * K  # The bias has error Q = K (P + sigma^2), or there is none.
    room = 1 - K * (dim + 1) - K * beside * dim
    excess = dim * K * (1 + beside) ** 2 / room * noise + beside * noise
    tracking = dim * lag * (1 + beside) / room
    return StationaryLoss(noise, *(jnp.where(room <= 0, jnp.inf, x) for x in (excess, tracking)))


def noise_weight(dim: ScalarLike, bias: bool) -> Float[Array, ""]:
    """Return mu: how the noise of gradients at unit error weighs in the mean square."""
    n = jnp.asarray(dim, jnp.result_type(float)) + 1
    # The larger eigenvalue of [[D + 1, D], [1, 0]].
    return (n + jnp.sqrt(n**2 + 4 * (n - 1))) / 2 if bias else n


def _mean_dynamics(system, learning_rate):
    """Return A and b: how (error, state) moves in the mean, and what half a gradient adds."""
    c = CURVATURE * jnp.asarray(learning_rate, jnp.result_type(float))
    return closed_loop(system, c), jnp.append(-c * system.feedthrough, system.drive)


def _lag(A, b, drift):
    """Return the mean square distance between a true weight and the mean model's."""
    # In coordinates of the distance, so that also a weight that wanders for ever can be followed.
    # W = output . v + feedthrough delta, of which the last part is not yet in the state.
    F, G, output, feedthrough = drift
    moved = jnp.zeros_like(b).at[0].set(1)
    coupling = jnp.outer(moved, output - output @ F)
    transition = jnp.block([[A, coupling], [jnp.zeros_like(coupling.T), F]])
    drive = jnp.append(-b * feedthrough - moved * (output @ G), G)
    return _energy(transition, drive, jnp.append(moved, jnp.zeros_like(G))) + feedthrough**2


def _energy(A, b, u):
    """Return the sum over j >= 0 of (u^T A^j b)^2; infinite if it is."""

    def unfinished(carry):
        i, _, power = carry
        size = jnp.max(jnp.abs(power))
        return (i < DOUBLINGS) & (size > NEGLIGIBLE) & jnp.isfinite(size)

    def double(carry):
        i, total, power = carry
        return i + 1, total + power @ total @ power.T, power @ power

    last = jax.lax.while_loop(unfinished, double, (0, jnp.outer(b, b), A))
    energy, more = u @ last[1] @ u, u @ double(last)[1] @ u
    energy = jnp.where(more < 1.01 * energy + jnp.finfo(A.dtype).tiny, energy, jnp.inf)
    # NaN is what a transform that is refused leaves where it is traced.
    return jnp.where(jnp.any(jnp.isnan(A)), jnp.nan, energy)


def _check(dim, learning_rate, bias):
    check_count("dim", dim, 1)
    check_positive("learning_rate", learning_rate)
    check_flag("bias", bias)
