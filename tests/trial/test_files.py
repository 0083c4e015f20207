"""Names, files, stores and figures: refused by name before work is lost, or saved as given."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import nested_jax as nj
from nested_jax import plots, sweeps

GRID = nj.Grid(x=[1.0, 2.0])
TABLE = xr.DataArray(
    np.ones((2, 2)), dims=("y", "x"), coords={"y": [1, 2], "x": [1, 2]}, name="loss"
)


def swept(run=lambda x: {"loss": x, "row": jnp.ones(2) * x}, grid=GRID, **more):
    return nj.sweep(run, grid, progress=False, **more)


@pytest.fixture(scope="module")
def results():
    return swept()


@pytest.fixture(scope="module")
def figure():
    return plots.heatmap(TABLE, y="y", x="x")


@pytest.mark.parametrize("name", ["a/b", "/", "", ".", "a\0b"])
def test_names_that_cannot_be_saved_are_refused_before_the_sweep(name):
    def run(**values):
        return {name: sum(values.values())}

    message = f"`{name}`: an axis or a result must have a name that `save` can write, without /"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        swept(run)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        swept(lambda **values: {"loss": 1.0}, nj.Grid(**{name: [1.0, 2.0]}))


@pytest.mark.parametrize(
    "name", ["a b", "é", "..", "a\nb", "_x", "1", "loss|1", "origin", "a" * 99]
)
def test_other_names_are_saved(name, tmp_path):
    results = swept(lambda x: {name: x})
    sweeps.save(results, tmp_path / "results.nc")
    assert sweeps.load(tmp_path / "results.nc").identical(results)


def test_an_axis_of_bools_has_bools_as_coordinates(tmp_path):
    grid = nj.Grid(flag=[True, False], other=[np.bool_(False), None])
    results = swept(lambda flag, other: {"loss": 1.0 if flag else 2.0, "flagged": flag}, grid)
    assert (results.flag.dtype, results.flag.values.tolist()) == (bool, [True, False])
    assert results.other.values.tolist() == ["False", "None"]  # Not bools alone.
    assert results.loss.sel(flag=False, other="None") == 2
    sweeps.save(results, tmp_path / "results.nc")
    loaded = sweeps.load(tmp_path / "results.nc")
    assert loaded.flag.dtype == bool
    assert loaded.identical(results)


@pytest.mark.parametrize("package", ["h5netcdf", "h5py"])
@pytest.mark.parametrize("name", ["save", "load"])
def test_a_missing_package_is_an_extra_to_install(name, package, results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    call = {
        "save": lambda: sweeps.save(results, tmp_path / "a.nc"),
        "load": lambda: sweeps.load("a"),
    }
    message = f"`nested_jax.sweeps.{name}` needs {package}: pip install 'nested-jax[netcdf]'."
    with pytest.raises(ImportError, match="^" + re.escape(message)):
        call[name]()


TYPE, VALUE, LOST = TypeError, ValueError, FileNotFoundError
DATASET = "`results` must be a dataset as `sweep` returns it, got "
# A row: a function of the results, a figure and a folder; the error; how its message begins.
CALLS = {
    "best of number": (lambda r, f, d: nj.best_point(3), TYPE, DATASET + "3."),
    "best of array": (lambda r, f, d: nj.best_point(r.loss), TYPE, DATASET),
    "best by list": (lambda r, f, d: nj.best_point(r, ["loss"]), TYPE, "`by` must be the name of"),
    "best by axis": (lambda r, f, d: nj.best_point(r, "x"), VALUE, "`by` must be one of ['loss', "),
    "best by row": (lambda r, f, d: nj.best_point(r, "row"), VALUE, "`by` must be a number a run"),
    "best over 3": (lambda r, f, d: nj.best_point(r, over=3), TYPE, "`over` must be names of axes"),
    "best over loss": (lambda r, f, d: nj.best_point(r, over="loss"), VALUE, "`over` must be axes"),
    "best mode": (lambda r, f, d: nj.best_point(r, mode="mean"), VALUE, "`mode` must be one of "),
    "save number": (lambda r, f, d: sweeps.save(3, d / "a.nc"), TYPE, DATASET + "3."),
    "save array": (lambda r, f, d: sweeps.save(r.loss, d / "a.nc"), TYPE, DATASET),
    "save to 3": (lambda r, f, d: sweeps.save(r, 3), TYPE, "`path` must be a file name, got 3."),
    "save to txt": (lambda r, f, d: sweeps.save(r, d / "a.txt"), VALUE, "`path` must end in .nc, "),
    "save nowhere": (
        lambda r, f, d: sweeps.save(r, d / "no" / "a.nc"),
        LOST,
        "`path` must be in a folder that exists, got ",
    ),
    "load number": (lambda r, f, d: sweeps.load(3), TYPE, "`path` must be a file name, got 3."),
    "load none": (lambda r, f, d: sweeps.load(None), TYPE, "`path` must be a file name, got None."),
    "load nothing": (lambda r, f, d: sweeps.load(d / "no.nc"), LOST, "`path` must exist, got "),
    "load folder": (
        lambda r, f, d: sweeps.load(d),
        OSError,
        "`path` must be a netCDF 4 file, got ",
    ),
    "load text": (
        lambda r, f, d: sweeps.load(text(d)),
        OSError,
        "`path` must be a netCDF 4 file, ",
    ),
    "write number": (
        lambda r, f, d: sweeps.write_file(d / "a", 3),
        TYPE,
        "`content` must be text or bytes, got 3.",
    ),
    "write array": (
        lambda r, f, d: sweeps.write_file(d / "a", np.ones(2)),
        TYPE,
        "`content` must be text or bytes, got array([1., 1.]).",
    ),
    "write to 3": (lambda r, f, d: sweeps.write_file(3, ""), TYPE, "`path` must be a file name"),
    "write to bytes": (lambda r, f, d: sweeps.write_file(b"a", ""), TYPE, "`path` must be a file "),
    "figure": (
        lambda r, f, d: plots.save(3, d / "a.png"),
        TYPE,
        "`figure` must be a matplotlib Figure, got 3.",
    ),
    "svg": (lambda r, f, d: plots.to_svg(3), TYPE, "`figure` must be a matplotlib Figure, got 3."),
    "figure path": (
        lambda r, f, d: plots.save(f, None),
        TYPE,
        "`path` must be a file name, got None",
    ),
    "figure pdf": (
        lambda r, f, d: plots.save(f, d / "a.pdf"),
        VALUE,
        "`path` must end in .png or ",
    ),
    "heatmap of list": (
        lambda r, f, d: plots.heatmap([[1]]),
        TYPE,
        "`losses` must be an xarray.DataArray",
    ),
    "heatmap ax": (
        lambda r, f, d: plots.heatmap(TABLE, y="y", x="x", ax=3),
        TYPE,
        "`ax` must be matplotlib Axes, got 3.",
    ),
    "devices twice": (
        lambda r, f, d: sweeps.LocalDevices(jax.devices()[:1] * 2),
        VALUE,
        "`devices` must differ from each other, got ",
    ),
    "devices none": (
        lambda r, f, d: sweeps.LocalDevices([]),
        VALUE,
        "`devices` must hold at least",
    ),
    "devices array": (
        lambda r, f, d: sweeps.LocalDevices(np.array("x")),
        TYPE,
        "`devices` must be a sequence of JAX's devices",
    ),
    "chunk": (lambda r, f, d: swept(chunk=0), VALUE, "`chunk` must be an integer of at least 1"),
    "chunk bool": (lambda r, f, d: swept(chunk=True), TYPE, "`chunk` must be an integer of at"),
    "layout": (lambda r, f, d: swept(layout="x"), VALUE, "`layout` must be one of 'auto', "),
    "executor": (lambda r, f, d: swept(executor=3), TYPE, "`executor` must be an executor such as"),
    "units": (
        lambda r, f, d: swept(units=3),
        TYPE,
        "`units` must be a dict of words by name, got 3.",
    ),
    "units name": (lambda r, f, d: swept(units={"y": "s"}), VALUE, "`units` must name axes or res"),
    "store": (lambda r, f, d: swept(store=3), TYPE, "`store` must be the name of a folder, got 3."),
    "store file": (lambda r, f, d: swept(store=text(d)), VALUE, "`store` must be a folder, got "),
    "grid": (
        lambda r, f, d: swept(grid={"x": [1]}),
        TYPE,
        "`grid` must be a nested_jax.Grid, got a",
    ),
    "run none": (lambda r, f, d: swept(lambda x: None), TYPE, "`run` must return a dict of arrays"),
    "run word": (
        lambda r, f, d: swept(lambda x: {"a": "b"}),
        TYPE,
        "`run` must return a dict of ar",
    ),
    "run key": (
        lambda r, f, d: swept(lambda x: {1: x}),
        TYPE,
        "`run` must return a dict of arrays",
    ),
}
for number in (0, -1, np.nan, np.inf, "x", None, True):
    error = VALUE if isinstance(number, int | float) and number is not True else TYPE
    CALLS[f"dpi {number}"] = (
        lambda r, f, d, number=number: plots.save(f, d / "a.png", dpi=number),
        error,
        "`dpi` must be positive and finite, got ",
    )
for wrong in (3, "x", [1], np.ones((2, 2), bool)):
    CALLS[f"diverged {type(wrong).__name__}"] = (
        lambda r, f, d, wrong=wrong: plots.heatmap(TABLE, y="y", x="x", diverged=wrong),
        TYPE,
        "`diverged` must be an xarray.DataArray, as `sweep` makes it, got a ",
    )


def text(folder):
    (folder / "not.nc").write_text("text")
    return folder / "not.nc"


@pytest.mark.parametrize("name", CALLS)
def test_errors_name_argument_rule_and_value(name, results, figure, tmp_path):
    call, error, message = CALLS[name]
    with pytest.raises(error, match="^" + re.escape(message)):
        call(results, figure, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"not.nc"}  # Nothing half-written.
