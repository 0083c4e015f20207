"""Tests of the stability experiment: what it measures, what it concludes, its report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr

import nested_jax as nj
from experiments import lab
from experiments.stability import EXPERIMENT, numbers, predictions, report, runs, windows
from experiments.stability.config import Config
from experiments.stability.renormalized import renormalized
from experiments.stability.schemes import FIXED, PROBED, SCHEMES, momentum
from nested_jax import theory
from nested_jax.problems import DriftingRegressionWorld
from tests.experiments import support

# A run that is divided by its norm at each of 200 steps rounds twice as often as one that is not.
RENORMALIZED_RTOL = 1e-11
RTOL = 1e-12  # A few logarithms and means of float64.
SMALL = Config(
    model_levels=3,
    data_levels=2,
    dim=3,
    learning_rate=0.03,
    steps=400,
    warmup=100,
    seeds=4,
    tuning_seeds=1,
    rates=3,
)
DATASETS = ("growth", "thresholds", "tuning", "losses")
GROWTH = "Does theory predict which levels diverge?"
MATCHING = "Does the loss fall when the model has as many momentum levels as the data?"


def lab_in(folder):
    """Return a laboratory in `folder`."""
    return lab.Lab(folder=folder, device=jax.devices()[0], parts=EXPERIMENT.parts)


def without_windows(monkeypatch):
    """Leave out what explains measured limits far from theory: each is a program of its own."""
    monkeypatch.setattr(report, "windows", lambda *arguments: {})


@pytest.fixture(scope="module")
def few_probes():
    """Measure thresholds in few and short runs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runs, "PROBES", np.array([0.01, 1.0]))
        monkeypatch.setattr(runs, "PROBE_STEPS", 300)
        without_windows(monkeypatch)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory, few_probes):
    """Run a small experiment; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("stability") / "results"
    return out, support.finished("stability", SMALL, out)


@pytest.fixture(scope="module")
def small(done):
    """Return what it stored."""
    return {name: xr.load_dataset(done[0] / f"{name}.nc") for name in DATASETS}


def made_up(models=4, data=3, seeds=6):
    """Return options, and results as the experiment stores them, without running it."""
    rng = np.random.default_rng(0)
    coordinates = {
        "scheme": list(SCHEMES),
        "model_level": np.arange(1, models + 1),
        "data_level": np.arange(1, data + 1),
        "seed": np.arange(seeds),
        "rate": np.geomspace(1e-3, 1, 5),
    }

    def noise(*dims, **of):
        of = {dim: (coordinates | of)[dim] for dim in dims}
        return xr.DataArray(rng.normal(size=[len(x) for x in of.values()]), of, dims)

    m, d = (xr.DataArray(coordinates[n], dims=n) for n in ("model_level", "data_level"))
    every = noise("scheme", "model_level", "data_level", "seed")
    loss = 0.1 * np.exp(0.1 * m - 0.3 * d + 0.01 * every)
    # The last two levels of equal decays diverge, one of them beyond the numbers.
    ends = xr.where(m == models, np.nan, xr.where(m == models - 1, 1e77, 1.0))
    is_equal = every.scheme.isin(["equal", "debiased"])
    growth = 0.1 * (m - 2.5) + 1e-3 * noise("scheme", "model_level", "seed", scheme=[*FIXED])
    limits = 0 * growth.mean("seed")
    probe = noise("scheme", "model_level", "seed", scheme=[*PROBED], seed=range(3))
    log_rate = np.log(xr.DataArray(coordinates["rate"], {"rate": coordinates["rate"]}))
    predicted = 0.1 * np.exp(0.1 * m - 0.3 * d)
    flat = 0 * every.isel(seed=0, drop=True)
    results = {
        "growth": xr.Dataset(
            {
                "growth": growth,
                "mean_growth": growth.mean("seed") - 1e-2,
                "mean_square_growth": growth.mean("seed") + 1e-2,
                "mean_square_limit": 0.1 / m + limits,
            }
        ),
        "thresholds": xr.Dataset({"growth": log_rate + m + 0.01 * probe}),
        "losses": xr.Dataset(
            {
                "loss": xr.where(is_equal, loss * ends, loss),
                "slope": 0.01 + 0 * every,
                "predicted_loss": xr.where(is_equal & (m >= models - 1), np.inf, predicted) + flat,
                "rate": 0.01 * m + flat,
            }
        ),
    }
    return dataclasses.replace(SMALL, model_levels=models, data_levels=data, seeds=seeds), results


def answers(config, results):
    """Return the answers of the report by their headings."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_windows(monkeypatch)
        return {one.title: one.answer for one in report.sections(config, results)}


@pytest.mark.parametrize("readout", ["last", "debiased", "zero_lag", "mean"])
@pytest.mark.parametrize("matched", [False, True])
def test_renormalized_growth_is_that_of_the_plain_run(x64, readout, matched):
    steps, warmup, rate = 200, 40, 0.02
    problem = nj.drifting_regression(3, noise_std=0.0)
    draws = jax.vmap(problem.draw)(jax.random.split(jax.random.key(1), steps))
    draws = draws._replace(drift=jnp.zeros_like(draws.drift))
    initial = jnp.full(4, 0.5), DriftingRegressionWorld(weights=(jnp.zeros(3),))
    cascade = momentum(SMALL, readout, matched, 3)

    def plain(steps):
        tx = optax.chain(cascade, optax.scale(-rate))
        part = jax.tree.map(lambda x: x[:steps], draws)
        trace = nj.rollout(tx, problem, None, steps, initial=initial, draws=part)
        return jnp.log(jnp.linalg.norm(trace.params))

    tx = renormalized(cascade, rate, warmup)
    trace = nj.rollout(tx, problem, None, steps, initial=initial, draws=draws)
    expected = plain(steps) - plain(warmup)
    np.testing.assert_allclose(trace.opt_state.log_growth, expected, rtol=RENORMALIZED_RTOL)
    np.testing.assert_allclose(jnp.linalg.norm(trace.params), 1.0, rtol=RTOL)


def test_losses_are_those_of_rollouts(x64, tmp_path):
    key, rates = jax.random.key(3), 0.01 * np.arange(1, 7).reshape(3, 2)
    factors = {"matched": 1, "zero_lag": 2, "equal": 3}
    tried = {name: factor * rates[None] for name, factor in factors.items()}
    results = runs.measure_losses(SMALL, lab_in(tmp_path), "losses", key, tried, seeds=2)
    assert results.scheme.values.tolist() == [*factors]
    for name, seed, m, d, decays, options in [
        ("matched", 1, 3, 2, nj.matched_delay_decays(3, decay=0.95), {}),
        ("zero_lag", 0, 3, 1, nj.nested_decays(3, decay=0.95), {"readout": "zero_lag"}),
        ("equal", 1, 2, 2, nj.nested_decays(2, decay=0.95), {}),
    ]:
        rate = factors[name] * rates[m - 1, d - 1]
        tx = nj.nested_momentum(rate, decays=decays, **options)
        problem = nj.drifting_regression(3, data_levels=d, decay=0.95, noise_std=0.1, max_levels=2)
        trace = nj.rollout(tx, problem, jax.random.fold_in(key, seed), 400, warmup=100, stride=20)
        at = {"scheme": name, "choice": 0, "seed": seed, "model_level": m, "data_level": d}
        np.testing.assert_allclose(results.loss.sel(at), trace.mean_loss, rtol=RENORMALIZED_RTOL)
        slope = np.polyfit(20 * np.arange(10), np.log(np.asarray(trace.loss_curve)[10:]), 1)[0]
        np.testing.assert_allclose(results.slope.sel(at), slope, rtol=1e-6, atol=1e-12)


def test_predictions_are_those_of_each_system_and_its_rates(x64):
    # The first two schemes have one system, the last two one table of rates.
    factors = {"debiased": 2.0, "equal": 1.0, "tuned_zero_lag": 1.0}
    rates = {name: x * np.linspace(0.01, 0.03, 6).reshape(3, 2) for name, x in factors.items()}
    systems = predictions.systems_of(SMALL)
    losses = predictions.losses(SMALL, systems, rates)
    found = predictions.stability(SMALL, systems, [*rates])
    drift = theory.cascade([0.95, 0.95])
    for i, (name, readout) in enumerate(zip(rates, ("last", "last", "zero_lag"), strict=True)):
        tx = nj.scale_by_nested_momentum(nj.nested_decays(3), readout=readout)
        loss = theory.stationary_loss(tx, 3, rates[name][2, 1], drift=drift).total
        np.testing.assert_allclose(losses[i, 2, 1], loss, rtol=RTOL)
        limit = theory.mean_square_limit(tx, 3) / predictions.CURVATURE
        np.testing.assert_allclose(found.mean_square_limit[i, 2], limit, rtol=RTOL)
    matched = nj.scale_by_nested_momentum(nj.matched_delay_decays(3))
    of_matched = systems[predictions.kind_of("tuned_matched")]
    for part, expected in zip(of_matched, theory.as_state_space(matched), strict=True):
        np.testing.assert_allclose(part[2], expected, atol=RTOL)


@pytest.mark.slow
def test_growth_lies_between_its_predictions(x64, tmp_path):
    """At the published rate: levels on both sides of the edge, each to a twentieth."""
    config = Config(model_levels=12, seeds=4)
    bounds = predictions.stability(config, predictions.systems_of(config), ["equal"]).isel(scheme=0)
    timing = {"steps": 20_000, "warmup": 5_000, "seeds": 4}
    with support.compiling(quickly=False):
        measured = runs.measure_growth(
            config, lab_in(tmp_path), "growth", jax.random.key(0), ["equal"], [0.01], **timing
        )
    measured = measured.growth.isel(scheme=0, rate=0)
    mean = measured.mean("seed")
    # Three standard errors of four runs.
    slack = 3 * measured.std("seed", ddof=1) / 2
    assert (bounds.mean_growth < mean + slack).all()
    assert (mean - slack < bounds.mean_square_growth).all()
    first = {name: int((bounds[name] > 0).values.argmax()) + 1 for name in bounds}
    assert first["mean_square_growth"] == 6
    assert first["mean_growth"] == 7
    assert (abs(bounds.mean_square_growth / mean - 1)[9:] < 0.05).all()


def test_estimate_is_a_t_interval():
    values = xr.DataArray(np.random.default_rng(0).normal(size=(3, 5)), dims=["m", "seed"])
    mean, half = numbers.estimate(values)
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(values, 1), scipy.stats.sem(values, axis=1))
    np.testing.assert_allclose(mean - half, low, rtol=RTOL)
    np.testing.assert_allclose(mean + half, high, rtol=RTOL)


@pytest.mark.slow
def test_a_window_explains_a_limit_that_runs_do_not_show(x64):
    coordinates = {"scheme": ["mean"], "model_level": [2, 11]}
    system = predictions.system_of(Config(), "mean", 11)
    limit = float(theory.mean_square_limit(system, 10)) / 2
    limits = xr.DataArray([[0.5, limit]], coordinates, [*coordinates])
    measured = xr.DataArray([[0.55, 0.32]], coordinates, [*coordinates])
    [(at, window)] = windows.windows(Config(), limits, measured).items()
    assert at == ("mean", 11)
    # The edges are interpolated within steps of 5 %; the peak is that of such a step.
    rates = np.array([window.low, window.high, window.next_limit])
    rates = jnp.asarray([*(0.98 * rates), *(1.02 * rates), 0.0405])
    growth = jax.jit(jax.vmap(lambda rate: theory.mean_square_growth(system, 10, rate)))(rates)
    assert [*(np.asarray(growth) > 0)] == [False, True, False, True, False, True, True]
    assert window.growth == pytest.approx(float(growth[-1]), rel=0.1)
    text = report._of_window(*at, window)
    assert "“equal, mean of the levels” with 11 levels" in text
    assert "between 0.0367 and 0.0451, and again above 0.57" in text


def test_a_window_without_a_limit_above_it_names_none():
    text = report._of_window("mean", 2, windows.Window(0.03, 0.05, 2e-5, np.inf))
    assert "with two levels. Its mean square grows at learning rates between 0.03 and 0.05." in text
    assert "at most 0.02 in 1,000 steps" in text


def test_without_a_second_stable_range_there_is_no_window(x64):
    assert windows._window(Config(), "equal", 3, 0.02) is None


def test_thresholds_are_zeros_of_the_growth():
    growth = made_up()[1]["thresholds"].growth
    crossings = numbers.crossings(growth)
    # Linear in the logarithm of the rate, so that the interpolation is exact.
    expected = np.exp(np.log(growth.rate[0]) - growth.isel(rate=0))
    np.testing.assert_allclose(crossings, expected.transpose(*crossings.dims), rtol=1e-9)
    for shift in (100.0, -100.0):
        assert np.isnan(numbers.crossings(growth + shift)).all()


def surface(effect, models=5, data=4, seeds=8):
    """Return losses with effects of every level, and one of having the same."""
    rng = np.random.default_rng(1)
    m, d = np.arange(1, models + 1), np.arange(1, data + 1)
    logs = 0.02 * m[:, None] - 0.3 * d + effect * (m[:, None] == d)
    logs = logs + 1e-3 * rng.normal(size=(seeds, models, data))
    coordinates = {"seed": np.arange(seeds), "model_level": m, "data_level": d}
    return xr.DataArray(np.exp(logs), coordinates, [*coordinates])


def test_the_hypothesis_is_found_where_it_holds():
    found = numbers.hypothesis(surface(-0.5))
    np.testing.assert_array_equal(found.best, [1, 2, 3, 4])
    np.testing.assert_array_equal(found.cost.mean, 0)
    assert abs(float(found.dip.mean) + 0.5) < 2 * float(found.dip.half_width) < 0.01
    assert int(found.by_offset.mean.idxmin()) == 0


def test_the_hypothesis_is_not_found_where_it_does_not_hold():
    found = numbers.hypothesis(surface(0.0))
    np.testing.assert_array_equal(found.best, 1)
    np.testing.assert_allclose(found.cost.mean, 0.02 * np.arange(4), atol=3e-3)
    assert abs(float(found.mean_cost.mean) - 0.03) < float(found.mean_cost.half_width) < 0.01
    assert abs(float(found.dip.mean)) < 2 * float(found.dip.half_width) < 0.01
    # One level of the model, where three is the mean, and nothing of the data's effect.
    np.testing.assert_allclose(found.by_offset.mean[0], 0.02 * (1 - 3), atol=3e-3)
    assert int(found.by_offset.mean.idxmin()) == -3


def test_deviations_are_in_standard_errors():
    config, results = made_up(seeds=50)
    growth, losses = results["growth"], results["losses"]
    z = numbers.deviations(config, growth, losses)
    assert set(z.scheme.values) == set(FIXED)
    assert np.isnan(z.sel(scheme="equal", model_level=[3, 4])).all()
    # Where the mean square shrinks too slowly, the measured loss is not yet stationary.
    slow = growth.assign(mean_square_growth=0.01 * growth.mean_square_growth)
    assert np.isnan(numbers.deviations(config, slow, losses)).all()
    finite = z.values[np.isfinite(z.values)]
    assert abs(finite.mean()) < 0.5
    assert 0.7 < finite.std() < 1.3
    at = {"scheme": "matched", "model_level": 1, "data_level": 2}
    one = losses.loss.sel(at)
    error = float(one.std("seed", ddof=1)) / 50**0.5
    expected = (float(one.mean()) - float(losses.predicted_loss.sel(at))) / error
    np.testing.assert_allclose(z.sel(at), expected, rtol=RTOL)


def test_the_first_answer_says_why_and_whether():
    config, results = made_up()
    first = next(iter(answers(config, results).values()))
    assert "at a learning rate of 0.03 from three levels on; " in first
    assert "does not help: one level is best at every data level, and matching costs" in first
    assert "all runs with 1 to 2 levels converge, no others" in answers(config, results)[GROWTH]


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3)])
def test_few_levels_make_a_report(shape):
    said = answers(*made_up(*shape, seeds=4))
    assert len(said) == 6
    assert not [answer for answer in said.values() if "nan" in answer]


def test_where_every_scheme_diverges_matching_is_open():
    config, results = made_up()
    results["losses"]["loss"] = results["losses"].loss * np.nan
    assert "; whether matching the data's levels helps is open" in next(
        iter(answers(config, results).values())
    )


def test_where_matching_helps_the_report_says_so():
    config, results = made_up()
    losses = results["losses"]
    same = losses.model_level == losses.data_level
    results["losses"] = losses.assign(loss=xr.where(same, 0.01 * losses.loss, losses.loss))
    said = answers(config, results)
    assert "; matching the data's levels is best" in next(iter(said.values()))
    assert "In 12 of 12 cases" in said[MATCHING]


def test_a_sweep_without_divergence_says_so():
    config, results = made_up()
    losses = results["losses"]
    results["losses"] = losses.assign(loss=0.1 * losses.model_level + 0 * losses.loss.fillna(1))
    said = answers(config, results)[GROWTH]
    assert "all runs converge" in said
    assert "nan" not in said
    growth = results["growth"]
    shrinking = {name: -abs(growth[name]) for name in ("mean_growth", "mean_square_growth")}
    results["growth"] = growth.assign(shrinking)
    assert numbers.first_unstable(results["growth"]) is None
    said = answers(config, results)
    assert "Theory expects no level count to grow." in said[GROWTH]
    assert "do not make the feedback loop unstable" in next(iter(said.values()))


@pytest.mark.slow
def test_a_small_run_is_reported_and_resumed(done, small):
    out, printed = done
    assert "Growth of ln loss per" in printed
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 6
    sizes = {"scheme": 9, "seed": 4, "model_level": 3, "data_level": 2}
    assert dict(small["losses"].loss.sizes) == sizes
    # What was finished is found: no chunk is computed again.
    chunks = {path: path.stat().st_mtime_ns for path in (out / "store").rglob("*.npz")}
    assert chunks
    support.finished("stability", SMALL, out)
    assert all(path.stat().st_mtime_ns == before for path, before in chunks.items())
    assert support.text_of((out / "report.html").read_text()) == support.text_of(page)


@pytest.mark.slow
def test_rates_are_tuned_on_what_was_tried(small):
    tuned = small["losses"].rate.sel(scheme="tuned_equal")
    assert set(np.unique(tuned)) <= set(runs.tuning_rates(SMALL))
    best = small["tuning"].loss.sel(scheme="tuned_equal").idxmin("rate")
    np.testing.assert_array_equal(tuned, best.transpose(*tuned.dims))


@pytest.mark.slow
def test_one_level_is_gradient_descent_in_every_scheme(small):
    one = small["losses"].loss.sel(model_level=1, scheme=[*FIXED])
    np.testing.assert_allclose(one - one.isel(scheme=0), 0, atol=1e-12)
