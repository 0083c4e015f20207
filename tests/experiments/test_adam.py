"""Tests of the Adam experiment: bounds, ratios, games, resuming, the report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import nested_jax as nj
from experiments import lab
from experiments.adam import EXPERIMENT, Config, numbers, report, runs
from experiments.adam.games import METHODS, games, play, player
from experiments.lab import data
from experiments.lab.figures import number

METRIC_RTOL = 4 * np.finfo(np.float32).eps  # Metrics are float32; the runs are float64.
LATE_ATOL = 2e-6  # After 20,000 steps what is left of the bias of v is 1e-9; the rest is float32.
TINY = Config(
    silence=900,
    dim=20,
    signal_steps=300,
    early_steps=100,
    training_steps=100,
    hidden=4,
    batch_size=4,
    pretraining_steps=10,
    network_steps=40,
    game_steps=1000,
    short_game_steps=1000,
    online_dim=3,
    regret_steps=1000,
    rates=3,
    seeds=2,
    tuning_seeds=1,
)


@pytest.fixture
def here(tmp_path):
    """Return a laboratory in a new folder."""
    return lab.Lab(folder=tmp_path, device=None, parts=EXPERIMENT.parts, images=data.load())


def test_step_bounds_are_attained_to_the_digit(x64, here):
    results = runs.silence(dataclasses.replace(TINY, silence=20_000), here)
    last = results.step.isel(last=-1)
    np.testing.assert_allclose(last.sel(stream="lone"), 0.1 / np.sqrt(1e-3), atol=LATE_ATOL)
    tight = np.sqrt(0.1**2 / (1e-3 * (1 - 0.9**2 / 0.999)))
    np.testing.assert_allclose(last.sel(stream="growing"), tight, atol=LATE_ATOL)
    assert f"{float(last.sel(stream='lone')):.4f}" == "3.1623"
    assert f"{float(last.sel(stream='growing')):.4f}" == "7.2703"
    for name in ("lone", "growing"):
        expected = numbers.bound(0.9, 0.999, results["last"].values, growing=name == "growing")
        np.testing.assert_allclose(results.step.sel(stream=name), expected, rtol=METRIC_RTOL)


def test_no_gradients_beat_the_tight_bound(x64):
    rng = np.random.default_rng(0)
    shapes = [rng.standard_normal((300, 50)), rng.standard_cauchy((300, 50))]
    shapes.append(np.exp(np.cumsum(rng.normal(0.1, 0.5, (300, 50)), 0)))
    steps = np.arange(1, 301)
    tx, most = nj.scale_by_adam(eps=1e-200), numbers.bound(0.9, 0.999, steps)

    @jax.jit
    def updates_of(gradients):
        start = tx.init(jnp.zeros(50))
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]

    for gradients in shapes:
        updates = updates_of(jnp.asarray(gradients))
        assert np.all(np.abs(updates).max(1) <= most * (1 + 1e-9))


def test_bounds_of_other_decays_are_the_closed_form(x64, here):
    results = runs.bounds(TINY, here)
    lone = (1 - results.b1) / np.sqrt(1 - results.b2)
    tight = lone / np.sqrt(1 - results.b1**2 / results.b2)
    np.testing.assert_allclose(results.step.sel(stream="lone"), lone, rtol=METRIC_RTOL)
    np.testing.assert_allclose(results.step.sel(stream="growing"), tight, rtol=METRIC_RTOL)


@pytest.mark.slow
def test_signal_to_noise_is_that_of_theory(x64, here):
    config = dataclasses.replace(TINY, dim=500, signal_steps=1000, seeds=3)
    results = runs.signal(config, here)
    assert list(results.ratio.sel(stream="constant").values.ravel()) == [1] * (
        results.ratio.size // 7
    )
    late = results.ratio.isel(t=-1).mean("seed")
    swing = late.sel(stream="alternating")
    np.testing.assert_allclose(swing, (1 - results.b1) / (1 + results.b1), rtol=2e-3)
    for name, stream in runs.GRADIENTS.items():
        for b1 in results.b1.values:
            expected = numbers.noise_ratio(*stream, b1)
            # 1,500 coordinates, each of a spread of at most .6; v is 2 % short of its mean.
            actual = late.sel(stream=name, b1=b1)
            np.testing.assert_allclose(actual, expected, atol=5 * 0.6 / 1500**0.5)


def test_early_steps_are_the_closed_form(x64, here):
    results = runs.early(TINY, here)
    t = results.t.values
    for b2 in results.b2.values:
        plain, corrected = (results.step.sel(debias=x, b2=b2) for x in (False, True))
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
    table = games()
    for method, theta in expected.items():
        tx = player(method, table[game], 0.5)
        found = jax.jit(lambda tx=tx: play(table[game], tx, jax.random.key(0), steps))()
        digits = len(str(theta).split(".")[1])
        assert round(float(found["theta"][-1, 0]), digits) == theta


@pytest.mark.parametrize("method", ["Adam", "AMSGrad"])
def test_a_game_is_the_oracles(x64, method):
    # The path of Reddi et al.: clip(theta - .5 / sqrt(t) m / sqrt(v)), nothing corrected.
    found = play(
        games()["period 101"],
        player(method, games()["period 101"], 0.5),
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
    game = games(4)["curved"]
    tx = player("AdaGrad", game, 0.1)
    key = jax.random.key(3)
    long = play(game, tx, key, 2000)["regret"]
    # By hand, for the first 500 steps: the same draws, the losses and the best in hindsight.
    start = game.problem.init(key)
    draws = jax.vmap(game.problem.draw)(jax.random.split(key, 2000))[:500]
    trace = nj.rollout(tx, game.problem, key, 500, initial=start, draws=draws)
    regret = trace.world.regret(500 * trace.mean_loss)
    np.testing.assert_allclose(long[249], regret / 500, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_played_stays_in_the_box(x64, method):
    game = games(3)["curved"]
    tx = player(method, game, 3.0)
    theta = play(game, tx, jax.random.key(0), 1000)["theta"]
    # Reached, and not left but by rounding.
    np.testing.assert_allclose(np.abs(theta).max(), 1, rtol=1e-15)


def test_rates_are_chosen_on_the_seeds_for_tuning():
    regret = np.ones((1, 1, 3, 4, 2))
    regret[..., 1, :2, 1] = 0.5  # Best while tuning,
    regret[..., 2, 2:, 1] = 0.1  # whatever is best of what is reported.
    dims = ("game", "optimizer", "learning_rate", "seed", "t")
    coords = {"learning_rate": [0.1, 0.2, 0.3]}
    results = xr.Dataset({"regret": (dims, regret)}, coords, {"tuning_seeds": 2})
    assert numbers.chosen(results).item() == 0.2


def test_exponents_are_those_of_powers():
    t = np.geomspace(10, 1e5, 41)
    regrets = np.stack([3 * t**-0.5, t**-0.7, np.where(t > 5e4, -1.0, 1.0)])
    found = numbers.exponents(t, regrets)
    np.testing.assert_allclose(found, [-0.5, -0.7], rtol=1e-10)
    assert numbers.vanishes(np.array([-0.5, -0.6, -0.55]))
    assert not numbers.vanishes(np.array([-0.5, -0.6, 0.01]))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 2.0, 3.0], "2.0 ± 2.5"),
        ([1e-7, 2e-7, 3e-7], "2.0e−07 ± 2.5e−07"),
        ([-0.12345, -0.12345], "−0.1235"),
        ([0.5], "0.5"),
        ([1.0, np.nan], "nan"),
    ],
)
def test_numbers_have_the_digits_that_are_known(values, text):
    assert number(values) == text


@pytest.mark.slow
def test_a_run_resumes_and_its_report_has_its_numbers(x64, here):
    results = runs.simulate(TINY, here)
    sections = report.sections(TINY, results)
    assert [len(section.figures) for section in sections] == [1] * 8
    stored = {path: path.stat().st_mtime_ns for path in here.folder.glob("store/**/*.npz")}
    for name, again in runs.simulate(TINY, here).items():
        xr.testing.assert_equal(again, results[name])
    parts = {path.relative_to(here.folder / "store").parts[0] for path in stored}
    assert parts == set(EXPERIMENT.parts)
    assert {path: path.stat().st_mtime_ns for path in stored} == stored, "computed again"
    results["counterexamples"]["last"].loc[{"game": "period 3", "optimizer": "Adam"}] = 0.123456
    assert "Adam ends at 0.1235" in report.sections(TINY, results)[0].answer
    assert "Adam ends at 0.1235" not in sections[0].answer
