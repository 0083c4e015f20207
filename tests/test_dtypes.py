"""Tests of the casts that transforms make for every leaf: cheap where nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax._dtypes import cast, in_dtype

# Of the paths below, those of many leaves: few equations a leaf are what tracing time is made of.
LEAVES = 50
EQUATIONS_A_LEAF = {
    "momentum": (lambda: nj.momentum(0.1), 3),
    "nested_momentum": (lambda: nj.nested_momentum(0.1, levels=4), 3 * 3 + 1),
    "nesterov": (lambda: nj.nesterov(0.1), 2 * 3),
    "adam": (lambda: nj.adam(0.1), 2 * 3 + 1 + 5 + 1),
    "adamw": (lambda: nj.adamw(0.1), 2 * 3 + 1 + 5 + 1 + 2),
}


def test_what_has_the_dtype_is_not_touched():
    x = jnp.ones(3)
    assert cast(x, x.dtype) is x
    assert not jax.make_jaxpr(lambda x: cast(x, jnp.float32))(x).eqns


def test_a_weak_type_becomes_one_that_is_meant():
    weak = jnp.asarray(1.0)
    assert weak.weak_type
    assert not cast(weak, weak.dtype).weak_type


@pytest.mark.parametrize("x", [np.ones(3, np.float16), jnp.ones(3, jnp.bfloat16)])
def test_other_dtypes_are_cast(x):
    np.testing.assert_array_equal(cast(x, jnp.float32), np.ones(3, np.float32), strict=True)


def test_numbers_are_cast_once_a_dtype():
    def program(x):
        numbers = in_dtype(x)
        return [numbers(np.dtype(dtype))[0] for dtype in ("float16", "bfloat16") * 5]

    eqns = jax.make_jaxpr(program)(jnp.float32(2.0)).eqns
    assert [str(e.primitive) for e in eqns] == ["convert_element_type"] * 2
    assert [x.dtype for x in program(2.0)[:2]] == [jnp.float16, jnp.bfloat16]


@pytest.mark.parametrize("name", EQUATIONS_A_LEAF)
def test_every_leaf_costs_its_arithmetic_alone(name):
    make, expected = EQUATIONS_A_LEAF[name]

    def equations(leaves):
        params, tx = [jnp.ones(2)] * leaves, make()
        state = jax.eval_shape(tx.init, params)
        return len(jax.make_jaxpr(tx.update)(params, state, params).eqns)

    assert equations(2 * LEAVES) - equations(LEAVES) == expected * LEAVES
