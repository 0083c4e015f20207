r"""Growth and stationary value of the mean square error in online regression.

Each step has one example: features f = (x, 1) with x ~ N(0, I_D) and a target y = w* . f + noise.
At the error e = w - w*, the gradient of the squared loss is 2 g with g = (e . f - noise) f. Let
s = (e, ...) hold one coordinate of the error and the transform's state for it, so that u . s = e.
It follows s' = A_0 s + b g. Because E[f f^T] = I, the mean of g is e, and the mean of s follows
A = A_0 + b u^T. Let P be the second moments summed over the inputs, and Q those of the bias. Since

    E[(e . f)^2 f_i^2] = |e|^2 + 2 e_i^2   for an input,   |e|^2   for the constant 1,

they follow

    P' = A P A^T + b b^T ((D + 1) P_ee + D Q_ee + D sigma^2),
    Q' = A Q A^T + b b^T (P_ee + sigma^2).

Covariances between coordinates do not enter. If the constant were one more Gaussian, D + 1 would
replace D and Q would vanish. The gradient noise enters with rank one, so only the energy of the
impulse response h_j = u^T A^j b matters, and no matrix of order n^2 is needed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nested_jax._core.checks import (
    check_count,
    check_flag,
    check_fraction,
    check_non_negative,
    check_positive,
    is_traced,
    or_nan,
)
from nested_jax._core.types import ScalarLike
from nested_jax.theory._discounted_energy import discounted_energy
from nested_jax.theory._solving import root_of
from nested_jax.theory._stability import (
    closed_loop,
    eigenvalues_of,
    oriented,
    stability_limit,
)
from nested_jax.theory._state_space import System, as_state_space

CURVATURE = 2.0  # Of the squared loss, per unit variance of the features.
# Doublings of the number of terms in a sum: enough for any radius below 1 in float64.
DOUBLINGS = 64
# Once a power of A is this small, the next term is its square and is below the sum's rounding.
NEGLIGIBLE = 1e-20
# Steps of the search for a starting point and of Newton's method, together.
ROOT_STEPS = 100
# Growth factor of the search step while the function is still infinite.
WIDER = 16
# Learning rates at which stability is checked; bisection then refines the first unstable interval.
RATES = 64
HALVINGS = 50


def mean_square_growth(
    system: System, dim: ScalarLike, learning_rate: ScalarLike = 1.0, *, bias: bool = True
) -> Float[Array, ""]:
    r"""Return the growth of the mean square error per step of online regression.

    The problem is that of `drifting_regression`: inputs :math:`x \sim N(0, I_D)`, one example per
    step, squared loss. Asymptotically, each step multiplies the mean square by :math:`\lambda`,
    the root of

    .. math::

        \mu \sum_{j \ge 0} \lambda^{-j-1} h_j^2 = 1, \qquad
        \mu = \tfrac12 \left(D + 1 + \sqrt{(D + 1)^2 + 4 D}\right),

    where :math:`h` is the impulse response of the mean error to half a gradient. Without a bias,
    :math:`\mu = D + 1`. The growth is at least twice `mean_growth` at :math:`c = 2 \eta`. In a
    single run, the logarithm of the error grows by at most half of it (Jensen's inequality): if the
    mean square grows slowly, most runs may shrink while a few rare ones dominate the mean. Only
    forward-mode differentiation is supported (`jax.jacfwd`).

    The bias is treated exactly, as the constant feature 1. Treating it as one more Gaussian would
    give :math:`\mu = D + 2`: 12 instead of 11.844 at D = 10. At a learning rate of 0.01, that
    overestimates the growth by up to 1.5e-4.

    Args:
        system: An `optax.GradientTransformation` or a `StateSpace`, as for `mean_growth`.
        dim: Number of inputs D >= 1; may be traced.
        learning_rate: :math:`\eta > 0`; 1 for a finished optimizer, which has its own. May be
            traced.
        bias: Whether the model has a bias; static.

    Returns:
        :math:`\ln \lambda`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range, or `system` is not linear and
            time-invariant.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import mean_square_growth
        >>> systems = [nj.nested_momentum(1e-2, levels=m) for m in (1, 5, 7)]
        >>> [f"{mean_square_growth(system, 10):+.4f}" for system in systems]
        ['-0.0355', '-0.0031', '+0.0024']
    """
    dim, learning_rate = _check(dim, learning_rate, bias)
    return _growth(oriented(system), noise_weight(dim, bias), learning_rate)


@jax.jit
def _growth(system, weight, learning_rate):
    A, b = _mean_dynamics(system, learning_rate)
    eigenvalues = eigenvalues_of(jax.lax.stop_gradient(A))
    bound, impulse = 2 * jnp.log(jnp.max(jnp.abs(eigenvalues))), b
    # All terms of the sum are non-negative, so each one gives a lower bound.
    for j in range(b.size):
        bound = jnp.maximum(bound, jnp.log(weight * impulse[0] ** 2) / (j + 1))
        impulse = A @ impulse

    def excess(growth):
        energy = discounted_energy(A, b, jnp.eye(b.size)[0], eigenvalues, growth)
        return jnp.log(weight * energy)

    return _first_root(excess, jax.lax.stop_gradient(bound))


def _first_root(excess, bound):
    """Return the root of a convex, decreasing function that is infinite up to a point >= bound.

    Newton's method approaches the root from the left and never overshoots. Values close to the
    infinite part can be wrong, so the search for a starting point moves right, and back left if it
    went too far. A root to the left of the first step is within rounding of that step.
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
    return root_of(excess, jax.lax.while_loop(unfinished, closer, start)[1])


def mean_square_limit(system: System, dim: ScalarLike, *, bias: bool = True) -> Float[Array, ""]:
    r"""Return the largest learning rate × curvature at which the mean square error does not grow.

    The result is :math:`c = 2 \eta`: inputs have variance 1, so the squared loss (without a factor
    1/2) has curvature 2 along each weight. At the limit, :math:`\mu \sum_j h_j^2 = 1` (see
    `mean_square_growth`). It is below `stability_limit`, the limit of the mean, often far below:
    :math:`2 / (D + 2)` instead of 2 for plain gradient descent without a bias. Only forward-mode
    differentiation is supported (`jax.jacfwd`).

    Args:
        system: As for `mean_growth`. For a finished optimizer, the result is a curvature, and half
            of it is the largest stable multiplier of the optimizer's learning rate.
        dim: Number of inputs D >= 1; may be traced.
        bias: Whether the model has a bias; static.

    Returns:
        :math:`c`: learning rate times curvature; 0 if the mean square grows at every rate, NaN if
        the limit is too small for the precision.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range, `system` is not linear and
            time-invariant, or its spectral radius is 1 or more.

    Example:
        >>> import optax
        >>> from nested_jax.theory import mean_square_limit
        >>> f"{mean_square_limit(optax.identity(), 10, bias=False):.5f}"
        '0.16667'
    """
    dim, _ = _check(dim, 1.0, bias)
    system = oriented(system)
    highest = stability_limit(system) / CURVATURE
    return CURVATURE * _limit(system, noise_weight(dim, bias), highest)


@jax.jit
def _limit(system, weight, highest):
    """Return the largest learning rate, at most `highest`, that is stable in the mean square."""

    def energy(rate):
        A, b = _mean_dynamics(system, rate)
        return weight * _energy(A, b, jnp.eye(b.size)[0])

    # A small limit is about 1 / (weight * gain): this start covers gains up to 1e6.
    lowest = jnp.minimum(highest, 1 / weight) * 1e-6
    rates = lowest * (highest / lowest) ** (jnp.arange(RATES) / RATES)
    values = jax.vmap(energy)(rates)
    fine = values < 1
    # A rate below the first stable one is only lost in rounding: there 1 - rate is 1.
    fine |= (jnp.cumsum(fine) == 0) & jnp.any(fine)
    first = jnp.argmin(jnp.append(fine, False))
    low, reached = (jnp.where(first == 0, 0, x[first - 1]) for x in (rates, values))
    high = jnp.where(first == RATES, highest, rates[jnp.minimum(first, RATES - 1)])

    def halve(_, bounds):
        low, high, reached = bounds
        middle = (low + high) / 2
        value = energy(middle)
        fine = value < 1
        low, high = jnp.where(fine, middle, low), jnp.where(fine, high, middle)
        return low, high, jnp.where(fine, value, reached)

    low, _, reached = jax.lax.fori_loop(0, HALVINGS, halve, (low, high, reached))
    limit = root_of(lambda rate: jnp.log(energy(rate)), low)
    # If rounding hides the limit, the energy jumps from nearly 0 to infinity and does not reach 1.
    limit = jnp.where(reached > 0.5, limit, jnp.nan)
    return jnp.where(highest > 0, limit, highest)  # `highest` is 0 or NaN here.


class StationaryLoss(NamedTuple):
    r"""Parts of the stationary mean loss; `excess` and `tracking` are infinite without a limit.

    Attributes:
        noise: :math:`\sigma^2`, the part that no model can avoid.
        excess: The cost of noise in the gradients.
        tracking: The cost of following true weights that move.
    """

    noise: Float[Array, ""]
    excess: Float[Array, ""]
    tracking: Float[Array, ""]

    @property
    def total(self) -> Float[Array, ""]:
        """The mean loss, which is the sum of the parts."""
        return self.noise + self.excess + self.tracking


def stationary_loss(
    system: System,
    dim: ScalarLike,
    learning_rate: ScalarLike = 1.0,
    *,
    noise_std: ScalarLike = 0.1,
    drift: System | None = None,
    weight_decay: ScalarLike = 0.0,
    bias: bool = True,
) -> StationaryLoss:
    r"""Return the stationary mean loss of online regression.

    Let :math:`K = \sum_j h_j^2` (see `mean_square_growth`), and let L be the mean square distance
    between the mean model and one true weight, which is filtered white noise. Then

    .. math::

        P &= K ((D + 1) P + D Q + D \sigma^2) + D L, \qquad Q = K (P + \sigma^2), \\
        E[(\hat y - y)^2] &= \sigma^2 + P + Q .

    For plain gradient descent without a bias and without drift, the excess is
    :math:`D \eta \sigma^2 / (1 - \eta (D + 2))`. The loss is evaluated before the update of each
    step, as in `rollout`. With weight decay, h and L are those of the recurrence
    :math:`w \leftarrow (1 - \lambda) w - \eta u`, where u is the output of `system`. Without
    momentum this is leaky LMS. Only forward-mode differentiation is supported (`jax.jacfwd`).

    Args:
        system: As for `mean_square_growth`.
        dim: Number of inputs D >= 1; may be traced.
        learning_rate: :math:`\eta > 0`; 1 for a finished optimizer. May be traced.
        noise_std: Standard deviation :math:`\sigma \ge 0` of the target's noise; may be traced. The
            default is that of `drifting_regression`.
        drift: The filter that turns standard normals into each true weight: a transform or a
            `StateSpace`. Use `cascade([0.95] * d)` for d data levels of `drifting_regression`, or
            `optax.trace(1.0)` for a random walk. If None, the true weights are constant.
        weight_decay: The leak :math:`\lambda \in [0, 1]`: each step also subtracts :math:`\lambda`
            times the parameters, as `add_decoupled_weight_decay` does at the end of a chain. The
            learning rate does not multiply it. It needs a `drift`; may be traced.
        bias: Whether the model has a bias (the true function has none); static.

    Returns:
        A `StationaryLoss`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range, a system is not linear and
            time-invariant, or `weight_decay` is given without `drift`.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import cascade, stationary_loss
        >>> tx, drift = nj.nested_momentum(1e-2, levels=3), cascade([0.95])
        >>> loss = stationary_loss(tx, 10, drift=drift)
        >>> [f"{part:.4f}" for part in (*loss, loss.total)]
        ['0.0100', '0.0016', '0.3707', '0.3823']

        The true weights return to 0, and a model that does so too follows them better:

        >>> f"{stationary_loss(tx, 10, drift=drift, weight_decay=0.03).total:.4f}"
        '0.2605'
    """
    dim, learning_rate = _check(dim, learning_rate, bias)
    noise_std = check_non_negative("noise_std", noise_std)
    weight_decay = check_fraction("weight_decay", weight_decay)
    if drift is None and (is_traced(weight_decay) or weight_decay != 0):
        # The loss would depend on the size of the constant weights, which is unknown.
        raise ValueError(f"`weight_decay` must be 0 without a `drift`, got {weight_decay}.")
    drift = None if drift is None else as_state_space(drift)
    numbers = (dim, learning_rate, noise_std, weight_decay)
    numbers = (jnp.asarray(x, jnp.result_type(float)) for x in numbers)
    return _stationary(oriented(system), *numbers, drift, 1.0 * bias)


@jax.jit
def _stationary(system, dim, learning_rate, noise_std, leak, drift, bias):
    A, b = _mean_dynamics(system, learning_rate)
    A = A.at[0, 0].add(-leak)
    K, noise = _energy(A, b, jnp.eye(b.size)[0]), noise_std**2
    lag = 0.0 if drift is None else _lag(A, b, leak, drift)
    beside = bias * K  # Q = K (P + sigma^2) with a bias, else 0.
    room = 1 - K * (dim + 1) - K * beside * dim
    excess = dim * K * (1 + beside) ** 2 / room * noise + beside * noise
    tracking = dim * lag * (1 + beside) / room
    return StationaryLoss(noise, *(jnp.where(room <= 0, jnp.inf, x) for x in (excess, tracking)))


def noise_weight(dim: ScalarLike, bias: bool) -> Float[Array, ""]:
    """Return mu, the weight of gradient noise at unit error in the mean square."""
    n = jnp.asarray(dim, jnp.result_type(float)) + 1
    # The larger eigenvalue of [[D + 1, D], [1, 0]].
    return (n + jnp.sqrt(n**2 + 4 * (n - 1))) / 2 if bias else n


def _mean_dynamics(system, learning_rate):
    """Return A, the mean dynamics of (error, state), and b, the effect of half a gradient."""
    c = CURVATURE * jnp.asarray(learning_rate, jnp.result_type(float))
    return closed_loop(system, c), jnp.append(-c * system.feedthrough, system.drive)


def _lag(A, b, leak, drift):
    """Return the mean square distance between a true weight and the mean model's."""
    # The state holds the distance itself, so that a random walk, which is unbounded, works too.
    # W = output . v + feedthrough * delta; the last part is not yet in the state. The leak acts on
    # the parameters, which are the distance plus the true weight.
    F, G, output, feedthrough = drift
    moved = jnp.zeros_like(b).at[0].set(1)
    coupling = jnp.outer(moved, (1 - leak) * output - output @ F)
    transition = jnp.block([[A, coupling], [jnp.zeros_like(coupling.T), F]])
    drive = jnp.append(-b * feedthrough - moved * (output @ G), G)
    return _energy(transition, drive, jnp.append(moved, jnp.zeros_like(G))) + feedthrough**2


def _energy(A, b, u):
    """Return the sum over j >= 0 of (u^T A^j b)^2, infinite if the sum diverges."""

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
    # A refused transform gives NaN when it is traced.
    return jnp.where(jnp.any(jnp.isnan(A)), jnp.nan, energy)


def _check(dim, learning_rate, bias):
    """Check the arguments; return the numbers to use."""
    check_flag("bias", bias)
    dim = or_nan(check_count("dim", dim, 1), dim)
    return dim, check_positive("learning_rate", learning_rate)
