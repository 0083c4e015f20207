"""Tests of the Adam experiment: epsilon and warm-up, an early stop, the ladder to Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from experiments import lab
from experiments.adam import EXPERIMENT, Config, corrections, further, networks, numbers, tools
from experiments.lab import data

METRIC_RTOL = 4 * np.finfo(np.float32).eps  # Metrics are float32; the runs are float64.
SMALL = Config(training_steps=1_500, seeds=2, tuning_seeds=1)


@pytest.fixture
def here(tmp_path):
    """Return a laboratory in a new folder."""
    return lab.Lab(folder=tmp_path, device=None, parts=EXPERIMENT.parts, images=data.load())


def test_first_steps_are_the_closed_form(x64, here):
    results = corrections.epsilon(SMALL, here)
    expected = 1 / (1 + 1 / results.ratio)
    for warmup, gain in ((0, 1.0), (100, 0.1)):
        found = results.step.sel(warmup=warmup)
        np.testing.assert_allclose(found, gain * expected, rtol=METRIC_RTOL)


def test_a_stop_makes_the_step_jump(x64, here):
    results = corrections.stopped(SMALL, here)
    assert f"{1 / np.sqrt(1 - 0.999**100):.2f}" == "3.24"
    t = results.t.values
    corrected = results.step.sel(stop=corrections.NEVER)
    np.testing.assert_allclose(corrected, 1, rtol=METRIC_RTOL)
    for stop in corrections.STOPS:
        expected = np.where(t < stop, 1, (1 - 0.9**t) / np.sqrt(1 - 0.999**t))
        found = results.step.sel(stop=stop)
        np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=METRIC_RTOL)
        before = results.loss.isel(t=t < stop)
        np.testing.assert_array_equal(before.sel(stop=stop), before.sel(stop=corrections.NEVER))
    assert "jump by a factor of 3.24 (" in further.stopped(results).answer


def test_the_jump_is_within_a_percent_from_step_3925():
    first = numbers.small_from(0.01)
    jumps = 1 / np.sqrt(1 - 0.999 ** np.array([first - 1, first]))
    assert jumps[0] > 1.01 >= jumps[1]
    assert first == 3925
    np.testing.assert_allclose(numbers.jump(first), jumps[1], rtol=1e-12)


def updates_of(tx, gradients):
    """Return the updates of a transform on a row of gradients."""
    start = tx.init(jnp.zeros(gradients.shape[1]))

    def step(state, g):
        update, state = tx.update(g, state)
        return state, update

    return jax.lax.scan(step, start, gradients)[1]


def test_each_rung_differs_from_the_one_before_in_one_thing(x64):
    gradients = np.random.default_rng(0).normal(size=(30, 4))
    squares, t = np.square(gradients), np.arange(1, 31)[:, None]

    def average(x, decay):
        found = np.zeros_like(x)
        for i, row in enumerate(x):
            found[i] = decay * (found[i - 1] if i else 0) + (1 - decay) * row
        return found

    v, m = average(squares, 0.999), average(gradients, 0.9)
    v_hat, m_hat = v / (1 - 0.999**t), m / (1 - 0.9**t)
    expected = [
        gradients / np.sqrt(squares.cumsum(0)),
        gradients / np.sqrt(v),
        gradients / np.sqrt(v_hat),
        m_hat / np.sqrt(v_hat),
    ]
    found = jax.jit(lambda g: [updates_of(networks.rung(x, 0.1), g) for x in networks.LADDER])
    rungs = found(jnp.asarray(gradients))
    for actual, wanted in zip(rungs, expected, strict=True):
        # Epsilon is 1e-8, and the least root of v is 1e-3.
        np.testing.assert_allclose(actual, -0.1 * wanted, rtol=1e-4)
    adam = updates_of(optax.adam(0.1), jnp.asarray(gradients))
    np.testing.assert_allclose(rungs[-1], adam, rtol=1e-9)


def test_a_stop_that_never_comes_is_adam(x64):
    gradients = jnp.asarray(np.random.default_rng(0).normal(size=(30, 4)))
    stopping, adam = corrections.stopping(0.1, corrections.NEVER), tools.adam(0.1, eps=0.0)
    found, expected = (updates_of(tx, gradients) for tx in (stopping, adam))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_steps_are_counted_to_the_first_loss_at_the_target():
    losses = np.array([[3.0, 1.0, 0.5, 1.0], [3.0, 2.0, 2.0, 2.0], [1.0, 3.0, 3.0, 3.0]])
    found = numbers.steps_to(losses, np.array([20, 40, 60, 80]), 1.0)
    np.testing.assert_array_equal(found, [40, np.inf, 20])


def ladder_of(*levels, seeds=3):
    """Return a ladder whose last losses at the best rate are `levels`; one seed tunes."""
    rates, methods = [0.01, 0.1, 1.0], [*networks.LADDER]
    last = np.full((4, 3, seeds + 1), 9.0)
    last[:, 1] = np.array(levels)[:, None] * np.append(1, np.linspace(0.99, 1.01, seeds))
    last[:, 2, 0], last[:, 0, 1:] = np.nan, 1e-9  # Diverged; best, but only where it is reported.
    dims = ("optimizer", "learning_rate", "seed")
    loss = np.stack([9.0 * np.ones_like(last), last], -1)
    return xr.Dataset(
        {"last": (dims, last), "loss": ((*dims, "t"), loss)},
        {"optimizer": methods, "learning_rate": rates, "t": [20, 40]},
        {"tuning_seeds": 1},
    )


def test_the_ladder_reports_ratios_of_losses():
    section = further.ladder(ladder_of(4.0, 1.0, 1.0, 0.05))
    expected = (
        "shows a decrease by a factor of 4 [4, 4] with an average in place of AdaGrad's sum "
        "(RMSProp), no difference larger than a factor of 1 with bias correction, and a decrease "
        "by a factor of 20 [20, 20] with momentum"
    )
    assert expected in section.answer
    rows = section.tables[0].rows
    assert [row[1] for row in rows] == ["0.1"] * 4
    assert [row[3] for row in rows] == ["3 of 3 seeds never"] * 3 + ["40 [40, 40]"]
    worse = further.ladder(ladder_of(1.0, 2.0, 2.0, 2.0)).answer
    assert "an increase by a factor of 2 [2, 2] with an average" in worse


def restarted(plain, warm):
    """Return first steps and restarts whose peaks are known."""
    first = xr.Dataset(
        {"step": (("warmup", "ratio"), np.array([[0.5, 0.9999], [0.05, 0.09999]]))},
        {"warmup": [0, corrections.WARMUP], "ratio": [1.0, 1e4]},
    )
    peak = np.stack([np.array(plain), np.array(warm)])[..., None, None] * np.ones((2, 3, 2, 6))
    dims = ("warmup", "seed", "learning_rate", "eps")
    coords = {"learning_rate": [*networks.RESTART_RATES], "eps": networks.EPSILONS}
    coords["warmup"] = [0, corrections.WARMUP]
    gradient = ("seed", [1e-3, 1e-3, 1e-3])
    return first, xr.Dataset({"peak": (dims, peak), "gradient": gradient}, coords)


@pytest.mark.parametrize(
    ("plain", "warm", "effect"),
    [
        ([8.0, 8.0, 8.0], [2.0, 2.0, 2.0], "makes the largest loss 4 [4, 4] times lower"),
        ([2.0, 2.0, 2.0], [8.0, 8.0, 8.0], "makes the largest loss 4 [4, 4] times higher"),
        ([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], "makes no difference larger than a factor of 1."),
    ],
)
def test_warm_up_is_judged_by_the_peaks(plain, warm, effect):
    section = further.epsilon(*restarted(plain, warm))
    assert effect in section.answer
    assert "10,000 times ε makes steps of 0.9999 times" in section.answer
    assert f"is {plain[0]:g} [{plain[0]:g}, {plain[0]:g}] times that before" in section.answer


@pytest.mark.parametrize(
    ("level", "effect"),
    [(4.0, "an increase by a factor of 4"), (0.5, "a decrease by a factor of 2"), (1.0, "no diff")],
)
def test_a_stop_is_judged_by_the_losses_after_it(level, effect):
    stops, at = [*corrections.STOPS, corrections.NEVER], [99, 100]
    after = np.array([[level] * 3, [1.0] * 3, [1.0] * 3])
    dims = ("stop", "seed", "t")
    data = {name: (dims, np.ones((3, 3, 2))) for name in ("step", "loss")}
    results = xr.Dataset(data | {"after": (dims[:2], after)}, {"stop": stops, "t": at})
    assert f"shows {effect}" in further.stopped(results).answer
