"""Interpreter that evaluates the jaxpr of one run on all runs of a chunk, as the last axis: lanes.

Why: `jax.vmap` puts the runs first, so the innermost loop of each CPU kernel is over the few
entries of one run's array. If a run is a long loop over small arrays, those short innermost loops
are slow. With the runs last, the innermost loop is over the many runs and fills the vector units.

Shapes: an array has the axes it has in a single run (its own axes), then one axis of lanes. A value
records which grid axes it depends on, as a bit mask, and has one lane per point of the product of
those axes. A value that depends on no axis has no lanes and is computed once, as it would be with
one vmap per axis.

One equation is evaluated as follows:

1. Take the union of its operands' masks: the grid axes that the result depends on. If it is empty,
   evaluate the equation as it was traced.
2. Spread every operand to the lanes of that union. Lanes are ordered like the product of the axes,
   so this is a broadcast and a reshape.
3. Apply the primitive's rule (`_rules.py`). Elementwise primitives and reductions take the arrays
   unchanged, since their parameters count axes from the front and the lanes are at the end. A few
   others, such as `reshape`, need the lanes added to a parameter.
4. A primitive without a rule is evaluated with `jax.vmap` over the last axis. This is always right
   but may move the lanes to the front and back, so `_layout.py` avoids lanes where such primitives
   do more than a small share of the work.
5. Calls such as `jit` are entered. The body of a `scan` is entered too: its carry gets the lanes of
   every axis that it comes to depend on, and work that does not change is moved out of the loop.

The points of one axis may be split into pieces, each a separate array. A number that is the same
for a whole piece is then a constant there, and the branches it rules out are not computed. See
`Layout` and `_layout.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nested_jax._core.jaxpr import (
    CALLS,
    all_eqns,
    body_of,
    entries,
    evaluate_alone,
    is_literal,
    scan_of,
)
from nested_jax.sweeps.lanes._rules import rule_of
from nested_jax.sweeps.lanes._sharing import follow

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr

# Worked example, with shapes. `w` has shape (3,); the grid has 4 rates and 8 decays, 32 runs:
#
#     def run(w, rate, decay):
#         return jnp.sum(jnp.exp(rate * w)) + decay
#
#     equation         one run             grid axes    in lanes
#     e = mul rate w   (), (3,) -> (3,)    rate         (4,), (3,) -> (3, 4)
#     f = exp e        (3,) -> (3,)        rate         (3, 4) -> (3, 4)
#     g = reduce_sum f (3,) -> ()          rate         (3, 4) -> (4,)
#     h = add g decay  (), () -> ()        rate, decay  (4,), (8,) -> (32,), both spread first
#     output           ()                  rate, decay  (32,) -> (4, 8), the axes of the grid
#
# `exp` is computed for 4 rates, not for 32 runs, because it does not depend on decay. Its innermost
# loop is over the 4 rates; a vmap over rate would give (4, 3), with a loop over 3 entries.

# Lanes are padded to a multiple of this, by bytes per float, because the remainder of a vector is
# computed one lane at a time. float32 fills whole 512-bit vectors. For float64 that would add twice
# as much, so it fills half of one. On the level sweep, either takes a tenth longer with the other's
# share of a vector.
VECTOR = {4: 16, 8: 4}
# A loop invariant is computed before the loop if it has at most this many entries.
HOISTED = 2**16

Path = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the points of a chunk are laid out.

    Attributes:
        axis: The axis that is split into pieces; -1 if none is.
        pieces: For each piece, its positions along that axis.
        alike: For each piece, the scalars that are the same at all of its points: where the jaxpr
            computes them, and their bytes (as numbers, 0 and -0 would compare equal).
    """

    axis: int
    pieces: tuple[tuple[int, ...], ...]
    alike: tuple[frozenset[tuple[Path, bytes]], ...]


class Value:
    """One variable's array for all points.

    Attributes:
        mask: The axes it depends on: 1 << i for axis i.
        parts: Arrays of shape (own axes, lanes), without lanes if `mask` is 0. There is one array
            per piece if `mask` contains the split axis, otherwise a single array. A NumPy scalar
            is the same at all points of its piece and has no lanes.
        depth: Number of loops around the place where it was computed.
        wide: Copies spread before a loop for use inside it: (mask, piece) -> array.
    """

    def __init__(self, mask: int, parts: Sequence[Any], depth: int):
        self.mask, self.parts, self.depth = mask, tuple(parts), depth
        self.wide: dict[tuple[int, int], Any] = {}


def is_alike(part: Any) -> bool:
    """Return whether a part is the same at all points of its piece."""
    return isinstance(part, np.generic)


def evaluate_in_lanes(
    program: ClosedJaxpr,
    bound: Sequence[Any],
    columns: Sequence[Mapping[str, Any]],
    layout: Layout,
    carried: Sequence[Any] = (),
) -> list[jax.Array]:
    """Evaluate a function of one point on the product of the axes.

    Args:
        program: The function's jaxpr.
        bound: Its first arguments, the same for all points.
        columns: Its next arguments: columns of numbers, one mapping per axis.
        layout: How to lay out the points.
        carried: Its last arguments, with the axes in front; only with a layout without pieces.

    Returns:
        The outputs, with the grid axes in front.
    """
    sizes = [len(next(iter(axis.values()))) for axis in columns]
    return _Interpreter(sizes, layout).run(program, bound, columns, carried)


def float_bytes() -> int:
    """Return the bytes per float in JAX's default precision."""
    return jax.dtypes.canonicalize_dtype(float).itemsize


def masks_of(sizes: Sequence[int]) -> list[int]:
    """Return the mask of each axis: 1 << i, or 0 if the axis has a single point."""
    return [(length > 1) << i for i, length in enumerate(sizes)]


class _Interpreter:
    def __init__(self, sizes: Sequence[int], layout: Layout):
        self.sizes, self.layout = sizes, layout
        self.alike = [dict(piece) for piece in layout.alike]
        self.depth = 0
        # Not None only during the dry run of a loop body (`widened`): the spreads that the body
        # requests of values from outside the loop.
        self.asked: dict[tuple[int, int, int], Value] | None = None

    def run(self, program, bound, columns, carried) -> list[jax.Array]:
        inputs = [Value(0, [x], 0) for x in bound]
        masks = masks_of(self.sizes)
        for i, axis in enumerate(columns):
            for column in jax.tree.leaves(axis):  # Sorted by name, like the arguments.
                column = jnp.asarray(column)
                parts = [column] if masks[i] else [column[0]]
                if i == self.layout.axis:
                    parts = [column[jnp.array(piece)] for piece in self.layout.pieces]
                parts = [_padded(part) for part in parts] if masks[i] else parts
                inputs.append(Value(masks[i], parts, 0))
        inputs += [Value(sum(masks), [self.as_lanes(array)], 0) for array in carried]
        outputs = self.jaxpr(program.jaxpr, program.consts, inputs, ())
        return [self.as_grid(output, sum(masks)) for output in outputs]

    def as_lanes(self, array: Any) -> jax.Array:
        """Return an array that has the grid axes in front, with lanes at the end."""
        own = array.shape[len(self.sizes) :]
        if math.prod(self.sizes) == 1:
            return jnp.reshape(array, own)
        return _padded(jnp.moveaxis(jnp.reshape(array, (-1, *own)), 0, -1))

    def as_grid(self, value: Value, whole: int) -> jax.Array:
        """Return an output with the grid axes in front."""
        parts = []
        for piece in range(self.pieces(whole)):
            part, points = self.spread(value, whole, piece), self.points(whole, piece)
            own = part.shape[: part.ndim - bool(whole)]
            part = part[..., : math.prod(points)] if whole else part
            # Axes of a single point add no lanes, but the output needs them.
            lengths = list(points)
            for i, length in enumerate(self.sizes):
                lengths[i:i] = [1] if length == 1 else []
            part = part.reshape(*own, *lengths)
            parts.append(jnp.moveaxis(part, range(len(own)), range(-len(own), 0)))
        if len(parts) == 1 and self.layout.axis < 0:
            return parts[0]
        order = [at for piece in self.layout.pieces for at in piece]
        inverse = sorted(range(len(order)), key=order.__getitem__)
        together = jnp.concatenate(parts, self.layout.axis)
        if inverse == sorted(inverse):
            return together
        return jnp.take(together, jnp.array(inverse), axis=self.layout.axis)

    def pieces(self, mask: int) -> int:
        return len(self.layout.pieces) if self.cut(mask) else 1

    def cut(self, mask: int) -> bool:
        """Return whether `mask` contains the axis that is split into pieces."""
        return self.layout.axis >= 0 and bool(mask >> self.layout.axis & 1)

    def points(self, mask: int, piece: int) -> tuple[int, ...]:
        """Return the number of points of a piece along each axis of `mask`."""
        lengths = [*self.sizes]
        if self.cut(mask):
            lengths[self.layout.axis] = len(self.layout.pieces[piece])
        return tuple(length for i, length in enumerate(lengths) if mask >> i & 1)

    def part(self, value: Value, piece: int) -> Any:
        return value.parts[piece if self.cut(value.mask) else 0]

    def spread(self, value: Value, mask: int, piece: int) -> Any:
        """Return one piece of a value, broadcast to the lanes of all axes in `mask`."""
        part: Any = self.part(value, piece)
        alike = is_alike(part)
        if value.mask == mask and not alike:
            return part
        if not value.mask or alike:
            lanes = _rounded(math.prod(self.points(mask, piece)))
            return lax.broadcast_in_dim(part, (*jnp.shape(part), lanes), range(jnp.ndim(part)))
        if (mask, piece) in value.wide:
            return value.wide[mask, piece]
        if self.asked is not None and value.depth < self.depth:
            self.asked[id(value), mask, piece] = value
        own, here, there = part.shape[:-1], self.points(value.mask, piece), self.points(mask, piece)
        axes = [i for i in range(len(self.sizes)) if mask >> i & 1]
        kept = [len(own) + at for at, i in enumerate(axes) if value.mask >> i & 1]
        part = lax.slice_in_dim(part, 0, math.prod(here), axis=len(own)).reshape(own + here)
        part = lax.broadcast_in_dim(part, own + there, (*range(len(own)), *kept))
        return _padded(part.reshape(*own, math.prod(there)))

    def arrays(self, value: Value, mask: int) -> list[Any]:
        """Return all pieces of a value, broadcast to the lanes of all axes in `mask`."""
        return [self.spread(value, mask, piece) for piece in range(self.pieces(mask))]

    def jaxpr(self, jaxpr: Jaxpr, consts, inputs, path, known: Mapping = {}) -> list[Value]:
        """Evaluate a jaxpr; `known` holds variables whose values are already computed."""
        values: dict[Any, Value] = {**known}
        values.update(
            zip(jaxpr.constvars, (Value(0, [c], self.depth) for c in consts), strict=True)
        )
        values.update(zip(jaxpr.invars, inputs, strict=True))
        for i, eqn in enumerate(jaxpr.eqns):
            if not eqn.outvars or eqn.outvars[0] not in known:
                given = [self.read(values, atom) for atom in eqn.invars]
                values.update(zip(eqn.outvars, self.eqn(eqn, given, (*path, i)), strict=True))
        return [self.read(values, atom) for atom in jaxpr.outvars]

    def read(self, values: Mapping[Any, Value], atom: Any) -> Value:
        if is_literal(atom):
            return Value(0, [np.asarray(atom.val, jax.typeof(atom.val).dtype)], 0)
        return values[atom]

    def eqn(self, eqn: Any, given: Sequence[Value], path: Path) -> list[Value]:
        name, mask = eqn.primitive.name, 0
        for value in given:
            mask |= value.mask
        if name in CALLS:
            body, consts = body_of(eqn)
            return self.jaxpr(body, consts, given, path)
        if name == "scan" and mask:
            return self.scan(eqn, given, path)
        outputs = []
        for piece in range(self.pieces(mask)):
            if not mask:
                outputs.append(evaluate_alone(eqn, [value.parts[0] for value in given]))
            elif path in self.alike[piece]:
                dtype = eqn.outvars[0].aval.dtype
                outputs.append([np.frombuffer(self.alike[piece][path], dtype)[0]])
            elif name == "select_n" and is_alike(self.part(given[0], piece)):
                at = np.clip(int(self.part(given[0], piece)), 0, len(given) - 2)
                outputs.append([self.spread(given[1 + at], mask, piece)])
            else:
                outputs.append(rule_of(eqn)(self, eqn, given, mask, piece))
        return [Value(mask, parts, self.depth) for parts in zip(*outputs, strict=True)]

    def scan(self, eqn: Any, given: Sequence[Value], path: Path) -> list[Value]:
        body, constants, carries, length, reverse, unroll = scan_of(eqn)
        first, last = constants, constants + carries
        masks = [value.mask for value in given]
        while True:
            made = follow(body.jaxpr, masks)[: last - first]
            joined = [a | b for a, b in zip(masks[first:last], made, strict=True)]
            if joined == masks[first:last]:
                break
            masks[first:last] = joined
        carry = [self.arrays(*each) for each in zip(given[first:last], joined, strict=True)]
        known = self.invariants(body, given[:first], path)
        of_outputs: list[int] = []

        def step(carry, slices):
            carry = [Value(m, parts, self.depth) for m, parts in zip(joined, carry, strict=True)]
            slices = zip(masks[last:], slices, strict=True)
            inputs = [*given[:first], *carry, *(Value(m, parts, self.depth) for m, parts in slices)]
            outputs = self.jaxpr(body.jaxpr, body.consts, inputs, path, known)
            of_outputs[:] = [value.mask for value in outputs[last - first :]]
            after = [self.arrays(*each) for each in zip(outputs, joined, strict=False)]
            return after, [self.arrays(value, value.mask) for value in outputs[last - first :]]

        xs = [[*value.parts] for value in given[last:]]
        self.depth += 1
        widened = self.widened(step, carry, xs, body.jaxpr)
        after, ys = lax.scan(step, carry, xs, length=length, reverse=reverse, unroll=unroll)
        self.depth -= 1
        for value in widened:
            value.wide.clear()  # Made for this loop only.
        return [
            Value(mask, parts, self.depth)
            for mask, parts in zip([*joined, *of_outputs], [*after, *ys], strict=True)
        ]

    def invariants(self, body: ClosedJaxpr, constants: Sequence[Value], path: Path) -> dict:
        """Compute loop invariants before the loop; return them by variable."""
        values = dict(zip(body.jaxpr.invars, constants, strict=False))
        known = {}
        for i, eqn in enumerate(body.jaxpr.eqns):
            atoms = [atom for atom in eqn.invars if not is_literal(atom)]
            small = all(entries(out) <= HOISTED for out in eqn.outvars)
            if small and not eqn.effects and all(atom in values for atom in atoms):
                given = [self.read(values, atom) for atom in eqn.invars]
                made = dict(zip(eqn.outvars, self.eqn(eqn, given, (*path, i)), strict=True))
                values.update(made)
                known.update(made)
        return known

    def widened(self, step, carry, xs, body: Jaxpr) -> list[Value]:
        """Spread values before an innermost loop that its body would spread in every step."""
        if any(eqn.primitive.name in ("scan", "while") for eqn in all_eqns(body)):
            return []
        self.asked = {}
        slices = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
        jax.eval_shape(step, carry, slices)
        asked, self.asked = self.asked, None
        for (_, mask, piece), value in asked.items():
            value.wide[mask, piece] = self.spread(value, mask, piece)
        return [*asked.values()]


def _rounded(lanes: int) -> int:
    """Return a number of lanes, rounded up to fill the last vector."""
    vector = VECTOR[float_bytes()]
    return lanes if lanes < vector else -(-lanes // vector) * vector


def _padded(part: Any) -> Any:
    """Pad the lanes to whole vectors with copies of the last lane."""
    lanes = part.shape[-1]
    missing = _rounded(lanes) - lanes
    if not missing:
        return part
    last = lax.slice_in_dim(part, lanes - 1, lanes, axis=part.ndim - 1)
    copies = lax.broadcast_in_dim(last, (*part.shape[:-1], missing), range(part.ndim))
    return lax.concatenate([part, copies], part.ndim - 1)
