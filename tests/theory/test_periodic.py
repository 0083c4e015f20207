"""Tests of transforms that repeat after some steps: closed forms, and runs on a quadratic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory

RTOL = 1e-9  # Of float64, through an eigenvalue problem or a bisection.
FLOAT32_RTOL = 1e-6  # optax.MultiSteps divides by its count in float32.
SINGLE_RTOL = 1e-5  # An eigenvalue near 1 is off by an eps of float32 or two, the limit by 20.
CASCADE_RTOL = 1e-3  # Multipliers of ten equal averages are nearly defective.
WINDOW = 8  # Periods between two looks; optax.MultiSteps overflows in float32 after 120 or so.


@pytest.fixture(autouse=True)
def with_x64(x64):
    return x64


def accumulated(steps, rate=1.0):
    return optax.MultiSteps(optax.sgd(rate), steps).gradient_transformation()


@functools.cache
def system_of(name):
    with jax.enable_x64(True):
        tx, period = {
            "accumulated": (accumulated(4), 4),
            "lookahead": (optax.lookahead(optax.sgd(1.0), 5, 0.5), 5),
            "lookahead[momentum]": (optax.lookahead(nj.momentum(1.0, decay=0.5), 3, 0.8), 3),
            "one": (nj.scale_by_nested_momentum([0.9], periods=[5]), 5),
            "two": (nj.scale_by_nested_momentum([0.8, 0.5], periods=[3, 2]), 6),
            "mean": (nj.scale_by_nested_momentum([0.8, 0.5], periods=[4, 1], readout="mean"), 4),
            "every step": (nj.scale_by_nested_momentum([0.9, 0.8], periods=[1, 1]), 1),
        }[name]
        return theory.periodic_state_space(tx, period)


def test_accumulation_is_a_slower_sgd():
    system = system_of("accumulated")
    c = np.array([0.5, 1.9, 2.5])
    np.testing.assert_allclose(theory.floquet_multiplier(system, c), abs(1 - c), rtol=FLOAT32_RTOL)
    np.testing.assert_allclose(theory.periodic_limit(system), 2, rtol=FLOAT32_RTOL)
    np.testing.assert_allclose(theory.periodic_delay(system), 1.5, rtol=FLOAT32_RTOL)


def test_lookahead_in_closed_form():
    """After k steps of SGD the parameters are (1 - c)^k, and half of the way back is kept."""
    system = system_of("lookahead")
    c = np.array([0.3, 1.5, 2.4])
    expected = abs(1 - 0.5 + 0.5 * (1 - c) ** 5)
    np.testing.assert_allclose(theory.floquet_multiplier(system, c), expected, rtol=RTOL)
    np.testing.assert_allclose(theory.periodic_limit(system), 1 + 3**0.2, rtol=RTOL)


def test_the_delay_of_a_block_in_closed_form():
    """Inputs wait for the end of their block, and outputs are held for one: C - 1 in all."""
    delay = theory.periodic_delay(system_of("one"))
    np.testing.assert_allclose(delay, 4 + 5 * 0.9 / 0.1, rtol=RTOL)


def test_a_period_of_1_is_the_cascade():
    system, cascade = system_of("every step"), theory.cascade([0.9, 0.8])
    limit = theory.stability_limit(cascade)
    np.testing.assert_allclose(theory.periodic_limit(system), limit, rtol=RTOL)
    np.testing.assert_allclose(theory.periodic_delay(system), theory.mean_delay(cascade), rtol=RTOL)
    growth = np.log(theory.floquet_multiplier(system, 0.3))
    np.testing.assert_allclose(growth, theory.mean_growth(cascade, 0.3), rtol=RTOL)


RUNS = {
    "two": (nj.scale_by_nested_momentum([0.8, 0.5], periods=[3, 2]), 6, -1),
    "mean": (
        nj.scale_by_nested_momentum([0.8, 0.5], periods=[4, 1], readout="mean"),
        4,
        -1,
    ),
    "accumulated": (accumulated(4), 4, 1),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("c", [0.4, 3.0])
def test_a_run_on_a_quadratic_grows_by_the_multiplier(name, c):
    """The largest of many periods' errors, in the long run; oscillations average out."""
    tx, period, sign = RUNS[name]

    def step(carry, _):
        theta, state = carry
        update, state = tx.update(c * theta, state, theta)
        # Scaled back in every step, as the map is linear.
        return (theta + sign * update, state), theta

    def grown(carry, _):
        (theta, state), thetas = jax.lax.scan(step, carry, None, WINDOW * period)
        return (theta, state), jnp.max(jnp.abs(thetas))

    start = (jnp.ones(()), tx.init(jnp.zeros(())))
    sizes = jax.lax.scan(grown, start, None, 12)[1]
    found = (sizes[-1] / sizes[1]) ** (1 / (10 * WINDOW))
    expected = theory.floquet_multiplier(system_of(name), c)
    # The phase of an oscillation changes the largest error of a window by at most a few percent.
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=3e-3)


@pytest.mark.parametrize("name", ["two", "mean", "lookahead[momentum]"])
def test_the_limit_is_where_the_multiplier_passes_1(name):
    system = system_of(name)
    limit = theory.periodic_limit(system)
    around = theory.floquet_multiplier(system, limit * np.array([0.999, 1.001]))
    assert around[0] < 1 < around[1]


@pytest.mark.parametrize("tx", [optax.sgd(0.01), nj.nested_momentum(0.01, decays=[0.9])])
def test_the_limit_of_a_finished_optimizer_in_single_precision(tx):
    """Though 1 - 0.01 c is 1 at the smallest c that are tried."""
    with jax.enable_x64(False):
        limit = theory.periodic_limit(theory.periodic_state_space(tx, 1))
        np.testing.assert_allclose(limit, theory.stability_limit(tx), rtol=SINGLE_RTOL)


@pytest.mark.parametrize(
    ("make", "gain", "period"),
    [
        (lambda: theory.cascade([0.95] * 2), 0.01, 1),
        (lambda: theory.cascade([0.95] * 10), 0.01, 4),
        (lambda: theory.cascade([]), 1e-4, 1),
        (lambda: theory.aggmo([0.0, 0.9, 0.99]), 0.01, 1),
    ],
)
def test_the_limit_in_single_precision_is_that_in_double(make, gain, period):
    """Though multipliers beside 1 are rounded to either side of it; also beyond 1e4."""
    expected = theory.stability_limit(make()) / gain
    with jax.enable_x64(False):
        one = make()
        one = one._replace(output=gain * one.output, feedthrough=gain * one.feedthrough)
        system = theory.StateSpace(*(jnp.stack([x] * period) for x in one))
        np.testing.assert_allclose(theory.periodic_limit(system), expected, rtol=CASCADE_RTOL)


def test_no_limit_without_gain_or_memory_that_fades():
    for dtype in (False, True):
        with jax.enable_x64(dtype):
            still = theory.StateSpace(*map(jnp.asarray, ([[[0.5]]], [[1.0]], [[0.0]], [0.0])))
            growing = still._replace(transition=jnp.full((1, 1, 1), 1.5), output=jnp.ones((1, 1)))
            notch = still._replace(output=jnp.full((1, 1), -0.5), feedthrough=jnp.ones(1))
            endless = still._replace(transition=jnp.ones((1, 1, 1)), output=jnp.ones((1, 1)))
            for system in (still, growing, notch, endless):
                assert theory.periodic_limit(system) == 0


def test_the_limit_has_a_derivative():
    """Outputs times k have the limit divided by k."""
    system = system_of("two")

    def limit(k):
        scaled = system._replace(output=k * system.output, feedthrough=k * system.feedthrough)
        return theory.periodic_limit(scaled)

    expected = -limit(1.0) / 1.3**2
    for slope in (jax.grad(limit), jax.jacfwd(limit)):
        np.testing.assert_allclose(slope(1.3), expected, rtol=RTOL)


def test_the_delay_is_the_mean_age_of_the_weights():
    system, steps, (tx, period, _) = system_of("two"), 600, RUNS["two"]

    def age(start):
        run = lambda state, u: tx.update(u, state)[::-1]  # noqa: E731
        inputs = jnp.arange(steps) == start
        outputs = jax.lax.scan(run, tx.init(jnp.zeros(())), inputs.astype(float))[1]
        return (jnp.arange(steps) - start) @ outputs

    ages = jax.vmap(age)(jnp.arange(period))
    # Each input has weight 1 in all.
    np.testing.assert_allclose(theory.periodic_delay(system), np.mean(ages), rtol=RTOL)


@pytest.mark.parametrize(
    ("tx", "period", "error", "message"),
    [
        (optax.scale_by_adam(), 2, ValueError, "`tx` must be linear and repeat after `period` = 2"),
        (accumulated(4), 3, ValueError, "`tx` must be linear and repeat after `period` = 3 steps"),
        (optax.add_decayed_weights(0.1), 2, ValueError, "`tx` must be linear and repeat"),
        (optax.trace(0.9), 0, ValueError, "`period` must be an integer of at least 1, got 0."),
        (optax.trace(0.9), 10**6, ValueError, "`period` must be at most 100000, got 1000000"),
        (optax.MultiSteps(optax.sgd(1.0), 4), 4, TypeError, "optax.MultiSteps"),
        (3, 4, TypeError, "`tx` must"),
    ],
)
def test_what_is_refused(tx, period, error, message):
    with pytest.raises(error, match=message):
        theory.periodic_state_space(tx, period)


def test_a_system_of_one_step_is_refused():
    for function in (theory.periodic_limit, theory.periodic_delay):
        with pytest.raises(ValueError, match="`system` must come from `periodic_state_space`"):
            function(theory.ema(0.9))


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (
            [(1, 1), (1,), (1,), (2,)],
            ValueError,
            "`system` must have a transition of",
        ),
        ([(3, 1, 1), (2, 1), (2, 1), (2,)], ValueError, "`system` must have a transition of"),
        ([(0, 1, 1), (0, 1), (0, 1), (0,)], ValueError, "for C >= 1 steps"),
        ([None, (2, 1), (2, 1), (2,)], TypeError, r"`system.transition` must be real numbers"),
    ],
)
def test_arrays_that_are_not_those_of_a_period_are_refused(arrays, error, message):
    system = theory.StateSpace(*(None if x is None else np.zeros(x) for x in arrays))
    for function in (theory.periodic_limit, theory.periodic_delay):
        with pytest.raises(error, match=message):
            function(system)
