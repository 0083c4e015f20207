"""Geometry of a sweep that is cut into chunks of one shape."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jax.tree_util import Partial

from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.engine._tracing import Columns, Static, split, trace
from nested_jax.sweeps.grid import Axis, Grid, column_in_jax
from nested_jax.sweeps.lanes import Layout, layout_of


@dataclasses.dataclass(frozen=True)
class Job:
    """A function on a grid, in chunks of one shape.

    A chunk is a block of the numeric axes at one combination of the static ones. All chunks have
    the same shape: the last chunk along an axis is padded with the axis's last value. A result
    therefore does not depend on which chunks are computed together, where, or on how many devices.

    Attributes:
        run: The swept function.
        grid: The points.
        chunk: Length of a chunk along each numeric axis.
        layout: "auto", "lanes" or "vmap", as for `sweep`.
    """

    run: Partial
    grid: Grid
    chunk: tuple[int, ...]
    layout: str = "auto"

    @property
    def numeric(self) -> tuple[Axis, ...]:
        """The numeric axes, which are vmapped or laid out as lanes."""
        return tuple(axis for axis in self.grid.values() if not axis.static)

    @cached_property
    def statics(self) -> tuple[Static, ...]:
        """All combinations of the static axes; the last axis varies fastest."""
        axes = [axis for axis in self.grid.values() if axis.static]
        products = itertools.product(*(range(axis.size) for axis in axes))
        return tuple(
            tuple((axis.name, axis.columns[axis.name][i]) for axis, i in zip(axes, at, strict=True))
            for at in products
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of chunks along each numeric axis."""
        return tuple(-(-a.size // c) for a, c in zip(self.numeric, self.chunk, strict=True))

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return len(self.statics) * int(np.prod(self.blocks, dtype=np.int64))

    def static(self, index: int) -> Static:
        """Return the values of the static axes in a chunk."""
        return self.statics[index // (self.chunks // len(self.statics))]

    def runs(self, index: int) -> int:
        """Return the number of points of a chunk without padding."""
        return math.prod(at.stop - at.start for at in self._slices(index))

    def columns(self, index: int) -> Columns:
        """Return the numeric values of a chunk, in JAX's default precision."""
        return tuple(
            {key: _padded(column_in_jax(key, column[at]), length) for key, column in columns}
            for columns, at, length in zip(
                (axis.columns.items() for axis in self.numeric),
                self._slices(index),
                self.chunk,
                strict=True,
            )
        )

    def place(
        self, index: int, results: Mapping[str, np.ndarray], outputs: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Write a chunk's outputs without padding into `results`; return them."""
        block = self.chunks // len(self.statics)
        at_static = iter(np.unravel_index(index // block, self._static_shape or (1,)))
        slices = iter(self._slices(index))
        where, cut = [], []
        for axis in self.grid.values():
            if axis.static:
                where.append(int(next(at_static)))
                continue
            at = next(slices)
            where.append(at)
            cut.append(slice(at.stop - at.start))
        own = {name: values[tuple(cut)] for name, values in outputs.items()}
        for name, values in own.items():
            results[name][tuple(where)] = values
        return own

    @property
    def _static_shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.grid.values() if axis.static)

    def _slices(self, index: int) -> list[slice]:
        """Return the positions of a chunk along each numeric axis, without padding."""
        block = np.unravel_index(index % (self.chunks // len(self.statics)), self.blocks or (1,))
        return [
            slice(int(at) * length, min((int(at) + 1) * length, axis.size))
            for axis, length, at in zip(self.numeric, self.chunk, block, strict=False)
        ]

    def sample(self, at: int) -> tuple[Static, Columns]:
        """Return the static combination number `at`, with the columns of its first chunk."""
        return self.statics[at], self._first_columns

    def layouts(self, platform: str) -> tuple[Layout | None, ...]:
        """Return the layout for each combination of the static axes; None means vmap."""
        # The short innermost loops of vmap are slow on CPU only.
        in_lanes = self.layout == "lanes" or (self.layout == "auto" and platform == "cpu")
        return self._layouts if in_lanes else (None,) * len(self.statics)

    @cached_property
    def _first_columns(self) -> Columns:
        # The same for all static combinations. Long axes take a while to convert.
        return self.columns(0)

    @cached_property
    def _layouts(self) -> tuple[Layout | None, ...]:
        whole = self._whole

        def layout(static: Static, columns: Columns) -> Layout | None:
            program = trace(static, self.run, columns).jaxpr
            axes, carried = split(columns)
            always, state = self.layout == "lanes", len(carried or ())
            return or_else(lambda: layout_of(program, axes, whole, always, state), lambda: None)

        return tuple(layout(*sample) for sample in self.samples())

    @property
    def _whole(self) -> list[bool]:
        """Whether all chunks have the same numbers along an axis."""
        return [pieces == 1 for pieces in self.blocks]

    def samples(self) -> Iterator[tuple[Static, Columns]]:
        """Yield the sample of each combination of the static axes."""
        return map(self.sample, range(len(self.statics)))


def _padded(column: np.ndarray, length: int) -> np.ndarray:
    missing = length - column.size
    return np.append(column, np.repeat(column[-1:], missing)) if missing else column


def whole(run: Partial, grid: Grid, layout: str = "auto") -> Job:
    """Return the job with one chunk per combination of the static axes."""
    return Job(run, grid, tuple(axis.size for axis in grid.values() if not axis.static), layout)
