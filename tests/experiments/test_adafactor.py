"""Tests of the Adafactor experiment: gauges, the change of labels, memory, report, errors."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from experiments import _adafactor_report, _adafactor_runs, _data, adafactor
from tests.experiments import support

FLOAT32_RTOL = 1e-5  # Parameters and statistics are float32, and 64 numbers are averaged.
TINY = adafactor.Config(hidden=8, batch_size=4, steps=100, caps=2, seeds=2)


_quickly = support.compiled_quickly


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small experiment on two of the models; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("adafactor") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        models = _adafactor_runs.shapes(TINY, _data.load())
        two = {name: models[name] for name in ("MLP 784-256-256-10", "matrix 4096 × 4096")}
        monkeypatch.setattr(_adafactor_runs, "shapes", lambda config, images: two)
        return out, support.finished("adafactor", TINY, out)


@pytest.fixture(scope="module")
def folder(done):
    return done[0]


@pytest.fixture(scope="module")
def training(folder):
    return xr.load_dataset(folder / "training.nc")


def test_decays_are_those_of_their_names(x64):
    t = np.array([1.0, 2.0, 10.0, 1000.0])
    counts = jnp.asarray(t - 1, jnp.int32)
    found = [np.array([_adafactor_runs.beta2(kind)(c) for c in counts]) for kind in range(6)]
    expected = [1 - t**-0.5, 1 - t**-0.8, 1 - 1 / t, 0.99 + 0 * t, 0.999 + 0 * t]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-12)
    # Adam's corrected second moment of random squares is the recursion with the last decay.
    squares = np.random.default_rng(0).exponential(size=30)
    v, recursive = 0.0, 0.0
    for i, square in enumerate(squares):
        v = 0.999 * v + 0.001 * square
        keep = float(_adafactor_runs.beta2(5)(jnp.int32(i)))
        recursive = keep * recursive + (1 - keep) * square
    np.testing.assert_allclose(recursive, v / (1 - 0.999**30), rtol=1e-12)


@pytest.mark.slow
def test_first_gauges_are_the_closed_form(training):
    first = training.update_rms.isel(t=0)
    paper = first.sel(beta2=_adafactor_runs.BETAS[_adafactor_runs.PAPER])
    for beta2, ratio in ((".99", 10.0), (".999", 1000**0.5), (".999, corrected", 1.0)):
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
def test_labels_change_half_way(folder, training):
    shifted = xr.load_dataset(folder / "shift.nc")
    half = TINY.steps // 2
    still = training.sel(step="relative").sel(cap=_adafactor_runs.CAP, method="nearest")
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
    found = {
        name: _adafactor_runs.weights(make(), shapes)
        for name, make in _adafactor_runs.OPTIMIZERS.items()
    }
    # Beside the trees: Adam's two gains, a count or two, gauges and rates.
    numbers = {
        "momentum": n,
        "Adam": 2 * n,
        "AMSGrad": 3 * n,
        "Adafactor": 30 + 20 + 7,
        "Adafactor, not factored": n,
        "Adafactor, β₁ = .9": n + 30 + 20 + 7,
    }
    for name, count in numbers.items():
        size, state, xla_state, _ = found[name]
        assert size == 4 * n
        assert 0 <= state - 4 * count <= 4 * 8
        assert xla_state == state


def test_models_are_of_the_sizes_that_they_are_called():
    models = _adafactor_runs.shapes(TINY, _data.load())
    counts = [sum(leaf.size for leaf in jax.tree.leaves(model)) for model in models.values()]
    mlps = [65 * 8 + 9 * 10, 785 * 256 + 257 * 256 + 257 * 10]
    assert counts == [*mlps, 4 * 512**2 + 2 * 512 * 2048 + 2048, 4096**2]


@pytest.mark.slow
def test_memory_is_that_of_optax_where_it_is_the_same(folder):
    memory = xr.load_dataset(folder / "memory.nc").isel(model=0)
    params = {"w": jnp.zeros(int(memory.params.isel(optimizer=0)) // 4)}
    state = optax.adam(1e-3).init(params)
    expected = sum(x.nbytes for x in jax.tree.leaves(state))
    assert abs(int(memory.state.sel(optimizer="Adam")) - expected) <= 32


def test_times_hold_the_first_step_the_change_and_the_last():
    for steps in (100, 2000):
        at = _adafactor_runs.times(dataclasses.replace(TINY, steps=steps))
        assert {1, steps // 2, steps // 2 + 1, steps} <= set(at)
        assert np.all(np.diff(at) > 0)


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
    assert _data.load("digits").name in page
    assert support.is_self_contained(page)
    assert not list(folder.rglob(".*")), "a file was left aside"


@pytest.mark.slow
def test_report_is_made_of_the_store_alone(folder, tmp_path, undrawn):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "report.html"
    path.unlink()
    undrawn()
    _adafactor_report.write(tmp_path)
    before = support.text_of((folder / "report.html").read_text())
    assert support.text_of(path.read_text()) == before
    # And its numbers are the stored ones.
    results = xr.load_dataset(tmp_path / "memory.nc")
    results["state"][-1, 1] = 77 * 2**20
    results.to_netcdf(tmp_path / "memory.nc", engine="h5netcdf")
    _adafactor_report.write(tmp_path)
    assert "Adam holds 77 MiB" in path.read_text()
    assert "Adam holds 77 MiB" not in before
