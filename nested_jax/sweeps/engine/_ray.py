"""`RayWorkers`: the executor for Ray clusters, whose workers may die and restart."""

import dataclasses
import math
import statistics
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax._core.checks import check_below, check_non_negative, check_static_count
from nested_jax._core.extras import needs
from nested_jax.sweeps.engine._chunks import chunk_of
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._survey import survey
from nested_jax.sweeps.grid import Grid

# Maximum number of retries of a chunk whose worker died.
MAX_RETRIES = 20
# Ray is tested with up to 40,000 actors in a cluster. All are requested before the first answers.
MOST_WORKERS = 40_000
# A chunk is late after `LATE_TIMES` × the median duration, but not before `LATE_SECONDS`. With an
# idle worker, this is checked every `POLL_SECONDS`.
LATE_TIMES, LATE_SECONDS, POLL_SECONDS = 3, 10.0, 1.0
# JAX settings that affect results. Workers copy them from the driver.
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
    # The compilation cache, which spares a restarted worker its compilation.
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class RayWorkers:
    """An executor for `sweep` with Ray actors; each compiles once and computes chunks.

    A chunk is an idempotent task. If a worker dies, Ray restarts it, and its chunk is computed
    again. If the driver dies, the same call with the same `store` resumes. Needs the package ray
    (`pip install 'nested-jax[ray]'`).

    Args:
        workers: Number of actors, from 1 to 40,000, the most that Ray is tested with.
        gpus: GPUs per actor: 0, 1, or a fraction so that actors share one.
        cpus: CPU cores per actor, at least 0.
        **init: Passed to `ray.init` if Ray is not initialized, such as `address="auto"`.

    Raises:
        ImportError: If ray is not installed.
        TypeError, ValueError: If an argument has the wrong type or is out of range.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.sweeps import RayWorkers
        >>> workers = RayWorkers(8, gpus=1, address="auto")  # doctest: +SKIP
        >>> results = nj.sweep(run, grid, executor=workers, store="runs")  # doctest: +SKIP
    """

    def __init__(self, workers: int, *, gpus: float = 0, cpus: float = 1, **init: Any):
        check_static_count("workers", workers, 1)
        check_below("workers", workers, MOST_WORKERS + 1)
        check_non_negative("gpus", gpus)
        check_non_negative("cpus", cpus)
        with needs("nested_jax.sweeps.RayWorkers", "ray"):
            import ray
        if not ray.is_initialized():
            defaults: dict[str, Any] = {"log_to_driver": False}
            ray.init(**(defaults | init))
        options = {"num_gpus": gpus, "num_cpus": cpus, "max_restarts": -1}
        # Ray resubmits lost tasks by itself. Retries are limited: the chunk may kill its workers.
        actor: Any = ray.remote(**options, max_task_retries=MAX_RETRIES)(_Worker)
        self._actors: list[Any] = [actor.remote() for _ in range(workers)]
        self.platform: str = ray.get(self._actors[0].platform.remote())

    @property
    def wave(self) -> int:
        """Number of chunks computed at the same time."""
        return len(self._actors)

    def plan(self, run: Partial, grid: Grid, chunk: int | str, layout: str) -> Job:
        """Return the job, with chunks sized for a worker's device."""
        import ray

        parts = _settings(), _portable(run), grid
        shape: Any = ray.get(self._actors[0].plan.remote(parts, chunk, layout, self.wave))
        return Job(run, grid, shape, layout)

    def evaluate(
        self, job: Job, indices: Iterable[int]
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield (index, outputs as NumPy arrays) of the chunks `indices`, as they finish."""
        import ray

        # Keep one copy of the job in the cluster's memory, shared by all tasks.
        parts = ray.put(
            (uuid.uuid4().hex, _settings(), _portable(job.run), job.grid, job.chunk, job.layout)
        )
        todo, over = iter(indices), False
        # A worker gets its first chunk once it responds; it may still be waiting for resources.
        calls = {actor.platform.remote(): _Call(actor) for actor in self._actors}
        idle, unfinished = [], _Unfinished()
        while not over or unfinished.since:
            while idle and (not over or unfinished.late()):
                index = unfinished.repeat() if over else next(todo, None)
                if index is None:
                    over = True
                    continue
                actor = idle.pop()
                calls[actor.compute.remote(parts, index)] = _Call(actor, index)
                unfinished.begin(index)
            if over and not unfinished.since:
                return
            # With an idle worker, check regularly whether a chunk is late.
            patience = POLL_SECONDS if over and idle else None
            ready, _ = ray.wait([*calls], num_returns=1, timeout=patience)
            for done in ready:
                call = calls.pop(done)
                outputs = ray.get(done)
                idle.append(call.actor)
                if unfinished.end(call.index):
                    yield [outputs]

    def shutdown(self) -> None:
        """Stop the workers; the cluster keeps running."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


@dataclasses.dataclass(frozen=True)
class _Call:
    actor: Any
    index: int | None = None


class _Unfinished:
    """The chunks in progress, and which of them are late.

    Ray may fail to recover a lost worker, or a worker may wait forever for resources to restart.
    Therefore, once no other chunks are left, a late chunk is computed a second time on an idle
    worker, and the first result counts.
    """

    def __init__(self):
        self.since: dict[int, float] = {}
        self._repeated: set[int] = set()
        self._durations: list[float] = []

    def begin(self, index: int) -> None:
        self.since.setdefault(index, time.monotonic())

    def end(self, index: int | None) -> bool:
        """Record that a chunk finished; return whether this is its first result."""
        if index not in self.since:
            return False
        self._durations.append(time.monotonic() - self.since.pop(index))
        return True

    def late(self) -> list[int]:
        """Return the late chunks that were not repeated yet, oldest first."""
        if not self._durations:
            return []
        patience = max(LATE_SECONDS, LATE_TIMES * statistics.median(self._durations))
        before = time.monotonic() - patience
        late = [i for i, since in self.since.items() if since < before and i not in self._repeated]
        return sorted(late, key=self.since.__getitem__)

    def repeat(self) -> int:
        index = self.late()[0]
        self._repeated.add(index)
        return index


class _Worker:
    """The actor: computes chunks in its own process."""

    def __init__(self):
        from nested_jax.sweeps.engine._local import LocalDevices

        # Use one device; with several, each would compute the same chunk.
        self._devices = LocalDevices(jax.local_devices()[:1])
        self._runs: dict[Any, Any] = {}
        self._job: tuple[str, Job] | None = None

    def platform(self) -> str:
        return self._devices.platform

    def plan(self, parts: Any, chunk: int | str, layout: str, workers: int) -> tuple[int, ...]:
        settings, run, grid = parts
        _apply(settings)
        job = self._devices.plan(self._restored(run), grid, chunk, layout)
        if chunk != "auto" or job.chunks >= workers:
            return job.chunk
        shape = [axis.size for axis in grid.values() if not axis.static]
        work, _ = survey(job.run, grid)
        return chunk_of(shape, math.prod(job.chunk), work, -(-workers // len(job.statics)))

    def compute(self, parts: Any, index: int) -> tuple[int, dict[str, np.ndarray]]:
        name, settings, run, grid, chunk, layout = parts
        if self._job is None or self._job[0] != name:
            _apply(settings)
            self._job = name, Job(self._restored(run), grid, chunk, layout)
        ((done,),) = self._devices.evaluate(self._job[1], [index])
        return done

    def _restored(self, portable: Any) -> Partial:
        # Unpickle only once: JAX would compile a second copy of the function again.
        pickled, leaves = portable
        if pickled not in self._runs:
            self._runs[pickled] = jax.tree.structure(_pickle().loads(pickled))
        return jax.tree.unflatten(self._runs[pickled], [_leaf(*leaf) for leaf in leaves])


def _settings() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in SETTINGS}


def _apply(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)


def _pickle() -> Any:
    from ray import cloudpickle

    return cloudpickle


def _portable(run: Partial) -> tuple[bytes, list[Any]]:
    """Return `run` in a form that can be pickled, with PRNG keys as their raw data."""
    leaves, structure = jax.tree.flatten(run)
    # A tree structure cannot be pickled; a tree can.
    template = jax.tree.unflatten(structure, range(len(leaves)))
    return _pickle().dumps(template), [_packed(leaf) for leaf in leaves]


def _packed(leaf: Any) -> tuple[str | None, Any]:
    if not isinstance(leaf, jax.Array):
        return None, leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf))
    # Python scalars, and the weakly typed JAX scalars made from them, promote unlike other arrays.
    return None, leaf.item() if leaf.weak_type and not leaf.ndim else np.asarray(leaf)


def _leaf(kind: str | None, value: Any) -> Any:
    return value if kind is None else jax.random.wrap_key_data(value, impl=kind)
