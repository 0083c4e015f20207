"""What of a program's work depends on which axes, and how much it holds: read off its jaxpr.

Work that does not depend on an axis is done once for all of it, as far as a chunk reaches: this is
what decides along which axes a grid is best cut. The figures serve to compare, not to predict.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Work an element, in additions: threefry is some twenty rounds of four operations.
COSTS = {
    "random_bits": 80,
    "threefry2x32": 80,
    "erf_inv": 20,
    # Not even a loop of their own.
    "broadcast_in_dim": 0,
    "reshape": 0,
    "squeeze": 0,
}
REDUCTIONS = ("reduce", "cum", "arg", "sort", "top_k")


def work_by_axes(program: ClosedJaxpr, axes_of_inputs: Sequence[int]) -> Counter[int]:
    """Return how many elementary operations depend on which axes.

    Args:
        program: What a swept function is traced to.
        axes_of_inputs: The axes that each input depends on, as a mask: 1 << i for axis i.

    Returns:
        Mask of axes -> operations.
    """
    work: Counter[int] = Counter()
    _follow(program.jaxpr, axes_of_inputs, 1, work)
    return work


def _follow(
    jaxpr: Jaxpr, inputs: Sequence[int], times: float, work: Counter[int] | None
) -> list[int]:
    """Return the masks of a jaxpr's outputs; add its work, done `times` times, to `work`."""
    masks: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))

    def mask(atom: Any) -> int:
        return 0 if isinstance(atom, Literal) else masks.get(atom, 0)

    for eqn in jaxpr.eqns:
        given = [mask(atom) for atom in eqn.invars]
        masks.update(zip(eqn.outvars, _outputs(eqn, given, times, work), strict=True))
    return [mask(atom) for atom in jaxpr.outvars]


def _outputs(eqn: Any, given: list[int], times: float, work: Counter[int] | None) -> list[int]:
    name, bodies = eqn.primitive.name, [*_bodies(eqn)]
    if name == "scan":
        constants, carries = eqn.params["num_consts"], eqn.params["num_carry"]
        return _loop(bodies[0], given, constants, carries, times * eqn.params["length"], work)
    if name == "while":
        # How often is not known; the condition is as nothing beside the body.
        skipped, constants = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        inputs = given[skipped:]
        body = eqn.params["body_jaxpr"].jaxpr
        return _loop(body, inputs, constants, len(inputs) - constants, times, work)
    if name == "cond":
        branches = [_follow(body, given[1:], times, work) for body in bodies]
        return [_union([given[0], *masks]) for masks in zip(*branches, strict=True)]
    if len(bodies) == 1 and len(bodies[0].invars) == len(given):
        return _follow(bodies[0], given, times, work)
    depends = _union(given)
    if work is not None:
        work[depends] += int(times * _operations(eqn))
    return [depends] * len(eqn.outvars)


def _loop(body, given, constants, carries, times, work) -> list[int]:
    given = [*given]
    while True:
        outputs = _follow(body, given, times, None)
        carried = slice(constants, constants + carries)
        joined = [a | b for a, b in zip(given[carried], outputs[:carries], strict=True)]
        if joined == given[carried]:
            return _follow(body, given, times, work)
        given[carried] = joined


def _union(masks: Sequence[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


def _bodies(eqn: Any) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        for inner in value if isinstance(value, tuple | list) else [value]:
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner


def _operations(eqn: Any) -> int:
    name = eqn.primitive.name
    made = max((_elements(out) for out in eqn.outvars), default=0)
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * made * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * made * math.prod(kernel) // max(outputs, 1)
    if name.startswith(REDUCTIONS):
        return max(_elements(atom) for atom in eqn.invars)
    return made * COSTS.get(name, 1)


def _elements(atom: Any) -> int:
    return math.prod(getattr(atom.aval, "shape", ()))


def bytes_held(jaxpr: Jaxpr) -> int:
    """Return the most that a program holds at a time if nothing were fused."""
    last = {atom: i for i, eqn in enumerate(jaxpr.eqns) for atom in _variables(eqn.invars)}
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    held = most = sum(_bytes(variable) for variable in jaxpr.invars)
    for i, eqn in enumerate(jaxpr.eqns):
        held += sum(_bytes(out) for out in eqn.outvars)
        inner = max((bytes_held(body) for body in _bodies(eqn)), default=0)
        most = max(most, held + inner)
        over = {*_variables(eqn.invars), *(out for out in eqn.outvars if out not in last)}
        held -= sum(_bytes(variable) for variable in over if last.get(variable, i) == i)
    return most


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _bytes(atom: Any) -> int:
    return _elements(atom) * getattr(getattr(atom.aval, "dtype", None), "itemsize", 0)
