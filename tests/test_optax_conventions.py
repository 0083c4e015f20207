"""Tests of what users of optax take for granted: leaves, extra arguments, injection, counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import schedules
from tests.testing.test_contract import CASES

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Bare transforms without a counter of steps; the docstrings of their states say so.
UNCOUNTED = ("nested_momentum", "accumulated_momentum", "scale_by_adam", "clip_by_block_rms")
UNCOUNTED += ("aggmo", "qhm", "delta_momentum", "m3")


def updated(tx, updates, params, **extra_args):
    return tx.update(updates, tx.init(params), params, **extra_args)[0]


@EVERY
@pytest.mark.parametrize("number", [1.5, 2])
def test_leaves_may_be_python_numbers(case, number):
    tx = case.build()
    expected = updated(tx, {"a": jnp.float32(0.5)}, {"a": jnp.float32(number)})
    for update in (tx.update, jax.jit(tx.update)):
        actual, state = update({"a": 0.5}, tx.init({"a": number}), {"a": number})
        np.testing.assert_allclose(actual["a"], expected["a"], rtol=1e-6)
        assert actual["a"].dtype == expected["a"].dtype
        assert jax.tree.structure(state) == jax.tree.structure(tx.init({"a": jnp.ones(())}))


def test_complex_python_numbers_stay_complex():
    update = updated(nj.momentum(0.5), {"a": 2j}, {"a": 1j})
    np.testing.assert_array_equal(update["a"], -1j)


@EVERY
def test_unknown_extra_arguments_are_ignored(case):
    tx, params = case.build(), jnp.ones(3)
    expected = updated(tx, params, params)
    actual = updated(tx, params, params, value=jnp.ones(()), unknown="word")
    np.testing.assert_array_equal(actual, expected)


@EVERY
def test_a_finished_optimizer_has_one_count(case):
    state = case.build().init({"a": jnp.ones(3)})
    # Raises if there are several.
    count = optax.tree_utils.tree_get(state, "count")
    bare = case.name.startswith(("scale_by", "add_", "clip_"))
    if bare and count is None:
        assert any(word in case.name for word in (*UNCOUNTED, "relative_step", "weight_decay"))
    else:
        assert count == 0


@EVERY
def test_integer_leaves_may_hide_behind_masks(case):
    params = {"a": jnp.ones(3), "steps": jnp.arange(3)}
    tx = optax.masked(case.build(), {"a": True, "steps": False})
    update = updated(tx, params, params)
    np.testing.assert_array_equal(update["steps"], params["steps"], strict=True)
    expected = updated(case.build(), {"a": params["a"]}, {"a": params["a"]})
    np.testing.assert_array_equal(update["a"], expected["a"])


@EVERY
def test_integer_leaves_may_be_another_partition(case):
    params = {"a": jnp.ones(3), "steps": jnp.arange(3)}
    parts = {"learn": case.build(), "keep": optax.set_to_zero()}
    tx = optax.partition(parts, {"a": "learn", "steps": "keep"})
    update = updated(tx, params, params)
    np.testing.assert_array_equal(update["steps"], jnp.zeros(3, int), strict=True)


# Every factory with the arguments it cannot do without.
FACTORIES = {
    nj.momentum: {"learning_rate": 0.1},
    nj.nested_momentum: {"learning_rate": 0.1, "levels": 2, "max_levels": 3},
    nj.nesterov: {"learning_rate": 0.1},
    nj.adam: {"learning_rate": 0.1},
    nj.adamw: {"learning_rate": 0.1},
    nj.adafactor: {"learning_rate": 0.1},
    nj.factored_adamw: {"schedule": schedules.cosine(100)},
    nj.scale_by_nested_momentum: {"decays": np.array([0.9, 0.5])},
    nj.scale_by_accumulated_momentum: {"decay": 0.9},
    nj.scale_by_learning_rate: {"learning_rate": 0.1},
    nj.scale_by_nesterov_momentum: {"learning_rate": 0.1},
    nj.scale_by_adam: {},
    nj.scale_by_aggmo: {"decays": np.array([0.0, 0.9])},
    nj.scale_by_qhm: {"decay": 0.9},
    nj.scale_by_delta_momentum: {"decay": 0.9},
    nj.scale_by_m3: {"b1": 0.9},
    nj.m3: {"learning_rate": 0.1},
    nj.delta_gradient_descent: {"learning_rate": 0.1, "inputs": lambda batch: batch},
    nj.add_decoupled_weight_decay: {"weight_decay": 0.1},
    nj.clip_by_block_rms: {"threshold": 1.0},
    nj.scale_by_factored_rms: {},
    nj.scale_by_relative_step: {"learning_rate": 0.1},
}
STATIC = {
    nj.delta_gradient_descent: ("inputs",),
    nj.m3: ("ns_steps",),
    nj.scale_by_m3: ("ns_steps",),
    nj.nested_momentum: ("max_levels",),
    nj.adafactor: ("min_dim_size_to_factor",),
    nj.factored_adamw: ("min_dim_size_to_factor", "schedule"),
    nj.scale_by_factored_rms: ("min_dim_size_to_factor",),
}


def test_every_factory_is_in_the_table():
    names = {case.name.split("[")[0] for case in CASES}
    assert {factory.__name__ for factory in FACTORIES} == names - {"with_metrics"}


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_hyperparameters_can_be_injected(factory):
    arguments = FACTORIES[factory]
    injected = optax.inject_hyperparams(factory, static_args=STATIC.get(factory, ()))(**arguments)
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    gradients = [jnp.ones((2, 3)), -jnp.ones((2, 5, 2))]
    batch = [jnp.ones(3), jnp.ones(2)]
    if factory is nj.scale_by_m3:  # Of matrices only.
        params, gradients = params[:1], gradients[:1]
    state = jax.jit(injected.init)(params)
    update, _ = jax.jit(injected.update)(gradients, state, params, batch=batch)
    expected = updated(factory(**arguments), gradients, params, batch=batch)
    # A traced 1 - 0.999 is off by 6e-5 in float32.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3), update, expected)


@pytest.mark.parametrize("factory", STATIC, ids=lambda factory: factory.__name__)
def test_what_cannot_be_injected_says_how_to_keep_it_static(factory):
    for name in STATIC[factory]:
        others = [other for other in STATIC[factory] if other != name]
        injected = optax.inject_hyperparams(factory, static_args=others)
        with pytest.raises(TypeError, match=rf"pass static_args=\('{name}',\)"):
            jax.jit(injected(**FACTORIES[factory]).init)(jnp.ones((2, 3)))
