"""Chunks on the devices of this process."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.engine._chunks import check_memory, plan
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._tracing import Columns, Static, evaluate
from nested_jax.sweeps.grid import Grid
from nested_jax.sweeps.lanes import Layout

# A chunk's working memory that a CPU's caches serve: at four times as much, small networks train
# up to 40 % slower. Twice as much costs less than the second compilation that would avoid it.
CPU_CHUNK_BYTES = 8 * 2**20
# Lanes fill the widest vectors of float64 that a processor has; XLA would take half of them.
LANES_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_prefer_vector_width": "512",
    "xla_cpu_multi_thread_eigen": False,
}
# Of a device's memory, the share that a chunk may take.
MEMORY_SHARE = 0.8
# What a container may have of the machine's memory: control groups, version 2 and 1.
CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class LocalDevices:
    """All given devices of this process, a chunk on each at a time.

    The program is the same on one device and on many: a shard_map over a `run` axis of one chunk
    a device, without communication.

    Args:
        devices: What to run on; all of the default device's platform, if not given.

    Raises:
        TypeError: If `devices` is not a sequence of devices.
        ValueError: If there is no device.

    Example:
        >>> import jax
        >>> from nested_jax.sweeps import LocalDevices
        >>> LocalDevices(jax.devices()[:1]).wave
        1
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        if devices is None:
            config: Any = jax.config
            default = config.jax_default_device
            platform = getattr(default, "platform", default)
            devices = jax.local_devices(backend=platform)
        self.devices: list[Any] = [*devices] if isinstance(devices, Iterable) else [None]
        if not all(isinstance(device, jax.Device) for device in self.devices):
            rule = "`devices` must be a sequence of JAX's devices, such as jax.devices()[:1]"
            raise TypeError(f"{rule}, got {devices!r}.")
        if not self.devices:
            raise ValueError("`devices` must hold at least one device, got none.")
        self._mesh = Mesh(np.asarray(self.devices), ("run",), axis_types=(AxisType.Auto,))
        # The job and the static combination that were analysed last.
        self._analysed: tuple[Job | None, int] = None, 0

    @property
    def wave(self) -> int:
        """Number of chunks that are computed at the same time."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """Kind of the devices."""
        return self.devices[0].device_kind

    def plan(self, run: Partial, grid: Grid, chunk: int | str, layout: str) -> Job:
        """Return the job, with chunks of the size that these devices suggest."""
        return plan(run, grid, chunk, layout, self)

    def evaluate(
        self, job: Job, indices: Iterable[int]
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield (index, outputs as NumPy arrays) of the chunks `indices`, those done together."""
        run, in_flight = self._placed(job.run), None
        for static, group in itertools.groupby(indices, job.static):
            number, program = job.statics.index(static), None
            for wave in _batched(group, len(self.devices)):
                # A device without a chunk of its own repeats the last one: shapes never change.
                filled = [*wave] + [wave[-1]] * (len(self.devices) - len(wave))
                columns = _stacked([job.columns(index) for index in filled])
                if program is None:
                    program = self._compiled(job, number, run, columns)
                    # The analysis takes a while, and mostly the plan has made it.
                    if self._analysed[0] is not job or self._analysed[1] != number:
                        check_memory(job, _bytes(program), self.bytes_available())
                # Not waited for: what came before is stored meanwhile.
                running = wave, program(run, columns)
                if in_flight is not None:
                    yield _fetched(*in_flight)
                in_flight = running
        if in_flight is not None:
            yield _fetched(*in_flight)

    def _compiled(self, job: Job, static: int, run: Partial, columns: Columns) -> Any:
        """Return the program for one chunk a device; compiled once a shape."""
        layout = job.layouts(self.platform)[static]
        lowered = _wave.lower(self._mesh, job.statics[static], layout, run, columns)
        if layout is None:
            return lowered.compile()
        return or_else(partial(lowered.compile, LANES_OPTIONS), lowered.compile)

    def _placed(self, run: Partial) -> Partial:
        """Return `run` with what is bound to it on all devices, wherever it was."""
        return jax.device_put(run, NamedSharding(self._mesh, PartitionSpec()))

    def bytes_needed(self, job: Job, static: int = 0) -> int:
        """Return the memory of one chunk on its device, from XLA's own analysis."""
        _, columns = job.sample(static)
        filled = _stacked([columns] * len(self.devices))
        needed = _bytes(self._compiled(job, static, self._placed(job.run), filled))
        self._analysed = job, static
        return needed

    def bytes_available(self) -> int:
        """Return the memory that a chunk may take on its device."""
        stats = self.devices[0].memory_stats() or {}
        if "bytes_limit" in stats:
            return int(MEMORY_SHARE * stats["bytes_limit"])
        return int(MEMORY_SHARE * _memory_of_the_machine()) // len(self.devices)

    def bytes_wanted(self) -> int:
        """Return the memory that a chunk should take to be fast."""
        available = self.bytes_available()
        return min(available, CPU_CHUNK_BYTES) if self._is_cpu() else available

    def bytes_tolerated(self) -> int:
        """Return the memory beyond which another, smaller chunk is worth its compilation."""
        return min(self.bytes_available(), 2 * self.bytes_wanted())

    def _is_cpu(self) -> bool:
        return self.devices[0].platform == "cpu"


@partial(jax.jit, static_argnums=(0, 1, 2))
def _wave(
    mesh: Mesh, static: Static, layout: Layout | None, run: Partial, columns: Columns
) -> dict[str, jax.Array]:
    """Evaluate one chunk a device: columns, and results, with a leading axis of devices."""

    def on_device(run, columns):
        columns = jax.tree.map(lambda x: x[0], columns)
        return jax.tree.map(lambda x: x[None], evaluate(static, layout, run, columns))

    whole, run_axis = PartitionSpec(), PartitionSpec("run")
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(whole, run_axis), out_specs=run_axis, check_vma=False
    )(run, columns)


def _bytes(program: Any) -> int:
    stats = program.memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes


def _memory_of_the_machine() -> int:
    """Return the main memory, or what of it a container is allowed."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            total = min(total, int(file.read()))  # No number, but "max", where there is no limit.
    return total


def _fetched(wave: Sequence[int], outputs: Any) -> list[tuple[int, dict[str, Any]]]:
    """Wait for the outputs of a wave and return them by chunk."""
    outputs = jax.device_get(outputs)
    return [
        (index, {name: values[position] for name, values in outputs.items()})
        for position, index in enumerate(wave)
    ]


def _batched(indices: Iterable[int], size: int) -> Iterator[list[int]]:
    indices = iter(indices)
    while batch := [*itertools.islice(indices, size)]:
        yield batch


def _stacked(columns: Sequence[Columns]) -> Columns:
    return jax.tree.map(lambda *x: np.stack(x), *columns)
