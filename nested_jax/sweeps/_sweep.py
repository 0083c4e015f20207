"""`sweep`: run a pure function at every point of a grid and return a labelled dataset."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax._core.checks import check_callable, check_choice, check_flag, check_static_count
from nested_jax._core.extras import needs
from nested_jax._version import __version__
from nested_jax.sweeps._chunked import Chunked
from nested_jax.sweeps._pruning import Pruning
from nested_jax.sweeps._stopping import Stopping
from nested_jax.sweeps.engine import Executor, LocalDevices, Progress, Store, dimensions, examine
from nested_jax.sweeps.grid import Grid, check_grid

if TYPE_CHECKING:
    import xarray

LAYOUTS = ("auto", "lanes", "vmap")


def sweep(
    run: Callable[..., Mapping[str, Any]],
    grid: Grid,
    *,
    store: str | os.PathLike[str] | None = None,
    chunk: int | str = "auto",
    devices: Sequence[Any] | None = None,
    executor: Executor | None = None,
    layout: str = "auto",
    stop: Stopping | None = None,
    units: Mapping[str, str] | None = None,
    progress: bool = True,
) -> xarray.Dataset:
    """Run `run` at every point of `grid`.

    Work that does not depend on an axis, such as a data stream, is computed once for the whole
    axis. Axes are flattened into one vmap, which compiles faster, unless that repeats more than 5 %
    of the work. The grid is cut into chunks of one shape, which are computed on all devices in
    parallel. Divergence is data: infinite and NaN results are kept.

    With a `store`, every finished chunk is saved to a file. If a sweep is killed, the same call
    computes only the missing chunks and returns the same bits. A call with a larger grid computes
    only the new points. Ctrl-C finishes the chunks in
    flight. Under `jax.distributed`, every process makes the same call to `sweep`, computes its
    share and returns the full result.

    Args:
        run: Pure function that returns a dict of arrays. Its keyword arguments are named after the
            axes and are traced scalars, or the values themselves for a static axis. Build
            transforms and problems inside it. Bind large arrays with
            `jax.tree_util.Partial(run, arrays)`, so that they are arguments of the compiled
            program, not constants in it. Globals and attributes are captured at first trace, as
            under `jax.jit`; with a `store`, every call traces `run` again. It may return a
            `nj.Stages` instead of a dict.
        grid: The points. Values passed unchanged to a nested_jax factory are validated before
            anything compiles.
        store: Folder for finished chunks. It must be new or hold the same configuration: the
            compiled program of `run`, its arguments, the grid, and versions. `grid` may also extend
            the stored one by values along its axes, unless there is a `stop`. The Python function
            inside a `jax.pure_callback` is not part of the program: if it changes, use another
            folder.
        chunk: Largest number of runs per chunk, or "auto". "auto" divides the grid evenly among
            the devices, and into smaller chunks if memory (on CPU, the caches) requires it. Cuts
            are made where the least work is shared. A result depends on the shape of its chunk, up
            to rounding, but not on the number of devices. A store keeps its original chunk shape.
        devices: Devices of this process; by default all of JAX's default platform.
        executor: Computes the chunks in place of this process; see `RayWorkers`.
        layout: "vmap" evaluates a chunk under `jax.vmap`; "lanes" makes the runs the last axis of
            every array; "auto" uses lanes on CPU where they are expected to be faster. The three
            agree up to rounding.
        stop: Rule that stops runs between stages, as `nj.sweeps.diverged` or `nj.sweeps.halving`
            returns it; `run` must then return a `nj.Stages`. All numeric axes but those in its
            `over` are one list of runs, so only work that does not depend on that list is shared,
            and only within a chunk. The default chunk is at most an eighth of the grid per device.
            Runs that go on have the same bits as without stopping, for the same chunk.
        units: Units of axes and results by name, stored in the attribute `units` of each and shown
            in figures.
        progress: Whether to show a progress bar if the error stream is a terminal. After the first
            chunk it estimates the time left, and shows the memory of a chunk on its device.

    Returns:
        A dataset whose first dimensions and coordinates are the axes; an axis of bools has bool
        coordinates. An array result of shape
        (n, ...) has further dimensions `<name>_0`, ... bfloat16 is widened to float32, because
        xarray does not support it. With a `stop`, each result is the last report that a run
        reached; `stopped_at` is the number of its stages, and `stopped_because` is "",
        "not finite", "above the bound" or "halving". Attributes: `axes`, `runs`, `chunk` (runs per
        chunk), `compile_seconds` (tracing included), `run_seconds`, `device`, `devices`,
        `configuration` (a hash, with a `store` only), `stages` (with a `stop` only), `jax` and
        `nested_jax` (versions).

    Raises:
        TypeError: If an argument has the wrong type, `run` does not return a dict of arrays, or
            the structure of its result changes along a static axis, or there is a `stop` and `run`
            does not return a `nj.Stages`.
        ValueError: If a grid value is invalid (the message has axis, index and value), a result is
            named like an axis or like a dimension of another result, a name is empty or contains a
            slash, `store` holds another configuration, or `stop` names a result or an axis that
            does not exist or is given with an `executor` or several processes.
        MemoryError: If a chunk does not fit into memory.
        OSError: If the store cannot be written. Chunks stored before are left unchanged.
        KeyboardInterrupt: After Ctrl-C; the message says how to resume.

    Example:
        >>> import jax, nested_jax as nj
        >>> def run(learning_rate, levels):
        ...     problem = nj.drifting_regression(dim=3)
        ...     tx = nj.nested_momentum(learning_rate, levels=levels, max_levels=3)
        ...     trace = nj.rollout(tx, problem, jax.random.key(0), 500, warmup=100)
        ...     return {"loss": trace.mean_loss}
        >>> results = nj.sweep(run, nj.Grid(learning_rate=[0.1, 0.01], levels=[1, 2, 3]))
        >>> dict(results.sizes)
        {'learning_rate': 2, 'levels': 3}
    """
    _check(run, grid, chunk, progress, devices, executor)
    _check_stop(stop, executor)
    with needs("nested_jax.sweep", "sweep"):  # Before anything is computed.
        import xarray  # noqa: F401
    check_choice("layout", layout, LAYOUTS)
    units = _checked_units(units)
    partial = run if isinstance(run, Partial) else Partial(run)
    if store is not None:
        partial = _afresh(partial)
    executor = LocalDevices(devices) if executor is None else executor
    kept = None if store is None else Store(store)
    started = time.perf_counter()
    with Progress(grid.size, progress) as bar, _without_mesh():
        # Trace `run` and validate the grid before anything compiles.
        structure = examine(partial, grid)
        _check_names_of_units(units, {*grid, *grid.arguments, *structure})
        if stop is None:
            work = Chunked(partial, grid, structure, executor, kept, chunk, layout)
        else:
            assert isinstance(executor, LocalDevices)
            work = Pruning(partial, grid, stop, structure, executor, kept, chunk, layout)
        examined = time.perf_counter()
        results = work.compute(bar)
    seconds = time.perf_counter() - started
    compile_seconds = examined - started + work.compile_seconds
    dataset = _dataset(grid, results)
    dataset.attrs = {
        "axes": [*grid],
        "runs": grid.size,
        "chunk": work.runs_per_chunk,
        "compile_seconds": compile_seconds,
        "run_seconds": seconds - compile_seconds,
        "device": executor.platform,
        "devices": executor.wave,
        "jax": jax.__version__,
        "nested_jax": __version__,
        **work.attributes,
    }
    for name, unit in units.items():
        dataset[name].attrs["units"] = unit
    return dataset


def _without_mesh() -> contextlib.AbstractContextManager[Any]:
    """Unset the ambient mesh: the executor chooses the layout of this program."""
    if jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    try:
        return jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ()))
    except ValueError:  # Inside another trace.
        return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def _afresh(run: Partial) -> Partial:
    """Return a copy that JAX has not traced yet; globals that `run` reads may have changed."""

    def untraced(*args, **kwargs):
        return run.func(*args, **kwargs)

    return Partial(untraced, *run.args, **run.keywords)


def _check(run: Any, grid: Any, chunk: Any, progress: Any, devices: Any, executor: Any) -> None:
    check_callable("run", run)
    config: Any = jax.config
    if config.jax_disable_jit:
        raise ValueError("`jax_disable_jit` must be off for a sweep, which is compiled, got on.")
    check_flag("progress", progress)
    check_grid(grid)
    if isinstance(chunk, str):
        if chunk != "auto":
            raise ValueError(f'`chunk` must be "auto" or a number of runs, got {chunk!r}.')
    else:
        check_static_count("chunk", chunk, 1)
    if executor is None:
        return
    # The class `RayWorkers` has `evaluate`, too.
    if isinstance(executor, type) or not hasattr(executor, "evaluate"):
        raise TypeError(f"`executor` must be an executor such as RayWorkers(2), got {executor!r}.")
    if devices is not None:
        raise ValueError(f"`devices` must be None if there is an `executor`, got {devices!r}.")


def _check_stop(stop: Any, executor: Any) -> None:
    if stop is None:
        return
    if not isinstance(stop, Stopping):
        rule = "`stop` must be a rule such as nested_jax.sweeps.diverged or halving returns"
        raise TypeError(f"{rule}, got {stop!r}.")
    processes = jax.process_count()
    if processes > 1 or not isinstance(executor, LocalDevices | None):
        got = f"{processes} processes" if processes > 1 else f"{executor!r}"
        raise ValueError(f"`stop` must run on the devices of this process alone, got {got}.")


def _checked_units(units: Any) -> dict[str, str]:
    units = {} if units is None else units
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        raise TypeError(f"`units` must be a dict of words by name, got {units!r}.")
    return dict(units)


def _check_names_of_units(units: Mapping[str, str], names: Set[str]) -> None:
    for name in units:
        if name not in names:
            known = ", ".join(sorted(names))
            raise ValueError(f"`units` must name axes or results ({known}), got {name!r}.")


def _as_numpy_knows(values: np.ndarray) -> np.ndarray:
    # xarray cannot handle the narrow dtypes that JAX adds to NumPy's, for which this is 2. Their
    # values all fit into float32 or int8.
    if values.dtype.isbuiltin != 2:
        return values
    return values.astype(np.float32 if jnp.issubdtype(values.dtype, jnp.floating) else np.int8)


def _dataset(grid: Grid, results: Mapping[str, np.ndarray]) -> xarray.Dataset:
    import xarray  # Slow to import and only needed here.

    variables = {}
    for name, values in results.items():
        own = dimensions(name, values.ndim - len(grid))
        variables[name] = ((*grid, *own), _as_numpy_knows(values))
    coordinates = grid.coordinates()
    for name, axis in grid.items():
        if axis.static and all(isinstance(x, bool | np.bool_) for x in axis.columns[name]):
            coordinates[name] = (name, axis.columns[name].astype(bool))
    return xarray.Dataset(variables, coords=coordinates)
