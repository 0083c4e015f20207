"""Tests of what `rollout` refuses."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests.rollouts import KEY, SCRIPT

RULES = [
    ({"steps": 0}, ValueError, "`steps` must be an integer of at least 1, got 0."),
    ({"steps": 2.0}, TypeError, "`steps` must be an integer of at least 1, got 2.0."),
    ({"steps": 2**31}, ValueError, "`steps` must be less than 2147483648, got 2147483648."),
    ({"warmup": -1}, ValueError, "`warmup` must be an integer of at least 0, got -1."),
    ({"warmup": 0.5}, TypeError, "`warmup` must be an integer of at least 0, got 0.5."),
    ({"warmup": 10}, ValueError, "`warmup` must be less than `steps` = 10, got 10."),
    ({"bound": "1"}, TypeError, "`bound` must be a number, got '1'."),
    ({"unroll": 0}, ValueError, "`unroll` must be an integer of at least 1, got 0."),
    ({"stride": 0}, ValueError, "`stride` must be an integer of at least 1, got 0."),
    ({"stride": 3}, ValueError, "`stride` must divide `steps` = 10, got 3."),
    ({"stride": 20}, ValueError, "`stride` must divide `steps` = 10, got 20."),
    ({"record": 1, "stride": 5}, TypeError, "`record` must be callable, got 1."),
    ({"record": len}, ValueError, "`record` needs a `stride`, got None."),
    ({"bound": math.nan}, ValueError, "`bound` must not be NaN, got nan."),
    *(
        ({"key": key}, TypeError, "`key` must be a JAX key such as jax.random.key(0), got ")
        for key in (0, jax.random.split(KEY), np.ones(2), np.zeros((2, 2), np.uint32))
    ),
    *(
        ({"initial": start}, TypeError, "`initial` must be a pair of parameters and world, got ")
        for start in (np.ones(2), (np.ones(2),))
    ),
    ({"key": None}, ValueError, "`key` must be given unless `initial` and `draws` both are, got "),
    (
        {"key": None, "draws": np.ones(10)},
        ValueError,
        "`key` must be given unless `initial` and `draws` both are, got None.",
    ),
    (
        {"draws": {"a": np.ones(10), "b": np.ones((9, 2))}},
        ValueError,
        "`draws` must have a leading axis of `steps` = 10, got shape (9, 2).",
    ),
    (
        {"draws": [1.0]},
        ValueError,
        "`draws` must have a leading axis of `steps` = 10, got shape ()",
    ),
    ({"tx": "sgd"}, TypeError, "`tx` must have `init` and `update`, got 'sgd'."),
    ({"problem": None}, TypeError, "`problem` must be a nested_jax.Problem, got None."),
    (
        {"problem": SCRIPT._replace(loss=lambda params, batch: params * jnp.ones(3))},
        ValueError,
        "`problem.loss` must return a floating scalar, got ShapeDtypeStruct(shape=(3,), dtype=floa",
    ),
    (
        {"problem": SCRIPT._replace(loss=lambda params, batch: (params, batch))},
        ValueError,
        "`problem.loss` must return a floating scalar, got (ShapeDtypeStruct(",
    ),
    (
        {"problem": SCRIPT._replace(loss=lambda params, batch: 1)},
        ValueError,
        "`problem.loss` must return a floating scalar, got ShapeDtypeStruct(shape=(), dtype=int32",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), RULES)
def test_rejects(options, error, message):
    arguments = {"tx": optax.sgd(0.1), "problem": SCRIPT, "key": KEY, "steps": 10} | options
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.rollout(**arguments)


@pytest.mark.parametrize("name", ["steps", "stride"])
def test_what_shapes_the_run_is_not_traced(name):
    def run(n):
        options = {"steps": 10} | {name: n}
        return nj.rollout(optax.sgd(0.1), SCRIPT, KEY, **options)

    with pytest.raises(TypeError, match=f"`{name}` must be a Python integer, known when tracing"):
        jax.jit(run)(5)
