"""Extend a stored sweep: what the store has is loaded, and only new points are computed.

A store holds one grid. Points that a later, larger grid adds lie in stores of their own in its
folder, `more-0001-<hash>` and so on, each with a grid that is a product again. Say a store has two
rates and two seeds, and the new grid three of each:

        seed 0   1   2
    rate a   0   0   2      0: the store
         b   0   0   2      1: more-0001, the new rate with all seeds
         c   1   1   1      2: more-0002, the old rates with the new seed
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nested_jax.sweeps.engine import Store
from nested_jax.sweeps.grid import Axis, Grid, plain, restricted

# Positions along each axis of a grid: a product of some of its points.
Block = tuple[Sequence[int], ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a grid that is a grid itself, with a store of its own.

    Attributes:
        grid: Its points.
        block: Where they are in the whole grid.
        store: Where its chunks are, or None.
    """

    grid: Grid
    block: Block
    store: Store | None

    def place(self, results: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> None:
        """Write the results of this part into those of the whole grid."""
        where = np.ix_(*self.block)
        for name, values in own.items():
            results[name][where] = values


def parts_of(grid: Grid, store: Store | None) -> list[Part]:
    """Divide a grid into the parts that its store has, in order, and new parts.

    There is one part, with `grid` itself, if the store is new or of this grid, or has points that
    `grid` lacks, and will refuse it.

    Raises:
        ValueError, OSError: If the store cannot be read.
    """
    whole: Block = tuple(map(range, grid.shape))
    block = None if store is None else _block_of(grid, store)
    if store is None or block in (None, whole):
        return [Part(grid, whole, store)]
    assert block is not None
    parts = [Part(restricted(grid, block), block, store)]
    rest = [*_without(whole, block)]
    for folder in sorted(store.folder.glob("more-*")):
        more = Store(folder)
        # Another extension may have gone another way.
        if (block := _block_of(grid, more)) is not None:
            parts.append(Part(restricted(grid, block), block, more))
            rest = [piece for each in rest for piece in _without(each, block)]
    for block in rest:
        own = restricted(grid, block)
        text = json.dumps(own.describe(), sort_keys=True)
        # Processes that extend a store at the same time choose the same name.
        name = f"more-{len(parts):04d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        parts.append(Part(own, block, Store(store.folder / name)))
    return parts


def _block_of(grid: Grid, store: Store) -> Block | None:
    """Return where the points of a store are in a grid; None if it is new or has others."""
    axes = (store.recorded() or {}).get("grid", [])
    if [name for name, _ in axes] != [*grid]:
        return None
    along = [_positions(grid[name], columns) for name, columns in axes]
    return None if None in along else tuple(at for at in along if at is not None)


def _positions(axis: Axis, described: Mapping[str, Any]) -> Sequence[int] | None:
    """Return where an axis has the points that a manifest lists; None if it lacks one."""
    if described == axis.describe():
        return range(axis.size)
    # Of a long axis the manifest has a hash alone.
    if described.keys() != axis.columns.keys() or not all(
        isinstance(column, list) for column in described.values()
    ):
        return None
    places: dict[Any, list[int]] = {}
    for at, point in enumerate(zip(*map(plain, axis.columns.values()), strict=True)):
        places.setdefault(point, []).append(at)
    points = zip(*(described[name] for name in axis.columns), strict=True)
    try:
        return tuple(places[point].pop(0) for point in points)  # Zipped values may repeat.
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _without(block: Block, other: Block) -> Iterator[Block]:
    """Yield blocks that together have the points of one block that are not in another."""
    if not all({*mine} & {*theirs} for mine, theirs in zip(block, other, strict=True)):
        yield block
        return
    before: Block = ()
    for i, theirs in enumerate(map(set, other)):
        new = tuple(at for at in block[i] if at not in theirs)
        if new:
            yield (*before, new, *block[i + 1 :])
        before = (*before, tuple(at for at in block[i] if at in theirs))
