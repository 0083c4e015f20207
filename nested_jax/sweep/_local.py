"""Chunks on the devices of this process."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from nested_jax.sweep._chunks import plan
from nested_jax.sweep._grid import Grid
from nested_jax.sweep._job import Columns, Job, Static, evaluate

# A chunk's working memory that a CPU's caches serve: at four times as much, small networks train
# up to 40 % slower. Twice as much costs less than the second compilation that would avoid it.
CPU_CHUNK_BYTES = 8 * 2**20
# Of a device's memory, the share that a chunk may take.
MEMORY_SHARE = 0.8


class LocalDevices:
    """All given devices of this process, a chunk on each at a time.

    The program is the same on one device and on many: a shard_map over a `run` axis of one chunk
    a device, without communication.

    Args:
        devices: What to run on; all of the default device's platform, if not given.

    Raises:
        ValueError: If there is no device.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        if devices is None:
            config: Any = jax.config
            default = config.jax_default_device
            platform = getattr(default, "platform", default)
            devices = jax.local_devices(backend=platform)
        self.devices = [*devices]
        if not self.devices:
            raise ValueError("`devices` must hold at least one device, got none.")
        self._mesh = Mesh(np.asarray(self.devices), ("run",), axis_types=(AxisType.Auto,))

    @property
    def wave(self) -> int:
        """Number of chunks that are computed at the same time."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """Kind of the devices."""
        return self.devices[0].device_kind

    def plan(self, run: Partial, grid: Grid, chunk: int | str) -> Job:
        """Return the job, with chunks of the size that these devices suggest."""
        return plan(run, grid, chunk, self)

    def evaluate(
        self, job: Job, indices: Iterable[int]
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield (index, outputs as NumPy arrays) of the chunks `indices`, those done together."""
        by_static: dict[int, list[int]] = {}
        each = job.chunks // len(job.statics)
        for index in indices:
            by_static.setdefault(index // each, []).append(index)
        run = self._placed(job.run)
        for at, group in by_static.items():
            for start in range(0, len(group), len(self.devices)):
                wave = group[start : start + len(self.devices)]
                # A device without a chunk of its own repeats the last one: shapes never change.
                filled = [*wave] + [wave[-1]] * (len(self.devices) - len(wave))
                columns = _stacked([job.columns(index) for index in filled])
                program = self._compiled(job.statics[at], run, columns)
                outputs = jax.device_get(program(run, columns))
                yield [
                    (index, {name: values[position] for name, values in outputs.items()})
                    for position, index in enumerate(wave)
                ]

    def _compiled(self, static: Static, run: Partial, columns: Columns) -> Any:
        """Return the program for one chunk a device; compiled once a shape."""
        return _wave.lower(self._mesh, static, run, columns).compile()

    def _placed(self, run: Partial) -> Partial:
        """Return `run` with what is bound to it on all devices, wherever it was."""
        return jax.device_put(run, NamedSharding(self._mesh, PartitionSpec()))

    def bytes_needed(self, job: Job) -> int:
        """Return the memory of one chunk on its device, from XLA's own analysis."""
        needed, run = 0, self._placed(job.run)
        for static, columns in job.samples():
            compiled = self._compiled(static, run, _stacked([columns] * len(self.devices)))
            stats = compiled.memory_analysis()
            needed = max(needed, stats.temp_size_in_bytes + stats.output_size_in_bytes)
        return needed

    def bytes_available(self) -> int:
        """Return the memory that a chunk may take on its device."""
        stats = self.devices[0].memory_stats() or {}
        if "bytes_limit" in stats:
            return int(MEMORY_SHARE * stats["bytes_limit"])
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return int(MEMORY_SHARE * total) // len(self.devices)

    def bytes_wanted(self) -> int:
        """Return the memory that a chunk should take to be fast."""
        available = self.bytes_available()
        return min(available, CPU_CHUNK_BYTES) if self._is_cpu() else available

    def bytes_tolerated(self) -> int:
        """Return the memory beyond which another, smaller chunk is worth its compilation."""
        return min(self.bytes_available(), 2 * self.bytes_wanted())

    def _is_cpu(self) -> bool:
        return self.devices[0].platform == "cpu"


@partial(jax.jit, static_argnums=(0, 1))
def _wave(mesh: Mesh, static: Static, run: Partial, columns: Columns) -> dict[str, jax.Array]:
    """Evaluate one chunk a device: columns, and results, with a leading axis of devices."""

    def on_device(run, columns):
        columns = jax.tree.map(lambda x: x[0], columns)
        outputs, _ = evaluate(static, run, columns)
        return jax.tree.map(lambda x: x[None], outputs)

    whole, run_axis = PartitionSpec(), PartitionSpec("run")
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(whole, run_axis), out_specs=run_axis, check_vma=False
    )(run, columns)


def _stacked(columns: Sequence[Columns]) -> Columns:
    return jax.tree.map(lambda *x: np.stack(x), *columns)
