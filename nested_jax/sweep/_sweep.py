"""Run a pure function at every point of a grid, as one compiled program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
from jax.tree_util import Partial

from nested_jax._checks import check_callable, check_flag
from nested_jax._version import __version__
from nested_jax.sweep._grid import Grid

if TYPE_CHECKING:
    import xarray


def sweep(
    run: Callable[..., Mapping[str, Any]], grid: Grid, *, progress: bool = True
) -> xarray.Dataset:
    """Run `run` at every point of `grid`.

    There is one vmap per axis, in the order of the grid, never a flattened product: what does
    not depend on an axis (a data stream, say) is computed once for all of it. The whole grid is
    one compilation, and none if the same `run` was swept over a grid of this shape before.
    Divergence is data: infinite and NaN results are kept as they are.

    Args:
        run: Pure function of the axes' names, as keyword arguments that are traced scalars, to a
            dict of arrays. Build transforms and problems inside it. Large arrays that it needs
            are best bound with `jax.tree_util.Partial(run, arrays)`, so that they are arguments
            of the compiled program and not constants in it.
        grid: The points.
        progress: Whether to show what is going on, if the error stream is a terminal.

    Returns:
        A dataset with the axes as its first dimensions and coordinates. An array result of shape
        (n, ...) has further dimensions `<name>_0`, ... Attributes: `runs`, `compile_seconds`
        (tracing included), `run_seconds`, `device`, `jax` and `nested_jax` (versions).

    Raises:
        TypeError: If `run` is not callable, `grid` is no `Grid`, or the result is no dict of
            arrays.
        ValueError: If the result has the name of an axis, or JAX's default precision does not
            hold a value of the grid.

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
    check_callable("run", run)
    check_flag("progress", progress)
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a nested_jax.Grid, got {grid!r}.")
    names = tuple(grid)
    columns = tuple(_column(name, values) for name, values in grid.items())
    run = run if isinstance(run, Partial) else Partial(run)
    with _progress_bar(progress) as bar:
        task = bar.add_task(f"compiling {grid.size} runs", total=None)
        started = time.perf_counter()
        program = _evaluate.lower(names, run, columns).compile()
        compiled = time.perf_counter()
        bar.update(task, description=f"running {grid.size} runs")
        outputs = jax.device_get(program(run, columns))
        finished = time.perf_counter()
    return _dataset(grid, outputs, compiled - started, finished - compiled)


def _column(name: str, values: np.ndarray) -> jax.Array:
    """Return an axis in JAX's default precision, so that x64 decides and not the grid."""
    dtype = jax.dtypes.canonicalize_dtype(int if values.dtype.kind in "iu" else float)
    with np.errstate(over="ignore"):
        column = values.astype(dtype)
    # NumPy wraps integers (two seeds could become one) and flushes floats without a word.
    lost = values[~np.isclose(column, values, rtol=1e-6, atol=0)]
    if lost.size:
        raise ValueError(f"`{name}` must hold what {dtype} can (is x64 enabled?), got {lost[0]}.")
    return jnp.asarray(column)


@partial(jax.jit, static_argnums=0)
def _evaluate(names: tuple[str, ...], run: Partial, columns: tuple[jax.Array, ...]):
    """Evaluate `run` on the product of `columns`; leading axes of the result in their order."""

    def point(*values):
        outputs = run(**dict(zip(names, values, strict=True)))
        return _check_outputs(outputs, names)

    for i in reversed(range(len(columns))):
        point = jax.vmap(point, [0 if j == i else None for j in range(len(columns))])
    return point(*columns)


def _check_outputs(outputs: Any, names: tuple[str, ...]) -> dict[str, jax.Array]:
    rule = "`run` must return a dict of arrays by name"
    if not isinstance(outputs, Mapping) or not outputs:
        raise TypeError(f"{rule}, got {outputs!r}.")
    for name, value in outputs.items():
        number = isinstance(value, jax.Array | np.ndarray | np.generic | int | float)
        if not isinstance(name, str) or not number:
            raise TypeError(f"{rule}, got {value!r} for {name!r}.")
        if name in names:
            raise ValueError(f"`run` must not return the name of an axis, got {name!r}.")
    return {name: jnp.asarray(value) for name, value in outputs.items()}


def _dataset(grid: Grid, outputs, compile_seconds, run_seconds) -> xarray.Dataset:
    import xarray  # Slow to import, and of use only once there is a result.

    variables = {}
    for name, values in outputs.items():
        own = tuple(f"{name}_{i}" for i in range(values.ndim - len(grid)))
        variables[name] = ((*grid, *own), values)
    return xarray.Dataset(
        variables,
        coords=dict(grid),
        attrs={
            "runs": grid.size,
            "compile_seconds": compile_seconds,
            "run_seconds": run_seconds,
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "nested_jax": __version__,
        },
    )


def _progress_bar(shown: bool) -> rich.progress.Progress:
    console = rich.console.Console(stderr=True)
    return rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
