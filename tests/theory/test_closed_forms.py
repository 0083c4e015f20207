"""Tests of responses against closed forms: named systems, averages in a row, memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

import nested_jax as nj
from nested_jax import theory
from tests.theory.test_responses import RTOL
from tests.theory.test_state_space import INPUTS, outputs

# Sums of hundreds of logarithms.
WEIGHT_RTOL = 1e-12
FLOAT32_RTOL = 1e-5  # The logarithm of the first weight is -23: 12 roundings of it.


def average(a, z):
    return (1 - a) * z / (z - a)


def parallel(weights, parts):
    """Return a transform whose output is the weighted sum of those of `parts`."""

    def update(u, states, params=None):
        pairs = [tx.update(u, state, params) for tx, state in zip(parts, states, strict=True)]
        return sum(w * y for w, (y, _) in zip(weights, pairs, strict=True)), [s for _, s in pairs]

    return optax.GradientTransformation(lambda params: [tx.init(params) for tx in parts], update)


# Of each: the system, its transfer function, the transform that runs, and the largest stable
# rate times curvature, 2 / H(-1), to its digits in docs/explanation/mathematics.md, section 9.
NAMED = {
    "heavy_ball": (
        functools.partial(theory.heavy_ball, 0.9),
        lambda z: z / (z - 0.9),
        optax.trace(0.9),
        "3.8",
    ),
    "nesterov": (
        functools.partial(theory.nesterov, 0.9),
        lambda z: 1 + 0.9 * z / (z - 0.9),
        optax.trace(0.9, nesterov=True),
        "1.3571",
    ),
    "ema": (
        functools.partial(theory.ema, 0.95),
        functools.partial(average, 0.95),
        optax.ema(0.95, debias=False),
        "78",
    ),
    "qhm": (
        functools.partial(theory.qhm, 0.999, 0.7),
        lambda z: 0.3 + 0.7 * average(0.999, z),
        parallel([0.3, 0.7], [optax.identity(), optax.ema(0.999, debias=False)]),
        "6.659",
    ),
    "aggmo": (
        functools.partial(theory.aggmo, [0.0, 0.9, 0.99]),
        lambda z: (1 + z / (z - 0.9) + z / (z - 0.99)) / 3,
        parallel([1 / 3] * 3, [optax.trace(a) for a in (0.0, 0.9, 0.99)]),
        "2.957",
    ),
    "dema": (
        functools.partial(theory.zero_lag, [0.95] * 2),
        lambda z: 2 * average(0.95, z) - average(0.95, z) ** 2,
        nj.scale_by_nested_momentum([0.95] * 2, readout="zero_lag"),
        "39.51",
    ),
    "tema": (
        functools.partial(theory.zero_lag, [0.95] * 3),
        lambda z: 3 * average(0.95, z) - 3 * average(0.95, z) ** 2 + average(0.95, z) ** 3,
        nj.scale_by_nested_momentum([0.95] * 3, readout="zero_lag"),
        "26.68",
    ),
    "cascade": (
        functools.partial(theory.cascade, [0.9, 0.5, 0.99]),
        lambda z: average(0.9, z) * average(0.5, z) * average(0.99, z),
        nj.scale_by_nested_momentum([0.9, 0.5, 0.99]),
        None,
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_systems_have_their_transfer_function(x64, name):
    make, transfer, tx, _ = NAMED[name]
    frequencies = np.array([[0.0, 1e-3, 0.1], [1.0, 3.0, np.pi]])
    expected = transfer(np.exp(1j * frequencies))
    for system in (make(), tx):
        actual = theory.frequency_response(system, frequencies)
        np.testing.assert_allclose(actual, expected, rtol=RTOL)
        np.testing.assert_allclose(theory.dc_gain(system), expected[0, 0].real, rtol=RTOL)


@pytest.mark.parametrize("name", NAMED)
def test_named_systems_do_what_their_transform_does(x64, name):
    make, _, tx, _ = NAMED[name]
    actual = theory.impulse_response(make(), 120)
    expected = outputs(tx, INPUTS[1, :120])[0]
    np.testing.assert_allclose(actual, expected, rtol=WEIGHT_RTOL, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name][3]])
def test_printed_stability_limits(x64, name):
    make, _, _, printed = NAMED[name]
    digits = len(printed.partition(".")[2])
    limit = 2 / float(theory.frequency_response(make(), np.pi).real)
    assert f"{limit:.{digits}f}" == printed


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("stages", [0, 1, 3, 18])
def test_equal_averages_in_a_row(x64, stages, decay):
    system = theory.cascade([decay] * stages)
    np.testing.assert_allclose(theory.dc_gain(system), 1, rtol=RTOL)
    delay = stages * decay / (1 - decay)
    np.testing.assert_allclose(theory.mean_delay(system), delay, rtol=RTOL, atol=RTOL)
    j = np.arange(300)
    expected = [
        math.comb(int(i) + stages - 1, int(i)) * decay ** int(i) if stages else float(i == 0)
        for i in j
    ]
    expected = np.array(expected) * (1 - decay) ** stages
    actual = theory.impulse_response(system, 300)
    np.testing.assert_allclose(actual, expected, rtol=WEIGHT_RTOL)
    actual = theory.negative_binomial_weights(stages, decay, 300)
    np.testing.assert_allclose(actual, expected, rtol=WEIGHT_RTOL)
    if stages:
        steps = scipy.special.betainc(stages, j + 1, 1 - decay)
        np.testing.assert_allclose(theory.step_response(system, 300), steps, rtol=WEIGHT_RTOL)


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])
def test_weights_have_derivatives_at_the_edges(x64, derivative):
    def weights(a, k):
        return theory.negative_binomial_weights(k, a, 4)

    slope, bend = derivative(weights), derivative(derivative(weights))
    # (1 - a)^3 [1, 3 a, 6 a^2, 10 a^3]
    np.testing.assert_allclose(slope(0.0, 3), [-3, 3, 0, 0], rtol=RTOL)
    np.testing.assert_allclose(bend(0.0, 3), [6, -18, 12, 0], rtol=RTOL)
    # 1, 0, 0, 0 and (1 - a) [1, a, a^2, a^3]
    slopes = jax.vmap(slope, (None, 0))(0.5, jnp.arange(2))
    np.testing.assert_allclose(slopes, [[0, 0, 0, 0], [-1, 0, 0.25, 0.25]], rtol=RTOL)


def test_weights_of_a_slow_decay_have_their_digits_whether_the_stages_are_traced_or_not():
    expected = scipy.stats.nbinom.pmf(np.arange(10), 2, 1 - 0.99999)
    weights = functools.partial(theory.negative_binomial_weights, decay=0.99999, steps=10)
    np.testing.assert_allclose(weights(2), expected, rtol=FLOAT32_RTOL)
    np.testing.assert_allclose(jax.jit(weights)(2), expected, rtol=FLOAT32_RTOL)


def test_printed_bias_correction(x64):
    assert f"{theory.step_response(theory.cascade([0.9] * 3), 10)[-1]:.4f}" == "0.1109"


@pytest.mark.parametrize("levels", [2, 3, 7, 19])
def test_matched_delay(x64, levels):
    system = theory.cascade(nj.matched_delay_decays(levels, decay=0.95))
    np.testing.assert_allclose(theory.mean_delay(system), 19, rtol=RTOL)


@functools.cache
def averages(stages):
    return nj.scale_by_nested_momentum([0.95] * stages)


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("stages", [1, 2, 5, 18])
def test_memory_of_equal_averages(x64, stages, share):
    # The number of failures before the k-th success, of which n - 1 suffice.
    expected = 1 + scipy.stats.nbinom.ppf(share, stages, 0.05)
    assert theory.memory(averages(stages), share) == expected


def test_memory_of_slow_decays(x64):
    # s_n = 1 - a^n
    for decay in (0.999, 0.99999):
        expected = math.ceil(math.log(0.01) / math.log(decay))
        assert theory.memory(theory.ema(decay), 0.99) == expected


def test_memory_of_weights_of_both_signs(x64):
    # TEMA shoots beyond its end: the first time that the share is reached counts.
    system = theory.zero_lag([0.9] * 3)
    response = np.asarray(theory.step_response(system, 200))
    assert response.max() > 1.1
    assert theory.memory(system, 0.99) == 1 + np.argmax(response >= 0.99)


def test_terminal_velocity(x64):
    rate, decay, gradient = 0.1, 0.9, 3.0
    expected = -rate * gradient / (1 - decay)
    for system, rest in (
        (nj.scale_by_accumulated_momentum(decay), rate),
        (nj.momentum(rate, decay=decay), 1.0),
        (nj.nesterov(rate, decay=decay), 1.0),
        (theory.heavy_ball(decay), rate),
    ):
        actual = theory.terminal_velocity(system, gradient, rest)
        np.testing.assert_allclose(actual, expected, rtol=RTOL)
    (steps,) = outputs(nj.momentum(rate, decay=decay), np.full(300, gradient))
    np.testing.assert_allclose(steps[-1], expected, rtol=1e-12)


@pytest.mark.parametrize("integer", [int, np.int64])
def test_terminal_velocity_of_an_integer_that_jax_has_no_room_for(integer):
    assert theory.terminal_velocity(theory.heavy_ball(0.5), integer(2**40)) == -(2.0**41)


def test_introducing_momentum_keeps_the_step_if_the_rate_is_divided_by_the_gain(x64):
    tx = nj.scale_by_accumulated_momentum(0.9)
    rate = 0.1 / theory.dc_gain(tx)
    np.testing.assert_allclose(theory.terminal_velocity(tx, 1.0, rate), -0.1, rtol=RTOL)


@pytest.mark.parametrize("decays", [[0.9], [0.9, 0.5], [0.99, 0.9, 0.5, 0.0]])
def test_unequal_averages_are_a_mixture(x64, decays):
    weights = np.asarray(theory.mixture_weights(decays))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-13)
    j = np.arange(100)
    expected = sum(r * (1 - a) * a**j for r, a in zip(weights, decays, strict=True))
    actual = theory.impulse_response(theory.cascade(decays), 100)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-15 * np.abs(weights).sum())


@pytest.mark.parametrize("stages", [2, 3, 6])
def test_zero_lag_has_no_delay_and_no_later_moments(x64, stages):
    system = theory.zero_lag([0.5] * stages)
    weights = np.asarray(theory.impulse_response(system, 400))
    moments = [(np.arange(400.0) ** n * weights).sum() for n in range(stages)]
    np.testing.assert_allclose(moments, [1] + [0] * (stages - 1), atol=1e-9)
    np.testing.assert_allclose(theory.mean_delay(system), 0, atol=1e-12)
