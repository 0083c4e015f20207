"""How much work a grid is, along which axes it is shared, and how much memory its loops need."""

from collections import defaultdict
from functools import partial

from jax.tree_util import Partial

from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.engine._job import Job, whole
from nested_jax.sweeps.engine._tracing import masks_of_inputs, trace
from nested_jax.sweeps.grid import Grid
from nested_jax.sweeps.lanes import bytes_carried, bytes_held, work_by_axes


def survey(run: Partial, grid: Grid) -> tuple[dict[int, float], int]:
    """Return what work depends on which axes, for a point, and which static one holds most.

    The axes are a mask over the numeric ones; the static combination is told by its number.
    """
    job = whole(run, grid)
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
    """Return what a job's loops hand from step to step, for a combination of the static axes."""
    static, columns = job.sample(at)
    program = trace(static, job.run, columns).jaxpr
    masks = masks_of_inputs(program, columns)
    return or_else(lambda: bytes_carried(program.jaxpr, masks, job.chunk), int)
