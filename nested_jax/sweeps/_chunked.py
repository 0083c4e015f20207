"""Compute a sweep chunk by chunk: each is loaded from the store, or computed and stored."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.tree_util import Partial

from nested_jax.sweeps._extension import Part, parts_of
from nested_jax.sweeps.engine import (
    Executor,
    Interruption,
    Job,
    Progress,
    Store,
    Structure,
    digest,
    fingerprint_of,
    gather,
    origin_of,
    share_of_this_process,
    together,
)
from nested_jax.sweeps.grid import Grid

Arrays = dict[str, np.ndarray]


class Chunked:
    """A sweep in chunks.

    A sweep that extends the grid of its store has several parts, one after the other; every other
    sweep is one part.

    Attributes:
        runs_per_chunk: Runs per chunk, the most of all parts.
        compile_seconds: Time until the first chunk, the sum of all parts.
        attributes: What else the dataset says.
    """

    def __init__(
        self,
        run: Partial,
        grid: Grid,
        structure: Structure,
        executor: Executor,
        kept: Store | None,
        chunk: int | str,
        layout: str,
    ):
        self.run, self.grid, self.structure = run, grid, structure
        self.executor, self.kept = executor, kept
        self.chunk, self.layout = chunk, layout
        self.runs_per_chunk, self.compile_seconds = 0, 0.0
        self.attributes: dict[str, Any] = {}

    def compute(self, bar: Progress) -> Arrays:
        """Load or compute all chunks; return the results in the shape of the grid."""
        parts = parts_of(self.grid, self.kept)
        if parts[0].grid is self.grid:
            return self._computed(parts[0], bar)
        whole, hashes = self._room(self.grid), []
        for part in parts:
            part.place(whole, self._computed(part, bar))
            hashes.append(self.attributes["configuration"])
        self.attributes["configuration"] = digest({"parts": hashes})
        return whole

    def _computed(self, part: Part, bar: Progress) -> Arrays:
        """Return the results of a part, of all processes."""
        started = time.perf_counter()
        job, origin = self._planned(part), None
        if part.store is not None:
            fingerprint = fingerprint_of(job, self.executor.platform)
            part.store.claim(fingerprint)
            self.attributes["configuration"] = digest(fingerprint)
            origin = origin_of(job, fingerprint)
        self.compile_seconds += time.perf_counter() - started
        self.runs_per_chunk = max(self.runs_per_chunk, math.prod(job.chunk))
        mine = share_of_this_process(job.chunks)
        results = self._room(part.grid)
        with together():
            self._fill(results, job, mine, part.store, origin, bar)
        gather(results, mine, job)
        return results

    def _planned(self, part: Part) -> Job:
        """Return the job; an existing store determines the chunk shape."""
        recorded = None if part.store is None else part.store.recorded()
        axes = [axis.size for axis in part.grid.values() if not axis.static]
        if recorded is not None and len(recorded.get("chunk", ())) == len(axes):
            shape = tuple(recorded["chunk"])
            if self.chunk == "auto" or math.prod(shape) <= int(self.chunk):
                return Job(self.run, part.grid, shape, self.layout)
        return self.executor.plan(self.run, part.grid, self.chunk, self.layout)

    def _room(self, grid: Grid) -> Arrays:
        return {
            name: np.empty(grid.shape + shape, dtype)
            for name, (shape, dtype) in self.structure.items()
        }

    def _fill(
        self,
        results: Arrays,
        job: Job,
        mine: list[int],
        kept: Store | None,
        origin: Callable[[int], bytes] | None,
        bar: Progress,
    ) -> None:
        """Write the chunks of this process into `results`."""
        axes = len(job.numeric)
        missing = dict.fromkeys(mine)
        if kept is not None and origin is not None:
            structure = {
                name: (job.chunk + shape, dtype) for name, (shape, dtype) in self.structure.items()
            }
            for index, stored in kept.load(mine, origin, structure):
                bar.add(job.place(index, results, stored), axes)
                del missing[index]
        # A process that computes a share of this part is taken to compute that share of the grid.
        alone = len(mine) == job.chunks
        share = 1.0 if alone else sum(map(job.runs, mine)) / job.grid.size
        bar.running(round(self.grid.size * share))
        with Interruption() as interruption:
            # After Ctrl-C, no further chunk starts; those in flight still finish.
            todo = itertools.takewhile(lambda _: not interruption.asked, [*missing])
            waves: Any = self.executor.evaluate(job, todo)
            with contextlib.closing(waves):
                for index, outputs in itertools.chain.from_iterable(waves):
                    if kept is not None and origin is not None:
                        kept.save(index, outputs, origin(index))
                    bar.add(job.place(index, results, outputs), axes)
                    bar.memory(getattr(self.executor, "chunk_bytes", 0))
                    del missing[index]
        # Raise even after the last chunk: Ctrl-C means to stop the script.
        if interruption.asked:
            raise KeyboardInterrupt(_how_to_go_on(kept, len(mine) - len(missing), len(mine)))


def _how_to_go_on(kept: Store | None, stored: int, total: int) -> str:
    if kept is None:
        return "Stopped; nothing was stored. Pass store= to be able to go on."
    return (
        f"Stopped with {stored} of {total} chunks stored in {kept.folder}; the same call goes on."
    )
