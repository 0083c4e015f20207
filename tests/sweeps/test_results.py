"""Tests of what a sweep returns: attributes, the best point, files."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import nested_jax as nj
from nested_jax.sweeps import load, save
from nested_jax.sweeps.grid._grid import Grid
from tests.sweeps.support import powers


def test_attributes(tmp_path):
    results = nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2, 3]), chunk=4)
    attrs = results.attrs
    assert list(attrs) == [
        "axes",
        "runs",
        "chunk",
        "compile_seconds",
        "run_seconds",
        "device",
        "devices",
        "jax",
        "nested_jax",
    ]
    assert attrs["axes"] == ["base", "exponent"]
    assert (attrs["runs"], attrs["devices"]) == (6, 2)
    assert 2 <= attrs["chunk"] <= 4
    assert attrs["compile_seconds"] > 0
    assert attrs["run_seconds"] > 0
    assert attrs["device"] == jax.devices()[0].device_kind
    assert (attrs["jax"], attrs["nested_jax"]) == (jax.__version__, nj.__version__)
    stored = nj.sweep(powers, nj.Grid(base=[1.0], exponent=[1]), store=tmp_path)
    assert re.fullmatch("[0-9a-f]{64}", stored.attrs["configuration"])


def test_results_are_a_frame_for_regression():
    results = nj.sweep(powers, nj.Grid(base=[1.0, 2.0], exponent=[1, 2]))
    frame = results.to_dataframe().reset_index()
    chex.assert_equal(sorted(frame.columns), ["base", "exponent", "power", "root"])


@pytest.fixture(scope="module")
def found():
    """Return a sweep whose best point depends on what is averaged; one of its runs diverges."""

    def run(kind, rate, decay, seed):
        noise = jnp.array([0.0, -3.0, 3.0])[seed]
        loss = (rate - 2) ** 2 + (5.0 if kind is None else 1.0) + noise * (rate == 3)
        loss = jnp.where((rate == 2) & (seed == 2), jnp.nan, loss)
        return {
            "loss": loss,
            "narrow": loss.astype(jnp.bfloat16),
            "curve": jnp.arange(3) * decay + seed,
            "steps": seed,
            "fine": seed < 2,
        }

    draw = nj.zipped(rate=[1.0, 2.0, 3.0], decay=[0.1, 0.2, 0.3])
    return nj.sweep(run, nj.Grid(seed=range(3), kind=[None, "good"], draw=draw))


def test_the_best_run_has_its_coordinates_and_all_results(found):
    point = nj.best_point(found)
    assert (point.seed, point.kind, point.draw, point.rate) == (1, "good", 2, 3.0)
    assert float(point.loss) == float(found.loss.min()) == -1.0
    assert point.curve.dims == ("curve_0",)
    np.testing.assert_allclose(point.curve, [1.0, 1.3, 1.6], rtol=1e-6)
    assert point.attrs["averaged"] == []
    assert point.attrs["runs"] == found.attrs["runs"]


def test_the_best_point_over_seeds_did_not_diverge_at_any(found):
    point = nj.best_point(found, over="seed")
    assert (point.kind, point.rate) == ("good", 1.0)  # Rate 2 has a seed that is NaN; 3 is equal.
    assert float(point.loss) == 2.0
    assert point.attrs["averaged"] == ["seed"]
    np.testing.assert_allclose(point.curve, [1.0, 1.1, 1.2], rtol=1e-6)
    assert (float(point.steps), float(point.fine)) == (1.0, pytest.approx(2 / 3))
    assert "seed" not in point.coords
    over = nj.best_point(found.isel(draw=[0, 2]), over=["seed", "kind"])
    assert (float(over.rate), float(over.loss)) == (1.0, 4.0)
    assert nj.best_point(found.isel(draw=[0]), over=["seed", "kind", "draw"]).loss == 4.0


def test_the_best_by_another_result_or_the_largest(found):
    assert nj.best_point(found, by="steps").seed == 0
    assert nj.best_point(found, by="steps", mode="max").seed == 2
    assert nj.best_point(found, by="fine", over=["kind", "draw"], mode="max").seed == 0
    point = nj.best_point(found, by="narrow")
    assert (point.rate, point.narrow.dtype) == (3.0, np.float32)
    assert nj.best_point(found, mode="max").kind == "None"
    # Of what was selected, and of results that did not come from a sweep.
    assert nj.best_point(found.sel(kind="None"), over="seed").loss == 6.0
    plain = xr.Dataset({"loss": ("a", [3.0, 1.0, 2.0])})
    assert nj.best_point(plain).loss == 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"by": "error"},
            ValueError,
            "`by` must be one of ['curve', 'fine', 'loss', 'narrow', 'st",
        ),
        (
            {"by": "curve"},
            ValueError,
            "`by` must be a number a run, got dimensions ('seed', 'kind'",
        ),
        ({"over": "rate"}, ValueError, "`over` must be axes of ('seed', 'kind', 'draw'), got 'rat"),
        ({"mode": "least"}, ValueError, "`mode` must be one of 'min', 'max', got 'least'."),
        ({"mode": None}, TypeError, "`mode` must be one of 'min', 'max', got None."),
    ],
)
def test_best_rejects(found, arguments, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.best_point(found, **arguments)


def test_what_is_infinite_is_not_the_best():
    results = nj.sweep(lambda a: {"loss": 1 / a}, nj.Grid(a=[0.0, 2.0]))
    assert nj.best_point(results, mode="max").a == 2.0
    assert nj.best_point(-results, mode="min").a == 2.0


def test_best_rejects_a_sweep_that_diverged_everywhere(found):
    everywhere = found.isel(draw=[1], seed=[2])
    with pytest.raises(
        ValueError, match=r"`by` must be finite somewhere, got none of 'loss' \(all"
    ):
        nj.best_point(everywhere)


def test_an_axis_may_have_any_name_for_best():
    results = nj.sweep(lambda **axes: {"loss": axes["a b"]}, Grid(**{"a b": [2.0, 1.0]}))
    assert nj.best_point(results)["a b"] == 1.0


def test_saved_results_are_the_same(found, tmp_path):
    for results in (found, nj.best_point(found), nj.best_point(found, over="seed")):
        save(results, tmp_path / "results.nc")
        again = load(tmp_path / "results.nc")
        assert again.identical(results)
        for name in results.variables:
            assert again[name].dtype.kind == results[name].dtype.kind
        assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


@pytest.mark.parametrize("unit", ["seconds", "days since 2000-01-01"])
def test_a_unit_of_time_is_a_word(tmp_path, unit):
    results = nj.sweep(lambda a: {"t": a * 1.5}, nj.Grid(a=[2.0, 1.0]), units={"t": unit})
    save(results, tmp_path / "results.nc")
    assert load(tmp_path / "results.nc").identical(results)


def test_float8_results_are_saved_as_float32(tmp_path):
    for dtype in (jnp.float8_e5m2, jnp.float8_e4m3fn):
        results = nj.sweep(lambda a, d=dtype: {"loss": a.astype(d)}, nj.Grid(a=[2.0, 1.0]))
        assert results.loss.dtype == np.float32
        assert nj.best_point(results).a == 1.0


def test_a_complex_number_is_not_the_best():
    results = nj.sweep(lambda a: {"z": a * 1j}, nj.Grid(a=[2.0, 1.0]))
    with pytest.raises(ValueError, match="`by` must be a real number a run, got complex64"):
        nj.best_point(results, by="z")


def test_saved_results_still_have_a_best_point(tmp_path):
    results = nj.sweep(lambda a: {"loss": a, "v": a * jnp.ones(2)}, nj.Grid(a=[2.0, 1.0]))
    save(results, str(tmp_path / "results.nc"))
    again = load(str(tmp_path / "results.nc"))
    assert nj.best_point(again).a == 1.0
    with pytest.raises(ValueError, match="`by` must be a number a run, got dimensions"):
        nj.best_point(again, by="v")


def test_a_file_is_saved_whole_or_not_at_all(found, tmp_path, monkeypatch):
    path = tmp_path / "results.nc"
    save(found, path)
    before = path.read_bytes()

    def fail(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left on device"):
        save(found, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["results.nc"]


def test_save_rejects_other_names(found, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in \.nc, got '.*results\.csv'\."):
        save(found, tmp_path / "results.csv")
