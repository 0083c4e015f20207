"""Tests of the stability experiment: what it measures, what it concludes, files and errors."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr

import nested_jax as nj
from experiments import (
    _artifacts,
    _stability_predictions,
    _stability_report,
    _stability_runs,
    _stability_words,
    stability,
)
from experiments import _stability_answers as answers
from nested_jax import plots, theory
from nested_jax.problems import DriftingRegressionWorld
from tests.experiments import support

# A run that is divided by its norm at each of 200 steps rounds twice as often as one that is not.
RENORMALIZED_RTOL = 1e-11
RTOL = 1e-12  # A few logarithms and means of float64.
SMALL = stability.Config(
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
SCHEMES = {name: _stability_runs.Scheme(*parts) for name, parts in stability.SCHEMES.items()}


_quickly = support.compiled_quickly


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small experiment; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("stability") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(stability, "PROBES", np.array([0.01, 1.0]))
        monkeypatch.setattr(stability, "PROBE_STEPS", 300)
        return out, support.finished("stability", SMALL, out)


@pytest.fixture(scope="module")
def small(done):
    """Return what it stored."""
    return xr.load_dataset(done[0] / "results.nc")


def made_up(models=4, data=3, seeds=6):
    """Return results as the experiment stores them, without running it."""
    rng = np.random.default_rng(0)
    levels = {"model_level": np.arange(1, models + 1), "data_level": np.arange(1, data + 1)}
    fixed, probed, tuned = (list(x) for x in (stability.FIXED, stability.PROBED, stability.TUNED))
    coordinates = {
        **levels,
        "scheme": list(stability.SCHEMES),
        "fixed": fixed,
        "probed": probed,
        "tuned": tuned,
        "seed": np.arange(seeds),
        "probe_seed": np.arange(3),
        "probe": np.geomspace(1e-3, 1, 5),
        "tuning_rate": [0.01, 0.1],
    }

    def noise(*dims):
        return xr.DataArray(rng.normal(size=[len(coordinates[d]) for d in dims]), dims=dims)

    m, d = (xr.DataArray(levels[name], dims=name) for name in levels)
    every = noise("scheme", "model_level", "data_level", "seed")
    loss = 0.1 * np.exp(0.1 * m - 0.3 * d + 0.01 * every)
    # The last two levels of equal decays diverge, one of them beyond the numbers.
    ends = xr.where(m == models, np.nan, xr.where(m == models - 1, 1e77, 1.0))
    is_equal = xr.DataArray(
        [n in ("equal", "debiased") for n in coordinates["scheme"]], dims="scheme"
    )
    growth = 0.1 * (m - 2.5) + 1e-3 * noise("fixed", "model_level", "seed")
    predicted = 0.1 * np.exp(0.1 * m - 0.3 * d)
    probe = xr.DataArray(np.log(coordinates["probe"]), dims="probe")
    results = xr.Dataset(
        {
            "growth": growth,
            "mean_growth": growth.mean("seed") - 1e-2,
            "mean_square_growth": growth.mean("seed") + 1e-2,
            "mean_limit": 0.5 / m + 0 * noise("fixed", "model_level"),
            "mean_square_limit": 0.1 / m + 0 * noise("fixed", "model_level"),
            "probed_growth": probe + m + 0.01 * noise("probed", "model_level", "probe_seed"),
            "loss": xr.where(is_equal, loss * ends, loss),
            "slope": 0.01 + 0 * every,
            "predicted_loss": xr.where(is_equal & (m >= models - 1), np.inf, predicted)
            + 0 * every.mean("seed"),
            "rate": 0.01 * m + 0 * every.mean("seed"),
            "tuning_loss": noise("tuned", "tuning_rate", "model_level", "data_level") ** 2,
        },
        coords=coordinates,
    )
    options = dataclasses.replace(SMALL, model_levels=models, data_levels=data, seeds=seeds)
    return results.assign_attrs(config=json.dumps(_artifacts.describe(options)))


MADE = {"config": _artifacts.describe(SMALL), "versions": {"jax": "1"}, "commit": None}


@pytest.mark.parametrize("readout", ["last", "debiased", "zero_lag", "mean"])
@pytest.mark.parametrize("cascade", [0, 1])
def test_renormalized_growth_is_that_of_the_plain_run(x64, readout, cascade):
    steps, warmup, rate = 200, 40, 0.02
    problem = nj.drifting_regression(3, noise_std=0.0)
    draws = jax.vmap(problem.draw)(jax.random.split(jax.random.key(1), steps))
    draws = draws._replace(drift=jnp.zeros_like(draws.drift))
    initial = jnp.full(4, 0.5), DriftingRegressionWorld(weights=(jnp.zeros(3),))
    momentum = _stability_runs.momentum(SMALL, readout, cascade, 3)

    def plain(steps):
        tx = optax.chain(momentum, optax.scale(-rate))
        part = jax.tree.map(lambda x: x[:steps], draws)
        trace = nj.rollout(tx, problem, None, steps, initial=initial, draws=part)
        return jnp.log(jnp.linalg.norm(trace.params))

    tx = _stability_runs.renormalized(momentum, rate, warmup)
    trace = nj.rollout(tx, problem, None, steps, initial=initial, draws=draws)
    expected = plain(steps) - plain(warmup)
    np.testing.assert_allclose(trace.opt_state.log_growth, expected, rtol=RENORMALIZED_RTOL)
    np.testing.assert_allclose(jnp.linalg.norm(trace.params), 1.0, rtol=RTOL)


def test_losses_are_those_of_rollouts(x64):
    key, rates = jax.random.key(3), 0.01 * np.arange(1, 7).reshape(3, 2)
    cases = [
        _stability_runs.Case(SCHEMES[name], (i + 1) * rates)
        for i, name in enumerate(("matched", "zero_lag", "equal"))
    ]
    results = _stability_runs.losses(SMALL, key, cases, seeds=2)
    assert results.case.values.tolist() == [0, 1, 2]
    for case, seed, m, d, decays, options in [
        (0, 1, 3, 2, nj.matched_delay_decays(3, decay=0.95), {}),
        (1, 0, 3, 1, nj.nested_decays(3, decay=0.95), {"readout": "zero_lag"}),
        (2, 1, 2, 2, nj.nested_decays(2, decay=0.95), {}),
    ]:
        tx = nj.nested_momentum((case + 1) * rates[m - 1, d - 1], decays=decays, **options)
        problem = nj.drifting_regression(3, data_levels=d, decay=0.95, noise_std=0.1, max_levels=2)
        trace = nj.rollout(tx, problem, jax.random.fold_in(key, seed), 400, warmup=100, stride=20)
        at = {"case": case, "seed": seed, "model_level": m, "data_level": d}
        np.testing.assert_allclose(results.loss.sel(at), trace.mean_loss, rtol=RENORMALIZED_RTOL)
        slope = np.polyfit(20 * np.arange(10), np.log(trace.loss_curve[10:]), 1)[0]
        np.testing.assert_allclose(results.slope.sel(at), slope, rtol=1e-6, atol=1e-12)


def test_systems_are_those_of_their_schemes(x64):
    # Some of them are one: each has to come back at its own place.
    names = ("equal", "tuned_zero_lag", "debiased", "tuned_matched")
    readouts = ("last", "zero_lag", "last", "last")
    decays = [nj.nested_decays(3, decay=0.95)] * 3 + [nj.matched_delay_decays(3, decay=0.95)]

    @jax.jit
    def systems():
        alone = [
            theory.as_state_space(nj.scale_by_nested_momentum(d, readout=readout))
            for d, readout in zip(decays, readouts, strict=True)
        ]
        together = _stability_predictions.systems_of(SMALL, [SCHEMES[name] for name in names])
        return together, alone

    together, alone = systems()
    for i, one in enumerate(alone):
        for found, expected in zip(together, one, strict=True):
            np.testing.assert_allclose(found[i, 2], expected, atol=RTOL)


@pytest.mark.slow
def test_growth_lies_between_its_predictions(x64):
    """At the published rate: levels on both sides of the edge, each to a twentieth."""
    config = stability.Config(model_levels=12, seeds=4)
    schemes = [SCHEMES["equal"]]
    bounds = _stability_predictions.stability(config, schemes).isel(case=0)
    timing = {"steps": 20_000, "warmup": 5_000, "seeds": 4}
    with support.compiling(quickly=False):
        measured = _stability_runs.growth(config, jax.random.key(0), schemes, [0.01], **timing)
    measured = measured.isel(case=0, rate=0)
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
    mean, half = answers.estimate(values)
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(values, 1), scipy.stats.sem(values, axis=1))
    np.testing.assert_allclose(mean - half, low, rtol=RTOL)
    np.testing.assert_allclose(mean + half, high, rtol=RTOL)


def test_thresholds_are_zeros_of_the_growth():
    results = made_up()
    crossings = answers.thresholds(results)
    growth = results.probed_growth
    # Linear in the logarithm of the rate, so that the interpolation is exact.
    offset = growth.isel(probe=0) - np.log(results.probe[0].item())
    expected = np.exp(-offset)
    np.testing.assert_allclose(crossings, expected.transpose(*crossings.dims), rtol=1e-9)
    for shift in (100.0, -100.0):
        assert np.isnan(answers.thresholds(results.assign(probed_growth=growth + shift))).all()


def surface(effect, models=5, data=4, seeds=8):
    """Return losses with effects of every level, and one of having the same."""
    rng = np.random.default_rng(1)
    m, d = np.arange(1, models + 1), np.arange(1, data + 1)
    logs = 0.02 * m[:, None] - 0.3 * d + effect * (m[:, None] == d)
    logs = logs + 1e-3 * rng.normal(size=(seeds, models, data))
    coordinates = {"seed": np.arange(seeds), "model_level": m, "data_level": d}
    return xr.DataArray(np.exp(logs), coordinates, [*coordinates])


def test_the_hypothesis_is_found_where_it_holds():
    found = answers.hypothesis(surface(-0.5))
    np.testing.assert_array_equal(found.best, [1, 2, 3, 4])
    np.testing.assert_array_equal(found.cost.mean, 0)
    assert abs(float(found.dip.mean) + 0.5) < 2 * float(found.dip.half_width) < 0.01
    assert int(found.by_offset.mean.idxmin()) == 0


def test_the_hypothesis_is_not_found_where_it_does_not_hold():
    found = answers.hypothesis(surface(0.0))
    np.testing.assert_array_equal(found.best, 1)
    np.testing.assert_allclose(found.cost.mean, 0.02 * np.arange(4), atol=3e-3)
    assert abs(float(found.mean_cost.mean) - 0.03) < float(found.mean_cost.half_width) < 0.01
    assert abs(float(found.dip.mean)) < 2 * float(found.dip.half_width) < 0.01
    # One level of the model, where three is the mean, and nothing of the data's effect.
    np.testing.assert_allclose(found.by_offset.mean[0], 0.02 * (1 - 3), atol=3e-3)
    assert int(found.by_offset.mean.idxmin()) == -3


def test_deviations_are_in_standard_errors():
    results = made_up(seeds=50)
    z = answers.deviations(results)
    assert set(z.scheme.values) == set(stability.FIXED)
    assert np.isnan(z.sel(scheme="equal", model_level=[3, 4])).all()
    # Where the mean square shrinks too slowly, what is measured is no stationary loss.
    slow = results.assign(mean_square_growth=0.01 * results.mean_square_growth)
    assert np.isnan(answers.deviations(slow)).all()
    finite = z.values[np.isfinite(z.values)]
    assert abs(finite.mean()) < 0.5
    assert 0.7 < finite.std() < 1.3
    one = results.loss.sel(scheme="matched", model_level=1, data_level=2)
    error = float(one.std("seed", ddof=1)) / 50**0.5
    predicted = float(results.predicted_loss.sel(scheme="matched", model_level=1, data_level=2))
    expected = (float(one.mean()) - predicted) / error
    at = z.sel(scheme="matched", model_level=1, data_level=2)
    np.testing.assert_allclose(at, expected, rtol=RTOL)


def test_the_report_is_made_from_the_stored_results(tmp_path, capsys):
    results = made_up()
    _stability_report.write(tmp_path, MADE | {"config": answers.config(results)}, results)
    stored = xr.load_dataset(tmp_path / "results.nc")
    page = (tmp_path / "report.html").read_text()
    assert _stability_report.page(stored) == page
    assert page.count("<svg") == 6
    assert not [word for word in ("<script", "<link", 'src="http') if word in page]
    assert all(path.stat().st_size > 10_000 for path in (tmp_path / "figures").iterdir())
    assert len([*(tmp_path / "figures").iterdir()]) == 6
    assert not list(tmp_path.rglob(".*")), "a file was left aside"
    _stability_report.show(results)
    printed = capsys.readouterr().out
    assert "all runs of 1 – 2 levels converged, no others" in printed
    assert "from 3 levels on" in printed


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3)])
def test_few_levels_make_a_report(tmp_path, shape, monkeypatch):
    # Drawn once, for the page.
    monkeypatch.setattr(plots, "save", lambda figure, path: None)
    results = made_up(*shape, seeds=4)
    _stability_report.write(tmp_path, MADE | {"config": answers.config(results)}, results)
    assert "Why levels of momentum diverge" in (tmp_path / "report.html").read_text()


def test_a_sweep_without_divergence_says_so():
    results = made_up()
    results["loss"] = 0.1 + 0 * results.loss.fillna(1)
    said = dict(_stability_words.statements(results))
    assert "all runs converged" in said["Does each level multiply the loss?"]
    assert "nan" not in said["Does each level multiply the loss?"]
    results = results.assign({n: -abs(results[n]) for n in ("mean_growth", "mean_square_growth")})
    assert answers.first_unstable(results) is None
    said = dict(_stability_words.statements(results))
    assert "The theory expects no level to grow." in said["Does each level multiply the loss?"]


@pytest.mark.slow
def test_a_small_run_writes_every_file(done, small, undrawn):
    out, printed = done
    assert "Growth of ln loss per" in printed
    made = json.loads((out / "config.json").read_text())
    assert made["config"] == _artifacts.describe(SMALL)
    assert {"versions", "commit", "device"} <= set(made)
    page = (out / "report.html").read_text()
    assert "python -m experiments stability --model-levels 3 --data-levels 2 " in page
    undrawn()
    assert support.text_of(_stability_report.page(small)) == support.text_of(page)
    assert dict(small.loss.sizes) == {"seed": 4, "scheme": 9, "model_level": 3, "data_level": 2}


@pytest.mark.slow
def test_rates_are_tuned_on_what_was_tried(small):
    tuned = small.rate.sel(scheme="tuned_equal")
    assert set(np.unique(tuned)) <= set(stability.tuning_rates(SMALL))
    best = small.tuning_loss.sel(tuned="tuned_equal").idxmin("tuning_rate")
    np.testing.assert_array_equal(tuned, best.transpose(*tuned.dims))


@pytest.mark.slow
def test_one_level_is_gradient_descent_in_every_scheme(small):
    one = small.loss.sel(model_level=1, scheme=list(stability.FIXED))
    np.testing.assert_allclose(one - one.isel(scheme=0), 0, atol=1e-12)
