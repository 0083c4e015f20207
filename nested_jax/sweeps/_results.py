"""Work with the results of a sweep: find the best point, count what is stored, save, load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jax.tree_util import Partial

from nested_jax._core.checks import check_choice
from nested_jax._core.extras import needs
from nested_jax._core.files import check_path, write_file
from nested_jax.sweeps._extension import parts_of
from nested_jax.sweeps._stopping import STOPPED_BECAUSE
from nested_jax.sweeps.engine import Job, Store
from nested_jax.sweeps.grid import Grid, check_grid

if TYPE_CHECKING:
    import xarray


def best_point(
    results: xarray.Dataset,
    by: str = "loss",
    *,
    over: str | Sequence[str] = (),
    mode: str = "min",
) -> xarray.Dataset:
    """Return the best point of a sweep.

    Args:
        results: A dataset returned by `sweep`.
        by: The result to compare; it must be one number per run.
        over: Axes to average over first, such as seeds or folds. A point has diverged and is not
            chosen if any of its values along them is not finite. A point of which a `stop` ended a
            run early is not chosen either.
        mode: "min" or "max".

    Returns:
        All results at the best point, averaged over `over`, with the coordinates of the point. The
        attribute `averaged` lists the axes of `over`.

    Raises:
        TypeError: If `mode` is not a string.
        ValueError: If `mode` is unknown, `by` or `over` does not exist, `by` is not one number per
            run, or no point is finite.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> def run(x, seed):
        ...     return {"loss": (x - 2.0) ** 2 + 0.1 * seed}
        >>> results = nj.sweep(run, nj.Grid(x=[0.0, 1.0, 3.5], seed=range(3)))
        >>> float(nj.best_point(results, over="seed").x)
        1.0
    """
    check_choice("mode", mode, ("min", "max"))
    _check_dataset(results)
    over = [over] if isinstance(over, str) else over
    if not isinstance(over, Sequence) or not all(isinstance(name, str) for name in over):
        raise TypeError(f"`over` must be names of axes, got {over!r}.")
    over = [*over]
    if not isinstance(by, str):
        raise TypeError(f"`by` must be the name of a result, got {by!r}.")
    if by not in results.data_vars:
        raise ValueError(f"`by` must be one of {[*results.data_vars]}, got {by!r}.")
    for name in over:
        if name not in results[by].dims:
            raise ValueError(f"`over` must be axes of {results[by].dims}, got {name!r}.")
    if results[by].dtype.kind == "c":
        raise ValueError(f"`by` must be a real number a run, got {results[by].dtype}.")
    if not {*results[by].dims} <= {*results.attrs.get("axes", results[by].dims)}:
        raise ValueError(f"`by` must be a number a run, got dimensions {results[by].dims}.")
    means = results.mean(over, skipna=False, keep_attrs=True) if over else results
    values = means[by].where(np.isfinite(means[by]))
    if STOPPED_BECAUSE in results.data_vars:
        ended = results[STOPPED_BECAUSE] == ""
        values = values.where(ended.all(over) if over else ended)
    if not bool(values.notnull().any()):
        raise ValueError(f"`by` must be finite somewhere, got none of {by!r} (all diverged).")
    at = values.argmin(...) if mode == "min" else values.argmax(...)
    return means.isel(at).assign_attrs(averaged=over)


def _check_dataset(results):
    if not hasattr(results, "data_vars"):
        raise TypeError(f"`results` must be a dataset as `sweep` returns it, got {results!r}.")


def stored_chunks(store: str | os.PathLike[str], grid: Grid) -> tuple[int, int]:
    """Count the finished chunks of a sweep in its store, without computing anything.

    The files are counted, not read: `sweep` computes a damaged one again.

    Args:
        store: The folder that was or will be passed to `sweep`.
        grid: The grid of that sweep.

    Returns:
        The number of stored chunks, and of all chunks. Both are 0 if the store is new, and for
        points by which `grid` extends it until `sweep` has begun to compute them.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `store` is neither new nor a store, or has points that `grid` lacks.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile, nested_jax as nj
        >>> grid = nj.Grid(x=[1.0, 2.0, 3.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before = nj.sweeps.stored_chunks(folder, grid)
        ...     results = nj.sweep(lambda x: {"loss": x**2}, grid, store=folder, chunk=1)
        ...     print(before, nj.sweeps.stored_chunks(folder, grid))
        (0, 0) (3, 3)
    """
    check_grid(grid)
    kept = Store(store)
    found = kept.recorded()
    if found is None:
        return 0, 0
    if "stop" in found:
        raise ValueError(f"`store` must be of a sweep without `stop`, got {kept.folder}.")
    stored = total = 0
    for part in parts_of(grid, kept):
        assert part.store is not None
        recorded = part.store.recorded()
        if recorded is None:  # New points that no sweep has begun.
            continue
        if part.store is kept and recorded.get("grid") != part.grid.describe():
            raise ValueError(f"`store` must be of this grid or of a part of it, got {kept.folder}.")
        stored += part.store.count()
        total += Job(Partial(len), part.grid, tuple(recorded.get("chunk", ()))).chunks
    return stored, total


def save(results: xarray.Dataset, path: str | os.PathLike[str]) -> None:
    """Write results to a netCDF 4 file, atomically.

    The file is written under a temporary name and renamed, so it is never incomplete. Needs the
    packages h5netcdf and h5py (`pip install 'nested-jax[netcdf]'`).

    Args:
        results: A dataset returned by `sweep` or `best_point`.
        path: File name ending in .nc.

    Raises:
        TypeError: If `results` is not a dataset, or `path` is not a file name.
        ValueError: If `path` does not end in .nc.
        OSError: If the file cannot be written. An existing file is left unchanged.

    Example:
        >>> import tempfile, nested_jax as nj
        >>> from nested_jax.sweeps import load, save
        >>> results = nj.sweep(lambda x: {"loss": x**2}, nj.Grid(x=[1.0, 2.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(results, f"{folder}/results.nc")
        ...     load(f"{folder}/results.nc").identical(results)
        True
    """
    with needs("nested_jax.sweeps.save", "netcdf"):
        import h5netcdf  # noqa: F401
        import h5py  # noqa: F401
    _check_dataset(results)
    check_path("path", path)
    path = Path(path)
    if path.suffix != ".nc":
        raise ValueError(f"`path` must end in .nc, got {str(path)!r}.")
    # Through memory: HDF5 that fails to write a file crashes Python later.
    write_file(path, bytes(results.to_netcdf(engine="h5netcdf")))


def load(path: str | os.PathLike[str]) -> xarray.Dataset:
    """Load results written by `save` into memory.

    Args:
        path: File name.

    Returns:
        The same dataset, attributes included.

    Raises:
        TypeError: If `path` is not a file name.
        OSError: If the file does not exist or cannot be read as netCDF 4.

    Example:
        >>> import nested_jax as nj
        >>> results = nj.sweeps.load("results.nc")  # doctest: +SKIP
    """
    with needs("nested_jax.sweeps.load", "netcdf"):
        import h5netcdf  # noqa: F401
        import h5py  # noqa: F401
        import xarray

    check_path("path", path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"`path` must exist, got {os.fspath(path)!r}.")
    try:
        results = xarray.load_dataset(path, engine="h5netcdf", decode_times=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"`path` must be a netCDF 4 file, got {os.fspath(path)!r}: {error}"
        ) from error
    # netCDF turns a list with one string into a string.
    lists = {key: results.attrs[key] for key in ("axes", "averaged") if key in results.attrs}
    return results.assign_attrs(
        {key: np.atleast_1d(words).tolist() for key, words in lists.items()}
    )
