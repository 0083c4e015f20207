"""Checks that need long runs or wide dtypes: lost digits, and counters at the end of range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax.testing._case import (
    Case,
    assert_close,
    assert_finite,
    example,
    explained,
    fail,
    named_leaves,
    stream,
)

# Far above what a few steps round in float32, and below half a unit in float16, the next narrower.
FLOAT32_RTOL = 1e-4
# A change of the input that any dtype sees, and one that of all dtypes float64 alone sees.
COARSE, FINE = 2.0**-6, 2.0**-40
# An update that does something every k steps may do it right at the end of the counter, if k is a
# power of two. It then also did it k steps earlier, so these steps are compared too.
STEPS_BEFORE = tuple(2**i for i in range(11))


def check_precision(case: Case) -> None:
    """Assert that updates have the precision of their gradients, float32 or float64.

    In float32 they must follow those in float64. In float64, entries that move when gradients and
    parameters change by 2^-6 must move when they change by 2^-40, or they have been rounded to
    fewer bits. Nothing is asked of what moves with neither, such as a sign.
    """
    # Of few digits, so that float32 and float64 mean the same numbers.
    values = {name: _in_float32(value) for name, value in case.values.items()}
    what = "the update in float32, against the same in float64"
    # Graphics cards round what they multiply, which is not the transform's doing.
    with explained(case, what), jax.default_matmul_precision("highest"):
        with jax.enable_x64(False):
            narrow = _two_steps(case, values, "float32")
        with jax.enable_x64(True):
            wide, fine, coarse = (
                _two_steps(case, values, "float64", change) for change in (0.0, FINE, COARSE)
            )
    assert_close(case, what, narrow, wide, FLOAT32_RTOL)
    for path, *leaves in zip(
        named_leaves(wide), *map(jax.tree.leaves, (wide, fine, coarse)), strict=True
    ):
        if _is_stuck(*leaves):
            fail(case, f"the update for float64 gradients: {path} is rounded to fewer bits")


def _is_stuck(here: Any, fine: Any, coarse: Any) -> bool:
    """Return whether most entries change only if the inputs change coarsely."""
    # By more than rounding; and of what takes steps, few entries are at the edge of one.
    moved = np.abs(coarse - here) > COARSE**2 * np.abs(here)
    return bool(np.mean(moved & (fine == here)) > 0.5)


def _in_float32(value: Any) -> Any:
    """Round a hyperparameter to float32 and keep its type."""
    array = np.asarray(value)
    if array.dtype.kind != "f":
        return value
    return array.astype(np.float32).astype(array.dtype)[()]


def _two_steps(case: Case, values: Any, dtype: str, change: float = 0.0) -> Any:
    """Return the stacked updates of two steps, with all inputs changed by up to `change`."""
    rng = np.random.default_rng(0)

    def changed(leaf):
        return jnp.asarray(leaf * (1 + change * rng.uniform(0.5, 1, leaf.shape)), dtype)

    params, *gradients = jax.tree.map(changed, [example(dtype), *stream(2, dtype)])
    tx = case.build(values)
    first, state = tx.update(gradients[0], tx.init(params), params)
    second, _ = tx.update(gradients[1], state, params)
    return jax.tree.map(lambda *xs: np.stack(xs), first, second)


def check_counters(case: Case) -> None:
    """Assert that counters at the end of their range stay there, as `optax.safe_increment` does.

    Counters are the numbers in the state that grow by one a step. They must be integers: float32
    loses the 1 that is added to 2^24. An int32 to which 1 is added after 2^31 - 1 steps is
    negative, and so is what is divided by it. With what counters at their end turn into, updates
    must be finite and, the rest of the state being the same, like those of a thousand steps before:
    within their range, by half of the largest.
    """
    params, gradients = example(), example(seed=1)
    tx = case.build()

    def update(state):
        return tx.update(gradients, state, params)

    what = "the update after the last step its counters can count"
    with explained(case, what):
        states = _three_states(update, tx.init(params))
    counting = _counting(states)
    for i, (path, leaf) in enumerate(named_leaves(states[-1]).items()):
        if i in counting and not jnp.issubdtype(leaf.dtype, jnp.integer):
            fail(case, f"{path} of the state counts steps in {leaf.dtype}, not in an integer")
    with explained(case, what):
        state, counters = states[-1], _with_an_end(update, states[-1], counting)
        if not counters:
            return
        before = [update(_replaced(state, _before_the_end(counters, n)))[0] for n in STEPS_BEFORE]
        after = jax.tree.leaves(update(_replaced(state, _before_the_end(counters, 0)))[1])
        late, _ = update(_replaced(state, {i: after[i] for i in counters}))
    assert_finite(case, what, late)
    rows = zip(named_leaves(late).items(), *map(jax.tree.leaves, before), strict=True)
    for (path, x), *xs in rows:
        x, xs = np.asarray(x, np.float64), np.asarray(xs, np.float64)
        slack = np.abs(xs).max(0) / 2
        if ((x < xs.min(0) - slack) | (x > xs.max(0) + slack)).any():
            now, then = x.ravel()[:4], xs[0].ravel()[:4]
            fail(case, f"{what}: {path} is {now}, and was {then} before (first entries)")


def _three_states(update: Any, state: Any) -> list[Any]:
    """Return the state and those after one and two steps."""
    states = [state]
    for _ in range(2):
        states.append(update(states[-1])[1])
    return states


def _counting(states: list[Any]) -> dict[int, Any]:
    """Return the leaves that grow by one a step, by position."""
    rows = enumerate(zip(*map(jax.tree.leaves, states), strict=True))
    return {i: row[-1] for i, row in rows if _counts(*row)}


def _with_an_end(update: Any, state: Any, counters: dict[int, Any]) -> dict[int, Any]:
    """Return the counters that stay at the end of their range."""
    # One that starts again on its way, such as a position in a buffer, has no such end.
    _, after = update(_replaced(state, _before_the_end(counters, 1)))
    after, ends = jax.tree.leaves(after), _before_the_end(counters, 0)
    return {i: x for i, x in counters.items() if (after[i] == ends[i]).all()}


def _counts(first: Any, second: Any, third: Any) -> bool:
    """Return whether a leaf grows by one per step over three states."""
    if not third.size or jnp.issubdtype(third.dtype, jax.dtypes.extended):
        return False
    return bool(((second == first + 1) & (third == second + 1)).all())


def _before_the_end(counters: dict[int, Any], steps: int) -> dict[int, Any]:
    """Return counters `steps` steps before the end of their range."""
    ends = {i: jnp.iinfo(counter.dtype).max for i, counter in counters.items()}
    # Of a byte's range half is left.
    return {i: jnp.full_like(x, ends[i] - min(steps, ends[i] // 2)) for i, x in counters.items()}


def _replaced(state: Any, leaves: dict[int, Any]) -> Any:
    """Return a state with the leaves at these positions replaced."""
    old, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(structure, [leaves.get(i, leaf) for i, leaf in enumerate(old)])
