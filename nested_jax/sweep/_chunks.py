"""How large a chunk is."""

import math
from collections.abc import Sequence
from typing import Any

from nested_jax.sweep._grid import Grid
from nested_jax.sweep._job import Job


def chunk_of(shape: Sequence[int], runs: int) -> tuple[int, ...]:
    """Return the block of at most `runs` points that keeps the inner axes of `shape` whole.

    The axis that has to be cut is cut into nearly equal parts, so that little is filled up.
    """
    chunk: list[int] = []
    for length in reversed(shape):
        most = max(min(length, runs), 1)
        pieces = math.ceil(length / most)
        chunk.insert(0, math.ceil(length / pieces))
        runs = runs // length if most == length else 1
    return tuple(chunk)


def in_pieces(shape: Sequence[int], pieces: int) -> tuple[int, ...]:
    """Return the block that shares `shape` out among `pieces`, outermost axes first."""
    chunk = []
    for length in shape:
        size = math.ceil(length / min(length, pieces))
        chunk.append(size)
        pieces = math.ceil(pieces / math.ceil(length / size))
    return tuple(chunk)


def plan(run: Any, grid: Grid, runs: int | str, devices: Any) -> Job:
    """Return the job with chunks of at most `runs` points, or as memory and devices suggest.

    With "auto" there are as many chunks as devices. Where XLA's analysis of that program finds
    that it would take too much memory, chunks are as much smaller: a second compilation.

    Raises:
        MemoryError: If a chunk does not fit into memory.
    """
    shape = tuple(axis.size for axis in grid.values() if not axis.static)
    if runs != "auto":
        job = Job(run, grid, chunk_of(shape, int(runs)))
        _check_memory(job, devices.bytes_needed(job), devices)
        return job
    job = Job(run, grid, in_pieces(shape, devices.wave))
    needed = devices.bytes_needed(job)
    if needed > devices.bytes_tolerated() and math.prod(job.chunk) > 1:
        share = devices.bytes_wanted() / needed
        job = Job(run, grid, chunk_of(shape, int(math.prod(job.chunk) * share)))
        needed = devices.bytes_needed(job)
    _check_memory(job, needed, devices)
    return job


def _check_memory(job: Job, needed: int, devices: Any) -> None:
    available, runs = devices.bytes_available(), math.prod(job.chunk)
    if needed <= available:
        return
    message = (
        f"`chunk` must fit into memory: one of {runs} needs {needed / 2**30:.3g} GiB of "
        f"{available / 2**30:.3g} GiB a device"
    )
    if runs == 1:
        raise MemoryError(f"{message}; a run has to be made smaller.")
    raise MemoryError(f"{message}; pass chunk={max(int(runs * available / needed), 1)} or less.")
