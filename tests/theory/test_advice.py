"""Tests of advice: rates that are stable, rates that keep a speed, constants for quadratics."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory

pytestmark = pytest.mark.usefixtures("x64")

RTOL = 1e-12
CURVATURE = 2.0  # Of the squared loss with inputs of variance 1.


def test_half_the_limit_contracts_gradient_descent_fastest():
    rate = theory.stable_rate(optax.identity(), 10, bias=False)
    np.testing.assert_allclose(rate, 1 / (2 * 12), rtol=RTOL)
    rates = rate * jnp.array([0.98, 1.0, 1.02])
    growth = [theory.mean_square_growth(optax.identity(), 10, r, bias=False) for r in rates]
    assert growth[1] < min(growth[0], growth[2])
    np.testing.assert_allclose(growth[1], math.log(1 - 1 / 12), rtol=RTOL)


def test_the_rate_is_a_share_of_the_limit_for_every_level(optimized):
    def both(m, margin):
        system = theory.cascade(nj.nested_decays(m, decay=0.95, max_levels=19))
        limit = theory.mean_square_limit(system, 10) / CURVATURE
        return theory.stable_rate(system, 10, margin=margin), limit

    rates, limits = jax.jit(jax.vmap(both, (0, None)))(jnp.arange(1, 20), 0.7)
    np.testing.assert_allclose(rates, 0.7 * limits, rtol=RTOL)

    def growth(m, rate):
        system = theory.cascade(nj.nested_decays(m, decay=0.95, max_levels=19))
        return theory.mean_square_growth(system, 10, rate)

    # The published rate is too much from six levels on; the advised ones are stable.
    assert np.all((limits < 0.01) == (np.arange(1, 20) >= 6))
    assert np.all(jax.jit(jax.vmap(growth))(jnp.arange(1, 20), rates) < 0)


def test_matched_delays_allow_more():
    equal = theory.stable_rate(theory.cascade(nj.nested_decays(19)), 10)
    matched = theory.stable_rate(theory.cascade(nj.matched_delay_decays(19)), 10)
    assert matched > 10 * equal
    # At the published rate, they need no other.
    assert matched > 0.01


@pytest.mark.parametrize(
    ("system", "factor"),
    [
        (nj.scale_by_accumulated_momentum(0.9), 0.1),
        (optax.trace(0.75, nesterov=True), 0.25),
        (nj.scale_by_nested_momentum([0.9, 0.5]), 1.0),
        (theory.aggmo([0.5, 0.75]), 1 / 3),
        (optax.identity(), 1.0),
        (nj.momentum(0.5, decay=0.9), 0.2),
    ],
)
def test_the_rescaled_rate_keeps_the_speed(system, factor):
    rate = theory.rescaled_rate(system, 0.3)
    np.testing.assert_allclose(rate, 0.3 * factor, rtol=RTOL)
    speed = theory.terminal_velocity(system, 1.0, rate)
    np.testing.assert_allclose(speed, -0.3, rtol=RTOL)


def test_the_rescaled_rate_is_traceable():
    rescaled = jax.jit(jax.vmap(lambda decay: theory.rescaled_rate(optax.trace(decay), 0.1)))
    rates = rescaled(jnp.array([0.0, 0.5, 0.9]))
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.01], rtol=RTOL)
    assert theory.rescaled_rate(optax.trace(1.0), 0.1) == 0


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0, 1000.0])
def test_tunings_are_those_of_section_3(condition):
    L, mu = 3.0, 3.0 / condition
    root, q = math.sqrt(condition), math.sqrt(3 * condition + 1)
    ball = (root - 1) / (root + 1)
    expected = {
        "gradient_descent": (2 / (L + mu), 0.0, (condition - 1) / (condition + 1)),
        "heavy_ball": (4 / (math.sqrt(L) + math.sqrt(mu)) ** 2, ball**2, ball),
        "nesterov": (1 / L, ball, 1 - 1 / root),
        "nesterov_quadratic": (4 / (3 * L + mu), (q - 2) / (q + 2), 1 - 2 / q),
    }
    for method, constants in expected.items():
        tuning = theory.optimal_tuning(method, mu, L)
        np.testing.assert_allclose(tuning, constants, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("method", ["gradient_descent", "heavy_ball", "nesterov_quadratic"])
def test_no_constants_nearby_are_better(method):
    spectrum = jnp.geomspace(0.05, 1.0, 400)
    rate, decay, factor = theory.optimal_tuning(method, 0.05, 1.0)

    def worst(rate, decay):
        tx = theory.nesterov(decay) if method.startswith("nesterov") else theory.heavy_ball(decay)
        return theory.convergence_rate(tx, rate * spectrum)

    for more in (0.97, 1.03):
        assert worst(rate * more, decay) > factor + 1e-5
        if method != "gradient_descent":
            assert worst(rate, decay * more) > factor + 1e-5


def test_tunings_are_traceable():
    tune = jax.jit(jax.vmap(lambda mu: theory.optimal_tuning("heavy_ball", mu, 1.0)))
    tuning = tune(jnp.array([0.01, 0.1]))
    assert isinstance(tuning, theory.Tuning)
    np.testing.assert_allclose(tuning.rate[0], 9 / 11, rtol=RTOL)
    reversed_ = jax.jit(lambda low, high: theory.optimal_tuning("heavy_ball", low, high))(
        100.0, 1.0
    )
    assert np.isnan(reversed_).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: theory.stable_rate(optax.identity(), 3, margin=0.0),
            ValueError,
            "`margin` must be positive and finite, got 0.0.",
        ),
        (
            lambda: theory.stable_rate(optax.identity(), 0),
            ValueError,
            "`dim` must be an integer of at least 1, got 0.",
        ),
        (
            lambda: theory.rescaled_rate(optax.identity(), -0.1),
            ValueError,
            "`learning_rate` must be positive and finite, got -0.1.",
        ),
        (lambda: theory.rescaled_rate(nj.scale_by_adam(), 0.1), ValueError, "homogeneity"),
        (
            lambda: theory.optimal_tuning("adam", 1, 2),
            ValueError,
            "`method` must be one of 'gradient_descent', 'heavy_ball', 'nesterov', "
            "'nesterov_quadratic', got 'adam'.",
        ),
        (
            lambda: theory.optimal_tuning("nesterov", 0.0, 2),
            ValueError,
            "`smallest` must be positive and finite, got 0.0.",
        ),
        (
            lambda: theory.optimal_tuning("nesterov", 3.0, 2.0),
            ValueError,
            "`smallest` must be at most `largest` = 2.0, got 3.0.",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
