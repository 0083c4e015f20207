"""Adam: the average gradient over the root of the average squared gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.cascade import average
from nested_jax._core.checks import check_flag, check_non_negative, check_unit_interval
from nested_jax._core.dtypes import (
    cast,
    check_updates,
    complement,
    in_dtype,
    narrowed,
    positive_root,
    squared,
    transformation,
    widened_real,
    zeros_widened,
)
from nested_jax._core.types import ScalarLike, Updates


class ScaleByAdamState(NamedTuple):
    r"""State of `scale_by_adam`.

    The gains replace a step count. In a finished optimizer,
    `optax.tree_utils.tree_get(state, "count")` finds the count of `scale_by_learning_rate`.

    Attributes:
        mu: The average m of the updates, shaped like the parameters, in their dtype or float32 if
            that is wider.
        nu: The average v of their squared magnitudes, likewise but real.
        mu_gain: The scalar divisor of m: :math:`1 - \beta_1^t`, or 1 without `debias`.
        nu_gain: The scalar divisor of v: :math:`1 - \beta_2^t`, or 1 without `debias`.
        nu_max: With `amsgrad`, the largest :math:`\hat v` so far, like `nu`; else ().
    """

    mu: Updates
    nu: Updates
    mu_gain: jax.Array
    nu_gain: jax.Array
    nu_max: Updates


def scale_by_adam(
    b1: ScalarLike = 0.9,
    *,
    b2: ScalarLike = 0.999,
    eps: ScalarLike = 1e-8,
    amsgrad: bool = False,
    debias: bool = True,
) -> optax.GradientTransformation:
    r"""Divide the average update by the root of the average squared update.

    With m, v and both gains :math:`c_i` starting at 0,

    .. math::

        m \leftarrow \beta_1 m + (1 - \beta_1) u, &\quad
        v \leftarrow \beta_2 v + (1 - \beta_2) |u|^2, \\
        c_i \leftarrow \beta_i c_i + (1 - \beta_i), &\quad
        \hat m = m / c_1, \; \hat v = v / c_2,

    and return :math:`\hat m / (\sqrt{\hat v} + \varepsilon)`. This is `optax.scale_by_adam`. For
    constant :math:`\beta_i` the gain :math:`c_i` equals :math:`1 - \beta_i^t`. Carrying the gain
    avoids the cancellation in that power, needs no step count and stays exact for scheduled decays.
    The gain also rounds the decay as the average does, so that rounding cancels.

    A constant update becomes its sign; an alternating one nearly vanishes. If
    :math:`\beta_1^2 < \beta_2`, the output is at most
    :math:`(1 - \beta_1) / \sqrt{(1 - \beta_2) (1 - \beta_1^2 / \beta_2)}` (7.2703 by default).
    Updates that grow as :math:`(\beta_2 / \beta_1)^t` attain this bound. The 3.1623 in section 2.1
    of the paper is the output for a single update among zeros.

    Zeros stay 0 and have finite derivatives, because the root is taken of :math:`\hat v` or the
    dtype's smallest normal number (1.2e-38 in float32), whichever is larger. With `eps` = 0,
    entries below 1.1e-19 are therefore small compared with that root. Squares are computed in
    float32 or wider. In float32 the square of an entry beyond 1.8e19 is infinite. The average
    never forgets an infinity, so that entry is 0 from then on; clip before, or use float64.

    With `amsgrad` the largest :math:`\hat v` so far replaces :math:`\hat v`, so the divisor never
    falls. Without `debias` the gains start and stay at 1, and the first step is
    :math:`(1 - \beta_1) / \sqrt{1 - \beta_2}` (3.16 by default) instead of 1.

    Args:
        b1: :math:`\beta_1 \in [0, 1)`, may be traced.
        b2: :math:`\beta_2 \in [0, 1)`, may be traced.
        eps: :math:`\varepsilon \ge 0`, outside the root, may be traced.
        amsgrad: Whether to divide by the root of the largest second moment so far. Static.
        debias: Whether to divide m and v by their gains. Static.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. Its state holds two copies of the parameters, three with `amsgrad`.

    Raises:
        TypeError: If a hyperparameter is not a number, or a flag is not a bool.
        ValueError: If a concrete decay lies outside [0, 1), or `eps` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_adam()
        >>> state = tx.init(jnp.zeros(3))
        >>> update, state = tx.update(jnp.array([4.0, -0.01, 0.0]), state)
        >>> update.round(4)  # the first step is the sign
        Array([ 1., -1.,  0.], dtype=float32)

    References:
        Kingma & Ba (2015), Algorithm 1, whose defaults these are, doi:10.48550/arXiv.1412.6980.
        AMSGrad: Reddi, Kale & Kumar (2018), Algorithm 2, doi:10.48550/arXiv.1904.09237. Departures:
        the paper has no bias correction (use `debias=False`) and no :math:`\varepsilon` (use
        `eps=0`). The maximum is over corrected :math:`\hat v`, as in `optax.amsgrad`;
        `torch.optim.Adam(amsgrad=True)` takes the maximum of v and then corrects it.
    """
    b1 = check_unit_interval("b1", b1)
    b2 = check_unit_interval("b2", b2)
    eps = check_non_negative("eps", eps)
    check_flag("amsgrad", amsgrad)
    check_flag("debias", debias)
    take1, take2 = complement(b1), complement(b2)

    def init_fn(params):
        mu, nu = zeros_widened(params), zeros_widened(params, widened_real)
        nu_max = zeros_widened(params, widened_real) if amsgrad else ()
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(nu))
        mu_gain, nu_gain = (jnp.full((), 0 if debias else 1, dtype) for _ in range(2))
        return ScaleByAdamState(mu, nu, mu_gain, nu_gain, nu_max)

    def update_fn(updates, state, params):
        del params
        check_updates(updates, state.mu)
        # Widen before squaring: in float16, 256 squared is infinite.
        squares = jax.tree.map(lambda m, u: squared(cast(u, m.dtype)), state.mu, updates)
        mu = average(b1, take1, state.mu, updates)
        nu = average(b2, take2, state.nu, squares)
        # A gain is the same average of the constant 1; once it is 1 it stays 1.
        one = jnp.ones_like(state.mu_gain)
        mu_gain = average(b1, take1, state.mu_gain, one)
        nu_gain = average(b2, take2, state.nu_gain, one)
        numbers = in_dtype(mu_gain, nu_gain, eps)
        nu_hat = jax.tree.map(lambda v: v / numbers(v.dtype)[1], nu)
        if amsgrad and jax.tree.structure(state.nu_max) != jax.tree.structure(nu_hat):
            raise ValueError(
                "`state` must be of Adam with `amsgrad`, got a state without `nu_max`."
            )
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu_hat) if amsgrad else ()

        def leaf(m, v):
            gain, _, floor = numbers(v.dtype)
            return m / gain / (positive_root(v) + floor)

        outflow = jax.tree.map(leaf, mu, nu_max if amsgrad else nu_hat)
        return narrowed(outflow, updates), ScaleByAdamState(mu, nu, mu_gain, nu_gain, nu_max)

    return transformation(init_fn, update_fn, ScaleByAdamState)
