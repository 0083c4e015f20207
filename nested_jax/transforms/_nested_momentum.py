"""Nested momentum: a cascade of exponential averages."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nested_jax._core.cascade import cascade, check_decays, check_levels, stage_decays
from nested_jax._core.checks import check_choice, check_flag, is_traced, on_host, or_nan
from nested_jax._core.dtypes import (
    cast,
    check_arrays,
    check_updates,
    complement,
    in_dtype,
    narrowed,
    transformation,
    zeros_widened,
)
from nested_jax._core.types import ScalarLike, Updates
from nested_jax.transforms._periods import Periods, check_periods, periodic_cascade, rested

READOUTS = ("last", "zero_lag", "mean")


class ScaleByNestedMomentumState(NamedTuple):
    r"""State of `scale_by_nested_momentum`, which needs no step count.

    Attributes:
        momenta: One tree per stage, outermost (:math:`M_1`) first, shaped like the parameters,
            in their dtype or float32 if that is wider.
        gains: With `debias`, one scalar per stage: its current gain :math:`r_i` (defined in
            `scale_by_nested_momentum`); else empty.
        periods: With `periods`, what the stages remember between their changes; else empty.
    """

    momenta: tuple[Updates, ...]
    gains: tuple[jax.Array, ...]
    periods: Periods | tuple[()] = ()


def scale_by_nested_momentum(
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array,
    *,
    periods: Sequence[ScalarLike] | np.ndarray | jax.Array | None = None,
    debias: bool = False,
    readout: str = "last",
) -> optax.GradientTransformation:
    r"""Pass updates through a cascade of exponential averages.

    Let :math:`M_{K+1}` be the incoming update. All :math:`M_i` start at 0, and each step computes

    .. math:: M_i \leftarrow a_i M_i + (1 - a_i) M_{i+1}, \quad i = K, \dots, 1,

    and returns :math:`M_1`. With equal decays the update from :math:`j` steps ago has weight
    :math:`\binom{j + K - 1}{K - 1} a^j (1 - a)^K`. The weights sum to 1 and their mean age is
    :math:`K a / (1 - a)` steps. One stage is `optax.ema(a, debias=False)`; no stage is
    `optax.identity()`.

    A stage with decay 0 passes its input on unchanged. Cascades of different depth can therefore
    share one program if the shorter is padded with zeros (`nested_decays`). Padded and unpadded
    results are equal bit by bit, even after infinite updates. The derivative with respect to a
    decay of exactly 0 is 0.

    With `periods` :math:`C_i`, stage i changes only in the steps t = 1, 2, ... that are multiples
    of :math:`C_i`, by the mean of its last :math:`C_i` inputs, this step's included:

    .. math:: M_i \leftarrow a_i M_i + (1 - a_i) \frac{1}{C_i} \sum_{s = t - C_i + 1}^{t} M_{i+1,s},

    where :math:`M_{i+1,s}` is the value of the stage inside after step s. In between, it keeps its
    value, and the output repeats. A period of 1 is the recurrence above, bit by bit. A stage of
    decay 0 passes its input on whatever its period. The map from updates to outputs then changes
    from step to step, and repeats after the least common multiple of the periods.

    With `debias`, the output is :math:`M_1 / c_1`, where :math:`c_i` is the response of the same
    cascade to the constant 1. A constant gradient then passes unchanged from the first step on.
    This is exact for unequal, scheduled and traced decays. For equal decays :math:`c_1` after t
    steps is the regularized incomplete beta function :math:`I_{1-a}(K, t)`, not
    :math:`(1 - a^t)^K`. In deep cascades :math:`M_1` and :math:`c_1` would underflow
    (:math:`c_1` starts at :math:`(1 - a)^K`). The state therefore holds
    :math:`\hat M_i = M_i / c_i` and the gains :math:`r_i = c_i / c_{i+1}`:

    .. math::

        r_i' &= a_i r_i\, c_{i+1} / c_{i+1}' + 1 - a_i, \\
        \hat M_i &\leftarrow (1 - \gamma_i) \hat M_i + \gamma_i \hat M_{i+1}, \quad
        \gamma_i = (1 - a_i) / r_i'.

    `readout` chooses the combination of stages that is returned. Let n be the number of stages
    with nonzero decay, so that padding does not change a readout. Let :math:`E_j` be the update
    after j averages: :math:`E_0` is the incoming update and :math:`E_n = M_1`.

    - ``"last"``: :math:`E_n`.
    - ``"zero_lag"``: :math:`\sum_{j=1}^n (-1)^{j+1} \binom{n}{j} E_j`, which for
      equal decays is :math:`1 - (1 - E)^n`. Its mean delay is 0 for n > 1. It is the double
      (DEMA, n = 2) or triple (TEMA, n = 3) exponential moving average; without stages it is
      :math:`E_0`. The coefficients sum to 1 and their magnitudes to :math:`2^n - 1`, which
      amplifies rounding errors by that factor.
    - ``"mean"``: :math:`\frac{1}{n+1} \sum_{j=0}^n E_j`, the mean of the n + 1 levels, the
      gradient included.

    Every readout has gain 1. With `debias` the corrected stages are combined. The output of a stage
    that has not changed yet is 0, with `debias` and without.

    Args:
        decays: :math:`a_1, \dots, a_K \in [0, 1)`, outermost first: a sequence of scalars or an
            array of shape (K,). K is static, the values may be traced.
        periods: :math:`C_1, \dots, C_K \ge 1`, integers, outermost first; may be traced. None, the
            default, stands for 1 everywhere and needs no state.
        debias: Whether to divide by the cascade's response to the constant 1. Static.
        readout: Which combination of the stages to return: ``"last"``, ``"zero_lag"`` or
            ``"mean"``. Static.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. Its state holds K copies of the parameters, 2 K with `periods`.

    Raises:
        TypeError: If an entry of `decays` is not a number, `debias` is not a bool, or `readout`
            is not a string.
        ValueError: If `decays` is an array of rank other than 1, a concrete decay lies
            outside [0, 1), `periods` has another length or a concrete one is below 1, or `readout`
            is not one of the three words.

    Example:
        >>> import jax.numpy as jnp, optax, nested_jax as nj
        >>> tx = optax.chain(
        ...     nj.scale_by_nested_momentum([0.5, 0.5]), optax.scale_by_learning_rate(0.1)
        ... )
        >>> params = jnp.array([1.0, 2.0])
        >>> update, state = tx.update(jnp.array([4.0, -4.0]), tx.init(params))
        >>> update  # -0.1 times a quarter of the first gradient
        Array([-0.1,  0.1], dtype=float32)

    References:
        The level recurrence of the published level sweep, reproduced by
        `python -m experiments levels`. The bias correction extends Kingma & Ba (2015),
        section 3, doi:10.48550/arXiv.1412.6980, to a cascade. Periods: the continuum memory of
        Behrouz et al. (2025), equations 70 and 71, doi:10.48550/arXiv.2512.24695, read on momenta;
        departure: there a level learns by gradient descent, here it averages. DEMA and TEMA:
        Mulloy (1994), Technical Analysis of Stocks & Commodities 12:1 and 12:2. Departure: they
        use one decay; here unequal decays are combined with the same binomial coefficients.
    """
    check_flag("debias", debias)
    check_choice("readout", readout, READOUTS)
    decays = check_decays(decays)
    if periods is not None:
        periods, decays = check_periods(periods, decays)
    takes = [complement(decay) for decay in decays]
    weights = None if readout == "last" else _readout_weights(decays, readout)

    def init_fn(params):
        # Allocate zeros for each stage: a buffer that appears twice cannot be donated.
        momenta = tuple(zeros_widened(params) for _ in decays)
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(momenta))
        gains = tuple(jnp.zeros((), dtype) for _ in decays) if debias else ()
        memory = () if periods is None else rested(params, len(decays), debias)
        return ScaleByNestedMomentumState(momenta=momenta, gains=gains, periods=memory)

    def update_fn(updates, state, params):
        del params
        kept, gained = len(state.momenta), len(state.gains)
        if (kept, gained) != (len(decays), debias * len(decays)):
            rule = f"`state` must be of nested momentum with {len(decays)} stages and `debias`"
            raise ValueError(f"{rule} {debias}, got {kept} momenta and {gained} gains.")
        if isinstance(state.periods, Periods) != (periods is not None):
            asked, got = ("with", "without") if periods is not None else ("without", "with")
            raise ValueError(f"`state` must be of nested momentum {asked} periods, got one {got}.")
        if state.momenta:
            check_updates(updates, state.momenta[0])
        else:
            check_arrays(updates)
        memory = state.periods
        if periods is not None:
            numbers = (decays, takes, periods)
            momenta, gains, memory = periodic_cascade(
                *numbers, state.momenta, state.gains, memory, updates
            )
        elif debias:
            keeps, fresh_takes, gains = _debiased(decays, takes, state.gains)
            momenta = cascade(keeps, fresh_takes, state.momenta, updates)
        else:
            gains = ()
            momenta = cascade(decays, takes, state.momenta, updates)
        outflow = momenta[0] if momenta else updates
        if weights is not None and momenta:
            outflow = _combined(weights, (*momenta, updates))
        state = ScaleByNestedMomentumState(momenta=momenta, gains=gains, periods=memory)
        return narrowed(outflow, updates), state

    return transformation(init_fn, update_fn, ScaleByNestedMomentumState)


def _debiased(decays, takes, gains):
    """Return weights that keep the cascade's response to a constant at 1, and its new gains."""
    keeps, fresh_takes, fresh_gains = [], [], []
    shrink = 1.0  # c_{i+1} / c_{i+1}', which is 1 for the constant input.
    for decay, take, gain in zip(decays[::-1], takes[::-1], gains[::-1], strict=True):
        a, b = jnp.asarray(decay, gain.dtype), jnp.asarray(take, gain.dtype)
        fresh = a * gain * shrink + b
        keeps.append(a * gain * shrink / fresh)
        fresh_takes.append(b / fresh)
        fresh_gains.append(fresh)
        shrink = gain / fresh * shrink
    return keeps[::-1], fresh_takes[::-1], tuple(fresh_gains[::-1])


def _readout_weights(decays: Sequence[ScalarLike], readout: str) -> list[Any]:
    """Return the weights of the stages, outermost first, then the weight of the input."""
    xp: Any = jnp if any(map(is_traced, decays)) else np
    averages = xp.asarray([on_host(decay) != 0 for decay in decays], bool)
    # The number of averages behind the output of each stage.
    passed = xp.cumsum(averages[::-1])[::-1]
    count = xp.sum(averages)
    if readout == "mean":
        of_stages, of_input = averages / (count + 1), 1 / (count + 1)
    else:
        signed = [
            [(-1.0) ** (j + 1) * math.comb(n, j) for j in range(len(decays) + 1)]
            for n in range(len(decays) + 1)
        ]
        of_stages = xp.where(averages, xp.asarray(signed)[count, passed], 0.0)
        of_input = xp.where(count == 0, 1.0, 0.0)
    return [*(of_stages[i] for i in range(len(decays))), of_input]


def _combined(weights: Sequence[Any], levels: Sequence[Updates]) -> Updates:
    """Return the weighted sum of trees, in the dtype of the first."""
    # Leave out terms whose weight is 0: the term may be infinite, and 0 times infinity is NaN.
    total = jax.tree.map(jnp.zeros_like, levels[0])
    for weight, tree in zip(weights, levels, strict=True):
        if not is_traced(weight) and on_host(weight) == 0:
            continue
        total = jax.tree.map(functools.partial(_plus, in_dtype(weight)), total, tree)
    return total


def _plus(weight: Callable[[Any], tuple[jax.Array, ...]], total: Any, x: Any) -> jax.Array:
    """Return total + weight * x, or `total` if the weight is 0."""
    (w,) = weight(total.dtype)
    more = total + w * cast(x, total.dtype)
    return jnp.where(w == 0, total, more) if is_traced(w) else more


def nested_decays(
    levels: ScalarLike, *, decay: ScalarLike = 0.95, max_levels: int | None = None
) -> np.ndarray | jax.Array:
    r"""Return equal decays for `levels` levels of momentum, padded with zeros.

    Levels are counted as in the published level sweep: the innermost level is the gradient itself,
    so m levels are k = m - 1 averages, and m = 1 is plain gradient descent. The vector is
    :math:`(a, \dots, a, 0, \dots, 0)` with k entries a. A stage of decay 0 is exactly the identity,
    so the number of levels can be traced and vmapped like any other hyperparameter.

    Args:
        levels: m >= 1, an integer, may be traced.
        decay: :math:`a \in [0, 1)`, may be traced.
        max_levels: Static; defaults to `levels`, which then must not be traced.

    Returns:
        Shape (max_levels - 1,); a float64 NumPy array if all arguments are concrete, else a JAX
        array. It is all NaN if a traced argument is out of range. With `max_levels=1` it is empty
        and cannot show that; `nested_momentum` returns NaN updates in that case, too.

    Raises:
        TypeError: If `levels` is not an integer, or traced without `max_levels`.
        ValueError: If `levels` is not in 1 ... `max_levels`, or `decay` lies outside [0, 1).

    Example:
        >>> import nested_jax as nj
        >>> nj.nested_decays(3, decay=0.95, max_levels=5)
        array([0.95, 0.95, 0.  , 0.  ])
    """
    max_levels, valid, decay = check_levels("levels", levels, decay, "max_levels", max_levels)
    return or_nan(valid, stage_decays(on_host(levels) - 1, decay, max_levels - 1))


def matched_delay_decays(
    levels: ScalarLike, *, decay: ScalarLike = 0.95, max_levels: int | None = None
) -> np.ndarray | jax.Array:
    r"""Return decays for `levels` levels whose total delay is that of one average.

    One average of decay a delays by :math:`d = a / (1 - a)` steps and k equal ones by :math:`k d`,
    which makes deep cascades unstable. Here each of the k = m - 1 averages has decay

    .. math:: a_k = \frac{d}{k + d} = \frac{a}{k (1 - a) + a},

    and delays by :math:`d / k`, so the cascade delays by d for every k. With m = 2 this is
    `nested_decays`.

    Args:
        levels: m >= 1, an integer, may be traced.
        decay: The decay a of the single average to match, in [0, 1), may be traced.
        max_levels: Static; defaults to `levels`, which then must not be traced.

    Returns:
        Shape (max_levels - 1,), padded with zeros; a float64 NumPy array if all arguments are
        concrete, else a JAX array. It is all NaN if a traced argument is out of range, except that
        with `max_levels=1` it is empty.

    Raises:
        TypeError: If `levels` is not an integer, or traced without `max_levels`.
        ValueError: If `levels` is not in 1 ... `max_levels`, or `decay` lies outside [0, 1).

    Example:
        >>> import nested_jax as nj
        >>> nj.matched_delay_decays(3, decay=0.5)
        array([0.33333333, 0.33333333])
    """
    max_levels, valid, decay = check_levels("levels", levels, decay, "max_levels", max_levels)
    stages, decay = on_host(levels) - 1, on_host(decay)
    # Without stages no decay is read, but a = 0 must not give 0 / 0.
    xp = jnp if is_traced(levels) or is_traced(decay) else np
    matched = decay / (xp.maximum(stages, 1) * complement(decay) + decay)
    return or_nan(valid, stage_decays(stages, matched, max_levels - 1))
