"""Estimate the work of a grid, along which axes it is shared, and the memory of its loops."""

from collections import defaultdict
from functools import partial

from jax.tree_util import Partial

from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._tracing import masks_of_inputs, trace
from nested_jax.sweeps.grid import Grid
from nested_jax.sweeps.lanes import bytes_carried, bytes_held, work_by_axes


def survey(run: Partial, grid: Grid) -> tuple[dict[int, float], int]:
    """Return the work per point by axes, and the static combination that needs the most memory.

    The work is a dict: mask of numeric axes -> operations per point that depend on these axes. The
    static combination is given by its number.
    """
    # One point of each program: to trace it takes no values.
    job = Job(run, grid, (1,) * sum(not axis.static for axis in grid.values()))
    work: defaultdict[int, float] = defaultdict(float)
    held = []
    for static, columns in job.samples():
        program = trace(static, run, columns).jaxpr
        masks = masks_of_inputs(program, columns)
        counted = or_else(partial(work_by_axes, program, masks), dict[int, int])
        for mask, operations in counted.items():
            work[mask] += operations
        held.append(or_else(partial(bytes_held, program.jaxpr), int))
    return work, max(range(len(held)), key=held.__getitem__)


def bytes_carried_by(job: Job, at: int) -> int:
    """Return the bytes of the largest loop carry of a job, for a static combination."""
    static, columns = job.sample(at)
    program = trace(static, job.run, columns).jaxpr
    masks = masks_of_inputs(program, columns)
    return or_else(lambda: bytes_carried(program.jaxpr, masks, job.chunk), int)
