"""Estimate from a jaxpr which work depends on which grid axes, and how much memory it holds.

Within a chunk, work that does not depend on an axis is done once for all its points. This decides
along which axes a grid is best cut. The estimates are for comparison, not prediction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nested_jax._core.jaxpr import CALLS, bodies, body_of, entries, is_literal, parameters, scan_of

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr


# Work per element, in additions. Threefry has about twenty rounds of four operations.
COSTS = {
    "random_bits": 80,
    "threefry2x32": 80,
    "erf_inv": 20,
    # Fused into their consumers.
    "broadcast_in_dim": 0,
    "reshape": 0,
    "squeeze": 0,
}
REDUCTIONS = ("reduce", "cum", "arg", "sort", "top_k")


def work_by_axes(program: ClosedJaxpr, axes_of_inputs: Sequence[int]) -> Counter[int]:
    """Return the number of elementary operations for each set of axes they depend on.

    Args:
        program: The jaxpr of the swept function.
        axes_of_inputs: The axes that each input depends on, as a mask: 1 << i for axis i.

    Returns:
        Mask of axes -> number of operations.
    """
    work: Counter[int] = Counter()

    def add(eqn, mask, times):
        work[mask] += int(times * operations(eqn))

    follow(program.jaxpr, axes_of_inputs, add)
    return work


# Called with (equation, mask of its axes, number of executions) for equations without a body.
Visit = Callable[[Any, int, float], None]


def follow(
    jaxpr: Jaxpr, inputs: Sequence[int], visit: Visit | None = None, times: float = 1
) -> list[int]:
    """Return the mask of axes of each output; call `visit` on the equations along the way."""
    masks: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))

    def mask(atom: Any) -> int:
        return 0 if is_literal(atom) else masks.get(atom, 0)

    for eqn in jaxpr.eqns:
        given = [mask(atom) for atom in eqn.invars]
        masks.update(zip(eqn.outvars, _outputs(eqn, given, visit, times), strict=True))
    return [mask(atom) for atom in jaxpr.outvars]


def _outputs(eqn: Any, given: list[int], visit: Visit | None, times: float) -> list[int]:
    name = eqn.primitive.name
    if name == "scan":
        scan = scan_of(eqn)
        body, constants, carries = scan.body.jaxpr, scan.constants, scan.carries
        return _loop(body, given, constants, carries, visit, times * scan.length)
    if name == "while":
        # The number of steps is unknown. The condition is negligible next to the body.
        body, skipped, constants = parameters(eqn)
        inputs = given[skipped:]
        return _loop(body.jaxpr, inputs, constants, len(inputs) - constants, visit, times)
    if name == "cond":
        branches = [follow(body, given[1:], visit, times) for body in bodies(eqn)]
        return [_union([given[0], *masks]) for masks in zip(*branches, strict=True)]
    if name in CALLS:
        return follow(body_of(eqn)[0], given, visit, times)
    if (function := called(eqn)) is not None:
        return follow(function, given, visit, times)
    depends = _union(given)
    if visit is not None:
        visit(eqn, depends, times)
    return [depends] * len(eqn.outvars)


def _loop(body, given, constants, carries, visit, times) -> list[int]:
    given = [*given]
    while True:
        outputs = follow(body, given)
        carried = slice(constants, constants + carries)
        joined = [a | b for a, b in zip(given[carried], outputs[:carries], strict=True)]
        if joined == given[carried]:
            return outputs if visit is None else follow(body, given, visit, times)
        given[carried] = joined


def _union(masks: Sequence[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


def called(eqn: Any) -> Jaxpr | None:
    """Return the function that an equation only calls, on its operands; None if it does more."""
    # The function of a reduction takes two scalars and runs many times.
    if eqn.primitive.name.startswith(REDUCTIONS):
        return None
    inner = [*bodies(eqn)]
    return inner[0] if len(inner) == 1 and len(inner[0].invars) == len(eqn.invars) else None


def operations(eqn: Any) -> int:
    """Return the number of elementary operations of an equation without a body."""
    name = eqn.primitive.name
    made = max((entries(out) for out in eqn.outvars), default=0)
    if name == "dot_general":
        [((contracted, _), _)] = parameters(eqn)
        return 2 * made * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, (numbers,) = eqn.invars[1].aval.shape, parameters(eqn)
        outputs = kernel[numbers.rhs_spec[0]]
        return 2 * made * math.prod(kernel) // max(outputs, 1)
    if name.startswith(REDUCTIONS):
        return max(entries(atom) for atom in eqn.invars)
    return made * COSTS.get(name, 1)


def bytes_carried(jaxpr: Jaxpr, inputs: Sequence[int], sizes: Sequence[int]) -> int:
    """Return the size in bytes of the largest loop carry, for all points of the axes.

    Args:
        jaxpr: The program of one point.
        inputs: The axes that each input depends on, as a mask.
        sizes: Number of points along each axis.
    """
    masks: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    most = 0
    for eqn in jaxpr.eqns:
        given = [0 if is_literal(atom) else masks.get(atom, 0) for atom in eqn.invars]
        made = _outputs(eqn, given, None, 1)
        masks.update(zip(eqn.outvars, made, strict=True))
        if eqn.primitive.name == "scan":
            scan = scan_of(eqn)
            carried, inside = made[: scan.carries], [*given]
            inside[scan.constants : scan.constants + scan.carries] = carried
            points = [math.prod(n for i, n in enumerate(sizes) if m >> i & 1) for m in carried]
            own = sum(n * _bytes(out) for n, out in zip(points, eqn.outvars, strict=False))
            most = max(most, own, bytes_carried(scan.body.jaxpr, inside, sizes))
        elif eqn.primitive.name in CALLS:
            most = max(most, bytes_carried(body_of(eqn)[0], given, sizes))
    return most


def bytes_held(jaxpr: Jaxpr) -> int:
    """Return a program's peak memory in bytes if nothing were fused."""
    last = {atom: i for i, eqn in enumerate(jaxpr.eqns) for atom in _variables(eqn.invars)}
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    held = most = sum(_bytes(variable) for variable in jaxpr.invars)
    for i, eqn in enumerate(jaxpr.eqns):
        held += sum(_bytes(out) for out in eqn.outvars)
        inner = max((bytes_held(body) for body in bodies(eqn)), default=0)
        most = max(most, held + inner)
        over = {*_variables(eqn.invars), *(out for out in eqn.outvars if out not in last)}
        held -= sum(_bytes(variable) for variable in over if last.get(variable, i) == i)
    return most


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not is_literal(atom)]


def _bytes(atom: Any) -> int:
    return entries(atom) * getattr(getattr(atom.aval, "dtype", None), "itemsize", 0)
