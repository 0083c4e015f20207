"""Tests of the mean square under online regression: exact moments, printed figures, simulation."""

import decimal
import functools
import itertools
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

pytestmark = pytest.mark.usefixtures("x64")

CURVATURE = _mean_square.CURVATURE
RTOL = 1e-10  # The oracle takes eigenvalues of, and solves with, matrices of up to 800 rows.
CLOSED_RTOL = 1e-12
FLOAT32_RTOL = 1e-3  # Of a growth of 1e-3 a step, formed from numbers near 1.
TINY_RTOL = 1e-6  # A growth of 4e-9 a step is formed from numbers near 1, whose eps is 2e-16.
STANDARD_ERRORS = 3  # The issue's.
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


def linear_map(step, size):
    """Return the matrix of a linear function of a vector, column by column."""
    return np.array([step(unit) for unit in np.eye(size)]).T


def one_step(decays, data_decays, rate, dim, chance, leak):
    """Return the map of one step on (w, momenta, W, 1), from the recurrences as they are printed.

    `chance` is (x, noise, drift): numbers. The last entry of the vector is the constant 1.
    """
    x, noise, drift = chance
    k, d, n = len(decays), len(data_decays), dim + 1
    features = np.append(x, 1.0)

    def step(vector):
        w, momenta = vector[:n], vector[n : n * (k + 1)].reshape(k, n)
        levels, one = vector[n * (k + 1) : -1].reshape(d, dim), vector[-1]
        inflow, fresh_levels = drift * one, []
        for a, level in zip(data_decays[::-1], levels[::-1], strict=True):
            inflow = a * level + (1 - a) * inflow
            fresh_levels.append(inflow)
        target = (inflow @ x if d else 0.0) + noise * one
        inflow, fresh = 2 * (features @ w - target) * features, []
        for a, momentum in zip(decays[::-1], momenta[::-1], strict=True):
            inflow = a * momentum + (1 - a) * inflow
            fresh.append(inflow)
        return np.concatenate(
            [(1 - leak) * w - rate * inflow, *fresh[::-1], *fresh_levels[::-1], [one]]
        )

    return linear_map(step, n * (k + 1) + d * dim + 1), target_row(data_decays, dim, k, chance)


def target_row(data_decays, dim, k, chance):
    """Return the row that makes the residual of a step from (w, momenta, W, 1)."""
    x, noise, drift = chance
    n, row = dim + 1, [np.append(x, 1.0), np.zeros((dim + 1) * k)]
    # W_1 after the step is a sum over the levels before it, and the drift.
    share, shares = 1.0, []
    for a in data_decays:
        shares.append(share * a)
        share *= 1 - a
    row += [-part * x for part in shares]
    last = -noise - (share * (drift @ x) if data_decays else 0.0)
    assert n == len(row[0])
    return np.concatenate([*row, [last]])


def moments(decays, data_decays, rate, dim, noise_std, leak=0.0):
    """Return the mean of step (x) step, and the loss as a row on second moments.

    The mean is taken over three points a number, which is exact up to fifth powers of each. All
    numbers but the inputs enter linearly, so that two points, -1 and 1, are enough for them.
    """
    points = np.array([-math.sqrt(3), 0, math.sqrt(3)])
    weights = np.array([1, 4, 1]) / 6
    signs = list(itertools.product([-1.0, 1.0], repeat=1 + (dim if data_decays else 0)))
    total, loss = 0.0, 0.0
    for index in itertools.product(range(3), repeat=dim):
        for sign in signs:
            drift = np.array(sign[1:]) if data_decays else np.zeros(dim)
            chance = points[list(index)], noise_std * sign[0], drift
            weight = np.prod(weights[list(index)]) / len(signs)
            step, row = one_step(decays, data_decays, rate, dim, chance, leak)
            total = total + weight * np.kron(step, step)
            loss = loss + weight * np.kron(row, row)
    return total, loss


def exact_growth(decays, rate, dim):
    total, _ = moments(decays, [], rate, dim, 0.0)
    size = math.isqrt(len(total))
    # Without the constant: the homogeneous part.
    kept = [i * size + j for i in range(size - 1) for j in range(size - 1)]
    return np.log(np.max(np.abs(np.linalg.eigvals(total[np.ix_(kept, kept)]))))


def exact_loss(decays, data_decays, rate, dim, noise_std, leak=0.0):
    total, loss = moments(decays, data_decays, rate, dim, noise_std, leak)
    # The second moment of the constant is 1; all others settle.
    rest, source = total[:-1, :-1], total[:-1, -1]
    settled = np.linalg.lstsq(np.eye(len(rest)) - rest, source, rcond=None)[0]
    return loss @ np.append(settled, 1.0)


def lyapunov_growth(stages, rate, weights, decay=0.95):
    """Return the growth from the two coupled maps P and Q as a matrix, for many inputs."""
    k = stages

    def step(vector, noise):
        e, momenta = vector[0], vector[1:]
        inflow, fresh = e + noise, []
        for momentum in momenta[::-1]:
            inflow = decay * momentum + (1 - decay) * inflow
            fresh.append(inflow)
        return np.array([e - 2 * rate * inflow, *fresh[::-1]])

    A = linear_map(lambda vector: step(vector, 0.0), k + 1)
    b = step(np.zeros(k + 1), 1.0)
    keep, add = np.kron(A, A), np.zeros(((k + 1) ** 2,) * 2)
    add[:, 0] = np.kron(b, b)
    whole = np.kron(np.eye(len(weights)), keep) + np.kron(weights, add)
    return np.log(np.max(np.abs(np.linalg.eigvals(whole))))


def zero_lag_growth(stages, rate, weight, decay="0.95"):
    """Return the growth from the recurrence of the levels itself, run with 40 digits."""
    steps = 120_000 // (stages + 1)
    with decimal.localcontext() as context:
        context.prec = 40
        keep, rate, blow_up = (decimal.Decimal(x) for x in (decay, rate, "1.017"))
        signed = [(-1) ** j * math.comb(stages, j + 1) for j in range(stages)]
        # The first gradient is half the noise alone, of size 1. What is summed is blown up, so that
        # nothing underflows.
        averages, error, half_gradient, grown, squares = [0] * stages, 0, 1, 1, []
        for _ in range(steps):
            inflow, combined = half_gradient, 0
            for j, sign in enumerate(signed):
                inflow = averages[j] = keep * averages[j] + (1 - keep) * inflow
                combined += sign * inflow
            half_gradient = error = error - 2 * rate * combined
            grown *= blow_up
            squares.append(float((error * grown) ** 2))
    squares, ages = np.array(squares), np.arange(1, steps + 1)
    blown_up = 2 * math.log(1.017)
    bracket = low, high = -0.04, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        terms = weight * squares * np.exp(-(middle + blown_up) * ages)
        low, high = (middle, high) if terms.sum() > 1 else (low, middle)
    assert bracket[0] < low < high < bracket[1]
    assert terms[-1000:].sum() < 1e-10  # The rest may be left out.
    return low


def with_bias(dim):
    return np.array([[dim + 1.0, dim], [1.0, 0.0]])


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


def test_growth_has_a_derivative_forwards():
    def growth(rate):
        return theory.mean_square_growth(theory.cascade([0.9]), 10, rate)

    step = 1e-6
    difference = (growth(0.03 + step) - growth(0.03 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jacfwd(growth)(0.03), difference, rtol=1e-7)


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


@pytest.mark.parametrize("dim", [1, 10])
@pytest.mark.parametrize("rate", [1e-3, 0.01, 0.07])
def test_excess_of_gradient_descent_is_closed(dim, rate):
    loss = theory.stationary_loss(optax.identity(), dim, rate, noise_std=0.3, bias=False)
    expected = dim * rate * 0.09 / (1 - rate * (dim + 2))
    np.testing.assert_allclose(loss.excess, expected, rtol=CLOSED_RTOL)
    np.testing.assert_allclose(loss.noise, 0.09, rtol=CLOSED_RTOL)
    assert loss.tracking == 0
    np.testing.assert_allclose(loss.total, 0.09 + expected, rtol=CLOSED_RTOL)


@pytest.mark.parametrize(
    ("decays", "data_decays", "dim"),
    [
        ([], [], 1),
        ([], [0.9], 2),
        ([], [0.0], 1),
        ([0.8], [], 2),
        ([0.8], [0.9], 1),
        ([0.8], [0.9, 0.7], 1),
        ([0.5, 0.8], [0.9], 1),
    ],
)
def test_stationary_loss_is_that_of_all_second_moments(decays, data_decays, dim):
    drift = theory.cascade(data_decays) if data_decays else None
    loss = theory.stationary_loss(theory.cascade(decays), dim, 0.05, noise_std=0.3, drift=drift)
    expected = exact_loss(decays, data_decays, 0.05, dim, 0.3)
    np.testing.assert_allclose(loss.total, expected, rtol=RTOL)
    still = theory.stationary_loss(theory.cascade(decays), dim, 0.05, noise_std=0.3)
    np.testing.assert_allclose(loss.excess, still.excess, rtol=CLOSED_RTOL)
    np.testing.assert_allclose(still.total, exact_loss(decays, [], 0.05, dim, 0.3), rtol=RTOL)


@pytest.mark.parametrize(
    ("decays", "data_decays", "dim"),
    [([], [0.9], 2), ([0.8], [0.9], 1), ([0.8], [0.9, 0.7], 1), ([], [0.0], 1)],
)
@pytest.mark.parametrize("leak", [0.03, 1.0])
def test_stationary_loss_with_weight_decay_is_that_of_all_second_moments(
    decays, data_decays, dim, leak
):
    system, drift = theory.cascade(decays), theory.cascade(data_decays)
    options = {"noise_std": 0.3, "drift": drift, "weight_decay": leak}
    loss = theory.stationary_loss(system, dim, 0.05, **options)
    expected = exact_loss(decays, data_decays, 0.05, dim, 0.3, leak)
    np.testing.assert_allclose(loss.total, expected, rtol=RTOL)


def test_a_vanishing_rate_and_weight_decay_predict_zero():
    # The weights are 0 within the precision: the loss is that of predicting 0.
    loss = theory.stationary_loss(
        optax.identity(), 10, 1e-13, drift=padded(3, room=3), weight_decay=1.0
    )
    zero = theory.predict_zero_loss(10, data_levels=3)
    np.testing.assert_allclose(loss.total, zero, rtol=RTOL)


def test_stationary_loss_with_weight_decay_is_that_of_long_runs():
    seeds, data_levels = 32, 2

    def run(levels, rate, leak, seed):
        momentum = nj.nested_momentum(rate, levels=levels, max_levels=3)
        tx = optax.chain(momentum, nj.add_decoupled_weight_decay(leak))
        problem = nj.drifting_regression(10, data_levels=data_levels)
        key = jax.random.key(seed)
        return {"loss": nj.rollout(tx, problem, key, 4000, warmup=1000).mean_loss}

    levels, rates, leaks = (1, 2, 3), (0.005, 0.01), (0.003, 0.01, 0.03, 0.1)
    grid = nj.Grid(levels=levels, rate=rates, leak=leaks, seed=range(seeds))
    losses = nj.sweep(run, grid, progress=False).loss.values
    drift = padded(data_levels, room=data_levels)

    @jax.jit
    @functools.partial(jnp.vectorize, signature="(),(),()->()")
    def predicted(m, rate, leak):
        system = padded(m - 1, room=2)
        return theory.stationary_loss(system, 10, rate, drift=drift, weight_decay=leak).total

    points = jnp.meshgrid(jnp.array(levels), jnp.array(rates), jnp.array(leaks), indexing="ij")
    predictions = predicted(*points)
    errors = losses.std(-1, ddof=1) / math.sqrt(seeds)
    close = np.abs(losses.mean(-1) - predictions) < STANDARD_ERRORS * errors
    assert np.mean(close) >= 0.95
    assert np.all(errors < 0.02 * predictions)


def test_stationary_loss_is_that_of_long_runs():
    data_levels, seeds = (1, 2, 5), 48

    def run(levels, data_levels, seed):
        tx = nj.nested_momentum(0.01, levels=levels, max_levels=5)
        problem = nj.drifting_regression(10, data_levels=data_levels, max_levels=5)
        key = jax.random.key(seed)
        return {"loss": nj.rollout(tx, problem, key, 10_000, warmup=4000).mean_loss}

    grid = nj.Grid(levels=range(1, 6), data_levels=data_levels, seed=range(seeds))
    losses = nj.sweep(run, grid, progress=False).loss.values
    assert losses.dtype == np.float64

    def predicted(m, d):
        drift = padded(d, room=5)
        return theory.stationary_loss(padded(m - 1, room=4), 10, 0.01, drift=drift).total

    every = jax.vmap(jax.vmap(predicted, (None, 0)), (0, None))
    predictions = jax.jit(every)(jnp.arange(1, 6), jnp.array(data_levels))
    errors = losses.std(-1, ddof=1) / math.sqrt(seeds)
    assert np.all(np.abs(losses.mean(-1) - predictions) < STANDARD_ERRORS * errors)
    # What is compared is known to a few percent, and the parts differ by much more.
    assert np.all(errors < 0.03 * predictions)


def test_every_matched_delay_loses_less_than_forty_percent_more_than_one_average():
    def parts(m):
        system = theory.cascade(nj.matched_delay_decays(m, decay=0.95, max_levels=19))
        return theory.stationary_loss(system, 10, 0.01, drift=padded(3, room=3))

    loss = jax.jit(jax.vmap(parts))(jnp.arange(2, 20))
    assert np.all(loss.excess / loss.excess[0] < 1.4)
    assert np.all(loss.tracking / loss.tracking[0] < 1.4)


def test_loss_is_infinite_where_the_mean_square_grows():
    drift = theory.cascade([0.9])

    def loss(k):
        return theory.stationary_loss(padded(k, room=18), 10, 0.01, drift=drift)

    losses = jax.jit(jax.vmap(loss))(jnp.arange(19))
    for part in (losses.excess, losses.tracking, losses.total):
        np.testing.assert_array_equal(np.isinf(part), np.arange(19) >= 5)
    assert np.all(losses.noise == losses.noise[0])
    assert np.isinf(theory.stationary_loss(optax.identity(), 3, 2.0).total)


def test_a_random_walk_is_followed():
    # The distance follows e' = (1 - 2 eta) e - q delta.
    dim, rate, q = 4, 0.02, 0.1
    drift = optax.chain(optax.trace(1.0), optax.scale(q))
    loss = theory.stationary_loss(optax.identity(), dim, rate, drift=drift, bias=False)
    share = rate / (1 - rate)
    expected = dim * q**2 / (4 * rate * (1 - rate)) / (1 - share * (dim + 1))
    np.testing.assert_allclose(loss.tracking, expected, rtol=CLOSED_RTOL)
    # What walks ever faster is not.
    twice = optax.chain(optax.trace(1.0), optax.trace(1.0))
    assert np.isinf(theory.stationary_loss(optax.identity(), dim, rate, drift=twice).tracking)
    assert np.isinf(theory.stationary_loss(padded(2), dim, rate, drift=twice).tracking)


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
