"""Tests of the tracking bound: other filters, published streams, and runs of the library."""

import decimal
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import solve_discrete_are
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

import nested_jax as nj
from experiments.levels.rust_stream import published_stream
from experiments.tracking import methods
from nested_jax import theory
from nested_jax._core.draws import source_of_draws

RTOL = 1e-9  # Some 100 steps; the other filters subtract numbers that are up to 1e5 times larger.
CLOSED_RTOL = 1e-12
FLOAT32_RTOL = 1e-5  # The largest measured difference from float64 is 2e-6.
STANDARD_ERRORS = 3
KEY = jax.random.key(0)
# E[S] and the loss of predicting 0 with a = 0.95, D = 10, sigma = 0.1 (MATH.md, section 1).
PRINTED = {1: (0.1397, 0.2664), 2: (0.0363, 0.1383), 3: (0.0246, 0.1062), 4: (0.0205, 0.0902)}
PRINTED |= {5: (0.0185, 0.0801), 8: (0.0158, 0.0637), 12: (0.0143, 0.0531)}
HALF_A_DIGIT = 0.5e-4


def dynamics(levels, decay):
    """Return A and b of the levels from the recurrence of one step, column by column."""

    def step(weights, inflow):
        fresh = []
        for w in weights[::-1]:
            inflow = decay * w + (1 - decay) * inflow
            fresh.append(inflow)
        return fresh[::-1]

    columns = [step(unit, 0.0) for unit in np.eye(levels)]
    return np.array(columns).T, np.array(step(np.zeros(levels), 1.0))


def dense(inputs, levels, decay, noise_std):
    """Return S of every step from the filter as printed, with Kronecker products, Joseph form."""
    dim, (A, b), S = inputs.shape[1], dynamics(levels, decay), []
    A, Q = np.kron(A, np.eye(dim)), np.kron(np.outer(b, b), np.eye(dim))
    P = np.eye(levels * dim)
    for x in inputs:
        padded = np.append(x, np.zeros((levels - 1) * dim))
        P = A @ P @ A.T + Q
        S.append(padded @ P @ padded + noise_std**2)
        K = P @ padded / S[-1]
        rest = np.eye(len(P)) - np.outer(K, padded)
        P = rest @ P @ rest.T + noise_std**2 * np.outer(K, K)
    return np.array(S)


def by_statsmodels(inputs, levels, decay, noise_std):
    """Return S of every step from the state space of statsmodels."""
    (steps, dim), (A, b) = inputs.shape, dynamics(levels, decay)
    model = KalmanFilter(k_endog=1, k_states=levels * dim, k_posdef=dim, tolerance=0)
    model.bind(np.zeros((steps, 1)))
    A, B = np.kron(A, np.eye(dim)), np.kron(b[:, None], np.eye(dim))
    design = np.zeros((1, levels * dim, steps))
    design[0, :dim] = inputs.T
    model["design"], model["transition"], model["selection"] = design, A, B
    model["state_cov"], model["obs_cov"] = np.eye(dim), np.full((1, 1), noise_std**2)
    # Its first step has no drift: start with the covariance after one.
    model.initialize_known(np.zeros(levels * dim), A @ A.T + B @ B.T)
    return model.filter().forecasts_error_cov[0, 0]


def bound_of(inputs, levels, decay, noise_std, **options):
    numbers = {"data_levels": levels, "decay": decay, "noise_std": noise_std}
    return theory.tracking_bound(inputs.shape[1], inputs=inputs, **numbers, **options)


@pytest.mark.parametrize("reference", [dense, by_statsmodels])
@pytest.mark.parametrize(
    ("dim", "levels", "decay", "noise_std"),
    [(1, 1, 0.9, 0.5), (3, 1, 0.95, 0.1), (3, 2, 0.95, 0.1), (2, 4, 0.8, 0.01), (1, 3, 0.9, 0.0)],
)
def test_bound_is_that_of_other_filters(x64, reference, dim, levels, decay, noise_std):
    inputs = np.random.default_rng(levels).normal(size=(120, dim))
    expected = reference(inputs, levels, decay, noise_std)
    for warmup in (0, 100):
        bound = bound_of(inputs, levels, decay, noise_std, warmup=warmup)
        np.testing.assert_allclose(bound, expected[warmup:].mean(), rtol=RTOL)


@pytest.mark.parametrize(("levels", "dim"), [(1, 1), (3, 1), (2, 2)])
def test_bound_of_a_constant_input_solves_the_riccati_equation(x64, levels, dim):
    A, b = dynamics(levels, 0.9)
    A, Q = np.kron(A, np.eye(dim)), np.kron(np.outer(b, b), np.eye(dim))
    x = np.append(np.linspace(0.7, 1.3, dim), np.zeros((levels - 1) * dim))[:, None]
    P = solve_discrete_are(A.T, x, Q, np.array([[0.04]]))
    bound = bound_of(np.tile(x[:dim, 0], (600, 1)), levels, 0.9, 0.2, warmup=599)
    np.testing.assert_allclose(bound, (x.T @ P @ x)[0, 0] + 0.04, rtol=RTOL)


def test_nothing_is_learned_about_weights_without_memory(x64):
    inputs = np.random.default_rng(0).normal(size=(120, 2))
    expected = np.mean(np.sum(inputs**2, 1)) + 0.25
    np.testing.assert_allclose(bound_of(inputs, 2, 0.0, 0.5), expected, rtol=CLOSED_RTOL)
    np.testing.assert_allclose(bound_of(0 * inputs, 2, 0.9, 0.0), 0, atol=0)


def published(levels, steps, dim=10):
    """Return initial weights, drift, inputs and noise of the published run of `levels`."""
    seeds = {"model_seed": 42, "data_seed": 123}
    z = published_stream(dim=dim, data_levels=levels, steps=steps, **seeds).data
    start, rows = z[: levels * dim], z[levels * dim :].reshape(steps, 2 * dim + 1)
    draws = nj.problems.DriftingRegressionDraws(rows[:, :dim], rows[:, dim:-1], rows[:, -1])
    return start.reshape(levels, dim), draws


@pytest.mark.parametrize("levels", PRINTED)
def test_bound_and_zero_are_the_printed_ones_on_the_published_streams(x64, levels):
    _, draws = published(levels, 30_000)
    bound = theory.tracking_bound(data_levels=levels, inputs=draws.inputs, warmup=3000)
    assert abs(bound - PRINTED[levels][0]) <= HALF_A_DIGIT
    zero = theory.predict_zero_loss(data_levels=levels)
    assert abs(zero - PRINTED[levels][1]) <= HALF_A_DIGIT


@pytest.mark.parametrize("levels", [1, 3])
def test_bound_of_fresh_inputs_is_within_a_percent(levels):
    options = {"key": jax.random.key(levels), "steps": 30_000, "warmup": 3000}
    bound = theory.tracking_bound(data_levels=levels, **options)
    np.testing.assert_allclose(bound, PRINTED[levels][0], rtol=0.01)


def test_inputs_of_a_key_are_those_of_a_run():
    draw = source_of_draws(nj.drifting_regression(3), jax.random.split(KEY)[1], None)
    inputs = jax.vmap(draw)(jnp.arange(50)).inputs
    of_key = theory.tracking_bound(3, key=KEY, steps=50, warmup=7)
    assert of_key == theory.tracking_bound(3, inputs=inputs, warmup=7)


# Rates near the best on a grid by factors of 2.
METHODS = {
    "nested_momentum": nj.nested_momentum(0.04, levels=1),
    "two levels": nj.nested_momentum(0.04, levels=2),
    "momentum": nj.momentum(0.02, decay=0.5),
    "nesterov": nj.nesterov(0.02, decay=0.5),
    "leaky": optax.chain(nj.nested_momentum(0.04, levels=1), nj.add_decoupled_weight_decay(0.02)),
    "adam": nj.adam(0.02, b1=0.0, b2=0.9),
    "adamw": nj.adamw(0.02, weight_decay=0.02, b1=0.0, b2=0.9),
    "adafactor": nj.adafactor(0.05),
    "factored_adamw": nj.factored_adamw(0.02, weight_decay=0.02, normalized=False, schedule=None),
    "normalized LMS": methods.normalized_lms(0.3),
    "least squares": methods.recursive_least_squares(0.9),
    "autostep": methods.autostep(0.1, meta_rate=0.01),
    "wrong levels": methods.kalman_filter(1),
}


def test_a_kalman_filter_attains_the_bound_and_no_method_is_below():
    dim, levels, steps, seeds = 4, 2, 1200, 48
    problem = nj.drifting_regression(dim, data_levels=levels)
    every = {"kalman": methods.kalman_filter(levels)} | METHODS

    @jax.jit
    @jax.vmap
    def above(key):
        numbers = {"data_levels": levels, "steps": steps, "warmup": 200}
        bound = theory.tracking_bound(dim, key=key, **numbers)
        runs = {name: nj.rollout(tx, problem, key, steps, warmup=200) for name, tx in every.items()}
        return {name: run.mean_loss - bound for name, run in runs.items()}

    gaps = above(jax.random.split(KEY, seeds))
    errors = {name: STANDARD_ERRORS * x.std(ddof=1) / seeds**0.5 for name, x in gaps.items()}
    assert abs(gaps["kalman"].mean()) < errors["kalman"]
    assert errors["kalman"] < 1e-3  # The others are above by more.
    for name in METHODS:
        assert gaps[name].mean() > errors[name], name


def direct_sum(dim, levels, decay, noise_std):
    """Return the loss of predicting 0, with 50 digits, from the weights of the levels."""
    with decimal.localcontext() as context:
        context.prec = 50
        a, noise_std = decimal.Decimal(decay), decimal.Decimal(noise_std)
        term, total, j = (1 - a) ** levels, decimal.Decimal(0), 0
        while term**2 > total * decimal.Decimal(10) ** -20 or j < levels:
            total += term**2
            j += 1
            term *= a * (j + levels - 1) / j
        return float(noise_std**2 + dim * total)


def test_predicting_zero_is_the_direct_sum(x64):
    levels, decays = (1, 2, 3, 5, 12, 19, 60), (0.0, 0.3, 0.95, 0.999)
    expected = [[direct_sum(7, d, a, 0.1) for a in decays] for d in levels]
    actual = [[theory.predict_zero_loss(7, data_levels=d, decay=a) for a in decays] for d in levels]
    np.testing.assert_allclose(actual, expected, rtol=CLOSED_RTOL)
    # Traced, 1 - a loses the digits that a has not.
    over_levels = jax.vmap(
        lambda d, a: theory.predict_zero_loss(7, data_levels=d, decay=a), (0, None)
    )
    traced = jax.jit(jax.vmap(over_levels, (None, 0), 1))(jnp.array(levels), jnp.array(decays))
    np.testing.assert_allclose(traced, expected, rtol=CLOSED_RTOL)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32"])
def test_predicting_zero_takes_integers_of_any_width(dtype, traced):
    zero = jax.jit(theory.predict_zero_loss) if traced else theory.predict_zero_loss
    found = zero(10, np.dtype(dtype).type(100))
    np.testing.assert_allclose(found, direct_sum(10, 100, 0.95, 0.1), rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("integer", [int, np.int64])
def test_predicting_zero_takes_a_dim_that_fits_no_integer_of_jax(integer):
    loss = theory.predict_zero_loss(integer(2**40), noise_std=0.0)
    assert loss == 2.0**40 * theory.predict_zero_loss(1, noise_std=0.0)


def test_float32_is_close_and_numbers_may_be_traced():
    inputs = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    bounds = jax.jit(
        lambda decays, noise: jax.vmap(lambda a, s: bound_of(inputs, 3, a, s))(decays, noise)
    )(jnp.array([0.9, 0.95, 1.5, 0.9]), jnp.array([0.1, 0.5, 0.1, -1.0]))
    assert bounds.dtype == jnp.float32
    expected = [dense(inputs.astype(float), 3, *pair).mean() for pair in [(0.9, 0.1), (0.95, 0.5)]]
    np.testing.assert_allclose(bounds[:2], expected, rtol=FLOAT32_RTOL)
    assert np.all(np.isnan(bounds[2:]))  # Out of range.
    zero = jax.jit(lambda d: theory.predict_zero_loss(3, data_levels=d))
    assert np.isnan(zero(0))


def test_levels_may_be_traced_if_there_is_room(x64):
    inputs = np.random.default_rng(0).normal(size=(200, 2))
    bounds = jax.vmap(lambda d: bound_of(inputs, d, 0.9, 0.2, max_levels=4))(jnp.arange(6))
    expected = [bound_of(inputs, d, 0.9, 0.2) for d in range(1, 5)]
    np.testing.assert_allclose(bounds[1:5], expected, rtol=RTOL)
    assert np.isnan(bounds[0])
    assert np.isnan(bounds[5])


def test_a_negative_variance_gives_nan_even_where_noise_hides_it():
    # With one large input x and noise of 1, P = 1 / (x^2 + 1), which rounds to 0 or just below. The
    # next input is 1: its S is 1 to all digits, and nothing else in the recurrence would be NaN.
    large = np.geomspace(1e4, 1e5, 100)
    inputs = np.stack([large, np.ones(100)], 1)[..., None].astype(np.float32)
    bounds = jax.jit(jax.vmap(lambda x: bound_of(x, 1, 0.999999, 1.0, warmup=1)))(inputs)
    lost = np.isnan(bounds)
    assert 0 < lost.sum() < 100
    np.testing.assert_allclose(bounds[~lost], 1, rtol=FLOAT32_RTOL)


def test_a_covariance_that_rounding_made_indefinite_gives_nan():
    inputs = np.random.default_rng(0).normal(size=(500, 10))
    # Weights that are so predictable leave no digit of the covariance.
    assert np.isnan(bound_of(inputs, 12, 0.95, 0.0))
    # NaN stays, also if its first step is not counted.
    assert np.isnan(bound_of(inputs, 12, 0.95, 0.0, warmup=499))
    assert np.isnan(bound_of(inputs, 12, 0.95, 1e-4))
    assert np.isnan(bound_of(np.where(np.arange(500)[:, None] == 3, np.nan, inputs), 1, 0.9, 0.1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ValueError, "`dim` must be an integer of at least 1, got 0."),
        (
            {"data_levels": 1.5},
            TypeError,
            "`data_levels` must be an integer of at least 1, got 1.5.",
        ),
        (
            {"data_levels": 3, "max_levels": 2},
            ValueError,
            "`data_levels` must be at most `max_levels` = 2, got 3.",
        ),
        ({"max_levels": 0}, ValueError, "`max_levels` must be an integer of at least 1, got 0."),
        ({"decay": 1.7}, ValueError, "`decay` must lie in [0, 1), got 1.7."),
        ({"noise_std": -1}, ValueError, "`noise_std` must be non-negative and finite, got -1."),
        ({"key": None}, ValueError, "`key` must be given unless `inputs` is, got None."),
        ({"key": 3}, TypeError, "`key` must be a JAX key such as jax.random.key(0), got 3."),
        ({"steps": None}, ValueError, "`steps` must be given unless `inputs` is, got None."),
        ({"steps": 0}, ValueError, "`steps` must be an integer of at least 1, got 0."),
        ({"warmup": 9}, ValueError, "`warmup` must be less than 9, got 9."),
        ({"inputs": np.ones((9, 2))}, ValueError, "`key` must be None if `inputs` are given, got "),
        (
            {"inputs": np.ones((9, 2)), "key": None},
            ValueError,
            "`steps` must be None if `inputs` are given, got 9.",
        ),
        (
            {"inputs": np.ones((9, 2)), "key": None, "steps": None, "dim": 3},
            ValueError,
            "`inputs` must have shape (steps, 3), got (9, 2).",
        ),
        (
            {"inputs": np.ones((9, 2)) * 1j, "key": None, "steps": None},
            TypeError,
            "`inputs` must be real numbers, got array(",
        ),
        (
            {"inputs": "a", "key": None, "steps": None},
            TypeError,
            "`inputs` must be real numbers, got 'a'.",
        ),
    ],
)
def test_errors_of_the_bound(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        theory.tracking_bound(**({"dim": 2, "key": KEY, "steps": 9} | options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 1.5}, TypeError, "`dim` must be an integer of at least 1, got 1.5."),
        ({"data_levels": 0}, ValueError, "`data_levels` must be an integer of at least 1, got 0."),
        (
            {"data_levels": 2**40},
            ValueError,
            "`data_levels` must be less than 2147483648, got 1099511627776.",
        ),
        ({"decay": 1.0}, ValueError, "`decay` must lie in [0, 1), got 1.0."),
        ({"noise_std": -1}, ValueError, "`noise_std` must be non-negative and finite, got -1."),
    ],
)
def test_errors_of_predicting_zero(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        theory.predict_zero_loss(**options)
