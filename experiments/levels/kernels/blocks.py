"""Two Pallas kernels, the drift and the descent, that each run a whole block of steps.

Each lane holds one dimension. The rows of a cascade stay in registers, so a step accesses memory
only to read its inputs and, in the drift, to write its output. `jax.vmap` turns a kernel into a
grid of programs, which read unbatched arrays (a stream that all runs share) from one copy. Triton
needs lengths that are powers of two: lanes beyond a vector's end hold zeros, and the recurrences
keep them zero.
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

from experiments.levels.kernels import triton

# Up to this many lanes, one warp runs a program, four lanes per thread, so no sum crosses warps.
LANES_OF_A_WARP = 128
MOST_WARPS = 8
# Steps of the drift that are unrolled together. The drift has no feedback, so the outer levels of
# one step can be updated in parallel with the inner levels of the next.
STEPS_AT_ONCE = 4
# Runs with up to 5, 10, ... stages use separate loops, without stages that only deeper runs need.
STAGES_OF_A_LOOP = 5


class Descent(NamedTuple):
    """The result of one block of steps of one run.

    Attributes:
        rows: The parameters, followed by the momenta, outermost first.
        counted: Sum of the losses from the first counted step on.
        diverged_at: First step whose loss exceeded the bound or was NaN; the largest integer if
            there was none.
    """

    rows: Float[Array, "rows lanes"]
    counted: Float[Array, ""]
    diverged_at: Int[Array, ""]


def lanes(size: int) -> int:
    """Return the smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


def padded(rows: Float[Array, "... size"]) -> Float[Array, "... lanes"]:
    """Return the rows, padded with zeros to a power of two."""
    size = rows.shape[-1]
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, lanes(size) - size)])


def loop_of(decays: Float[Array, " stages"]) -> Int[Array, ""]:
    """Return the index of the smallest loop with all stages up to the last nonzero decay."""
    stages = jnp.max(jnp.where(decays != 0, jnp.arange(1, decays.size + 1), 1), initial=1)
    return ((stages - 1) // STAGES_OF_A_LOOP).astype(jnp.int32)


def drift_block(
    keeps: Float[Array, " levels"],
    takes: Float[Array, " levels"],
    rows: Float[Array, "levels lanes"],
    inflows: Float[Array, "steps lanes"],
    interpret: bool,
) -> tuple[Float[Array, "levels lanes"], Float[Array, "steps lanes"]]:
    """Run a cascade on a block of inflows; return its rows and its outermost row at each step."""
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
    """Run nested momentum on a block of examples; under vmap, one program handles two runs.

    `numbers` holds minus the learning rate, the largest loss within the bound, and the keeps and
    takes of the stages. `steps` holds the index of the first step, the first step whose loss
    counts, and `loop_of` the decays.
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
    """Split the first axis into pairs; an odd last entry is paired with a copy of itself."""
    x = jnp.concatenate([x, x[-1:]]) if x.shape[0] % 2 else x
    return x.reshape(-1, 2, *x.shape[1:])


def _descend_together(args, batched, runs, interpret):
    """Call the kernel for a few runs that share the unbatched arguments."""
    numbers, steps, rows, features, targets = args
    if not batched[2]:
        rows = jnp.broadcast_to(rows, (runs, *rows.shape))
    kinds = (rows.shape, rows.dtype), ((runs,), rows.dtype), ((runs,), jnp.int32)
    shapes = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    return _call(_descent_kernel, shapes, interpret)(numbers, steps, rows, features, targets)


def _call(kernel: Callable, shapes: Sequence[Any], interpret: bool) -> Callable:
    """Return the kernel as a function; the shape of its first result sets the number of warps."""
    warps = min(max(shapes[0].shape[-1] // LANES_OF_A_WARP, 1), MOST_WARPS)
    return pl.pallas_call(
        functools.partial(kernel, _product_and_sum if interpret else triton.multiply_add),
        out_shape=shapes,
        compiler_params=None if interpret else triton.compiler_params(warps),
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
            # Load the next inputs one step ahead, so that no step waits for memory.
            following = jnp.minimum(i + np.int32(1), last)
            x_next, y_next = features_of(following), target_of(following)
            error = jnp.sum(params * x, axis=1) - y
            # Doubling is exact, and x + x can be computed before the error is known.
            loss, gradient = error * error, error[:, None] * (x + x)
            momenta = _moved(multiply_add, keeps[:depth], takes[:depth], momenta, gradient)
            params = multiply_add(minus_rate, (*momenta, gradient)[0], params)
            counted += jnp.where(start + i >= warmup, loss, 0)
            # `loss > largest` would be False for NaN.
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
    """Return a function that loads entry i, for every run if `ref` has a leading axis of runs."""
    runs = (slice(None),) * (len(ref.shape) - rank)
    return lambda i: ref[(*runs, i)]


def _wide(number, shape):
    """Broadcast a number, or one number per run, to all lanes."""
    return jnp.broadcast_to(number[:, None] if number.ndim else number, shape)


def _moved(multiply_add, keeps, takes, momenta, inflow):
    """Advance a cascade by one step, like `nj.scale_by_nested_momentum`."""
    fresh = []
    for keep, take, momentum in zip(keeps[::-1], takes[::-1], momenta[::-1], strict=True):
        inflow = multiply_add(take, inflow, keep * momentum)
        fresh.append(inflow)
    return tuple(fresh[::-1])


def _product_and_sum(x, y, z):
    return x * y + z


def _loop(steps, body, carry):
    """Run a loop over 32-bit step indices, regardless of JAX's default integer."""
    return jax.lax.fori_loop(np.int32(0), np.int32(steps), body, carry)
