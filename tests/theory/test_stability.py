"""Tests of stability limits and growth against NumPy's eigenvalues and printed figures."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from nested_jax.theory import StateSpace

pytestmark = pytest.mark.usefixtures("x64")

LIMIT_RTOL = 1e-10  # The issue's.
# Eigenvalues of a map of 20 variables that is far from normal, over the slope of their size in c.
SCAN_RTOL = 1e-9
CLOSED_RTOL = 1e-12  # Solving loses three digits where the decay is .999.
RTOL = 1e-13
RUN_RTOL = 1e-11  # The digits of a logarithm of a hundred steps that round.
NARROW_RTOL = 4e-6  # 32 roundings of float32: a power of five stages.
FLOAT32_RTOL = 1e-4  # A phase near 1 of 32-bit numbers, 18 stages deep.
STAGES = range(20)
# From MATH.md, section 9, decay .95.
PRINTED = {0: "2", 1: "78", 2: ".1080", 3: ".0475", 4: ".0302", 5: ".0222", 6: ".0175"}
PRINTED |= {7: ".0144", 8: ".0123", 18: ".00494"}
# Size and angle of two poles and of two zeros beside them; rates that are stable or not, in turn;
# and the precision that eigenvalues leave so close to the circle.
RESONANCES = [
    ((0.998, 2.3), (0.945, 2.28), (0.05, 0.5, 1.8, 2.5), 1e-10),
    ((1 - 1e-6, 2.3), (0.9999, 2.30003), (0.01, 0.5, 1.98, 2.5), 1e-7),
]


def cascade_map(stages, decay, c):
    """Return the matrix of one step, made by taking the step from every unit vector."""

    def step(theta, momenta):
        inflow, fresh = theta, []
        for momentum in momenta[::-1]:
            inflow = decay * momentum + (1 - decay) * inflow
            fresh.append(inflow)
        return [theta - c * inflow, *fresh[::-1]]

    return np.array([step(unit[0], list(unit[1:])) for unit in np.eye(stages + 1)]).T


def system_map(system, c):
    A, b, output, d = (np.asarray(x) for x in system)
    top = np.append(1 - c * d, -c * output)
    return np.vstack([top, np.column_stack([b, A])])


def radius(matrix):
    return np.max(np.abs(np.linalg.eigvals(matrix)))


def first_unstable(map_of, rates):
    """Return the first rate at which the radius passes 1: a scan, then 100 halvings."""
    high = next((c for c in rates if radius(map_of(c)) > 1 + 1e-12), np.inf)
    if high == np.inf:
        return high
    low = rates[max(list(rates).index(high) - 1, 0)]
    for _ in range(100):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if radius(map_of(middle)) > 1 else (middle, high)
    return low


def padded(stages, decay=0.95, room=19):
    return theory.cascade(jnp.where(jnp.arange(room) < stages, decay, 0.0))


def test_limits_of_cascades_are_those_of_numpys_eigenvalues():
    rates = np.geomspace(1e-3, 1e2, 60)
    expected = [first_unstable(lambda c, k=k: cascade_map(k, 0.95, c), rates) for k in STAGES]
    stages = jnp.arange(20)
    closed = jax.jit(jax.vmap(lambda k: theory.cascade_limit(k, 0.95)))(stages)
    searched = jax.jit(jax.vmap(lambda k: theory.stability_limit(padded(k))))(stages)
    np.testing.assert_allclose(closed, expected, rtol=LIMIT_RTOL)
    np.testing.assert_allclose(searched, expected, rtol=LIMIT_RTOL)
    np.testing.assert_allclose(searched, closed, rtol=CLOSED_RTOL)


@pytest.mark.parametrize("stages", PRINTED)
def test_limits_have_the_printed_digits(stages):
    text = PRINTED[stages]
    unit = 10.0 ** -len(text.partition(".")[2])
    assert abs(theory.cascade_limit(stages, 0.95) - float(text)) <= 0.5 * unit


def test_limits_hold_for_every_decay():
    # Where k a / (1 + a) is 1/2, the crossing reaches -1: on both sides of it, too.
    decays = jnp.array([0.0, 0.1, 0.2, 1 / 3 - 1e-4, 1 / 3, 1 / 3 + 1e-4, 0.5, 0.9, 0.999])
    stages = jnp.arange(6)

    def both(k, a):
        return theory.cascade_limit(k, a), theory.stability_limit(padded(k, a, 5))

    closed, searched = jax.jit(jax.vmap(jax.vmap(both, (None, 0)), (0, None)))(stages, decays)
    np.testing.assert_allclose(searched, closed, rtol=CLOSED_RTOL)
    rates = np.geomspace(1e-6, 1e4, 400)
    expected = [
        [first_unstable(lambda c, k=k, a=a: cascade_map(k, a, c), rates) for a in decays.tolist()]
        for k in (2, 5)
    ]
    np.testing.assert_allclose(closed[np.array([2, 5])], expected, rtol=SCAN_RTOL)


def test_limit_of_a_decay_in_another_dtype():
    assert theory.cascade_limit(3, jnp.int32(0)) == 2
    narrow = jax.jit(theory.cascade_limit)(3, jnp.float32(0.5))
    assert narrow == theory.cascade_limit(3, 0.5)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99999, 0.99999999])
def test_limits_of_slow_decays_have_their_digits_in_float32(decay):
    # From the characteristic polynomials of k = 1 and, from 1/3 on, k = 2. The last decay is 1 in
    # float32.
    two = (1 - decay) * (1 + decay) / decay**2 if decay else 2
    expected = [2, 2 * (1 + decay) / (1 - decay), two]
    exact = [theory.cascade_limit(k, decay) for k in range(6)]
    np.testing.assert_allclose(exact[:3], expected, rtol=CLOSED_RTOL)
    with jax.enable_x64(False):
        found = [theory.cascade_limit(k, decay) for k in range(6)]
        traced = jax.vmap(lambda k: theory.cascade_limit(k, decay))(jnp.arange(6))
        assert traced.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=NARROW_RTOL)
    np.testing.assert_allclose(traced, exact, rtol=NARROW_RTOL)


def test_a_narrow_traced_decay_is_widened_before_its_complement():
    narrow = jnp.bfloat16(0.1)
    assert jax.jit(theory.cascade_limit)(3, narrow) == theory.cascade_limit(3, float(narrow))


def test_the_approximation_is_low_by_at_most_three_percent():
    k = np.arange(2, 20)
    angle = np.pi / (2 * k)
    approximate = 0.05 / 0.95 * np.tan(angle) / np.cos(angle) ** k
    ratio = approximate / jax.vmap(lambda k: theory.cascade_limit(k, 0.95))(jnp.asarray(k))
    assert np.all((ratio > 0.97) & (ratio < 1))


@pytest.mark.parametrize(
    ("system", "printed", "digits"),
    [
        (nj.scale_by_accumulated_momentum(0.9), 3.8, 10),
        (optax.trace(0.9, nesterov=True), 1.3571, 4),
        (optax.ema(0.95, debias=False), 78.0, 10),
        (theory.qhm(0.999, 0.7), 6.659, 3),
        (theory.aggmo([0.0, 0.9, 0.99]), 2.957, 3),
        (theory.zero_lag([0.95] * 2), 39.51, 2),
        (theory.zero_lag([0.95] * 3), 26.68, 2),
        (optax.identity(), 2.0, 10),
        # Finished optimizers: what is limited is the curvature.
        (nj.momentum(0.5, decay=0.9), 7.6, 10),
        (nj.nested_momentum(0.01, levels=2), 7800.0, 8),
    ],
)
def test_limits_of_known_transforms(system, printed, digits):
    assert abs(theory.stability_limit(system) - printed) <= 0.5 * 10.0**-digits


def random_systems(size, count, seed):
    """Return stable systems of positive gain, with poles anywhere, some close to the circle."""
    rng = np.random.default_rng(seed)
    systems = []
    for _ in range(count):
        A = rng.normal(size=(size, size))
        A *= (1 - 10 ** rng.uniform(-4, -0.3)) / radius(A)
        b, output = rng.normal(size=(2, size))
        d = rng.choice([0.0, rng.normal()])
        sign = np.sign(output @ np.linalg.solve(np.eye(size) - A, b) + d)
        systems.append(StateSpace(A, b, sign * output, sign * d))
    return systems


@pytest.mark.parametrize("size", [1, 2, 5])
def test_limits_of_systems_with_poles_anywhere(size):
    systems = random_systems(size, 25, size)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *systems)
    limits = jax.jit(jax.vmap(theory.stability_limit))
    found = limits(stacked)
    rates = np.geomspace(1e-6, 1e4, 1500)
    expected = [first_unstable(lambda c, s=s: system_map(s, c), rates) for s in systems]
    known = np.isfinite(expected)
    np.testing.assert_allclose(found[known], np.array(expected)[known], rtol=SCAN_RTOL)
    assert np.all(found[~known] > rates[-1])
    flipped = stacked._replace(output=-stacked.output, feedthrough=-stacked.feedthrough)
    np.testing.assert_array_equal(limits(flipped), found)


@pytest.mark.parametrize(("pole", "zero", "rates", "rtol"), RESONANCES)
def test_the_first_limit_counts_where_stability_is_lost_and_regained(pole, zero, rates, rtol):
    # A resonance is excited between two rates.
    poles, zeros = (r * np.exp([1j * angle, -1j * angle]) for r, angle in (pole, zero))
    p, q = np.poly(poles).real, np.poly(zeros).real
    A = [[-p[1], -p[2]], [1.0, 0.0]]
    system = StateSpace(*map(jnp.asarray, (A, [1.0, 0.0], q[1:] - p[1:], 1.0)))
    sizes = [radius(system_map(system, c)) for c in rates]
    assert np.all((np.array(sizes) > 1) == [False, True, False, True])
    expected = first_unstable(lambda c: system_map(system, c), np.geomspace(0.01, 1, 100))
    np.testing.assert_allclose(theory.stability_limit(system), expected, rtol=rtol)


@pytest.mark.parametrize("delay", [1, 2, 40])
def test_limits_of_a_delay_are_closed(delay):
    # theta' = theta - c theta of `delay` steps ago, with a crossing for every half turn.
    unit = jnp.eye(delay)
    system = StateSpace(jnp.eye(delay, k=-1), unit[0], unit[-1], jnp.zeros(()))
    expected = 2 * np.sin(np.pi / (4 * delay + 2))
    np.testing.assert_allclose(theory.stability_limit(system), expected, rtol=CLOSED_RTOL)


def test_limits_do_not_depend_on_coordinates():
    A, b, output, d = theory.aggmo([0.3, 0.5, 0.9])
    # In these the first pivot is 0 at the frequency pi, where the limit is.
    change = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [2.0, 3.0, 0.5]])
    back = np.linalg.inv(change)
    system = StateSpace(*map(jnp.asarray, (change @ A @ back, change @ b, output @ back, d)))
    np.testing.assert_allclose(system.transition[0, 0], -1, rtol=CLOSED_RTOL)
    expected = 6 / (1 / 1.3 + 1 / 1.5 + 1 / 1.9)
    np.testing.assert_allclose(theory.stability_limit(system), expected, rtol=CLOSED_RTOL)


def test_a_transform_without_gain_is_never_stable():
    difference = StateSpace(*map(jnp.asarray, ([[0.0]], [1.0], [-1.0], 1.0)))
    assert theory.stability_limit(difference) == 0


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
def test_limits_have_derivatives(derivative):
    closed = jax.jit(derivative(lambda a: theory.cascade_limit(3, a)))(0.9)
    searched = jax.jit(derivative(lambda a: theory.stability_limit(padded(3, a, 3))))(0.9)
    step = 1e-6
    difference = theory.cascade_limit(3, 0.9 + step) - theory.cascade_limit(3, 0.9 - step)
    np.testing.assert_allclose(closed, difference / (2 * step), rtol=1e-8)
    np.testing.assert_allclose(searched, closed, rtol=CLOSED_RTOL)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
def test_mean_growth_has_a_derivative(derivative):
    def growth(a):
        return theory.mean_growth(theory.cascade([a] * 3), 0.03)

    step = 1e-6
    difference = (growth(0.9 + step) - growth(0.9 - step)) / (2 * step)
    slopes = jax.jit(jax.vmap(derivative(growth)))(jnp.array([0.9]))
    np.testing.assert_allclose(slopes, difference, rtol=1e-8)


def test_mean_growth_is_that_of_numpys_eigenvalues():
    growth = jax.jit(jax.vmap(lambda k: theory.mean_growth(padded(k), 0.02)))(jnp.arange(20))
    expected = [np.log(radius(cascade_map(k, 0.95, 0.02))) for k in STAGES]
    np.testing.assert_allclose(growth, expected, atol=1e-11)
    # At the published rate .01 the mean first grows with 6 stages: 7 levels.
    assert np.all((growth > 0) == (np.arange(20) >= 6))


def test_mean_growth_takes_rates_of_any_shape_and_changes_sign_at_the_limit():
    limit = theory.cascade_limit(4, 0.95)
    c = limit * jnp.array([[0.5, 1 - 1e-6, 1 + 1e-6], [0.0, 2.0, 3.0]])
    growth = theory.mean_growth(padded(4, room=4), c)
    assert growth.shape == (2, 3)
    assert np.all(np.sign(growth.at[1, 0].set(0)) == [[-1, -1, 1], [0, 1, 1]])
    np.testing.assert_allclose(growth[1, 0], 0, atol=RTOL)
    assert theory.mean_growth(optax.identity(), 1.0) == -np.inf


def test_a_run_shrinks_as_predicted():
    # Its largest eigenvalue is real, so that it does not oscillate.
    tx = nj.nested_momentum(0.01, levels=3, decay=0.5)

    def step(carry, _):
        theta, state = carry
        update, state = tx.update(2.0 * theta, state)
        return (theta + update, state), theta

    thetas = jax.lax.scan(step, (jnp.ones(()), tx.init(jnp.ones(()))), length=300)[1]
    growth = jnp.log(thetas[299] / thetas[199]) / 100
    np.testing.assert_allclose(growth, theory.mean_growth(tx, 2.0), rtol=RUN_RTOL)


# What MATH.md, section 3, gives for condition number 100: (eta, rho) of L = 1, mu = 1 / 100.
SECTION_3 = {"gradient_descent": 0.9802, "heavy_ball": 0.8182, "nesterov": 0.9}
SECTION_3 |= {"nesterov_quadratic": 0.8847}


@functools.cache
def rates_of(nesterov):
    """Return the rates of a momentum and of the optimizer made of it: one program for all tests."""

    def rates(rate, decay, spectrum):
        momentum = optax.trace(decay, nesterov=nesterov)
        tx = optax.chain(momentum, optax.scale(-rate))
        alone = theory.convergence_rate(momentum, rate * spectrum)
        return alone, theory.convergence_rate(tx, spectrum)

    return jax.jit(rates)


@pytest.mark.parametrize("method", SECTION_3)
@pytest.mark.parametrize("condition", [10.0, 100.0, 1000.0, 10000.0])
def test_convergence_rates_of_section_3(method, condition):
    spectrum = np.geomspace(1 / condition, 1.0, 200)
    rate, decay, factor = theory.optimal_tuning(method, spectrum[0], spectrum[-1])
    for found in rates_of(method.startswith("nesterov"))(rate, decay, spectrum):
        assert abs(found - factor) < 0.5e-4
    if condition == 100:
        assert abs(factor - SECTION_3[method]) < 0.5e-4


def test_a_refused_transform_gives_nan_where_it_is_traced():
    def limits(decay):
        tx = optax.scale_by_adam(b1=decay)
        return theory.stability_limit(tx), theory.mean_growth(tx, 1.0)

    assert np.all(np.isnan(jax.jit(limits)(0.9)))
    unstable = jax.jit(lambda a: theory.stability_limit(optax.trace(a)))
    assert unstable(1.0) == 0
    np.testing.assert_allclose(unstable(0.5), 3, rtol=RTOL)


def test_single_precision_will_do_for_a_glance():
    with jax.enable_x64(False):
        limit = theory.stability_limit(padded(18))
        assert limit.dtype == jnp.float32
        np.testing.assert_allclose(limit, 0.0049423584, rtol=FLOAT32_RTOL)
        assert theory.cascade_limit(18, 0.95).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.stability_limit(3), TypeError, "must have `init` and `update`"),
        (lambda: theory.mean_growth(nj.scale_by_adam(), 1.0), ValueError, "homogeneity"),
        (
            lambda: theory.stability_limit(optax.trace(1.0)),
            ValueError,
            "`system` must have a spectral radius below 1, got 1.0.",
        ),
        (
            lambda: theory.convergence_rate(optax.identity(), []),
            ValueError,
            "`eigenvalues` must not be empty, got none.",
        ),
        (
            lambda: theory.cascade_limit(1.5, 0.9),
            TypeError,
            "`stages` must be an integer of at least 0, got 1.5.",
        ),
        (
            lambda: theory.cascade_limit(-1, 0.9),
            ValueError,
            "`stages` must be an integer of at least 0, got -1.",
        ),
        (
            lambda: theory.cascade_limit(1, 1.7),
            ValueError,
            "`decay` must lie in [0, 1), got 1.7.",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
