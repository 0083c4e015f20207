"""Tests of the momentum experiment: its numbers against closed forms, and its files."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import lab, momentum
from experiments.momentum import numbers, report, runs
from experiments.momentum.surfaces import SURFACES, problem, starts
from tests.experiments import support

FOUR_DIGITS = 5e-5
RADIUS_ATOL = 1e-7  # Rounding splits a double eigenvalue by the root of 1e-16, and more.
RTOL = 1e-11  # In float64 each of some hundred steps rounds a few times.
STANDARD_ERRORS = 5
SMALL = momentum.Config(
    conditions=4,
    steps=40_000,
    velocity_steps=50,
    regression_steps=4000,
    seeds=8,
    surface_steps=300,
    learning_rates=4,
    starts=3,
    mitigation_steps=20,
    mitigation_starts=12,
    escape_steps=20,
    escape_runs=4,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small experiment; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("momentum") / "results"
    return out, support.finished("momentum", SMALL, out)


@pytest.fixture(scope="module")
def folder(done):
    return done[0]


@pytest.fixture(scope="module")
def results(folder):
    """Return what it stored, by name."""
    names = ("quadratics", "velocities", "regression", "tuning", "surfaces")
    return {name: xr.load_dataset(folder / f"{name}.nc") for name in names}


@pytest.fixture(scope="module")
def quadratics(results):
    """Return the runs on condition numbers 10, 100, 1000 and 10000."""
    return results["quadratics"]


@pytest.fixture(scope="module")
def tuning(results):
    """Return the runs on the surfaces at a few rates."""
    return results["tuning"]


def factors(condition):
    """Return the factors a step of MATH.md, section 3."""
    root, q = np.sqrt(condition), np.sqrt(3 * condition + 1)
    return {
        "gradient_descent": (condition - 1) / (condition + 1),
        "heavy_ball": (root - 1) / (root + 1),
        "nesterov": 1 - 1 / root,
        "nesterov_quadratic": 1 - 2 / q,
    }


def test_factors_on_quadratics_are_theory_s_to_four_digits(quadratics):
    assert list(quadratics.condition.values.round(6)) == [10, 100, 1000, 10_000]
    for condition in quadratics.condition.values:
        for name, expected in factors(condition).items():
            found = quadratics.sel({"algorithm": name, "condition": condition})
            assert abs(found.measured - expected) < FOUR_DIGITS
            np.testing.assert_allclose(found.predicted, expected, rtol=RTOL)
            np.testing.assert_allclose(found.radius, expected, atol=RADIUS_ATOL)


def test_error_of_heavy_ball_is_a_double_root_s(quadratics):
    # From rest, the flattest coordinate is (1 + t (1 - z)) z^t, z being the factor a step, and the
    # steepest (1 + t (1 + z)) (-z)^t.
    found = quadratics.sel({"algorithm": "heavy_ball", "condition": quadratics.condition[-1]})
    z, t = factors(1e4)["heavy_ball"], found.step.values[500:600]
    ends = np.hypot(1 + t * (1 - z), 1 + t * (1 + z)) / np.sqrt(10)
    # The others have no factor t.
    np.testing.assert_allclose(found.log_error[500:600], np.log(ends) + t * np.log(z), atol=1e-3)


def test_error_of_gradient_descent_is_the_closed_form(quadratics):
    curvatures = 1e4 ** -np.linspace(1, 0, 10)
    found = quadratics.sel({"algorithm": "gradient_descent", "condition": quadratics.condition[-1]})
    steps = found.step.values[:50, None]
    errors = (1 - 2 / (1 + 1e-4) * curvatures) ** steps / np.sqrt(10)
    expected = np.log(np.linalg.norm(errors, axis=1))
    np.testing.assert_allclose(found.log_error[:50], expected, rtol=1e-9)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_measured_factor_is_that_of_a_known_error(power):
    steps = 10 * (1 + np.arange(500))
    log_errors = 3.0 + power * np.log(steps) + steps * np.log(0.7)
    np.testing.assert_allclose(runs.measured_factor(log_errors, steps), 0.7, rtol=1e-10)
    # What comes after the least number is not looked at.
    log_errors[log_errors < np.log(runs.SMALLEST)] = -np.inf
    np.testing.assert_allclose(runs.measured_factor(log_errors, steps), 0.7, rtol=1e-10)


def test_velocities_are_geometric_sums(results):
    found = results["velocities"]
    t = found.step.values
    for decay in found.decay.values:
        # Looking ahead, the parameters are a term further on.
        for name, terms in (("heavy_ball", t), ("nesterov", t + 1)):
            speed = found.speed.sel({"algorithm": name, "decay": decay})
            sums = [np.sum(decay ** np.arange(n)) for n in terms]
            np.testing.assert_allclose(speed, sums, rtol=RTOL)
        np.testing.assert_allclose(found.predicted.sel(decay=decay), 1 / (1 - decay), rtol=1e-9)


def test_losses_of_the_regression_are_as_predicted(results):
    found = results["regression"]
    for rate in found.rate.values:
        for decay in found.decay.values:
            at = found.sel(rate=rate, decay=decay)
            assert bool(at.diverged.all()) == bool(np.isinf(at.predicted)), (rate, decay)
            if not at.diverged.any():
                error = at.loss.std(ddof=1) / np.sqrt(8)
                assert abs(at.loss.mean() - at.predicted) < STANDARD_ERRORS * error, (rate, decay)
    assert not found.diverged.sel(rate="rescaled").any()


def test_without_momentum_both_rates_are_one(x64, optimized, tmp_path, monkeypatch):
    """To the bit, as users compile: they are two programs, and roundings depend on the compiler."""
    monkeypatch.setattr(runs, "REGRESSION_DECAYS", runs.REGRESSION_DECAYS[:1])
    where = lab.Lab(folder=tmp_path, device=None, parts=momentum.EXPERIMENT.parts)
    found = runs._regression(SMALL, where)
    assert found.decay.values == [0.0]
    np.testing.assert_array_equal(*(found.loss.sel(rate=r) for r in found.rate.values))


def test_goals_are_below_all_but_the_minima(x64):
    minima = {"collinear": (2.0, -1.0), "saturated": (1.5, -0.5), "many_minima": (0.0, 0.0)}
    for word, point in minima.items():
        surface = SURFACES[word]
        assert surface.loss(jnp.array(point)) < 1e-20
    for word, surface in SURFACES.items():
        assert surface.loss(jnp.array(surface.start)) > 100 * surface.goal, word
        for point in (surface.start, surface.control):
            low, high = zip(*surface.window, strict=True)
            assert (np.array(low) < point).all()
            assert (point < np.array(high)).all()


def test_surfaces_are_badly_conditioned_each_in_its_way(x64):
    from nested_jax import theory

    collinear = SURFACES["collinear"]
    rows = np.asarray(jax.jacfwd(collinear.outputs)(jnp.zeros(2)))
    condition = theory.condition_number(collinear.loss, jnp.zeros(2))
    np.testing.assert_allclose(condition, np.linalg.cond(rows) ** 2, rtol=1e-9)
    assert condition > 500
    saturated = SURFACES["saturated"]
    large, small = (
        theory.jacobian_singular_values(saturated.outputs, jnp.array(point), 2)
        for point in (saturated.start, saturated.control)
    )
    assert large[1] < 0.1 * small[1]
    symmetric = SURFACES["symmetric"]
    values = theory.jacobian_singular_values(symmetric.outputs, jnp.array(symmetric.control), 2)
    assert values[1] < 1e-12 * values[0]
    dents = SURFACES["many_minima"]
    assert theory.curvature(dents.loss, jnp.array(dents.start)).smallest < 0


def descended(loss, start, rate, decay, steps, nesterov=False):
    """Return path and losses of gradient descent with momentum, in plain Python."""
    gradient = jax.jit(jax.grad(loss))
    p, s = np.array(start), np.zeros(2)
    path, losses = [p], [float(loss(p))]
    for _ in range(steps):
        u = -rate * np.asarray(gradient(p))
        s = decay * s + u
        p = p + (decay * s + u if nesterov else s)
        path.append(p)
        losses.append(float(loss(p)))
    return np.array(path), np.array(losses)


def test_a_run_on_a_surface_is_that_of_plain_python(tuning, x64):
    surface = SURFACES["collinear"]
    begin = starts(surface, 3, runs._start_key(SMALL, "collinear"))
    assert tuple(begin[0]) == surface.start
    assert tuple(begin[1]) == surface.control
    for name, decay in (("gradient_descent", 0.0), ("heavy_ball", 0.9), ("nesterov", 0.9)):
        for i in (0, 3):
            found = tuning.sel(surface="collinear", start=i).sel({"algorithm": name}).isel(share=2)
            rate = float(found.learning_rate)
            np.testing.assert_allclose(rate, 1e-2 * 1e3 ** (2 / 3), rtol=RTOL)
            options = rate, decay, 300, name == "nesterov"
            _, losses = descended(surface.loss, begin[i], *options)
            # A last loss of 1e-20 is the square of what rounding left of the distance.
            np.testing.assert_allclose(found.loss, losses[-1], rtol=1e-6, atol=1e-25)
            # Losses are reported before each step: the last run of those above the goal counts.
            above = np.flatnonzero(~(losses[:-1] < surface.goal))
            settled = 0 if not above.size else above[-1] + 1
            assert int(found.settled) == (settled if settled < 300 else -1)


def test_a_run_settles_after_its_last_loss_above_the_goal(x64):
    # Down and up again: two visits below the goal, the first of which does not count.
    surface = SURFACES["collinear"]._replace(loss=lambda p: p[0], goal=0.5)

    def end(curve):
        trace = runs.nj.Rollout(0, 0, jnp.array(curve), None, jnp.array([curve[-1], 0]), None, None)
        return {name: x.item() for name, x in runs._end(trace, surface).items()}

    assert end([1.0, 0.1, 2.0, 0.2, 0.1]) == {"loss": 0.1, "settled": 3, "diverged": False}
    assert end([0.1, 0.2, 0.1])["settled"] == 0
    assert end([0.1, 0.2, 0.7])["settled"] == -1
    assert end([1.0, 2.0, np.nan])["settled"] == -1
    assert end([1.0, 2.0, np.nan])["diverged"]
    assert end([1.0, 2.0, 1001.0])["diverged"]
    assert not end([1.0, 2.0, 999.0])["diverged"]


def test_units_that_start_alike_stay_alike(tuning):
    control = tuning.sel(surface="symmetric", start=runs.CONTROL)
    assert (control.settled == -1).all()
    assert (tuning.sel(surface="symmetric", start=runs.FIRST).settled >= 0).any()


def test_best_rate_is_that_of_least_effort(tuning):
    rates = runs.best_rates(SMALL, tuning)
    others = tuning.sel(start=[0, 2, 3, 4])
    for word in SURFACES:
        for name in tuning.algorithm.values:
            at = others.sel({"surface": word, "algorithm": name})
            steps = at.settled.where(at.settled >= 0, 300).mean("start").values
            chosen = float(rates.sel({"surface": word, "algorithm": name}))
            position = np.flatnonzero(at.learning_rate.values == chosen).item()
            assert steps[position] == steps.min()
            if steps.min() == 300:
                losses = np.nan_to_num(at.loss.median("start", skipna=False).values, nan=np.inf)
                assert losses[position] == losses.min()


def test_best_rate_is_by_steps_first_and_by_loss_among_equals():
    def chosen(settled, loss):
        # Two rates and three starts; the control, the second one, does not count.
        dims = ("surface", "algorithm", "share", "start")
        data = {"settled": (dims, [[settled]]), "loss": (dims, [[loss]])}
        rates = (("surface", "share"), [[0.1, 0.2]])
        coords = {"share": [0.0, 1.0], "start": [0, 1, 2], "learning_rate": rates}
        tuning = xr.Dataset(data, coords)
        return runs.best_rates(momentum.Config(surface_steps=10), tuning).item()

    fine = [1.0, 1.0, 1.0]
    assert chosen([[5, 0, 5], [4, 9, 4]], [[0.1, 0.1, 0.1], fine]) == 0.2
    # Never arriving counts as all steps.
    assert chosen([[5, 0, -1], [7, 9, 7]], [[0.1, 0.1, 0.1], fine]) == 0.2
    assert chosen([[-1] * 3, [-1] * 3], [fine, [0.5, 9.0, 0.5]]) == 0.2
    assert chosen([[-1] * 3, [-1] * 3], [fine, [np.nan] * 3]) == 0.1
    assert chosen([[-1] * 3, [-1] * 3], [[np.nan] * 3, fine]) == 0.2


@pytest.mark.slow
def test_curvature_along_a_path_is_that_of_its_points(results, x64):
    rates = runs.best_rates(SMALL, results["tuning"])
    races = results["surfaces"].isel(step=slice(41))
    for word, surface in SURFACES.items():
        at = races.sel({"surface": word, "algorithm": "nesterov", "start": runs.FIRST})
        rate = float(rates.sel({"surface": word, "algorithm": "nesterov"}))
        path, losses = descended(surface.loss, surface.start, rate, 0.9, 40, nesterov=True)
        # In the dents and on the plateau small differences grow.
        np.testing.assert_allclose(at.path, path, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(at.height, losses, rtol=1e-6, atol=1e-15)
        spectra = np.linalg.eigvalsh(jax.vmap(jax.hessian(surface.loss))(jnp.asarray(path)))
        np.testing.assert_allclose(at.largest, spectra[:, 1], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(at.smallest, spectra[:, 0], rtol=1e-5, atol=1e-9)
        assert bool(np.isnan(at.jacobian).all()) == (surface.outputs is None)


def test_a_surface_is_a_deterministic_problem():
    surface = SURFACES["many_minima"]
    made = problem(surface, jnp.ones(2))
    assert made.draw(None) is None
    assert made.observe(None, None) == (None, None)
    assert made.loss(jnp.ones(2), None) == surface.loss(jnp.ones(2))


@pytest.mark.slow
def test_writes_every_file(folder, results):
    with (folder / "rates.csv").open() as file:
        rows = list(csv.DictReader(file))
    quadratics = results["quadratics"]
    assert len(rows) == quadratics.measured.size == 16
    for row in rows:
        condition = float(row["condition"])
        found = quadratics.sel(algorithm=row["algorithm"]).sel(
            condition=condition, method="nearest"
        )
        assert float(row["measured"]) == float(found.measured)
    assert all(part.attrs["axes"] is not None for part in results.values())
    made = json.loads((folder / "config.json").read_text())
    assert made["config"] == lab.describe(SMALL)
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 10
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert names == {
        "rates",
        "errors",
        "velocities",
        "rescaling",
        "contours",
        "along",
        "learning_rates",
        "newton",
        "mitigations",
        "escapes",
    }


@pytest.mark.slow
def test_says_what_came_out(done):
    _, printed = done
    assert "On a quadratic with condition number 10,000, heavy-ball momentum needs" in printed
    assert "With the learning rate rescaled, no run diverges" in printed


def test_answers_count_each_kind_of_momentum_by_itself(monkeypatch):
    monkeypatch.setattr(
        report, "SURFACES", {word: SURFACES[word] for word in ("collinear", "saturated")}
    )
    # Steps of gradient descent, heavy ball and Nesterov on two surfaces; three starts, one rate.
    steps = np.array([[100, 20, 30], [40, 90, 35]])
    dims = ("surface", "algorithm", "share", "start")
    settled = np.broadcast_to(steps[:, :, None, None], (2, 3, 1, 3))
    coords = {
        "surface": ["collinear", "saturated"],
        "algorithm": [*runs.RACERS],
        "start": [0, 1, 2],
    }
    tuning = xr.Dataset({"settled": (dims, settled)}, coords)
    surfaces = xr.Dataset(coords={"step": np.arange(101)})
    ranks = report._ranks(tuning, surfaces)
    assert ranks.endswith(
        "heavy ball is faster than gradient descent on 1, is slower on 1; "
        "Nesterov is faster than gradient descent on 2."
    )
    fastest = report._efforts(tuning, surfaces)
    assert "heavy ball is fastest on “Collinear regression”" in fastest
    assert "Nesterov is fastest on “Saturated network”" in fastest
    never = xr.full_like(tuning, -1)
    assert report._efforts(never, surfaces).endswith(
        "no method reaches the goal on “Collinear regression” and “Saturated network”."
    )
    same = tuning.copy(data={"settled": np.full((2, 3, 1, 3), 50)})
    assert report._efforts(same, surfaces).endswith(
        "there is no difference between gradient descent and heavy ball and Nesterov on "
        "“Collinear regression” and “Saturated network”."
    )
    assert "shows no difference on 2" in report._ranks(same, surfaces)


def test_a_ratio_of_steps_has_the_interval_of_its_starts():
    # Constant ratios have no width; others hold the ratio of the means between the extremes.
    rng = np.random.default_rng(1)
    steps = rng.integers(50, 150, 40)
    settled = np.stack([4 * steps, steps, steps[::-1]])[None, :, None]
    settled = np.concatenate([settled, np.full_like(settled, 900)], axis=2)
    coords = {"surface": ["a"], "algorithm": [*runs.RACERS], "start": range(40)}
    tuning = xr.Dataset({"settled": (("surface", "algorithm", "share", "start"), settled)}, coords)
    exact = numbers.margins(tuning, 1000, "gradient_descent", "heavy_ball")["a"]
    np.testing.assert_allclose(exact, 4, rtol=1e-12)
    wide = numbers.margins(tuning, 1000, "heavy_ball", "nesterov")["a"]
    kept = np.delete(steps, runs.CONTROL), np.delete(steps[::-1], runs.CONTROL)
    np.testing.assert_allclose(wide.value, kept[0].mean() / kept[1].mean(), rtol=1e-12)
    # The paired deviation of the log ratio, to first order: the bootstrap agrees within a tenth.
    relative = kept[0] / kept[0].mean() - kept[1] / kept[1].mean()
    half = 1.96 * relative.std() / np.sqrt(39)
    np.testing.assert_allclose(np.log([wide.high / wide.low]), 2 * half, rtol=0.1)
