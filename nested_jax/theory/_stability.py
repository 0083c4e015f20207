"""How fast a quadratic is descended, and the largest rate at which it still is."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from nested_jax._core.checks import (
    check_count,
    check_unit_interval,
    is_traced,
    record,
)
from nested_jax._core.types import ScalarLike
from nested_jax.theory._responses import dc_gain, response
from nested_jax.theory._state_space import StateSpace, System, as_state_space

# Frequencies: so many evenly spaced, and so many to each side of each pole, evenly in the logarithm
# of their distance. Between two of them the phase turns by a fraction of a right angle.
EVEN = 256
NEAR = 24
# Frequencies whose matrices are held at a time.
AT_ONCE = 64
# Crossings of the unit circle that are refined; those at the smallest rates come first.
CROSSINGS = 8
# Halvings of an interval of frequencies: from any width to the last digit of float64.
HALVINGS = 60
# Newton's method converges from one side; where three roots meet, by a third a step.
NEWTON_STEPS = 80


def oriented(system: System) -> StateSpace:
    """Return the state space of `system`, with the sign of its gradient."""
    system = as_state_space(system)
    return _turned(system, dc_gain(system))


@jax.jit
def _turned(system, gain):
    sign = jnp.where(gain < 0, -1, 1)
    return system._replace(output=sign * system.output, feedthrough=sign * system.feedthrough)


def closed_loop(system: StateSpace, c: Float[Array, "*shape"]) -> Float[Array, "*shape n n"]:
    """Return what one step does to the parameter and the state, on a quadratic."""
    c = jnp.asarray(c)[..., None, None]
    row = jnp.append(system.feedthrough, system.output)
    top = jnp.eye(row.size)[:1] - c * row
    bottom = jnp.column_stack([system.drive, system.transition])
    bottom = jnp.broadcast_to(bottom, (*c.shape[:-2], *bottom.shape))
    return jnp.concatenate([top, bottom], axis=-2)


@jax.custom_jvp
def eigenvalues_of(matrix: Float[Array, "n n"]) -> Complex[Array, " n"]:
    """Return the eigenvalues, in no order."""
    # One matrix at a time. Of a batch, the CPU's LAPACK calls wait in a worker for other workers of
    # the same pool (jaxlib 0.10): two in one program can wait for each other, for ever.
    return jax.custom_batching.sequential_vmap(jnp.linalg.eigvals)(matrix)


@eigenvalues_of.defjvp
def _eigenvalues_jvp(primals, tangents):
    return jax.jvp(jnp.linalg.eigvals, primals, tangents)


@partial(jnp.vectorize, signature="(n,n)->()")
def radius_of(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Return the largest absolute value of an eigenvalue; maps over further axes in front."""
    return jnp.max(jnp.abs(eigenvalues_of(matrix)), initial=0)


def mean_growth(system: System, c: ArrayLike) -> Float[Array, "*shape"]:
    r"""Return the growth of the mean error on a quadratic, a step.

    With H the transform, the error follows :math:`\theta \leftarrow \theta - c H \theta`. It goes
    like :math:`\rho^t`, where :math:`\rho` is the spectral radius of that map, of parameter and
    state together. Under gradients with noise of mean 0 the mean of the error does so: it grows
    where :math:`\ln \rho > 0`. For k equal averages of decay a, :math:`\rho` is the largest root of
    :math:`(z - 1)(z - a)^k + c (1 - a)^k z^k`.

    Args:
        system: An `optax.GradientTransformation` or a `StateSpace`. Its sign is understood: of a
            finished optimizer, whose gain is negative, the negative is H.
        c: Rate times curvature, of any shape; of a finished optimizer, the curvature. May be
            traced. The squared loss of the drifting regression has curvature 2.

    Returns:
        :math:`\ln \rho`, shaped like c; minus infinity where the error is 0 after some steps.

    Raises:
        TypeError: If `system` is no linear time-invariant transform.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import mean_growth
        >>> [f"{mean_growth(nj.nested_momentum(1e-2, levels=m), 2.0):+.4f}" for m in (1, 6, 7)]
        ['-0.0202', '-0.0006', '+0.0007']
    """
    c = jnp.asarray(c, jnp.result_type(float))
    return jnp.log(_radii(oriented(system), c))


def convergence_rate(system: System, eigenvalues: ArrayLike) -> Float[Array, ""]:
    r"""Return the worst factor by which the error on a quadratic shrinks, a step.

    .. math:: \max_i \rho(\theta \leftarrow \theta - c_i H \theta)

    over the spectrum of the quadratic. A transform at constants that are optimal has a double
    eigenvalue, which rounding splits: the last half of the digits is then lost.

    Args:
        system: As for `mean_growth`.
        eigenvalues: :math:`c_i`: rate times eigenvalues of the Hessian, or, for a finished
            optimizer, its eigenvalues; of any shape. May be traced.

    Returns:
        The factor; 1 or more if the method does not converge.

    Raises:
        TypeError: If `system` is no linear time-invariant transform.
        ValueError: If there are no eigenvalues.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import convergence_rate
        >>> round(float(convergence_rate(nj.nesterov(1.0, decay=9 / 11), [0.01, 0.1, 1.0])), 3)
        0.9
    """
    c = jnp.asarray(eigenvalues, jnp.result_type(float))
    if not c.size:
        raise ValueError("`eigenvalues` must not be empty, got none.")
    return jnp.max(_radii(oriented(system), c))


@jax.jit
def _radii(system, c):
    return radius_of(closed_loop(system, c))


def stability_limit(system: System) -> Float[Array, ""]:
    r"""Return the largest rate times curvature at which a quadratic is descended.

    It is the smallest c > 0 at which an eigenvalue of :math:`\theta \leftarrow \theta - c H \theta`
    leaves the unit disc. There

    .. math:: c = \frac{1 - e^{i \theta}}{H(e^{i \theta})}, \quad 0 < \theta \le \pi,

    must be real and positive: its sign changes are sought on frequencies around every pole of H,
    and refined. What crosses at :math:`-1` needs no search: :math:`c = 2 / H(-1)`. For averages
    with equal decays there is a closed form, `cascade_limit`. The result may be differentiated,
    forwards and backwards.

    Args:
        system: As for `mean_growth`. Of a finished optimizer the result is a curvature.

    Returns:
        c; 0 if there is none, as of a transform with gain 0, and infinity if every c will do.

    Raises:
        TypeError: If `system` is no linear time-invariant transform.
        ValueError: If `system` does not forget its inputs: if its own spectral radius is 1 or more
            (where it is traced, the result is then 0).

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import stability_limit
        >>> f"{stability_limit(nj.scale_by_accumulated_momentum(0.9)):.3f}"
        '3.800'
        >>> f"{stability_limit(nj.scale_by_nested_momentum([0.95] * 5)):.4f}"
        '0.0222'
    """
    system = oriented(system)
    limit, radius = _limit(system)
    _check_forgets(radius)
    return limit


@jax.jit
def _limit(system):
    poles = eigenvalues_of(jax.lax.stop_gradient(system.transition))
    radius = jnp.max(jnp.abs(poles), initial=0)
    at_minus_one = 2 / response(system, jnp.asarray(jnp.pi)).real
    limits = jnp.append(_crossings(system, poles), at_minus_one)
    limit = jnp.min(jnp.where(limits > 0, limits, jnp.inf))
    limit = jnp.where((radius < 1) & (dc_gain(system) > 0), limit, 0)
    # NaN is what a transform that is refused leaves where it is traced.
    return jnp.where(jnp.isnan(radius), jnp.nan, limit), radius


def _crossings(system, poles):
    """Return the rates at which pairs of eigenvalues cross the unit circle, the smallest ones."""
    fixed = jax.lax.stop_gradient(system)

    def limit(system, theta):
        # 1 - z, without the digits that the difference would lose.
        chord = -2j * jnp.sin(theta / 2) * jnp.exp(0.5j * theta)
        return chord / response(system, theta)

    thetas = _frequencies(poles)
    limits = jax.lax.map(lambda theta: limit(fixed, theta), thetas, batch_size=AT_ONCE)
    above = limits.imag > 0
    candidate = (above[1:] != above[:-1]) & (jnp.maximum(limits[1:].real, limits[:-1].real) > 0)
    size = jnp.abs(limits)
    rank = jnp.where(candidate, jnp.minimum(size[1:], size[:-1]), jnp.inf)
    found = jax.lax.top_k(-rank, CROSSINGS)[1]

    def refined(i):
        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            left = (limit(fixed, middle).imag > 0) == above[i]
            return jnp.where(left, middle, low), jnp.where(left, high, middle)

        theta = jax.lax.fori_loop(0, HALVINGS, halve, (thetas[i], thetas[i + 1]))[0]
        # One step of Newton's method more, for the derivative: the frequency moves, too.
        slope = jax.jvp(lambda theta: limit(fixed, theta), (theta,), (jnp.ones_like(theta),))[1]
        drift = limit(system, theta).imag / jnp.where(slope.imag == 0, 1, slope.imag)
        theta = theta - (drift - jax.lax.stop_gradient(drift))
        return jnp.where(candidate[i], limit(system, theta).real, jnp.inf)

    return jax.vmap(refined)(found)


def _frequencies(poles):
    """Return frequencies in (0, pi), sorted, dense where a pole makes the phase turn fast."""
    # Both ends are such places: there the imaginary part has the zeros that are no crossings.
    poles = jnp.append(poles, jnp.asarray([1 - 1e-4, -1 + 1e-4], poles.dtype))
    width = jnp.maximum(jnp.abs(1 - jnp.abs(poles)), 1e-9)[:, None] / 100
    away = width * (jnp.pi / width) ** jnp.linspace(0, 1, NEAR)
    angle = jnp.abs(jnp.angle(poles))[:, None]
    even = jnp.linspace(0, jnp.pi, EVEN + 2)[1:-1]
    thetas = jnp.concatenate([even, (angle - away).ravel(), (angle + away).ravel()])
    inside = (thetas > 0) & (thetas < jnp.pi)
    return jnp.sort(jnp.where(inside, thetas, even[0]))


def _check_forgets(radius):
    def check(radius):
        if not radius < 1:
            raise ValueError(f"`system` must have a spectral radius below 1, got {radius}.")

    if is_traced(radius):
        record(radius, check)
    else:
        check(radius)


def cascade_limit(stages: ScalarLike, decay: ScalarLike) -> Float[Array, ""]:
    r"""Return `stability_limit` of k equal averages in a row, in closed form.

    The eigenvalue that leaves the unit disc first does so at :math:`e^{i \theta}`, where

    .. math::

        \frac{\theta}{2} + k \varphi(\theta) = \frac{\pi}{2}, \qquad
        \varphi = \operatorname{atan2}(a \sin \theta, 1 - a \cos \theta), \qquad
        c^* = 2 \sin \frac{\theta}{2} \left(\frac{|1 - a e^{-i \theta}|}{1 - a}\right)^k .

    The left side is concave, so that Newton's method finds its first solution from 0 on. Where
    :math:`k a / (1 + a) \le 1/2`, as for k = 0 and k = 1, that is :math:`\theta = \pi`. From k = 2
    on, :math:`c^* \approx \frac{1 - a}{a} \tan \frac{\pi}{2 k} \sec^k \frac{\pi}{2 k}`, which at
    a = .95 is at most 3 % low.

    Args:
        stages: k >= 0, an integer; may be traced.
        decay: :math:`a \in [0, 1)`; may be traced.

    Returns:
        :math:`c^*`: rate times curvature.

    Raises:
        TypeError: If `stages` is not an integer.
        ValueError: If `stages` is negative or `decay` lies outside [0, 1).

    Example:
        >>> from nested_jax.theory import cascade_limit
        >>> [f"{cascade_limit(k, 0.95):.3g}" for k in (0, 1, 2, 18)]
        ['2', '78', '0.108', '0.00494']
    """
    check_count("stages", stages)
    check_unit_interval("decay", decay)
    dtype = jnp.result_type(float)
    return _cascade_limit(jnp.asarray(stages, dtype), jnp.asarray(decay, dtype))


@jax.jit
def _cascade_limit(k, a):
    def distance(theta):
        # |1 - a z|^2, without the digits that 1 - a cos(theta) would lose.
        return (1 - a) ** 2 + 4 * a * jnp.sin(theta / 2) ** 2

    def newton(_, theta):
        # Close to pi, where the solution may be threefold, all is told in the distance to pi.
        left = jnp.pi - theta
        sine = jnp.where(theta < 2, jnp.sin(theta), jnp.sin(left))
        angle = k * jnp.arctan2(a * sine, (1 - a) + 2 * a * jnp.sin(theta / 2) ** 2)
        miss = jnp.where(theta < 2, theta / 2 + angle - jnp.pi / 2, angle - left / 2)
        slope = 0.5 + k * a * ((1 - a) - 2 * jnp.sin(theta / 2) ** 2) / distance(theta)
        return theta - jnp.minimum(miss, 0) / jnp.where(slope > 0, slope, jnp.inf)

    theta = jax.lax.fori_loop(0, NEWTON_STEPS, newton, jnp.zeros_like(a))
    return 2 * jnp.sin(theta / 2) * (distance(theta) / (1 - a) ** 2) ** (k / 2)
