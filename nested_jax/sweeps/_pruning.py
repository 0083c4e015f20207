"""Compute a sweep stage by stage, and stop runs between two stages by a rule."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax.sweeps._stopping import REASONS, STOPPED_AT, STOPPED_BECAUSE, Stopping
from nested_jax.sweeps.engine import (
    CARRY,
    REPORT,
    Interruption,
    LocalDevices,
    Progress,
    Stage,
    Store,
    Structure,
    advance,
    digest,
    fingerprint_of,
    origin_of,
    plan_stages,
    stages_of,
    start,
    state_of,
)
from nested_jax.sweeps.grid import Grid

Arrays = dict[str, np.ndarray]


class Pruning:
    """A sweep in stages, of which a rule stops some runs after each.

    The state of all runs is kept in the memory of the host between stages. The runs that go on are
    packed into as few chunks as hold them, all of one shape and computed by one program: which runs
    share a chunk changes no bit of a run.

    With a store, a chunk of a stage has two files: the state of its runs, removed when the next
    stage is complete, and their reports, which tell what the rule decided.

    Attributes:
        runs_per_chunk: Runs per chunk.
        compile_seconds: Time until the first chunk.
        attributes: What else the dataset says.
    """

    def __init__(
        self,
        run: Partial,
        grid: Grid,
        stop: Stopping,
        structure: Structure,
        devices: LocalDevices,
        kept: Store | None,
        chunk: int | str,
        layout: str,
    ):
        _check(grid, stop, structure)
        self.run, self.stop, self.structure = run, stop, structure
        self.devices, self.kept = devices, kept
        self.stages = stages_of(run, grid)
        self.job = Stage(start(run), grid, (), over=stop.over)
        self.chunk, self.layout = chunk, layout
        self.runs_per_chunk, self.compile_seconds = 0, 0.0
        self.attributes: dict[str, Any] = {"stages": self.stages}
        self.fingerprint: dict[str, Any] = {}
        self.programs: tuple[dict[int, Any], dict[int, Any]] = {}, {}

    def compute(self, bar: Progress) -> Arrays:
        """Load or compute all stages; return the results in the shape of the grid."""
        started = time.perf_counter()
        self._plan()
        if self.kept is not None:
            self._claim(self.kept)
            self.attributes["configuration"] = digest(self.fingerprint)
        self.runs_per_chunk = math.prod(self.job.chunk)
        self.compile_seconds = time.perf_counter() - started
        return self._computed(bar)

    def _plan(self) -> None:
        """Choose the shape of a chunk; an existing store determines it."""
        job = dataclasses.replace(self.job, layout=self.layout, chunk=(1, *self.job.shape[1:]))
        job = dataclasses.replace(job, cells=np.arange(job.shape[0]))
        job = dataclasses.replace(job, carried=state_of(job), run=advance(self.run, 0))
        recorded = None if self.kept is None else self.kept.recorded()
        shape = tuple((recorded or {}).get("chunk", ()))
        fits = len(shape) == len(job.shape) and shape[1:] == job.shape[1:]
        if fits and (self.chunk == "auto" or math.prod(shape) <= int(self.chunk)):
            self.job = dataclasses.replace(job, chunk=shape)
        else:
            self.job = plan_stages(job, self.chunk, self.devices)

    def _claim(self, store: Store) -> None:
        """Write the manifest, or check that the store is of this sweep."""
        platform = self.devices.platform
        first = dataclasses.replace(self.job, run=start(self.run), carried=None)
        programs = fingerprint_of(first, platform)["programs"]
        rule = dataclasses.asdict(self.stop) | {"over": [*self.stop.over]}
        self.fingerprint = fingerprint_of(self.job, platform) | {
            "start": programs,
            "stages": self.stages,
            "stop": rule,
        }
        store.claim(self.fingerprint)

    def _computed(self, bar: Progress) -> Arrays:
        shape = self.job.shape
        results = {
            name: np.zeros(shape + own, dtype) for name, (own, dtype) in self.structure.items()
        }
        at, why = np.full(shape[0], self.stages), np.zeros(shape[0], int)
        stage, cells = self._resumed(results, at, why, bar)
        bar.running(self.job.grid.size)
        while stage < self.stages and cells.size:
            self._advance(dataclasses.replace(self.job, cells=cells), stage, results)
            cells = self._decide(cells, stage, results, at, why, bar)
            bar.memory(self.devices.chunk_bytes)
            self._tidy(stage)
            stage += 1
        self._tidy(self.stages)
        over = shape[1:]
        because = np.array(REASONS)[why]
        for name, values in ((STOPPED_AT, at), (STOPPED_BECAUSE, because)):
            whole = values.reshape(shape[:1] + (1,) * len(over))
            results[name] = np.broadcast_to(whole, shape)
        return {name: self.job.in_grid(values) for name, values in results.items()}

    def _decide(self, cells, stage, results, at, why, bar) -> np.ndarray:
        """Note which cells end after a stage, and why; return the others."""
        done = stage + 1
        values = results[self.stop.by][cells]
        codes = self.stop.reasons(values, done, self.stages, self.job.shape[0])
        why[cells], at[cells[codes > 0]] = codes, done
        ended = (codes > 0) | (done == self.stages)
        if ended.any():
            reports = {name: results[name][cells[ended]] for name in self.structure}
            bar.add(reports, len(self.job.shape))
        return cells[~ended]

    def _resumed(self, results, at, why, bar) -> tuple[int, np.ndarray]:
        """Load what is stored; return the stage to go on with, and the cells that reach it."""
        cells, stage, before = self.job.cells, 0, None
        if self.kept is None:
            return stage, cells
        while stage < self.stages and cells.size:
            job = dataclasses.replace(self.job, cells=cells)
            reports = dict(self._load(job, stage, REPORT))
            if len(reports) < job.chunks:
                break
            for index, report in reports.items():
                job.place(index, results, report)
            cells, stage, before = self._decide(cells, stage, results, at, why, bar), stage + 1, job
        if before is None or stage == self.stages or not cells.size:
            return stage, cells
        # The state of every run that goes on is needed; if some of it is damaged, all begins anew.
        wanted = [i for i in range(before.chunks) if np.isin(before.members(i), cells).any()]
        states = dict(self._load(before, stage - 1, CARRY, wanted))
        if len(states) < len(wanted):
            at[:], why[:] = self.stages, 0
            return 0, self.job.cells
        for index, state in states.items():
            before.keep(index, [*state.values()])
        return stage, cells

    def _advance(self, job: Stage, stage: int, results: Arrays) -> None:
        """Compute the chunks of a stage that are not stored."""
        last = stage == self.stages - 1
        missing = dict.fromkeys(range(job.chunks))
        # What is stored of a stage that is not complete.
        states = {} if self.kept is None or last else dict(self._load(job, stage, CARRY))
        for index, report in () if self.kept is None else self._load(job, stage, REPORT):
            if last or index in states:
                job.place(index, results, report)
                if not last:
                    job.keep(index, [*states[index].values()])
                del missing[index]
        with Interruption() as interruption:

            def todo() -> Iterator[int]:
                return itertools.takewhile(lambda _: not interruption.asked, [*missing])

            if stage == 0:
                first = dataclasses.replace(job, run=start(self.run), carried=None)
                for index, outputs in self._evaluated(first, todo(), self.programs[0]):
                    job.keep(index, [*outputs.values()])
            job = dataclasses.replace(job, run=advance(self.run, stage))
            for index, outputs in self._evaluated(job, todo(), self.programs[1]):
                state, report = _parted(outputs)
                self._save(job, stage, index, {} if last else state, report)
                job.keep(index, [*state.values()])
                job.place(index, results, report)
                del missing[index]
        if interruption.asked:
            raise KeyboardInterrupt(self._how_to_go_on(stage))

    def _evaluated(self, job, todo, programs) -> Iterator[tuple[int, Arrays]]:
        yield from itertools.chain.from_iterable(self.devices.evaluate(job, todo, programs))

    @property
    def _most(self) -> int:
        return self.job.chunks

    def _number(self, stage: int, kind: str, index: int) -> int:
        """Return the number of a file."""
        return 2 * (stage * self._most + index) + (kind == REPORT)

    def _origin(self, job: Stage, stage: int, kind: str) -> Callable[[int], bytes]:
        fingerprint = self.fingerprint | {"stage": stage, "kind": kind}
        return origin_of(dataclasses.replace(job, carried=None), fingerprint)

    def _save(self, job: Stage, stage: int, index: int, state: Arrays, report: Arrays) -> None:
        if self.kept is None:
            return
        # The report comes last: where it is, the state is, too.
        for kind, arrays in ((CARRY, state), (REPORT, report)):
            if arrays:
                origin = self._origin(job, stage, kind)(index)
                self.kept.save(self._number(stage, kind, index), arrays, origin)

    def _load(
        self, job: Stage, stage: int, kind: str, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Arrays]]:
        """Yield the reports or the states of a stage's chunks that are stored."""
        assert self.kept is not None
        origin = self._origin(job, stage, kind)
        for static, group in itertools.groupby(indices or range(job.chunks), job.static):
            by_file = {self._number(stage, kind, index): index for index in group}
            structure = {
                name: (job.chunk + shape, dtype) for name, (shape, dtype) in self.structure.items()
            }
            if kind == CARRY:
                leaves = (job.carried or ())[job.statics.index(static)]
                structure = {
                    f"{CARRY}{i:06d}": (job.chunk[:1] + leaf.shape[1:], leaf.dtype)
                    for i, leaf in enumerate(leaves)
                }
            for number, arrays in self.kept.load(
                [*by_file], lambda number, names=by_file: origin(names[number]), structure
            ):
                yield by_file[number], arrays

    def _tidy(self, stage: int) -> None:
        """Remove the states of all stages before one."""
        if self.kept is not None:
            numbers = itertools.product(range(stage), range(self._most))
            self.kept.remove(self._number(before, CARRY, index) for before, index in numbers)

    def _how_to_go_on(self, stage: int) -> str:
        if self.kept is None:
            return "Stopped; nothing was stored. Pass store= to be able to go on."
        return f"Stopped in stage {stage} of {self.stages}; the same call goes on."


def _parted(outputs: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
    """Return the state and the report among the outputs of a chunk."""
    state = {name: values for name, values in outputs.items() if name.startswith(CARRY)}
    report = {
        name.removeprefix(REPORT): values
        for name, values in outputs.items()
        if name.startswith(REPORT)
    }
    return state, report


def _check(grid: Grid, stop: Stopping, structure: Structure) -> None:
    numeric = [name for name, axis in grid.items() if not axis.static]
    for name in stop.over:
        if name not in numeric:
            raise ValueError(f"`over` must be numeric axes of the grid {numeric}, got {name!r}.")
    if {*stop.over} >= {*numeric}:
        rule = "`grid` must have a numeric axis outside `over` if there is a `stop`"
        raise ValueError(f"{rule}, got {numeric}.")
    if stop.by not in structure:
        raise ValueError(f"`by` must be one of the results {[*structure]}, got {stop.by!r}.")
    shape, dtype = structure[stop.by]
    if shape or not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        got = f"{stop.by!r} of {dtype}{[*shape]}"
        raise ValueError(f"`by` must be a result with one real number per run, got {got}.")
    for name in (STOPPED_AT, STOPPED_BECAUSE):
        if name in structure or name in grid or name in grid.arguments:
            raise ValueError(
                f"`stop` adds a result of this name: the grid and `report` must not, got {name!r}."
            )
