"""Checks of dtypes, hyperparameters, and extreme gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.extras import needs
from nested_jax.testing._case import (
    EXTREMES,
    TRACED_RTOL,
    Case,
    assert_close,
    assert_finite,
    example,
    explained,
    fail,
    named_leaves,
    run,
    scan,
    stream,
    traced,
)

with needs("nested_jax.testing", "testing"):
    import chex

# Long enough that what a frozen 16-bit sum or average lacks is a multiple of the tolerance.
LONG = 512
# A chain rounds to bfloat16 after each link, by 2^-9 of the value; eight links and their sum.
BFLOAT16_RTOL = 8 * 2.0**-8

# Dtypes of parameters and gradients, without and with 64 bits.
PAIRS = {
    False: [
        *((x, x) for x in ("float16", "bfloat16", "float32")),
        *(("float32", "bfloat16"), ("bfloat16", "float32")),
    ],
    True: [("float64", "float64"), ("float64", "float32"), ("float32", "float64")],
}


def check_dtypes(case: Case) -> None:
    """Assert that each update has the dtype and the shape of its gradient.

    For float16, bfloat16, float32 and float64, for gradients of another dtype than their
    parameters, and for trees that mix all of them; with hyperparameters that are Python numbers
    or traced arrays. `optax.apply_updates` would hide a promoted update by casting it, and a
    traced float32 rate promote all 16-bit updates on their way.
    """
    for x64, pairs in PAIRS.items():
        with jax.enable_x64(x64):
            trees = [(example(own), example(other, 1)) for own, other in pairs]
            for params, gradients in [*trees, tuple(map(list, zip(*trees, strict=True)))]:
                _check_dtypes_of(case, params, gradients)


def _check_dtypes_of(case: Case, params: Any, gradients: Any) -> None:
    def update(params, gradients, hyperparams=case.values):
        tx = case.build(hyperparams)
        return tx.update(gradients, tx.init(params), params)[0]

    dtypes = [sorted({str(x.dtype) for x in jax.tree.leaves(t)}) for t in (gradients, params)]
    for form, hyperparams in {"traced": (traced(case.values),), "Python": ()}.items():
        where = (
            f"the update with {form} hyperparameters, gradients {', '.join(dtypes[0])} and "
            f"parameters {', '.join(dtypes[1])}"
        )
        with explained(case, where):
            updates = jax.eval_shape(update, params, gradients, *hyperparams)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, gradients)


def check_reduced_precision(case: Case) -> None:
    """Assert that a long run in 16 bits follows the same run in float32.

    An impulse, then small constant gradients, with traced float32 hyperparameters. In bfloat16 a
    decay of 0.999 is 1: a sum kept in it never forgets, an average never moves, and next to a
    large sum a small gradient is lost. The squares of ordinary small gradients are 0 in float16.
    """
    narrow = {"bias": jnp.float16, "scale": jnp.bfloat16, "weight": jnp.bfloat16}
    wide = dict.fromkeys(narrow, jnp.float32)
    scale = np.full((LONG, 1), 0.125)
    scale[0] = 1.0

    # Numbers of eight bits are the same in all three dtypes; the small ones are for float16.
    params, first = (jax.tree.map(np.asarray, example(jnp.bfloat16, seed)) for seed in (0, 1))
    first["bias"] = first["bias"] * np.array(2.0**-10, first["bias"].dtype)
    gradients = {n: (scale * g.ravel()).reshape(LONG, *g.shape) for n, g in first.items()}

    @functools.partial(jax.jit, static_argnums=1)
    def last(hyperparams, in_16_bits):
        dtypes = narrow if in_16_bits else wide
        cast = [{n: jnp.asarray(x, dtypes[n]) for n, x in t.items()} for t in (params, gradients)]
        updates = scan(case.build(hyperparams), *cast)
        # Float16 ends at 6e-8, whatever the updates were formed in.
        return {n: u[-1].astype(narrow[n]).astype(jnp.float32) for n, u in updates.items()}

    what = f"the update after {LONG} steps in float16 or bfloat16, against the same in float32"
    for values in (case.values, case.others) if case.hyperparams else ({},):
        with explained(case, what):
            pair = last(traced(values), True), last(traced(values), False)
        assert_close(case, what, *pair, BFLOAT16_RTOL)


def check_single_compilation(case: Case) -> None:
    """Assert that one compiled step serves all values of all numeric hyperparameters.

    The step is given a state that `init` made outside, then those it returned itself.
    """
    params, gradients = example(), example(seed=1)
    traces = 0

    @jax.jit
    def step(hyperparams, state):
        nonlocal traces
        traces += 1
        return case.build(hyperparams).update(gradients, state, params)[1]

    state = case.build().init(params)
    for values in (case.values, case.others, case.values):
        with explained(case, "a jitted step with the hyperparameters as arguments"):
            state = step(values, state)
    if traces != 1:
        fail(case, f"three steps with different hyperparameters compiled {traces} programs")


def check_hyperparameters(case: Case) -> None:
    """Assert that vmapped hyperparameters agree with separate runs, and that each has an effect.

    One run has all first values; one more for each hyperparameter has its second value.
    """
    if not case.hyperparams:
        return
    others = case.others
    rows = [case.values, *(case.values | {name: others[name]} for name in others)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *map(traced, rows))
    gradients = stream(4)
    scanned = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)

    def solve(hyperparams):
        return scan(case.build(hyperparams), example(), scanned)

    with explained(case, "a vmap over all hyperparameters"):
        together = jax.tree.map(np.asarray, jax.jit(jax.vmap(solve))(stacked))
    first = jax.tree.map(lambda x: x[0], together)
    for i, (name, row) in enumerate(zip(["", *others], rows, strict=True)):
        expected = run(case.build(row), example(), gradients)
        expected = jax.tree.map(lambda *xs: np.stack(xs), *expected)
        actual = jax.tree.map(lambda x, i=i: x[i], together)
        what = f"the vmapped run with the second `{name}`" if i else "the vmapped run"
        assert_close(case, what, actual, expected, TRACED_RTOL)
        if i and _all_equal(actual, first):
            fail(case, f"the two values of `{name}` give the same updates")


def _all_equal(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def check_hyperparameter_gradients(case: Case) -> None:
    """Assert that the updates' derivatives by all real hyperparameters are finite."""
    real = {
        name: jnp.asarray(value)
        for name, value in case.values.items()
        if jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating)
    }
    if not real:
        return
    gradients = stream(2)

    @jax.jit
    @jax.grad
    def slopes(hyperparams):
        updates = run(case.build(case.values | hyperparams), example(), gradients)
        return sum(jnp.sum(u**2) for u in jax.tree.leaves(updates))

    with explained(case, "the gradient through the hyperparameters"):
        found = slopes(real)
    assert_finite(case, "the gradient through the hyperparameters", found)


def check_extreme_gradients(case: Case) -> None:
    """Assert the outcome that the case declares for extreme gradients.

    Each run is one such gradient between ordinary ones: all entries 0; all too small for their
    square, in range for it or too large for it ("tiny", "large", "huge"); one entry infinite or
    NaN. Where one entry is, entries that it does not reach must stay finite. In float16, whose
    ends are near, only "zero" and "large" are run.
    """
    outcomes = {**EXTREMES, **case.extremes}
    for dtype, kinds in {"float32": tuple(EXTREMES), "float16": ("zero", "large")}.items():
        gradients, params = stream(3, dtype), example(dtype)
        for kind in kinds:
            where = f"the update of {'an' if kind == 'inf' else 'a'} {kind} {dtype} gradient"
            with explained(case, where):
                updates = run(case.build(), params, _with_extreme(gradients, kind))
            if outcomes[kind] == "finite":
                assert_finite(case, f"{where}, or one after it", updates)
            elif outcomes[kind] == "seen":
                _assert_seen(case, where, kind, updates)


def _with_extreme(gradients: list[Any], kind: str) -> list[Any]:
    """Make the second of three steps extreme."""
    before, now, after = gradients
    info = jnp.finfo(now["weight"].dtype)
    scale = {
        "zero": 0.0,
        "tiny": float(info.tiny) * 16,
        "large": float(info.max) ** 0.5 / 16,
        "huge": float(info.max) / 4096,
    }
    if kind in scale:
        now = jax.tree.map(lambda g: g * scale[kind], now)
    else:
        now = now | {"weight": now["weight"].at[1, 0].set(float(kind))}
    return [before, now, after]


def _assert_seen(case: Case, where: str, kind: str, updates: list[Any]) -> None:
    if kind not in ("inf", "nan"):
        for path, leaf in named_leaves(updates[1]).items():
            if np.isfinite(leaf).any():
                fail(case, f"{where} is finite at {path}: the overflow is hidden")
        return
    if np.isfinite(updates[1]["weight"][1, 0]):
        fail(case, f"{where} is finite where the gradient is not: the error is hidden")
    if case.reach != "tree":
        assert_finite(case, f"{where} in another leaf", [u["bias"] for u in updates])
    if case.reach == "entry":
        cleared = [u["weight"].at[1, 0].set(0) for u in updates]
        assert_finite(case, f"{where} in another entry", cleared)
