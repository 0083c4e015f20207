"""Choose the layout of a chunk from the jaxpr of one point: lanes or vmap, and which pieces.

Many runs of a grid do not use all of the program. A run with two momentum levels, for example,
computes the third stage of the cascade and discards it: `jnp.where(stage <= levels, new, old)` is a
`select_n` between both results. Its predicate depends only on numbers of the grid, which are known
before anything compiles. If all points of a piece select the same operand, the interpreter takes
that operand directly. Nothing uses the other operand any more, so XLA removes it and all work that
only it needs.

The decision has three steps:

1. Follow the known numbers of one axis through the jaxpr with NumPy (`_know`), one value per point.
   Anything that depends on another axis, on data or on a draw is unknown (None). This yields the
   choices: the known scalar predicates of `select_n`.
2. Take the axis with the most choices that differ between its points. Sort its points by the sum of
   these choices, and split them into at most `PIECES` pieces (`_pieces`). Points that choose alike
   end up together.
3. Follow the numbers of each piece again. Scalars that are the same at all of its points go into
   `Layout.alike`, by their place in the jaxpr. The interpreter uses them as constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import is_traced
from nested_jax._core.jaxpr import (
    CALLS,
    all_eqns,
    bodies,
    body_of,
    is_literal,
    parameter,
    parameters,
    scan_of,
)
from nested_jax.sweeps.lanes._interpreter import Layout, Path, float_bytes, masks_of
from nested_jax.sweeps.lanes._rules import is_native
from nested_jax.sweeps.lanes._sharing import called, follow, operations

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr

# Worked example: levels 1..4 and 30 seeds, 120 runs in float32.
#
#     def run(levels, seed):
#         out = seed
#         for stage in (2, 3, 4):
#             out = jnp.where(stage <= levels, jnp.sin(out), out)
#         return out
#
#     levels       1  2 | 3  4     piece (1, 2)           piece (3, 4)
#     2 <= levels  0  1 | 1  1     differs: select_n      always 1: take sin
#     3 <= levels  0  0 | 1  1     always 0: skip sin     always 1: take sin
#     4 <= levels  0  0 | 0  1     always 0: skip sin     differs: select_n
#     sum          0  1 | 2  3     <- the points are sorted by this, then split
#
# The three predicates are the choices, and all of them differ along levels, so levels is split.
# There are two pieces because 120 runs fill only two with `LANES_OF_A_PIECE` = 60 lanes each.
# `layout_of` returns pieces ((0, 1), (2, 3)), as positions along the axis. The piece with levels 1
# and 2 skips stages 3 and 4 for all of its 60 runs. A `select_n` remains only where a predicate
# differs within a piece: stage 2 in the first piece, stage 4 in the second.

# Most pieces of an axis. More save little, and each is compiled and dispatched separately in every
# step.
PIECES = 4
# Lanes that keep the vectors of a piece full, by bytes per float.
LANES_OF_A_PIECE = {4: 60, 8: 45}
# Lanes pay off from this many loop steps and points.
STEPS, LANES = 100, 64
# They pay off up to this much work per equation and point, mostly its array's entries. Beyond it,
# the innermost loop of a kernel is long enough without lanes. Pieces save work, so they pay off
# further.
ENTRIES, ENTRIES_IN_PIECES = 64, 2048
# Largest share of the work without a rule. It is vmapped, which moves the lanes to the front and
# back.
FOREIGN_SHARE = 0.05
# Random draws take equally long either way, since one kernel draws for many steps. Not counted.
RANDOM = ("random_", "threefry")
# Largest array that is followed, in entries.
MOST_KNOWN = 2**12

# Elementwise primitives through which grid numbers are followed, with their NumPy functions.
NUMPY = {
    "add": np.add,
    "and": np.bitwise_and,
    "copy": np.array,
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "stop_gradient": np.array,
    "sub": np.subtract,
}


def layout_of(
    program: ClosedJaxpr,
    columns: Sequence[Mapping[str, np.ndarray]],
    whole: Sequence[bool],
    always: bool = False,
    carried: int = 0,
) -> Layout | None:
    """Return the layout of a chunk's points, or None if vmap should be faster.

    Args:
        program: The jaxpr of one point; its first arguments are the same for all points.
        columns: Its next arguments: the numbers of a chunk, one mapping per axis.
        whole: For each axis, whether all chunks have the same numbers. Chunks share one program,
            so only then may the program depend on the numbers.
        always: Whether to return a layout even where vmap should be faster.
        carried: Number of its last arguments, which depend on all axes.
    """
    sizes = [len(next(iter(axis.values()))) for axis in columns]
    inputs = [mask for mask, axis in zip(masks_of(sizes), columns, strict=True) for _ in axis]
    inputs += [sum(masks_of(sizes))] * carried
    bound = len(program.jaxpr.invars) - len(inputs)
    masks = [0] * bound + inputs
    known = _Inputs(bound, [jax.tree.leaves(axis) for axis in columns], carried)
    alike: dict[Path, Any] = {}
    mixed: dict[int, np.ndarray] = {}
    for i in range(len(columns)):
        if whole[i] and sizes[i] > 1:
            scalars, choices = _followed(program, known.along(i))
            alike |= _alike(scalars)
            mixed[i] = np.array([chosen for chosen in choices if np.ptp(chosen)])
    axis = max(mixed, key=lambda i: len(mixed[i]), default=-1)
    in_pieces = axis >= 0 and len(mixed[axis]) > 0
    if not always and not _pays(program, masks, sizes, ENTRIES_IN_PIECES if in_pieces else ENTRIES):
        return None
    if not in_pieces:
        return Layout(-1, ((),), (frozenset(alike.items()),))
    pieces = _pieces(mixed[axis], math.prod(sizes))
    found = [alike | _alike(_followed(program, known.along(axis, piece))[0]) for piece in pieces]
    return Layout(axis, pieces, tuple(frozenset(each.items()) for each in found))


class _Inputs(NamedTuple):
    """What is known about a jaxpr's inputs.

    Attributes:
        bound: Number of leading inputs, whose values are unknown.
        numbers: The columns of the next inputs, by axis; within an axis, sorted by name.
        carried: Number of trailing inputs, whose values are unknown.
    """

    bound: int
    numbers: Sequence[Sequence[np.ndarray]]
    carried: int

    def along(self, axis: int, at: Sequence[int] | None = None) -> list[np.ndarray | None]:
        """Return the inputs of one axis, at all positions or those in `at`; None for the rest."""
        known: list[np.ndarray | None] = [None] * self.bound
        for i, columns in enumerate(self.numbers):
            own = [column if at is None else column[[*at]] for column in columns if i == axis]
            known += own or [None] * len(columns)
        return known + [None] * self.carried


def _pays(program: ClosedJaxpr, masks: Sequence[int], sizes: Sequence[int], entries: int) -> bool:
    """Return whether a program is a long loop over small arrays, for many points."""
    refused = [eqn for eqn in all_eqns(program.jaxpr) if _is_entered(eqn)]
    if refused or math.prod(sizes) < LANES:
        return False
    total = foreign = served = 0.0

    def visit(eqn, mask, times):
        nonlocal total, foreign, served
        if eqn.primitive.name.startswith(RANDOM):
            return
        points = math.prod(size for i, size in enumerate(sizes) if mask >> i & 1)
        own = operations(eqn)
        total += times * points * own
        if mask and not is_native(eqn):
            foreign += times * points * own
            refused.extend(body for body in bodies(eqn))
        if times >= STEPS and points >= LANES and own <= entries:
            served += times * points * own
        refused.extend(eqn.effects)

    follow(program.jaxpr, masks, visit)
    return not refused and foreign <= FOREIGN_SHARE * total and served > total / 2


def _is_entered(eqn: Any) -> bool:
    """Return whether `follow` enters an equation's function but the interpreter does not."""
    name = eqn.primitive.name
    if name in CALLS or name == "scan":
        return False
    return called(eqn) is not None or name in ("while", "cond")


def _pieces(mixed: np.ndarray, points: int) -> tuple[tuple[int, ...], ...]:
    """Split the positions along an axis so that points that choose alike share a piece."""
    most = max(points // LANES_OF_A_PIECE[float_bytes()], 1)
    number = min(PIECES, mixed.shape[1], most)
    order = np.argsort(mixed.sum(0), kind="stable")
    return tuple(tuple(sorted(part.tolist())) for part in np.array_split(order, number))


def _alike(scalars: Mapping[Path, np.ndarray]) -> dict[Path, Any]:
    """Return the scalars that are the same at all points."""
    # Compare bits: 0 and -0 differ, and NaN equals itself. `Layout`s are compared the same way.
    bits = {path: np.ascontiguousarray(x).view(np.uint8) for path, x in scalars.items()}
    return {path: x[0].tobytes() for path, x in scalars.items() if _is_constant(bits[path], len(x))}


def _is_constant(bits: np.ndarray, points: int) -> bool:
    rows = bits.reshape(points, -1)
    return bool((rows == rows[0]).all())


def _followed(
    program: ClosedJaxpr, inputs: Sequence[np.ndarray | None]
) -> tuple[dict[Path, np.ndarray], list[np.ndarray]]:
    """Return a program's known scalars by their place in the jaxpr, and its known choices."""
    scalars: dict[Path, np.ndarray] = {}
    choices: list[np.ndarray] = []
    _know(program.jaxpr, program.consts, inputs, (), scalars, choices)
    return scalars, choices


def _know(jaxpr: Jaxpr, consts, inputs, path: Path, scalars, choices) -> list:
    """Follow arrays of shape (own axes, points) through a jaxpr; None means unknown."""
    known = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return _constant(atom.val) if is_literal(atom) else known.get(atom)

    for i, eqn in enumerate(jaxpr.eqns):
        given, at = [read(atom) for atom in eqn.invars], (*path, i)
        outputs: list = [None] * len(eqn.outvars)
        if eqn.primitive.name in CALLS:
            outputs = _know(*body_of(eqn), given, at, scalars, choices)
        elif eqn.primitive.name == "scan":
            scan = scan_of(eqn)
            inside = [*given[: scan.constants], *[None] * (len(given) - scan.constants)]
            _know(scan.body.jaxpr, scan.body.consts, inside, at, scalars, choices)
        elif eqn.primitive.name == "select_n":
            outputs = [_chosen(given[0], given[1:])]
            if given[0] is not None and given[0].ndim == 1:
                choices.append(given[0].astype(int))
        elif len(outputs) == 1 and all(array is not None for array in given):
            outputs = [_exact(_computed(eqn, given), given)]
        known.update(zip(eqn.outvars, outputs, strict=True))
        if len(outputs) == 1 and outputs[0] is not None and outputs[0].ndim == 1:
            scalars[at] = outputs[0]
    return [read(atom) for atom in jaxpr.outvars]


def _chosen(predicate: np.ndarray | None, operands: Sequence[np.ndarray | None]) -> Any:
    if predicate is None:
        return None
    chosen = predicate.astype(int).clip(0, len(operands) - 1)
    if not chosen.size:
        return None
    if not np.ptp(chosen):  # The other operands may be unknown.
        return operands[chosen.flat[0]]
    there = [operand for operand in operands if operand is not None]
    return np.choose(chosen, np.broadcast_arrays(*there)) if len(there) == len(operands) else None


def _exact(made: np.ndarray | None, given: Sequence[Any]) -> np.ndarray | None:
    """Return NumPy's result `made` if XLA computes the same bits, else None."""
    arrays = [] if made is None else [made, *given]
    floats = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    # XLA flushes subnormal numbers to zero.
    flushed = any(((x != 0) & (abs(x) < jnp.finfo(x.dtype).tiny)).any() for x in floats)
    return None if flushed else made


def _computed(eqn: Any, given: Sequence[Any]) -> np.ndarray | None:
    """Return the result of an equation on known arrays; None if unsupported or large."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if math.prod(shape) > MOST_KNOWN:
        return None
    if name in NUMPY:
        if name == "mul" and jnp.issubdtype(given[0].dtype, jnp.inexact):
            return None  # XLA may fuse a product and a sum, with one rounding.
        with np.errstate(all="ignore"):
            return NUMPY[name](*given)
    if name == "convert_element_type":
        (to,), floating = parameters(eqn), jnp.issubdtype(given[0].dtype, jnp.floating)
        if floating and jnp.issubdtype(to, jnp.integer):
            return None  # NumPy and XLA differ for numbers out of range.
        with np.errstate(over="ignore"):
            return given[0].astype(to)
    if name == "iota":
        dimension, dtype = parameters(eqn)
        along = np.arange(shape[dimension], dtype=dtype)
        across = [length if i == dimension else 1 for i, length in enumerate(shape)]
        return np.broadcast_to(along.reshape(*across, 1), (*shape, 1))
    if name == "squeeze" or (name == "reshape" and parameter(eqn, "dimensions") is None):
        return given[0].reshape(*shape, given[0].shape[-1])
    if name == "broadcast_in_dim":
        _, dimensions = parameters(eqn)
        own = dict(zip(dimensions, given[0].shape, strict=False))
        kept = given[0].reshape(*(own.get(i, 1) for i in range(len(shape))), given[0].shape[-1])
        return np.broadcast_to(kept, (*shape, kept.shape[-1]))
    if name == "slice":
        starts, limits, strides = parameters(eqn)
        return given[0][tuple(map(slice, starts, limits, strides or [1] * len(shape)))]
    return None


def _constant(value: Any) -> np.ndarray | None:
    """Return a constant of a jaxpr as a known array if it is small and numeric, else None."""
    if is_traced(value) or np.size(value) > MOST_KNOWN:
        return None
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
        return None
    return np.asarray(value)[..., None]
