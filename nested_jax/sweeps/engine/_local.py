"""`LocalDevices`: the executor that computes chunks on the devices of this process."""

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
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._tracing import Columns, Program, Static, program_of
from nested_jax.sweeps.grid import Grid
from nested_jax.sweeps.lanes import Layout

# Working memory of a chunk that fits into the caches of a CPU. With four times as much, small
# networks train up to 40 % slower. Twice as much costs less than the second compilation that would
# avoid it.
CPU_CHUNK_BYTES = 8 * 2**20
# Compiler options for lanes. XLA by default fills only half of the widest float64 vectors.
LANES_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_prefer_vector_width": "512",
    "xla_cpu_multi_thread_eigen": False,
}
# Largest share of a device's memory for a chunk.
MEMORY_SHARE = 0.8
# Files with the memory limit of a container: control groups, version 2 and 1.
CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class LocalDevices:
    """An executor that computes one chunk at a time on each given device of this process.

    The program is the same on one device and on many: a `shard_map` over a `run` axis with one
    chunk per device, without communication.

    Args:
        devices: The devices; by default all of the default device's platform.

    Raises:
        TypeError: If `devices` is not a sequence of JAX devices.
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
        self.devices: list[Any] = [*devices] if isinstance(devices, Sequence) else [None]
        if not all(isinstance(device, jax.Device) for device in self.devices):
            rule = "`devices` must be a sequence of JAX's devices, such as jax.devices()[:1]"
            raise TypeError(f"{rule}, got {devices!r}.")
        if not self.devices:
            raise ValueError("`devices` must hold at least one device, got none.")
        if len({*self.devices}) < len(self.devices):
            raise ValueError(f"`devices` must differ from each other, got {self.devices}.")
        self._mesh = Mesh(np.asarray(self.devices), ("run",), axis_types=(AxisType.Auto,))
        # The job and the static combination that were analysed most recently, their program and
        # its memory in bytes.
        self._analysed: tuple[Job | None, int, Any, int] = None, 0, None, 0

    @property
    def wave(self) -> int:
        """Number of chunks computed at the same time."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """Kind of the devices."""
        return self.devices[0].device_kind

    @property
    def chunk_bytes(self) -> int:
        """Memory in bytes of a chunk of the program compiled last, on its device; 0 before."""
        return self._analysed[3]

    def plan(self, run: Partial, grid: Grid, chunk: int | str, layout: str) -> Job:
        """Return the job, with chunks sized for these devices."""
        return plan(run, grid, chunk, layout, self)

    def evaluate(
        self, job: Job, indices: Iterable[int], programs: dict[int, Any] | None = None
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Yield (index, outputs as NumPy arrays) of the chunks `indices`, one list per wave.

        `programs` holds compiled programs by static combination, from one call to the next; jobs
        that share them differ in bound values and in points alone.
        """
        run, in_flight = self._placed(job.run), None
        for static, group in itertools.groupby(indices, job.static):
            number, compiled = job.statics.index(static), {} if programs is None else programs
            for wave in _batched(group, len(self.devices)):
                # A device without a chunk repeats the last one, so that shapes never change.
                filled = [*wave] + [wave[-1]] * (len(self.devices) - len(wave))
                columns = _stacked([job.columns(index) for index in filled])
                if number not in compiled:
                    compiled[number] = self._checked(job, number, run, columns)
                # Dispatch without waiting: the previous wave is stored meanwhile.
                running = wave, compiled[number](run, columns)
                if in_flight is not None:
                    yield _fetched(*in_flight)
                in_flight = running
        if in_flight is not None:
            yield _fetched(*in_flight)

    def _checked(self, job: Job, static: int, run: Partial, columns: Columns) -> Any:
        """Return the program, whose memory was analysed: usually the one that `plan` compiled."""
        analysed, number, program, _ = self._analysed
        if analysed is job and number == static:
            return program
        program = self._compiled(job, static, run, columns)
        self._analysed = job, static, program, _bytes(program)
        check_memory(job, self.chunk_bytes, self.bytes_available())
        return program

    def _compiled(self, job: Job, static: int, run: Partial, columns: Columns) -> Any:
        """Return the program for one chunk per device; compiled once per shape."""
        layout = job.layouts(self.platform)[static]
        # One chunk's columns: shapes are read, and no numbers.
        program = program_of(job.statics[static], job.run, job.sample(static)[1])
        lowered = _wave.lower(self._mesh, job.statics[static], layout, program, run, columns)
        if layout is None:
            return lowered.compile()
        return or_else(partial(lowered.compile, LANES_OPTIONS), lowered.compile)

    def _placed(self, run: Partial) -> Partial:
        """Return `run` with its bound arrays copied to all devices."""
        return jax.device_put(run, NamedSharding(self._mesh, PartitionSpec()))

    def bytes_needed(self, job: Job, static: int = 0) -> int:
        """Return the memory in bytes of one chunk on its device, from XLA's analysis."""
        _, columns = job.sample(static)
        wave = (len(self.devices),)
        filled = jax.tree.map(lambda x: jax.ShapeDtypeStruct(wave + x.shape, x.dtype), columns)
        program = self._compiled(job, static, self._placed(job.run), filled)
        self._analysed = job, static, program, _bytes(program)
        return self.chunk_bytes

    def bytes_available(self) -> int:
        """Return the largest memory in bytes that a chunk may use on its device."""
        stats = self.devices[0].memory_stats() or {}
        if "bytes_limit" in stats:
            return int(MEMORY_SHARE * stats["bytes_limit"])
        return int(MEMORY_SHARE * _memory_of_the_machine()) // len(self.devices)

    def bytes_wanted(self) -> int:
        """Return the memory in bytes at which a chunk is fast."""
        available = self.bytes_available()
        return min(available, CPU_CHUNK_BYTES) if self._is_cpu() else available

    def bytes_tolerated(self) -> int:
        """Return the memory in bytes above which a smaller chunk is worth recompiling."""
        return min(self.bytes_available(), 2 * self.bytes_wanted())

    def _is_cpu(self) -> bool:
        return self.devices[0].platform == "cpu"


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _wave(
    mesh: Mesh,
    static: Static,
    layout: Layout | None,
    program: Program,
    run: Partial,
    columns: Columns,
) -> dict[str, jax.Array]:
    """Evaluate one chunk per device; columns and results have a leading device axis."""

    def on_device(run, columns):
        columns = jax.tree.map(lambda x: x[0], columns)
        return jax.tree.map(lambda x: x[None], evaluate(static, layout, program, run, columns))

    whole, run_axis = PartitionSpec(), PartitionSpec("run")
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(whole, run_axis), out_specs=run_axis, check_vma=False
    )(run, columns)


def _bytes(program: Any) -> int:
    stats = program.memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes


def _memory_of_the_machine() -> int:
    """Return the main memory in bytes, or the container's limit if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            total = min(total, int(file.read()))  # The file says "max" if there is no limit.
    return total


def _fetched(wave: Sequence[int], outputs: Any) -> list[tuple[int, dict[str, Any]]]:
    """Wait for the outputs of a wave; return them by chunk."""
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
