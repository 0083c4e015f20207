"""Two Pallas kernels that stay on the device for a block of steps: the drift, and the descent.

One lane is one dimension, and the rows of a cascade stay in registers, so that a step touches
memory only to read its inputs. vmap makes a grid of it, in which what is not batched (a stream that
all runs share) is read from one copy. Triton wants lengths that are powers of two: the lanes beyond
a vector's end hold zeros, which the recurrences keep.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from nested_jax.kernels import _triton

# Up to this many lanes one warp does all, four to a thread: no sum has to cross warps.
LANES_OF_A_WARP = 128
MOST_WARPS = 8
# Steps of the drift side by side. It has no feedback, so one step's outer levels can move while
# the next one's inner levels do.
STEPS_AT_ONCE = 4
# Runs of up to 5, 10, ... stages have loops of their own, without what only deeper ones need.
STAGES_OF_A_LOOP = 5


class Descent(NamedTuple):
    """What a block of steps of one run leaves behind.

    Attributes:
        rows: The parameters and, below them, the momenta, outermost first.
        counted: Sum of the losses that are counted.
        diverged_at: First step whose loss was not within the bound; the largest integer if
            there was none.
    """

    rows: Float[Array, "rows lanes"]
    counted: Float[Array, ""]
    diverged_at: Int[Array, ""]


def lanes(size: int) -> int:
    """Return the power of two that holds `size` numbers."""
    return 1 << (size - 1).bit_length()


def padded(rows: Float[Array, "... size"]) -> Float[Array, "... lanes"]:
    """Return the rows with zeros in the lanes that they leave."""
    size = rows.shape[-1]
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, lanes(size) - size)])


def loop_of(decays: Float[Array, " stages"]) -> Int[Array, ""]:
    """Return which of the loops has the stages up to the last whose decay is not 0."""
    stages = jnp.max(jnp.where(decays != 0, jnp.arange(1, decays.size + 1), 1), initial=1)
    return ((stages - 1) // STAGES_OF_A_LOOP).astype(jnp.int32)


def drift_block(
    keeps: Float[Array, " levels"],
    takes: Float[Array, " levels"],
    rows: Float[Array, "levels lanes"],
    inflows: Float[Array, "steps lanes"],
    interpret: bool,
) -> tuple[Float[Array, "levels lanes"], Float[Array, "steps lanes"]]:
    """Move a cascade through a block of inflows; return it and its outermost row at each step."""
    shapes = [jax.ShapeDtypeStruct(x.shape, rows.dtype) for x in (rows, inflows)]
    return _call(_drift_kernel, shapes, interpret)(keeps, takes, rows, inflows)


def descent_block(
    numbers: Float[Array, " numbers"],
    steps: Int[Array, " three"],
    rows: Float[Array, "rows lanes"],
    features: Float[Array, "steps lanes"],
    targets: Float[Array, " steps"],
    interpret: bool,
) -> Descent:
    """Descend along nested momentum for a block of examples; under vmap, two runs a program.

    `numbers` are minus the learning rate, the largest loss within the bound, the keeps and the
    takes of the stages; `steps` are the number of the first step, the first that is counted, and
    `loop_of` the decays.
    """

    @custom_vmap
    def descend(*args):
        results = _descend_together(args, [False] * 5, 1, interpret)
        return tuple(x[0] for x in results)

    @descend.def_vmap
    def _(size, batched, *args):
        if size == 1:
            args = [x[0] if own else x for x, own in zip(args, batched, strict=True)]
            return tuple(x[None] for x in descend(*args)), (True,) * 3
        args = [_in_pairs(x) if own else x for x, own in zip(args, batched, strict=True)]
        results = jax.vmap(
            lambda *args: _descend_together(args, batched, 2, interpret),
            [0 if own else None for own in batched],
        )(*args)
        return tuple(x.reshape(-1, *x.shape[2:])[:size] for x in results), (True,) * 3

    return Descent(*descend(numbers, steps, rows, features, targets))


def _in_pairs(x):
    """Cut the first axis into pairs; the last entry stands in for one that is missing."""
    x = jnp.concatenate([x, x[-1:]]) if x.shape[0] % 2 else x
    return x.reshape(-1, 2, *x.shape[1:])


def _descend_together(args, batched, runs, interpret):
    """Call the kernel for a few runs, which share what is not batched."""
    numbers, steps, rows, features, targets = args
    if not batched[2]:
        rows = jnp.broadcast_to(rows, (runs, *rows.shape))
    kinds = (rows.shape, rows.dtype), ((runs,), rows.dtype), ((runs,), jnp.int32)
    shapes = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    return _call(_descent_kernel, shapes, interpret)(numbers, steps, rows, features, targets)


def _call(kernel: Callable, shapes: Sequence[Any], interpret: bool) -> Callable:
    """Return the kernel as a function; the first of its results says how wide it is."""
    warps = min(max(shapes[0].shape[-1] // LANES_OF_A_WARP, 1), MOST_WARPS)
    return pl.pallas_call(
        functools.partial(kernel, _product_and_sum if interpret else _triton.multiply_add),
        out_shape=shapes,
        compiler_params=None if interpret else _triton.compiler_params(warps),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )


def _drift_kernel(multiply_add, keeps, takes, rows, inflows, new_rows, outflows):
    levels, steps = range(rows.shape[0]), inflows.shape[0]
    all_keeps = [_wide(keeps[i], rows.shape[1:]) for i in levels]
    all_takes = [_wide(takes[i], rows.shape[1:]) for i in levels]
    at_once = STEPS_AT_ONCE if steps % STEPS_AT_ONCE == 0 else 1

    def several_steps(i, momenta):
        for t in [at_once * i + np.int32(j) for j in range(at_once)]:
            momenta = _moved(multiply_add, all_keeps, all_takes, momenta, inflows[t])
            outflows[t] = momenta[0]
        return momenta

    momenta = _loop(steps // at_once, several_steps, tuple(rows[i] for i in levels))
    for i in levels:
        new_rows[i] = momenta[i]


def _descent_kernel(
    multiply_add, numbers, steps, rows, features, targets, new_rows, counted, diverged_at
):
    runs, stages, shape = rows.shape[0], rows.shape[1] - 1, (rows.shape[0], rows.shape[2])
    number, step_number = _entries(numbers, 1), _entries(steps, 1)
    features_of, target_of = _entries(features, 2), _entries(targets, 1)
    last = np.int32(targets.shape[-1] - 1)
    minus_rate, largest = _wide(number(0), shape), number(1)
    keeps = [_wide(number(2 + i), shape) for i in range(stages)]
    takes = [_wide(number(2 + stages + i), shape) for i in range(stages)]
    start, warmup, which = (step_number(i) for i in range(3))

    def loop(depth, params, momenta):
        def step(i, carry):
            params, momenta, x, y, counted, first = carry
            # Asked for a step ahead: what follows then waits for nothing but its own arithmetic.
            following = jnp.minimum(i + np.int32(1), last)
            x_next, y_next = features_of(following), target_of(following)
            error = jnp.sum(params * x, axis=1) - y
            # The product with 2 rounds nothing, and of x it is ready before the error is.
            loss, gradient = error * error, error[:, None] * (x + x)
            momenta = _moved(multiply_add, keeps[:depth], takes[:depth], momenta, gradient)
            params = multiply_add(minus_rate, (*momenta, gradient)[0], params)
            counted += jnp.where(start + i >= warmup, loss, 0)
            # Not `loss > largest`, which is false for NaN.
            first = jnp.where(loss <= largest, first, jnp.minimum(first, start + i))
            return params, momenta, x_next, y_next, counted, first

        totals = jnp.zeros(runs, rows.dtype), jnp.full(runs, np.iinfo(np.int32).max, jnp.int32)
        carry = params, momenta[:depth], features_of(0), target_of(0), *totals
        params, moved, _, _, *totals = _loop(last + 1, step, carry)
        return params, (*moved, *momenta[depth:]), *totals

    depths = [*range(STAGES_OF_A_LOOP, stages, STAGES_OF_A_LOOP), stages]
    params, momenta, counted[...], diverged_at[...] = jax.lax.switch(
        jnp.max(which) if which.ndim else which,
        [functools.partial(loop, depth) for depth in depths],
        rows[:, 0],
        tuple(rows[:, 1 + i] for i in range(stages)),
    )
    for i, row in enumerate((params, *momenta)):
        new_rows[:, i] = row


def _entries(ref, rank):
    """Return the function to an entry, one a run where there is an axis of runs before the rest."""
    runs = (slice(None),) * (len(ref.shape) - rank)
    return lambda i: ref[(*runs, i)]


def _wide(number, shape):
    """Return a number, or one a run, in all lanes."""
    return jnp.broadcast_to(number[:, None] if number.ndim else number, shape)


def _moved(multiply_add, keeps, takes, momenta, inflow):
    """Move a cascade one step on, as `nested_jax._core.cascade.cascade` does."""
    fresh = []
    for keep, take, momentum in zip(keeps[::-1], takes[::-1], momenta[::-1], strict=True):
        inflow = multiply_add(take, inflow, keep * momentum)
        fresh.append(inflow)
    return tuple(fresh[::-1])


def _product_and_sum(x, y, z):
    return x * y + z


def _loop(steps, body, carry):
    """Run a loop over 32-bit step numbers, whatever JAX's default integer is."""
    return jax.lax.fori_loop(np.int32(0), np.int32(steps), body, carry)
