"""M3, multi-scale momentum Muon: a fast and a slow memory, both orthogonalized."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.cascade import average
from nested_jax._core.checks import (
    check_choice,
    check_count,
    check_int_fits,
    check_non_negative,
    check_static_count,
    check_unit_interval,
    is_traced,
    or_nan,
)
from nested_jax._core.dtypes import (
    cast,
    check_updates,
    complement,
    in_dtype,
    incremented,
    narrowed,
    place,
    positive_root,
    squared,
    transformation,
    widened_real,
    zeros_widened,
)
from nested_jax._core.types import ScalarLike, Updates
from nested_jax.transforms._matrices import ITERATIONS, orthogonalized

READINGS = ("ema", "accumulate")


class ScaleByM3State(NamedTuple):
    """State of `scale_by_m3`.

    Attributes:
        phase: How many updates came since the slow memory changed last, int32.
        fast: The fast memory, shaped like the parameters, in their dtype or float32 if that is
            wider.
        slow: The slow memory, likewise.
        block: The sum of the updates since the slow memory changed last, likewise.
        slow_direction: The orthogonalized slow memory, likewise.
        nu: The second moment, likewise but real.
        nu_gain: The scalar divisor of the second moment; 1 for ``"accumulate"``.
    """

    phase: jax.Array
    fast: Updates
    slow: Updates
    block: Updates
    slow_direction: Updates
    nu: Updates
    nu_gain: jax.Array


def scale_by_m3(
    b1: ScalarLike = 0.95,
    *,
    b2: ScalarLike = 0.999,
    b3: ScalarLike = 0.9,
    slow_weight: ScalarLike = 0.5,
    period: ScalarLike = 32,
    eps: ScalarLike = 1e-8,
    ns_steps: int = 5,
    iteration: str = "quintic",
    reading: str = "ema",
) -> optax.GradientTransformation:
    r"""Add the orthogonalized directions of a fast and of a slow memory of each matrix.

    With :math:`M = S = V = 0` and the slow direction :math:`O_S = 0` at first, step t = 1, 2, ...
    with the update g computes

    .. math::

        M \leftarrow \beta_1 M + (1 - \beta_1) g, \quad
        V \leftarrow \beta_2 V + (1 - \beta_2) |g|^2, \quad
        \hat V = V / (1 - \beta_2^t),

    and returns

    .. math::

        \frac{\operatorname{NS}(M) + \alpha O_S}{d}, \quad
        d = \max\left(1, \frac{\sqrt{\hat V} + \varepsilon}
        {\sqrt{\operatorname{mean} \hat V} + \varepsilon} \right),

    with the mean over the entries of the matrix. If t is a multiple of the period f, it then
    computes the slow memory for the steps after it:

    .. math:: S \leftarrow \beta_3 S + (1 - \beta_3) \sum_{s = t - f + 1}^{t} g_s, \quad
        O_S \leftarrow \operatorname{NS}(S).

    NS divides a matrix by its Frobenius norm and takes `ns_steps` Newton-Schulz steps
    :math:`X \leftarrow c_0 X + (c_1 A + c_2 A^2) X`, :math:`A = X X^\mathsf{H}`, which move all
    singular values towards 1. It removes the scale, so a bias correction of M or S would change
    nothing. With `slow_weight` 0 and equal magnitudes in all entries, this is Muon without
    Nesterov momentum.

    The divisor d damps entries whose second moment is above the mean and amplifies none, so
    no entry exceeds :math:`1 + \alpha` times the largest singular value that NS leaves (1 for
    ``"cubic"``, about 1.2 for ``"quintic"``). Squares are computed in float32 or wider. In float32
    the square of an entry beyond 1.8e19 is infinite, V never forgets it, and the entry is NaN from
    then on; clip before, or use float64.

    **The printed form** is ``reading="accumulate"``: all three memories are sums and the division
    is not bounded,

    .. math::

        M \leftarrow M + \beta_1 g, \quad V \leftarrow V + \beta_2 |g|^2, \quad
        S \leftarrow S + \beta_3 \sum_s g_s, \quad d = \sqrt{V} + \varepsilon .

    In this form :math:`\beta_1` and :math:`\beta_3` change nothing, because NS removes the scale of
    both sums. :math:`\beta_2` only multiplies the step by :math:`1 / \sqrt{\beta_2}`. At the end
    of a block :math:`S / \beta_3 = M / \beta_1`: the slow memory is the fast one, sampled. NS fills
    in entries whose gradient is always 0, and there :math:`d = \varepsilon`: their steps are of the
    order of :math:`10^5` for :math:`\varepsilon = 10^{-6}`, and 100 times that by default.

    Args:
        b1: :math:`\beta_1 \in [0, 1)` of the fast memory; may be traced.
        b2: :math:`\beta_2 \in [0, 1)` of the second moment; may be traced.
        b3: :math:`\beta_3 \in [0, 1)` of the slow memory; may be traced.
        slow_weight: :math:`\alpha \ge 0`; may be traced.
        period: :math:`f \ge 1`, an integer: how many steps the slow memory waits between its
            changes; may be traced.
        eps: :math:`\varepsilon \ge 0`; may be traced.
        ns_steps: The number of Newton-Schulz steps, at least 1. Static.
        iteration: The coefficients :math:`c_0, c_1, c_2`: ``"quintic"`` for Muon's
            (3.4445, -4.7750, 2.0315), which take singular values of 0.003 to 1 times the norm into
            0.68 to 1.21 in 5 steps, or ``"cubic"`` for (1.5, -0.5, 0), which converge to 1. Static.
        reading: ``"ema"`` or ``"accumulate"``, the printed form. Static.

    Returns:
        A transformation of a tree of float or complex matrices; shapes and dtypes are kept, and
        `params` is not used. Its state holds five copies of the parameters.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range, `iteration` or `reading` is not one of its
            words, or, in `init`, a leaf is not of rank 2. `m3` gives such leaves to Adam.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_m3(ns_steps=20, iteration="cubic")
        >>> gradient = jnp.array([[3.0, 0.0], [0.0, -0.5]])
        >>> update, state = tx.update(gradient, tx.init(gradient))
        >>> update.round(2)  # singular values of 1; the large entry is divided by 3 / 1.52
        Array([[ 0.51,  0.  ],
               [ 0.  , -1.  ]], dtype=float32)

    References:
        Behrouz, Razaviyayn, Zhong & Mirrokni (2025), Nested Learning, Algorithm 1 and equation 75,
        doi:10.48550/arXiv.2512.24695. Departures: averages and a bounded division by default; the
        learning rate and its sign come after the transform. The quintic: Jordan et al. (2024),
        Muon, https://kellerjordan.github.io/posts/muon/.
    """
    b1, b2, b3 = (check_unit_interval(n, b) for n, b in (("b1", b1), ("b2", b2), ("b3", b3)))
    slow_weight = check_non_negative("slow_weight", slow_weight)
    eps = check_non_negative("eps", eps)
    valid = check_count("period", period, 1)
    check_int_fits("period", period)
    check_static_count("ns_steps", ns_steps, 1)
    check_choice("iteration", iteration, ITERATIONS)
    check_choice("reading", reading, READINGS)
    if is_traced(b3):  # A slow memory of NaN would not show before the first block ends.
        valid &= b3 == b3
    slow_weight = or_nan(valid, slow_weight)
    sums = reading == "accumulate"
    of_fast, of_nu, of_slow = ((1.0, b) if sums else (b, complement(b)) for b in (b1, b2, b3))
    direction = functools.partial(orthogonalized, steps=ns_steps, iteration=iteration)

    def init_fn(params):
        jax.tree.map_with_path(_check_matrix, params)
        nu = zeros_widened(params, widened_real)
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(nu))
        # Allocate zeros for each: a buffer that appears twice cannot be donated.
        fast, slow, block, o = (zeros_widened(params) for _ in range(4))
        gain = jnp.full((), 1 if sums else 0, dtype)
        return ScaleByM3State(jnp.zeros((), jnp.int32), fast, slow, block, o, nu, gain)

    def update_fn(updates, state, params):
        del params
        check_updates(updates, state.fast)
        wide = jax.tree.map(lambda m, u: cast(u, m.dtype), state.fast, updates)
        fast = average(*of_fast, state.fast, wide)
        nu = average(*of_nu, state.nu, jax.tree.map(squared, wide))
        gain = state.nu_gain
        if not sums:
            gain = average(*of_nu, gain, jnp.ones_like(gain))
        numbers = in_dtype(slow_weight, gain, eps)

        def leaf(m, o, v):
            weight, divisor, floor = numbers(v.dtype)
            v = v / divisor
            d = positive_root(v) + floor
            if not sums:
                d = jnp.maximum(1, d / (positive_root(jnp.mean(v)) + floor))
            return (direction(m) + weight * o) / d

        outflow = jax.tree.map(leaf, fast, state.slow_direction, nu)
        block = jax.tree.map(jnp.add, state.block, wide)
        phase = incremented(state.phase)
        due = phase >= period

        def changed(slow, block, o):
            del o
            slow = average(*of_slow, slow, block)
            return slow, jax.tree.map(jnp.zeros_like, block), jax.tree.map(direction, slow)

        # Newton-Schulz is nearly all of the cost.
        memories = (state.slow, block, state.slow_direction)
        slow, block, o = jax.lax.cond(due, changed, lambda *kept: kept, *memories)
        phase = jnp.where(due, 0, phase)
        return narrowed(outflow, updates), ScaleByM3State(phase, fast, slow, block, o, nu, gain)

    return transformation(init_fn, update_fn, ScaleByM3State)


def _check_matrix(path: Any, x: Any) -> None:
    if jnp.ndim(x) != 2:
        rule = "`scale_by_m3` takes matrices only, and `m3` gives other leaves to Adam"
        raise ValueError(f"{rule}, got shape {jnp.shape(x)}{place(path)}.")
