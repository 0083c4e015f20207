"""Tests of the Adam experiment: bounds, ratios, games, the report from its store, errors."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import nested_jax as nj
from experiments import _adam_games_report, _adam_report, _adam_runs, _lines, adam
from tests.experiments import support

METRIC_RTOL = 4 * np.finfo(np.float32).eps  # Metrics are float32; the runs are float64.
LATE_ATOL = 2e-6  # After 20,000 steps what is left of the bias of v is 1e-9; the rest is float32.
TINY = adam.Config(
    silence=900,
    dim=20,
    signal_steps=300,
    early_steps=100,
    training_steps=100,
    game_steps=1000,
    short_game_steps=1000,
    online_dim=3,
    regret_steps=1000,
    rates=3,
    seeds=2,
    tuning_seeds=1,
)


_quickly = support.compiled_quickly


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small experiment; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("adam") / "results"
    return out, support.finished("adam", TINY, out)


@pytest.fixture(scope="module")
def folder(done):
    return done[0]


def test_step_bounds_are_attained_to_the_digit(x64):
    results = _adam_runs.silence(dataclasses.replace(TINY, silence=20_000))
    last = results.step.isel(last=-1)
    np.testing.assert_allclose(last.sel(stream="lone"), 0.1 / np.sqrt(1e-3), atol=LATE_ATOL)
    tight = np.sqrt(0.1**2 / (1e-3 * (1 - 0.9**2 / 0.999)))
    np.testing.assert_allclose(last.sel(stream="growing"), tight, atol=LATE_ATOL)
    assert f"{float(last.sel(stream='lone')):.4f}" == "3.1623"
    assert f"{float(last.sel(stream='growing')):.4f}" == "7.2703"
    for name in ("lone", "growing"):
        expected = _adam_report.bound(0.9, 0.999, results["last"].values, growing=name == "growing")
        np.testing.assert_allclose(results.step.sel(stream=name), expected, rtol=METRIC_RTOL)


def test_no_gradients_beat_the_tight_bound(x64):
    rng = np.random.default_rng(0)
    shapes = [rng.standard_normal((300, 50)), rng.standard_cauchy((300, 50))]
    shapes.append(np.exp(np.cumsum(rng.normal(0.1, 0.5, (300, 50)), 0)))
    steps = np.arange(1, 301)
    tx, most = nj.scale_by_adam(eps=1e-200), _adam_report.bound(0.9, 0.999, steps)

    @jax.jit
    def updates_of(gradients):
        start = tx.init(jnp.zeros(50))
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]

    for gradients in shapes:
        updates = updates_of(jnp.asarray(gradients))
        assert np.all(np.abs(updates).max(1) <= most * (1 + 1e-9))


def test_bounds_of_other_decays_are_the_closed_form(x64):
    results = _adam_runs.bounds(TINY)
    lone = (1 - results.b1) / np.sqrt(1 - results.b2)
    tight = lone / np.sqrt(1 - results.b1**2 / results.b2)
    np.testing.assert_allclose(results.step.sel(stream="lone"), lone, rtol=METRIC_RTOL)
    np.testing.assert_allclose(results.step.sel(stream="growing"), tight, rtol=METRIC_RTOL)


@pytest.mark.slow
def test_signal_to_noise_is_that_of_theory(x64):
    config = dataclasses.replace(TINY, dim=500, signal_steps=1000, seeds=3)
    results = _adam_runs.signal(config)
    assert list(results.ratio.sel(stream="constant").values.ravel()) == [1] * (
        results.ratio.size // 7
    )
    late = results.ratio.isel(t=-1).mean("seed")
    swing = late.sel(stream="alternating")
    np.testing.assert_allclose(swing, (1 - results.b1) / (1 + results.b1), rtol=2e-3)
    for name, stream in _adam_runs.GRADIENTS.items():
        for b1 in results.b1.values:
            expected = _adam_report.noise_ratio(*stream, b1)
            # 1,500 coordinates, each of a spread of at most .6; v is 2 % short of its mean.
            actual = late.sel(stream=name, b1=b1)
            np.testing.assert_allclose(actual, expected, atol=5 * 0.6 / 1500**0.5)


def test_early_steps_are_the_closed_form(x64):
    results = _adam_runs.early(TINY)
    t = results.t.values
    for b2 in results.b2.values:
        plain, corrected = (results.step.sel(debias=x, b2=b2) for x in ("False", "True"))
        expected = (1 - 0.9**t) / np.sqrt(1 - b2**t)
        # Adam's eps of 1e-8 is beside a root of v of at least .01.
        np.testing.assert_allclose(plain, expected, rtol=2e-6)
        np.testing.assert_allclose(corrected, 1, rtol=METRIC_RTOL)


@pytest.mark.parametrize(
    ("game", "steps", "expected"),
    [
        ("period 101", 300_000, {"Adam": 0.995, "AMSGrad": -0.9998}),
        ("period 3", 20_000, {"Adam": 0.999, "AMSGrad": -0.9991}),
    ],
)
def test_counterexamples_end_where_they_are_known_to(x64, game, steps, expected):
    table = _adam_runs.games()
    for method, theta in expected.items():
        tx = _adam_runs.player(method, table[game], 0.5)
        found = jax.jit(lambda tx=tx: _adam_runs.play(table[game], tx, jax.random.key(0), steps))()
        digits = len(str(theta).split(".")[1])
        assert round(float(found["theta"][-1, 0]), digits) == theta


@pytest.mark.parametrize("method", ["Adam", "AMSGrad"])
def test_a_game_is_the_oracles(x64, method):
    # The path of Reddi et al.: clip(theta - .5 / sqrt(t) m / sqrt(v)), nothing corrected.
    found = _adam_runs.play(
        _adam_runs.games()["period 101"],
        _adam_runs.player(method, _adam_runs.games()["period 101"], 0.5),
        jax.random.key(0),
        1000,
    )
    theta = m = v = most = lost = 0.0
    slopes = np.where(np.arange(1000) % 101 == 0, 1010.0, -10.0)
    for t, g in enumerate(slopes, 1):
        lost += g * theta
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        most = max(most, v)
        root = np.sqrt(most if method == "AMSGrad" else v) + 1e-8
        theta = np.clip(theta - 0.5 / np.sqrt(t) * m / root, -1, 1)
    np.testing.assert_allclose(found["theta"][-1], theta, rtol=1e-10)
    regret = lost + abs(slopes.sum())
    np.testing.assert_allclose(found["regret"][-1], regret / 1000, rtol=1e-10)


def test_regret_over_time_is_that_of_shorter_games(x64):
    game = _adam_runs.games(4)["curved"]
    tx = _adam_runs.player("AdaGrad", game, 0.1)
    key = jax.random.key(3)
    long = _adam_runs.play(game, tx, key, 2000)["regret"]
    # By hand, for the first 500 steps: the same draws, the losses and the best in hindsight.
    start = game.problem.init(key)
    draws = jax.vmap(game.problem.draw)(jax.random.split(key, 2000))[:500]
    trace = nj.rollout(tx, game.problem, key, 500, initial=start, draws=draws)
    regret = trace.world.regret(500 * trace.mean_loss)
    np.testing.assert_allclose(long[249], regret / 500, rtol=1e-10)


@pytest.mark.parametrize("method", _adam_runs.METHODS)
def test_what_is_played_stays_in_the_box(x64, method):
    game = _adam_runs.games(3)["curved"]
    tx = _adam_runs.player(method, game, 3.0)
    theta = _adam_runs.play(game, tx, jax.random.key(0), 1000)["theta"]
    # Reached, and not left but by rounding.
    np.testing.assert_allclose(np.abs(theta).max(), 1, rtol=1e-15)


def test_rates_are_chosen_on_the_seeds_for_tuning():
    regret = np.ones((1, 1, 3, 4, 2))
    regret[..., 1, :2, 1] = 0.5  # Best while tuning,
    regret[..., 2, 2:, 1] = 0.1  # whatever is best of what is reported.
    dims = ("game", "optimizer", "learning_rate", "seed", "t")
    coords = {"learning_rate": [0.1, 0.2, 0.3]}
    results = xr.Dataset({"regret": (dims, regret)}, coords, {"tuning_seeds": 2})
    assert _adam_games_report.chosen(results).item() == 0.2


def test_exponents_are_those_of_powers():
    t = np.geomspace(10, 1e5, 41)
    runs = np.stack([3 * t**-0.5, t**-0.7, np.where(t > 5e4, -1.0, 1.0)])
    found = _adam_games_report.exponents(t, runs)
    np.testing.assert_allclose(found, [-0.5, -0.7], rtol=1e-10)
    assert _adam_games_report.vanishes(np.array([-0.5, -0.6, -0.55]))
    assert not _adam_games_report.vanishes(np.array([-0.5, -0.6, 0.01]))


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([1.0, 2.0, 3.0], "2.0 ± 2.5"),
        ([1e-7, 2e-7, 3e-7], "2.0e−07 ± 2.5e−07"),
        ([-0.12345, -0.12345], "−0.1235"),
        ([0.5], "0.5"),
        ([1.0, np.nan], "nan"),
    ],
)
def test_numbers_have_the_digits_that_are_known(runs, text):
    assert _lines.number(runs) == text


@pytest.mark.slow
def test_writes_every_file(done):
    folder, printed = done
    names = {path.name for path in folder.iterdir()}
    parts = json.loads((folder / "config.json").read_text())["parts"]
    assert names == {*(f"{part}.nc" for part in parts), "config.json", "figures", "report.html"}
    page = (folder / "report.html").read_text()
    figures = sorted((folder / "figures").iterdir())
    assert page.count("<svg") == len(figures) == 5
    assert printed.count("\n") == page.count("<h2>") == 6
    assert all(path.stat().st_size > 10_000 for path in figures)
    assert support.is_self_contained(page)
    assert not list(folder.rglob(".*")), "a file was left aside"


@pytest.mark.slow
def test_report_is_made_of_the_store_alone(folder, tmp_path, undrawn):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "report.html"
    path.unlink()
    undrawn()
    _adam_report.write(tmp_path)
    before = support.text_of((folder / "report.html").read_text())
    assert support.text_of(path.read_text()) == before
    # And its numbers are the stored ones.
    results = xr.load_dataset(tmp_path / "counterexamples.nc")
    results["last"].loc[{"game": "period 3", "optimizer": "Adam"}] = 0.123456
    results.to_netcdf(tmp_path / "counterexamples.nc", engine="h5netcdf")
    _adam_report.write(tmp_path)
    assert "period 3: Adam ends at 0.1235" in path.read_text()
    assert "period 3: Adam ends at 0.1235" not in before
