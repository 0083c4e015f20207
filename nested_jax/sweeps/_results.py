"""Results: the best point, saving and opening."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nested_jax._core.checks import check_choice
from nested_jax._core.extras import needs

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
        results: What `sweep` returned.
        by: The result to compare; it must not have dimensions of its own.
        over: Axes to average over first, such as seeds or folds. A point with a value that is not
            finite among them has diverged and is not chosen.
        mode: "min" or "max".

    Returns:
        All results at that point, averaged over `over`; with its coordinates, and in attribute
        `averaged` the axes of `over`.

    Raises:
        TypeError: If `mode` is no word.
        ValueError: If there is no such result or axis, `by` has dimensions of its own, or no
            point is finite.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> def run(x, seed):
        ...     return {"loss": (x - 2.0) ** 2 + 0.1 * seed}
        >>> results = nj.sweep(run, nj.Grid(x=[0.0, 1.0, 3.5], seed=range(3)))
        >>> float(nj.best_point(results, over="seed").x)
        1.0
    """
    check_choice("mode", mode, ("min", "max"))
    over = [over] if isinstance(over, str) else [*over]
    if by not in results:
        raise ValueError(f"`by` must be one of {[*results.data_vars]}, got {by!r}.")
    for name in over:
        if name not in results[by].dims:
            raise ValueError(f"`over` must be axes of {results[by].dims}, got {name!r}.")
    if not {*results[by].dims} <= {*results.attrs.get("axes", results[by].dims)}:
        raise ValueError(f"`by` must be a number a run, got dimensions {results[by].dims}.")
    means = results.mean(over, skipna=False, keep_attrs=True) if over else results
    values = means[by].where(np.isfinite(means[by]))
    if not bool(values.notnull().any()):
        raise ValueError(f"`by` must be finite somewhere, got none of {by!r} (all diverged).")
    at = values.argmin(...) if mode == "min" else values.argmax(...)
    return means.isel(at).assign_attrs(averaged=over)


def save(results: xarray.Dataset, path: str | os.PathLike[str]) -> None:
    """Write results as netCDF 4, aside and renamed: the file is there whole or not at all.

    Needs the packages h5netcdf and h5py (`pip install nested-jax[netcdf]`).

    Args:
        results: What `sweep` or `best_point` returned.
        path: File name that ends in .nc.

    Raises:
        ValueError: If `path` does not end in .nc.
        OSError: If the file cannot be written. One that was there before is untouched.

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
    path = Path(path)
    if path.suffix != ".nc":
        raise ValueError(f"`path` must end in .nc, got {str(path)!r}.")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        results.to_netcdf(aside, engine="h5netcdf")
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> xarray.Dataset:
    """Read results that `save` wrote, all of it into memory.

    Args:
        path: File name.

    Returns:
        The same dataset, attributes included.

    Raises:
        OSError: If there is no such file, or it is no netCDF.

    Example:
        >>> import nested_jax as nj
        >>> results = nj.sweeps.load("results.nc")  # doctest: +SKIP
    """
    with needs("nested_jax.sweeps.load", "netcdf"):
        import h5netcdf  # noqa: F401
        import h5py  # noqa: F401
        import xarray

    results = xarray.load_dataset(path, engine="h5netcdf")
    # netCDF makes a word of a list of one.
    lists = {key: results.attrs[key] for key in ("axes", "averaged") if key in results.attrs}
    return results.assign_attrs(
        {key: np.atleast_1d(words).tolist() for key, words in lists.items()}
    )
