"""Known transforms in closed form, as systems and as weights of past inputs."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nested_jax._core.cascade import check_decays
from nested_jax._core.checks import (
    check_count,
    check_fraction,
    check_int_fits,
    check_length,
    check_unit_interval,
    is_traced,
    or_nan,
)
from nested_jax._core.dtypes import complement
from nested_jax._core.types import ScalarLike
from nested_jax.theory._state_space import (
    MOST_STEPS,
    StateSpace,
    cascade,
    cascade_dynamics,
)


def heavy_ball(decay: ScalarLike = 0.9) -> StateSpace:
    r"""Return accumulated momentum, :math:`H(z) = z / (z - \rho)`, of gain 1 / (1 - rho).

    It equals the transforms `scale_by_accumulated_momentum(decay)` and `optax.trace(decay)`.

    Args:
        decay: :math:`\rho \in [0, 1)`; may be traced.

    Returns:
        A system with one state.

    Raises:
        ValueError: If a concrete `decay` lies outside [0, 1).

    Example:
        >>> import nested_jax.theory as theory
        >>> float(theory.dc_gain(theory.heavy_ball(0.75)))
        4.0

    References:
        Polyak (1964), doi:10.1016/0041-5553(64)90137-5.
    """
    decay = check_unit_interval("decay", decay)
    return _one_state(decay, 1.0, decay, 1.0)


def nesterov(decay: ScalarLike = 0.9) -> StateSpace:
    r"""Return Nesterov momentum, :math:`H(z) = 1 + \rho z / (z - \rho)`.

    It equals `optax.trace(decay, nesterov=True)`; `scale_by_nesterov_momentum` multiplies it by
    minus the learning rate. The gain is :math:`1 / (1 - \rho)`.

    Args:
        decay: :math:`\rho \in [0, 1)`; may be traced.

    Returns:
        A system with one state.

    Raises:
        ValueError: If a concrete `decay` lies outside [0, 1).

    Example:
        >>> import nested_jax.theory as theory
        >>> float(theory.dc_gain(theory.nesterov(0.75)))
        4.0

    References:
        Nesterov (1983), Soviet Mathematics Doklady 27, 372-376; see `scale_by_nesterov_momentum`.
    """
    decay = check_unit_interval("decay", decay)
    return _one_state(decay, 1.0, decay * decay, 1.0 + decay)


def ema(decay: ScalarLike = 0.95) -> StateSpace:
    r"""Return one exponential average, :math:`H(z) = (1 - a) z / (z - a)`, of gain 1.

    It equals `cascade([decay])` and the transform `optax.ema(decay, debias=False)`.

    Args:
        decay: :math:`a \in [0, 1)`; may be traced.

    Returns:
        A system with one state.

    Raises:
        ValueError: If a concrete `decay` lies outside [0, 1).

    Example:
        >>> import nested_jax.theory as theory
        >>> round(float(theory.mean_delay(theory.ema(0.75))), 4)
        3.0
    """
    decay = check_unit_interval("decay", decay)
    return cascade([decay])


def qhm(decay: ScalarLike = 0.999, weight: ScalarLike = 0.7) -> StateSpace:
    r"""Return quasi-hyperbolic momentum: a mixture of the gradient and its average.

    .. math:: H(z) = 1 - \nu + \nu \frac{(1 - \beta) z}{z - \beta}, \quad H(1) = 1 .

    It equals the transform `scale_by_qhm(decay, nu=weight)`.

    Args:
        decay: :math:`\beta \in [0, 1)`; may be traced. The default is the paper's.
        weight: :math:`\nu \in [0, 1]`, the share of the average; may be traced. The default is
            the paper's.

    Returns:
        A system with one state.

    Raises:
        ValueError: If a concrete number is out of range.

    Example:
        >>> import nested_jax.theory as theory
        >>> float(theory.mean_delay(theory.qhm(0.75, weight=0.5)))  # half the delay of the average
        1.5

    References:
        Ma & Yarats (2019), equations 3 and 4, doi:10.48550/arXiv.1810.06801.
    """
    decay = check_unit_interval("decay", decay)
    weight = check_fraction("weight", weight)
    take = complement(decay)
    return _one_state(decay, take, weight * decay, complement(weight) + weight * take)


def aggmo(decays: Sequence[ScalarLike] | np.ndarray | jax.Array = (0.0, 0.9, 0.99)) -> StateSpace:
    r"""Return aggregated momentum: the mean of heavy balls with several decays.

    .. math:: H(z) = \frac{1}{K} \sum_{i=1}^{K} \frac{z}{z - \beta_i} .

    It equals the transform `scale_by_aggmo(decays)`.

    Args:
        decays: :math:`\beta_1, \dots, \beta_K \in [0, 1)`; K is static, the values may be traced.
            The defaults are the paper's.

    Returns:
        A system with K states.

    Raises:
        TypeError: If `decays` holds something that is not a number.
        ValueError: If `decays` is empty, or a concrete decay lies outside [0, 1).

    Example:
        >>> import nested_jax.theory as theory
        >>> float(theory.dc_gain(theory.aggmo([0.5, 0.75])))
        3.0

    References:
        Lucas, Sun, Zemel & Grosse (2019), section 3, doi:10.48550/arXiv.1804.00325.
    """
    decays = check_decays(decays, least=1)
    keeps = jnp.stack([jnp.asarray(decay, float) for decay in decays])
    return StateSpace(jnp.diag(keeps), jnp.ones(len(decays)), keeps / len(decays), jnp.ones(()))


def zero_lag(decays: Sequence[ScalarLike] | np.ndarray | jax.Array) -> StateSpace:
    r"""Return the combination of nested averages without delay, such as DEMA and TEMA.

    With :math:`E_j` the response of the innermost j of n averages in a row,

    .. math:: H = \sum_{j=1}^{n} (-1)^{j+1} \binom{n}{j} E_j,

    which for equal decays is :math:`1 - (1 - E)^n`. The gain is 1, and with equal decays the
    moments up to the n-th are those of a filter without delay. Two averages give DEMA, 2 E - E²,
    and three give TEMA, 3 E - 3 E² + E³. It equals
    `scale_by_nested_momentum(decays, readout="zero_lag")`.

    Args:
        decays: :math:`a_1, \dots, a_K \in [0, 1)`, outermost first; K is static, the values may
            be traced. A decay of 0 disables an average; without any average, H is 1.

    Returns:
        A system with K states.

    Raises:
        TypeError: If `decays` holds something that is not a number.
        ValueError: If `decays` is an array of rank other than 1, or a concrete decay lies
            outside [0, 1).

    Example:
        >>> import nested_jax.theory as theory
        >>> dema = theory.zero_lag([0.75, 0.75])
        >>> float(theory.dc_gain(dema)), float(theory.mean_delay(dema))
        (1.0, 0.0)

    References:
        Mulloy (1994), Technical Analysis of Stocks & Commodities 12:1 and 12:2, covers two and
        three averages of equal decay. Here, unequal decays use the same binomials.
    """
    keeps = jnp.array([jnp.asarray(decay, float) for decay in check_decays(decays)], float)
    transition, drive = cascade_dynamics(decays)
    averages = keeps != 0
    count = jnp.sum(averages)
    # The number of averages up to and including each level, counted from the innermost.
    passed = jnp.cumsum(averages[::-1])[::-1]
    every = range(keeps.size + 1)
    binomials = jnp.array([[(-1.0) ** (j + 1) * math.comb(n, j) for j in every] for n in every])
    weights = jnp.where(averages, binomials[count, passed], 0)
    at_once = jnp.where(count == 0, 1.0, 0.0)
    return StateSpace(transition, drive, weights @ transition, weights @ drive + at_once)


def negative_binomial_weights(
    stages: ScalarLike, decay: ScalarLike, steps: int
) -> Float[Array, " step"]:
    r"""Return the weights that equal averages in a row give to past inputs.

    .. math:: h_j = \binom{j + k - 1}{k - 1} a^j (1 - a)^k, \quad j = 0, 1, \dots

    the impulse response of `cascade([decay] * stages)`. They sum to 1, and their mean age is
    :math:`k a / (1 - a)`. The sum of the first t weights is the regularized incomplete beta
    function :math:`I_{1-a}(k, t)`. They are computed from logarithms, so they do not underflow
    early.

    Args:
        stages: k >= 0, an integer; may be traced. For k = 0, the weights are 1, 0, 0, ...
        decay: :math:`a \in [0, 1)`; may be traced.
        steps: Number of weights; static.

    Returns:
        The weights, the latest input first.

    Raises:
        TypeError: If `stages` is not an integer, or `steps` is not a concrete integer.
        ValueError: If a number is out of range.

    Example:
        >>> import nested_jax.theory as theory
        >>> [round(float(weight), 4) for weight in theory.negative_binomial_weights(2, 0.5, 4)]
        [0.25, 0.25, 0.1875, 0.125]
    """
    valid = check_count("stages", stages)
    check_int_fits("stages", stages)
    decay = check_unit_interval("decay", decay)
    check_length("steps", steps, most=MOST_STEPS)
    take = jnp.log(jnp.asarray(complement(decay), float))
    age = jnp.arange(steps - 1, dtype=float)
    ratios = jnp.asarray(decay, float) * ((age + stages) / (age + 1))
    # A ratio of 0 has no logarithm to differentiate, so products stand in for the sums: they cannot
    # overflow, since all that follow the first ratio of 0 are 0.
    edge = ratios[:1] == 0
    logs = stages * take + _started(0, jnp.cumsum(jnp.log(jnp.where(edge, 1, ratios))))
    products = _started(1, jnp.cumprod(jnp.where(edge, ratios, 1)))
    return or_nan(valid, jnp.exp(logs) * products)


def _started(first, rest):
    return jnp.concatenate([jnp.full(1, first, rest.dtype), rest])


def mixture_weights(
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array,
) -> Float[Array, " stage"]:
    r"""Return a cascade of unequal decays as a signed mixture of parallel averages.

    .. math::

        \prod_i \frac{(1 - a_i) z}{z - a_i} = \sum_i r_i \frac{(1 - a_i) z}{z - a_i}, \quad
        r_i = \prod_{j \ne i} \frac{a_i (1 - a_j)}{a_i - a_j}, \quad \sum_i r_i = 1 .

    The closer two decays are, the larger their weights, with opposite signs.

    Args:
        decays: :math:`a_1, \dots, a_K \in [0, 1)`, distinct; K is static, the values may be
            traced. Equal traced decays give inf or NaN.

    Returns:
        :math:`r_1, \dots, r_K`.

    Raises:
        TypeError: If `decays` holds something that is not a number.
        ValueError: If a concrete decay lies outside [0, 1), or two concrete decays are equal.

    Example:
        >>> import nested_jax.theory as theory
        >>> [round(float(weight), 4) for weight in theory.mixture_weights([0.5, 0.75])]
        [-0.5, 1.5]
    """
    decays = check_decays(decays)
    known = sorted(float(decay) for decay in decays if not is_traced(decay))
    for below, above in itertools.pairwise(known):
        if below == above:
            raise ValueError(f"`decays` must differ from each other, got {above} twice.")
    keeps = jnp.array([jnp.asarray(decay, float) for decay in decays], float)
    takes = jnp.array([jnp.asarray(complement(decay), float) for decay in decays], float)
    other = ~jnp.eye(len(decays), dtype=bool)
    apart = jnp.where(other, keeps[:, None] - keeps, 1)
    return jnp.prod(jnp.where(other, keeps[:, None] * takes / apart, 1), axis=1)


def _one_state(transition, drive, output, feedthrough) -> StateSpace:
    numbers = (jnp.asarray(x, float) for x in (transition, drive, output, feedthrough))
    a, b, c, d = numbers
    return StateSpace(a[None, None], b[None], c[None], d)
