"""Tests of the oracles against facts that can be computed by hand or in closed form."""

import math

import numpy as np
import pytest
from scipy import special

from tests import oracles

RTOL = 1e-13  # Closed form against tens of float64 operations.


def draw(steps, seed=0):
    """Return a small tree and a list of gradients for it."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (6, 4), "b": (5,), "s": ()}
    trees = [{n: np.asarray(rng.normal(size=s)) for n, s in shapes.items()} for _ in range(steps)]
    return {n: np.asarray(rng.normal(size=s)) for n, s in shapes.items()}, trees


def assert_same(actual, expected, **tolerance):
    for mine, other in zip(actual, expected, strict=True):
        for name in other:
            np.testing.assert_allclose(mine[name], other[name], **tolerance)


def test_step_drop_boundaries_are_exact():
    drops = oracles.step_drop(10)
    expected = [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]
    np.testing.assert_allclose([drops(t) for t in range(11)], expected, rtol=RTOL)
    # 7 steps: boundaries 2.1, 4.2, 5.6 round up to 3, 5, 6.
    factors = [oracles.step_drop(7, factor=0.5)(t) for t in range(8)]
    assert factors == [1, 1, 1, 0.5, 0.5, 0.25, 0.125, 0.125]


def test_cosine_ends_on_its_floor():
    eta = oracles.cosine(8, floor=0.2)
    assert (eta(0), eta(8), eta(100), eta.cycle_steps(3)) == (1.0, 0.2, 0.2, 8.0)
    np.testing.assert_allclose([eta(4), oracles.cosine(3)(1)], [0.6, 0.75], rtol=RTOL)


def test_restarts_at_100_300_700_1500():
    eta = oracles.warm_restarts(100, growth=2)
    assert [t for t in range(1501) if eta(t) == 1] == [0, 100, 300, 700, 1500]
    assert [eta.cycle_steps(t) for t in (0, 99, 100, 299, 300, 1499, 1500)] == [
        *(100, 100, 200, 200, 400, 800, 1600)
    ]
    np.testing.assert_allclose([eta(50), eta(200)], 0.5, rtol=RTOL)
    assert eta(99) > 0
    real = oracles.warm_restarts(100, growth=1.1)
    assert (real(210), real.cycle_steps(210)) == (1.0, 121.0)


def test_linear_decay_after_a_warmup():
    eta = oracles.warmup_linear_decay(6, warmup_steps=2, floor=0.2)
    np.testing.assert_allclose(
        [eta(t) for t in range(8)], [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2], rtol=RTOL
    )
    assert oracles.warmup_linear_decay(4, warmup_steps=4)(4) == 0
    assert eta.cycle_steps(7) == 6


def test_warmup_reaches_the_schedule_after_its_steps():
    eta = oracles.with_warmup(oracles.constant(9), 4)
    assert [eta(t) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert oracles.with_warmup(oracles.constant(9), 0)(0) == 1
    assert eta.cycle_steps(0) == 9


def test_accumulated_momentum_has_terminal_velocity():
    trajectory = oracles.momentum({"s": 0.0}, [{"s": 2.0}] * 400, 0.1, 0.9)
    velocity = trajectory[-1]["s"] - trajectory[-2]["s"]
    np.testing.assert_allclose(velocity, -0.1 * 2 / (1 - 0.9), rtol=1e-12)


@pytest.mark.parametrize("stages", [0, 1, 2, 4])
def test_impulse_response_is_negative_binomial(stages):
    a = 0.9
    decays = oracles.nested_decays(stages + 1, a, max_levels=6)
    assert decays.shape == (5,)
    weights = [
        math.comb(j + stages - 1, stages - 1) * a**j * (1 - a) ** stages if stages else j == 0
        for j in range(20)
    ]
    impulse = [1.0] + [0.0] * 19
    np.testing.assert_allclose(oracles.cascade(impulse, decays), weights, rtol=RTOL)


@pytest.mark.parametrize("stages", [1, 3, 7])
def test_debiasing_divides_by_the_incomplete_beta_function(stages):
    response = oracles.cascade([1.0] * 30, [0.9] * stages)
    expected = special.betainc(stages, np.arange(1, 31), 1 - 0.9)
    np.testing.assert_allclose(response, expected, rtol=RTOL)
    rate = [0.3, lambda step: step / (step + 1), 0.8]
    constant = oracles.cascade([5.0] * 30, rate, debias=True)
    np.testing.assert_allclose(constant, 5.0, rtol=RTOL)


def test_published_value_of_the_three_stage_response():
    np.testing.assert_allclose(oracles.cascade([1.0] * 10, [0.9] * 3)[-1], 0.1109, atol=5e-5)


@pytest.mark.parametrize("levels", [1, 2, 3, 19])
def test_matched_decays_keep_the_delay(levels):
    decays = oracles.matched_delay_decays(levels, 0.95, max_levels=20)
    delay = 19.0 if levels > 1 else 0.0  # A single level has no stage and no delay.
    np.testing.assert_allclose(np.sum(decays / (1 - decays)), delay, rtol=RTOL)


def test_both_forms_of_nesterov_agree_under_scheduled_rate_and_decay():
    params, (curvature, centre) = draw(2)
    curvature = {n: curvature[n] ** 2 for n in curvature}

    def gradient(theta):
        return {n: curvature[n] * (theta[n] - centre[n]) for n in theta}

    options = {
        "learning_rate": lambda step: 0.2 / (1 + step),
        "decay": lambda step: step / (step + 3),
        "schedule": oracles.cosine(60),
    }
    thetas, points = oracles.nesterov_lookahead(params, gradient, 50, **options)
    gradients = [gradient(p) for p in [params, *points[:-1]]]
    assert_same(oracles.nesterov(params, gradients, **options), points, rtol=0, atol=1e-14)
    recovered = oracles.nesterov(params, gradients, iterate=True, **options)
    assert_same(recovered, thetas, rtol=0, atol=1e-14)


def test_nesterov_by_hand():
    # Gradient theta, eta = rho = 1/2: s = -1/2, theta = 1/2; then s = -1/4 - 1/8, theta = 1/8.
    thetas, points = oracles.nesterov_lookahead({"s": 1.0}, lambda p: p, 2, 0.5, 0.5)
    assert [t["s"] for t in thetas] == [0.5, 0.125]
    assert [p["s"] for p in points] == [0.25, -0.0625]


def test_adam_first_step_is_the_sign():
    params, gradients = draw(1)
    (after,) = oracles.adam(params, gradients, 0.1, eps=0.0)
    signs = {n: params[n] - 0.1 * np.sign(gradients[0][n]) for n in params}
    assert_same([after], [signs], rtol=RTOL)


def test_debiased_second_moment_is_an_uncorrected_one_with_growing_decay():
    # beta-hat_t = beta (1 - beta^(t-1)) / (1 - beta^t)  (Shazeer & Stern 2018, section 7.1).
    _, gradients = draw(30)
    column, v, expected = [g["w"] for g in gradients], 0.0, []
    for t, g in enumerate(column, start=1):
        hat = 0.99 * (1 - 0.99 ** (t - 1)) / (1 - 0.99**t)
        v = hat * v + (1 - hat) * g**2
        expected.append(g / np.sqrt(v))
    actual = oracles.adam_directions(column, b1=0.0, b2=0.99, eps=0.0)
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


def test_adam_attains_its_tight_bound():
    b1, b2, steps = 0.9, 0.999, 30_000
    bound = math.sqrt((1 - b1) ** 2 / ((1 - b2) * (1 - b1**2 / b2)))
    np.testing.assert_allclose(bound, 7.2703, atol=5e-5)
    gradients = [np.float64((b1 / b2) ** j) for j in reversed(range(steps))]
    last = oracles.adam_directions(gradients, b1, b2, eps=1e-300)[-1]
    np.testing.assert_allclose(last, bound, rtol=1e-12)


@pytest.mark.parametrize(
    ("amsgrad", "expected"),
    [  # g = 2, 0 at b1 = 1/2, b2 = 1/2: m = 1, 1/2; m-hat = 2, 2/3; v = 2, 1; v-hat = 4, 4/3.
        (None, [1.0, (2 / 3) / math.sqrt(4 / 3)]),
        ("debiased", [1.0, (2 / 3) / 2]),
        ("raw", [1.0, (2 / 3) / math.sqrt(8 / 3)]),
        ("paper", [1 / math.sqrt(2), 0.5 / math.sqrt(2)]),
    ],
)
def test_amsgrad_variants_by_hand(amsgrad, expected):
    gradients = [np.float64(2), np.float64(0)]
    actual = oracles.adam_directions(gradients, 0.5, 0.5, 0.0, amsgrad=amsgrad)
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


@pytest.mark.parametrize("times_rate", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_adamw_without_gradient_only_decays(normalized, times_rate):
    params, gradients = draw(7)
    zeros = [{n: 0 * g[n] for n in g} for g in gradients]
    schedule = oracles.warm_restarts(2, growth=2)
    options = {"normalized": normalized, "decay_times_rate": times_rate, "schedule": schedule}
    mask = {"w": True, "b": False, "s": True}
    final = oracles.adamw(params, zeros, 0.5, 0.1, mask=mask, **options)[-1]
    decay = 0.1 * (0.5 if times_rate else 1)
    cycles = [2, 2, 4, 4, 4, 4, 8] if normalized else [1] * 7
    half, quarter = 0.5, math.sqrt(0.5) / 2
    etas = [1, half, 1, half + quarter, half, half - quarter, 1]
    left = math.prod(1 - e * decay / math.sqrt(c) for e, c in zip(etas, cycles, strict=True))
    expected = {n: params[n] * (left if mask[n] else 1) for n in params}
    assert_same([final], [expected], rtol=RTOL)


def test_adamw_step_is_adams_step_minus_decay():
    params, gradients = draw(1)
    (adam,) = oracles.adam(params, gradients, 0.01, schedule=lambda step: 0.5)
    (adamw,) = oracles.adamw(params, gradients, 0.01, 0.2, schedule=lambda step: 0.5)
    assert_same([adamw], [{n: adam[n] - 0.5 * 0.2 * params[n] for n in adam}], rtol=RTOL)


def test_factored_second_moment_is_exact_for_rank_one_squares():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 1)), rng.normal(size=(1, 4))
    gradients = [c * a * b for c in rng.normal(size=12)]
    factored = oracles.factored_directions(gradients, eps1=0.0)
    whole = oracles.factored_directions(gradients, eps1=0.0, factored=False)
    np.testing.assert_allclose(factored, whole, rtol=RTOL)
    np.testing.assert_allclose(factored[0], np.sign(gradients[0]), rtol=RTOL)


def test_factored_second_moment_by_hand():
    # g^2 = [[1, 4], [9, 16]]: R = (5/2, 25/2), C = (5, 10), mean(R) = 15/2.
    gradient = np.array([[1.0, -2.0], [3.0, 4.0]])
    v = np.array([[5 / 3, 10 / 3], [25 / 3, 50 / 3]])
    (actual,) = oracles.factored_directions([gradient], eps1=0.0)
    np.testing.assert_allclose(actual, gradient / np.sqrt(v), rtol=RTOL)


def test_further_dimensions_are_a_batch_of_matrices():
    gradients = list(np.random.default_rng(2).normal(size=(5, 7, 3, 4)))
    last = oracles.factored_directions(gradients, factored_dims="last")
    largest = oracles.factored_directions(gradients, factored_dims="largest")
    for i in range(7):
        alone = oracles.factored_directions([g[i] for g in gradients])
        np.testing.assert_allclose([u[i] for u in last], alone, rtol=RTOL)
    for i in range(3):
        alone = oracles.factored_directions([g[:, i] for g in gradients])
        np.testing.assert_allclose([u[:, i] for u in largest], alone, rtol=RTOL)
    # Of equal dimensions the later counts as larger.
    assert oracles.dims_to_factor((3, 3, 3), 2, "largest") == (1, 2)
    assert oracles.dims_to_factor((5, 3, 3), 2, "largest") == (2, 0)
    small = oracles.factored_directions(gradients, min_dim_size_to_factor=5)
    whole = oracles.factored_directions(gradients, factored=False)
    np.testing.assert_array_equal(small, whole)


@pytest.mark.parametrize("threshold", [None, math.inf])
def test_adafactor_reduces_to_rmsprop(threshold):
    params, gradients = draw(10)
    off = {"relative_step": False, "scale_by_parameter": False, "factored": False}
    actual = oracles.adafactor(params, gradients, 0.01, clip_threshold=threshold, b2=0.9, **off)
    theta, v, expected = params, dict.fromkeys(params, 0.0), []
    for g in gradients:
        v = {n: 0.9 * v[n] + 0.1 * (g[n] ** 2 + 1e-30) for n in g}
        theta = {n: theta[n] - 0.01 * g[n] / np.sqrt(v[n]) for n in g}
        expected.append(theta)
    assert_same(actual, expected, rtol=RTOL)


def test_adafactor_second_moment_decays():
    ones_then_two = [np.float64(1), np.float64(2)]
    for options, beta2 in [
        ({"decay_rate": 1}, 0.5),
        ({}, 1 - 2**-0.8),
        ({"b2": 0.9, "b2_cap": 0.0}, 0.0),
        ({"decay_rate": 1, "b2_cap": 0.25}, 0.25),
    ]:
        last = oracles.factored_directions(ones_then_two, eps1=0.0, **options)[-1]
        np.testing.assert_allclose(last, 2 / math.sqrt(beta2 + 4 * (1 - beta2)), rtol=RTOL)


def test_relative_rate_and_its_warmup():
    assert [oracles.relative_rate(step) for step in (0, 9_999, 39_999)] == [0.01, 0.01, 0.005]
    warm = [oracles.relative_rate(step, warmup_init=True) for step in (0, 9_999, 39_999)]
    np.testing.assert_allclose(warm, [1e-6, 1e-2, 5e-3], rtol=RTOL)
    assert [oracles.relative_rate(step, 0.7) for step in (0, 3)] == [0.7, 0.5]


def test_adafactor_first_step_is_relative_to_the_parameter():
    theta, gradient = {"b": np.array([3.0, 4.0])}, [{"b": np.array([1.0, -7.0])}]
    (after,) = oracles.adafactor(theta, gradient, clip_threshold=0.5)  # U = (1, -1), RMS 1
    step = 0.5 * 0.01 * math.sqrt(12.5)
    np.testing.assert_allclose(after["b"], [3 - step, 4 + step], rtol=RTOL)
    (after,) = oracles.adafactor({"b": np.zeros(2)}, gradient)
    np.testing.assert_allclose(after["b"], [-1e-5, 1e-5], rtol=RTOL)
    (after,) = oracles.adafactor(theta, [{"b": np.zeros(2)}])  # eps1 keeps 0 / 0 away.
    np.testing.assert_array_equal(after["b"], theta["b"])


@pytest.mark.parametrize(
    ("momentum_of", "second"),
    [  # U = 1 both times, rates 1 then 2, b1 = 1/2.
        ("update", 2 * (1 / 4 + 1 / 2)),
        ("step", 1 / 4 + 2 / 2),
    ],
)
def test_momentum_before_or_after_the_rate(momentum_of, second):
    options = {"relative_step": False, "scale_by_parameter": False, "b1": 0.5}
    gradients = [{"s": np.float64(5)}] * 2
    trajectory = oracles.adafactor(
        {"s": 0.0}, gradients, lambda step: 1.0 + step, momentum_of=momentum_of, **options
    )
    np.testing.assert_allclose([t["s"] for t in trajectory], [-0.5, -0.5 - second], rtol=RTOL)


def test_factored_adamw_by_hand():
    gradients, schedule = (
        [{"b": np.array([1.0, -7.0])}],
        oracles.with_warmup(oracles.constant(16), 2),
    )
    (after,) = oracles.factored_adamw(
        {"b": np.array([3.0, 4.0])}, gradients, 0.1, 0.4, schedule=schedule
    )
    # eta = 1/2, m = (1 - .9)(1, -1), alpha = RMS(theta) x .1, lambda = .4 / sqrt(16).
    step, decay = 0.1 * math.sqrt(12.5) * 0.1, 0.1
    expected = [3 - 0.5 * (step + decay * 3), 4 - 0.5 * (-step + decay * 4)]
    np.testing.assert_allclose(after["b"], expected, rtol=RTOL)


def test_drifting_regression_by_hand():
    # w = (2, 4); W = 1, then .5 (1 + 3) = 2 and .5 (2 - 2) = 0; x = 1 and -2.
    normals = [[1.0, 2.0], [[1.0]], [[3.0], [-2.0]], [[1.0], [-2.0]], [5.0, 7.0]]
    arrays = [np.array(values) for values in normals]
    options = {"learning_rate": 0.125, "data_decay": 0.5, "noise_std": 0.0, "warmup": 1}
    losses, mean = oracles.drifting_regression(*arrays, **options)
    # Error 6 - 2 = 4, gradient (8, 8), w = (1, 3); error -2 + 3 - 0 = 1.
    assert (list(losses), mean) == ([16.0, 1.0], 1.0)
    # Noise -5 and -7, one stage of 1/2: error 6 + 3 = 9, gradient (18, 18) halved,
    # w = (.875, 2.875); error -1.75 + 2.875 + 7 = 8.125.
    losses, _ = oracles.drifting_regression(*arrays, decays=[0.5], **options | {"noise_std": -1})
    assert list(losses) == [81.0, 8.125**2]


def test_drifting_regression_averages_the_inner_level_first():
    # Two data levels of 1/2 from W = (4, 2), delta = 0: W_2 = 1, W_1 = .5 (4 + 1); w = 0, x = 1.
    arrays = np.zeros(2), np.array([[4.0], [2.0]]), np.zeros((1, 1)), np.ones((1, 1)), np.zeros(1)
    losses, _ = oracles.drifting_regression(*arrays, data_decay=0.5)
    assert list(losses) == [2.5**2]
