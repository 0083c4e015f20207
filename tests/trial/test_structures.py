"""Trees of another structure than `init` had, and states of another transform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj

PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
SMALL = {"w": PARAMS["w"]}
TRANSFORMS = {
    "scale_by_accumulated_momentum": nj.scale_by_accumulated_momentum(),
    "scale_by_nested_momentum": nj.scale_by_nested_momentum([0.5, 0.5]),
    "scale_by_nesterov_momentum": nj.scale_by_nesterov_momentum(0.1),
    "scale_by_adam": nj.scale_by_adam(),
    "scale_by_adam[amsgrad]": nj.scale_by_adam(amsgrad=True),
    "scale_by_factored_rms": nj.scale_by_factored_rms(),
    "clip_by_block_rms": nj.clip_by_block_rms(1.0),
    "scale_by_learning_rate": nj.scale_by_learning_rate(0.1),
    "scale_by_relative_step": nj.scale_by_relative_step(),
    "add_decoupled_weight_decay": nj.add_decoupled_weight_decay(0.1),
    "with_metrics": nj.with_metrics(nj.scale_by_adam()),
}
# They keep no array per parameter, so any tree fits their state.
STATELESS = {"clip_by_block_rms", "scale_by_learning_rate"}
STATES = {name: tx.init(PARAMS) for name, tx in TRANSFORMS.items()}

STRUCTURE = (ValueError, "`updates` must have the structure of the parameters, got PyTreeDef(")
WRONG = {
    "missing": (SMALL, *STRUCTURE),
    "more": ({**PARAMS, "c": jnp.ones(2)}, *STRUCTURE),
    "list": ([PARAMS["b"], PARAMS["w"]], *STRUCTURE),
    "tuple": ((SMALL, PARAMS["b"]), *STRUCTURE),
    "array": (jnp.ones(3), *STRUCTURE),
    "none": (None, *STRUCTURE),
    "empty": ({}, *STRUCTURE),
    "shape": (
        {"w": jnp.ones((3, 4)), "b": jnp.ones(3)},
        ValueError,
        "Updates must have the shapes of the parameters, here (4, 3), got (3, 4)",
    ),
    "scalar": (
        {"w": jnp.ones(()), "b": jnp.ones(3)},
        ValueError,
        "Updates must have the shapes of the parameters",
    ),
    "broadcast": (
        {"w": jnp.ones((1, 3)), "b": jnp.ones(3)},
        ValueError,
        "Updates must have the shapes of the parameters",
    ),
}
LEAVES = {
    "integers": (np.ones((4, 3), int), TypeError, "Arrays must be of a floating dtype, got int64"),
    "bools": (jnp.ones((4, 3), bool), TypeError, "Arrays must be of a floating dtype, got bool"),
    "word": ("x", TypeError, "Leaves must be arrays, got 'x'"),
}


def is_refused(call, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        call()


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in STATELESS])
def test_updates_of_another_structure_are_refused(name, kind):
    if (name, kind) == ("scale_by_factored_rms", "shape"):
        return  # The factored moment of a matrix is also that of its transpose.
    updates, error, message = WRONG[kind]
    is_refused(lambda: TRANSFORMS[name].update(updates, STATES[name], PARAMS), error, message)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["scale_by_relative_step", "add_decoupled_weight_decay"])
def test_params_of_another_structure_are_refused(name, kind):
    params, error, _ = WRONG[kind]
    message = "needs `params`" if kind == "none" else "must have the s"
    with pytest.raises(error, match=message):
        TRANSFORMS[name].update(PARAMS, STATES[name], params)


@pytest.mark.parametrize("kind", LEAVES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_leaves_that_are_not_floating_arrays_are_refused(name, kind):
    leaf, error, message = LEAVES[kind]
    updates = PARAMS | {"w": leaf}
    message = message.replace("int64", "int32")  # The dtype that JAX gives it.
    is_refused(lambda: TRANSFORMS[name].update(updates, STATES[name], PARAMS), error, message)


@pytest.mark.parametrize("other", [*TRANSFORMS, "none", "empty", "dict"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_state_of_another_transform_is_refused(name, other):
    state = {"none": None, "empty": (), "dict": {}}.get(other, STATES.get(other))
    if type(state) is type(STATES[name]):  # AMSGrad's state has all that Adam's has, and more.
        return
    rule = f"`state` must be the {type(STATES[name]).__name__} that `init` returned, got a "
    is_refused(
        lambda: TRANSFORMS[name].update(PARAMS, state, PARAMS),
        TypeError,
        f"{rule}{type(state).__name__}.",
    )


def test_amsgrad_needs_its_own_state():
    amsgrad, state = TRANSFORMS["scale_by_adam[amsgrad]"], STATES["scale_by_adam"]
    message = "`state` must be of Adam with `amsgrad`, got a state without `nu_max`."
    is_refused(lambda: amsgrad.update(PARAMS, state), ValueError, message)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in STATELESS])
def test_a_state_of_other_parameters_is_refused(name):
    if name in ("scale_by_relative_step", "add_decoupled_weight_decay"):
        return  # Their states are scalars.
    tx = TRANSFORMS[name]
    is_refused(lambda: tx.update(PARAMS, tx.init(SMALL), PARAMS), *STRUCTURE)
    shapes = tx.init({"w": jnp.ones(2), "b": jnp.ones(5)})
    message = "Updates must have the shapes of the parameters"
    is_refused(lambda: tx.update(PARAMS, shapes, PARAMS), ValueError, message)


def test_checks_leave_numpy_trees_and_vmapped_states_alone():
    arrays = jax.tree.map(np.asarray, PARAMS)
    for name, tx in TRANSFORMS.items():
        updates, _ = tx.update(arrays, STATES[name], arrays)
        for x, y in zip(*map(jax.tree.leaves, (updates, PARAMS)), strict=True):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
    tx = TRANSFORMS["scale_by_adam"]
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    assert jax.vmap(tx.update)(twice, jax.vmap(tx.init)(twice))[0]["w"].shape == (2, 4, 3)
