"""Tests of the momentum experiment's mitigations, references and escapes, on small sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import lab, momentum
from experiments.momentum import (
    escapes,
    matrix,
    mitigations,
    newton,
    noise,
    numbers,
    references,
    report,
)
from experiments.momentum.mitigations import CASES, MITIGATIONS, PLAIN
from experiments.momentum.numbers import Cell, Estimate
from experiments.momentum.surfaces import SURFACES

RTOL = 1e-12  # In float64, a few operations round.
TERMINAL_RTOL = 1e-10  # The largest decay forgets to exp(-30); a sum of 30,000 terms rounds.
MISSES = 1e-6  # A binomial test of each share fails at this level: once in 10^5 runs of ten.
SMALL = momentum.Config(
    conditions=3,
    learning_rates=4,
    mitigation_steps=60,
    mitigation_starts=12,
    escape_steps=150,
    escape_runs=300,
)
GOAL = 5e-3  # On “Collinear regression”, most cases reach it within 60 steps at some rate.


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run each part in float64, the mitigations on one surface."""
    part = momentum.EXPERIMENT
    place = lab.Lab(tmp_path_factory.mktemp("momentum"), None, part.parts)
    one = {"collinear": SURFACES["collinear"]._replace(goal=GOAL)}
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(mitigations, "SURFACES", one)
        return {
            "mitigations": mitigations.simulate(SMALL, place),
            "newton": references.newton_errors(SMALL, place),
            "terminal": references.terminal_speeds(place),
            "escapes": escapes.simulate(SMALL, place),
        }


# Newton's method and the terminal velocity.


def test_newton_solves_a_rotated_quadratic_in_one_step(x64):
    q, _ = np.linalg.qr([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0], [2.0, 0.0, 1.0]])
    hessian, minimum = q @ np.diag([1e-3, 1.0, 50.0]) @ q.T, np.array([3.0, -1.0, 2.0])

    def loss(params):
        return 0.5 * (params - minimum) @ hessian @ (params - minimum)

    tx, start = references.newton(loss), jnp.array([10.0, 20.0, -30.0])
    step, _ = tx.update(jax.grad(loss)(start), tx.init(start), start)
    # A condition number of 5e4 costs five digits of the solution.
    np.testing.assert_allclose(start + step, minimum, rtol=1e-10)


def test_newton_s_first_error_is_rounding_at_every_condition_number(results):
    assert results["newton"].sizes == {"condition": 3, "step": references.NEWTON_STEPS}
    assert (results["newton"].error <= 4 * np.finfo(float).eps).all()


def test_newton_s_steps_stand_beside_the_others():
    errors = np.array([0.5, 1e-3, 1e-7, 1e-9])
    assert newton.steps_to(errors, np.array([10, 20, 30, 40]), 1e-6) == 30
    assert newton.steps_to(errors[:2], np.array([10, 20]), 1e-6) == np.inf
    conditions = np.array([10.0, 1000.0])
    counts = {"gradient descent": [70, 9000], "heavy ball": [20, 250], "Newton": [1, 1]}
    said = newton.answer(counts, conditions, 1e-16)
    assert "needs 1 step at every condition number" in said
    assert "condition number of 1,000, heavy ball, the fastest method that uses gradients" in said
    said = newton.answer(counts | {"Newton": [1, 2]}, conditions, 1e-16)
    assert "needs 2 steps" in said
    assert "it fails" in newton.answer(counts | {"Newton": [1, np.inf]}, conditions, 0.5)
    assert "no method that uses gradients alone gets there" in newton.answer(
        {"heavy ball": [9, np.inf], "Newton": [1, 1]}, conditions, 0.0
    )


def test_terminal_velocity_is_rate_times_gradient_over_one_minus_decay(results):
    found = results["terminal"]
    for rate in found.learning_rate.values:
        for slope in found.slope.values:
            at = found.sel(learning_rate=rate, slope=slope)
            expected = rate * slope / (1 - at.decay)
            np.testing.assert_allclose(at.speed, expected, rtol=TERMINAL_RTOL)
            np.testing.assert_allclose(at.predicted, expected, rtol=RTOL)
            np.testing.assert_allclose(at.theory, expected, rtol=1e-9)
            # Larger for decays near 1.
            assert (at.speed.diff("decay") > 0).all()


@pytest.mark.parametrize(
    ("factors", "said"), [([1, 2, 4], "rises"), ([4, 2, 1], "falls"), ([1, 4, 2], "varies")]
)
def test_terminal_speeds_are_said_in_words(factors, said):
    speeds = np.multiply.outer(np.ones((1, 1)), np.array(factors, float))
    dims = ("learning_rate", "slope", "decay")
    terminal = xr.Dataset(
        {"speed": (dims, speeds), "predicted": (dims, speeds * (1 + 1e-3))},
        {"decay": [0.0, 0.5, 0.75], "learning_rate": [1.0], "slope": [1.0]},
    )
    answer = report._velocity(terminal)
    assert f"The speed {said} with the decay" in answer
    assert "to a relative error of 1.0e-03" in answer
    assert answer.endswith(f"changes by a factor of {factors[-1] / factors[0]:.4g}.")


# Mitigations.


def test_scalings_give_inputs_of_unit_power():
    for surface in SURFACES.values():
        np.testing.assert_array_equal(mitigations.scaling(surface, "none"), np.eye(2))
        if surface.inputs is None:
            np.testing.assert_array_equal(mitigations.scaling(surface, "whitened"), np.eye(2))
            continue
        columns = surface.inputs.shape[1]
        units = 2 // columns
        for kind in ("standardized", "whitened"):
            matrix_ = mitigations.scaling(surface, kind)
            scaled = surface.inputs @ matrix_[:columns, :columns]
            moments = scaled.T @ scaled / len(scaled)
            np.testing.assert_allclose(np.diag(moments), 1, rtol=1e-9)
            if kind == "whitened":
                np.testing.assert_allclose(moments, np.eye(columns), atol=1e-9)
            np.testing.assert_array_equal(
                matrix_, np.kron(np.eye(units), matrix_[:columns, :columns])
            )


def test_whitened_features_have_condition_number_one(x64):
    surface = SURFACES["collinear"]
    matrix_ = mitigations.scaling(surface, "whitened")
    hessian = jax.hessian(lambda v: surface.loss(matrix_ @ v))(jnp.zeros(2))
    np.testing.assert_allclose(hessian, np.eye(2), atol=1e-9)


def test_an_initialisation_knows_nothing_of_the_minimum(x64):
    key = jax.random.key(0)
    for surface in SURFACES.values():
        hard, drawn = (mitigations.begins(surface, 4000, key, x) for x in (False, True))
        np.testing.assert_allclose(drawn.std(0), surface.initial, atol=0.05)
        np.testing.assert_allclose(drawn.mean(0), 0, atol=0.05)
        np.testing.assert_allclose(hard.mean(0), surface.start, atol=0.1)


def descended(case, surface, start, rate, steps, decay):
    """Return the original losses of a run with a mitigation, in NumPy with JAX's gradient."""
    p = mitigations.scaling(surface, case.scaling)
    gradient = jax.jit(jax.grad(surface.loss))
    v, s, m, r = np.linalg.solve(p, start), np.zeros(2), np.zeros(2), np.zeros(2)
    losses = [float(surface.loss(jnp.asarray(p @ v)))]
    for t in range(steps):
        g = p.T @ (np.asarray(gradient(jnp.asarray(p @ v))) + case.penalty * p @ v)
        cycle = np.ceil(case.cycle * steps)
        eta = 0.5 * (1 + np.cos(np.pi * min(t, cycle) / cycle)) if cycle else 1.0
        if case.family == "adagrad":
            r = r + g**2
            v = v - rate * g / np.sqrt(r + 1e-16)
        elif case.family == "adam":
            m, r = 0.9 * m + 0.1 * g, 0.999 * r + 0.001 * g**2
            scale = np.sqrt(r / (1 - 0.999 ** (t + 1))) + 1e-8
            v = v - rate * m / (1 - 0.9 ** (t + 1)) / scale
        else:
            s = (decay if case.momentum else 0.0) * s + g
            v = v - eta * rate * s
        losses.append(float(surface.loss(jnp.asarray(p @ v))))
    return np.array(losses)


def test_every_case_is_that_of_plain_numpy(results, x64):
    found, surface = results["mitigations"], SURFACES["collinear"]
    assert found.case.values.tolist() == [*range(len(CASES))]
    key = jax.random.fold_in(jax.random.key(0), 200)
    arrived = set()
    for i, case in enumerate(CASES):
        begin = np.asarray(mitigations.begins(surface, 12, key, case.initialised))
        for share in (1, 2):
            at = found.sel(surface="collinear", case=i).isel(share=share)
            low, high = (1e-2, 1e1) if case.family == "momentum" else (1e-3, 1e1)
            rate = low * (high / low) ** (share / 3)
            np.testing.assert_allclose(at.learning_rate, rate, rtol=RTOL)
            for start in (0, 5):
                losses = descended(case, surface, begin[start], rate, 60, 0.9)
                above = np.flatnonzero(~(losses < GOAL))
                last = 0 if not above.size else above[-1] + 1
                expected = last if last <= 60 else -1
                assert int(at.settled[start]) == expected, (case, share, start)
                arrived |= {case.mitigation} if expected > 0 else set()
    assert len(arrived) >= 6


def test_the_goal_is_that_of_the_original_loss(results, x64):
    # The largest penalty moves the minimum by more than the goal allows. At a rate of 1 it
    # contracts the flat direction by 0.9 a step, so 60 steps end there.
    penalties = [case.penalty for case in CASES]
    found = results["mitigations"].settled.sel(case=penalties.index(max(penalties)))
    surface = SURFACES["collinear"]
    h = np.asarray(jax.hessian(surface.loss)(jnp.zeros(2)))
    moved = np.linalg.solve(h + max(penalties) * np.eye(2), h @ [2.0, -1.0])
    assert surface.loss(jnp.asarray(moved)) > GOAL
    assert (found.isel(share=2) == -1).all()


def test_medians_have_exact_intervals():
    # k of n coins: for n = 20, k = 6 (0.0414 in both tails), for n = 6 the extremes (0.03125).
    values = np.arange(20.0)[::-1]
    assert numbers.median(values) == (9.5, 5.0, 14.0)
    assert numbers.median(np.arange(6.0)) == (2.5, 0.0, 5.0)
    assert np.isnan(numbers.median(np.arange(5.0))[1:]).all()
    assert numbers.median(np.append(np.arange(12.0), [np.inf] * 8)) == (9.5, 5.0, np.inf)
    assert numbers.median(np.full(20, np.inf)) == (np.inf, np.inf, np.inf)


def test_shares_have_clopper_and_pearson_s_intervals():
    # With no success of n the upper end solves (1 - p)^n = 0.025.
    value, low, high = numbers.proportion(0, 50)
    np.testing.assert_allclose([value, low, high], [0, 0, 1 - 0.025 ** (1 / 50)], rtol=1e-9)
    value, low, high = numbers.proportion(50, 50)
    np.testing.assert_allclose([value, low, high], [1, 0.025 ** (1 / 50), 1], rtol=1e-9)


def test_intervals_that_touch_are_alike():
    middle = Estimate(5, 4, 6)
    assert numbers.compare(Estimate(2, 1, 3), middle) == "fewer"
    assert numbers.compare(Estimate(8, 7, 9), middle) == "more"
    assert numbers.compare(Estimate(3, 2, 4), middle) == "alike"
    assert numbers.compare(Estimate(3, np.nan, np.nan), middle) == "alike"
    assert numbers.compare(Estimate(*[np.inf] * 3), Estimate(*[np.inf] * 3)) == "alike"


def made_up(steps):
    """Return runs of 40 starts; `steps` has surface, case -> (steps at both rates)."""
    settled = np.full((len(SURFACES), len(CASES), 2, 40), 100)
    for i, word in enumerate(SURFACES):
        for j, case in enumerate(CASES):
            settled[i, j] = np.reshape(steps.get((word, case.mitigation), (100, 100)), (2, -1))
    dims = ("surface", "case", "share", "start")
    return xr.Dataset(
        {"settled": (dims, settled), "learning_rate": (dims, np.ones(settled.shape))},
        {"surface": [*SURFACES], "case": range(len(CASES))},
        {"steps": 1000},
    )


def test_half_of_the_starts_choose_and_the_other_half_count():
    both = np.stack([np.tile([10, 90], 20), np.tile([50, 50], 20)])
    cells = numbers.matrix(
        made_up({("collinear", "Adam"): both, ("collinear", "AdaGrad"): (-1, -1)})
    )
    # Even starts choose the first rate for its 10 steps, odd ones count 90.
    assert cells["collinear", "Adam"].steps == (90, 90, 90)
    assert cells["collinear", "Adam"].verdict == "fewer"
    assert cells["collinear", "Adam"].edge
    assert cells["collinear", "AdaGrad"].steps == (np.inf,) * 3
    assert cells["collinear", "AdaGrad"].verdict == "more"
    assert (cells["collinear", "AdaGrad"].arrived, cells["collinear", "AdaGrad"].of) == (0, 20)
    assert cells["saturated", "L2 penalty"].verdict == "alike"
    assert ("many_minima", "whitened features") not in cells
    assert len(cells) == len(SURFACES) * len(MITIGATIONS) - 2


def test_the_matrix_is_said_in_words():
    cells = numbers.matrix(
        made_up({("collinear", "Adam"): (20, 30), ("symmetric", "Adam"): (50, 50)})
    )
    said = matrix.answer(cells, 1000)
    assert said.startswith(
        "Surfaces with fewer steps than plain gradient descent: Adam on 2 of 4; "
    )
    assert "L2 penalty, initialisation, AdaGrad, cosine schedule and heavy ball on 0 of 4; " in said
    assert "standardized features and whitened features on 0 of 3. " in said
    assert said.endswith("that of Adam on “Collinear regression”: 20 steps instead of 100.")
    none = matrix.answer(numbers.matrix(made_up({})), 1000)
    assert none.endswith("No interval lies below that of gradient descent.")
    never = Cell(Estimate(np.inf, 90.5, np.inf), 4, 20, 3, 0.25, True, "more")
    assert matrix.text(never, 1000) == "> 1000 [90.5, > 1000]"
    assert matrix.setting(never) == "rate 0.25 (the least or largest tried), penalty 0.0001"
    assert matrix.setting(never._replace(arrived=0)) == "–"
    rows = matrix.table(cells, 1000).rows
    assert rows[0][:5] == ["Collinear regression", PLAIN, "100", "20 of 20", "–"]
    assert len(matrix.figure(cells, 1000).axes) == 2


# Escapes.


def test_runs_leave_the_dent_as_often_as_quadrature_says(results):
    from scipy.stats import binomtest

    found = results["escapes"]
    plain = found.escaped.sel(decay=0.0)
    assert 0 < float(plain.mean()) < 1
    for batch in found.batch.values:
        expected = float(found.expected.sel(batch=batch))
        count = int(plain.sel(batch=batch).sum())
        assert binomtest(count, 300, expected).pvalue > MISSES, (batch, count, expected)


def test_quadrature_is_a_sum_of_normals_for_one_step():
    from scipy.stats import norm

    minimum, inner, outer = escapes.dent()
    for batch in (0.01, 0.05):  # Steps as large as the dent.
        deviation = escapes.LEARNING_RATE * escapes.NOISE / np.sqrt(batch)
        stays = np.diff(norm.cdf([inner, outer], minimum, deviation)).item()
        np.testing.assert_allclose(escapes.escape_probability(batch, 1), 1 - stays**2, rtol=1e-9)
    # Below rounding, never.
    assert escapes.escape_probability(64, 1) < 1e-12


def test_the_dent_lies_between_two_maxima(x64):
    points = np.array(escapes.dent())
    gradient = jax.grad(lambda x: SURFACES["many_minima"].loss(jnp.array([x, 0.0])))
    np.testing.assert_allclose(escapes.slope(points), 0, atol=1e-9)
    np.testing.assert_allclose([gradient(x) for x in points], 0, atol=1e-9)
    curvature = 0.1 + 1.6 * np.cos(4 * points)
    assert (np.sign(curvature) == [1, -1, -1]).all()


def test_escapes_are_said_in_words():
    few, half, many = (numbers.proportion(n, 100) for n in (0, 50, 100))
    said = noise.answer({0.0: [many, few], 0.9: [many, half]}, [2, 64], 500)
    assert said.startswith("Yes: with batches of 2, 100 % [96.4, 100] of the runs leave within 500")
    assert "with batches of 64, 0 % [0, 3.62]." in said
    assert said.endswith("escapes more often at 1 of 2 batch sizes.")
    both = noise.answer({0.0: [many, few], 0.9: [half, half]}, [2, 64], 500)
    assert both.endswith("more often at 1 of 2 batch sizes and less often at 1 of 2 batch sizes.")
    same = noise.answer({0.0: [half, half], 0.9: [half, half]}, [2, 64], 500)
    assert same.startswith("No difference: ")
    assert same.endswith("escapes equally often at all batch sizes.")
    assert noise.answer({0.0: [few, many]}, [2, 64], 500).startswith("No, noise holds runs back")
