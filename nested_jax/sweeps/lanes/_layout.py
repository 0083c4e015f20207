"""How the points of a chunk are best laid out: read off the jaxpr of one point.

Runs of a grid often lack a part of the program: a stage of a cascade beyond their number of levels,
say. What picks between having it and not is a `select_n` whose predicate depends on nothing but
numbers of the grid. Where all points of a piece pick alike, the other operand, and what only it
needs, is never computed.
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
from nested_jax.sweeps.lanes._sharing import follow, is_call, operations

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr

# Pieces of an axis. More save little and are compiled, and dispatched in each step, one by one.
PIECES = 4
# Lanes that keep the vectors of a piece full, by bytes of a float.
LANES_OF_A_PIECE = {4: 60, 8: 45}
# Steps of a loop, and points, from which lanes pay, and the entries of a point's arrays up to which
# they do; beyond, the innermost loop of a kernel is long enough without them. Pieces save more.
STEPS, LANES = 100, 64
ENTRIES, ENTRIES_IN_PIECES = 64, 2048
# Of all work, what lanes may leave to vmap, which moves its lanes to the front and back.
FOREIGN_SHARE = 0.05
# Drawing takes as long either way: it is a kernel for many steps at once.
RANDOM = ("random_", "threefry")
# Entries of arrays that are followed.
MOST_KNOWN = 2**12

# Primitives through which numbers of the grid are followed, entry by entry.
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
) -> Layout | None:
    """Return how to lay out the points of a chunk, or None if they are better vmapped.

    Args:
        program: The jaxpr of one point; its first arguments are the same for all points.
        columns: The other arguments: the numbers of a chunk, one mapping an axis.
        whole: Whether all chunks have the same numbers, by axis. Only then can a program that they
            share depend on them.
        always: Whether to lay points out even where vmap should be faster.
    """
    sizes = [len(next(iter(axis.values()))) for axis in columns]
    inputs = [mask for mask, axis in zip(masks_of(sizes), columns, strict=True) for _ in axis]
    bound = len(program.jaxpr.invars) - len(inputs)
    masks = [0] * bound + inputs
    known = _Inputs(bound, [jax.tree.leaves(axis) for axis in columns])
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
    """What is known of a jaxpr's inputs.

    Attributes:
        bound: The number of the first ones, of which nothing is.
        numbers: The columns of the others, by axis, those of one in the order of their names.
    """

    bound: int
    numbers: Sequence[Sequence[np.ndarray]]

    def along(self, axis: int, at: Sequence[int] | None = None) -> list[np.ndarray | None]:
        """Return the inputs along one axis, at all or some positions, and None for all others."""
        known: list[np.ndarray | None] = [None] * self.bound
        for i, columns in enumerate(self.numbers):
            own = [column if at is None else column[[*at]] for column in columns if i == axis]
            known += own or [None] * len(columns)
        return known


def _pays(program: ClosedJaxpr, masks: Sequence[int], sizes: Sequence[int], entries: int) -> bool:
    """Tell whether a program is a long loop over small arrays of many points."""
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
    """Tell whether an equation holds a function that lanes do not go into but `follow` does."""
    name = eqn.primitive.name
    if name in CALLS or name == "scan":
        return False
    return is_call(eqn) or name in ("while", "cond")


def _pieces(mixed: np.ndarray, points: int) -> tuple[tuple[int, ...], ...]:
    """Share out the positions along an axis: those that choose alike lie together."""
    most = max(points // LANES_OF_A_PIECE[float_bytes()], 1)
    number = min(PIECES, mixed.shape[1], most)
    order = np.argsort(mixed.sum(0), kind="stable")
    return tuple(tuple(sorted(part.tolist())) for part in np.array_split(order, number))


def _alike(scalars: Mapping[Path, np.ndarray]) -> dict[Path, Any]:
    """Return the scalars that are the same at all points."""
    # By their bits: 0 and -0 are not alike, and NaN is. Two layouts differ likewise.
    return {
        path: x[0].tobytes()
        for path, x in scalars.items()
        if len({value.tobytes() for value in x}) == 1
    }


def _followed(
    program: ClosedJaxpr, inputs: Sequence[np.ndarray | None]
) -> tuple[dict[Path, np.ndarray], list[np.ndarray]]:
    """Return a program's known scalars by where they are computed, and its known choices."""
    scalars: dict[Path, np.ndarray] = {}
    choices: list[np.ndarray] = []
    _know(program.jaxpr, program.consts, inputs, (), scalars, choices)
    return scalars, choices


def _know(jaxpr: Jaxpr, consts, inputs, path: Path, scalars, choices) -> list:
    """Follow arrays of shape (own axes, points) through a jaxpr; None is what is not known."""
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
    if not np.ptp(chosen):  # Of what is not chosen nothing need be known.
        return operands[chosen.flat[0]]
    there = [operand for operand in operands if operand is not None]
    return np.choose(chosen, np.broadcast_arrays(*there)) if len(there) == len(operands) else None


def _exact(made: np.ndarray | None, given: Sequence[Any]) -> np.ndarray | None:
    """Return what NumPy made of known arrays, if XLA makes the same."""
    arrays = [] if made is None else [made, *given]
    floats = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    # XLA takes subnormal numbers for zeros.
    flushed = any(((x != 0) & (abs(x) < jnp.finfo(x.dtype).tiny)).any() for x in floats)
    return None if flushed else made


def _computed(eqn: Any, given: Sequence[Any]) -> np.ndarray | None:
    """Return what an equation makes of known arrays, if that is simple and small."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if math.prod(shape) > MOST_KNOWN:
        return None
    if name in NUMPY:
        if name == "mul" and jnp.issubdtype(given[0].dtype, jnp.inexact):
            return None  # XLA may round a product and a sum as one.
        with np.errstate(all="ignore"):
            return NUMPY[name](*given)
    if name == "convert_element_type":
        (to,), floating = parameters(eqn), jnp.issubdtype(given[0].dtype, jnp.floating)
        if floating and jnp.issubdtype(to, jnp.integer):
            return None  # NumPy and XLA differ where a number is out of range.
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
    """Return a constant of a jaxpr as something known, if it is a small array of numbers."""
    if is_traced(value) or np.size(value) > MOST_KNOWN:
        return None
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
        return None
    return np.asarray(value)[..., None]
