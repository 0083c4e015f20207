"""Split a sweep over the processes of `jax.distributed`; each returns the full result."""

import contextlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from nested_jax.sweeps.engine._job import Job


def share_of_this_process(chunks: int) -> list[int]:
    """Return the chunks that this process computes."""
    return [*range(jax.process_index(), chunks, jax.process_count())]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Wait for all processes at the end; raise if one of them failed.

    Otherwise the other processes would wait for its results until JAX's coordinator ends them all.

    Raises:
        RuntimeError: If another process failed.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax.experimental import multihost_utils

    failed = True
    try:
        yield
        failed = False
    finally:
        everyone = np.asarray(multihost_utils.process_allgather(np.array(failed)))
    if everyone.any():
        raise RuntimeError(
            f"Process {everyone.argmax()} of {everyone.size} failed, and says why; what others "
            "stored is there for the next call."
        )


def gather(results: dict[str, np.ndarray], mine: Sequence[int], job: Job) -> None:
    """Fill in the results of the other processes, in place."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    mask = np.zeros(job.grid.shape, bool)
    for index in mine:
        job.place(index, {"mask": mask}, {"mask": np.ones(job.chunk, bool)})
    for values in results.values():
        # Send bytes, which works for every dtype. JAX without x64 would truncate 64-bit numbers.
        own = np.zeros((*values.shape, values.itemsize), np.uint8)
        bits = np.ascontiguousarray(values).view(np.uint8).reshape(own.shape)
        own[mask] = bits[mask]
        everyone = np.asarray(multihost_utils.process_allgather(own))
        # Each point was computed by one process and is zero in all others.
        total = np.bitwise_or.reduce(everyone, axis=0)
        values[...] = total.reshape(-1).view(values.dtype).reshape(values.shape)
