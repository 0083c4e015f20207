"""What a sweep asks of whatever computes its chunks."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from jax.tree_util import Partial

from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.grid import Grid


@runtime_checkable
class Executor(Protocol):
    """Computes the chunks of a sweep: on this process's devices, on Ray, or elsewhere.

    Attributes:
        platform: Kind of the devices, such as "cpu"; a store belongs to one kind.
        wave: Number of chunks that are computed at the same time.

    Example:
        >>> from nested_jax.sweeps import Executor, LocalDevices
        >>> isinstance(LocalDevices(), Executor)
        True
    """

    @property
    def platform(self) -> str: ...

    @property
    def wave(self) -> int: ...

    def plan(self, run: Partial, grid: Grid, chunk: int | str, layout: str) -> Job:
        """Return the job, cut into chunks of at most `chunk` runs, or "auto"."""
        ...

    def evaluate(
        self, job: Job, indices: Iterable[int]
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield lists of (chunk's index, its outputs as NumPy arrays), in any order.

        The outputs have the chunk's full shape. An index is taken from `indices` only when its
        chunk is begun: Ctrl-C ends them early.
        """
        ...
