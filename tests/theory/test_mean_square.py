"""Tests of the growth of the mean square: exact moments, printed figures, closed forms."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from nested_jax.theory import _mean_square
from nested_jax.theory._discounted_energy import discounted_energy
from tests.theory.second_moments import exact_growth, lyapunov_growth, with_bias, zero_lag_growth

pytestmark = pytest.mark.usefixtures("x64")

CURVATURE = _mean_square.CURVATURE
RTOL = 1e-10  # The oracle takes eigenvalues of, and solves with, matrices of up to 800 rows.
CLOSED_RTOL = 1e-12
FLOAT32_RTOL = 1e-3  # Of a growth of 1e-3 a step, formed from numbers near 1.
TINY_RTOL = 1e-6  # A growth of 4e-9 a step is formed from numbers near 1, whose eps is 2e-16.
# Differences over twice this step of numbers below 1 that are right to 1e-15.
STEP, SLOPE = 1e-6, {"rtol": 1e-6, "atol": 1e-9}
# Two outputs that cancel lose the digits of the largest binomial, and so does what answers to them.
CANCELLED = 16 * 2.0**-52
# ln of the growth over 30,000 steps, by the number of averages (MATH.md, section 9): decay .95,
# rate .01, ten inputs and a bias.
STEPS = 30_000
PRINTED = {0: -1065, 1: -1096, 2: -585, 3: -271, 4: -94, 5: 8.9, 6: 72, 7: 112, 8: 138}
PRINTED |= {10: 165, 12: 176, 14: 179.6, 18: 176}


def padded(stages, decay=0.95, room=19):
    return theory.cascade(jnp.where(jnp.arange(room) < stages, decay, 0.0))


@functools.cache
def growths_of_twenty():
    """Return the growth, with ten inputs, of twenty systems of 19 states: one program for all."""
    return jax.jit(jax.vmap(lambda system: theory.mean_square_growth(system, 10, 0.01)))


def systems_of(make, numbers):
    """Return the systems, of one size, that `make` gives of each of some numbers."""
    return jax.jit(jax.vmap(lambda x: theory.as_state_space(make(x))))(numbers)


@pytest.mark.parametrize(
    ("decays", "dim"), [([], 1), ([], 3), ([0.8], 1), ([0.8], 2), ([0.5, 0.8], 1)]
)
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_growth_is_that_of_all_second_moments(decays, dim, rate):
    growth = theory.mean_square_growth(theory.cascade(decays), dim, rate)
    np.testing.assert_allclose(growth, exact_growth(decays, rate, dim), rtol=RTOL)


def test_growth_is_that_of_the_table():
    growth = growths_of_twenty()(systems_of(padded, jnp.arange(20)))
    for k, printed in PRINTED.items():
        unit = 0.1 if isinstance(printed, float) else 1
        assert abs(STEPS * growth[k] - printed) <= unit / 2
    for k in (0, 1, 2, 5, 8, 12):  # With 18, the oracle's matrix has 722 rows.
        np.testing.assert_allclose(growth[k], lyapunov_growth(k, 0.01, with_bias(10)), rtol=RTOL)
    # First diverges with 5 stages, 6 levels; fastest near 14.
    assert np.all((growth > 0) == (np.arange(20) >= 5))
    assert np.argmax(growth) == 14
    # The mean goes on to blow_up there, and is never faster.
    mean = jax.jit(jax.vmap(lambda k: theory.mean_growth(padded(k), 0.02)))(jnp.arange(20))
    assert mean[5] < 0
    assert np.all(growth > 2 * mean)


def zero_lag(levels, room):
    decays = nj.nested_decays(levels, decay=0.95, max_levels=room)
    return nj.scale_by_nested_momentum(decays, readout="zero_lag")


@pytest.fixture(scope="module")
def zero_lag_growths():
    """Growth of 1 to 19 levels without lag, ten inputs, all padded to 20 levels."""
    with jax.enable_x64(True):
        systems = systems_of(lambda m: zero_lag(m, 20), jnp.arange(1, 21))
        return np.asarray(growths_of_twenty()(systems))[:19]


@pytest.mark.parametrize("levels", [2, 3, 7, 10, 14, 16, 17, 18, 19])
def test_growth_without_lag_is_that_of_the_recurrence(zero_lag_growths, levels):
    # The matrices are nearly defective, and their powers grow by ten digits before they shrink.
    stages = levels - 1
    weight = max(np.linalg.eigvals(with_bias(10)))
    rtol = RTOL + CANCELLED * math.comb(stages, stages // 2) ** 2
    expected = zero_lag_growth(stages, "0.01", weight)
    np.testing.assert_allclose(zero_lag_growths[levels - 1], expected, rtol=rtol)


@pytest.mark.parametrize("levels", [7, 16])
def test_growth_without_lag_needs_no_padding(zero_lag_growths, levels):
    alone = jax.jit(lambda: theory.mean_square_growth(zero_lag(levels, levels), 10, 0.01))()
    rtol = RTOL + CANCELLED * math.comb(levels - 1, (levels - 1) // 2) ** 2
    np.testing.assert_allclose(alone, zero_lag_growths[levels - 1], rtol=rtol)


def test_growth_without_lag_levels_off(zero_lag_growths):
    assert np.all(np.isfinite(zero_lag_growths))
    # One average less or more swings about what many have, less and less, and they creep down.
    late = zero_lag_growths[9:]
    assert np.all(np.abs(late + 0.03545) < 3e-5)
    assert np.all(np.diff(late[3:]) < 0)


@pytest.mark.parametrize(
    ("decay", "eigenvalue", "expected"),
    [
        (0.5, 0.5, 4 / 3),
        (0.5, 0.4, 4 / 3),
        (0.5, 1.5, 4 / 3),
        (0.9, 0.0, np.inf),  # Too far off: better no number than a part of the sum.
        (1.5, 1.5, np.inf),
        (1.0, 1.0, np.inf),
    ],
)
def test_an_energy_is_right_or_infinite(decay, eigenvalue, expected):
    one = jnp.ones(1)
    eigenvalues = jnp.array([eigenvalue + 0j])
    energy = discounted_energy(decay * jnp.eye(1), one, one, eigenvalues, jnp.zeros(()))
    np.testing.assert_allclose(energy, expected, rtol=CLOSED_RTOL)


def test_growth_is_found_where_the_radius_is_not(monkeypatch):
    # What LAPACK returns for a matrix that is nearly defective can be off by much.
    system, rate = theory.cascade([0.95] * 4), 0.01
    expected = theory.mean_square_growth(system, 10, rate)
    exact, weight = _mean_square.eigenvalues_of, _mean_square.noise_weight(10, True)

    @jax.jit
    def growth(error):
        monkeypatch.setattr(_mean_square, "eigenvalues_of", lambda A: error * exact(A))
        return _mean_square._growth.__wrapped__(system, weight, rate)

    for error in (0.9999, 1.0001):
        np.testing.assert_allclose(growth(error), expected, rtol=RTOL)


def test_the_constant_feature_is_no_gaussian():
    # As one more Gaussian input the bias would weigh more, and the table would not be met.
    still = theory.cascade([])
    gaussian = theory.mean_square_growth(still, 11, 0.01, bias=False)
    np.testing.assert_allclose(gaussian, lyapunov_growth(0, 0.01, np.array([[12.0]])), rtol=RTOL)
    assert round(float(STEPS * gaussian)) == -1063
    exact = theory.mean_square_growth(still, 10, 0.01)
    np.testing.assert_allclose(STEPS * (gaussian - exact), 1.936, atol=5e-4)


def test_growth_of_matched_delays_is_the_published_contraction():
    def system(m):
        return theory.cascade(nj.matched_delay_decays(m, decay=0.95, max_levels=20))

    contraction = -growths_of_twenty()(systems_of(system, jnp.arange(1, 21)))[2:19]
    # Printed as about 3.77e-2 for every k.
    assert np.all(np.abs(contraction - 3.77e-2) < 2e-4)


def test_limits_of_matched_delays_are_the_printed_ones():
    def limit(m):
        return theory.stability_limit(
            theory.cascade(nj.matched_delay_decays(m, decay=0.95, max_levels=19))
        )

    limits = jax.jit(jax.vmap(limit))(jnp.arange(3, 20))
    assert (round(float(limits[0]), 3), round(float(limits[-1]), 3)) == (0.222, 0.092)
    assert np.all(np.diff(limits) < 0)


def test_growth_takes_any_transform_jit_and_vmap():
    rates = jnp.array([1e-6, 1e-3, 1e-2, 0.1])
    decays = jnp.array([0.0, 0.5, 0.9])

    def growth(decay, rate):
        return theory.mean_square_growth(optax.trace(decay), 4, rate)

    together = jax.jit(jax.vmap(jax.vmap(growth, (None, 0)), (0, None)))(decays, rates)
    assert together.shape == (3, 4)
    alone = theory.mean_square_growth(nj.scale_by_accumulated_momentum(0.9), 4, 0.01)
    np.testing.assert_allclose(together[2, 2], alone, rtol=CLOSED_RTOL)
    finished = theory.mean_square_growth(nj.momentum(0.01, decay=0.9), 4)
    np.testing.assert_allclose(finished, alone, rtol=CLOSED_RTOL)
    # Gradient descent: (1 - 2 eta)^2 + 4 eta^2 mu, mu = (5 + sqrt(41)) / 2 for four inputs.
    weight = (5 + math.sqrt(41)) / 2
    expected = np.log1p(-4 * rates + 4 * rates**2 * (1 + weight))
    np.testing.assert_allclose(together[0], expected, rtol=1e-8)
    # Where one step forgets the error, all that is left is what noise adds.
    np.testing.assert_allclose(growth(0.0, 0.5), np.log(weight), rtol=CLOSED_RTOL)


@pytest.mark.parametrize("make", [theory.heavy_ball, lambda a: theory.cascade([a, a])])
def test_derivatives_forwards_are_those_of_differences(make):
    """Of the growth also where Newton's method ends before its derivative has settled."""

    def both(a, rate):
        system = make(a)
        return theory.mean_square_growth(system, 10, rate), theory.mean_square_limit(system, 10)

    @jax.jit
    def over_grid(step):
        shifted = lambda a, rate: both(a + step[0], rate + step[1])  # noqa: E731
        slopes = jax.jacfwd(lambda a, rate: both(a, rate), (0, 1))
        return [
            jax.vmap(jax.vmap(f, (None, 0)), (0, None))(decays, rates) for f in (shifted, slopes)
        ]

    decays, rates = jnp.array([0.3, 0.7, 0.9]), jnp.array([0.003, 0.01, 0.03])
    for k, step in enumerate(STEP * np.eye(2)):
        (after, slopes), (before, _) = over_grid(step), over_grid(-step)
        for low, high, slope in zip(before, after, slopes, strict=True):
            np.testing.assert_allclose(slope[k], (high - low) / (2 * STEP), **SLOPE)


def test_limit_of_gradient_descent_is_closed():
    for dim in (1, 10, 1000):
        limit = theory.mean_square_limit(optax.identity(), dim, bias=False)
        np.testing.assert_allclose(limit, 2 / (dim + 2), rtol=CLOSED_RTOL)


@pytest.mark.parametrize("rate", [1e-9, 1e-7, 1e-5, 1e-3])
def test_growth_of_gradient_descent_is_closed_down_to_tiny_rates(rate):
    """E|w|^2 is multiplied by 1 - 4 rate + 4 rate^2 (D + 2)."""
    growth = theory.mean_square_growth(optax.identity(), 10, rate, bias=False)
    expected = math.log1p(-4 * rate + 48 * rate**2)
    np.testing.assert_allclose(growth, expected, rtol=TINY_RTOL)


def test_growth_changes_sign_at_the_limit():
    def at(k, dim):
        system = padded(k, room=6)
        limit = theory.mean_square_limit(system, dim)
        around = limit / CURVATURE * jnp.array([0.3, 0.999, 1, 1.001])
        growth = jax.vmap(lambda rate: theory.mean_square_growth(system, dim, rate))(around)
        return limit, theory.stability_limit(system), growth

    every = jax.vmap(jax.vmap(at, (0, None)), (None, 0))
    limit, mean_limit, growth = jax.jit(every)(jnp.arange(7), jnp.array([1, 10, 100]))
    assert np.all(np.sign(growth[..., [0, 1, 3]]) == [-1, -1, 1])
    np.testing.assert_allclose(growth[..., 2], 0, atol=1e-13)
    assert np.all(limit < mean_limit)


@pytest.mark.parametrize("decay", [0.999, 1 - 1e-8])
def test_growth_and_limit_hold_for_a_long_memory(decay):
    system = optax.trace(decay)
    limit = theory.mean_square_limit(system, 1000) / CURVATURE
    assert theory.mean_square_growth(system, 1000, 0.9 * limit) < 0
    assert theory.mean_square_growth(system, 1000, 1.1 * limit) > 0


def test_a_refused_transform_gives_nan_where_it_is_traced():
    def all_of(b1):
        # Refused once, not by each of the three.
        system = theory.as_state_space(optax.scale_by_adam(b1=b1))
        return system, (
            theory.mean_square_growth(system, 3, 0.01),
            theory.mean_square_limit(system, 3),
            theory.stationary_loss(system, 3, 0.01).total,
        )

    system, numbers = jax.jit(all_of)(0.9)
    assert np.all(np.isnan(jax.tree.leaves(numbers)))
    assert all(np.all(np.isnan(array)) for array in system)


@pytest.mark.parametrize(
    ("system", "dim"),
    [
        (optax.identity(), 70),
        (optax.identity(), 10_000),
        (nj.scale_by_qhm(0.9, nu=0.7), 784),
        (optax.sgd(0.01), 10),
        (nj.momentum(1e-3, decay=0.9), 10),
    ],
)
def test_limits_in_single_precision_are_those_in_double(system, dim):
    """Though 1 - rate is 1 at the smallest rates that are tried."""
    expected = theory.mean_square_limit(system, dim)
    with jax.enable_x64(False):
        found = theory.mean_square_limit(system, dim)
        np.testing.assert_allclose(found, expected, rtol=FLOAT32_RTOL)


def test_a_limit_that_single_precision_cannot_hold_is_nan():
    with jax.enable_x64(False):
        assert np.isnan(theory.mean_square_limit(optax.identity(), 10**9))


def test_no_rate_is_stable_without_gain():
    still = theory.cascade([0.5])._replace(output=jnp.zeros(1), feedthrough=jnp.zeros(()))
    assert theory.mean_square_limit(still, 3) == 0


def test_single_precision_will_do_for_a_glance():
    with jax.enable_x64(False):
        growth = theory.mean_square_growth(padded(4, room=4), 10, 0.01)
        assert growth.dtype == jnp.float32
        np.testing.assert_allclose(STEPS * growth, -94.36, rtol=100 * FLOAT32_RTOL)
        limit = theory.mean_square_limit(padded(4, room=4), 10) / CURVATURE
        np.testing.assert_allclose(limit, 0.012781794, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: theory.mean_square_growth(optax.identity(), 0, 0.1),
            ValueError,
            "`dim` must be an integer of at least 1, got 0.",
        ),
        (
            lambda: theory.mean_square_limit(optax.identity(), 1.5),
            TypeError,
            "`dim` must be an integer of at least 1, got 1.5.",
        ),
        (
            lambda: theory.stationary_loss(optax.identity(), 3, 0.0),
            ValueError,
            "`learning_rate` must be positive and finite, got 0.0.",
        ),
        (
            lambda: theory.stationary_loss(optax.identity(), 3, noise_std=-1.0),
            ValueError,
            "`noise_std` must be non-negative and finite, got -1.0.",
        ),
        (
            lambda: theory.stationary_loss(optax.identity(), 3, weight_decay=1.5),
            ValueError,
            "`weight_decay` must lie in [0, 1], got 1.5.",
        ),
        (
            lambda: theory.stationary_loss(optax.identity(), 3, weight_decay=0.1),
            ValueError,
            "`weight_decay` must be 0 without a `drift`, got 0.1.",
        ),
        (
            lambda: theory.stationary_loss(optax.identity(), 3, drift=0.95),
            TypeError,
            "must have `init` and `update`",
        ),
        (
            lambda: theory.mean_square_growth(optax.identity(), 3, bias=1),
            TypeError,
            "`bias` must be True or False, got 1.",
        ),
        (lambda: theory.mean_square_growth(nj.scale_by_adam(), 3), ValueError, "homogeneity"),
        (
            lambda: theory.mean_square_limit(optax.trace(1.0), 3),
            ValueError,
            "`system` must have a spectral radius below 1, got 1.0.",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
