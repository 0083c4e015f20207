"""Checks that a transform works inside each of optax's wrappers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nested_jax.testing._case import (
    TRACED_RTOL,
    Case,
    assert_close,
    example,
    explained,
    run,
    stream,
)


def _compare(
    case: Case, where: str, wrapped: Any, gradients: Any, expected: Any, **options: Any
) -> None:
    """Raise unless `wrapped` gives the `expected` updates."""
    with explained(case, f"an update {where}"):
        actual = run(wrapped, example(), gradients, **options)
    assert_close(case, f"the update {where}", actual, expected)


def check_chain(case: Case) -> None:
    """Assert that a transform works with its neighbours in `optax.chain`."""
    tx, gradients = case.build(), stream(3)
    chained = optax.chain(optax.scale(2.0), tx, optax.scale(-1.0))
    doubled = jax.tree.map(lambda g: 2 * g, gradients)
    expected = jax.tree.map(jnp.negative, run(tx, example(), doubled))
    _compare(case, "inside optax.chain", chained, gradients, expected)


def check_masked(case: Case) -> None:
    """Assert that in `optax.masked` and `optax.partition` a transform sees only its own leaves.

    Leaves that are not its own go through unchanged, or to the other transform.
    """
    tx, gradients = case.build(), stream(3)

    def own(tree):
        return {name: leaf for name, leaf in tree.items() if name != "bias"}

    alone = run(tx, own(example()), [own(g) for g in gradients])
    masked = optax.masked(tx, {"bias": False, "scale": True, "weight": True})
    expected = [u | {"bias": g["bias"]} for u, g in zip(alone, gradients, strict=True)]
    _compare(case, "inside optax.masked", masked, gradients, expected)

    labels = {"bias": "other", "scale": "mine", "weight": "mine"}
    parted = optax.partition({"mine": tx, "other": optax.scale(3.0)}, labels)
    expected = [u | {"bias": 3 * u["bias"]} for u in expected]
    _compare(case, "inside optax.partition", parted, gradients, expected)


def check_multi_steps(case: Case) -> None:
    """Assert that `optax.MultiSteps` gives the update of the mean gradient at each k-th step."""
    tx, gradients = case.build(), stream(4)

    def mean(g, h):
        return jax.tree.map(lambda x, y: (x + y) / 2, g, h)

    first, second = run(tx, example(), [mean(*gradients[:2]), mean(*gradients[2:])])
    nothing = jax.tree.map(jnp.zeros_like, first)
    expected = [nothing, first, nothing, second]
    every = optax.MultiSteps(tx, 2)
    _compare(case, "inside optax.MultiSteps", every, gradients, expected, jit=True)


def check_apply_if_finite(case: Case) -> None:
    """Assert that `optax.apply_if_finite` skips a NaN gradient without a trace."""
    tx, (before, lost, after) = case.build(), stream(3)
    first, second = run(tx, example(), [before, after])
    expected = [first, jax.tree.map(jnp.zeros_like, first), second]
    gradients = [before, lost | {"bias": jnp.full(3, jnp.nan)}, after]
    careful = optax.apply_if_finite(tx, 3)
    _compare(case, "inside optax.apply_if_finite", careful, gradients, expected, jit=True)


def check_inject_hyperparams(case: Case) -> None:
    """Assert that `optax.inject_hyperparams` holds the numbers and that changing one has an effect.

    The second step has the second values, set in the state.
    """
    params, (g0, g1) = example(), stream(2)
    tx, changed = case.build(), case.build(case.others)
    first, state = tx.update(g0, tx.init(params), params)
    expected = (first, changed.update(g1, state, params)[0])
    where = "the update inside optax.inject_hyperparams"
    with explained(case, where):
        injected = optax.inject_hyperparams(case.factory())(**case.values)
        update = jax.jit(injected.update)
        first, state = update(g0, injected.init(params), params)
        others = {name: jnp.asarray(value) for name, value in case.others.items()}
        state = state._replace(hyperparams=state.hyperparams | others)
        actual = (first, update(g1, state, params)[0])
    assert_close(case, where, actual, expected, TRACED_RTOL)
