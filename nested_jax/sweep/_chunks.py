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
    """Return the block that cuts `shape` into at least `pieces` parts, outermost axes first."""
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
        _check_memory(job, devices)
        return job
    job = Job(run, grid, in_pieces(shape, devices.wave))
    needed, wanted = devices.bytes_needed(job), devices.bytes_wanted()
    if needed > wanted and math.prod(job.chunk) > 1:
        pieces = devices.wave * math.ceil(needed / wanted)
        job = Job(run, grid, in_pieces(shape, min(pieces, math.prod(shape))))
        _check_memory(job, devices)
    return job


def _check_memory(job: Job, devices: Any) -> None:
    needed, available = devices.bytes_needed(job), devices.bytes_available()
    if needed > available:
        size = math.prod(job.chunk)
        advice = max(int(size * available / needed), 1)
        raise MemoryError(
            f"`chunk` must fit into memory: {size} runs at once need {needed / 2**30:.2f} GiB of "
            f"{available / 2**30:.2f} GiB a device; pass chunk={advice} or less."
        )
