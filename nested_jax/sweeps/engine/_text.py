"""A traced program as text: the same in every process, another for every other computation.

To lower a program gives such a text as well, and takes 15 times as long. So `text_of` writes down
each equation: its primitive, all its parameters, its operands and the types of its results. What it
does not know for certain, such as a Python function that a program calls back, it does not guess
at. It raises, and the caller lowers the program.
"""

import enum
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.jaxpr import is_closed_jaxpr, is_jaxpr, is_literal

# Parameters that are rules for derivatives. A program that was traced has no more use for them.
RULES = frozenset({"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"})
# Types whose `repr` says all that they are.
PLAIN = (str, int, float, complex, type(None), type, np.dtype, enum.Enum)
# The same of JAX's own types, which are not public: by name.
NAMED = frozenset({"AbstractMesh", "Mesh", "NamedSharding", "PartitionSpec", "UnspecifiedValue"})


def text_of(program: Any) -> str:
    """Return a closed jaxpr as text, its constants included.

    Jaxprs that it holds come before those that hold them, each once.

    Raises:
        LookupError: If a parameter is of a type that is not known here.
    """
    lines: list[str] = []
    names: dict[Any, str] = {}

    def named(jaxpr: Any) -> str:
        if jaxpr not in names:
            own = [*_lines(jaxpr, value)]
            names[jaxpr] = f"jaxpr{len(names)}"
            lines.extend([names[jaxpr], *own])
        return names[jaxpr]

    def value(part: Any) -> str:
        if is_closed_jaxpr(part):
            return f"{named(part.jaxpr)} of {[value(constant) for constant in part.consts]}"
        if is_jaxpr(part):
            return named(part)
        if isinstance(part, jax.Array | np.ndarray | np.generic):
            return content_of(part)
        kind = type(part).__name__
        if isinstance(part, PLAIN) or kind in NAMED:
            return repr(part)
        if kind == "PRNGImpl":  # Its functions have addresses; its name is unique.
            return part.name
        if isinstance(part, tuple | list):
            return f"{kind}({', '.join(map(value, part))})"
        if kind == "FTTuple":  # The trees of a scan, since JAX 0.11.
            return f"{[len(tree) for tree in part.elts]}"
        raise LookupError(f"a parameter is of the unknown type {kind}")

    last = value(program)
    return "\n".join([*lines, last])


def _lines(jaxpr: Any, value: Callable[[Any], str]) -> Iterator[str]:
    """Yield the inputs of a jaxpr, its equations and its outputs; variables are numbers."""
    numbers: dict[int, int] = {}

    def made(variables: Iterable[Any]) -> str:
        for variable in variables:
            numbers[id(variable)] = len(numbers)
        return f"{[(numbers[id(variable)], str(variable.aval)) for variable in variables]}"

    def used(atoms: Iterable[Any]) -> str:
        return f"{[literal(atom) if is_literal(atom) else numbers[id(atom)] for atom in atoms]}"

    def literal(atom: Any) -> str:
        return f"{value(atom.val)} {atom.aval}"

    yield made([*jaxpr.constvars, *jaxpr.invars])
    for eqn in jaxpr.eqns:
        parameters = [f"{k}={value(v)}" for k, v in sorted(eqn.params.items()) if k not in RULES]
        name, operands = eqn.primitive.name, used(eqn.invars)
        # The context has the switches that lowering obeys, such as how threefry is partitioned.
        yield f"{made(eqn.outvars)} = {name} {parameters} {operands} {eqn.ctx}"
    yield used(jaxpr.outvars)


def content_of(array: Any) -> str:
    """Return dtype and shape of an array, and a hash of its bits. PRNG keys are their data."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return f"{array.dtype} {content_of(jax.random.key_data(array))}"
    values = np.asarray(array)
    return f"{values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"
