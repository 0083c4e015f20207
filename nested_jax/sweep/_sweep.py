"""Run a pure function at every point of a grid."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.tree_util import Partial

from nested_jax._checks import check_callable, check_flag, check_static_count
from nested_jax._version import __version__
from nested_jax.sweep._chunks import chunk_of
from nested_jax.sweep._grid import Grid
from nested_jax.sweep._job import Job, check_values, digest, evaluate
from nested_jax.sweep._local import LocalDevices
from nested_jax.sweep._processes import gather, share_of_this_process
from nested_jax.sweep._progress import Interruption, Progress
from nested_jax.sweep._store import Store

if TYPE_CHECKING:
    import xarray


def sweep(
    run: Callable[..., Mapping[str, Any]],
    grid: Grid,
    *,
    store: str | os.PathLike[str] | None = None,
    chunk: int | str = "auto",
    devices: Sequence[Any] | None = None,
    executor: Any = None,
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
        grid: The points. Values that reach a factory of this library as they are, are held
            against its rules before anything runs.
        store: Folder for finished chunks, new or of the same configuration: the program that
            `run` compiles to, its arguments, the grid, and versions.
        chunk: How many runs at once at most, or "auto": the whole grid shared out over the
            devices, less where it would outgrow memory (or, on CPU, the caches). A result
            depends, by rounding, on the shape of its chunk, but not on how many devices there
            are; a store keeps the shape it was made with.
        devices: Devices of this process; by default all of JAX's default platform.
        executor: What computes the chunks in place of this process: see `RayWorkers`.
        progress: Whether to show a bar, if the error stream is a terminal.

    Returns:
        A dataset with the axes as its first dimensions and coordinates. An array result of shape
        (n, ...) has further dimensions `<name>_0`, ... Attributes: `axes`, `runs`, `chunk`,
        `compile_seconds` (tracing included), `run_seconds`, `device`, `devices`, `configuration`
        (a hash), `jax` and `nested_jax` (versions).

    Raises:
        TypeError: If an argument is of the wrong kind, the result is no dict of arrays, or its
            structure changes along a static axis.
        ValueError: If a value of the grid breaks a rule (told with axis, index and value), the
            result has the name of an axis, or `store` holds something else.
        MemoryError: If a chunk does not fit into memory.
        OSError: If the store cannot be written.
        KeyboardInterrupt: After Ctrl-C, with how to go on.

    Example:
        >>> import jax, nested_jax as nj
        >>> def run(learning_rate, levels):
        ...     problem = nj.drifting_regression(dim=3)
        ...     tx = nj.nested_momentum(learning_rate, levels, max_levels=3)
        ...     trace = nj.rollout(tx, problem, jax.random.key(0), 500, warmup=100)
        ...     return {"loss": trace.loss}
        >>> results = nj.sweep(run, nj.Grid(learning_rate=[0.1, 0.01], levels=[1, 2, 3]))
        >>> dict(results.sizes)
        {'learning_rate': 2, 'levels': 3}
    """
    _check(run, grid, chunk, progress)
    partial = run if isinstance(run, Partial) else Partial(run)
    executor = LocalDevices(devices) if executor is None else executor
    kept = None if store is None else Store(store)
    started = time.perf_counter()
    with Progress(grid.size, progress) as bar, Interruption() as interruption:
        # Before anything is compiled: whether it can be traced and the grid keeps its rules.
        whole = tuple(axis.size for axis in grid.values() if not axis.static)
        check_values(Job(partial, grid, whole))
        job = _planned(partial, grid, chunk, executor, kept)
        fingerprint = None
        if kept is not None:
            fingerprint = job.fingerprint(executor.platform)
            kept.claim(fingerprint)
        results = _allocated(job)
        compiled = time.perf_counter()
        bar.running()
        done = _run(job, executor, kept, results, bar, interruption)
        gather(results, done, job)
        finished = time.perf_counter()
    return _dataset(job, results, executor, fingerprint, compiled - started, finished - compiled)


def _check(run: Any, grid: Any, chunk: Any, progress: Any) -> None:
    check_callable("run", run)
    check_flag("progress", progress)
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a nested_jax.Grid, got {grid!r}.")
    if isinstance(chunk, str):
        if chunk != "auto":
            raise ValueError(f'`chunk` must be "auto" or a number of runs, got {chunk!r}.')
    else:
        check_static_count("chunk", chunk, 1)


def _planned(run: Partial, grid: Grid, chunk: int | str, executor: Any, kept: Store | None) -> Job:
    """Return the job; a store that was begun decides on the shape of its chunks."""
    recorded = None if kept is None else kept.recorded()
    axes = [axis.size for axis in grid.values() if not axis.static]
    if recorded is not None and len(recorded.get("chunk", ())) == len(axes):
        shape = tuple(recorded["chunk"])
        if chunk == "auto" or chunk_of(axes, int(chunk)) == shape:
            return Job(run, grid, shape)
    return executor.plan(run, grid, chunk)


def _allocated(job: Job) -> dict[str, np.ndarray]:
    """Return an array for every result, once it is sure that all programs give the same."""
    shapes = []
    for at, static in enumerate(job.statics):
        columns = job.columns(at * (job.chunks // len(job.statics)))
        shapes.append(jax.eval_shape(lambda r, c, s=static: evaluate(s, r, c), job.run, columns))
        own = {name: (x.shape[len(columns) :], x.dtype) for name, x in shapes[-1].items()}
        first = {name: (x.shape[len(columns) :], x.dtype) for name, x in shapes[0].items()}
        if own != first:
            raise TypeError(
                "`run` must return the same structure at every point, got "
                f"{_structure(first)} for {dict(job.statics[0])} and {_structure(own)} for "
                f"{dict(static)}."
            )
    return {name: np.empty(job.grid.shape + shape, dtype) for name, (shape, dtype) in first.items()}


def _structure(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {dtype}{[*shape]}" for name, (shape, dtype) in outputs.items())


def _run(
    job: Job,
    executor: Any,
    kept: Store | None,
    results: dict[str, np.ndarray],
    bar: Progress,
    interruption: Interruption,
) -> list[int]:
    """Compute this process's chunks, or read them; return which."""
    axes = len(job.numeric)
    mine = share_of_this_process(job.chunks)
    missing = []
    for index in mine:
        stored = None if kept is None else kept.load(index)
        if stored is None:
            missing.append(index)
        else:
            bar.add(job.place(index, results, stored), stored, axes)
    stored_chunks = len(mine) - len(missing)
    with contextlib.closing(executor.evaluate(job, missing)) as chunks:
        for done, (index, outputs) in enumerate(chunks, 1):
            if kept is not None:
                kept.save(index, outputs)
                stored_chunks += 1
            bar.add(job.place(index, results, outputs), outputs, axes)
            # Not between the chunks of one wave: all of them are finished already.
            if interruption.asked and done < len(missing) and done % executor.wave == 0:
                raise KeyboardInterrupt(_how_to_go_on(kept, stored_chunks, len(mine)))
    return mine


def _how_to_go_on(kept: Store | None, stored: int, total: int) -> str:
    if kept is None:
        return "Stopped; nothing was stored. Pass store= to be able to go on."
    return (
        f"Stopped with {stored} of {total} chunks stored in {kept.folder}; the same call goes on."
    )


def _dataset(job, results, executor, fingerprint, compile_seconds, run_seconds) -> xarray.Dataset:
    import xarray  # Slow to import, and of use only once there is a result.

    grid = job.grid
    variables = {}
    for name, values in results.items():
        own = tuple(f"{name}_{i}" for i in range(values.ndim - len(grid)))
        variables[name] = ((*grid, *own), values)
    attributes = {
        "axes": " ".join(grid),
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
