"""Tests of the stationary loss of online regression: exact moments, simulation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from tests.theory.second_moments import exact_loss
from tests.theory.test_mean_square import CLOSED_RTOL, RTOL, padded

pytestmark = pytest.mark.usefixtures("x64")

STANDARD_ERRORS = 3  # The issue's.


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
