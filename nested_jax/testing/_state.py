"""Checks of the state: its leaves, its stability under updates, donation and serialization."""

import pathlib
import tempfile
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.extras import needs
from nested_jax.testing._case import (
    Case,
    assert_avals,
    assert_close,
    example,
    explained,
    fail,
    named_leaves,
    traced,
)

with needs("nested_jax.testing", "testing"):
    import chex
    import flax.serialization


def check_state_is_arrays(case: Case) -> None:
    """Assert that every leaf of the initial state is a JAX array with its own buffer.

    A Python number in a state compiles a second program when it turns into an array after the
    first update; an array that appears twice, or is one of the parameters, cannot be donated.
    """
    params = example()
    with explained(case, "init"):
        state = case.build().init(params)
    owners = {x.unsafe_buffer_pointer(): f"params{p}" for p, x in named_leaves(params).items()}
    for path, leaf in named_leaves(state).items():
        if not isinstance(leaf, jax.Array):
            fail(case, f"the initial state holds {describe_value(leaf)} at {path}, not an array")
        if leaf.size:
            owner = owners.setdefault(leaf.unsafe_buffer_pointer(), path)
            if owner != path:
                fail(case, f"in the initial state {path} and {owner} are one buffer")


def describe_value(value: Any) -> str:
    """Return the type and value in words."""
    return f"the {type(value).__name__} {value!r}"


def check_init_is_abstract(case: Case) -> None:
    """Assert that `init` under `jax.eval_shape` has the shapes and dtypes that `init` returns.

    Checkpoints are restored into, and sharded states laid out from, a state that was never
    computed.
    """
    params = example()
    with explained(case, "init under jax.eval_shape"):
        abstract = jax.eval_shape(case.build().init, params)
    assert_avals(case, "init under jax.eval_shape", abstract, case.build().init(params))


def check_stable_state(case: Case) -> None:
    """Assert that an update keeps structure, shapes, dtypes and weak types of the state.

    Under jit, `lax.scan`, `lax.cond` and vmap; for parameters of 16, 32 and 64 bits; with
    hyperparameters that are Python numbers, traced float32 or traced float64. A scan refuses a
    state that changes, a loop over a jitted step compiles it again.
    """
    for x64, dtypes in {False: ("bfloat16", "float32"), True: ("bfloat16", "float64")}.items():
        with jax.enable_x64(x64):
            for dtype in dtypes:
                for form, advance in FORMS.items():
                    _check_stable(case, form, advance, dtype, traced(case.values))
                _check_stable(case, "under jit", _under_jit, dtype)


def _check_stable(case: Case, form: str, advance: Any, dtype: str, *hyperparams: Any) -> None:
    def two_states(params, gradients, values=case.values):
        tx = case.build(values)
        state = tx.init(params)
        return state, advance(tx, gradients, state, params)

    kind = f"{dtype} parameters and {'traced' if hyperparams else 'Python'} hyperparameters"
    where = f"the state for {kind} {form}"
    with explained(case, where):
        before, after = jax.eval_shape(two_states, example(dtype), example(dtype, 1), *hyperparams)
    assert_avals(case, where, after, before)


def _under_jit(tx, gradients, state, params):
    return jax.jit(tx.update)(gradients, state, params)[1]


def _in_scan(tx, gradients, state, params):
    def step(state, _):
        return tx.update(gradients, state, params)[1], None

    return jax.lax.scan(step, state, length=2)[0]


def _in_cond(tx, gradients, state, params):
    positive = jax.tree.leaves(gradients)[0].sum() > 0
    return jax.lax.cond(positive, lambda: tx.update(gradients, state, params)[1], lambda: state)


def _under_vmap(tx, gradients, state, params):
    def update(gradients):
        return tx.update(gradients, state, params)[1]

    states = jax.vmap(update)(jax.tree.map(lambda g: jnp.stack([g, g]), gradients))
    return jax.tree.map(lambda x: x[0], states)


FORMS = {
    "under jit": _under_jit,
    "in lax.scan": _in_scan,
    "in lax.cond": _in_cond,
    "under vmap": _under_vmap,
}


def check_donation(case: Case) -> None:
    """Assert that the whole state can be donated, and that this does not change the updates.

    Donation lets an update write over the old state: half the memory of a large model.
    """
    params, gradients = example(), example(seed=1)
    tx = case.build()

    def step(state, gradients, params):
        return tx.update(gradients, state, params)

    expected = step(tx.init(params), gradients, params)
    with explained(case, "an update that is donated its state"), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*donated")
        actual = jax.jit(step, donate_argnums=0)(tx.init(params), gradients, params)
    assert_close(case, "an update that is donated its state", actual, expected)


def check_serialization(case: Case) -> None:
    """Assert that the state survives flax serialization and orbax files bit for bit."""
    params = example()
    tx = case.build()
    template = tx.init(params)
    state = tx.update(example(seed=1), template, params)[1]
    with explained(case, "a round trip through flax.serialization"):
        restored = flax.serialization.from_bytes(template, flax.serialization.to_bytes(state))
    _assert_same(case, "a round trip through flax.serialization", restored, state)
    # Orbax refuses a tree without leaves, which a state may well be.
    tree = {"state": state, "leaf": jnp.zeros(())}
    with explained(case, "a round trip through orbax"):
        restored = _through_orbax(tree)
    _assert_same(case, "a round trip through orbax", restored["state"], state)


def _through_orbax(tree: Any) -> Any:
    """Write a tree to files and read it back; orbax's own warnings are not the transform's."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        import orbax.checkpoint as ocp  # Slow to import.

        with ocp.PyTreeCheckpointer() as files:
            files.save(pathlib.Path(folder) / "tree", tree)
            like = ocp.checkpoint_utils.construct_restore_args(tree)
            return files.restore(pathlib.Path(folder) / "tree", tree, restore_args=like)


def _assert_same(case: Case, what: str, actual: Any, expected: Any) -> None:
    with explained(case, what):
        # Bits, not values: chex has 0 equal to -0, and NaN to any other NaN.
        chex.assert_trees_all_equal_comparator(
            lambda x, y: (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()),
            lambda x, y: f"{x} is not {y}",
            *jax.tree.map(np.asarray, (actual, expected)),
        )
