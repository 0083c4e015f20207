"""Rules that apply primitives to arrays whose last axis is lanes.

A rule evaluates one equation for one piece and returns its outputs. It receives the interpreter,
which spreads operands to all lanes of the equation.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from nested_jax._core.jaxpr import CALLS, bind, entries, evaluate_alone, parameters

# A `dot_general` with at most this many terms is a product and a sum over lanes; a larger one is
# vmapped.
MOST_TERMS = 1024


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


ELEMENTWISE = _names(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp clz convert_element_type copy copy_p cos cosh digamma div eq erf
    erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p
    logistic lt max min mul ne neg nextafter not or population_count pow
    reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
    """
)
# These reduce or move own axes, which their parameters count from the front.
ALONG_OWN_AXES = _names(
    """
    argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max
    reduce_min reduce_or reduce_prod reduce_sum reduce_xor rev split
    """
)
OWN_RULES = _names(
    """
    broadcast_in_dim concatenate dynamic_slice pad reshape scan slice squeeze transpose
    """
)
NATIVE = ELEMENTWISE | ALONG_OWN_AXES | CALLS | OWN_RULES


class Spreads(Protocol):
    """The part of the interpreter that rules use."""

    def spread(self, value: Any, mask: int, piece: int) -> Any:
        """Return one piece of a value, broadcast to the lanes of all axes in `mask`."""
        ...


def is_native(eqn: Any) -> bool:
    """Return whether an equation can be evaluated with its lanes at the end, without vmap."""
    if eqn.primitive.name == "dot_general":
        return _terms(eqn) <= MOST_TERMS
    return eqn.primitive.name in NATIVE


def _terms(eqn: Any) -> int:
    """Return the number of products that a `dot_general` sums."""
    [((contracted, _), _)] = parameters(eqn)
    shape = eqn.invars[0].aval.shape
    return entries(eqn.outvars[0]) * math.prod(shape[i] for i in contracted)


def _vmapped(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    """Evaluate any primitive with `jax.vmap` over the lanes."""
    parts = [lanes.spread(value, mask, piece) if value.mask else value.parts[0] for value in given]
    axes = [-1 if value.mask else None for value in given]
    return jax.vmap(lambda *xs: evaluate_alone(eqn, xs), axes, -1)(*parts)


def _elementwise(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    shape, parts = eqn.outvars[0].aval.shape, []
    for value, atom in zip(given, eqn.invars, strict=True):
        part, own = lanes.spread(value, mask, piece), atom.aval.shape
        if own != shape:  # A scalar, or an axis of length 1.
            kept = [i for i, length in enumerate(own) if length == shape[i]]
            part = lax.squeeze(part, [i for i in range(len(own)) if i not in kept])
            part = lax.broadcast_in_dim(part, (*shape, part.shape[-1]), (*kept, len(shape)))
        parts.append(part)
    return bind(eqn, *parts)


def _along_own_axes(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    return bind(eqn, lanes.spread(given[0], mask, piece))


def _dot_general(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    """Multiply and sum, with axes in the order batch, left, right, contracted, lanes."""
    [(sums, batches)], out = parameters(eqn), eqn.outvars[0].aval
    free = [
        [i for i in range(len(atom.aval.shape)) if i not in (*sums[side], *batches[side])]
        for side, atom in enumerate(eqn.invars)
    ]
    wide = jnp.result_type(out.dtype, *(atom.aval.dtype for atom in eqn.invars))
    factors = []
    for side, atom in enumerate(eqn.invars):
        shape, part = atom.aval.shape, lanes.spread(given[side], mask, piece).astype(wide)
        part = lax.transpose(part, (*batches[side], *free[side], *sums[side], len(shape)))
        lengths = [[shape[i] for i in axes] for axes in (batches[side], free[side], sums[side])]
        others = [1] * len(free[1 - side])
        lengths[1] = others + lengths[1] if side else lengths[1] + others
        factors.append(part.reshape(*lengths[0], *lengths[1], *lengths[2], part.shape[-1]))
    product = factors[0] * factors[1]
    total = jnp.sum(product, range(len(out.shape), product.ndim - 1))
    return [total.astype(out.dtype)]  # `jnp.sum` widens narrow integers.


def _broadcast_in_dim(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    part, (shape, kept) = lanes.spread(given[0], mask, piece), parameters(eqn)
    return [lax.broadcast_in_dim(part, (*shape, part.shape[-1]), (*kept, len(shape)))]


def _reshape(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    part, (sizes, order) = lanes.spread(given[0], mask, piece), parameters(eqn)
    part = part if order is None else lax.transpose(part, (*order, len(order)))
    return [part.reshape(*sizes, part.shape[-1])]


def _squeeze(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    return [lax.squeeze(lanes.spread(given[0], mask, piece), *parameters(eqn))]


def _transpose(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    (order,) = parameters(eqn)
    return [lax.transpose(lanes.spread(given[0], mask, piece), (*order, len(order)))]


def _slice(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    part, (starts, limits, strides) = lanes.spread(given[0], mask, piece), parameters(eqn)
    ends = (*starts, 0), (*limits, part.shape[-1])
    return [lax.slice(part, *ends, strides and (*strides, 1))]


def _dynamic_slice(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    if any(value.mask for value in given[1:]):
        return _vmapped(lanes, eqn, given, mask, piece)
    part, starts = lanes.spread(given[0], mask, piece), [value.parts[0] for value in given[1:]]
    starts.append(jnp.zeros((), starts[0].dtype) if starts else 0)
    (sizes,) = parameters(eqn)
    return [lax.dynamic_slice(part, starts, (*sizes, part.shape[-1]))]


def _concatenate(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    parts = [lanes.spread(value, mask, piece) for value in given]
    return [lax.concatenate(parts, *parameters(eqn))]


def _pad(lanes: Spreads, eqn, given, mask, piece) -> list[Any]:
    if given[1].mask:
        return _vmapped(lanes, eqn, given, mask, piece)
    part, (config,) = lanes.spread(given[0], mask, piece), parameters(eqn)
    return [lax.pad(part, given[1].parts[0], (*config, (0, 0, 0)))]


RULES = dict.fromkeys(ALONG_OWN_AXES, _along_own_axes) | dict.fromkeys(ELEMENTWISE, _elementwise)
RULES |= {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
}


def rule_of(eqn: Any) -> Any:
    """Return the rule of an equation: that of its primitive, or vmap if there is none."""
    return RULES[eqn.primitive.name] if is_native(eqn) else _vmapped
