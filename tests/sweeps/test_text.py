"""Tests of the text of a program: the same in every process, another for every other computation.

A store is resumed if the texts agree. So two computations with one text would be results that are
silently wrong, and two texts of one computation would be results that are lost.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nested_jax as nj
from nested_jax.sweeps.engine._text import content_of, text_of
from tests.testing.test_contract import CASES

TABLE = np.linspace(0, 1, 5).astype(np.float32)
OTHER = TABLE.copy()
OTHER[3] = np.nextafter(OTHER[3], np.float32(2))
LITERAL = 0.1
NEXT = float(np.nextafter(np.float32(LITERAL), np.float32(1)))


def text(function, *arguments):
    return text_of(jax.jit(function).trace(*arguments or (jnp.ones(5),)).jaxpr)


def scanned(constant, **options):
    def step(carry, row):
        return carry * constant + row, carry

    return lambda x: lax.scan(step, x[0], x, **options)[1]


def solved(factor):
    """Return a function whose equation holds its jaxprs in a tuple of their own."""

    def function(x):
        return lax.custom_linear_solve(
            lambda v: factor * v, x, lambda _, b: b / factor, symmetric=True
        )

    return function


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


@jax.custom_jvp
def doubled_with_another_rule(x):
    return 2 * x


doubled_with_another_rule.defjvp(lambda primals, tangents: (doubled(*primals), 3 * tangents[0]))


@jax.custom_vjp
def tripled(x):
    return 3 * x


tripled.defvjp(lambda x: (3 * x, None), lambda _, g: (3 * g,))


def with_switch(on):
    def function(x):
        with jax.threefry_partitionable(on):
            return jax.random.normal(jax.random.key(0), x.shape)

    return function


# Pairs that differ in one thing.
DIFFERENT = {
    "the last bit of a number": (lambda x: x * LITERAL, lambda x: x * NEXT),
    "the last bit of a table": (lambda x: x + TABLE, lambda x: x + OTHER),
    "a table in a jit": (
        lambda x: jax.jit(lambda y: y + TABLE)(x),
        lambda x: jax.jit(lambda y: y + OTHER)(x),
    ),
    "a table in a loop": (scanned(jnp.asarray(TABLE)[3]), scanned(jnp.asarray(OTHER)[3])),
    "a number in a loop": (scanned(LITERAL), scanned(NEXT)),
    "the direction of a loop": (scanned(2.0), scanned(2.0, reverse=True)),
    "the unrolling of a loop": (scanned(2.0), scanned(2.0, unroll=2)),
    "a number in a solution": (solved(2.0), solved(3.0)),
    "an operation": (jnp.sin, jnp.cos),
    "the order of operands": (lambda x: x[0] - x[1], lambda x: x[1] - x[0]),
    "the order of outputs": (lambda x: (x[0], x[1]), lambda x: (x[0], x[1])[::-1]),
    "an output": (lambda x: (x + 1, x), lambda x: (x + 1, x + 1)[:1]),
    "an axis": (lambda x: jnp.cumsum(x[None], 0), lambda x: jnp.cumsum(x[None], 1)),
    "a dtype": (lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.float16)),
    "a precision": (lambda x: jnp.dot(x, x), lambda x: jnp.dot(x, x, precision="highest")),
    "a branch": (
        lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
        lambda x: lax.cond(x[0] > 0, jnp.cos, jnp.sin, x),
    ),
    "a shape": (lambda x: jnp.zeros(3), lambda x: jnp.zeros(4)),
    "a generator": (
        lambda x: jax.random.normal(jax.random.key(0, impl="threefry2x32")),
        lambda x: jax.random.normal(jax.random.key(0, impl="rbg")),
    ),
    "a switch of JAX": (with_switch(True), with_switch(False)),
    "a function with its own derivative": (doubled, tripled),
    "where a result is used": (
        lambda x: jnp.stack([x + 1, x + 1])[0] * (x + 1),
        lambda x: jnp.stack([x + 1, x])[0] * (x + 1),
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_computation_has_another_text(what):
    one, other = DIFFERENT[what]
    assert text(one) != text(other)
    assert text(one) == text(one)


def test_another_input_has_another_text():
    inputs = 1.0, jnp.float32(1), jnp.ones(1), jnp.ones(2), 1 + 1j
    assert len({text(jnp.sin, x) for x in inputs}) == len(inputs)
    assert len({text(lambda x: 0, x) for x in inputs}) == len(inputs)


def test_what_is_not_computed_is_not_in_the_text():
    def renamed(y):
        # With a comment, and other names.
        return y + TABLE

    assert text(lambda x: x + TABLE) == text(renamed)
    assert text(doubled).replace("doubled", "") == text(doubled_with_another_rule).replace(
        "doubled_with_another_rule", ""
    )


def everything(learning_rate, seed):
    """Return results of a program with loops, draws, branches and derivatives."""
    problem = nj.drifting_regression(dim=5)
    trace = nj.rollout(nj.adafactor(learning_rate), problem, jax.random.key(seed), 20)
    return trace.mean_loss, jax.nn.relu(learning_rate), solved(2.0)(jnp.ones(2)), tripled(seed)


def test_it_is_the_same_in_every_process():
    code = "import tests.sweeps.test_text as t; print(t.text(t.everything, 0.1, 3))"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert "scan" in found[0]


def test_every_transform_has_a_text():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    for case in CASES:

        def step(params, case=case, **hyperparams):
            tx = case.make(**hyperparams)
            return tx.update(params, tx.init(params), params)[0]

        values = {name: value for name, (value, _) in case.hyperparams.items()}
        assert text_of(jax.jit(step).trace(params, **values).jaxpr), case.name


def called_back(x):
    return {"y": jax.pure_callback(np.sin, jax.typeof(x), x, vmap_method="expand_dims")}


def test_a_program_that_calls_python_back_is_lowered(tmp_path):
    with pytest.raises(LookupError, match="unknown type"):
        text(called_back)
    grid = nj.Grid(x=[0.0, 0.5, 1.0])
    for _ in range(2):
        results = nj.sweep(called_back, grid, store=tmp_path, progress=False)
        np.testing.assert_allclose(results.y, np.sin(results.x), rtol=1e-6)


def test_arrays_are_told_apart_by_every_bit():
    arrays = [TABLE, OTHER, TABLE.reshape(5, 1), TABLE.view(np.int32), TABLE.astype(float)]
    arrays += [jax.random.key(0), jax.random.key(1), jax.random.key_data(jax.random.key(0))]
    arrays += [0.0, -0.0, 1, True, np.nan]
    assert len({*map(content_of, arrays)}) == len(arrays)
    assert content_of(jnp.asarray(TABLE)) == content_of(TABLE)
