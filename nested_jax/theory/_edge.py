"""How far a training run is from its edge of stability."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from nested_jax._core.checks import check_non_negative, check_unit_interval, is_traced
from nested_jax._core.states import find
from nested_jax._core.types import OptState, Params, ScalarLike, Updates
from nested_jax.theory._curvature import ITERATIONS, check_sizes, flattened, spectrum
from nested_jax.theory._stability import stability_limit
from nested_jax.theory._state_space import System, as_state_space
from nested_jax.transforms import FactoredMoment, ScaleByAdamState, ScaleByFactoredRmsState

# Of what is divided by: the factories' defaults.
EPS = {
    ScaleByAdamState: 1e-8,
    optax.ScaleByAdamState: 1e-8,
    optax.ScaleByRmsState: 1e-8,
    optax.ScaleByRssState: 1e-7,
    ScaleByFactoredRmsState: 0.0,  # It is in the moments already.
    optax.FactoredState: 0.0,
}


def edge_of_stability(
    loss: Callable[[Params], Any],
    params: Params,
    *,
    learning_rate: ScalarLike,
    momentum: System,
    preconditioner: Updates | None = None,
    iterations: int = ITERATIONS,
    key: jax.Array | None = None,
) -> Float[Array, ""]:
    r"""Return how close a run is to the edge of stability, which a quadratic has at exactly 1.

    .. math:: \frac{\eta\, \lambda_{\max}(P^{-1} H)}{c^*} ,

    with H the Hessian of the loss, P the preconditioner and :math:`c^*` the `stability_limit` of
    the momentum. On a quadratic with constant P, the run diverges exactly if this exceeds 1. In
    training with large batches, it rises to about 1 and stays there (Cohen et al.): for Adam with
    :math:`\beta_1 = 0.9`, whose limit is 38, that is :math:`\lambda_{\max} \approx 38 / \eta`.

    It takes `iterations` Hessian-vector products, each at the cost of about four evaluations of
    the loss. To record it along a run, call it in the `record` of `rollout`, on a loss of fixed
    data.

    Args:
        loss: A twice differentiable function from the parameters to a scalar.
        params: A tree of float arrays.
        learning_rate: :math:`\eta`, times the schedule's multiplier if there is one; may be traced.
            1 if `momentum` is a finished optimizer, which has its own.
        momentum: What happens to the preconditioned gradients, a linear transform or its
            `StateSpace`: `optax.trace` or `ema`, a `cascade`, `optax.identity()` for none. For
            Adam an average with :math:`\beta_1`, such as ``theory.ema(0.9)``.
        preconditioner: The diagonal of P, a tree like `params`, not negative: what the gradients
            are divided by (`preconditioner_of`). By default 1. An infinite entry does not move.
        iterations: Maximum number of Hessian-vector products; static. The largest eigenvalue is
            exact for at most this many parameters, and approached from below for more.
        key: Key for the start vector of the Lanczos method; `jax.random.key(0)` by default.

    Returns:
        A scalar in JAX's default precision. Negative if the loss curves downward in every
        direction, NaN if the Hessian is not finite or an entry of P is negative or NaN.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `momentum` is not linear and time-invariant or does not forget,
            `learning_rate` is negative or not finite, `preconditioner` does not have the shapes of
            `params`, or `iterations` is out of range.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from nested_jax import theory
        >>> loss = lambda p: p[0] ** 2 + 50 * p[1] ** 2  # curvatures 2 and 100
        >>> gauge = theory.edge_of_stability(
        ...     loss, jnp.ones(2), learning_rate=0.04, momentum=optax.trace(0.9)
        ... )
        >>> f"{gauge:.4f}"  # 4 of 3.8
        '1.0526'

    References:
        Cohen et al. (2021), doi:10.48550/arXiv.2103.00065; (2022) for adaptive methods,
        doi:10.48550/arXiv.2207.14484.
    """
    rate = check_non_negative("learning_rate", learning_rate)
    function, vector = flattened("loss", loss, params)
    check_sizes(vector.size, 1, iterations)
    # In coordinates in which the preconditioner is 1, the Hessian is P^-1/2 H P^-1/2.
    scale = 1 / jnp.sqrt(_diagonal(preconditioner, params, vector))
    eigenvalues = spectrum(
        lambda v: function(vector + scale * v), jnp.zeros_like(vector), iterations, key
    )
    return jnp.asarray(rate) * eigenvalues[-1] / _limit(momentum)


def _diagonal(preconditioner, params, vector):
    """Return the preconditioner as a vector."""
    if preconditioner is None:
        return jnp.ones_like(vector)
    shapes, wanted = (jax.tree.map(jnp.shape, tree) for tree in (preconditioner, params))
    if shapes != wanted:
        rule = "`preconditioner` must have the structure and shapes of `params`"
        raise ValueError(f"{rule}, got {shapes} for {wanted}.")
    return ravel_pytree(preconditioner)[0].astype(vector.dtype)


def _limit(momentum):
    """Return c*, computed once and not in every step where the momentum is a constant."""
    system = as_state_space(momentum)
    if any(map(is_traced, system)):
        return stability_limit(system)
    with jax.ensure_compile_time_eval():
        return stability_limit(system)


def preconditioner_of(
    opt_state: OptState,
    params: Params | None = None,
    *,
    b2: ScalarLike | None = None,
    eps: ScalarLike | None = None,
) -> Updates:
    r"""Return what an adaptive optimizer divides by: the P of `edge_of_stability`.

    ================================  ==================================================
    state                             P
    ================================  ==================================================
    `scale_by_adam`                   :math:`\sqrt{\hat v} + \varepsilon`
    ``optax.scale_by_adam``           the same; pass `b2`, which its state does not hold
    ``optax.scale_by_rms``            :math:`\sqrt{v + \varepsilon}`
    ``optax.scale_by_rss`` (AdaGrad)  :math:`\sqrt{\sum g^2 + \varepsilon}`
    `scale_by_factored_rms`           the root of rows times columns; pass `params`
    ``optax.scale_by_factored_rms``   the same
    ================================  ==================================================

    A state of ``optax.adamax`` is taken for one of ``optax.scale_by_adam``, whose class it has, and
    P is wrong, since its ``nu`` is a maximum of magnitudes that are not squared.

    Args:
        opt_state: The state of an optimizer that holds one of these, however deep.
        params: The parameters, whose shapes say which axes a factored moment is of.
        b2: :math:`\beta_2` of an ``optax.scale_by_adam``; may be traced.
        eps: :math:`\varepsilon`; by default that of the factory: 1e-8, 1e-7 for AdaGrad, 0 for a
            factored moment, which has it already. May be traced.

    Returns:
        A tree like the parameters. An entry that AdaGrad has not seen a gradient of is infinite,
        since it does not move.

    Raises:
        ValueError: If `opt_state` does not hold exactly one of these states, or `b2` or `params`
            is missing.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.adam(0.1)
        >>> params = jnp.zeros(2)
        >>> _, state = tx.update(jnp.array([3.0, -0.5]), tx.init(params), params)
        >>> [f"{p:.4f}" for p in nj.theory.preconditioner_of(state)]
        ['3.0000', '0.5000']
    """
    found = find(opt_state, tuple(EPS))
    if len(found) != 1:
        names = ", ".join(f"{kind.__module__.split('.')[0]}'s {kind.__name__}" for kind in EPS)
        raise ValueError(f"`opt_state` must hold one of {names}, got {len(found)} of them.")
    (state,) = found
    epsilon = check_non_negative("eps", EPS[type(state)] if eps is None else eps)
    match state:
        case ScaleByAdamState():
            if jax.tree.leaves(state.nu_max):  # AMSGrad's are corrected already.
                return jax.tree.map(lambda v: jnp.sqrt(v) + epsilon, state.nu_max)
            return jax.tree.map(lambda v: jnp.sqrt(v / state.nu_gain) + epsilon, state.nu)
        case optax.ScaleByAdamState():
            if b2 is None:
                raise ValueError("`b2` must be that of optax.scale_by_adam, got None.")
            gain = 1 - jnp.asarray(check_unit_interval("b2", b2)) ** state.count
            return jax.tree.map(lambda v: jnp.sqrt(v / gain) + epsilon, state.nu)
        case optax.ScaleByRmsState():
            return jax.tree.map(lambda v: jnp.sqrt(v + epsilon), state.nu)
        case optax.ScaleByRssState():
            sums = state.sum_of_squares
            return jax.tree.map(lambda v: jnp.where(v > 0, jnp.sqrt(v + epsilon), jnp.inf), sums)
    if params is None:
        raise ValueError("`params` must be given for a factored second moment, got None.")
    return jax.tree.map(lambda v: jnp.sqrt(v) + epsilon, _moments(state, params))


def _moments(state, params):
    """Return the estimate of each entry's second moment, from its factors where there are any."""
    leaves, structure = jax.tree.flatten(params)
    if isinstance(state, optax.FactoredState):
        parts = map(jax.tree.leaves, (state.v_row, state.v_col, state.v))
        found = [
            whole if whole.shape == jnp.shape(p) else FactoredMoment(row, column)
            for row, column, whole, p in zip(*parts, leaves, strict=True)
        ]
    else:
        found = jax.tree.leaves(state.moments, is_leaf=lambda x: isinstance(x, FactoredMoment))
    pairs = zip(found, leaves, strict=True)
    return structure.unflatten([_whole(moment, jnp.shape(p)) for moment, p in pairs])


def _whole(moment, shape):
    """Return rows times columns over the mean of the rows."""
    if not isinstance(moment, FactoredMoment):
        return moment
    sizes = [x.shape for x in moment]
    orders = (sorted(range(len(shape)), key=lambda k: shape[k]), range(len(shape)))
    for *_, i, j in orders:  # The two largest axes, else the last two.
        if [shape[:j] + shape[j + 1 :], shape[:i] + shape[i + 1 :]] == sizes:
            row, column = jnp.expand_dims(moment.row, j), jnp.expand_dims(moment.column, i)
            return row * column / jnp.mean(row, i, keepdims=True)
    raise ValueError(f"`params` must have the shapes of the moments, got {shape} for {sizes}.")
