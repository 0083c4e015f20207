"""The only module that reads jaxpr internals, which JAX may change in any release.

`sweep` reads the jaxpr of the swept function to find the work that runs share, to choose a layout
and to draw vectors. `theory` reads which part of a state an output depends on. Each function below
reads one item and states what it needs and since which JAX version. If the item is missing, the
function raises a `LookupError` that names it, and `sweep` falls back to `jax.vmap` with one warning
(`or_else`). tests/core/test_jaxpr.py has a test for every item, by name.

The code also relies on these properties of JAX 0.10 and later:

- A jaxpr has `constvars`, `invars`, `eqns`, `outvars` and `replace`. An equation has `primitive`,
  `invars`, `outvars`, `params`, `effects` and `replace`. Each operand has an `aval`
  with `shape` and `dtype`.
- A variable is the same object wherever it is used.
- An equation's `ctx` is text that says how it is lowered. Where there is none, a store knows its
  program by lowering it.
- `primitive.bind` takes operands and parameters. `multiple_results` says whether it returns a list.

`jax.extend` is slow to import, so it is imported only where it is used.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

import jax

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# The parameters read from each primitive. All exist since JAX 0.10.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "broadcast_in_dim": ("shape", "broadcast_dimensions"),
    "concatenate": ("dimension",),
    "conv_general_dilated": ("dimension_numbers",),
    "convert_element_type": ("new_dtype",),
    "dot_general": ("dimension_numbers",),
    "dynamic_slice": ("slice_sizes",),
    "iota": ("dimension", "dtype"),
    "pad": ("padding_config",),
    "random_bits": ("shape",),
    "reshape": ("new_sizes", "dimensions"),
    "slice": ("start_indices", "limit_indices", "strides"),
    "squeeze": ("dimensions",),
    "transpose": ("permutation",),
    "while": ("body_jaxpr", "cond_nconsts", "body_nconsts"),
}
# Primitives that only call the one function they hold. `pjit` is named `jit` since JAX 0.7.
# `BODIES_OF_CALLS` lists the parameters that may hold that function.
CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "jit",
        "pjit",
        "remat",
        "remat2",
    }
)
BODIES_OF_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# Parameters that shard an array's own axes over devices. Lanes change the rank, so these no longer
# fit.
SHARDINGS = ("sharding", "out_sharding")

T = TypeVar("T")


def or_else(read: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """Return `read()`; if it fails, warn once and return `otherwise()`.

    Use it only for code that makes a sweep faster without changing its results. It catches every
    exception, not only those raised here, because no list of possible JAX changes is complete.
    """
    try:
        return read()
    except Exception as error:
        _warn(f"{type(error).__name__}: {error}")
        return otherwise()


@functools.cache
def _warn(reason: str) -> None:
    """Warn once per reason."""
    warnings.warn(
        f"JAX {jax.__version__} has changed an internal that makes `nested_jax.sweep` fast "
        f"({reason}). It uses plain `jax.vmap` instead: results are right, but long loops over "
        "small arrays take longer. Please report this.",
        RuntimeWarning,
        stacklevel=2,
    )


def parameter(eqn: Any, name: str) -> Any:
    """Return one parameter of an equation."""
    if name not in eqn.params:
        raise LookupError(f"`{eqn.primitive.name}` has no parameter `{name}`")
    return eqn.params[name]


def parameters(eqn: Any) -> list[Any]:
    """Return the parameters of an equation that `PARAMETERS` lists, in that order."""
    return [parameter(eqn, name) for name in PARAMETERS[eqn.primitive.name]]


def is_literal(atom: Any) -> "TypeGuard[Literal]":
    """Return whether an operand is a literal; a variable has no `val`."""
    return hasattr(atom, "val")


def is_closed_jaxpr(value: Any) -> "TypeGuard[ClosedJaxpr]":
    """Return whether a parameter is a jaxpr with its constants.

    Since JAX 0.11 one class covers jaxprs with and without constants. It has both attributes, and
    its `jaxpr` is itself.
    """
    return hasattr(value, "jaxpr") and hasattr(value, "consts")


def is_jaxpr(value: Any) -> "TypeGuard[Jaxpr]":
    """Return whether a parameter is a jaxpr without constants."""
    return hasattr(value, "eqns") and not is_closed_jaxpr(value)


class Scan(NamedTuple):
    """The equation of a `lax.scan`.

    Attributes:
        body: The jaxpr of one step, a function of (constants, carries, slices).
        constants: Number of operands that are the same at every step; they come first.
        carries: Number of operands that one step passes to the next; they come second.
        length: Number of steps.
        reverse: Whether the steps run from last to first.
        unroll: Number of steps in one iteration of the compiled loop.
    """

    body: "ClosedJaxpr"
    constants: int
    carries: int
    length: int
    reverse: bool
    unroll: int


def scan_of(eqn: Any) -> Scan:
    """Return the parts of a scan equation.

    Up to JAX 0.10, the parameters are `num_consts` and `num_carry`. Since 0.11, `ft_in` unpacks
    into one tree each for constants, carries and slices; the `len` of a tree is its number of
    leaves.
    """
    if "ft_in" in eqn.params:
        counts = [len(tree) for tree in eqn.params["ft_in"].unpack()]
        if len(counts) != 3 or sum(counts) != len(eqn.invars):
            raise LookupError(f"`ft_in` of `scan` counts {counts} of {len(eqn.invars)} operands")
        constants, carries, _ = counts
    else:
        constants, carries = parameter(eqn, "num_consts"), parameter(eqn, "num_carry")
    others = (parameter(eqn, name) for name in ("length", "reverse", "unroll"))
    return Scan(parameter(eqn, "jaxpr"), constants, carries, *others)


def body_of(eqn: Any) -> "tuple[Jaxpr, Sequence[Any]]":
    """Return the jaxpr called by a primitive in `CALLS`, and its constants."""
    for name in BODIES_OF_CALLS:
        body = eqn.params.get(name)
        if is_closed_jaxpr(body):
            return body.jaxpr, body.consts
        if is_jaxpr(body):
            return body, ()
    raise LookupError(f"`{eqn.primitive.name}` has none of the parameters {BODIES_OF_CALLS}")


def bodies(eqn: Any) -> "Iterator[Jaxpr]":
    """Yield every jaxpr that an equation holds, whatever its purpose."""
    for value in eqn.params.values():
        if isinstance(value, str | int | None):  # Most are.
            continue
        for inner in value if isinstance(value, tuple | list) else [value]:
            if is_closed_jaxpr(inner):
                yield inner.jaxpr
            elif is_jaxpr(inner):
                yield inner


def all_eqns(jaxpr: "Jaxpr") -> Iterator[Any]:
    """Yield the equations of a jaxpr and of all jaxprs nested in it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for body in bodies(eqn):
            yield from all_eqns(body)


def entries(atom: Any) -> int:
    """Return the number of entries of an operand or result; 1 if it is not an array."""
    return math.prod(getattr(atom.aval, "shape", ()))


def unsharded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return an equation's parameters with the shardings (`SHARDINGS`) set to None."""
    return {name: None if name in SHARDINGS else value for name, value in params.items()}


def bind(eqn: Any, *parts: Any) -> list[Any]:
    """Apply an equation's primitive and parameters to arrays that may have extra axes."""
    made = eqn.primitive.bind(*parts, **unsharded(eqn.params))
    return [*made] if eqn.primitive.multiple_results else [made]


def evaluate_alone(eqn: Any, parts: Sequence[Any]) -> list[Any]:
    """Evaluate one equation on arrays of the shapes it was traced with.

    Results that the jaxpr drops are None. Needs `DebugInfo` in `jax.extend.core`, which JAX has
    since 0.10.
    """
    from jax.extend.core import ClosedJaxpr, DebugInfo, DropVar, Jaxpr, jaxpr_as_fun

    made = [out for out in eqn.outvars if not isinstance(out, DropVar)]
    variables = [*dict.fromkeys(atom for atom in eqn.invars if not is_literal(atom))]
    given = {a: x for a, x in zip(eqn.invars, parts, strict=True) if not is_literal(a)}
    names = DebugInfo("lanes", eqn.primitive.name, ("",) * len(variables), ("",) * len(made))
    alone = ClosedJaxpr(Jaxpr((), variables, made, [eqn], eqn.effects, names), ())
    results = iter(jaxpr_as_fun(alone)(*(given[variable] for variable in variables)))
    return [None if isinstance(out, DropVar) else next(results) for out in eqn.outvars]


def influential(jaxpr: "Jaxpr", recurrent: int) -> list[int]:
    """Return which state leaves the first output depends on, in this step or a later one.

    Args:
        jaxpr: One step. Its first `recurrent` inputs are the state; its outputs after the first
            are the next state.
        recurrent: Number of leaves of the state.

    Returns:
        The positions of the state leaves that reach the first output in this step or, through the
        next state, in a later step.
    """
    # Compare by identity: the atoms include literals, which are not hashable.
    output, *after = jaxpr.outvars
    needed, wanted = {id(output)}, []
    while True:
        for eqn in reversed(jaxpr.eqns):
            if not needed.isdisjoint(map(id, eqn.outvars)):
                needed.update(map(id, eqn.invars))
        found = [i for i in range(recurrent) if id(jaxpr.invars[i]) in needed]
        if found == wanted:
            return wanted
        wanted = found
        needed.update(id(after[i]) for i in found)
