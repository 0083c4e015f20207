"""Tests of the Adafactor experiment: gauges, the change of labels, memory, resuming, the report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from experiments import lab
from experiments.adafactor import EXPERIMENT, Config, memory, report, runs
from experiments.lab import data
from tests.experiments import support

FLOAT32_RTOL = 1e-5  # Parameters and statistics are float32, and 64 numbers are averaged.
TINY = Config(hidden=8, batch_size=4, steps=100, caps=2, seeds=2)


_quickly = support.compiled_quickly


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return a laboratory in a new folder."""
    folder = tmp_path_factory.mktemp("adafactor")
    return lab.Lab(folder=folder, device=None, parts=EXPERIMENT.parts, images=data.load())


def simulated(here):
    """Run a small experiment; weigh the states of two of the models."""
    models = memory.shapes(TINY, data.load())
    two = {name: models[name] for name in ("MLP 784-256-256-10", "matrix 4096 × 4096")}
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(memory, "shapes", lambda config, images: two)
        return runs.simulate(TINY, here)


@pytest.fixture(scope="module")
def results(here):
    return simulated(here)


@pytest.fixture(scope="module")
def training(results):
    return results["training"]


def test_decays_are_those_of_their_names(x64):
    t = np.array([1.0, 2.0, 10.0, 1000.0])
    counts = jnp.asarray(t - 1, jnp.int32)
    found = [np.array([runs.beta2(kind)(c) for c in counts]) for kind in range(6)]
    expected = [1 - t**-0.5, 1 - t**-0.8, 1 - 1 / t, 0.99 + 0 * t, 0.999 + 0 * t]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-12)
    # Adam's corrected second moment of random squares is the recursion with the last decay.
    squares = np.random.default_rng(0).exponential(size=30)
    v, recursive = 0.0, 0.0
    for i, square in enumerate(squares):
        v = 0.999 * v + 0.001 * square
        keep = float(runs.beta2(5)(jnp.int32(i)))
        recursive = keep * recursive + (1 - keep) * square
    np.testing.assert_allclose(recursive, v / (1 - 0.999**30), rtol=1e-12)


@pytest.mark.slow
def test_first_gauges_are_the_closed_form(training):
    first = training.update_rms.isel(t=0)
    paper = first.sel(beta2=runs.PAPER)
    for beta2, ratio in (("0.99", 10.0), ("0.999", 1000**0.5), ("0.999, corrected", 1.0)):
        np.testing.assert_allclose(first.sel(beta2=beta2) / paper, ratio, rtol=FLOAT32_RTOL)
    # The first update of a vector is its gradient's sign.
    assert np.all(first >= 1 - FLOAT32_RTOL)


@pytest.mark.slow
def test_clip_factor_is_threshold_over_gauge(training):
    clipped = training.sel(clip=1.0)
    expected = 1 / np.maximum(1, clipped.update_rms)
    np.testing.assert_allclose(clipped.clip_factor, expected, rtol=FLOAT32_RTOL)
    assert np.all(training.sel(clip=1e30).clip_factor == 1)


@pytest.mark.slow
def test_rates_are_those_of_the_step(training):
    t, cap = training.t.values, training.cap.values[:, None]
    paper = np.minimum(cap, 1 / np.sqrt(t))
    ramp = np.minimum(1, t / (TINY.steps // 10))
    for name, expected in (("relative", paper), ("ramp-up", paper * ramp)):
        rates = training.rate.sel(step=name).isel(beta2=0, clip=0, seed=0).transpose("cap", "t")
        np.testing.assert_allclose(rates, expected, rtol=FLOAT32_RTOL)
    decay = training.rate.sel(step="ramp-up and decay").isel(beta2=0, clip=0, seed=0)
    np.testing.assert_allclose(decay.max("t") / training.cap, 1, rtol=0.05)
    assert np.all(decay.isel(t=-1) < 0.01 * training.cap)


@pytest.mark.slow
def test_labels_change_half_way(results, training):
    shifted = results["shift"]
    half = TINY.steps // 2
    still = training.sel(step="relative").sel(cap=runs.CAP, method="nearest")
    before, after = shifted.t <= half, shifted.t > half
    both = [x.update_rms.transpose("beta2", "clip", "seed", "t") for x in (shifted, still)]
    same = [x.isel(t=np.flatnonzero(before)).values for x in both]
    # The last step before the change sees old labels, the first one after it new ones.
    np.testing.assert_allclose(*same, rtol=1e-2)
    other = [x.isel(t=np.flatnonzero(after)).values for x in both]
    assert np.mean(np.isclose(other[0][..., 0], other[1][..., 0], rtol=1e-2)) < 0.2


def test_states_weigh_what_their_shapes_say():
    shapes = {
        "w": jax.ShapeDtypeStruct((30, 20), jnp.float32),
        "b": jax.ShapeDtypeStruct((7,), jnp.float32),
    }
    n = 30 * 20 + 7
    found = {name: memory.weights(make(), shapes) for name, make in memory.OPTIMIZERS.items()}
    # Beside the trees: Adam's two gains, a count or two, gauges and rates.
    numbers = {
        "momentum": n,
        "Adam": 2 * n,
        "AMSGrad": 3 * n,
        "Adafactor": 30 + 20 + 7,
        "Adafactor, not factored": n,
        "Adafactor, β₁ = 0.9": n + 30 + 20 + 7,
    }
    for name, count in numbers.items():
        size, state, xla_state, _ = found[name]
        assert size == 4 * n
        assert 0 <= state - 4 * count <= 4 * 8
        assert xla_state == state


def test_models_are_of_the_sizes_that_they_are_called():
    models = memory.shapes(TINY, data.load())
    counts = [sum(leaf.size for leaf in jax.tree.leaves(model)) for model in models.values()]
    mlps = [65 * 8 + 9 * 10, 785 * 256 + 257 * 256 + 257 * 10]
    assert counts == [*mlps, 4 * 512**2 + 2 * 512 * 2048 + 2048, 4096**2]


@pytest.mark.slow
def test_memory_is_that_of_optax_where_it_is_the_same(results):
    found = results["memory"].isel(model=0)
    params = {"w": jnp.zeros(int(found.params.isel(optimizer=0)) // 4)}
    state = optax.adam(1e-3).init(params)
    expected = sum(x.nbytes for x in jax.tree.leaves(state))
    assert abs(int(found.state.sel(optimizer="Adam")) - expected) <= 32


def test_times_hold_the_first_step_the_change_and_the_last():
    for steps in (100, 2000):
        at = runs.times(dataclasses.replace(TINY, steps=steps))
        assert {1, steps // 2, steps // 2 + 1, steps} <= set(at)
        assert np.all(np.diff(at) > 0)


@pytest.mark.slow
def test_a_run_resumes_and_its_report_has_its_numbers(here, results):
    sections = report.sections(TINY, results)
    assert [len(section.figures) for section in sections] == [1] * 5
    stored = {path: path.stat().st_mtime_ns for path in here.folder.glob("store/*/*.npz")}
    for name, again in simulated(here).items():
        xr.testing.assert_equal(again, results[name])
    assert {path.parent.name for path in stored} == {"training", "shift"}
    assert {path: path.stat().st_mtime_ns for path in stored} == stored, "computed again"
    changed = results["memory"].copy(deep=True)
    changed["state"][-1, 1] = 77 * 2**20
    answers = [x.answer for x in report.sections(TINY, results | {"memory": changed})]
    assert "Adam holds 77 MiB" in answers[-1]
    assert "Adam holds 77 MiB" not in sections[-1].answer
