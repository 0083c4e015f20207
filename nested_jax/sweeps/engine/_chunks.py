"""Choose the shape of a chunk from the work that runs share, the memory and the devices."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._stage import Stage
from nested_jax.sweeps.engine._survey import bytes_carried_by, survey
from nested_jax.sweeps.grid import Grid
from nested_jax.sweeps.lanes import LANES

# Overhead of a wave of chunks, as a share of the work of the largest chunk allowed.
OVERHEAD = 0.05
# Target size of a loop carry in lanes: it must fit into the second-level cache of one core, beside
# other data. With a carry five times as large, the level sweep takes 1.6 times as long per run.
LANES_BYTES = 3 * 2**18
# A chunk of a sweep that stops runs is at most this part of the grid, per device.
PIECES_OF_A_GRID = 8
# Maximum number of shapes that are compared.
MOST_SHAPES = 100_000


def chunk_of(
    shape: Sequence[int], runs: int, work: Mapping[int, float] | None = None, devices: int = 1
) -> tuple[int, ...]:
    """Return the block shape, of at most `runs` points, that finishes a grid soonest.

    All blocks have the same shape; those at the end of an axis are padded. `devices` blocks are
    computed at a time. Among equally good shapes, the largest wins, then the one that cuts the
    outermost axes.

    Args:
        shape: Number of points along each axis.
        runs: Maximum number of points per block.
        work: Mask of axes -> work per point that depends on exactly these axes. By default, all
            work depends on all axes.
        devices: Number of blocks computed at the same time.
    """
    shape = tuple(shape)
    whole = (1 << len(shape)) - 1
    # Every point at least writes its own result.
    work = dict(work or {})
    work[whole] = max(work.get(whole, 0.0), 1.0)
    lengths = [_lengths(length) for length in shape]
    while math.prod(len(each) for each in lengths) > MOST_SHAPES:
        longest = max(range(len(shape)), key=lambda i: len(lengths[i]))
        lengths[longest] = [*lengths[longest][:-1:2], lengths[longest][-1]]
    blocks = np.array([*itertools.product(*lengths)], np.int64)
    blocks = blocks[blocks.prod(1) <= max(runs, 1)]
    waves = np.ceil(np.ceil(np.array(shape) / blocks).prod(1) / devices)
    cost = waves * (_work(blocks, work) + OVERHEAD * _work(blocks, work).max())
    # Sort by cost (rounded to remove noise), then the largest blocks, then the outermost cuts.
    order = np.lexsort([*blocks.T[::-1], -blocks.prod(1), np.round(cost / cost.min(), 6)])
    return tuple(blocks[order[0]].tolist())


def _lengths(length: int) -> list[int]:
    """Return the possible part lengths when an axis is cut into nearly equal parts."""
    # A part of n is as short as the number of parts is large: past √n, every length occurs.
    root = math.isqrt(length) + 2
    long = {-(-length // pieces) for pieces in range(1, min(root, length) + 1)}
    return sorted(long | {n for n in range(1, root + 1) if n * (n - 1) < length})


def _work(blocks: np.ndarray, work: Mapping[int, float]) -> np.ndarray:
    total = np.zeros(len(blocks))
    for mask, operations in work.items():
        along = [i for i in range(blocks.shape[1]) if mask >> i & 1]
        total += operations * blocks[:, along].prod(1)
    return total


def plan(run: Any, grid: Grid, runs: int | str, layout: str, devices: Any) -> Job:
    """Return the job with chunks of at most `runs` points, or sized for memory and devices.

    With "auto", the first plan has as many chunks as devices, or more where the loops of lanes
    would carry too much. If XLA's memory analysis of that program finds that it needs too much,
    chunks shrink in proportion, which costs a second compilation. If there are several programs,
    only the one estimated to need the most memory is analysed.

    Raises:
        MemoryError: If a chunk does not fit into memory.
    """
    shape = tuple(axis.size for axis in grid.values() if not axis.static)
    work, heaviest = survey(run, grid)
    if runs != "auto":
        # The shape, and so the bits, must not depend on the number of devices.
        job = Job(run, grid, chunk_of(shape, int(runs), work), layout)
        check_memory(job, devices.bytes_needed(job, heaviest), devices.bytes_available())
        return job
    at_once = devices.wave * jax.process_count()

    def job_of(most: int) -> Job:
        return Job(run, grid, chunk_of(shape, most, work, at_once), layout)

    job = job_of(math.prod(shape))
    points = most = math.prod(job.chunk)
    # What a loop carries is known before anything compiles.
    if job.layouts(devices.platform)[heaviest] is not None:
        carried = bytes_carried_by(job, heaviest)
        if carried > 2 * LANES_BYTES:  # With fewer than LANES points, lanes do not pay off.
            most = max(int(points * LANES_BYTES / carried), LANES)
            job = job_of(min(most, points))
    needed, points = devices.bytes_needed(job, heaviest), math.prod(job.chunk)
    if needed > devices.bytes_tolerated() and points > 1:
        job = job_of(min(most, int(points * devices.bytes_wanted() / needed)))
        needed = devices.bytes_needed(job, heaviest)
    check_memory(job, needed, devices.bytes_available())
    return job


def plan_stages(job: Stage, runs: int | str, devices: Any) -> Stage:
    """Return the job with chunks of at most `runs` points, or of at most an eighth of the grid.

    Small chunks let the runs that go on be packed into fewer of them, on every device. With "auto"
    they shrink further if memory (on CPU, the caches) requires it.

    Raises:
        ValueError: If a chunk of `runs` points cannot hold the axes in `over`.
        MemoryError: If a chunk does not fit into memory.
    """
    together = math.prod(job.shape[1:])
    if runs != "auto" and int(runs) < together:
        rule = f"`chunk` must hold the axes in `over`, which are {together} runs"
        raise ValueError(f"{rule}, got {runs}.")
    most = job.shape[0] // (PIECES_OF_A_GRID * devices.wave) if runs == "auto" else int(runs)
    cells = min(max(most if runs == "auto" else most // together, 1), job.per_static)
    state = job.carried or ()
    heaviest = max(range(len(state)), key=lambda at: sum(leaf.nbytes for leaf in state[at]))
    job = dataclasses.replace(job, chunk=(cells, *job.shape[1:]))
    needed = devices.bytes_needed(job, heaviest)
    if runs == "auto":
        points = math.prod(job.chunk)
        wanted = points
        if needed > devices.bytes_tolerated():
            wanted = int(points * devices.bytes_wanted() / needed)
        if job.layouts(devices.platform)[heaviest] is not None:
            carried = bytes_carried_by(job, heaviest)
            if carried > 2 * LANES_BYTES:
                wanted = min(wanted, max(int(points * LANES_BYTES / carried), LANES))
        if wanted < points and cells > 1:
            job = dataclasses.replace(job, chunk=(max(wanted // together, 1), *job.shape[1:]))
            needed = devices.bytes_needed(job, heaviest)
    check_memory(job, needed, devices.bytes_available())
    return job


def check_memory(job: Job, needed: int, available: int) -> None:
    """Raise if a chunk does not fit into memory.

    Raises:
        MemoryError: If it does not; the message says how much it needs and what to pass.
    """
    runs = math.prod(job.chunk)
    if needed <= available:
        return
    message = (
        f"`chunk` must fit into memory: one of {runs} needs {needed / 2**30:.3g} GiB of "
        f"{available / 2**30:.3g} GiB a device"
    )
    if runs == 1:
        raise MemoryError(f"{message}; a run has to be made smaller.")
    raise MemoryError(f"{message}; pass chunk={max(int(runs * available / needed), 1)} or less.")
