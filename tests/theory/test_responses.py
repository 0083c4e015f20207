"""Tests of responses of every linear transform: traced, without a gain, refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import nested_jax as nj
from nested_jax import theory
from nested_jax.theory import StateSpace
from tests.theory.test_linearity import LINEAR, REFUSED
from tests.theory.test_state_space import INPUTS, outputs, ran

# Solving loses the digits of 1 / (1 - decay), and each of 18 stages rounds.
RTOL = 1e-11
FLOAT32_RTOL = 64 * np.finfo(np.float32).eps
FORGETTING = [n for n in LINEAR if n not in ("optax.trace[endless]", "optax.trace[growing]")]


@pytest.mark.parametrize("name", LINEAR)
def test_impulse_and_step_of_every_transform(x64, name):
    tx, steps = LINEAR[name], 60
    for response, expected in zip(
        (theory.impulse_response, theory.step_response), ran(name)[1:, :steps], strict=True
    ):
        allowed = 1e-13 * max(np.max(np.abs(expected)), 1e-300)
        np.testing.assert_allclose(response(tx, steps), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", FORGETTING)
def test_gain_and_delay_are_the_sums_that_they_solve(x64, name):
    # 18 stages of .95 are at rest after 1500 steps, .99 after 3000 to 1e-13.
    weights = np.asarray(theory.impulse_response(LINEAR[name], 4000))
    gain = weights.sum()
    np.testing.assert_allclose(theory.dc_gain(LINEAR[name]), gain, rtol=RTOL, atol=1e-15)
    if gain:
        delay = (np.arange(4000) * weights).sum() / gain
        actual = theory.mean_delay(LINEAR[name])
        np.testing.assert_allclose(actual, delay, rtol=RTOL, atol=1e-10)
        for share in (0.0, 0.5, 0.99):
            steps = np.argmax(np.cumsum([0, *weights]) / gain >= share)
            assert theory.memory(LINEAR[name], share) == steps


def test_zero_lag_of_traced_depth(x64):
    def weights(levels):
        decays = nj.nested_decays(levels, decay=0.9, max_levels=5)
        return theory.impulse_response(theory.zero_lag(decays), 40)

    together = jax.jit(jax.vmap(weights))(jnp.arange(1, 6))
    for levels in range(1, 6):
        tx = nj.scale_by_nested_momentum([0.9] * (levels - 1), readout="zero_lag")
        alone = outputs(tx, INPUTS[1, :40])[0]
        np.testing.assert_allclose(together[levels - 1], alone, rtol=1e-12, atol=1e-14)


def test_all_is_vectorised_over_levels_and_decays(x64):
    def numbers(levels, decay):
        system = theory.cascade(nj.nested_decays(levels, decay=decay, max_levels=4))
        response = theory.frequency_response(system, jnp.array([0.5]))[0]
        return (
            theory.dc_gain(system),
            theory.mean_delay(system),
            theory.memory(system, 0.5),
            jnp.abs(response),
            theory.terminal_velocity(system, 2.0, decay),
            theory.negative_binomial_weights(levels - 1, decay, 5).sum(),
        )

    levels, decays = jnp.array([1, 2, 4]), jnp.array([0.0, 0.95])
    together = jax.jit(jax.vmap(jax.vmap(numbers, (None, 0)), (0, None)))(levels, decays)
    for i, m in enumerate(levels.tolist()):
        for j, decay in enumerate(decays.tolist()):
            actual = [x[i, j] for x in together]
            np.testing.assert_allclose(actual, numbers(m, decay), rtol=RTOL, atol=1e-12)


def test_all_is_vectorised_over_rates_of_a_transform(x64):
    rates = jnp.array([0.1, 0.3])
    gains = jax.jit(jax.vmap(lambda rate: theory.dc_gain(nj.nesterov(rate, decay=0.9))))(rates)
    np.testing.assert_allclose(gains, -10 * rates, rtol=RTOL)


def test_derivatives(x64):
    def delay(decay):
        return theory.mean_delay(theory.cascade([decay] * 3))

    np.testing.assert_allclose(jax.jit(jax.grad(delay))(0.9), 3 / 0.1**2, rtol=1e-9)

    def gain(decay):
        return theory.dc_gain(theory.heavy_ball(decay))

    np.testing.assert_allclose(jax.jit(jax.grad(gain))(0.9), 1 / 0.1**2, rtol=1e-9)


def test_no_derivative_is_lost_where_the_gain_is_infinite(x64):
    slopes = jax.jit(jax.vmap(jax.grad(lambda decay: theory.dc_gain(theory.heavy_ball(decay)))))
    np.testing.assert_allclose(slopes(jnp.array([0.5, 1.0])), [4.0, 0.0], rtol=RTOL)


def test_mixture_of_traced_decays(x64):
    decays = jnp.array([[0.9, 0.5], [0.3, 0.0]])
    actual = jax.jit(jax.vmap(theory.mixture_weights))(decays)
    expected = [theory.mixture_weights(row) for row in np.asarray(decays)]
    np.testing.assert_allclose(actual, expected, rtol=1e-13)
    assert not np.isfinite(jax.jit(theory.mixture_weights)(jnp.array([0.5, 0.5]))).any()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_never_forgets_has_an_infinite_gain(x64, sign):
    for tx in (optax.trace(1.0), optax.chain(optax.trace(1.0), optax.trace(1.0))):
        tx = optax.chain(tx, optax.scale(sign))
        assert theory.dc_gain(tx) == sign * np.inf
        assert theory.mean_delay(tx) == np.inf
        assert theory.memory(tx) == np.inf
        assert theory.terminal_velocity(tx) == -np.inf
        assert theory.frequency_response(tx, 0.0) == np.inf


@pytest.mark.parametrize(("decay", "radius"), [(1.7, "1.7"), (1.0001, "1.0001"), (-1.0, "1")])
def test_what_grows_or_swings_has_no_gain(x64, decay, radius):
    message = (
        "`system` must forget its inputs or sum them up, got one that grows or swings for ever: "
        f"its spectral radius is {radius}."
    )
    tx = optax.trace(decay)
    for number in (theory.dc_gain, theory.mean_delay, theory.memory, theory.terminal_velocity):
        with pytest.raises(ValueError, match=re.escape(message)):
            number(tx)


def test_traced_systems_without_a_gain(x64):
    def of(number):
        return np.asarray(jax.jit(jax.vmap(lambda decay: number(optax.trace(decay))))(decays))

    decays = jnp.array([0.5, 1 - 1e-9, 1.0, 1.7, -1.0])
    nothing = [np.nan, np.nan]
    np.testing.assert_allclose(of(theory.dc_gain), [2, 1e9, np.inf, *nothing], rtol=1e-6)
    np.testing.assert_allclose(of(theory.mean_delay), [1, 1e9, np.inf, *nothing], rtol=1e-6)
    # Half of what 1 - 1e-9 remembers would take 7e8 steps to follow.
    decays = jnp.array([0.5, 1.0, 1.7, -1.0])
    np.testing.assert_array_equal(of(theory.memory), [1, np.inf, *nothing])


def test_what_ends_at_0_has_no_delay(x64):
    difference = StateSpace(*map(jnp.asarray, ([[0.9]], [1.0], [-0.09], 0.9)))
    np.testing.assert_allclose(theory.dc_gain(difference), 0, atol=1e-15)
    for number in (theory.mean_delay, theory.memory):
        with pytest.raises(ValueError, match="`system` must have a gain other than 0"):
            number(difference)
        assert np.isnan(jax.jit(number)(difference))


def test_float32_is_as_good_as_its_digits():
    system = theory.cascade([0.95] * 4)
    np.testing.assert_allclose(theory.dc_gain(system), 1, rtol=FLOAT32_RTOL)
    np.testing.assert_allclose(theory.mean_delay(system), 76, rtol=20 * FLOAT32_RTOL)
    weights = theory.negative_binomial_weights(4, 0.95, 100)
    assert weights.dtype == jnp.float32
    expected = scipy.stats.nbinom.pmf(np.arange(100), 4, 0.05)
    np.testing.assert_allclose(weights, expected, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("respond", [theory.impulse_response, theory.step_response])
def test_rejects_a_wrong_number_of_steps(respond):
    with pytest.raises(ValueError, match=r"`steps` must be an integer of at least 1, got 0\."):
        respond(optax.identity(), 0)
    with pytest.raises(TypeError, match=r"`steps` must be a Python integer, known when tracing"):
        jax.jit(lambda steps: respond(optax.identity(), steps))(3)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_rejects_a_share_outside_the_unit_interval(share):
    with pytest.raises(ValueError, match=rf"`share` must lie in \[0, 1\), got {share}"):
        theory.memory(optax.identity(), share)


def test_rejects_frequencies_that_are_not_real():
    with pytest.raises(TypeError, match=r"`frequencies` must be real numbers, got 1j\."):
        theory.frequency_response(optax.identity(), 1j)


def test_refuses_what_is_not_linear(x64):
    tx = REFUSED["optax.adam"][0]
    for number in (
        theory.dc_gain,
        theory.mean_delay,
        theory.memory,
        theory.terminal_velocity,
        lambda system: theory.frequency_response(system, 0.0),
        lambda system: theory.impulse_response(system, 5),
        lambda system: theory.step_response(system, 5),
    ):
        with pytest.raises(ValueError, match=r"fails the homogeneity test by .* superposition"):
            number(tx)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: theory.heavy_ball(1.0), "`decay` must lie in [0, 1), got 1.0."),
        (lambda: theory.nesterov(-0.5), "`decay` must lie in [0, 1), got -0.5."),
        (lambda: theory.ema(2.0), "`decay` must lie in [0, 1), got 2.0."),
        (lambda: theory.qhm(1.5), "`decay` must lie in [0, 1), got 1.5."),
        (lambda: theory.qhm(0.9, 1.5), "`weight` must lie in [0, 1], got 1.5."),
        (lambda: theory.aggmo([0.9, 1.0]), "`decays[1]` must lie in [0, 1), got 1.0."),
        (lambda: theory.aggmo([]), "`decays` must hold one decay at least, got none."),
        (lambda: theory.zero_lag([1.0]), "`decays[0]` must lie in [0, 1), got 1.0."),
        (lambda: theory.mixture_weights([0.5, 1.0]), "`decays[1]` must lie in [0, 1), got 1.0."),
        (
            lambda: theory.mixture_weights([0.5, 0.9, 0.5]),
            "`decays` must differ from each other, got 0.5 twice.",
        ),
        (
            lambda: theory.negative_binomial_weights(-1, 0.5, 3),
            "`stages` must be an integer of at least 0, got -1.",
        ),
        (
            lambda: theory.negative_binomial_weights(1, 1.0, 3),
            "`decay` must lie in [0, 1), got 1.0.",
        ),
        (
            lambda: theory.negative_binomial_weights(1, 0.5, 0),
            "`steps` must be an integer of at least 1, got 0.",
        ),
        (
            lambda: theory.terminal_velocity(optax.identity(), 1.0, -1.0),
            "`learning_rate` must be non-negative and finite, got -1.0.",
        ),
    ],
)
def test_rejects_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
