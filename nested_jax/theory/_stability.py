"""Convergence on quadratics, and the largest stable learning rate × curvature c."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from nested_jax._core.checks import (
    check_count,
    check_reals,
    check_unit_interval,
    is_traced,
    or_nan,
    record,
)
from nested_jax._core.dtypes import complement
from nested_jax._core.types import ScalarLike
from nested_jax.theory._responses import dc_gain, response
from nested_jax.theory._state_space import StateSpace, System, as_state_space

# Frequencies: EVEN of them are evenly spaced, and NEAR on each side of every pole are log-spaced in
# their distance to it. Between neighbours, the phase turns by a fraction of a right angle.
EVEN = 256
NEAR = 24
# Frequencies whose matrices are in memory at the same time.
AT_ONCE = 64
# Crossings of the unit circle that are refined, starting with those at the smallest c.
CROSSINGS = 8
# Bisection steps for an interval of frequencies: enough for the last digit of float64.
HALVINGS = 60
# Newton's method converges from one side; at a triple root, the error shrinks by a third per step.
NEWTON_STEPS = 80


def oriented(system: System) -> StateSpace:
    """Return the state space of `system` with its sign chosen so that its gain is not negative."""
    system = as_state_space(system)
    return _turned(system, dc_gain(system))


@jax.jit
def _turned(system, gain):
    sign = jnp.where(gain < 0, -1, 1)
    return system._replace(output=sign * system.output, feedthrough=sign * system.feedthrough)


def closed_loop(system: StateSpace, c: Float[Array, "*shape"]) -> Float[Array, "*shape n n"]:
    """Return the matrix of one step for parameter and state on a quadratic."""
    c = jnp.asarray(c)[..., None, None]
    row = jnp.append(system.feedthrough, system.output)
    top = jnp.eye(row.size)[:1] - c * row
    bottom = jnp.column_stack([system.drive, system.transition])
    bottom = jnp.broadcast_to(bottom, (*c.shape[:-2], *bottom.shape))
    return jnp.concatenate([top, bottom], axis=-2)


@jax.custom_jvp
def eigenvalues_of(matrix: Float[Array, "n n"]) -> Complex[Array, " n"]:
    """Return the eigenvalues in no particular order."""
    # One matrix at a time, to avoid a deadlock: for a batch, the workers of the CPU's LAPACK calls
    # wait for other workers of the same pool (jaxlib 0.10), and two calls in one program can wait
    # for each other.
    return jax.custom_batching.sequential_vmap(jnp.linalg.eigvals)(matrix)


@eigenvalues_of.defjvp
def _eigenvalues_jvp(primals, tangents):
    return jax.jvp(jnp.linalg.eigvals, primals, tangents)


@partial(jnp.vectorize, signature="(n,n)->()")
def radius_of(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Return the spectral radius; maps over leading axes."""
    return jnp.max(jnp.abs(eigenvalues_of(matrix)), initial=0)


def mean_growth(system: System, c: ArrayLike) -> Float[Array, "*shape"]:
    r"""Return the growth of the mean error per step on a quadratic.

    With H the transform, the error follows :math:`\theta \leftarrow \theta - c H \theta`. It grows
    like :math:`\rho^t`, where :math:`\rho` is the spectral radius of this map on parameter and
    state together. If the gradients have noise of mean 0, this holds for the mean of the error,
    which diverges if :math:`\ln \rho > 0`. For k equal averages of decay a, :math:`\rho` is the
    largest modulus of a root of :math:`(z - 1)(z - a)^k + c (1 - a)^k z^k`.

    Args:
        system: An `optax.GradientTransformation` or a `StateSpace`. A finished optimizer has
            negative gain; its negative is H.
        c: Learning rate times curvature, of any shape; the curvature for a finished optimizer. May
            be traced. The squared loss of `drifting_regression` has curvature 2.

    Returns:
        :math:`\ln \rho`, shaped like `c`; minus infinity if the error reaches 0 in finitely many
        steps.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `system` is not linear and time-invariant.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import mean_growth
        >>> [f"{mean_growth(nj.nested_momentum(1e-2, levels=m), 2.0):+.4f}" for m in (1, 6, 7)]
        ['-0.0202', '-0.0006', '+0.0007']
    """
    check_reals("c", c)
    c = jnp.asarray(c, jnp.result_type(float))
    return jnp.log(_radii(oriented(system), c))


def convergence_rate(system: System, eigenvalues: ArrayLike) -> Float[Array, ""]:
    r"""Return the worst factor by which the error on a quadratic shrinks per step.

    .. math:: \max_i \rho(\theta \leftarrow \theta - c_i H \theta)

    over the spectrum of the quadratic. At optimal constants, a transform has a double eigenvalue,
    which rounding splits, so only half of the digits are accurate.

    Args:
        system: As for `mean_growth`.
        eigenvalues: :math:`c_i`, the learning rate times the eigenvalues of the Hessian, or the
            eigenvalues alone for a finished optimizer; of any shape. May be traced.

    Returns:
        The factor; at least 1 if the method does not converge.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `system` is not linear and time-invariant, or `eigenvalues` is empty.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import convergence_rate
        >>> round(float(convergence_rate(nj.nesterov(1.0, decay=9 / 11), [0.01, 0.1, 1.0])), 3)
        0.9
    """
    check_reals("eigenvalues", eigenvalues)
    c = jnp.asarray(eigenvalues, jnp.result_type(float))
    if not c.size:
        raise ValueError("`eigenvalues` must not be empty, got none.")
    return jnp.max(_radii(oriented(system), c))


@jax.jit
def _radii(system, c):
    return radius_of(closed_loop(system, c))


def stability_limit(system: System) -> Float[Array, ""]:
    r"""Return the largest learning rate × curvature at which a quadratic is stable.

    It is the smallest c > 0 at which an eigenvalue of :math:`\theta \leftarrow \theta - c H \theta`
    leaves the unit disc. There,

    .. math:: c = \frac{1 - e^{i \theta}}{H(e^{i \theta})}, \quad 0 < \theta \le \pi,

    must be real and positive. Sign changes of its imaginary part are located on frequencies around
    every pole of H and then refined. A crossing at :math:`-1` needs no search:
    :math:`c = 2 / H(-1)`. For averages with equal decays, `cascade_limit` is a closed form. The
    result supports forward- and reverse-mode differentiation.

    Args:
        system: As for `mean_growth`. For a finished optimizer, the result is a curvature.

    Returns:
        c; 0 if no c is stable, as for a transform with gain 0, and infinity if every c is stable.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `system` is not linear and time-invariant, or its spectral radius is 1 or
            more. If it is traced, the result is NaN or 0 instead.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.theory import stability_limit
        >>> f"{stability_limit(nj.scale_by_accumulated_momentum(0.9)):.3f}"
        '3.800'
        >>> f"{stability_limit(nj.scale_by_nested_momentum([0.95] * 5)):.4f}"
        '0.0222'
    """
    system = oriented(system)
    limit, radius = limit_and_radius(system)
    _check_forgets(radius)
    return limit


@jax.jit
def limit_and_radius(system: StateSpace) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the limit of a system whose gain is not negative, and its spectral radius."""
    poles = eigenvalues_of(jax.lax.stop_gradient(system.transition))
    radius = jnp.max(jnp.abs(poles), initial=0)
    at_minus_one = 2 / response(system, jnp.asarray(jnp.pi)).real
    limits = jnp.append(_crossings(system, poles), at_minus_one)
    limit = jnp.min(jnp.where(limits > 0, limits, jnp.inf))
    limit = jnp.where((radius < 1) & (dc_gain(system) > 0), limit, 0)
    # A refused transform gives NaN when it is traced.
    return jnp.where(jnp.isnan(radius), jnp.nan, limit), radius


def _crossings(system, poles):
    """Return the smallest c at which pairs of eigenvalues cross the unit circle."""
    fixed = jax.lax.stop_gradient(system)

    def limit(system, theta):
        # 1 - z, without cancellation.
        chord = -2j * jnp.sin(theta / 2) * jnp.exp(0.5j * theta)
        return chord / response(system, theta)

    thetas = frequencies_of(poles)
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
        # The value is unchanged, but the derivative of the frequency enters (one Newton step).
        slope = jax.jvp(lambda theta: limit(fixed, theta), (theta,), (jnp.ones_like(theta),))[1]
        drift = limit(system, theta).imag / jnp.where(slope.imag == 0, 1, slope.imag)
        theta = theta - (drift - jax.lax.stop_gradient(drift))
        return jnp.where(candidate[i], limit(system, theta).real, jnp.inf)

    return jax.vmap(refined)(found)


def frequencies_of(poles: Complex[Array, " n"]) -> Float[Array, " frequency"]:
    """Return sorted frequencies in (0, pi), dense where a pole makes the phase turn fast."""
    # Both ends need dense frequencies too: the imaginary part has zeros there that do not cross.
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

    The left side is concave, so Newton's method started at 0 finds the first solution. If
    :math:`k a / (1 + a) \le 1/2`, as for k = 0 and k = 1, the solution is :math:`\theta = \pi`. For
    k >= 2, :math:`c^* \approx \frac{1 - a}{a} \tan \frac{\pi}{2 k} \sec^k \frac{\pi}{2 k}`, which
    is at most 3 % too low at a = 0.95.

    Args:
        stages: k >= 0, an integer; may be traced.
        decay: :math:`a \in [0, 1)`; may be traced.

    Returns:
        :math:`c^*`: learning rate times curvature.

    Raises:
        TypeError: If `stages` is not an integer.
        ValueError: If `stages` is negative or `decay` lies outside [0, 1).

    Example:
        >>> from nested_jax.theory import cascade_limit
        >>> [f"{cascade_limit(k, 0.95):.3g}" for k in (0, 1, 2, 18)]
        ['2', '78', '0.108', '0.00494']
    """
    valid = check_count("stages", stages)
    decay = check_unit_interval("decay", decay)
    dtype = jnp.result_type(float)
    # A narrow traced decay is widened before its complement rounds.
    decay = jnp.asarray(decay, dtype) if is_traced(decay) else decay
    numbers = (jnp.asarray(x, dtype) for x in (stages, decay, complement(decay)))
    return or_nan(valid, _cascade_limit(*numbers))


@jax.jit
def _cascade_limit(k, a, below):
    """Return the limit from `below` = 1 - a, which a decay near 1 rounded to float32 has lost."""

    def distance(theta):
        # |1 - a z|^2, without the cancellation in 1 - a cos(theta).
        return below**2 + 4 * a * jnp.sin(theta / 2) ** 2

    def newton(_, theta):
        # Near pi, where the root may be triple, use the distance to pi.
        left = jnp.pi - theta
        sine = jnp.where(theta < 2, jnp.sin(theta), jnp.sin(left))
        angle = k * jnp.arctan2(a * sine, below + 2 * a * jnp.sin(theta / 2) ** 2)
        miss = jnp.where(theta < 2, theta / 2 + angle - jnp.pi / 2, angle - left / 2)
        slope = 0.5 + k * a * (below - 2 * jnp.sin(theta / 2) ** 2) / distance(theta)
        return theta - jnp.minimum(miss, 0) / jnp.where(slope > 0, slope, jnp.inf)

    # Where the solution is pi it is not searched: with one stage, the miss is below rounding.
    start = jnp.where(2 * k * a <= 1 + a, jnp.pi, jnp.zeros_like(a))
    theta = jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)
    return 2 * jnp.sin(theta / 2) * (distance(theta) / below**2) ** (k / 2)
