"""Run a pure function at every point of a grid."""

from __future__ import annotations

import contextlib
import itertools
import math
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
from nested_jax.sweeps.engine import (
    Executor,
    Interruption,
    Job,
    LocalDevices,
    Progress,
    Store,
    Structure,
    digest,
    dimensions,
    examine,
    fingerprint_of,
    gather,
    share_of_this_process,
    together,
)
from nested_jax.sweeps.grid import Grid

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
    units: Mapping[str, str] | None = None,
    progress: bool = True,
) -> xarray.Dataset:
    """Run `run` at every point of `grid`.

    There is one vmap per axis, in the order of the grid, never a flattened product: what does
    not depend on an axis (a data stream, say) is computed once for all of it. The grid is cut
    into chunks of one shape, which are computed on all devices side by side. Divergence is data:
    infinite and NaN results are kept as they are.

    With a `store` every chunk is a file as soon as it is done. A sweep that is killed and called
    again computes only what is missing, and ends with the same bits. Ctrl-C finishes the chunk in
    flight. Under `jax.distributed` every process calls `sweep` alike: each computes its share and
    returns the whole.

    Args:
        run: Pure function of the axes' names, as keyword arguments that are traced scalars (of a
            static axis, its values), to a dict of arrays. Build transforms and problems inside
            it. Large arrays that it needs are best bound with `jax.tree_util.Partial(run,
            arrays)`, so that they are arguments of the compiled program and not constants in it.
            As under `jax.jit`, globals and attributes that it reads are those of the first sweep
            of this very function; with a `store` it is traced anew.
        grid: The points. Values that reach a factory of this library as they are, are held
            against its rules before anything runs.
        store: Folder for finished chunks, new or of the same configuration: the program that
            `run` compiles to, its arguments, the grid, and versions.
        chunk: How many runs at once at most, or "auto": the whole grid shared out over the
            devices, less where it would outgrow memory (or, on CPU, the caches); cut where least
            work is shared. A result
            depends, by rounding, on the shape of its chunk, but not on how many devices there
            are; a store keeps the shape it was made with.
        devices: Devices of this process; by default all of JAX's default platform.
        executor: What computes the chunks in place of this process: see `RayWorkers`.
        layout: "vmap" evaluates a chunk under `jax.vmap`; "lanes" makes the runs the last axis of
            every array; "auto" takes lanes on CPU where they are expected to be faster. The three
            agree up to rounding.
        units: Units of axes and results by name, kept as their attribute `units` and shown in
            figures.
        progress: Whether to show a bar, if the error stream is a terminal.

    Returns:
        A dataset with the axes as its first dimensions and coordinates. An array result of shape
        (n, ...) has further dimensions `<name>_0`, ... bfloat16, which xarray does not know, is
        widened to float32. Attributes: `axes`, `runs`, `chunk`,
        `compile_seconds` (tracing included), `run_seconds`, `device`, `devices`, `configuration`
        (a hash), `jax` and `nested_jax` (versions).

    Raises:
        TypeError: If an argument is of the wrong kind, the result is no dict of arrays, or its
            structure changes along a static axis.
        ValueError: If a value of the grid breaks a rule (told with axis, index and value), the
            result has the name of an axis or of a dimension of another, or `store` holds
            something else.
        MemoryError: If a chunk does not fit into memory.
        OSError: If the store cannot be written. What was stored before is untouched.
        KeyboardInterrupt: After Ctrl-C, with how to go on.

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
        # Before anything is compiled: whether it can be traced and the grid keeps its rules.
        structure = examine(partial, grid)
        _check_names_of_units(units, {*grid, *grid.arguments, *structure})
        job = _planned(partial, grid, chunk, layout, executor, kept)
        fingerprint = None
        if kept is not None:
            fingerprint = fingerprint_of(job, executor.platform)
            kept.claim(fingerprint)
        compiled = time.perf_counter()
        results = _run(job, structure, executor, kept, bar)
        finished = time.perf_counter()
    dataset = _dataset(job, results, executor, fingerprint, compiled - started, finished - compiled)
    for name, unit in units.items():
        dataset[name].attrs["units"] = unit
    return dataset


def _without_mesh() -> contextlib.AbstractContextManager[Any]:
    """Put aside a mesh that is set: it is for other programs, this one the executor lays out."""
    if jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    try:
        return jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ()))
    except ValueError:  # Within another program that is being traced.
        return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def _afresh(run: Partial) -> Partial:
    """Return a function that JAX has not traced yet: what it reads may have changed since."""

    def untraced(*args, **kwargs):
        return run.func(*args, **kwargs)

    return Partial(untraced, *run.args, **run.keywords)


def _check(run: Any, grid: Any, chunk: Any, progress: Any, devices: Any, executor: Any) -> None:
    check_callable("run", run)
    config: Any = jax.config
    if config.jax_disable_jit:
        raise ValueError("`jax_disable_jit` must be off for a sweep, which is compiled, got on.")
    check_flag("progress", progress)
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a nested_jax.Grid, got a {type(grid).__name__}.")
    if isinstance(chunk, str):
        if chunk != "auto":
            raise ValueError(f'`chunk` must be "auto" or a number of runs, got {chunk!r}.')
    else:
        check_static_count("chunk", chunk, 1)
    if executor is None:
        return
    # A class has these, too.
    if isinstance(executor, type) or not hasattr(executor, "evaluate"):
        raise TypeError(f"`executor` must be an executor such as RayWorkers(2), got {executor!r}.")
    if devices is not None:
        raise ValueError(f"`devices` must be None if there is an `executor`, got {devices!r}.")


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


def _planned(
    run: Partial, grid: Grid, chunk: int | str, layout: str, executor: Executor, kept: Store | None
) -> Job:
    """Return the job; a store that was begun decides on the shape of its chunks."""
    recorded = None if kept is None else kept.recorded()
    axes = [axis.size for axis in grid.values() if not axis.static]
    if recorded is not None and len(recorded.get("chunk", ())) == len(axes):
        shape = tuple(recorded["chunk"])
        if chunk == "auto" or math.prod(shape) <= int(chunk):
            return Job(run, grid, shape, layout)
    return executor.plan(run, grid, chunk, layout)


def _run(
    job: Job, structure: Structure, executor: Any, kept: Store | None, bar: Progress
) -> dict[str, np.ndarray]:
    """Compute this process's chunks, or read them; return the results of all processes."""
    axes = len(job.numeric)
    results = {
        name: np.empty(job.grid.shape + shape, dtype) for name, (shape, dtype) in structure.items()
    }
    mine = share_of_this_process(job.chunks)
    with together():
        missing = dict.fromkeys(mine)
        for index, stored in () if kept is None else kept.load(mine):
            bar.add(job.place(index, results, stored), axes)
            del missing[index]
        bar.running(sum(job.runs(index) for index in mine))
        with Interruption() as interruption:
            # After Ctrl-C no further chunk is begun; those in flight still come.
            todo = itertools.takewhile(lambda _: not interruption.asked, [*missing])
            with contextlib.closing(executor.evaluate(job, todo)) as waves:
                for index, outputs in itertools.chain.from_iterable(waves):
                    if kept is not None:
                        kept.save(index, outputs)
                    bar.add(job.place(index, results, outputs), axes)
                    del missing[index]
        # After the last chunk, too: who stops a sweep wants to stop the script.
        if interruption.asked:
            raise KeyboardInterrupt(_how_to_go_on(kept, len(mine) - len(missing), len(mine)))
    gather(results, mine, job)
    return results


def _how_to_go_on(kept: Store | None, stored: int, total: int) -> str:
    if kept is None:
        return "Stopped; nothing was stored. Pass store= to be able to go on."
    return (
        f"Stopped with {stored} of {total} chunks stored in {kept.folder}; the same call goes on."
    )


def _as_numpy_knows(values: np.ndarray) -> np.ndarray:
    # xarray can do nothing with the narrow numbers that only JAX knows; these hold them all.
    if values.dtype.kind != "V":
        return values
    return values.astype(np.float32 if jnp.issubdtype(values.dtype, jnp.floating) else np.int8)


def _dataset(job, results, executor, fingerprint, compile_seconds, run_seconds) -> xarray.Dataset:
    import xarray  # Slow to import: not with the library.

    grid = job.grid
    variables = {}
    for name, values in results.items():
        own = dimensions(name, values.ndim - len(grid))
        variables[name] = ((*grid, *own), _as_numpy_knows(values))
    attributes = {
        "axes": [*grid],
        "runs": grid.size,
        "chunk": math.prod(job.chunk),
        "compile_seconds": compile_seconds,
        "run_seconds": run_seconds,
        "device": executor.platform,
        "devices": executor.wave,
        "jax": jax.__version__,
        "nested_jax": __version__,
    }
    if fingerprint is not None:
        attributes["configuration"] = digest(fingerprint)
    return xarray.Dataset(variables, coords=grid.coordinates(), attrs=attributes)
