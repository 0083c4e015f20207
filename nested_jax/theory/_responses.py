"""Responses of a linear transform to impulses, constants and waves, and its memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from nested_jax._core.checks import (
    check_length,
    check_non_negative,
    check_number,
    check_reals,
    check_unit_interval,
    is_traced,
)
from nested_jax._core.types import ScalarLike
from nested_jax.theory._geometric import is_negligible, late_power, spectral_radius
from nested_jax.theory._solving import solve
from nested_jax.theory._state_space import (
    MOST_STEPS,
    StateSpace,
    System,
    as_state_space,
    simulated,
)


def impulse_response(system: System, steps: int) -> Float[Array, " step"]:
    r"""Return the weights that a transform gives to its inputs, the latest first.

    .. math:: h_0 = d, \quad h_j = c A^{j-1} b, \quad y_t = \sum_{j=0}^{t} h_j u_{t-j} .

    They are the outputs for the inputs 1, 0, 0, ... For k equal averages in a row, they are
    `negative_binomial_weights`.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.
        steps: Number of weights, at least 1; static.

    Returns:
        :math:`h_0, h_1, \dots`

    Raises:
        TypeError: If `system` is of the wrong kind, or `steps` is not a concrete integer.
        ValueError: If `system` is a transform that is refused (see `state_space`), or `steps` is
            below 1 or above 10 million.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> theory.impulse_response(optax.trace(0.5), 3)
        Array([1.  , 0.5 , 0.25], dtype=float32)
    """
    system = as_state_space(system)
    check_length("steps", steps, most=MOST_STEPS)
    return simulated(system, (np.arange(steps) == 0).astype(system.drive.dtype))


def step_response(system: System, steps: int) -> Float[Array, " step"]:
    r"""Return the outputs of a transform for the constant input 1, starting from rest.

    .. math:: y_t = \sum_{j=0}^{t} h_j,

    which approaches `dc_gain`.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.
        steps: Number of outputs, at least 1; static.

    Returns:
        :math:`y_0, y_1, \dots`

    Raises:
        TypeError: If `system` is of the wrong kind, or `steps` is not a concrete integer.
        ValueError: If `system` is a transform that is refused (see `state_space`), or `steps` is
            below 1 or above 10 million.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> theory.step_response(optax.trace(0.5), 3)
        Array([1.  , 1.5 , 1.75], dtype=float32)
    """
    system = as_state_space(system)
    check_length("steps", steps, most=MOST_STEPS)
    return simulated(system, np.ones(steps, system.drive.dtype))


def frequency_response(system: System, frequencies: ArrayLike) -> Complex[Array, "*shape"]:
    r"""Return the transfer function on the unit circle.

    .. math:: H(e^{i \omega}) = d + c\, (e^{i \omega} I - A)^{-1} b = \sum_j h_j e^{-i \omega j} .

    A wave :math:`\cos \omega t` asymptotically becomes :math:`|H| \cos(\omega t + \arg H)`. H at 0
    is `dc_gain`, and H at pi multiplies gradients of alternating sign. If the system is unstable,
    the sum diverges and H is its analytic continuation, as stability analysis needs it.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.
        frequencies: :math:`\omega` in radians per step, of any shape; may be traced.

    Returns:
        H, shaped like `frequencies`; infinite at a pole.

    Raises:
        TypeError: If `system` or `frequencies` is of the wrong kind.
        ValueError: If `system` is a transform that is refused (see `state_space`).

    Example:
        >>> import jax.numpy as jnp, optax, nested_jax.theory as theory
        >>> theory.frequency_response(optax.trace(0.5), [0.0, jnp.pi]).real.round(4)
        Array([2.    , 0.6667], dtype=float32)
    """
    system = as_state_space(system)
    check_reals("frequencies", frequencies)
    return _responses(system, jnp.asarray(frequencies, float))


@jax.jit
def _responses(system, frequencies):
    found = jnp.vectorize(partial(response, system))(frequencies)
    at_pole = jnp.isfinite(frequencies) & ~jnp.isfinite(found)
    return jnp.where(at_pole, jnp.inf, found)


def response(system: StateSpace, theta: Float[Array, ""]) -> Complex[Array, ""]:
    """Return H at the point exp(i theta); not finite at a pole."""
    resolvent = jnp.exp(1j * theta) * jnp.eye(system.drive.size) - system.transition
    states = solve(resolvent, system.drive.astype(resolvent.dtype)[:, None])[:, 0]
    return system.output @ states + system.feedthrough


def dc_gain(system: System) -> Float[Array, ""]:
    r"""Return the gain: the limit of a transform's output for the constant input 1.

    .. math:: H(1) = \sum_j h_j = d + c\, (I - A)^{-1} b,

    computed by solving. Divide the learning rate by the gain to keep the step size when a transform
    is added (`rescaled_rate`).

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.

    Returns:
        The gain, negative for a finished optimizer. For a system that never forgets (a sum of all
        gradients), it is infinite with the sign of the weights.

    Raises:
        TypeError: If `system` is of the wrong kind.
        ValueError: If `system` is a transform that is refused (see `state_space`), or its
            response to a constant grows exponentially or oscillates forever. If it is traced, the
            gain is NaN instead.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> float(theory.dc_gain(optax.trace(0.75)))
        4.0
        >>> float(theory.dc_gain(optax.trace(1.0)))
        inf
    """
    return checked_steady(as_state_space(system)).gain


def mean_delay(system: System) -> Float[Array, ""]:
    r"""Return the mean age of the inputs in an output, in steps.

    .. math::

        \frac{\sum_j j\, h_j}{\sum_j h_j} = \frac{c\, (I - A)^{-2} b}{H(1)} ,

    computed by solving. It is the delay of slow waves and of a ramp. If the weights have both
    signs, it is not a mean of ages and may be 0 or negative.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.

    Returns:
        The delay; inf for a system that never forgets.

    Raises:
        TypeError: If `system` is of the wrong kind.
        ValueError: If `system` has no finite or infinite gain (see `dc_gain`), or its gain is 0.
            If it is traced, the delay is NaN instead.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> float(theory.mean_delay(optax.trace(0.75)))
        3.0
    """
    steady = checked_steady(as_state_space(system))
    _check_gain(steady)
    return steady.delay


def memory(system: System, share: ScalarLike = 0.5) -> Float[Array, ""]:
    r"""Return how many of the latest inputs carry a given share of the weight.

    .. math:: \min \Big\{ n : \sum_{j<n} h_j \ge p\, H(1) \Big\} ,

    the number of steps that the step response takes to reach a share p of its limit, such as 0.5 or
    0.99. The remainder of the sum is tracked instead of the sum, so rounding does not accumulate.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.
        share: p in [0, 1); may be traced.

    Returns:
        A whole number of steps, as a float; inf for a system that never forgets.

    Raises:
        TypeError: If `system` is of the wrong kind.
        ValueError: If `system` has no finite or infinite gain (see `dc_gain`), its gain is 0, or
            `share` lies outside [0, 1). If `system` is traced, the result is NaN instead of the
            errors about it.

    Example:
        >>> import optax, nested_jax.theory as theory
        >>> float(theory.memory(optax.trace(0.75))), float(theory.memory(optax.trace(0.75), 0.99))
        (3.0, 17.0)
    """
    system = as_state_space(system)
    share = check_unit_interval("share", share)
    steady = checked_steady(system)
    _check_gain(steady)
    return waited(system, steady, jnp.asarray(share, float))


@jax.jit
def waited(system: StateSpace, steady: "_Steady", share: Float[Array, ""]) -> Float[Array, ""]:
    """Return how many of the latest inputs carry a share of the weight."""
    # The state is what remains of the steady state n - 1 steps after the constant input ended.
    forgets, gain = steady.forgets, jnp.where(steady.is_zero, jnp.nan, steady.gain)
    allowed = 1 - share

    def goes_on(carry):
        _, state = carry
        return forgets & (system.output @ state / gain > allowed)

    def wait(carry):
        steps, state = carry
        return steps + 1, system.transition @ state

    steps, _ = jax.lax.while_loop(goes_on, wait, (jnp.int32(1), steady.state))
    steps = jnp.where(allowed == 1, 0, steps).astype(float)
    return jnp.where(forgets, jnp.where(jnp.isfinite(gain), steps, jnp.nan), jnp.abs(gain))


def terminal_velocity(
    system: System, gradient: ScalarLike = 1.0, learning_rate: ScalarLike = 1.0
) -> Float[Array, ""]:
    r"""Return the asymptotic step of the parameters under a constant gradient.

    .. math:: \theta_{t+1} - \theta_t \to -\eta\, |H(1)|\, g .

    For heavy ball it is :math:`-\eta g / (1 - \rho)`. A transform, whose gain is positive, is
    multiplied by minus the learning rate. A finished optimizer, whose gain is negative, is added to
    the parameters.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`.
        gradient: g; may be traced.
        learning_rate: :math:`\eta`; may be traced. 1 for a finished optimizer, which has its own.

    Returns:
        The velocity, opposite in sign to the gradient; infinite for a system that never forgets.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: As in `dc_gain`, or if `learning_rate` is negative or not finite.

    Example:
        >>> import nested_jax as nj, nested_jax.theory as theory
        >>> float(theory.terminal_velocity(nj.momentum(0.5, decay=0.75), 3.0))
        -6.0
    """
    check_number("gradient", gradient)
    learning_rate = check_non_negative("learning_rate", learning_rate)
    return -jnp.abs(dc_gain(system)) * jnp.asarray(learning_rate) * jnp.asarray(gradient, float)


class _Steady(NamedTuple):
    """What a system does with a constant input in the end.

    Attributes:
        forgets: Whether it forgets its inputs.
        state: (I - A)^-1 b, the steady state for the constant input 1.
        gain: The output for it; if inputs are not forgotten infinite, or NaN if undefined.
        is_zero: Whether the gain is 0 up to rounding.
        delay: The mean delay; NaN if the gain is 0.
    """

    forgets: Array
    state: Float[Array, " state"]
    gain: Float[Array, ""]
    is_zero: Array
    delay: Float[Array, ""]


@jax.jit
def _steady(system: StateSpace) -> _Steady:
    # One program for all numbers: compilation takes most of the time.
    late = late_power(system.transition)
    # Two late weights: equal signs for a sum of all inputs, opposite signs for an oscillation.
    reached = late @ jnp.stack([system.drive, system.transition @ system.drive], axis=1)
    one, other = system.output @ reached
    endures = jnp.isfinite(one) & (one != 0) & (jnp.sign(one) == jnp.sign(other))
    forgets = is_negligible(late)
    endless = jnp.where(endures, jnp.sign(one) * jnp.inf, jnp.nan)
    # I replaces I - A if inputs are not forgotten, so that no singular matrix is differentiated.
    unit = jnp.eye(system.drive.size)
    matrix = jnp.where(forgets, unit - system.transition, unit)
    once = solve(matrix, system.drive[:, None])
    state, twice = once[:, 0], solve(matrix, once)[:, 0]
    gain = system.feedthrough + system.output @ state
    size = jnp.abs(system.feedthrough) + jnp.abs(system.output) @ jnp.abs(state)
    is_zero = forgets & (jnp.abs(gain) <= 16 * jnp.finfo(gain.dtype).eps * size)
    divisor = jnp.where(is_zero, jnp.nan, jnp.where(forgets, gain, 1))
    delay = jnp.where(forgets, system.output @ twice / divisor, jnp.abs(endless))
    return _Steady(forgets, state, jnp.where(forgets, gain, endless), is_zero, delay)


def checked_steady(system: StateSpace) -> _Steady:
    """Return the steady state; raise if the gain is undefined and everything is concrete."""
    steady = _steady(system)
    if not is_traced(steady.forgets) and not steady.forgets and np.isnan(steady.gain):
        raise ValueError(
            "`system` must forget its inputs or sum them up, got one that grows or swings for "
            f"ever: its spectral radius is {spectral_radius(system.transition):.6g}."
        )
    return steady


def _check_gain(steady: _Steady) -> None:
    """Raise if the gain is 0 and concrete."""
    if not is_traced(steady.is_zero) and steady.is_zero:
        raise ValueError("`system` must have a gain other than 0, got a response that ends at 0.")
