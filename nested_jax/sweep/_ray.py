"""Chunks on the workers of a Ray cluster, which may die and come back."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax._checks import check_non_negative, check_static_count
from nested_jax.sweep._grid import Grid
from nested_jax.sweep._job import Job


class RayWorkers:
    """An executor for `sweep`: Ray actors, each of which compiles once and computes chunks.

    A chunk is an idempotent task. When a worker dies, Ray starts it anew, and the chunk that it
    was at is computed again; when the driver dies, the same call with the same `store` goes on
    where it was. Needs the package ray (`pip install nested-jax[ray]`).

    Args:
        workers: Number of actors, at least 1.
        gpus: GPUs of each; a fraction lets workers share one.
        cpus: CPU cores of each.
        **init: Passed to `ray.init` if Ray is not initialized, such as `address="auto"`.

    Raises:
        ImportError: If ray is not installed.
        TypeError, ValueError: If a number is of the wrong kind or out of range.
    """

    def __init__(self, workers: int, *, gpus: float = 0, cpus: float = 1, **init: Any):
        check_static_count("workers", workers, 1)
        check_non_negative("gpus", gpus)
        check_non_negative("cpus", cpus)
        try:
            import ray
        except ImportError as error:
            message = "`RayWorkers` needs the package ray: pip install nested-jax[ray]."
            raise ImportError(message) from error
        if not ray.is_initialized():
            ray.init(**({"log_to_driver": False} | init))
        # Ray sends a lost task again by itself, as often as it takes.
        options = {"num_gpus": gpus, "num_cpus": cpus, "max_restarts": -1, "max_task_retries": -1}
        actor = ray.remote(**options)(_Worker)
        x64 = bool(jax.config.jax_enable_x64)
        self._actors = [actor.remote(x64) for _ in range(workers)]
        self.platform: str = ray.get(self._actors[0].platform.remote())
        self.wave = 1

    def plan(self, run: Partial, grid: Grid, chunk: int | str) -> Job:
        """Return the job, with chunks of the size that a worker's devices suggest."""
        import ray

        shape = ray.get(self._actors[0].plan.remote(_portable(run), grid, chunk, len(self._actors)))
        return Job(run, grid, shape)

    def evaluate(self, job: Job, indices: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (index, outputs as NumPy arrays) of the chunks `indices`, in the order they come."""
        import ray
        from ray.util import ActorPool

        # One copy of the job in the cluster's memory, whatever the number of tasks.
        parts = ray.put((_portable(job.run), job.grid, job.chunk))
        pool = ActorPool(self._actors)
        yield from pool.map_unordered(
            lambda worker, index: worker.compute.remote(parts, index), [*indices]
        )

    def shutdown(self) -> None:
        """End the workers; the cluster stays."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


class _Worker:
    """What runs in an actor's process."""

    def __init__(self, x64: bool):
        jax.config.update("jax_enable_x64", x64)
        from nested_jax.sweep._local import LocalDevices

        self._devices = LocalDevices()
        self._job: tuple[Any, Job] | None = None

    def platform(self) -> str:
        return self._devices.platform

    def plan(self, run: Any, grid: Grid, chunk: int | str, workers: int) -> tuple[int, ...]:
        from nested_jax.sweep._chunks import in_pieces

        job = self._devices.plan(_restored(run), grid, chunk)
        if chunk != "auto" or job.chunks >= workers:
            return job.chunk
        shape = [axis.size for axis in grid.values() if not axis.static]
        return in_pieces(shape, workers)

    def compute(self, parts: Any, index: int) -> tuple[int, dict[str, np.ndarray]]:
        run, grid, chunk = parts
        # Restored once: a function that was restored again would be compiled again.
        if self._job is None or self._job[0] != run[0]:
            self._job = run[0], Job(_restored(run), grid, chunk)
        return next(self._devices.evaluate(self._job[1], [index]))


def _portable(run: Partial) -> Any:
    """Return what can be sent to another process: keys, which cannot, as their data."""
    import ray.cloudpickle

    leaves, structure = jax.tree.flatten(run)
    packed = []
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            implementation = str(jax.random.key_impl(leaf))
            packed.append((implementation, np.asarray(jax.random.key_data(leaf))))
        else:
            packed.append((None, np.asarray(leaf)))
    template = jax.tree.unflatten(structure, range(len(leaves)))
    return ray.cloudpickle.dumps(template), packed


def _restored(portable: Any) -> Partial:
    import ray.cloudpickle

    pickled, packed = portable
    template = ray.cloudpickle.loads(pickled)
    leaves = [
        jnp.asarray(values) if kind is None else jax.random.wrap_key_data(values, impl=kind)
        for kind, values in packed
    ]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
