"""The protocol of executors, which compute the chunks of a sweep."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from jax.tree_util import Partial

from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.grid import Grid


@runtime_checkable
class Executor(Protocol):
    """Computes the chunks of a sweep, on the devices of this process, on Ray, or elsewhere.

    Attributes:
        platform: Kind of the devices, such as "cpu". A store is tied to one kind.
        wave: Number of chunks computed at the same time.

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
        """Return the job, cut into chunks of at most `chunk` runs or, if "auto", of any size."""
        ...

    def evaluate(
        self, job: Job, indices: Iterable[int]
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield lists of (chunk index, outputs as NumPy arrays), in any order.

        The outputs have the chunk's full shape, padding included. Take an index from `indices` only
        when its chunk starts, because Ctrl-C ends `indices` early.
        """
        ...
