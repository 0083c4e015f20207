"""Transforms whose map repeats after some steps: periods, Lookahead, accumulation over batches.

Each step of one period has matrices of its own. Their product is a linear, time-invariant map from
period to period, whose eigenvalues are the Floquet multipliers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nested_jax._core.checks import check_length, check_reals
from nested_jax._core.states import find
from nested_jax.theory._linearity import explained, relative_error
from nested_jax.theory._solving import root_of
from nested_jax.theory._stability import closed_loop, radius_of
from nested_jax.theory._state_space import StateSpace, active_entries

MOST_STEPS = 10**5
"""Longest period."""
MOST_ENTRIES = 2**27
"""Most entries of all matrices of a period: 1 GiB in float64."""
# optax.MultiSteps divides by its count in float32, also where everything else is float64.
ROUNDING = 1e-6
# Periods of the run that a linearisation is held against.
TESTED = 3
# Of a multiplier near 1: eigenvalues of a product of small matrices.
ROUNDINGS = 64
# Learning rates × curvatures between which the limit is looked for, also when times the gain, and
# halvings of the interval.
LOWEST, HIGHEST, TRIED, HALVINGS = 1e-6, 1e4, 400, 60


def periodic_state_space(tx: optax.GradientTransformation, period: int) -> StateSpace:
    r"""Return the state-space form of a linear transform whose map repeats after `period` steps.

    .. math:: y_t = c_t \cdot s_t + d_t u_t, \quad s_{t+1} = A_t s_t + b_t u_t, \quad
        A_{t + C} = A_t, \; \dots

    The update is linearised in each step of a period, about the state after zero gradients. Then it
    is run for three periods, and refused if the matrices miss what it does. Of `optax.lookahead`
    the input is the gradient at the fast parameters and the output their step; the distance of the
    slow ones is part of the state.

    Args:
        tx: The transform, applied to one scalar, for example
            ``scale_by_nested_momentum(decays, periods=periods)``, an ``optax.lookahead`` or the
            ``gradient_transformation()`` of an ``optax.MultiSteps``. Concrete.
        period: C, for several periods their least common multiple; static, at most 100,000.

    Returns:
        A `StateSpace` whose arrays have a leading axis (C,), one entry for each step of a period.

    Raises:
        TypeError: If `tx` does not have `init` and `update`, or they raise an error.
        ValueError: If `period` is out of range, or `tx` is not linear or does not repeat.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax import theory
        >>> tx = nj.scale_by_nested_momentum([0.5], periods=[2])
        >>> theory.periodic_state_space(tx, 2).feedthrough  # in the second step: half of a half
        Array([0.  , 0.25], dtype=float32)
    """
    check_length("period", period, most=MOST_STEPS)
    with explained("tx", tx):
        system = _linearised(tx, int(period))
        inputs = np.random.default_rng(0).standard_normal(TESTED * int(period))
        inputs = jnp.asarray(inputs, system.drive.dtype)
        outputs = _ran(tx, inputs)
    # A transform that reads its parameters is refused, too: it runs on other ones than linearised.
    error = relative_error(_simulated(system, inputs), outputs)
    if not error <= max(jnp.finfo(error.dtype).eps ** 0.5, ROUNDING):
        raise ValueError(
            f"`tx` must be linear and repeat after `period` = {period} steps, got one whose "
            f"matrices miss what it does by {float(error):.2g} of the largest output."
        )
    return system


def floquet_multiplier(system: StateSpace, c: ArrayLike) -> Float[Array, "*shape"]:
    r"""Return the factor by which the error on a quadratic grows in a period.

    .. math:: \rho\Big(\prod_{t} M_t\Big), \quad M_t : \; \theta \leftarrow \theta - c\, y_t, \;
        u_t = \theta ,

    the spectral radius of the product of one period's steps, on parameter and state together.

    Args:
        system: From `periodic_state_space`; a finished optimizer has outputs of the other sign.
        c: Learning rate times curvature, of any shape; the curvature for a finished optimizer. May
            be traced.

    Returns:
        The factor, shaped like `c`: stable below 1. Its root of order C is the growth per step.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the arrays of `system` are not those of a period.

    Example:
        >>> import optax
        >>> from nested_jax import theory
        >>> tx = optax.MultiSteps(optax.sgd(1.0), 4).gradient_transformation()
        >>> float(theory.floquet_multiplier(theory.periodic_state_space(tx, 4), 0.5))
        0.5
    """
    check_reals("c", c)
    return _multipliers(_oriented(system), jnp.asarray(c, float))


def periodic_limit(system: StateSpace) -> Float[Array, ""]:
    """Return the largest learning rate × curvature up to which a quadratic is stable.

    It is where `floquet_multiplier` first exceeds 1: looked for at 400 points from 1e-6 to 1e4 and
    then bisected. With a mean gain G over the period, the points begin at 1e-6 / G if G > 1, and
    end at 1e4 / G if G < 1. For a period of 1 it is `stability_limit`.

    Args:
        system: From `periodic_state_space`. For a finished optimizer, the result is a curvature.

    Returns:
        The limit; 0 if the first point is not stable, infinite if all are.

    Raises:
        ValueError: If the arrays of `system` are not those of a period.

    Example:
        >>> import optax
        >>> from nested_jax import theory
        >>> tx = optax.MultiSteps(optax.sgd(1.0), 4).gradient_transformation()
        >>> round(float(theory.periodic_limit(theory.periodic_state_space(tx, 4))), 4)
        2.0
    """
    return _limit(_oriented(system))


def periodic_delay(system: StateSpace) -> Float[Array, ""]:
    r"""Return the mean age of the inputs in the outputs, over the inputs of one period.

    Input t puts the weight :math:`h_{t,j}` into the output of step t + j. The delay is
    :math:`\sum_{t,j} j\, h_{t,j} / \sum_{t,j} h_{t,j}`, in closed form. For a period of 1 it is
    `mean_delay`.

    Args:
        system: From `periodic_state_space`.

    Returns:
        The delay in steps; NaN if the weights sum to 0, not finite for a system that does not
        forget.

    Raises:
        ValueError: If the arrays of `system` are not those of a period.

    Example:
        >>> import optax
        >>> from nested_jax import theory
        >>> tx = optax.MultiSteps(optax.sgd(1.0), 4).gradient_transformation()
        >>> f"{theory.periodic_delay(theory.periodic_state_space(tx, 4)):.3f}"  # of 3, 2, 1, 0
        '1.500'
    """
    return _delay(_checked(system))


def _checked(system: StateSpace) -> StateSpace:
    if not isinstance(system, StateSpace) or np.ndim(system.feedthrough) != 1:
        raise ValueError(
            f"`system` must come from `periodic_state_space`, got {type(system).__name__}"
            + (" of one step." if isinstance(system, StateSpace) else ".")
        )
    for name, values in zip(StateSpace._fields, system, strict=True):
        check_reals(f"system.{name}", values)
    system = StateSpace(*(jnp.asarray(x, float) for x in system))
    shapes = [x.shape for x in system]
    steps, state = shapes[3], shapes[1][1:]
    matching = shapes == [steps + state * 2, steps + state, steps + state, steps]
    if not matching or len(state) != 1 or steps == (0,):
        raise ValueError(
            "`system` must have a transition of shape (C, n, n), drive and output of shape (C, n) "
            f"and a feedthrough of shape (C,) for C >= 1 steps, got {shapes}."
        )
    return system


def _oriented(system: StateSpace) -> StateSpace:
    """Return the system with the sign that makes its gain over a period not negative."""
    system = _checked(system)
    return _turned(system)


@jax.jit
def _turned(system):
    total = jnp.sum(_weights(system)[0])
    sign = jnp.where(total < 0, -1, 1)
    return system._replace(output=sign * system.output, feedthrough=sign * system.feedthrough)


@jax.jit
def _multipliers(system, c):
    return jnp.vectorize(lambda c: radius_of(_over_a_period(system, c)))(c)


def _over_a_period(system, c):
    """Return the product of the closed loop's steps."""

    def step(product, one):
        return closed_loop(StateSpace(*one), c) @ product, None

    size = system.drive.shape[1] + 1
    return jax.lax.scan(step, jnp.eye(size), tuple(system))[0]


@jax.jit
def _limit(system):
    def radius(c):
        return radius_of(_over_a_period(system, c))

    gain = jnp.mean(_weights(system)[0])
    gain = jnp.where((gain > 0) & jnp.isfinite(gain), gain, 1)
    tried = jnp.geomspace(LOWEST / jnp.maximum(gain, 1), HIGHEST / jnp.minimum(gain, 1), TRIED)
    radii = jax.lax.map(radius, tried)
    # A multiplier of 1 itself is rounding, as that of a constant part of the state would be. So is
    # one on either side of it, as long as c is too small to show: until one is clearly stable.
    # Nearly defective matrices lose half of the digits; a long memory has no multiplier far from 1.
    eps, depth = jnp.finfo(radii.dtype).eps, 1 - jnp.min(radii)
    slack = jnp.where(depth > ROUNDINGS * eps, jnp.minimum(depth / 2, eps**0.5), 0)
    early = (jnp.cumsum(radii < 1 - slack) == 0) & (slack > 0)
    stable = jnp.where(early, radii < 1 + slack, radii < 1)
    first = jnp.argmin(stable)

    def halve(_, bounds):
        low, high = bounds
        middle = jnp.sqrt(low * high)
        fine = radius(middle) < 1
        return jnp.where(fine, middle, low), jnp.where(fine, high, middle)

    bounds = tried[jnp.maximum(first - 1, 0)], tried[first]
    limit = jax.lax.fori_loop(0, HALVINGS, halve, bounds)[0]
    limit = root_of(lambda c: radius(c) - 1, limit)
    return jnp.where(jnp.all(stable), jnp.inf, jnp.where(first == 0, 0.0, limit))


def _weights(system):
    """Return the sums of h_{t,j} and of j h_{t,j} over j, for each input t of a period.

    S_t, the row that sums all later outputs of a state before step t, is c_t + S_{t+1} A_t. D_t,
    weighted by their distance, is (S_{t+1} + D_{t+1}) A_t. Both repeat, which fixes their start.
    """
    size = system.drive.shape[1]

    def back(carry, one):
        sums, moments = carry
        transition, drive, output, feedthrough = one
        weight = feedthrough + sums @ drive
        moment = (sums + moments) @ drive
        return (output + sums @ transition, (sums + moments) @ transition), (weight, moment)

    def around(start):
        return jax.lax.scan(back, start, tuple(system), reverse=True)

    # Affine in the start: the constant part, and the linear part by the identity.
    zero = jnp.zeros(size)
    constant = around((zero, zero))[0]
    product = jax.lax.scan(lambda P, A: (A @ P, None), jnp.eye(size), system.transition)[0]
    unit = jnp.eye(size) - product
    sums = jnp.linalg.solve(unit.T, constant[0])
    moments = jnp.linalg.solve(unit.T, around((sums, zero))[0][1])
    return around((sums, moments))[1]


@jax.jit
def _delay(system):
    weights, moments = _weights(system)
    total = jnp.sum(weights)
    return jnp.sum(moments) / jnp.where(total == 0, jnp.nan, total)


@jax.jit
def _simulated(system, inputs):
    """Return the outputs for inputs over whole periods, starting from rest."""

    def step(state, one):
        (transition, drive, output, feedthrough), u = one
        return transition @ state + drive * u, output @ state + feedthrough * u

    def period(state, inputs):
        return jax.lax.scan(step, state, (tuple(system), inputs))

    steps = system.feedthrough.shape[0]
    start = jnp.zeros(system.drive.shape[1])
    return jax.lax.scan(period, start, inputs.reshape(-1, steps))[1].ravel()


def _opened(tx: optax.GradientTransformation, at: float) -> tuple[Any, Any]:
    """Return (state, step), step(state, u) -> (state, output), with parameters `at`.

    Lookahead's step moves the origin to the slow parameters: nothing else depends on it.
    """
    here = jnp.asarray(at, float)
    pair: Any = optax.LookaheadParams(fast=here, slow=here)
    if find(jax.eval_shape(tx.init, pair), optax.LookaheadState):

        def look(carry, u):
            state, distance = carry
            params: Any = optax.LookaheadParams(fast=here + distance, slow=here)
            moves: Any
            moves, state = tx.update(u, state, params)
            return (state, distance + moves.fast - moves.slow), moves.fast

        return (tx.init(pair), jnp.zeros_like(here)), look

    def step(state, u):
        output, state = tx.update(u, state, here)
        return state, output

    return tx.init(here), step


def _ran(tx, inputs):
    state, step = _opened(tx, 1.0)
    return jax.jit(lambda: jax.lax.scan(step, state, inputs)[1])()


def _linearised(tx, period):
    """Return the matrices of each step, reduced to the state that input and output share."""
    start, step = _opened(tx, 0.0)
    zero = jnp.zeros(())
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, start))
    floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
    size = sum(leaves[i].size for i in floats)
    if period * (size + 1) ** 2 > MOST_ENTRIES:
        rule = f"`period` must be at most {MOST_ENTRIES // (size + 1) ** 2} for {size} states"
        raise ValueError(f"{rule}, got {period}.")

    def flat(leaves, vector):
        *values, u = ravel_pytree([*(leaves[i] for i in floats), zero])[1](vector)
        moved = list(leaves)
        for i, leaf in zip(floats, values, strict=True):
            moved[i] = leaf
        state, output = step(jax.tree.unflatten(structure, moved), u)
        after = jax.tree.leaves(state)
        return ravel_pytree([*(after[i] for i in floats), output])[0]

    def one(leaves, _):
        point = ravel_pytree([*(leaves[i] for i in floats), zero])[0]
        jacobian = jax.jacfwd(functools.partial(flat, leaves))(point)
        state, _ = step(jax.tree.unflatten(structure, leaves), zero)
        return jax.tree.leaves(state), jacobian

    steps = jax.jit(lambda: jax.lax.scan(one, leaves, None, period)[1])()
    steps = np.asarray(steps, np.dtype(jnp.result_type(float)))
    largest = np.abs(steps).max(0)
    union = StateSpace(largest[:-1, :-1], largest[:-1, -1], largest[-1, :-1], largest[-1, -1])
    kept = np.flatnonzero(active_entries(union))
    inner = steps[:, :-1, :-1][:, kept[:, None], kept]
    parts = inner, steps[:, :-1, -1][:, kept], steps[:, -1, :-1][:, kept], steps[:, -1, -1]
    return StateSpace(*map(jnp.asarray, parts))
