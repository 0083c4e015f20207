"""Tests of the Adafactor experiment: gauges, the change of labels, memory, report, errors."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from experiments import __main__, _adafactor_report, _adafactor_runs, _artifacts, _data, adafactor

FLOAT32_RTOL = 1e-5  # Parameters and statistics are float32, and 64 numbers are averaged.
TINY = adafactor.Config(hidden=8, batch_size=4, steps=100, caps=2, seeds=2)


@pytest.fixture(autouse=True)
def _settings():
    """Undo what the command line sets for its process."""
    names = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_default_device")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(*options):
    """Run the command line; return its exit code."""
    try:
        return __main__.main(["adafactor", *map(str, options)])
    except SystemExit as exit_:
        return exit_.code


def options_of(config, out):
    fields = _artifacts.describe(config) | {"out": out}
    del fields["quick"], fields["download"]
    return [w for name, x in fields.items() for w in (f"--{name.replace('_', '-')}", str(x))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a small experiment, run once."""
    out = tmp_path_factory.mktemp("adafactor") / "results"
    names = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_default_device")
    before = {name: getattr(jax.config, name) for name in names}
    assert run(*options_of(TINY, out)) == 0
    for name, value in before.items():
        jax.config.update(name, value)
    return out


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


@pytest.mark.slow
def test_memory_is_that_of_optax_where_it_is_the_same(folder):
    memory = xr.load_dataset(folder / "memory.nc").isel(model=1)
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
def test_writes_every_file(folder):
    names = {path.name for path in folder.iterdir()}
    parts = json.loads((folder / "config.json").read_text())["parts"]
    assert names == {*(f"{part}.nc" for part in parts), "config.json", "figures", "report.html"}
    page = (folder / "report.html").read_text()
    figures = sorted((folder / "figures").iterdir())
    assert page.count("<svg") == len(figures) == 5
    assert _data.load("digits").name in page
    assert not [word for word in ("<script", "<link", 'src="http') if word in page]
    assert not list(folder.rglob(".*")), "a file was left aside"


@pytest.mark.slow
def test_report_is_made_of_the_store_alone(folder, undrawn):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    _adafactor_report.write(folder)
    assert (folder / "report.html").read_bytes() == before
    # And its numbers are the stored ones.
    path = folder / "memory.nc"
    stored = path.read_bytes()
    results = xr.load_dataset(path)
    results["state"][-1, 1] = 77 * 2**20
    results.to_netcdf(path, engine="h5netcdf")
    undrawn()
    _adafactor_report.write(folder)
    assert "Adam holds 77 MiB" in (folder / "report.html").read_text()
    path.write_bytes(stored)
    (folder / "report.html").write_bytes(before)


def test_quick_leaves_what_was_asked_for():
    quick = adafactor.resolved(adafactor.Config(quick=True))
    assert quick.steps == adafactor.QUICK["steps"]
    assert adafactor.resolved(adafactor.Config(quick=True, steps=700)).steps == 700
    adafactor.check(quick)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("hidden", 0, "`--hidden` must be an integer of at least 1, got 0."),
        ("batch_size", "all", "`--batch-size` must be an integer of at least 1, got 'all'."),
        ("steps", 150, "`--steps` must be a multiple of 100, got 150."),
        ("caps", 1, "`--caps` must be an integer of at least 2, got 1."),
        ("seeds", 1, "`--seeds` must be an integer of at least 2, got 1."),
        ("seed", 2**32, f"`--seed` must be less than {2**32}, got {2**32}."),
        ("device", "tpu", "`--device` must be one of 'auto', 'cpu', 'gpu', got 'tpu'."),
    ],
)
def test_a_wrong_option_is_one_line(option, value, message, tmp_path, capsys):
    options = options_of(dataclasses.replace(TINY, **{option: value}), tmp_path / "a")
    assert run(*options) == 2
    error = capsys.readouterr().err
    assert re.match(re.escape(f"error: {message}") + "\n$", error)
    assert not (tmp_path / "a").exists()


def test_data_that_are_not_there_are_one_line(tmp_path, capsys):
    options = options_of(dataclasses.replace(TINY, data=str(tmp_path / "none")), tmp_path / "a")
    assert run(*options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `--data` must be ")
    assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()
